"""Sums over the weights of two networks or many, in float64.

Weights are read once and never held: a chunk of every network at a time is taken to float64, from memory or from the
pages of a file. Pieces of tensors are shared by torch's threads and do not depend on their number: sums are the same
for any.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from modeconn_cli.engine.networks import weights

Pair = tuple[int, int]  # numbers of two networks
Weights = Mapping[str, Tensor]
T = TypeVar("T")

PIECE = 16 * weights.CHUNK  # values of a tensor that one thread goes through
CACHED = 8 * weights.CHUNK  # float64 values of all networks that are worked on at a time
DIRECT = 3  # pairs per network up to which each is subtracted, as each is where they are less than half of all pairs
CANCELS = 1e-3  # a pair so much closer to each other than to the others, squared, leaves too few digits


@dataclass(frozen=True)
class Squares:
    """Sums over the values of one tensor of two networks, real or complex: ‖a − b‖², ‖a‖², ‖b‖², and Σ F (a − b)²
    where the diagonal Fisher information F is known.
    """

    size: int
    delta: float
    first: float
    second: float
    fisher: float | None = None

    @staticmethod
    def total(parts: Iterable[Squares]) -> Squares:
        found = list(parts)
        known = [part.fisher for part in found if part.fisher is not None]
        return Squares(
            sum(part.size for part in found),
            math.fsum(part.delta for part in found),
            math.fsum(part.first for part in found),
            math.fsum(part.second for part in found),
            math.fsum(known) if known else None,
        )

    @property
    def cosine_distance(self) -> float | None:
        """1 − Re⟨a,b⟩ / (‖a‖‖b‖), within [0, 2]; None for a zero vector, and for sums that are not finite.

        As (‖a − b‖² − (‖a‖ − ‖b‖)²) / (2‖a‖‖b‖): one minus a cosine near one would leave no digits where networks are
        near each other. Of one that is little more than a multiple of the other, digits of the rest are lost.
        """
        a, b, delta = (math.sqrt(value) for value in (self.first, self.second, self.delta))
        if not (a > 0 and b > 0 and math.isfinite(a + b + delta)):
            return None
        return min(2.0, max(0.0, (delta - (a - b)) / a * ((delta + (a - b)) / b) / 2))


def among(networks: Sequence[Weights], pairs: Sequence[Pair]) -> list[dict[str, Squares]]:
    """Per pair, the sums over every tensor: of networks that are alike (`weights.check_alike`).

    More than half of all pairs come from one Gram matrix of the networks around their mean, which costs as all pairs
    do; those that are much closer to each other than to it are subtracted all the same.
    """
    flat = {name: [weights.flat(network[name]) for network in networks] for name in networks[0]}
    count = len(networks)
    direct = len(pairs) <= max(DIRECT * count, count * (count - 1) // 4)
    norms, deltas = _over(flat, (lambda part: _subtracted(part, pairs)) if direct else _gram)
    if not direct:
        for name, gram in deltas.items():
            deltas[name] = _of_gram(gram, flat[name], pairs)
    return [
        {
            name: Squares(
                networks[0][name].numel(),
                float(deltas[name][k]),
                float(norms[name][i]),
                float(norms[name][j]),
            )
            for name in flat
        }
        for k, (i, j) in enumerate(pairs)
    ]


def weighted(a: Weights, b: Weights, fisher: Weights) -> dict[str, float]:
    """Σ F (a − b)² over every tensor of F."""
    flat = {name: [network[name].detach().reshape(-1) for network in (a, b, fisher)] for name in fisher}

    def sums(part: Tensor) -> Tensor:
        difference = part[-1].copy_(part[0]).sub_(part[1])
        return torch.dot(part[2].mul_(difference), difference)[None]

    _, found = _over(flat, sums)
    return {name: float(value) for name, value in found.items()}


def with_fisher(found: Mapping[str, Squares], fisher: Mapping[str, float]) -> dict[str, Squares]:
    """Add Σ F (a − b)² to the sums where it is known."""
    return {name: replace(squares, fisher=fisher.get(name)) for name, squares in found.items()}


def _subtracted(part: Tensor, pairs: Sequence[Pair]) -> Tensor:
    """‖w_i − w_j‖² of every pair, [P]; the last row of `part` is free."""
    out = torch.empty(len(pairs), dtype=torch.float64)
    for k, (i, j) in enumerate(pairs):
        difference = torch.sub(part[i], part[j], out=part[-1])
        out[k] = torch.dot(difference, difference)
    return out


def _gram(part: Tensor) -> Tensor:
    """Inner products of the networks' differences from their mean, [K, K]."""
    rows = part[:-1]
    rows -= torch.mean(rows, 0, out=part[-1])
    return rows @ rows.T


