"""Networks that keep what they computed, under other weights than they computed it from."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeconn_cli.engine.datasets import Samples
from modeconn_cli.engine.datasets.transforms import Transform
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import graph
from modeconn_cli.engine.networks.untouched import untouched_copy, watch
from modeconn_cli.engine.samples.per_sample import fallback
from modeconn_cli.engine.samples.per_sample.execution import Execution
from modeconn_cli.engine.samples.per_sample.gradients import CrossEntropy
from modeconn_cli.engine.symmetry.proof import output_difference
from modeconn_cli.engine.training import recompute_statistics


class Scaled(nn.Module):
    """A network whose hidden units are scaled by something that is computed from a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.f = nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.g = nn.Parameter(torch.randn(8))

    def gain(self, x: Tensor) -> Tensor:
        return self.g.exp()

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.norm(F.relu(self.a(x.flatten(1))) * self.gain(x)))


class OfDevice(Scaled):
    """Keeps it by device, as LeViT keeps its attention biases."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Tensor] = {}

    def gain(self, x: Tensor) -> Tensor:
        if not self.training and str(x.device) not in self.kept:
            self.kept[str(x.device)] = super().gain(x)
        return super().gain(x) if self.training else self.kept[str(x.device)]


class OnEntering(Scaled):
    """Computes it when it enters eval mode, as EfficientViT and TinyViT do."""

    def train(self, mode: bool = True) -> OnEntering:
        super().train(mode)
        if mode:
            vars(self).pop("kept", None)
        else:
            self.kept = self.g.detach().exp()
        return self

    def gain(self, x: Tensor) -> Tensor:
        return super().gain(x) if self.training else self.kept


class InABuffer(Scaled):
    """Keeps it in a buffer that is not saved, as EfficientFormer does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(8), persistent=False)
        self.filled = False

    def gain(self, x: Tensor) -> Tensor:
        if self.training:
            return super().gain(x)
        if not self.filled:
            self.kept: Tensor = super().gain(x).detach()
            self.filled = True
        return self.kept


class Holder:
    """A helper that is no module."""

    def __init__(self) -> None:
        self.value: Tensor | None = None


class InAHelper(Scaled):
    """Keeps it in a helper of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = Holder()

    def gain(self, x: Tensor) -> Tensor:
        if self.training:
            return super().gain(x)
        if self.kept.value is None:
            self.kept.value = super().gain(x).detach()
        return self.kept.value


class WrittenInAList(Scaled):
    """Writes it into a tensor of a helper in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = [Holder()]
        self.kept[0].value = torch.zeros(8)

    def gain(self, x: Tensor) -> Tensor:
        value = self.kept[0].value
        assert value is not None
        if not self.training and len(self.kept) == 1:
            self.kept.append(Holder())
            value.copy_(super().gain(x).detach())
        return super().gain(x) if self.training else value


class AHelperOnEntering(InAHelper):
    """Keeps it in a helper when it enters eval mode."""

    def train(self, mode: bool = True) -> AHelperOnEntering:
        super().train(mode)
        self.kept.value = None if mode else self.g.detach().exp()
        return self


class ByVersion(Scaled):
    """Computes it anew when the parameter was written into; put in as a point of a path it was not."""

    kept: tuple[int, Tensor] | None = None

    def gain(self, x: Tensor) -> Tensor:
        if self.training:
            return super().gain(x)
        if self.kept is None or self.kept[0] != self.g._version:
            self.kept = self.g._version, super().gain(x).detach()
        return self.kept[1]


class Inside(nn.Module):
    """Two that keep something, one inside the other's list."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([OfDevice(), OnEntering()])

    def forward(self, x: Tensor) -> Tensor:
        return self.parts[0](x) + self.parts[1](x)


REMEMBERING = [
    OfDevice,
    OnEntering,
    InABuffer,
    Inside,
    InAHelper,
    WrittenInAList,
    AHelperOnEntering,
    ByVersion,
]
IMAGES = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))


def made(kind: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network of its own, with statistics of its own."""
    torch.manual_seed(seed)
    model = kind()
    for _ in range(3):
        model(torch.randn(9, 3, 2, 2) * (seed + 1))
    return model


