"""Swaps against closed forms: distances, momentum, and the verdict of the verification."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modeconn_cli.engine import symmetry
from modeconn_cli.engine.commands import swap
from modeconn_cli.engine.errors import AnswerIsNo
from modeconn_cli.engine.machine.runtime import Runtime, Silent
from modeconn_cli.engine.networks import checkpoints, distances, graph, models, weights
from modeconn_cli.engine.settings.shared import ModelSettings
from modeconn_cli.engine.settings.swap import SwapSettings
from modeconn_cli.engine.symmetry import Symmetry
from modeconn_cli.engine.symmetry import choose as units

Case = tuple[nn.Module, Symmetry, swap.Choice]

# Layer -> what its units are read by, and how many columns of that each unit has.
CONSUMERS = {"conv1": ("conv2", 1), "conv2": ("conv3", 1), "conv3": ("fc1", 4), "fc1": ("output", 1)}
LAYERS = list(CONSUMERS)


def built(**arguments: Any) -> nn.Module:
    words = tuple(f"{key}={value}" for key, value in {"width": 4, **arguments}.items())
    settings = ModelSettings(model="cnn", num_classes=10, model_arg=words)
    model = models.build(models.architecture(settings, input_shape=(1, 8, 8)), seed=3)
    generator = torch.Generator().manual_seed(5)
    for name, tensor in model.state_dict().items():
        if "running" in name or "norm" in name:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model


@pytest.fixture(scope="module", params=["none", "batch"])
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, Symmetry]:
    model = built(norm=f"'{request.param}'")
    return model, symmetry.find(graph.trace(model, (1, 8, 8)))


def chosen(found: Symmetry, layer: str, pairs: list[units.Pair]) -> swap.Choice:
    group = symmetry.group_of(found, layer)
    orders = {group: units.order_of_pairs(group, pairs)}
    return swap.Choice("pairs", layer, None, group.size, pairs, orders)


def row(state: Mapping[str, Tensor], layer: str, unit: int) -> Tensor:
    """Everything that makes a unit: weights, bias, and scale and shift of its normalisation."""
    names = [f"{layer}.weight", f"{layer}.bias"]
    names += [name for name in (f"norm{layer[-1]}.weight", f"norm{layer[-1]}.bias") if name in state]
    if layer == "fc1":
        names = names[:2]
    return torch.cat([state[name][unit].reshape(-1) for name in names]).double()


def column(state: Mapping[str, Tensor], layer: str, unit: int) -> Tensor:
    """Everything that reads a unit."""
    consumer, width = CONSUMERS[layer]
    return state[f"{consumer}.weight"][:, unit * width : (unit + 1) * width].reshape(-1).double()


@pytest.mark.parametrize("layer", LAYERS)
def test_the_distance_of_a_swap_has_a_closed_form(network: tuple[nn.Module, Symmetry], layer: str) -> None:
    model, found = network
    state = model.state_dict()
    pairs = [(0, 3), (2, 1)]
    swapped = symmetry.permute(state, chosen(found, layer, pairs).orders)
    squared = sum(
        2 * float((part(state, layer, i) - part(state, layer, j)).square().sum())
        for i, j in pairs
        for part in (row, column)
    )
    distance = distances.l2(weights.parameters_of(model, state), weights.parameters_of(model, swapped))
    assert math.isclose(distance.total_l2**2, squared, rel_tol=1e-12)
    assert distance.total_l2 > 0


@pytest.mark.parametrize("layer", LAYERS)
def test_units_change_places_and_no_other_element_moves(
    network: tuple[nn.Module, Symmetry], layer: str
) -> None:
    model, found = network
    state = model.state_dict()
    swapped = symmetry.permute(state, chosen(found, layer, [(0, 3)]).orders)
    for i, j in ((0, 3), (3, 0), (1, 1), (2, 2)):
        assert torch.equal(row(swapped, layer, i), row(state, layer, j))
        assert torch.equal(column(swapped, layer, i), column(state, layer, j))
    others = [name for name in state if not name.startswith((layer, CONSUMERS[layer][0], f"norm{layer[-1]}"))]
    assert all(torch.equal(swapped[name], state[name]) for name in others)


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state after two steps on random images."""
    generator = torch.Generator().manual_seed(0)
    kind = next(model.parameters()).dtype
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.rand(16, 1, 8, 8, generator=generator, dtype=kind)).square().mean().backward()
        optimizer.step()
    return copy.deepcopy(optimizer.state_dict())


