"""Learning rates over the epochs. `epoch` counts from 1 to `epochs`."""

from __future__ import annotations

import math
from collections.abc import Callable


def garipov(epoch: int, epochs: int) -> float:
    """1 for the first half, then linear to 0.01 at nine tenths, then 0.01 (Garipov et al. 2018)."""
    share = epoch / epochs
    if share <= 0.5:
        return 1.0
    if share <= 0.9:
        return 1.0 - (share - 0.5) / 0.4 * 0.99
    return 0.01


def cosine(epoch: int, epochs: int) -> float:
    """Half a cosine from 1 towards 0 (Loshchilov and Hutter 2017, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * (epoch - 1) / epochs))


def linear(epoch: int, epochs: int) -> float:
    """From 1 in equal steps towards 0, which would come after the last epoch."""
    return 1 - (epoch - 1) / epochs


def step(epoch: int, epochs: int) -> float:
    """1, then 0.1 after half of the epochs, then 0.01 after three quarters (He et al. 2016)."""
    done = (epoch - 1) / epochs
    return 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01


def incremental(epoch: int, epochs: int) -> float:
    """1, times 0.2 after 30, 60 and 80 % of the epochs: 60, 120 and 160 of 200 (Dohare et al. 2024)."""
    return 0.2 ** sum(epoch - 1 >= share * epochs for share in (0.3, 0.6, 0.8))


def constant(epoch: int, epochs: int) -> float:  # noqa: ARG001 - all schedules are called alike
    """1 throughout."""
    return 1.0


SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "garipov": garipov,
    "cosine": cosine,
    "linear": linear,
    "step": step,
    "incremental": incremental,
    "constant": constant,
}
