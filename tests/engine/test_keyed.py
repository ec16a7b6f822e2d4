"""Keyed random numbers: known words, independence of batching, and the laws of their distributions."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from modeconn_cli.engine import keyed


def reference_splitmix64(word: int) -> int:
    """splitmix64 on Python's whole numbers."""
    mask = (1 << 64) - 1
    word = (word + 0x9E3779B97F4A7C15) & mask
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & mask
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & mask
    return word ^ (word >> 31)


@given(st.integers(-(2**63), 2**63 - 1))
def test_the_mixer_is_splitmix64(word: int) -> None:
    found = int(keyed._splitmix(torch.tensor([word])).item()) % 2**64
    assert found == reference_splitmix64(word % 2**64)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20), st.integers(0, 5), st.integers(1, 9))
def test_h2_a_sample_gets_the_same_numbers_in_any_company(ids: list[int], draw: int, width: int) -> None:
    together = keyed.bits(3, "purpose", torch.tensor(ids), draw, width)
    alone = torch.cat([keyed.bits(3, "purpose", torch.tensor([i]), draw, width) for i in ids])
    assert torch.equal(together, alone)


def test_seed_purpose_id_draw_and_column_all_matter() -> None:
    ids = torch.arange(50)
    rows = [
        keyed.bits(seed, purpose, ids, draw, 3)
        for seed in (0, 1)
        for purpose in ("a", "b")
        for draw in (0, 1)
    ]
    words = torch.cat(rows).flatten().tolist()
    assert len(set(words)) == len(words)


def test_uniform_numbers_fill_the_unit_interval_evenly() -> None:
    values = keyed.uniform(0, "test", torch.arange(100_000))[:, 0]
    counts = torch.histc(values, bins=20, min=0, max=1)
    assert float(values.min()) >= 0
    assert float(values.max()) < 1
    # 5,000 per bin with standard deviation 69: five of them is one false alarm in 10^5 bins.
    assert float((counts - 5000).abs().max()) < 345


@given(st.integers(0, 300), st.integers(0, 3))
def test_a_permutation_holds_every_number_once(count: int, draw: int) -> None:
    assert sorted(keyed.permutation(1, "order", count, draw).tolist()) == list(range(count))