@pytest.mark.parametrize(
    ("kind", "keys"),
    [("sgd", ["momentum_buffer"]), ("adam", ["exp_avg", "exp_avg_sq"])],
)
def test_momentum_is_permuted_like_its_parameter(kind: str, keys: list[str]) -> None:
    model = built()
    parameters = model.parameters()
    optimizer = (
        torch.optim.SGD(parameters, lr=0.1, momentum=0.9) if kind == "sgd" else torch.optim.Adam(parameters)
    )
    state = stepped(model, optimizer)
    found = symmetry.find(graph.trace(model, (1, 8, 8)))
    choice = chosen(found, "conv2", [(1, 6)])
    moved = symmetry.optimizer.moved(state, model, choice.orders, Runtime())
    assert moved is not None
    names = [name for name, _ in model.named_parameters()]
    for key in keys:
        named = {name: state["state"][k][key] for k, name in enumerate(names)}
        expected = symmetry.permute(named, choice.orders)
        assert all(torch.equal(moved["state"][k][key], expected[name]) for k, name in enumerate(names))
        assert not torch.equal(moved["state"][2][key], state["state"][2][key])
    assert moved["param_groups"] == state["param_groups"]


Groups = list[list[str]]


def in_groups(model: nn.Module, how: str) -> Groups:
    """The names of parameters, group by group, as trainers sort them."""
    named = dict(model.named_parameters())
    flat = [name for name, p in named.items() if p.ndim <= 1]
    norms = [name for name in named if name.startswith("norm")]
    last = [name for name in named if name.startswith("output")]

    def others(part: list[str]) -> list[str]:
        return [name for name in named if name not in part]

    return {
        "one": [list(named)],
        "no decay of vectors": [others(flat), flat],
        "no decay of vectors, first": [flat, others(flat)],
        "no decay of norms": [others(norms), norms],
        "another rate of the head": [others(last), last],
        "three": [others(flat), [name for name in flat if name not in norms], norms],
        "frozen": [others(["conv1.weight", "conv1.bias"])],
        "some alone": [others(["conv1.weight", "conv1.bias"])],
    }[how]


def optimizer_of(network: nn.Module, kind: str, groups: Groups) -> torch.optim.Optimizer:
    parameters = [{"params": [network.get_parameter(name) for name in group]} for group in groups]
    if kind == "adam":
        return torch.optim.Adam(parameters, lr=1e-2, eps=1e-3)
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


@pytest.mark.parametrize("how", ["one", "no decay of vectors", "no decay of vectors, first", "no decay of norms",
                                 "another rate of the head", "three", "frozen", "some alone"])  # fmt: skip
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_swapped_network_and_its_optimizer_go_on_as_the_original(kind: str, how: str) -> None:
    """Steps after the swap are the swap of those steps, but for the order of sums; with any groups of parameters."""
    model, other = built(norm="'batch'").double(), built(norm="'batch'").double()
    groups = in_groups(model, how)
    for network in (model, other):
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(how == "some alone" or any(name in group for group in groups))
    optimizer = optimizer_of(model, kind, groups)
    before = stepped(model, optimizer)
    found = symmetry.find(graph.trace(model, (1, 8, 8)))
    choice = chosen(found, "conv3", [(0, 7), (1, 4)])
    other.load_state_dict(symmetry.permute(model.state_dict(), choice.orders))
    follower = optimizer_of(other, kind, groups)
    follower.load_state_dict(symmetry.optimizer.permuted(before, model, choice.orders))
    stepped(model, optimizer)
    stepped(other, follower)
    expected = symmetry.permute(model.state_dict(), choice.orders)
    for name, tensor in other.state_dict().items():
        assert torch.allclose(tensor, expected[name], rtol=1e-9, atol=1e-12), name