def _of_gram(gram: Tensor, rows: Sequence[Tensor], pairs: Sequence[Pair]) -> Tensor:
    """‖w_i − w_j‖² of every pair of one tensor, [P]."""
    own = torch.diagonal(gram)
    first, second = torch.tensor(pairs).T
    deltas = own[first] + own[second] - 2 * gram[first, second]
    close = torch.nonzero(~(deltas >= CANCELS * (own[first] + own[second]))).flatten()  # or not finite
    if len(close):
        chosen = [pairs[k] for k in close.tolist()]
        _, exact = _over({"": list(rows)}, lambda part: _subtracted(part, chosen))
        deltas[close] = exact[""]
    return deltas


def _over(
    flat: Mapping[str, Sequence[Tensor]], function: Callable[[Tensor], Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Give by tensor ‖w_k‖² of each of the K rows, [K], and the sum of `function` over chunks float64 [K + 1, n].

    The chunks hold the rows and a free one, and may be written into.
    """

    def piece(name: str, begin: int, end: int) -> tuple[Tensor, Tensor]:
        norms, total = torch.zeros(len(flat[name]), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for part in _chunks([row[begin:end] for row in flat[name]]):
            norms += torch.stack([torch.dot(row, row) for row in part[:-1]])
            total = total + function(part)
        return norms, total

    pieces = [
        (name, begin, begin + PIECE)
        for name, rows in flat.items()
        for begin in range(0, max(rows[0].numel(), 1), PIECE)
    ]
    norms: dict[str, Tensor] = {}
    totals: dict[str, Tensor] = {}
    for (name, _, _), (norm, total) in zip(pieces, _in_threads(piece, pieces), strict=True):
        norms[name] = norms[name] + norm if name in norms else norm
        totals[name] = totals[name] + total if name in totals else total
    return norms, totals


def _chunks(rows: Sequence[Tensor]) -> Iterator[Tensor]:
    """float64 [K + 1, n]: the rows' next n values, and a row that is free. Empty tensors have one empty chunk."""
    length = rows[0].numel()
    size = max(1, min(weights.CHUNK, CACHED // (len(rows) + 1), length))
    buffer = _buffer((len(rows) + 1) * size)
    for begin in range(0, max(length, 1), size):
        n = min(size, length - begin)
        part = buffer[: (len(rows) + 1) * n].view(len(rows) + 1, n)
        for k, row in enumerate(rows):
            part[k].copy_(row[begin : begin + n])
        yield part


_LOCAL = threading.local()


def _buffer(size: int) -> Tensor:
    """float64 [size] of this thread, used again: new pages for every chunk cost more than the arithmetic."""
    found: Tensor | None = getattr(_LOCAL, "buffer", None)
    if found is None or len(found) < size:
        found = _LOCAL.buffer = torch.empty(size, dtype=torch.float64)
    return found


def _in_threads(function: Callable[..., T], arguments: Sequence[tuple[object, ...]]) -> list[T]:
    """`function(*arguments)` of each, in order, by as many threads as torch has; each of them works alone."""
    count = torch.get_num_threads()
    with weights.one_thread():
        if count == 1 or len(arguments) == 1:
            return [function(*each) for each in arguments]
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda each: function(*each), arguments))
