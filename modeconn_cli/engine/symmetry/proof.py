"""The proof of a symmetry: the outputs of both state dicts, compared in float64 or the best that the network allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import weights
from modeconn_cli.engine.networks.forward import forward
from modeconn_cli.engine.networks.inputs import Given, Images, Inputs, placed
from modeconn_cli.engine.networks.untouched import untouched_copy

ORDER = 1e-9  # relative difference of outputs in float64 that the order of sums explains
ROUNDINGS = 100  # the same in units of rounding of a narrower type


class Difference(NamedTuple):
    """max |f(x; changed) − f(x; original)| and max |f(x; original)| over a batch, NaN where outputs are.

    `kind` is the narrowest type that a value was rounded to on the way.
    """

    off: float
    scale: float
    kind: torch.dtype = torch.float64

    @property
    def is_rounding(self) -> bool:
        """Whether both are one function up to the order of its sums."""
        relative = ORDER if self.kind == torch.float64 else ROUNDINGS * torch.finfo(self.kind).eps
        return self.off <= relative * self.scale


def random_inputs(inputs: Inputs | tuple[int, ...], seed: int) -> Given:
    """What functions are compared on where there are no data, floats in float64; a shape is one of images."""
    return (Images(inputs) if isinstance(inputs, tuple) else inputs).drawn(seed)


def output_difference(
    model: nn.Module,
    original: Mapping[str, Tensor],
    changed: Mapping[str, Tensor],
    inputs: Tensor | Given,
    *,
    in_float64: bool = True,
) -> Difference:
    """Compare both in eval mode, in float64 or in the network's own type.

    `model` gives the architecture and the device and is not changed. Casts to narrower types in the forward (a norm in
    float32, halves) are left out; a network that cannot do without, whose cast is hidden from torch or that refuses
    float64, is compared in the type that it rounds to. Raises InputError where its forward fails.
    """
    failed = None
    given = (inputs,) if isinstance(inputs, Tensor) else inputs
    for wide in (True, False) if in_float64 else (False,):
        first = _worker(model, wide=wide)
        tensors = [t for t in weights.tensors_of(first).values() if t.is_floating_point()] or [given[0]]
        place = placed(given, tensors[0].device, tensors[0].dtype)
        own = min((t.dtype for t in tensors), key=_digits)
        casts = _Wide(torch.float64 if wide else own)
        try:
            with casts:
                before = _outputs(first, original, place)
            del first, tensors  # there is one at a time
            second = _worker(model, wide=wide)
            with casts:
                after = _outputs(second, changed, place)
        except InputError as error:
            failed = failed or error
            continue
        return Difference(float((after - before).abs().max()), float(before.abs().max()), casts.narrowest)
    assert failed is not None
    raise failed


def _worker(model: nn.Module, *, wide: bool) -> nn.Module:
    """A network of one state's own: in eval mode some keep what they have computed of their weights."""
    worker = untouched_copy(model).eval()
    return worker.double() if wide else worker


def _digits(kind: torch.dtype) -> float:
    return -torch.finfo(kind).eps


def _outputs(worker: nn.Module, state: Mapping[str, Tensor], given: Given) -> Tensor:
    """All output tensors of a forward pass as one vector."""
    full = worker.state_dict()
    differ = sorted({name for name, value in full.items() if isinstance(value, Tensor)} ^ state.keys())
    if differ:
        raise InputError(f"{differ[0]} is {'missing' if differ[0] in full else 'not in the model'}")
    weights.load(worker, state)
    with torch.no_grad():
        outputs = forward(worker, tuple(x.clone() for x in given))  # some networks write into their input
    tensors = [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
    return torch.cat([tensor.double().flatten() for tensor in tensors])


class _Wide(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps what is computed from values of type `kind` in that type, and sees what becomes narrower all the same."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.narrowest = self._kind = kind

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        wide = any(t.dtype == self._kind for t in _floats((args, kwargs)))
        if wide and self._is_narrower(kwargs.get("dtype")):
            kwargs["dtype"] = self._kind
        out = func(*args, **kwargs)
        if wide:
            kinds = [tensor.dtype for tensor in _floats(out) if self._is_narrower(tensor.dtype)]
            self.narrowest = min([self.narrowest, *kinds], key=_digits)
        return out

    def _is_narrower(self, kind: Any) -> bool:
        return (
            isinstance(kind, torch.dtype) and kind.is_floating_point and _digits(kind) < _digits(self._kind)
        )


def _floats(values: Any) -> list[Tensor]:
    return [
        leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor) and leaf.is_floating_point()
    ]
