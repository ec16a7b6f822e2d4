"""REPAIR against means and standard deviations by hooks, in float64, and against the definition in plain code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeconn_cli.engine.datasets import Samples
from modeconn_cli.engine.datasets.transforms import Transform
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import weights
from modeconn_cli.engine.paths.path import Kind, WeightPath
from modeconn_cli.engine.paths.repair import Repair
from modeconn_cli.engine.paths.statistics import NetworkOnPath, StatisticsPolicy, StatisticsRepaired
from modeconn_cli.engine.symmetry.average import average

COUNT, BATCH = 90, 32
IMAGES = torch.randn(COUNT, 2, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(COUNT) % 5
SAMPLES = Samples(IMAGES, LABELS, torch.arange(COUNT), Transform("none"))
T = 0.3

State = dict[str, Tensor]


class Plain(nn.Module):
    """Without batch norm: a transposed convolution in groups, and a linear layer on several positions."""

    preactivations = ("conv", "up", "tokens", "late")

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.up = nn.ConvTranspose2d(4, 6, 2, groups=2)
        self.tokens = nn.Linear(25, 7)
        self.late = nn.Linear(42, 9)
        self.head = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.up(torch.tanh(self.conv(x)))).flatten(2)
        return self.head(F.relu(self.late(F.relu(self.tokens(x)).flatten(1))))


class Normed(nn.Module):
    """Batch norm behind convolutions, behind a sum, and without parameters; shifts that no parameter can hold."""

    preactivations = ("bn1", "stem", "inner", "bn2", "bn3", "bn4", "shortcut", "tied", "again")

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.stem = nn.Conv2d(4, 4, 1, bias=False)  # read by a batch norm, and by a sum
        self.bn2 = nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(4, affine=False)
        self.shortcut = nn.utils.parametrizations.weight_norm(nn.Linear(64, 8))
        self.tied, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
        self.other.weight = self.tied.weight
        self.again = nn.Linear(8, 8)  # whose weight is read elsewhere too
        self.before4, self.bn4 = nn.Linear(64, 8, bias=False), nn.BatchNorm1d(8, affine=False)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(F.relu(self.bn1(self.conv1(x))))
        x = self.bn3(x + self.inner(F.relu(self.bn2(x))))
        x = F.relu(x).flatten(1)
        x = F.relu(self.shortcut(x)) + F.relu(self.bn4(self.before4(x)))
        x = F.relu(self.again(F.relu(self.tied(x)) + self.other.weight.mean()))
        return self.head(x + self.again.weight.mean())


def trained(make: Callable[[], nn.Module], seed: int) -> State:
    """A few steps, so that running statistics are none of the initial ones, nor those of these weights."""
    torch.manual_seed(seed)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for rows in torch.arange(COUNT).split(18):
        optimizer.zero_grad()
        F.cross_entropy(model(IMAGES[rows]), LABELS[rows]).backward()
        optimizer.step()
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    if "bn1.weight" in state:  # of one sign at one end, of the other at the other, and of one at both
        state["bn1.weight"][1:3] *= torch.tensor([1.0 if seed else -1.0, -1.0])
    return state


def on_path(
    make: Callable[[], nn.Module],
    *states: Mapping[str, Tensor],
    kind: Kind = "line",
    samples: int | None = None,
) -> NetworkOnPath:
    model = make()
    path = WeightPath.through(kind, [weights.parameters_of(model, state) for state in states], model)
    ends = [weights.buffers_of(model, state) for state in (states[0], states[-1])]
    return NetworkOnPath(model, path, ends, StatisticsPolicy("repair", BATCH, 1, samples), SAMPLES)


@torch.no_grad()
def moments(model: nn.Module, names: tuple[str, ...]) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation of the outputs of these modules by channel: all images at once, in float64."""
    seen: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: seen.update({name: out})
        )
        for name in names
    ]
    model.eval()(IMAGES)
    for hook in hooks:
        hook.remove()
    found = {}
    for name, out in seen.items():
        axis = out.ndim - 1 if isinstance(model.get_submodule(name), nn.Linear) else 1
        rows = out.double().movedim(axis, 0).flatten(1)
        found[name] = rows.mean(1), rows.std(1, unbiased=False)
    return found


