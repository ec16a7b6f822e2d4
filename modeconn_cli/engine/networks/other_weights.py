"""What a network gives once its weights have changed: whether it goes on with what it computed from the old ones."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

FEW = 2  # samples that are enough to see it
AGREE = 1e-5  # relative to the largest output


@torch.no_grad()
def move(model: nn.Module) -> None:
    """Put other weights into a network, the same whenever it has the same; as the points of a path are put in."""
    draw = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter + (0.1 * torch.randn(parameter.shape, generator=draw)).to(parameter)


@torch.no_grad()
def run(model: nn.Module, inputs: Sequence[Any], *, entering: bool = True) -> tuple[list[Tensor], set[str]]:
    """The outputs for few samples, and the names of the parameters that went into an operation.

    With `entering` the network enters eval mode first, and may read parameters there.

    Draws of torch, numpy and Python are the same in every run, and go on afterwards as if there had been none.
    """
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    batched = all(tensor.shape[:1] == tensors[0].shape[:1] != () for tensor in tensors)
    few = [(x[:FEW] if batched else x).clone() if isinstance(x, Tensor) else x for x in inputs]
    with _draws(), warnings.catch_warnings(), _Reads(model) as reads:
        warnings.simplefilter("ignore")
        if entering:
            model.eval()
        outputs = pytree.tree_leaves(model(*few))
    return [leaf for leaf in outputs if isinstance(leaf, Tensor)], reads.found


def agree(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether two runs of a network have the same outputs."""

    def same(one: Tensor, other: Tensor) -> bool:
        one, other = one.nan_to_num(), other.nan_to_num()
        scale = float(other.abs().max()) if other.numel() else 0.0
        return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=AGREE * scale)

    return len(some) == len(others) and all(map(same, some, others))


def remembered(used: nn.Module, twin: nn.Module, fresh: nn.Module, inputs: Sequence[Any]) -> str | None:
    """The name of a parameter of which a network remembers what it computed, where no attribute shows it; empty for one
    that is not known, None where there is none.

    Of three copies that have computed nothing one meets two sets of weights, the others one each. What the process
    keeps (a global dictionary, a closure) it keeps for the twin too, which then reads fewer parameters under the same
    weights. What the object keeps where nobody sees it (`functools.lru_cache` on a method) makes the first differ from
    the fresh one under the second weights.
    """
    _, first = run(used, inputs)
    _, second = run(twin, inputs)
    if first - second:
        return min(first - second)
    move(used)
    stale, again = run(used, inputs)
    move(fresh)
    outputs, _ = run(fresh, inputs)
    if agree(stale, outputs) or not agree(
        run(fresh, inputs)[0], outputs
    ):  # or other at every call, by whatever
        return None
    return min(first - again, default="")


@contextlib.contextmanager
def unread() -> Iterator[None]:
    """Around what is no part of a network's forward and reads its parameters all the same: a copy of it."""
    with torch._C.DisableTorchFunction():
        yield


@contextlib.contextmanager
def _draws() -> Iterator[None]:
    python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(of_numpy)  # noqa: NPY002


class _Reads(TorchFunctionMode):
    """Which parameters are read: not only for their size, type or device."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.found: set[str] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name.startswith("new_") or name.endswith("_like"):
            return out
        if any(isinstance(leaf, Tensor | float | np.ndarray) for leaf in pytree.tree_leaves(out)):
            read = (self._names.get(id(leaf)) for leaf in pytree.tree_leaves((args, kwargs)))
            self.found |= {name for name in read if name is not None}
        return out
