"""What modules keep beside tensors in a state dict (`get_extra_state`), of two networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks.checkpoints import Checkpoint


def check(first: Checkpoint, other: Checkpoint) -> None:
    """Raises InputError where modules keep other things beside tensors in one network than in another: what they
    compute may depend on it, and it can neither be interpolated nor permuted.
    """
    for name in sorted({*first.extra, *other.extra}):
        if not _same(first.extra.get(name), other.extra.get(name)):
            raise InputError(
                f"'{first.path}' and '{other.path}' differ in '{name}', the extra state of a module"
            )


def _same(one: Any, other: Any) -> bool:
    """Whether two values that modules keep are the same, tensors within them by what they hold."""
    (ours, form), (theirs, its) = pytree.tree_flatten(one), pytree.tree_flatten(other)
    return form == its and all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else bool(np.all(a == b))
        for a, b in zip(ours, theirs, strict=True)
    )
