"""Planes in weight space: geometry, closed forms, principal and random directions."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import weights
from modeconn_cli.engine.paths import plane
from modeconn_cli.engine.paths.path import Layout
from modeconn_cli.engine.paths.plane import Plane, Span
from modeconn_cli.engine.paths.spanned import FollowingBuffers, Spanned

NAMES = ("a", "b", "c")


def gram_of(points: Tensor, origin: int) -> np.ndarray:
    """The Gram matrix of differences from one of the points, straight from its definition."""
    moved = (points - points[origin]).double()
    return (moved @ moved.T).numpy()


def laid(points: Tensor, layout: Layout, span: Span, count: int, margin: float = 0.2) -> Plane:
    vectors = plane.blended(list(points), span.origin, span.blends)
    xs, ys = (plane.ticks(span, k, margin, count) * span.spans[k] for k in (0, 1))
    return Plane(points, layout, span.origin, vectors, xs, ys)


class Big(nn.Module):
    """61 numbers in float64, which the layout pads."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(61, dtype=torch.float64))


def three(seed: int) -> tuple[Tensor, Layout]:
    layout = Layout(Big())
    points = torch.zeros(3, layout.size, dtype=torch.float64)
    points[:, :61] = torch.randn(3, 61, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return points, layout


@pytest.mark.parametrize("seed", range(3))
def test_a_quadratic_loss_has_its_closed_form_on_the_plane(seed: int) -> None:
    """½ wᵀ A w + bᵀ w at every cell, against the polynomial in (x, y) of an orthonormal basis from QR."""
    points, layout = three(seed)
    random = np.random.default_rng(seed)
    root = random.normal(size=(61, 61))
    hessian, slope = root @ root.T / 61, random.normal(size=61)
    span = plane.through(gram_of(points, 0), NAMES)
    found = laid(points, layout, span, 7)
    w0, w1, w2 = (point.numpy()[:61] for point in points)
    basis, triangle = np.linalg.qr(np.stack([w2 - w0, w1 - w0], axis=1))
    basis = basis * np.sign(np.diag(triangle))  # as Gram and Schmidt have it
    gradient, curvature = basis.T @ (hessian @ w0 + slope), basis.T @ hessian @ basis
    start = 0.5 * w0 @ hessian @ w0 + slope @ w0
    out = torch.empty(layout.size, dtype=torch.float64)
    for place in range(3, len(found)):
        found.write(float(place), out)
        w, at = out.numpy()[:61], np.array(found.cell(place))
        expected = start + gradient @ at + 0.5 * at @ curvature @ at
        assert math.isclose(0.5 * w @ hessian @ w + slope @ w, expected, rel_tol=1e-12, abs_tol=1e-12)
        i, j = divmod(place - 3, 7)
        assert math.isclose(found.norms()[i, j], np.linalg.norm(w), rel_tol=1e-12)


def test_coordinates_are_those_of_garipov_and_the_networks_stand_bit_for_bit() -> None:
    points, layout = three(5)
    span = plane.through(gram_of(points, 0), NAMES)
    w0, w1, w2 = (point.numpy()[:61] for point in points)
    u = w2 - w0
    dx = np.linalg.norm(u)
    u /= dx
    v = w1 - w0
    v -= (u @ v) * u
    dy = np.linalg.norm(v)
    v /= dy
    expected = [[(p - w0) @ u, (p - w0) @ v] for p in (w0, w1, w2)]
    np.testing.assert_allclose(span.coordinates, expected, atol=1e-12)
    np.testing.assert_allclose(span.spans, (dx, dy), rtol=1e-13)
    assert math.isclose(
        span.angle or 0, math.degrees(math.acos((w1 - w0) @ u / np.linalg.norm(w1 - w0))), rel_tol=1e-12
    )
    found = laid(points, layout, span, 3)
    assert len(found) == 12
    np.testing.assert_allclose(found.xs, np.linspace(-0.2, 1.2, 3) * dx, rtol=1e-13)
    np.testing.assert_allclose(found.ys, np.linspace(-0.2, 1.2, 3) * dy, rtol=1e-13)
    out = torch.empty(layout.size, dtype=torch.float64)
    for k in range(3):
        found.write(float(k), out)
        assert torch.equal(out, points[k])
    place = 3 + 2 * 3 + 1  # the third α, the second β
    found.write(float(place), out)
    np.testing.assert_allclose(out.numpy()[:61], w0 + found.xs[2] * u + found.ys[1] * v, atol=1e-13)


def test_no_network_lies_outside_of_its_plane() -> None:
    points = torch.tensor([[0.0, 0.0], [-3.0, 1.0], [2.0, 0.0]], dtype=torch.float64)
    span = plane.through(gram_of(points, 0), NAMES)
    np.testing.assert_allclose(plane.ticks(span, 0, 0.2, 3), [-1.5, -0.15, 1.2])
    run = torch.tensor([[3.0, 1.0], [1.0, -1.0], [2.0, 0.5], [0.0, 0.0]], dtype=torch.float64)
    span = plane.principal(gram_of(run, 3))
    for axis in (0, 1):
        found, places = plane.ticks(span, axis, 0.25, 3), span.coordinates[:, axis]
        wanted = [places.min() - 0.25 * np.ptp(places), places.max() + 0.25 * np.ptp(places)]
        np.testing.assert_allclose(found[[0, 2]] * span.spans[axis], wanted)


@pytest.mark.parametrize(
    ("middle", "words"),
    [
        ([0.0, 0.0], "'a' and 'b' have equal weights"),
        ([2.0, 0.0], "'b' and 'c' have equal weights"),
        ([1.0, 0.0], "straight line, within 0.01 degrees: the angle at 'a' between the other two is 0"),
        ([-3.0, 0.0], "the angle at 'a' between the other two is 180"),
        ([1.0, 1e-4], "the angle at 'a' between the other two is 0.00573"),
    ],
)
def test_networks_on_a_line_span_no_plane(middle: list[float], words: str) -> None:
    points = torch.tensor([[0.0, 0.0], middle, [2.0, 0.0]], dtype=torch.float64)
    with pytest.raises(InputError) as raised:
        plane.through(gram_of(points, 0), NAMES)
    assert words in raised.value.message


def test_a_flat_triangle_is_a_plane_as_long_as_its_angle_is_not_below_the_stated_one() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 2e-4], [2.0, 0.0]], dtype=torch.float64)
    found = plane.through(gram_of(points, 0), NAMES)
    assert math.isclose(found.spans[1], 2e-4, rel_tol=1e-7)
    with pytest.raises(InputError, match="distances are not finite"):
        plane.through(gram_of(1e200 * points, 0), NAMES)
    with pytest.raises(InputError, match="distances are not finite"):
        plane.principal(gram_of(1e200 * points, 2))
    equal = torch.ones(3, 4, dtype=torch.float64)
    with pytest.raises(InputError, match="the three networks are equal"):
        plane.through(gram_of(equal, 0), NAMES)


