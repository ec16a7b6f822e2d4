"""`mcx l2`: how far apart networks are, in weight space and in what they compute.

`inputs` opens the checkpoints, `pairs` measures them in weight space, `functions` on data, `permuted` with a swap
undone; `run` is the command for one pair, `many` for several, `trajectory` for the epochs of a run.
"""
