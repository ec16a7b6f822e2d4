"""Sums over many networks, against subtracting each pair in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modeconn_cli.engine.networks import sums, weights


def exact(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).square().sum())


def networks(count: int, spread: float, size: int = 500) -> list[dict[str, Tensor]]:
    """Close to each other, one far away, two the same; an empty tensor and one without axes."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(size, generator=generator)
    out = []
    for _ in range(count):
        rows = base + spread * torch.randn(size, generator=generator)
        out.append({"w": rows, "empty": torch.zeros(0), "scalar": torch.tensor(float(rows[0]))})
    out[0] = {**out[0], "w": 10 * torch.randn(size, generator=generator)}
    out[2] = dict(out[1])
    return out


@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize("threads", [1, 2])
def test_all_pairs_are_those_of_subtraction(
    monkeypatch: pytest.MonkeyPatch, spread: float, threads: int
) -> None:
    monkeypatch.setattr(sums, "CACHED", 1 << 9)
    monkeypatch.setattr(sums, "PIECE", 200)
    found = networks(12, spread)
    pairs = list(itertools.combinations(range(12), 2))
    assert len(pairs) > sums.DIRECT * 12, "few pairs take no Gram matrix"
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        squares = sums.among(found, pairs)
    finally:
        torch.set_num_threads(before)
    for (i, j), tensors in zip(pairs, squares, strict=True):
        for name in ("w", "scalar"):
            expected = exact(found[i][name], found[j][name])
            assert math.isclose(tensors[name].delta, expected, rel_tol=1e-12), (i, j, name)
        assert math.isclose(tensors["w"].first, float(found[i]["w"].double().square().sum()), rel_tol=1e-12)
        assert (tensors["empty"].delta, tensors["empty"].size) == (0.0, 0)
    assert squares[pairs.index((1, 2))]["w"].delta == 0.0


def test_the_sums_that_all_pairs_need_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty networks: no subtraction for 1,225 pairs that are alike far from each other."""
    torch.manual_seed(0)
    fifty = [{"w": torch.randn(1000)} for _ in range(50)]
    pairs = [(i, j) for i in range(50) for j in range(i + 1, 50)]
    subtracted = 0
    original = sums._subtracted

    def counted(part: Tensor, some: list) -> Tensor:
        nonlocal subtracted
        subtracted += len(some)
        return original(part, some)

    monkeypatch.setattr(sums, "_subtracted", counted)
    sums.among(fifty, pairs)
    assert subtracted == 0


def test_a_network_with_nan_spoils_no_other_pair() -> None:
    found = networks(12, 1.0)
    found[5]["w"] = found[5]["w"].clone()
    found[5]["w"][3] = math.nan
    pairs = list(itertools.combinations(range(12), 2))
    for (i, j), tensors in zip(pairs, sums.among(found, pairs), strict=True):
        if 5 in (i, j):
            assert math.isnan(tensors["w"].delta)
        else:
            assert math.isclose(tensors["w"].delta, exact(found[i]["w"], found[j]["w"]), rel_tol=1e-12)


@pytest.mark.parametrize(
    "kind",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2],
)
def test_every_precision_is_taken_to_float64(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 1000).to(kind)
    (found,) = sums.among([{"w": a}, {"w": b}], [(0, 1)])
    assert math.isclose(found["w"].delta, exact(a, b), rel_tol=1e-12)


@given(st.integers(0, 2**32), st.floats(1e-9, 1e3))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_the_cosine_distance_keeps_its_digits(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(100, generator=generator, dtype=torch.float64)
    b = a + scale * torch.randn(100, generator=generator, dtype=torch.float64)
    (found,) = sums.among([{"w": a}, {"w": b}], [(0, 1)])
    unit = a / a.norm() - b / b.norm()  # 1 − cos = ½‖unit difference‖²
    value = found["w"].cosine_distance
    assert value is not None
    assert math.isclose(value, float(unit.square().sum()) / 2, rel_tol=1e-6)


def test_a_zero_vector_has_no_cosine_distance() -> None:
    (found,) = sums.among([{"w": torch.zeros(3)}, {"w": torch.ones(3)}], [(0, 1)])
    assert found["w"].cosine_distance is None


def test_weighted_sums_are_those_of_their_formula() -> None:
    torch.manual_seed(0)
    a, b, f = torch.randn(3, 3 * weights.CHUNK // 2)
    found = sums.weighted({"w": a, "other": a}, {"w": b, "other": b}, {"w": f.abs().double()})
    expected = float((f.abs().double() * (a.double() - b.double()).square()).sum())
    assert list(found) == ["w"]
    assert math.isclose(found["w"], expected, rel_tol=1e-12)