def twins() -> nn.Module:
    """Two hidden layers of one shape, the second of which is read by three outputs."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def moments_of(groups: list[list[int]], **more: Any) -> dict[str, Any]:
    """An optimizer's state that says in its values which parameter it belongs to."""
    tensors = [p.detach().clone() for p in twins().parameters()]
    order = [k for group in groups for k in group]
    numbers = iter(range(len(order)))
    described = [{"params": [next(numbers) for _ in group]} for group in groups]
    return {
        "state": {index: {"momentum_buffer": tensors[k]} for index, k in enumerate(order)},
        "param_groups": [
            {**group, **{key: value[k] for key, value in more.items()}} for k, group in enumerate(described)
        ],
    }


def test_what_shapes_do_not_tell_apart_is_left_out_where_it_makes_a_difference() -> None:
    model, shape = twins(), (6,)
    found = symmetry.find(graph.trace(model, shape))
    groups = [[2, 3], [0, 1, 4, 5]]  # the second layer alone, as for another learning rate
    orders = {symmetry.group_of(found, "0"): [3, 1, 2, 0, 4, 5]}
    with pytest.raises(symmetry.optimizer.Doubt, match="do not tell 0"):
        symmetry.optimizer.permuted(moments_of(groups), model, orders)
    names = [[list(dict(model.named_parameters()))[k] for k in group] for group in groups]
    moved = symmetry.optimizer.permuted(moments_of(groups, param_names=names), model, orders)
    expected = symmetry.permute({n: p.detach() for n, p in model.named_parameters()}, orders)
    for index, name in enumerate(name for group in names for name in group):
        assert torch.equal(moved["state"][index]["momentum_buffer"], expected[name])


