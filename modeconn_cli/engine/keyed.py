"""Random numbers that depend on a key and on nothing else.

Counter-based: the bits for (seed, purpose, id, draw) are splitmix64 of a mix of the four, so that batching,
order, workers and world size cannot change them. Source: Steele, Lea and Flood 2014 (splitmix64).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15
_MIX1 = 0xBF58476D1CE4E5B9
_MIX2 = 0x94D049BB133111EB
_WORD = 1 << 64


def _signed(word: int) -> int:
    """The int64 with the same bits."""
    word %= _WORD
    return word - _WORD if word >= _WORD // 2 else word


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch shifts arithmetically)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _splitmix(x: Tensor) -> Tensor:
    x = x + _signed(_GAMMA)
    x = (x ^ _shift(x, 30)) * _signed(_MIX1)
    x = (x ^ _shift(x, 27)) * _signed(_MIX2)
    return x ^ _shift(x, 31)


def _key(seed: int, purpose: str) -> int:
    digest = hashlib.blake2b(f"{seed}:{purpose}".encode(), digest_size=8).digest()
    return _signed(int.from_bytes(digest, "little"))


def bits(seed: int, purpose: str, ids: Tensor, draw: int = 0, width: int = 1) -> Tensor:
    """64 random bits per id and column, int64 [N, width], for int64 ids [N]."""
    column = torch.arange(width, device=ids.device, dtype=torch.int64) * _signed(_GAMMA)
    return _splitmix(_row(ids + _key(seed, purpose), draw)[:, None] + column[None, :])


def _row(keyed_ids: Tensor, draw: int) -> Tensor:
    """What the columns of an id and a draw begin from."""
    return _splitmix(_splitmix(keyed_ids) + draw)


def uniform(seed: int, purpose: str, ids: Tensor, draw: int = 0, width: int = 1) -> Tensor:
    """Numbers in [0, 1), float64 [N, width], from the upper 53 bits."""
    return _shift(bits(seed, purpose, ids, draw, width), 11).double() * 2.0**-53


def integers(seed: int, purpose: str, ids: Tensor, high: int) -> Tensor:
    """Whole numbers in [0, high), int64 [N]; the bias is below high / 2^53."""
    return (uniform(seed, purpose, ids)[:, 0] * high).long()


def fraction(seed: int, purpose: str, index: int) -> float:
    """One number in [0, 1)."""
    return float(uniform(seed, purpose, torch.tensor([index])).item())


def number(seed: int, purpose: str, index: int = 0) -> int:
    """One whole number in [0, 2^63), as torch's generators take for a seed."""
    return int(bits(seed, purpose, torch.tensor([index])).item()) & ((1 << 63) - 1)


def permutation(seed: int, purpose: str, count: int, draw: int = 0) -> Tensor:
    """A random order of 0 … count-1, int64 [count] on the CPU."""
    return permutations([seed], purpose, count, draw)[0]


def permutations(seeds: Sequence[int], purpose: str, count: int, draw: int = 0) -> Tensor:
    """The `permutation` of each seed, int64 [seeds, count]."""
    keys = torch.tensor([_key(seed, purpose) for seed in seeds])
    drawn = _splitmix(_row(torch.arange(count) + keys[:, None], draw))
    return torch.from_numpy(np.argsort(drawn.numpy(), kind="stable"))
