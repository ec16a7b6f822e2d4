"""Networks of libraries, some steps trained, against plain loops in float64: no figure may depend on how it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modeconn_cli.engine import keyed, training
from modeconn_cli.engine.datasets import Samples
from modeconn_cli.engine.datasets.samples import spans
from modeconn_cli.engine.datasets.transforms import Transform
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.networks import graph as graphs
from modeconn_cli.engine.networks import models, weights
from modeconn_cli.engine.networks.activations.observe import observer
from modeconn_cli.engine.networks.graph import trace
from modeconn_cli.engine.networks.models import Architecture
from modeconn_cli.engine.paths.path import WeightPath
from modeconn_cli.engine.paths.statistics import NetworkOnPath, StatisticsPolicy
from modeconn_cli.engine.samples.per_sample import PerSample
from modeconn_cli.engine.samples.per_sample.curvature import directions, measure
from modeconn_cli.engine.samples.per_sample.execution import Execution
from modeconn_cli.engine.symmetry import find, permute
from truth import plain
from truth.networks import QUICK, WIDE, Network

CLASSES, SAMPLES, TRAINED, BATCH, STEPS = 5, 3, 8, 3, 3
EXACT = {"rtol": 1e-6, "atol": 1e-12}


@dataclass
class Made:
    """A network trained from two seeds, its weights in float64, and data."""

    network: Network
    states: tuple[dict[str, Tensor], dict[str, Tensor]]
    images: Tensor
    labels: Tensor
    traced: dict[torch.dtype, graphs.Graph] = field(default_factory=dict)

    def by_mcx(self, seed: int = 0) -> nn.Module:
        """As mcx makes it, in float64, with the weights of a seed."""
        model = models.build(
            Architecture(self.network.model, CLASSES, self.network.shape, self.network.args)
        ).double()
        plain.load(model, self.states[seed])
        return model.eval()

    def plain(self, seed: int = 0) -> nn.Module:
        """As its library makes it; what it keeps in eval mode it forgets before every forward."""
        model = self.network.plain(CLASSES).double()
        plain.load(model, self.states[seed])
        model.register_forward_pre_hook(lambda model, _: model.train().eval() and None)
        return model.eval()

    def trace(self, model: nn.Module, shape: tuple[int, ...]) -> graphs.Graph:
        """What a model is traced to: no weight is in it, so that one serves all of a type."""
        kind = next(model.parameters()).dtype
        if kind not in self.traced:
            self.traced[kind] = trace(model, shape)
        return self.traced[kind]

    @property
    def some(self) -> tuple[Tensor, Tensor]:
        """The samples that are scored."""
        return self.images[:SAMPLES], self.labels[:SAMPLES]


def make(network: Network) -> Made:
    draw = torch.Generator().manual_seed(3)
    images = torch.randn(TRAINED, *network.shape, generator=draw)
    labels = torch.randint(CLASSES, (TRAINED,), generator=draw)
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = network.plain(CLASSES)
        plain.randomise(model, seed)
        plain.train(model, images, labels, STEPS)
        states.append(
            {k: v.double() if v.is_floating_point() else v for k, v in weights.snapshot(model).items()}
        )
    return Made(network, (states[0], states[1]), images.double(), labels)


def _rows() -> Iterator[object]:
    """All tests of a network one after the other, so that it is made once."""
    for table, marks in ((QUICK, [pytest.mark.slow]), (WIDE, [pytest.mark.slow, pytest.mark.truth])):
        for name, network in table.items():
            yield pytest.param(network, id=name, marks=marks)


@pytest.fixture(scope="module", params=_rows())
def made(request: pytest.FixtureRequest) -> Made:
    return make(request.param)


@pytest.fixture(autouse=True)
def _traced_once(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "trace", made.trace)


def test_scores(made: Made) -> None:
    """In float64 exactly, and in float32 as close as a plain loop in float32 is."""
    images, labels = made.some
    notes = list[str]()
    found = PerSample(made.by_mcx(), made.network.shape, "param", note=notes.append).score(images, labels)
    losses, norms = plain.scores(made.plain(), images, labels)
    assert found.squares is not None
    torch.testing.assert_close(found.losses, losses, **EXACT)
    torch.testing.assert_close(found.squares.sqrt(), norms, **EXACT)
    made.network.check("scores", notes)
    single = PerSample(made.by_mcx().float(), made.network.shape, "param").score(images.float(), labels)
    rounded = plain.scores(made.plain().float(), images.float(), labels)
    assert single.squares is not None
    for name, one, other, exact in zip(
        ("losses", "norms"), (single.losses, single.squares.sqrt()), rounded, (losses, norms), strict=True
    ):
        off, allowed = ((each / exact - 1).abs().max() for each in (one, other))
        assert off <= 10 * allowed + 1e-4, (name, float(off), float(allowed))


def _curvature(made: Made, method: str) -> None:
    images, labels = made.some
    ids, h, notes = torch.tensor([5, 0, 900])[:SAMPLES], 1e-3, list[str]()
    execution = Execution(made.by_mcx(), made.network.shape, notes.append)
    how = {"h": h, "draws": 2, "temperature": 1.0, "seed": 4, "method": method}
    found = measure(execution, images, labels, ids, **how)
    drawn = [directions(4, ids, k, images.shape) for k in (0, 1)]
    norms, along = plain.curvature(made.plain(), images, labels, drawn, h, exact=method == "hvp")
    scale = norms.max()
    torch.testing.assert_close(found.curvature, norms, rtol=1e-5, atol=float(1e-9 * scale))
    torch.testing.assert_close(
        found.directional_eig, along, rtol=1e-5, atol=float(1e-8 * h * scale * images[0].numel() ** 0.5)
    )
    made.network.check("curvature", notes)


def test_curvature_by_differences(made: Made) -> None:
    _curvature(made, "fd")


def test_curvature_by_products(made: Made) -> None:
    if made.network.no_product:
        with pytest.raises(SettingsError, match="needs second derivatives"):
            _curvature(made, "hvp")
        return
    _curvature(made, "hvp")


@pytest.mark.parametrize("eps", [1e-6, 0.3])
def test_dormant(made: Made, eps: float) -> None:
    """At the documented threshold, and at one that some units of smooth nonlinearities stay below."""
    images, _ = made.some
    notes = list[str]()
    observe = observer(made.by_mcx(), images[:2], eps=eps, note=notes.append)
    found = observe(images)
    units, pre, units_post, post = plain.dormant(made.plain(), images, eps)
    for kind, expected, share, own in (
        ("pre", units, pre, found.pre),
        ("post", units_post, post, found.post),
    ):
        if kind == "pre" or made.network.post:
            layers = [layer for layer in observe.layers if layer.kind == kind]
            assert [layer.units for layer in layers] == expected, [layer.name for layer in layers]
            if expected:
                torch.testing.assert_close(own, share)
    made.network.check("dormant", notes)


def test_line(made: Made) -> None:
    """Losses with recomputed statistics, and at each end with its own; in float32, as data always are."""
    samples = Samples(made.images.float(), made.labels, torch.arange(TRAINED), Transform("none"))
    model = made.by_mcx().float()
    path = WeightPath.through("line", [weights.parameters_of(model, state) for state in made.states], model)
    buffers = [weights.buffers_of(model, state) for state in made.states]
    moved = NetworkOnPath(model, path, buffers, StatisticsPolicy("recompute", BATCH, 1), samples)
    order = keyed.permutation(1, "statistics", TRAINED)
    batches = [order[begin:end] for begin, end in spans(TRAINED, BATCH, merge_single=True)]
    found, plainly = list[float](), list[tuple[float, float]]()
    for t in (1.0, 0.5, 0.0):
        moved.move_to(t)
        found.append(training.evaluate(moved.model, samples, 5).loss)
        plainly.append(
            _mean_losses(made, lambda network, x, t=t: plain.line(network, made.states, t, x, batches))
        )
    for end in (1, 0):
        moved.move_to_end(end)
        found.append(training.evaluate(moved.model, samples, 5).loss)
        plainly.append(
            _mean_losses(made, lambda network, _, end=end: plain.load(network, made.states[end]).eval())
        )
    exact, rounded = np.array(plainly).T
    assert np.abs(found - exact).max() <= 10 * np.abs(rounded - exact).max() + 1e-5 * exact.max()


def _mean_losses(made: Made, put: Callable[[nn.Module, Tensor], nn.Module]) -> tuple[float, float]:
    """The mean loss of a network that `put` gives its weights, in float64 and in float32."""
    kinds = (torch.float64, torch.float32)
    models = [put(made.network.plain(CLASSES).to(kind), made.images.to(kind)) for kind in kinds]
    pairs = zip(models, kinds, strict=True)
    double, single = (plain.mean_loss(model, made.images.to(kind), made.labels) for model, kind in pairs)
    return double, single


def test_swap(made: Made) -> None:
    images, _ = made.some
    symmetry = find(made.trace(made.by_mcx(), made.network.shape))
    draw = np.random.default_rng(0)
    orders = {group: draw.permutation(group.size).tolist() for group in symmetry.groups}
    changed = permute(made.states[0], orders)
    assert changed.keys() == made.states[0].keys()
    for name, tensor in made.states[0].items():
        assert torch.equal(changed[name].flatten().sort().values, tensor.flatten().sort().values), name
    assert any(not torch.equal(changed[name], tensor) for name, tensor in made.states[0].items())
    one, other = made.plain(), made.plain()
    plain.load(other, changed)
    with torch.no_grad():
        before, after = one(images), other(images)
    assert (after - before).abs().max() <= 1e-9 * before.abs().max()
    assert made.network.groups in (None, len(symmetry.groups))
