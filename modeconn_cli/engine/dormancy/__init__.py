"""Units that a sample leaves inactive.

`sites` finds in the graph where units are looked at and along which axis they lie, `observe` runs the graph and
reduces what is seen there, `run` is the command, `figures` draws how dormancy evolves over epochs.
"""
