"""Averages of several networks' state dicts."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks.weights import is_continuous, is_counter


def average(states: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """Σ share · state, tensor by tensor, summed in float64 and rounded once; whole numbers are the first state's.

    `states` have the same names and shapes; the shares add up to 1. Of members in several types the result is in the
    widest. Raises InputError where whole numbers differ that are no counters.
    """
    out: dict[str, Tensor] = {}
    for name, first in states[0].items():
        if not is_continuous(first):
            if not is_counter(name) and any(not torch.equal(first, state[name]) for state in states[1:]):
                raise InputError(f"the networks differ in '{name}', whose whole numbers cannot be averaged")
            out[name] = first
            continue
        kind = functools.reduce(torch.promote_types, (state[name].dtype for state in states))
        wide = torch.zeros_like(first, dtype=torch.complex128 if first.is_complex() else torch.float64)
        for state, share in zip(states, shares, strict=True):
            wide += share * state[name].to(wide.dtype)
        out[name] = wide.to(kind)
    return out
