"""What a network is called with where no data say it: images of a shape, tokens, or the example that it brings itself.

`blank` serves where shapes and types alone count, as in a trace; `drawn` where two functions are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from modeconn_cli.engine import keyed
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks.forward import forward, guard
from modeconn_cli.engine.networks.untouched import untouched_copy

SAMPLES = 16  # that functions are compared on

Given = tuple[Tensor, ...]  # the arguments of a forward, samples along their first axes


@dataclass(frozen=True)
class Images:
    """One tensor of floats, (N, *shape)."""

    shape: tuple[int, ...]

    fixed_samples = False  # whether the number of samples is the example's own

    def blank(self, samples: int) -> Given:
        return (torch.zeros(samples, *self.shape),)

    def drawn(self, seed: int) -> Given:
        """Normal values in float64."""
        return (torch.randn(SAMPLES, *self.shape, generator=_draw(seed), dtype=torch.float64),)


@dataclass(frozen=True, eq=False)
class Tokens:
    """One tensor of whole numbers, (N, length), below the number of rows of every table that they are looked up in."""

    model: nn.Module
    length: int

    fixed_samples = False

    def blank(self, samples: int) -> Given:
        return (torch.zeros(samples, self.length, dtype=torch.int64),)

    def drawn(self, seed: int) -> Given:
        """Tokens at random, all equally often. Raises InputError where no table says how many there are."""
        rows = rows_looked_up(self.model, self.blank(2), 0)
        if rows is None:
            raise InputError(
                "how many tokens there are is not known: they are looked up in no embedding",
                "give the network a method example_input() that returns a batch of them",
            )
        return (torch.randint(rows, (SAMPLES, self.length), generator=_draw(seed)),)


@dataclass(frozen=True, eq=False)
class Own:
    """What the network's own `example_input()` returns: a tensor or a tuple of them, each a batch.

    Floats that are all zero, and tokens that are all one token, only show a shape: such values are drawn. Others are
    taken as they are. A network that draws its example itself gets the same random numbers every time.
    """

    model: nn.Module

    fixed_samples = True

    def blank(self, samples: int) -> Given:  # noqa: ARG002 # it has its own
        return self._example(0)

    def drawn(self, seed: int) -> Given:
        given = self._example(seed)
        draw = _draw(seed)
        out = []
        for place, value in enumerate(given):
            if value.is_floating_point():
                shown = torch.randn(value.shape, generator=draw, dtype=torch.float64)
                out.append(value.double() if value.any() else shown)
                continue
            alike = _is_whole(value) and value.numel() > 0 and bool((value == value.max()).all())
            rows = rows_looked_up(self.model, given, place) if alike else None
            out.append(value if rows is None else torch.randint(rows, value.shape, generator=draw).to(value))
        return tuple(out)

    def _example(self, seed: int) -> Given:
        kind = type(self.model).__name__
        make: Callable[[], object] = self.model.example_input  # type: ignore[assignment]
        with torch.random.fork_rng(devices=[]), torch.no_grad(), guard(f"{kind}.example_input() fails"):
            torch.manual_seed(keyed.number(seed, "verification"))
            found = make()
        given = (found,) if isinstance(found, Tensor) else found
        if not isinstance(given, tuple | list) or not given or not all(isinstance(x, Tensor) for x in given):
            raise InputError(
                f"{kind}.example_input() gives a {type(found).__name__}",
                "it returns the tensor that forward is called with, or a tuple of its tensors",
            )
        return tuple(value.detach().cpu() for value in given)


Inputs = Images | Tokens | Own


def has_example(model: nn.Module) -> bool:
    """Whether a network says itself what it can be called with."""
    return callable(getattr(model, "example_input", None))


def placed(given: Given, device: torch.device, kind: torch.dtype) -> Given:
    """The arguments on a device, floats among them of one type."""
    return tuple(value.to(device, kind if value.is_floating_point() else None) for value in given)


def rows_looked_up(model: nn.Module, given: Given, place: int) -> int | None:
    """How many values argument `place`, whole numbers, may have: the rows of the tables that they are looked up in.

    The network is run on zeros and on ones there. A lookup whose places follow is one of these numbers, and what it
    adds to them is seen; the table with the fewest rows decides. None where there is no such lookup, and where one
    follows in another way.
    """
    worker = untouched_copy(model).eval()
    tensors = [*worker.parameters(), *worker.buffers()]
    kind = next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)
    seen: list[list[tuple[int, Tensor]]] = []
    for value in (0, 1):
        changed = [torch.full_like(x, value) if k == place else x for k, x in enumerate(given)]
        with torch.no_grad(), _Lookups() as lookups:
            forward(worker, placed(tuple(changed), tensors[0].device, kind))
        seen.append(lookups.found)
    bounds: list[int] = []
    if len(seen[0]) != len(seen[1]):
        return None
    for (rows, at_zero), (_, at_one) in zip(*seen, strict=True):
        if at_zero.shape != at_one.shape:
            return None
        moved = at_one - at_zero
        if not ((moved == 0) | (moved == 1)).all():
            return None
        if moved.any():  # the others, such as positions, do not depend on it
            bounds.append(rows - int(at_zero[moved == 1].max()))
    return min(bounds, default=None)


class _Lookups(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees which rows of which tables are looked up: (number of rows, their numbers)."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[tuple[int, Tensor]] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        name = str(getattr(func, "_schema", func)).partition("(")[0].partition(".")[0]
        if name in _TABLES:
            self.found += [(rows, at.detach().clone()) for rows, at in _TABLES[name](*args) if _is_whole(at)]
        return func(*args, **(kwargs or {}))


def _of_index(table: Tensor, indices: Sequence[Tensor | None], *_: object) -> list[tuple[int, Tensor]]:
    return [(table.shape[axis], at) for axis, at in enumerate(indices) if at is not None]


_TABLES: Mapping[str, Callable[..., list[tuple[int, Tensor]]]] = {
    "aten::embedding": lambda table, at, *_: [(table.shape[0], at)],
    "aten::_embedding_bag": lambda table, at, *_: [(table.shape[0], at)],
    "aten::_embedding_bag_forward_only": lambda table, at, *_: [(table.shape[0], at)],
    "aten::index_select": lambda table, axis, at: [(table.shape[axis], at)],
    "aten::index": _of_index,
}


def _is_whole(value: Tensor) -> bool:
    return not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)


def _draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(keyed.number(seed, "verification"))
