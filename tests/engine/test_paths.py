"""Paths: exact ends, coefficients, lengths, and control-point gradients against autograd."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from modeconn_cli.engine import keyed
from modeconn_cli.engine.paths import barriers
from modeconn_cli.engine.paths.carrier import Carrier
from modeconn_cli.engine.paths.layers import layer_distances
from modeconn_cli.engine.paths.path import Kind, WeightPath, coefficients
from modeconn_cli.engine.paths.problem import PathProblem
from modeconn_cli.engine.paths.start import control_points

KINDS: list[Kind] = ["bezier", "polychain"]


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 4)
    )


def states(count: int) -> list[dict[str, Tensor]]:
    return [{n: p.detach().clone() for n, p in network(k).named_parameters()} for k in range(count)]


def path(kind: Kind, count: int) -> WeightPath:
    return WeightPath.through(kind, states(count), network(0))


def weights_at(found: WeightPath, t: float) -> dict[str, Tensor]:
    flat = torch.empty_like(found.points[0])
    found.write(t, flat)
    return found.layout.views(flat)


@given(st.sampled_from(KINDS), st.integers(2, 7), st.floats(0, 1))
def test_coefficients_are_a_partition_of_one(kind: Kind, count: int, t: float) -> None:
    c = coefficients(kind, count, t)
    assert c.shape == (count,)
    assert (c >= 0).all()
    assert math.isclose(c.sum(), 1, rel_tol=1e-12)


@given(st.floats(0, 1))
def test_two_control_points_make_a_straight_line(t: float) -> None:
    for kind in KINDS:
        assert np.allclose(coefficients(kind, 2, t), [1 - t, t], atol=1e-15)


def test_a_bezier_with_three_points_has_the_published_coefficients() -> None:
    assert coefficients("bezier", 3, 0.25).tolist() == [0.5625, 0.375, 0.0625]
    assert coefficients("polychain", 3, 0.25).tolist() == [0.5, 0.5, 0.0]


@pytest.mark.parametrize("kind", [*KINDS, "line"])
def test_the_ends_are_the_endpoints_bit_for_bit(kind: Kind) -> None:
    points = states(2 if kind == "line" else 3)
    points[0]["0.bias"][0] = -0.0
    found = WeightPath.through(kind, points, network(0))
    for t, end in ((0.0, points[0]), (1.0, points[-1])):
        at = weights_at(found, t)
        for name in end:
            assert torch.equal(at[name].view(torch.int32), end[name].view(torch.int32))


@given(st.sampled_from(KINDS), st.integers(2, 5), st.floats(0, 1))
def test_a_point_is_the_weighted_sum_of_the_control_points(kind: Kind, count: int, t: float) -> None:
    found, points = weights_at(path(kind, count), t), states(count)
    c = coefficients(kind, count, t)
    for name in found:
        expected = sum(float(c[k]) * points[k][name].double() for k in range(count))
        assert torch.allclose(found[name].double(), torch.as_tensor(expected), atol=1e-6)


@given(st.sampled_from(KINDS), st.integers(2, 5))
def test_lengths_are_those_of_the_points_themselves(kind: Kind, count: int) -> None:
    found = path(kind, count)
    ts = np.linspace(0, 1, 9)
    steps, norms = found.lengths(ts)
    points = [
        sum(float(c) * p.double() for c, p in zip(coefficients(kind, count, t), found.points, strict=True))
        for t in ts
    ]
    expected = [0.0] + [float((b - a).norm()) for a, b in itertools.pairwise(points)]  # type: ignore[operator]
    assert np.allclose(steps, expected, rtol=1e-9, atol=1e-12)
    assert np.allclose(norms, [float(p.norm()) for p in points], rtol=1e-9)  # type: ignore[union-attr]


def test_a_carrier_moves_the_model_without_changing_the_path() -> None:
    found = path("bezier", 3)
    before = found.points.clone()
    model = network(5)
    carrier = Carrier(model, found)
    carrier.move_to(0.3)
    expected = weights_at(found, 0.3)
    assert all(torch.equal(p, expected[name]) for name, p in model.named_parameters())
    assert torch.equal(found.points, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("count", "fix_start", "fix_end"), [(3, True, True), (4, True, True), (3, False, True)]
)
def test_gradients_of_the_control_points_are_those_of_autograd(
    kind: Kind, count: int, fix_start: bool, fix_end: bool
) -> None:
    """The chain rule by hand against autograd through the blend, in float64."""
    model = network(0).double()
    points = [{n: p.double() for n, p in state.items()} for state in states(count)]
    problem = PathProblem(
        model,
        WeightPath.through(kind, points, model),
        weight_decay=0.01,
        seed=3,
        fix_start=fix_start,
        fix_end=fix_end,
    )
    x, y = torch.randn(5, 1, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    problem.place(11)
    F.cross_entropy(model(x), y).backward()
    penalty = problem.collect()

    t = keyed.fraction(3, "t", 11)
    c = coefficients(kind, count, t)
    leaves = [{n: p.clone().requires_grad_(True) for n, p in state.items()} for state in points]
    blend = {n: sum(float(c[k]) * leaves[k][n] for k in range(count)) for n in points[0]}
    decay = 0.5 * 0.01 * sum((p**2).sum() for p in blend.values())  # type: ignore[operator]
    loss = F.cross_entropy(functional_call(network(0).double(), blend, (x,)), y) + decay  # type: ignore[arg-type]
    loss.backward()
    assert math.isclose(float(penalty), float(decay.detach()), rel_tol=1e-12)  # type: ignore[union-attr]
    free = range(0 if not fix_start else 1, count if not fix_end else count - 1)
    grads = problem.trainable[0].grad
    assert grads is not None
    assert len(grads) == len(free)
    for row, k in zip(grads, free, strict=True):
        for name, view in problem.path.layout.views(row).items():
            expected = leaves[k][name].grad
            assert expected is not None
            assert torch.allclose(view, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    "value", [torch.tensor([3, 1, 2]), torch.tensor([0.5, -1.0, 2.0]), torch.tensor([True, False, True])]
)
def test_a_path_brings_the_buffers_that_its_ends_have_in_common(value: Tensor) -> None:
    """Another path through the same model has left its own there: an index, a scale, a mask."""
    model = network(0)
    model.register_buffer("kept", torch.zeros_like(value))
    found = WeightPath.through("polychain", states(2), model)
    for t in (0.5, 1.0):
        carrier = Carrier(model, found, [{"kept": value}, {"kept": value.clone()}])
        carrier.move_to(t)
        assert torch.equal(model.get_buffer("kept"), value)
        model.get_buffer("kept").zero_()


def test_the_symmetry_plane_keeps_equal_distances_from_both_ends() -> None:
    model = network(0).double()
    found = WeightPath.through("bezier", [{n: p.double() for n, p in s.items()} for s in states(3)], model)
    problem = PathProblem(model, found, weight_decay=0.0, seed=0, plane="symmetry-plane")
    problem.settle()
    first, middle, last = found.points
    assert math.isclose(float((middle - first).norm()), float((middle - last).norm()), rel_tol=1e-12)


def test_the_plane_of_every_tensor_keeps_equal_distances_tensor_by_tensor() -> None:
    model = network(0).double()
    points = [{n: p.double() for n, p in s.items()} for s in states(3)]
    points[2]["0.bias"] = points[0]["0.bias"]  # between equal ends there is no plane
    found = WeightPath.through("bezier", points, model)
    PathProblem(model, found, weight_decay=0.0, seed=0, plane="symmetry-plane-per-tensor").settle()
    first, middle, last = (found.layout.views(row) for row in found.points)
    for name in first:
        a, b = (middle[name] - first[name]).norm(), (middle[name] - last[name]).norm()
        assert math.isclose(float(a), float(b), rel_tol=1e-12), name
    assert torch.equal(middle["0.bias"], points[1]["0.bias"])


def test_layer_distances_are_those_of_the_networks_at_each_position() -> None:
    points = states(3)
    swapped = {**points[0], "3.weight": points[0]["3.weight"].flip(0), "3.bias": points[0]["3.bias"].flip(0)}
    ts = np.linspace(0, 1, 7)
    found = layer_distances("bezier", points, ts, swapped)
    assert found.names == ["0", "3", "5"]
    assert found.types == ["conv", "fc", "fc"]
    start, end = points[0], points[2]
    assert found.modulo_swap is not None
    for i, t in enumerate(ts):
        c = coefficients("bezier", 3, t)
        at = {n: sum(float(c[k]) * points[k][n].double() for k in range(3)) for n in start}
        for j, module in enumerate(found.names):
            names = [f"{module}.weight", f"{module}.bias"]

            def vector(state: dict[str, Tensor], names: list[str] = names) -> Tensor:
                return torch.cat([torch.as_tensor(state[n]).double().flatten() for n in names])

            w, a, b = vector(at), vector(start), vector(end)  # type: ignore[arg-type]
            raw = float((w - a).norm())
            assert math.isclose(found.raw[i, j], raw, rel_tol=1e-9, abs_tol=1e-12)
            assert math.isclose(found.normalized[i, j], raw / math.sqrt(len(a)), rel_tol=1e-9, abs_tol=1e-12)
            assert math.isclose(found.relative[i, j], raw / float(a.norm()), rel_tol=1e-9, abs_tol=1e-12)
            gap = abs(float(w.norm()) - float(a.norm()))
            assert math.isclose(found.norm_difference[i, j], gap, rel_tol=1e-6, abs_tol=1e-9)
            modulo = min(raw, float((w - vector(swapped)).norm()))
            assert math.isclose(found.modulo_swap[i, j], modulo, rel_tol=1e-9, abs_tol=1e-9)
            s = float(((w - a) @ (b - a)) / ((b - a) @ (b - a)))
            line = float((w - (a + min(max(s, 0), 1) * (b - a))).norm())
            assert math.isclose(found.from_line[i, j], line, rel_tol=1e-6, abs_tol=1e-7)
    assert (found.raw[0] == 0).all()
    assert np.allclose(found.from_line[[0, -1]], 0)


def test_the_swapped_network_at_the_end_is_at_distance_zero_modulo_the_swap() -> None:
    points = states(3)
    swapped = {**points[0], "3.weight": points[0]["3.weight"].flip(0)}
    found = layer_distances("bezier", [points[0], points[1], swapped], np.linspace(0, 1, 5), swapped)
    assert found.modulo_swap is not None
    assert (found.modulo_swap[-1] == 0).all()
    assert found.raw[-1, 1] > 0


def test_barriers_of_a_parabola_are_those_worked_out_by_hand() -> None:
    ts = np.linspace(0, 1, 61)
    # L(t) = 1 + t + 4 t (1 - t): ends 1 and 2, gap 1 at t = 1/2, maximum 2.5625 at t = 0.625.
    found = barriers.barriers(ts, 1 + ts + 4 * ts * (1 - ts))
    top = float((1 + ts + 4 * ts * (1 - ts)).max())
    assert found["max_gap"] == pytest.approx(1, abs=1e-12)
    assert found["midpoint"] == pytest.approx(1, abs=1e-12)
    assert found["sup_minus_mean"] == pytest.approx(top - 1.5, abs=1e-12)
    assert found["max_minus_max_end"] == pytest.approx(top - 2, abs=1e-12)
    assert found["max_minus_min_end"] == pytest.approx(top - 1, abs=1e-12)
    assert top == pytest.approx(2.5625, abs=1e-3)


def test_there_is_no_barrier_between_a_network_and_itself_and_none_below_zero() -> None:
    ts = np.linspace(0, 1, 11)
    flat = barriers.barriers(ts, np.full(11, 0.1 + 0.2))
    assert all(value == 0 for value in flat.values())
    valley = barriers.barriers(ts, 1 - ts * (1 - ts))
    assert valley["max_gap"] == 0


def test_the_midpoint_barrier_needs_the_midpoint() -> None:
    ts = np.linspace(0, 1, 4)
    assert barriers.barriers(ts, ts)["midpoint"] is None


@pytest.mark.parametrize("method", ["linear", "biased", "perturbed", "sphere"])
@pytest.mark.parametrize("differ", [False, True])
def test_frozen_parameters_stay_between_the_ends(method: str, differ: bool) -> None:
    """Whatever start, constraint and penalty do; where the ends are equal they are the ends', bit for bit."""
    first, last = states(2)
    frozen = ["0.weight", "0.bias"]
    if not differ:
        last |= {name: first[name] for name in frozen}
    model = network(0)
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    points = control_points(
        first, last, 3, method, alpha=0.3, noise=0.5, elementwise=False, inside_sphere=True, seed=0, frozen=frozen,  # type: ignore[arg-type]
    )  # fmt: skip
    found = WeightPath.through("bezier", points, model)
    problem = PathProblem(model, found, weight_decay=0.5, seed=0, plane="symmetry-plane")
    optimizer = torch.optim.SGD(problem.trainable, lr=0.1, momentum=0.9)
    for step in range(5):
        problem.place(step)
        F.cross_entropy(model(torch.randn(8, 1, 4, 4)), torch.arange(8) % 4).backward()
        penalty = problem.collect()
        assert float(penalty) == pytest.approx(
            0.25 * sum(float(p.detach().double().square().sum()) for p in model.parameters()), rel=1e-6
        )
        optimizer.step()
        problem.settle()
    middle = found.layout.views(found.points[1])
    for name in frozen:
        assert torch.equal(middle[name], torch.lerp(first[name], last[name], 0.5) if differ else first[name])
    distances = [(found.points[1] - found.points[k]).double().norm() for k in (0, 2)]
    assert float(distances[0]) == pytest.approx(float(distances[1]), rel=1e-5)
    assert not torch.equal(middle["3.weight"], points[1]["3.weight"])