@pytest.mark.parametrize("kind", ["line", "bezier"])
@pytest.mark.parametrize("make", [Plain, Normed])
def test_means_and_deviations_lie_between_those_of_the_ends(
    make: type[Plain] | type[Normed], kind: Kind
) -> None:
    states = [trained(make, seed) for seed in range(2 if kind == "line" else 3)]
    path, names = on_path(make, *states, kind=kind), make.preactivations
    ends = []
    for state in (states[0], states[-1]):
        end = make()
        end.load_state_dict(state)
        ends.append(moments(end, names))
    path.move_to(T)
    found = moments(path.model, names)
    assert sorted(found) == sorted(names)
    for name in names:
        for k in (0, 1):
            wanted = (1 - T) * ends[0][name][k] + T * ends[1][name][k]
            torch.testing.assert_close(found[name][k], wanted, rtol=1e-5, atol=1e-5)
            assert not torch.allclose(ends[0][name][k], ends[1][name][k], atol=1e-3) or name in ("bn3", "bn4")
    used = path.statistics(path.constant)
    assert used == StatisticsRepaired("repair", COUNT, BATCH, 1, len(names), 0)


SHARES = (0.2, 0.5, 0.3)


def repaired_average(
    make: type[Plain] | type[Normed], states: list[State], shares: Sequence[float]
) -> nn.Module:
    """The average of networks, its layers repaired."""
    model = make()
    found = Repair(model, SAMPLES, BATCH, 1)
    for state in (*states, average(states, shares)):
        if len(found.members) < len(states):
            model.load_state_dict(state)
            found.take_member()
    model.load_state_dict(state)
    found.apply(shares)
    return model


@pytest.mark.parametrize("make", [Plain, Normed])
def test_means_and_deviations_of_an_average_are_the_weighted_means_of_its_members(
    make: type[Plain] | type[Normed],
) -> None:
    states, names, members = [trained(make, seed) for seed in range(3)], make.preactivations, []
    for state in states:
        member = make()
        member.load_state_dict(state)
        members.append(moments(member, names))
    plain = make()
    plain.load_state_dict(average(states, SHARES))
    before, found = moments(plain, names), moments(repaired_average(make, states, SHARES), names)
    for name in names:
        for k in (0, 1):
            wanted = sum(share * each[name][k] for share, each in zip(SHARES, members, strict=True))
            torch.testing.assert_close(found[name][k], wanted, rtol=1e-5, atol=1e-5)
    assert any(not torch.allclose(before[name][1], found[name][1], rtol=1e-2) for name in names)


@pytest.mark.parametrize("make", [Plain, Normed])
def test_an_average_of_two_is_the_network_on_their_line(make: type[Plain] | type[Normed]) -> None:
    states = [trained(make, seed) for seed in (0, 1)]
    path = on_path(make, *states)
    path.move_to(T)
    found = repaired_average(make, states, (1 - T, T)).eval()(IMAGES)
    torch.testing.assert_close(found, path.model.eval()(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [Plain, Normed])
def test_the_repaired_average_of_a_network_with_itself_is_that_network(
    make: type[Plain] | type[Normed],
) -> None:
    state = trained(make, 0)
    alone = make().eval()
    alone.load_state_dict(state)
    found = repaired_average(make, [state, state], (0.25, 0.75)).eval()(IMAGES)
    torch.testing.assert_close(found, alone(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [Plain, Normed])
def test_the_ends_are_their_own_files_bit_for_bit(make: type[nn.Module]) -> None:
    states = [trained(make, seed) for seed in (0, 1)]
    path = on_path(make, *states)
    for t in (0.0, 0.5, 1.0, 0.5, 0.0):  # also from the middle back
        path.move_to(t)
        if t != 0.5:
            plain = make().eval()
            plain.load_state_dict(states[int(t)])
            assert torch.equal(path.model.eval()(IMAGES), plain(IMAGES))


def test_a_network_is_repaired_as_the_definition_says() -> None:
    """Layer by layer on the repaired layers before it, in plain float64."""

    def make() -> nn.Sequential:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 5)
        )

    states = [{n: w.double() for n, w in trained(make, seed).items()} for seed in (0, 1)]
    x = [IMAGES.double().flatten(1)] * 3  # of both ends, and in between
    between = {n: (1 - T) * states[0][n] + T * states[1][n] for n in states[0]}
    for layer, act in ((1, torch.relu), (3, torch.tanh)):
        a, b, y = (
            h @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]
            for h, state in zip(x, (*states, between), strict=True)
        )
        mean, sd = (
            (1 - T) * of(a) + T * of(b) for of in (lambda z: z.mean(0), lambda z: z.std(0, unbiased=False))
        )
        y = (y - y.mean(0)) / y.std(0, unbiased=False) * sd + mean
        x = [act(a), act(b), act(y)]
    wanted = x[2] @ between["5.weight"].T + between["5.bias"]
    path = on_path(make, *[{n: w.float() for n, w in state.items()} for state in states])
    path.move_to(T)
    torch.testing.assert_close(path.model(IMAGES).double(), wanted, rtol=1e-4, atol=1e-5)