def test_principal_directions_are_those_of_a_singular_value_decomposition() -> None:
    """Of the checkpoints' centred weights, in float64; the plane goes through the last."""
    points = torch.randn(6, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(0)
    span = plane.principal(gram_of(points, 5))
    matrix = points.numpy() - points.numpy()[-1]
    _, values, rows = np.linalg.svd(matrix - matrix.mean(0), full_matrices=False)
    vectors = plane.blended(list(points), 5, span.blends).numpy()
    for k in (0, 1):
        sign = np.sign(vectors[k] @ rows[k])
        np.testing.assert_allclose(vectors[k], sign * rows[k], atol=1e-12)
    np.testing.assert_allclose(span.shares or (), (values**2 / (values**2).sum())[:2], rtol=1e-12)
    np.testing.assert_allclose(span.coordinates, matrix @ vectors.T, atol=1e-12)
    np.testing.assert_allclose(
        span.off, np.linalg.norm(matrix - matrix @ vectors.T @ vectors, axis=1), atol=1e-10
    )
    assert (span.coordinates[0] >= 0).all()
    assert span.origin == 5


def test_a_run_along_a_line_and_one_that_never_moved_span_no_plane() -> None:
    line = torch.arange(4.0, dtype=torch.float64)[:, None] * torch.ones(1, 5, dtype=torch.float64)
    with pytest.raises(InputError, match="4 checkpoints lie on a straight line"):
        plane.principal(gram_of(line, 3))
    with pytest.raises(InputError, match="3 checkpoints are equal"):
        plane.principal(gram_of(torch.ones(3, 5, dtype=torch.float64), 2))
    with pytest.raises(InputError, match="has 2 checkpoints"):
        plane.principal(gram_of(line[:2], 1))


def test_random_directions_have_the_lengths_of_the_networks_filters() -> None:
    """Also where normalisation has parameters of several axes; frozen tensors stay."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.LayerNorm([5, 6, 6]), nn.Flatten(), nn.Linear(180, 4)
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    model[0].weight.data[2] = 0  # a dead filter
    network = weights.parameters_of(model, model.state_dict())
    one, again, two, other = (
        plane.random_direction(model, network, seed, k) for seed, k in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    for name in network:
        assert torch.equal(one[name], again[name])
        if name not in ("0.weight", "4.weight"):
            assert not one[name].any(), name
            continue
        np.testing.assert_allclose(
            one[name].flatten(1).norm(dim=1), network[name].flatten(1).norm(dim=1), rtol=1e-6
        )
        assert not torch.allclose(one[name], two[name])
        assert not torch.allclose(one[name], other[name])
    model[4].weight.requires_grad_(False)
    frozen = plane.random_direction(model, network, 0, 0)
    assert not frozen["4.weight"].any()
    assert torch.equal(frozen["0.weight"], one["0.weight"])


class Scaled(nn.Module):
    """A scale and an index beside the weights."""

    def __init__(self, scale: float, index: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("scale", torch.tensor([scale, -math.inf]))
        self.register_buffer("index", torch.tensor([index]))


def scaled(scales: tuple[float, ...], indices: tuple[int, ...] = (0, 0, 0)) -> tuple[nn.Module, Spanned]:
    model = Scaled(9.0)
    layout = Layout(model)
    points = torch.zeros(3, layout.size)
    points[:, :2] = torch.tensor([[0.0, 0.0], [1.0, 2.0], [4.0, 0.0]])
    span = plane.through(gram_of(points, 0), NAMES)
    buffers = tuple(dict(Scaled(s, i).named_buffers()) for s, i in zip(scales, indices, strict=True))
    nothing: Any = SimpleNamespace()
    found = laid(points, layout, span, 3, margin=0.0)
    return model, Spanned("networks", nothing, NAMES, buffers, (), span, found, found.xs, found.ys, 0.0)


def test_buffers_that_differ_are_blended_as_the_weights_are() -> None:
    model, spanned = scaled((1.0, 5.0, 3.0))
    following = FollowingBuffers(model, spanned)
    assert following.names == ("scale",)
    seen = []
    for place in range(len(spanned.plane)):
        following.put(float(place))
        scale = cast("Tensor", model.get_buffer("scale"))
        assert scale[1] == -math.inf
        seen.append(float(scale[0]))
    assert seen[:3] == [1.0, 5.0, 3.0]
    # 1 + ½ x along the first axis, and 5 at (1, 2): 1 + ½ x + 1.75 y.
    expected = [1 + x / 2 + 1.75 * y for x in (0.0, 2.0, 4.0) for y in (0.0, 1.0, 2.0)]
    np.testing.assert_allclose(seen[3:], expected, rtol=1e-6)


def test_whole_numbers_that_differ_have_nothing_between_them() -> None:
    model, spanned = scaled((1.0, 1.0, 1.0), (0, 1, 0))
    with pytest.raises(InputError, match="'index' holds whole numbers that differ"):
        FollowingBuffers(model, spanned)


def test_unit_vectors_of_nearby_networks_are_units_and_orthogonal() -> None:
    """Blends are summed in float64."""
    start = torch.randn(4096, generator=torch.Generator().manual_seed(1))
    points = torch.stack([start, start + 1e-3 * torch.randn(4096), start + 1e-3 * torch.randn(4096)])
    vectors = plane.blended(
        list(points), 0, plane.through(gram_of(points.double(), 0), NAMES).blends
    ).double()
    np.testing.assert_allclose((vectors @ vectors.T).numpy(), np.eye(2), atol=1e-6)
