"""Averages of several networks' state dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from modeconn_cli.engine.networks.weights import is_continuous


def average(states: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """Σ share · state, tensor by tensor, summed in float64 and rounded once; whole numbers are the first state's.

    `states` have the same names and shapes; the shares add up to 1.
    """
    out: dict[str, Tensor] = {}
    for name, first in states[0].items():
        if not is_continuous(first):
            out[name] = first
            continue
        wide = torch.zeros_like(first, dtype=torch.complex128 if first.is_complex() else torch.float64)
        for state, share in zip(states, shares, strict=True):
            wide += share * state[name].to(wide.dtype)
        out[name] = wide.to(first.dtype)
    return out
