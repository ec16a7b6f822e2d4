"""Distances against closed forms."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parameters_to_vector

from modeconn_cli.engine.networks import distances, sums, weights


def two_networks(seed: int = 0) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(seed)
    return (
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 5)),
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 5)),
    )


def test_total_is_the_norm_of_the_difference_of_the_parameter_vectors() -> None:
    a, b = two_networks()
    found = distances.l2(weights.parameters_in(a.state_dict()), weights.parameters_in(b.state_dict()))
    delta = (
        parameters_to_vector(a.parameters()).double() - parameters_to_vector(b.parameters()).double()
    ).detach()
    assert math.isclose(found.total_l2, float(delta.norm()), rel_tol=1e-12)
    assert found.total_params == delta.numel()
    assert math.isclose(found.normalized_total_l2**2 * found.total_params, found.total_l2**2, rel_tol=1e-12)
    norm = float(parameters_to_vector(a.parameters()).detach().double().norm())
    assert found.relative_total is not None
    assert math.isclose(found.relative_total, found.total_l2 / norm, rel_tol=1e-12)


def test_squares_of_tensors_and_of_modules_add_up_to_the_total() -> None:
    a, b = two_networks()
    found = distances.l2(weights.parameters_in(a.state_dict()), weights.parameters_in(b.state_dict()))
    for parts in (found.layers, found.modules):
        assert math.isclose(sum(part.raw_l2**2 for part in parts), found.total_l2**2, rel_tol=1e-12)
        assert sum(part.n_params for part in parts) == found.total_params


def test_statistics_of_batch_norm_are_not_parameters() -> None:
    a, _ = two_networks()
    assert not any(
        "running" in name or "num_batches" in name for name in weights.parameters_in(a.state_dict())
    )


def test_a_zero_reference_has_no_relative_distance() -> None:
    found = distances.l2({"w": torch.zeros(3)}, {"w": torch.ones(3)})
    assert found.relative_total is None
    assert found.layers[0].relative_distance is None


def test_large_values_do_not_overflow() -> None:
    found = distances.l2({"w": torch.full((4,), 1e20)}, {"w": torch.full((4,), -1e20)})
    assert math.isclose(found.total_l2, 4e20, rel_tol=1e-6)


@given(st.integers(1, 3 * weights.CHUNK // 2), st.integers(0, 5))
def test_chunks_do_not_change_a_sum(size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, size, generator=generator)
    (pair,) = sums.among([{"w": a}, {"w": b}], [(0, 1)])
    found = pair["w"]
    assert math.isclose(found.delta, float(((a.double() - b.double()) ** 2).sum()), rel_tol=1e-12)
    assert math.isclose(found.first, float((a.double() ** 2).sum()), rel_tol=1e-12)


def test_gram_holds_the_inner_products_of_differences_in_float64() -> None:
    rows = torch.randn(3, weights.CHUNK + 7)
    exact = rows.double()
    expected = torch.cat([exact[1:] - exact[0], exact[:1]])
    assert torch.allclose(weights.gram(list(rows[1:]), rows[0]), expected @ expected.T, rtol=1e-12, atol=1e-9)
    assert weights.gram([rows[0]], rows[0])[0].abs().max() == 0
