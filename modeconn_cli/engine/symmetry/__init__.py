"""Permutation symmetries of a network, read off its graph: find groups of units, permute them, prove it.

`labels` solves the equations, `tensors` carries labels through reshapes, `registry` says what a rule is, the rules
are in `elementwise`, `reductions`, `layers`, `recurrent`, `products` and `movement`, `walk` applies them, `groups`
reads off the result, `permutation`, `optimizer` and `proof` use it; `match` and `activity` find the permutation that
brings two networks together, `frame` those of several, and `align` is what commands ask for them.
"""

from modeconn_cli.engine.symmetry import optimizer
from modeconn_cli.engine.symmetry.groups import Group, Symmetry, find, group_of
from modeconn_cli.engine.symmetry.permutation import permute
from modeconn_cli.engine.symmetry.proof import output_difference, random_inputs

__all__ = [
    "Group",
    "Symmetry",
    "find",
    "group_of",
    "optimizer",
    "output_difference",
    "permute",
    "random_inputs",
]
