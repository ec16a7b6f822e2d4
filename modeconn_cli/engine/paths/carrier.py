"""A network that moves along a path: its weights are blends of several networks', and so are its buffers.

At each end buffers are that network's own. Between the ends those of float are interpolated linearly in t, whatever the
path's kind, and along a chain through given networks from each to the next; whole numbers that differ have nothing
between them, and the path is refused. The statistics of batch norm are not among them: they have policies of their own
(`statistics`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import weights
from modeconn_cli.engine.paths.path import Layout, coefficients
from modeconn_cli.engine.training import batch_norms

COUNTER = "num_batches_tracked"  # nothing that is computed depends on it

# Endpoint 0's buffers and, where they are known, endpoint 1's; those of every network that a chain is given by.
Ends = Sequence[Mapping[str, Tensor]]


class Way(Protocol):
    """What a network can be moved along: a path, or a plane whose places are counted."""

    @property
    def points(self) -> Tensor:
        """The networks that it is made of, [K, size]."""

    @property
    def layout(self) -> Layout: ...

    def write(self, t: float, out: Tensor) -> np.ndarray:
        """The weights at t into `out` [size]; returns the coefficients."""


class Carrier:
    """A model whose parameters are views of one flat vector, so that a point of a path is one write.

    `ends`: buffers of the networks that the path is given by, equally spaced in t; with fewer than two the model's stay
    as they are. Raises InputError, naming it, for a buffer of whole numbers that differs.
    """

    def __init__(self, model: nn.Module, path: Way, ends: Ends = ()) -> None:
        self.flat = torch.zeros_like(path.points[0])
        self._model, self._path, self._ends = model, path, ends
        views = path.layout.views(self.flat)
        for name, parameter in model.named_parameters():
            parameter.data = views[name]
        own, self._following = statistics_of(model), following(model, ends)
        if len(ends) > 1:  # another path may have left its own in the model
            self.put_buffers(0.0, {name for name, _ in model.named_buffers()} - {*self._following, *own})

    @property
    def note(self) -> str:
        """Which buffers follow the path; empty where none does."""
        names = weights.shortened(self._following)
        return (
            f"buffers are each endpoint's own at its end, and interpolated between: {names}" if names else ""
        )

    def move_to(self, t: float) -> np.ndarray:
        """Put w(t) into the model, and the buffers there; returns the coefficients."""
        if self._following:
            self.put_buffers(t, self._following)
        return self._path.write(t, self.flat)

    def move_to_average(self, ts: Sequence[float]) -> None:
        """Put the mean of w(t) over some positions into the model, and the mean of the buffers there."""
        if self._following:
            self.put_buffers(float(np.mean(ts)), self._following)
        mean = torch.zeros_like(self.flat)
        for count, t in enumerate(ts, start=1):
            self._path.write(t, self.flat)
            mean.lerp_(self.flat, 1 / count)  # of equal weights it is these, bit for bit
        self.flat.copy_(mean)

    @torch.no_grad()
    def put_buffers(self, t: float, names: Collection[str] | None = None) -> None:
        """Put the buffers at t into the model, of all names or some; counters come from the nearer network."""
        first, last, share = self._around(t)
        for name, buffer in self._model.named_buffers():
            if name not in first or (names is not None and name not in names):
                continue
            nearer = first[name] if share < 0.5 else last[name]
            if buffer.is_floating_point() and share not in (0.0, 1.0):
                one, other = first[name].to(buffer), last[name].to(buffer)
                nearer = torch.where(
                    one == other, one, (1 - share) * one + share * other
                )  # also masks of -inf
            buffer.copy_(nearer)

    def _around(self, t: float) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor], float]:
        """The networks' buffers before and behind t, and the share of the way between them."""
        if len(self._ends) == 1:
            return self._ends[0], self._ends[0], t
        shares = coefficients("polychain", len(self._ends), t)
        behind = min(int(np.flatnonzero(shares)[0]) + 1, len(self._ends) - 1)
        return self._ends[behind - 1], self._ends[behind], float(shares[behind])


def following(model: nn.Module, ends: Ends) -> tuple[str, ...]:
    """The buffers that change along the path: they differ between its networks and are no statistics of batch norm.

    Raises InputError, naming it, for a buffer of whole numbers that differs.
    """
    if len(ends) < 2:
        return ()
    own, first = statistics_of(model), ends[0]
    found = [
        name
        for name, buffer in model.named_buffers()
        if name not in own
        and name in first
        and not all(torch.equal(first[name].to(buffer), each[name].to(buffer)) for each in ends[1:])
    ]
    for name in found:
        if not first[name].is_floating_point() and not name.endswith(COUNTER):
            raise InputError(
                f"the buffer '{name}' holds whole numbers that differ between the endpoints: nothing lies between",
                "only networks with equal index buffers can be joined",
            )
    return tuple(found)


def statistics_of(model: nn.Module) -> set[str]:
    """The names of the buffers that are statistics of batch norm."""
    inside = {id(buffer) for layer in batch_norms(model) for buffer in layer.buffers()}
    return {name for name, buffer in model.named_buffers() if id(buffer) in inside}
