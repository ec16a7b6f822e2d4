"""Weight matching: against all permutations of small networks, and random permutations that have to come back."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modeconn_cli.engine import symmetry
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import graph, weights
from modeconn_cli.engine.symmetry import (
    Group,
    Symmetry,
    activity,
    correlations,
    frame,
    match,
    pair,
    places,
)
from modeconn_cli.engine.symmetry.permutation import random_order

Weights = dict[str, Tensor]


class Residual(nn.Module):
    """Twelve blocks on one stream, with norms."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 12)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))
            for _ in range(12)
        )
        self.last = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


class Attention(nn.Module):
    """One block with four heads on a stream of twelve, whose order nothing fixes but the input and the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 12)
        self.attention = nn.MultiheadAttention(12, 4, batch_first=True)
        self.last = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.last(x.mean(1))


class Grouped(nn.Module):
    """Grouped and depthwise convolutions, group norm and channels that a linear layer reads position by position."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 12, 3, padding=1)
        self.grouped = nn.Conv2d(12, 12, 3, padding=1, groups=3)
        self.norm = nn.GroupNorm(3, 12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.last = nn.Linear(12 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.gelu(self.norm(self.grouped(torch.relu(self.first(x)))))  # two dead units are alike
        return self.last(self.depthwise(x).flatten(1))


class Recurrent(nn.Module):
    """One square matrix whose rows and columns are of one group, applied three times."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = nn.Linear(16, 9), nn.Linear(9, 9), nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        for _ in range(3):
            x = torch.tanh(self.again(x))
        return self.last(x)


SHAPES: dict[Callable[[], nn.Module], tuple[int, ...]] = {
    Residual: (1, 4, 4),
    Attention: (4, 8),
    Grouped: (1, 4, 4),
    Recurrent: (1, 4, 4),
}


def made(make: Callable[[], nn.Module], seed: int = 0) -> tuple[Symmetry, Weights]:
    """A network's groups, and its weights, all random: norms begin with units that are alike."""
    model = make()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return symmetry.find(graph.trace(model, SHAPES[make])), weights.parameters_of(model, model.state_dict())


def shuffled(found: Symmetry, seed: int) -> dict[Group, np.ndarray]:
    """A random order of every group, of units within blocks another one in each."""
    generator = np.random.default_rng(seed)
    return {group: random_order(group, generator) for group in found.groups}


@pytest.mark.parametrize("make", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_a_random_permutation_comes_back(make: Callable[[], nn.Module], seed: int) -> None:
    found, fixed = made(make, seed)
    moving = symmetry.permute(fixed, shuffled(found, seed))
    assert any(not torch.equal(moving[name], fixed[name]) for name in fixed)
    matched = match.by_weights(found, fixed, moving, seed=seed)
    back = symmetry.permute(moving, matched.orders)
    assert all(torch.equal(back[name], fixed[name]) for name in fixed)
    assert list(matched.objective[1:]) == sorted(matched.objective[1:])


def test_no_permutation_of_a_small_network_is_nearer() -> None:
    """A hidden layer of six units: all 720 permutations."""

    def make() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 5))

    SHAPES[make] = (1, 4, 4)
    (found, fixed), (_, moving) = made(make, 1), made(make, 2)
    del SHAPES[make]

    def distance(order: tuple[int, ...]) -> float:
        first = (fixed["1.weight"] - moving["1.weight"][list(order)]).double()
        bias = (fixed["1.bias"] - moving["1.bias"][list(order)]).double()
        second = (fixed["3.weight"] - moving["3.weight"][:, list(order)]).double()
        return float((first**2).sum() + (bias**2).sum() + (second**2).sum())

    best = min(itertools.permutations(range(6)), key=distance)
    (order,) = match.by_weights(found, fixed, moving).orders.values()
    assert tuple(order) == best


@pytest.mark.parametrize("make", SHAPES)
def test_the_objective_is_that_of_the_permuted_weights(make: Callable[[], nn.Module]) -> None:
    (found, fixed), (_, moving) = made(make, 1), made(make, 2)
    matched = match.by_weights(found, fixed, moving, restarts=2)
    moves = {move.tensor for group in found.groups for move in group.moves}
    for objective, side in (
        (matched.objective[0], moving),
        (matched.objective[-1], symmetry.permute(moving, matched.orders)),
    ):
        plain = sum(float((fixed[name].double() * side[name].double()).sum()) for name in moves)
        assert objective == pytest.approx(plain, rel=1e-12)
    assert matched.objective[-1] > matched.objective[0]


def test_more_starts_are_never_worse() -> None:
    (found, fixed), (_, moving) = made(Recurrent, 1), made(Recurrent, 2)
    reached = [match.by_weights(found, fixed, moving, restarts=k).objective[-1] for k in (1, 4, 16)]
    assert reached == sorted(reached)


@pytest.mark.parametrize("make", SHAPES)
def test_a_matching_that_goes_on_after_any_sweep_ends_as_if_nothing_had_come_between(
    make: Callable[[], nn.Module],
) -> None:
    (found, fixed), (_, moving) = made(make, 1), made(make, 2)
    kept: list[match.Progress] = []
    whole = match.by_weights(found, fixed, moving, seed=3, restarts=3, keep=kept.append)
    assert {each.attempt for each in kept} == {0, 1, 2, 3}
    for k in range(0, len(kept), 3):
        begun = match.Progress(**json.loads(json.dumps(dataclasses.asdict(kept[k]))))
        further: list[match.Progress] = []
        again = match.by_weights(found, fixed, moving, seed=3, restarts=3, begun=begun, keep=further.append)
        assert (again.objective, again.start) == (whole.objective, whole.start)
        assert all(np.array_equal(order, whole.orders[group]) for group, order in again.orders.items())
        assert further == kept[k + 1 :], "no sweep is done again"


def test_dead_and_identical_units_are_matched() -> None:
    found, fixed = made(Residual)
    alike = {name: torch.zeros_like(tensor) for name, tensor in fixed.items()}
    for orders in (
        match.by_weights(found, fixed, alike).orders,
        match.by_weights(found, alike, alike).orders,
    ):
        assert all(
            (np.sort(order, axis=-1) == np.arange(group.size)).all() for group, order in orders.items()
        )


class TestFrame:
    @pytest.fixture
    def three(self) -> tuple[Symmetry, list[Weights]]:
        found, first = made(Residual, 1)
        return found, [first, *(made(Residual, seed)[1] for seed in (2, 3))]

    def test_permuted_copies_come_together(self) -> None:
        found, first = made(Attention)
        copies = [
            first,
            *(symmetry.permute(first, shuffled(found, k)) for k in (1, 2, 3)),
        ]
        together = frame.common_frame(found, copies)
        for copy, orders in zip(copies, together.orders, strict=True):
            back = symmetry.permute(copy, orders)
            assert all(torch.equal(back[name], first[name]) for name in first)

    def test_the_first_stays_and_the_sum_over_pairs_rises(
        self, three: tuple[Symmetry, list[Weights]]
    ) -> None:
        found, networks = three
        together = frame.common_frame(found, networks)
        assert all((order == np.arange(group.size)).all() for group, order in together.orders[0].items())
        moved = [symmetry.permute(*each) for each in zip(networks, together.orders, strict=True)]
        plain = sum(
            float((a[name].double() * b[name].double()).sum())
            for a, b in itertools.combinations(moved, 2)
            for name in a
        )
        assert together.objective[-1] == pytest.approx(plain, rel=1e-10)
        assert list(together.objective) == sorted(together.objective)

    def test_it_is_no_worse_than_any_single_reference(self, three: tuple[Symmetry, list[Weights]]) -> None:
        found, networks = three
        together = frame.common_frame(found, networks)
        for reference in networks:
            moved = [
                symmetry.permute(each, match.by_weights(found, reference, each).orders) for each in networks
            ]
            pairs = itertools.combinations(moved, 2)
            plain = sum(pair.inner_product(a[name], b[name]) for a, b in pairs for name in a)
            assert together.objective[-1] >= plain - 1e-9 * abs(plain)

    def test_the_order_of_the_networks_makes_no_difference(
        self, three: tuple[Symmetry, list[Weights]]
    ) -> None:
        found, networks = three
        reached = [
            frame.common_frame(found, [networks[k] for k in order]).objective[-1]
            for order in itertools.permutations(range(3))
        ]
        assert max(reached) == pytest.approx(min(reached), rel=1e-12)


def act(make: Callable[[], nn.Module], seed: int) -> tuple[nn.Module, graph.Graph, Symmetry, list[Tensor]]:
    """A network of random weights, its graph and groups, and inputs."""
    model = make()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    traced = graph.trace(model.eval(), SHAPES[make])
    inputs = torch.randn(60, *SHAPES[make], generator=generator)
    return model, traced, symmetry.find(traced), list(inputs.split(25))


@pytest.mark.parametrize("make", SHAPES)
def test_a_random_permutation_comes_back_by_activations(make: Callable[[], nn.Module]) -> None:
    model, traced, found, batches = act(make, 1)
    fixed = dict(model.state_dict())
    moving = symmetry.permute(fixed, shuffled(found, 3))
    orders, alike = activity.by_activations(found, traced, fixed, moving, lambda: batches)
    back = symmetry.permute(moving, orders)
    assert all(torch.equal(back[name], fixed[name]) for name in fixed)
    assert 0.9 < alike <= 1 + 1e-5, "a unit that is dead on all inputs correlates with none"


def test_correlations_are_numpys_whatever_the_batches() -> None:
    """Of a hidden layer far from zero mean, in one batch and in batches of two sizes."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 5))
    other = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 5))
    for each in (model, other):
        with torch.no_grad():
            each[1].bias.add_(30.0)
    with torch.no_grad():
        other[1].weight[2] = 0  # a unit that never changes
    traced = graph.trace(model, (1, 4, 4))
    found = symmetry.find(traced)
    inputs = torch.randn(50, 1, 4, 4)
    (place,) = places.find(found, traced)
    states = (model.state_dict(), other.state_dict())
    with torch.no_grad():
        units = [each[2](each[1](each[0](inputs))).double().numpy().T for each in (model, other)]
    with np.errstate(invalid="ignore"):
        wanted = np.nan_to_num(np.corrcoef(*units)[:6, 6:])
    for batches in ([inputs], list(inputs.split([7, 43]))):
        alike = correlations.correlations(traced, [place], states, batches)[0, 1][place]
        assert np.allclose(alike, wanted, atol=1e-5)
        assert (alike[:, 2] == 0).all()


class TestFrameByActivations:
    """Networks of one architecture that SGD has brought somewhere, each from its own seed."""

    @pytest.fixture(params=SHAPES)
    def few(
        self, request: pytest.FixtureRequest
    ) -> tuple[Symmetry, graph.Graph, list[Weights], list[Tensor]]:
        make, states = request.param, []
        for seed in range(3):
            model, traced, found, batches = act(make, seed)
            inputs = torch.cat(batches)
            labels = torch.arange(len(inputs)) % 5
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            for _ in range(20):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model.train()(inputs), labels).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
            states.append({name: tensor.detach().clone() for name, tensor in model.state_dict().items()})
        return found, traced, states, list(torch.randn(60, *SHAPES[make]).split(25))

    def test_permuted_copies_come_together(self, few: Any) -> None:
        found, traced, (first, *_), batches = few
        copies = [
            first,
            *(symmetry.permute(first, shuffled(found, k)) for k in (1, 2, 3)),
        ]
        together = frame.common_frame_by_activations(found, traced, copies, lambda: batches)
        for copy, orders in zip(copies, together.orders, strict=True):
            back = symmetry.permute(copy, orders)
            assert all(torch.equal(back[name], first[name]) for name in first)

    def test_of_two_networks_it_is_their_matching(self, few: Any) -> None:
        found, traced, (first, second, _), batches = few
        together = frame.common_frame_by_activations(found, traced, [first, second], lambda: batches)
        orders, alike = activity.by_activations(found, traced, first, second, lambda: batches)
        assert all((order == np.arange(group.size)).all() for group, order in together.orders[0].items())
        assert together.objective[-1] >= alike - 1e-9
        if not any(len(place.units) > 1 for place in places.find(found, traced)):
            for group, order in orders.items():
                assert np.array_equal(together.orders[1][group], order)

    @pytest.mark.parametrize(
        "few", [Residual, Grouped, Recurrent], indirect=True
    )  # with all groups in one phase
    def test_its_mean_correlation_is_no_lower_than_that_of_any_single_reference(self, few: Any) -> None:
        found, traced, networks, batches = few
        together = frame.common_frame_by_activations(found, traced, networks, lambda: batches)
        moved = [symmetry.permute(*each) for each in zip(networks, together.orders, strict=True)]
        assert together.objective[-1] == pytest.approx(paired(found, traced, moved, batches), abs=1e-6)
        for reference in networks:
            star = [
                symmetry.permute(
                    each, activity.by_activations(found, traced, reference, each, lambda: batches)[0]
                )
                for each in networks
            ]
            assert together.objective[-1] >= paired(found, traced, star, batches) - 1e-6

    def test_the_order_of_the_networks_makes_no_difference(self, few: Any) -> None:
        found, traced, networks, batches = few
        reached = [
            frame.common_frame_by_activations(
                found, traced, [networks[k] for k in order], lambda: batches
            ).objective
            for order in ((0, 1, 2), (2, 0, 1))
        ]
        assert reached[0] == reached[1]


def paired(found: Symmetry, traced: graph.Graph, networks: list[Weights], batches: list[Tensor]) -> float:
    """The mean correlation of units with one place over pairs: NumPy's, at every place, on all inputs at once."""
    values: dict[symmetry.Group, list[float]] = {group: [] for group in found.groups}
    for one, other in itertools.combinations(networks, 2):
        for group in found.groups:
            means = []
            for place in places.find(found, traced):
                if group in place.units:
                    rows = [
                        correlations.Recorder(traced, [place])
                        .of(state, torch.cat(batches))[place]
                        .double()
                        .numpy()
                        for state in (one, other)
                    ]
                    means.append(np.mean([correlation(a, b) for a, b in zip(*rows, strict=True)]))
            values[group].append(float(np.mean(means)))
    sizes = [group.size for group in found.groups]
    return float(np.average([np.mean(values[group]) for group in found.groups], weights=sizes))


def correlation(a: Any, b: Any) -> float:
    return 0.0 if np.ptp(a) == 0 or np.ptp(b) == 0 else float(np.corrcoef(a, b)[0, 1])


def test_weights_beyond_every_product_are_refused() -> None:
    found, fixed = made(Residual)
    huge = {name: tensor.double() * 1e200 for name, tensor in fixed.items()}
    with pytest.raises(InputError, match="beyond every float"):
        match.by_weights(found, huge, huge)


def test_activations_that_are_not_finite_are_refused() -> None:
    model, traced, found, batches = act(Residual, 1)
    state = dict(model.state_dict())
    broken = {**state, "first.bias": torch.full_like(state["first.bias"], torch.inf)}
    with pytest.raises(InputError, match=r"the activations of '.*' are not finite"):
        activity.by_activations(found, traced, state, broken, lambda: batches)