@pytest.fixture(params=REMEMBERING, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> Callable[[], nn.Module]:
    chosen: Callable[[], nn.Module] = request.param
    return chosen


def watched(kind: Callable[[], nn.Module], said: list[str]) -> nn.Module:
    model = kind()
    watch(model, said.append)
    return model


def test_m6_each_set_of_weights_meets_a_network_that_has_forgotten_the_others(
    kind: Callable[[], nn.Module],
) -> None:
    said: list[str] = []
    model = watched(kind, said).eval()
    for seed in (0, 1, 0):
        there = made(kind, seed)
        model.load_state_dict(there.state_dict())
        assert torch.equal(model(IMAGES), there.eval()(IMAGES))
    with torch.no_grad():  # as a point of a path is put in
        for parameter in model.parameters():
            parameter.data = parameter.data * 0.5
    fresh = kind()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(model(IMAGES), fresh.eval()(IMAGES))
    assert len(said) == 1
    assert "kept" in said[0] or "filled" in said[0]


def test_training_mode_is_left_alone(kind: Callable[[], nn.Module]) -> None:
    torch.manual_seed(2)
    plain = kind()
    model = copy.deepcopy(plain)
    watch(model)
    for each in (plain, model):
        optimizer = torch.optim.SGD(each.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            each.train()(IMAGES).square().sum().backward()
            optimizer.step()
            each.eval()
            if each is model:
                each(IMAGES)
    fresh = kind()
    fresh.load_state_dict(plain.state_dict())
    assert torch.equal(model(IMAGES), fresh.eval()(IMAGES))


def test_m6_statistics_are_recomputed_in_eval_mode(kind: Callable[[], nn.Module]) -> None:
    """Batch norms may be the only modules in training mode."""
    model = watched(kind, []).eval()
    model(IMAGES)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    for norm in norms:
        norm.train()
    model(IMAGES)
    assert all(int(norm.num_batches_tracked) == 1 for norm in norms)


def test_m6_what_reads_the_graph_sees_the_weights_of_the_moment(kind: Callable[[], nn.Module]) -> None:
    model = watched(kind, []).eval()
    model(IMAGES)  # under other weights, before it is traced
    execution = Execution(model, (3, 2, 2))
    for seed in (0, 1):
        there = made(kind, seed).eval()
        model.load_state_dict(there.state_dict())
        execution.refresh()
        torch.testing.assert_close(execution(IMAGES), there(IMAGES))
    assert execution.layout != "contiguous"
    assert "g" in {name.rpartition(".")[2] for name in graph.trace(model, (3, 2, 2)).tensors.values()}


def test_a_proof_compares_networks_that_have_forgotten(kind: Callable[[], nn.Module]) -> None:
    model = watched(kind, []).eval()
    one, other = (made(kind, seed) for seed in (0, 1))
    off, *_ = output_difference(model, one.state_dict(), other.state_dict(), IMAGES)
    fresh = [each.double().eval()(IMAGES.double()) for each in (one, other)]
    assert off == pytest.approx(float((fresh[0] - fresh[1]).detach().abs().max()), rel=1e-9)


class Recording(nn.Module):
    """Keeps what it has computed and never reads it, with its history."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Linear(12, 3)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.f(x.flatten(1))
        self.seen.append(self.last)
        return self.last


def normed() -> nn.Module:
    layers = nn.utils.weight_norm(nn.Linear(12, 8)), nn.utils.spectral_norm(nn.Linear(8, 3))
    return nn.Sequential(nn.Flatten(), layers[0], nn.ReLU(), layers[1])


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("kind", [Recording, normed], ids=["recording", "normed"])
def test_what_is_kept_and_not_read_again_is_not_spoken_of(kind: Callable[[], nn.Module]) -> None:
    said: list[str] = []
    model = watched(kind, said).eval()
    model(IMAGES)
    model(IMAGES)
    assert said == []
    alone = untouched_copy(model)
    assert torch.equal(alone(IMAGES), model(IMAGES))
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert not torch.equal(alone(IMAGES), model(IMAGES))


@pytest.mark.parametrize("kind", REMEMBERING)
def test_statistics_are_recomputed_also_in_the_first_forward_of_all(kind: Callable[[], nn.Module]) -> None:
    samples = Samples(IMAGES, torch.zeros(5, dtype=torch.int64), torch.arange(5), Transform("none"))
    model = watched(kind, [])
    recompute_statistics(model, samples, 3, 0)
    again = {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}
    recompute_statistics(model, samples, 3, 0)
    assert again
    assert all(torch.equal(again[name], buffer) for name, buffer in model.named_buffers() if name in again)


class Indifferent(OfDevice):
    """Keeps what its outputs do not depend on, as EfficientFormerV2 its biases where there is one position."""

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.norm(F.relu(self.a(x.flatten(1))) + 0 * self.gain(x)))


def test_gradients_of_one_sample_after_the_other_go_through_what_is_kept() -> None:
    said: list[str] = []
    model = watched(Indifferent, said).eval()
    loss, parameters = CrossEntropy(torch.zeros(5, dtype=torch.int64)), dict(model.named_parameters())
    alone = [found for _, _, found in fallback.one_by_one(model, parameters, IMAGES, loss)]
    assert said == []
    torch.testing.assert_close(model.kept["cpu"], model.g.exp())  # none of the weights that were tried
    F.cross_entropy(model(IMAGES), loss.labels, reduction="sum").backward()
    for name, parameter in parameters.items():
        torch.testing.assert_close(sum(found[name][0] for found in alone), parameter.grad)


class Cached(Scaled):
    """Keeps it in a cache of the standard library."""

    @functools.cache  # noqa: B019
    def kept(self, _device: str) -> Tensor:
        return self.g.detach().exp()

    def gain(self, x: Tensor) -> Tensor:
        return super().gain(x) if self.training else self.kept(str(x.device))


class Within(nn.Sequential):
    """One that does is a part of it."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(12, 12), Cached())


class InATable(Scaled):
    """Keeps it in a table of the process, by a key."""

    table: dict[object, Tensor]

    def key(self) -> object:
        return "g"

    def gain(self, x: Tensor) -> Tensor:
        if not self.training and self.key() not in self.table:
            self.table[self.key()] = super().gain(x).detach()
        return super().gain(x) if self.training else self.table[self.key()]


class ById(InATable):
    def key(self) -> object:
        return id(self)


class InAClosure(Scaled):
    def __init__(self) -> None:
        super().__init__()
        kept: list[Tensor] = []

        def once(g: Tensor) -> Tensor:
            if not kept:
                kept.append(g.detach().exp())
            return kept[0]

        self.once = once

    def gain(self, x: Tensor) -> Tensor:
        return super().gain(x) if self.training else self.once(self.g)


class InSlots(InAHelper):
    class Slots:
        __slots__ = ("value",)

    def __init__(self) -> None:
        super().__init__()
        self.kept = InSlots.Slots()  # type: ignore[assignment]
        self.kept.value = None


@pytest.mark.parametrize("traced", [False, True], ids=["run", "traced"])
@pytest.mark.parametrize("kind", [Cached, Within, InATable, ById, InAClosure, InSlots])
def test_m6_what_is_kept_where_nobody_can_take_it_back_is_refused(
    kind: type[nn.Module], *, traced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InATable, "table", {}, raising=False)
    model = watched(kind, []).eval()
    name = "Cached" if kind is Within else kind.__name__
    refused = pytest.raises(InputError, match=rf"^{name} keeps where .*from '(2\.)?g': under other weights")
    if traced:
        with refused:
            graph.trace(model, (3, 2, 2))
    for _ in range(2):
        with refused:
            model(IMAGES)
    with refused:
        copy.deepcopy(model)(IMAGES)


class Noisy(Scaled):
    """Random in eval mode, by every generator, one of its own among them."""

    def __init__(self) -> None:
        super().__init__()
        self.own = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.rand(len(x), 1) + random.random() + np.random.rand()  # noqa: NPY002
        return super().forward(x) * noise * torch.rand(1, generator=self.own)


class Counting(Scaled):
    """Counts its calls in a buffer and in a helper, and reads the first."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.helper = Holder()

    def forward(self, x: Tensor) -> Tensor:
        self.calls: Tensor
        self.calls += 1
        self.helper.value = torch.ones(2)
        return super().forward(x) * self.calls


class Tables(Scaled):
    """Keeps for the process what depends on no value of a parameter."""

    kept: dict[str, Tensor]

    def gain(self, x: Tensor) -> Tensor:
        if not self.kept:
            self.kept.update(a=torch.zeros_like(self.g), b=self.g.new_ones(len(self.g)))
        return super().gain(x) * self.kept["b"] + self.kept["a"]


class Unmade(nn.Module):
    """Layers that learn their sizes in the first forward, and a script."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.LazyLinear(8), torch.jit.script(nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x.flatten(1))))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("kind", [Scaled, Noisy, Counting, Tables, Unmade, normed])
def test_m6_asking_finds_nothing_elsewhere_and_leaves_no_trace(
    kind: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same outputs, draws and buffers as without it."""
    monkeypatch.setattr(Tables, "kept", {}, raising=False)
    found = []
    for watching in (False, True):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        said: list[str] = []
        model = watched(kind, said) if watching else kind()
        outputs = [model.eval()(IMAGES) for _ in range(2)]
        draws = torch.rand(1), torch.tensor([random.random(), np.random.rand()])  # noqa: NPY002
        found.append([*outputs, *draws, *model.state_dict().values()])
        assert said == []
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


class _Counting(nn.Module):
    """Keeps a counter and its last features, and has a parameter that eval mode does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(192, 8), nn.Linear(8, 4)
        self.mask_token, self.gate = nn.Parameter(torch.zeros(8)), nn.Parameter(torch.ones(1))
        self.calls, self.last = 0, torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        h = self.body(x.flatten(1)).relu()
        if float(self.gate.detach()) == 1:  # another branch under other weights
            h = h + self.mask_token
        self.last = h
        out: Tensor = self.head(h)
        return out


def test_a_parameter_that_only_some_weights_need_is_no_memory() -> None:
    torch.manual_seed(0)
    model, notes = _Counting(), list[str]()
    watch(model.eval(), notes.append)
    images = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        found = model(images)
        torch.testing.assert_close(found, _plain(model, images))
        model.gate.add_(1)
        torch.testing.assert_close(model(images), _plain(model, images))


def _plain(model: _Counting, images: Tensor) -> Tensor:
    h = (images.flatten(1) @ model.body.weight.T + model.body.bias).relu()
    h = h + model.mask_token if float(model.gate) == 1 else h
    return h @ model.head.weight.T + model.head.bias