def test_groups_that_move_alike_need_not_be_told_apart() -> None:
    """Bias, scale and shift of one layer have one shape, and are permuted alike."""
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double()
    parameters = dict(model.named_parameters())
    groups = [["0.weight", "0.bias", "3.weight", "3.bias"], ["1.weight", "1.bias"]]
    optimizer = optimizer_of(model, "sgd", groups)
    model(torch.randn(9, 4, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    orders = {symmetry.group_of(symmetry.find(graph.trace(model, (4,))), "0"): [5, 4, 3, 2, 1, 0]}
    state = optimizer.state_dict()
    moved = symmetry.optimizer.permuted(state, model, orders)["state"]
    names = [name for group in groups for name in group]
    expected = symmetry.permute({n: parameters[n].grad for n in names}, orders)  # the first step's momentum
    assert all(torch.equal(moved[k]["momentum_buffer"], expected[name]) for k, name in enumerate(names))


@pytest.mark.parametrize(
    "state", [{}, {"state": {}, "param_groups": [{"params": [0]}]}, {"state": 5}, {"lr": 1}]
)
def test_a_state_of_other_parameters_is_left_out_with_a_note(
    network: tuple[nn.Module, Symmetry], state: dict[str, Any]
) -> None:
    heard: list[str] = []

    class Heard(Silent):
        def note(self, text: str, level: str = "note") -> None:
            heard.append(text)

    model, found = network
    choice = chosen(found, "conv1", [(0, 1)])
    assert symmetry.optimizer.moved(state, model, choice.orders, Runtime(listener=Heard())) is None
    assert len(heard) == 1
    assert heard[0].startswith("the optimizer's state is left out: ")


# Verification ---------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path, network: tuple[nn.Module, Symmetry]) -> SwapSettings:
    """Settings of a swap of the network, saved to a file that does not say what it is."""
    model, _ = network
    with (tmp_path / "a.pt").open("wb") as stream:
        torch.save({"model_state": model.state_dict()}, stream)
    words = ("width=4", f"norm='{'batch' if 'norm1.weight' in model.state_dict() else 'none'}'")
    return SwapSettings(
        checkpoint=tmp_path / "a.pt",
        output=tmp_path / "out/b.pt",
        model="cnn",
        num_classes=10,
        model_arg=words,
        device="cpu",
    )


def test_outputs_agree_in_float64_and_bits_come_back(saved: SwapSettings) -> None:
    assert saved.output is not None
    result = swap.run(saved, Runtime())
    assert result is not None
    assert (result.verification.level, result.verification.is_equivalent) == ("quick", True)
    found = result.verification
    assert found.max_output_diff is not None
    assert found.max_output_diff_float64 is not None
    assert found.max_output_diff_float64 < 1e-12 < found.max_output_diff < 1e-4
    back = replace(saved, checkpoint=saved.output, output=saved.output.with_name("c.pt"))
    pairs = tuple(f"{i}:{j}" for i, j in result.neuron_pairs)
    swap.run(replace(back, pairs=pairs), Runtime())
    first, last = (
        checkpoints.read(path).state for path in (saved.checkpoint, saved.output.with_name("c.pt")) if path
    )
    assert all(torch.equal(first[name], last[name]) for name in first)


@pytest.mark.parametrize("forgotten", ["conv3.weight", "fc1.weight"])
def test_c2_a_forgotten_tensor_fails_the_check_and_nothing_is_written(
    saved: SwapSettings, monkeypatch: pytest.MonkeyPatch, forgotten: str
) -> None:
    permute = symmetry.permute
    monkeypatch.setattr(
        symmetry, "permute", lambda state, *rest: {**permute(state, *rest), forgotten: state[forgotten]}
    )
    with pytest.raises(AnswerIsNo) as caught:
        swap.run(saved, Runtime())
    assert caught.value.exit_code == 4
    difference = caught.value.result.verification.max_output_diff
    assert difference > 1e-6
    assert f"outputs differ by up to {difference:.3g}; nothing was written" in caught.value.message
    assert saved.output is not None
    assert not saved.output.parent.exists()


@pytest.mark.parametrize("network", ["batch"], indirect=True)
def test_c2_statistics_that_stay_behind_fail_the_check(
    saved: SwapSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    permute = symmetry.permute

    def forgetful(state: Mapping[str, Tensor], *rest: Any) -> dict[str, Tensor]:
        return permute(state, *rest) | {name: state[name] for name in state if "running" in name}

    monkeypatch.setattr(symmetry, "permute", forgetful)
    with pytest.raises(AnswerIsNo):
        swap.run(saved, Runtime())


def test_without_verification_the_same_mistake_is_written_with_a_warning(
    saved: SwapSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[str, str]] = []

    class Heard(Silent):
        def note(self, text: str, level: str = "note") -> None:
            heard.append((level, text))

    permute = symmetry.permute
    monkeypatch.setattr(
        symmetry, "permute", lambda s, *rest: {**permute(s, *rest), "fc1.weight": s["fc1.weight"]}
    )
    result = swap.run(replace(saved, verify=False), Runtime(listener=Heard()))
    assert result is not None
    assert (result.verification.level, result.verification.is_equivalent) == ("none", None)
    assert ("warning", "not verified (--no-verify)") in heard


class Keeps(nn.Module):
    """Keeps what it has computed of its weights while it is in eval mode, as networks with attention biases do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.kept = nn.Linear(8, 6), nn.Linear(6, 4), dict[str, Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_exporting() and not self.training:
            self.kept.setdefault("first", self.first.weight * 2)
        return self.last(
            torch.relu(x.flatten(1) @ self.kept.get("first", self.first.weight * 2).T + self.first.bias)
        )


def test_a_network_that_keeps_products_of_its_weights_is_compared_with_a_fresh_one() -> None:
    model = Keeps().eval()
    state = model.state_dict()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    swapped = {
        "first.weight": state["first.weight"][order],
        "first.bias": state["first.bias"][order],
        "last.weight": state["last.weight"][:, order],
        "last.bias": state["last.bias"],
    }
    inputs = symmetry.random_inputs((1, 2, 4), 0)
    assert symmetry.output_difference(model, state, swapped, inputs).is_rounding
    swapped["last.weight"] = state["last.weight"]
    assert not symmetry.output_difference(model, state, swapped, inputs).is_rounding
