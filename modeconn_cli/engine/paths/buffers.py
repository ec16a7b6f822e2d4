"""Buffers of a network on a path, where weights are blends of several networks'.

At each end they are that network's own. Between the ends those of float are interpolated linearly in t, whatever the
path's kind; whole numbers that differ have nothing between them, and the path is refused. The statistics of batch norm
are not among them: they have policies of their own (`statistics`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import weights
from modeconn_cli.engine.training import batch_norms

COUNTER = "num_batches_tracked"  # nothing that is computed depends on it

Ends = Sequence[Mapping[str, Tensor]]  # endpoint 0's buffers and, where they are known, endpoint 1's


def following(model: nn.Module, ends: Ends) -> tuple[str, ...]:
    """The buffers that change along the path: they differ between its ends and are no statistics of batch norm.

    Raises InputError, naming it, for a buffer of whole numbers that differs.
    """
    if len(ends) < 2:
        return ()
    of_batch_norm = {id(buffer) for layer in batch_norms(model) for buffer in layer.buffers()}
    first, last = ends[0], ends[-1]
    found = [
        name
        for name, buffer in model.named_buffers()
        if id(buffer) not in of_batch_norm
        and name in first
        and not torch.equal(first[name].to(buffer), last[name].to(buffer))
    ]
    for name in found:
        if not first[name].is_floating_point() and not name.endswith(COUNTER):
            raise InputError(
                f"the buffer '{name}' holds whole numbers that differ between the endpoints: nothing lies between",
                "only networks with equal index buffers can be joined",
            )
    return tuple(found)


def said(names: Sequence[str]) -> str:
    """The buffers that follow a path, as a note."""
    return f"buffers are each endpoint's own at its end, and interpolated between: {weights.shortened(list(names))}"


@torch.no_grad()
def put(model: nn.Module, ends: Ends, t: float, names: Collection[str] | None = None) -> None:
    """Put the buffers at t into the network, of all names or some of them; counters come from the nearer end."""
    first, last = ends[0], ends[-1]
    for name, buffer in model.named_buffers():
        if name not in first or (names is not None and name not in names):
            continue
        if buffer.is_floating_point():
            buffer.copy_(torch.lerp(first[name].to(buffer), last[name].to(buffer), t))
        else:
            buffer.copy_(first[name] if t < 0.5 else last[name])