def test_a_constant_unit_is_only_shifted_and_counted() -> None:
    first = trained(Plain, 0)
    second = {name: tensor.clone() for name, tensor in trained(Plain, 1).items()}
    second["late.weight"][2] = -first["late.weight"][2]  # at ½ the unit's weights are 0, its bias is not
    path = on_path(Plain, first, second)
    path.move_to(0.5)
    assert path.constant == 1
    ends = []
    for end in (0, 1):
        path.move_to_end(end)
        assert path.constant == 0
        ends.append(moments(path.model, ("late",))["late"])
    path.move_to(0.5)
    mean, sd = moments(path.model, ("late",))["late"]
    torch.testing.assert_close(mean, 0.5 * (ends[0][0] + ends[1][0]), rtol=1e-5, atol=1e-5)
    wanted = 0.5 * (ends[0][1] + ends[1][1])
    wanted[2] = 0
    torch.testing.assert_close(sd, wanted, rtol=1e-5, atol=1e-5)


def test_rounding_is_not_scaled_up_to_what_a_unit_gave_at_the_ends() -> None:
    first = trained(Plain, 0)
    second = {name: tensor.clone() for name, tensor in trained(Plain, 1).items()}
    second["late.weight"][2] = 5e-5 - first["late.weight"][2]  # at ½ all weights are 2.5e-5
    first["late.bias"][2] = second["late.bias"][2] = 100
    path = on_path(Plain, first, second)
    path.move_to(0.5)
    assert path.constant == 1
    mean, sd = (each[2] for each in moments(path.model, ("late",))["late"])
    assert 0 < sd < torch.finfo(torch.float32).eps * mean  # the last digit flickers, as before it was shifted


def test_statistics_are_of_the_images_asked_for() -> None:
    states = [trained(Plain, seed) for seed in (0, 1)]
    found = []
    for samples in (40, None):
        path = on_path(Plain, *states, samples=samples)
        path.move_to(0.5)
        found.append(path.model(IMAGES))
        assert path.passes == (2 + 4) * (2 if samples else 3)  # two ends, four depths; batches of 32
    assert not torch.allclose(*found, atol=1e-4)


def test_layers_beside_each_other_are_measured_in_one_pass() -> None:
    states = [trained(Normed, seed) for seed in (0, 1)]
    path = on_path(Normed, *states)
    path.move_to(0.5)
    # bn1, stem, bn2, inner, bn3, (shortcut and bn4), tied, again
    assert path.passes == (2 + 8) * 3


def test_nothing_stays_in_the_network_when_the_path_is_closed() -> None:
    states = [trained(Normed, seed) for seed in (0, 1)]
    path = on_path(Normed, *states)

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in path.model.modules())

    assert hooks() == 0
    path.move_to(0.5)
    assert hooks() == 6  # stem, inner, bn3, shortcut, tied, again
    path.close()
    assert hooks() == 0


def test_layers_that_no_parameter_can_shift_are_named() -> None:
    path = on_path(Normed, *[trained(Normed, seed) for seed in (0, 1)])
    with pytest.raises(
        InputError, match=r"hold the shift of stem, inner, bn3, shortcut, tied and 1 more: no bias and no"
    ):
        path.check_written(0.5)
    path.check_written(1.0)
    on_path(Plain, *[trained(Plain, seed) for seed in (0, 1)]).check_written(0.5)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(72, 72), nn.Linear(72, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.first(F.relu(self.first(x.flatten(1))))))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(36, 2, batch_first=True), nn.Linear(72, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        return self.head(self.attention(x, x, x, need_weights=False)[0].flatten(1))


@pytest.mark.parametrize(
    ("make", "said"),
    [(Twice, "'first' is called more than once"), (Attending, r"'attention' \(MultiheadAttention\)")],
)
def test_layers_that_cannot_be_repaired_are_named(make: type[nn.Module], said: str) -> None:
    path = on_path(make, *[trained(make, seed) for seed in (0, 1)])
    path.move_to(0.0)  # an end is as its file holds it
    with pytest.raises(InputError, match=said):
        path.move_to(0.5)
