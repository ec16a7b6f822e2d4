"""`mcx lmc interpolate --by-layer`: layers that move alone or together, and the features on the line."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeconn_cli import api
from modeconn_cli.engine import datasets
from modeconn_cli.engine.commands.lmc.line import Line
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks.activations.features import features
from modeconn_cli.engine.paths import evaluate
from modeconn_cli.engine.paths.evaluate import evaluate_path
from modeconn_cli.engine.paths.opened import open_path
from modeconn_cli.engine.paths.partial import layers, partial, parts
from modeconn_cli.engine.paths.path import WeightPath
from modeconn_cli.engine.paths.statistics import NetworkOnPath, StatisticsPolicy
from modeconn_cli.engine.results import failpoints
from modeconn_cli.engine.settings.lmc import LmcInterpolateSettings
from modeconn_cli.engine.settings.shared import DataSettings

OWN = '''
import torch
from torch import nn

class Own(nn.Module):
    """A residual sum, batch norm, and a convolution that is called twice."""

    branches, times = False, 2

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6, affine=False)
        self.mix, self.relu, self.head = nn.Conv2d(6, 6, 1), nn.ReLU(True), nn.Linear(24, 10)

    def forward(self, x):
        if self.branches and x.sum() > 1e9:  # which export refuses
            return torch.zeros(len(x), 10)
        h = self.relu(self.norm1(self.conv1(x)))
        h = self.relu(h + self.norm2(self.conv2(h)))
        h = self.mix(h)
        for _ in range(self.times - 1):
            h = self.mix(self.relu(h))
        return self.head(nn.functional.avg_pool2d(h, 4).flatten(1))

class Branching(Own):
    branches = True

class Once(Own):
    times = 1

class Plain(nn.Sequential):
    """Its layers have no bias, nor a batch norm behind them, which could be shifted."""

    def __init__(self):
        first, second = nn.Linear(64, 12, bias=False), nn.Linear(12, 12, bias=False)
        super().__init__(nn.Flatten(), first, nn.ReLU(True), second, nn.ReLU(True), nn.Linear(12, 10))

class Shift(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("by", torch.randn(12))

    def forward(self, x):
        return x + self.by

class Buffers(nn.Sequential):
    """Keeps numbers that are no parameters and no statistics."""

    def __init__(self):
        super().__init__(
            nn.Flatten(),
            *(nn.Linear(64, 12), Shift(), nn.ReLU()),
            *(nn.Linear(12, 12), Shift(), nn.ReLU()),
            nn.Linear(12, 10),
        )

class Bare(nn.Module):
    """No module makes a layer, and export refuses it."""

    def __init__(self):
        super().__init__()
        self.scale, self.table = nn.Parameter(torch.ones(64)), nn.Parameter(torch.randn(64, 10))

    def forward(self, x):
        return x.flatten(1) @ self.table if x.sum() > 1e9 else (x.flatten(1) * self.scale) @ self.table
'''
MODEL = ("--model", "own_by_layer:Own")
FEW = ("--dataset", "digits", "--max-samples", "300")
SITES = [
    ("conv1", "pre"), ("relu", "post"), ("conv2", "pre"), ("relu#2", "post"), ("mix", "pre"), ("relu#3", "post"),
    ("mix#2", "pre"), ("head", "pre"),
]  # fmt: skip


@pytest.fixture(scope="module")
def own(made_once: Callable) -> Iterator[Path]:
    """Two trained networks that mcx does not know: seed0/ and seed1/ with checkpoint-8.pt."""
    from modeconn_cli.cli import app

    def train(folder: Path) -> None:
        folder.mkdir()
        (folder / "own_by_layer.py").write_text(OWN)
        patch.syspath_prepend(folder)
        words = ["train", "--model", MODEL[1], *FEW, "--seeds", "0,1", "--epochs", "8", "--lr", "0.1"]
        assert app.main([*words, "--batch-size", "16", "--output-dir", str(folder), "-q"]) == 0

    with pytest.MonkeyPatch.context() as patch:
        folder = made_once("own_by_layer", train)
        patch.syspath_prepend(folder)
        yield folder


def ends(folder: Path) -> list[Path]:
    return [folder / f"seed{seed}/checkpoint-8.pt" for seed in (0, 1)]


def by_layer(mcx: Callable, folder: Path, *words: str, model: tuple[str, ...] = MODEL) -> dict[str, Any]:
    done = mcx("lmc", "interpolate", *ends(folder), *model, "--by-layer", "--json", *words)
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def states(folder: Path) -> list[dict[str, Tensor]]:
    read = (torch.load(path, weights_only=True)["model_state"] for path in ends(folder))
    return [{name: tensor.double() for name, tensor in state.items()} for state in read]


def images() -> tuple[Tensor, Tensor]:
    """The held-out images as the networks were trained on them, and their labels."""
    data = datasets.load(DataSettings(dataset="digits", max_samples=300), torch.device("cpu"))
    (batch,) = data.held_out.batches(300)
    return batch.images.double(), batch.labels


def network(state: dict[str, Tensor]) -> nn.Module:
    model = importlib.import_module("own_by_layer").Own().double()
    model.load_state_dict(state)
    return model.eval()


def blend(
    a: dict[str, Tensor], b: dict[str, Tensor], alpha: float, moved: Any, rest: int
) -> dict[str, Tensor]:
    return {
        name: (1 - alpha) * a[name] + alpha * b[name]
        if name.rpartition(".")[0] in moved
        else (a, b)[rest][name]
        for name in a
    }


ORDER = ["conv1", "norm1", "conv2", "norm2", "mix", "head"]


def test_every_line_is_that_of_a_loop_in_plain_torch(mcx: Callable, own: Path) -> None:
    found = by_layer(mcx, own, "--num-alphas", "3", "--bn", "lerp")
    (a, b), (x, labels) = states(own), images()
    assert [(each["layer"], each["moves"], each["rest"]) for each in found["layers"]] == [
        (layer, moves, rest)
        for moves in ("alone", "up_to")
        for layer in ("conv1", "norm1", "conv2", "mix", "head")
        for rest in (0, 1)
    ]
    whole = np.array(found["losses_test"])
    alphas = np.array(found["alphas"])
    for each in found["layers"]:
        # norm2 has statistics and no parameters: they go with the layer before it.
        last = ORDER.index(each["layer"]) + (each["layer"] == "conv2")
        first = 0 if each["moves"] == "up_to" else ORDER.index(each["layer"])
        moved = ORDER[first : last + 1]
        for alpha, loss, wrong in zip(
            alphas, each["values"]["loss_test"], each["values"]["error_test"], strict=True
        ):
            with torch.no_grad():
                logits = network(blend(a, b, alpha, moved, each["rest"]))(x)
            assert loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
            assert wrong == pytest.approx(100 * float((logits.argmax(1) != labels).double().mean()), abs=1e-9)
        loss = np.array(each["values"]["loss_test"])
        gap = loss - ((1 - alphas) * whole[0] + alphas * whole[-1])
        own_gap = loss - ((1 - alphas) * loss[0] + alphas * loss[-1])
        np.testing.assert_allclose(each["gap"]["loss_test"], gap, rtol=0, atol=1e-12)
        np.testing.assert_allclose(each["gap_own"]["loss_test"], own_gap, rtol=0, atol=1e-12)
        assert each["max_gap"]["loss_test"] == pytest.approx(gap.max(), abs=1e-12)
        assert each["max_gap_own"]["loss_test"] == pytest.approx(own_gap.max(), abs=1e-12)
        assert gap[0 if each["rest"] == 0 else -1] == 0  # one end is a whole network
    hybrids = [each["gap"]["loss_test"][-1 if each["rest"] == 0 else 0] for each in found["layers"]]
    assert min(map(abs, hybrids[:-2])) > 1e-3  # the other is none, until everything moves
    assert hybrids[-2:] == [0, 0]


def test_what_one_line_leaves_in_buffers_is_not_in_the_next(mcx: Callable, own: Path, tmp_path: Path) -> None:
    kind = importlib.import_module("own_by_layer").Buffers
    torch.manual_seed(3)
    pair = [kind().state_dict() for _ in range(2)]
    paths = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for state, path in zip(pair, paths, strict=True):
        torch.save(state, path)
    words = ("--model", "own_by_layer:Buffers", *FEW, "--num-alphas", "3", "--by-layer", "--json")
    found = json.loads(mcx("lmc", "interpolate", *paths, *words).out)
    a, b = ({name: tensor.double() for name, tensor in state.items()} for state in pair)
    x, labels = images()
    model, modules = kind().double(), {"1": ["1", "2"], "4": ["4", "5"], "7": ["7"]}
    for each in found["layers"]:
        names = [each["layer"]] if each["moves"] == "alone" else [n for n in modules if n <= each["layer"]]
        moved = [name for layer in names for name in modules[layer]]
        for alpha, loss in zip(found["alphas"], each["values"]["loss_test"], strict=True):
            model.load_state_dict(blend(a, b, alpha, moved, each["rest"]))
            with torch.no_grad():
                assert loss == pytest.approx(float(F.cross_entropy(model(x), labels)), rel=1e-5), each[
                    "layer"
                ]


@pytest.mark.parametrize("policy", ["recompute", "keep", "lerp", "none", "repair"])
def test_where_all_layers_move_the_line_is_that_of_the_whole_network(own: Path, policy: Any) -> None:
    first, last = ends(own)
    network = "own_by_layer:Once" if policy == "repair" else MODEL[1]
    settings = LmcInterpolateSettings(
        endpoint0=first, endpoint1=last, model=network, bn=policy, max_samples=100
    )
    opened, runtime = open_path(settings, Runtime()), Runtime()
    every = [tensor for tensors in layers(opened.subject.model).values() for tensor in tensors]
    whole = evaluate_path(opened, [0.0, 0.5, 1.0], runtime, None)
    for rest in (0, 1):
        moved = evaluate_path(partial(opened, every, rest), [0.0, 0.5, 1.0], runtime, None)
        for definition, values in Line.measured(moved.measurements).barriers().items():
            assert values == pytest.approx(
                Line.measured(whole.measurements).barriers()[definition], abs=1e-12
            )
        none = evaluate_path(partial(opened, [], rest), [0.0, 1.0], runtime, None)
        there = asdict(whole.measurements[-rest])
        if policy != "repair":
            assert {asdict(each)["te_nll"] for each in none.measurements} == {there["te_nll"]}


@pytest.mark.parametrize("policy", ["recompute", "keep", "none", "repair"])
def test_every_policy_of_batch_norm_gives_lines_whose_whole_ends_are_the_networks(
    mcx: Callable, own: Path, policy: str
) -> None:
    words = ("--num-alphas", "3", "--bn", policy, "--layers", "conv2,mix", "--max-samples", "60")
    found = by_layer(mcx, own, *words, model=("--model", "own_by_layer:Once"))
    for each in found["layers"]:
        at = -each["rest"]
        assert each["values"]["loss_test"][at] == found["losses_test"][at]
        assert each["gap"]["loss_test"][at] == 0
        assert np.isfinite(each["values"]["loss_test"]).all()
    assert found["bn"]["policy"] == policy


def heard(model: nn.Module, x: Tensor) -> list[Tensor]:
    """What layers and nonlinearities give, by hooks, in the order of SITES."""
    out: list[Tensor] = []
    watched = {"conv1", "conv2", "mix", "head", "relu"}
    for name, module in model.named_children():
        if name in watched:
            module.register_forward_hook(lambda _m, _i, value: out.append(value.detach().flatten(1).clone()))
    model(x)
    return out


def expected(first: Tensor, last: Tensor, here: Tensor, alpha: float) -> tuple[float, float, float]:
    """Cosine, coefficient and baseline, by their definitions, a sample at a time."""
    rows = []
    for a0, a1, a in zip(first, last, here, strict=True):
        b = (1 - alpha) * a0 + alpha * a1
        cosine = F.cosine_similarity(a, b, dim=0, eps=0)
        rows.append([float(cosine), float(a @ b / (b @ b)), float(F.cosine_similarity(a0, a1, dim=0, eps=0))])
    return tuple(np.nanmean(np.array(rows), axis=0))


@pytest.mark.parametrize("name", ["Own", "Branching"])
def test_the_cosines_are_those_of_hooks_in_float64(mcx: Callable, own: Path, name: str) -> None:
    model = ("--model", f"own_by_layer:{name}")
    found = by_layer(mcx, own, "--num-alphas", "5", "--bn", "lerp", "--layers", "head", model=model)
    (a, b), (x, _) = states(own), images()
    sites = [(each["layer"], each["site"]) for each in found["features"]]
    # What cannot be traced is heard by hooks, which know no nonlinearities.
    assert sites == [each for each in SITES if name == "Own" or each[1] == "pre"]
    first, last = heard(network(a), x), heard(network(b), x)
    for k, alpha in enumerate(found["alphas"]):
        here = heard(network(blend(a, b, alpha, ORDER, 0)), x)
        for each in found["features"]:
            at = SITES.index((each["layer"], each["site"]))
            wanted = expected(first[at], last[at], here[at], alpha)
            got = each["cosine"][k], each["coefficient"][k], each["baseline"]
            assert got == pytest.approx(wanted, abs=2e-6)
            assert each["zero"][k] == 0
    least = min(min(each["cosine"]) for each in found["features"])
    assert least < 0.95  # two seeds are not connected by their features: the comparison means something


def test_features_are_those_of_the_repaired_network(own: Path) -> None:
    module = importlib.import_module("own_by_layer")
    torch.manual_seed(0)
    first, last = (module.Plain().eval() for _ in range(2))
    x, samples = images()[0].float(), datasets.load(DataSettings(dataset="digits"), torch.device("cpu")).fit
    path = WeightPath.through("line", [each.state_dict() for each in (first, last)], first)
    network = NetworkOnPath(first, path, ({}, {}), StatisticsPolicy("repair", 128, 0, 200), samples)
    seen = features(first, x[:2], lambda _: None)
    network.move_to(0.5)
    assert len(network.state.corrections) == 2
    repaired, plain = network.state, replace(network.state, corrections={})
    with torch.no_grad():
        expected = first(x)
    logits = [[value.clone() for value in values] for values in seen((repaired, plain), x)][-1]
    assert torch.allclose(logits[0], expected, atol=1e-5)
    assert not torch.allclose(logits[1], expected, atol=1e-2)
    network.move_to(1.0)
    assert not network.state.corrections


def test_a_network_of_which_nothing_is_seen_has_lines_and_no_features(
    mcx: Callable, own: Path, tmp_path: Path
) -> None:
    for number in (0, 1):
        torch.manual_seed(number)
        (tmp_path / f"seed{number}").mkdir()
        state = importlib.import_module("own_by_layer").Bare().state_dict()
        torch.save({"model_state": state}, tmp_path / f"seed{number}/checkpoint-8.pt")
    words = ("--model", "own_by_layer:Bare", *FEW, "--num-alphas", "3", "--by-layer")
    done = mcx("lmc", "interpolate", *ends(tmp_path), *words, "--dpi", "30", "--output-dir", tmp_path / "out")
    assert done.code == 0, done.err
    assert "features are left out: the network calls no convolution and no linear layer" in done.err
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {"", ".json", ".npz", ".png"}
    assert not (tmp_path / "out/line_features.png").exists()
    assert json.loads((tmp_path / "out/line_summary.json").read_text())["features"] == []


def test_features_that_are_zero_are_null_and_cosines_signed(mcx: Callable, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    first = {
        "fc1.weight": torch.randn(8, 64, generator=generator), "fc1.bias": torch.full((8,), -7.0),
        "fc2.weight": torch.randn(8, 8, generator=generator), "fc2.bias": torch.full((8,), -1e4),
        "output.weight": torch.randn(10, 8, generator=generator), "output.bias": torch.ones(10),
    }  # fmt: skip
    last = {**first, "output.bias": -first["output.bias"], "fc1.weight": first["fc1.weight"].roll(1, 1)}
    for number, state in enumerate((first, last)):
        (tmp_path / f"seed{number}").mkdir()
        torch.save({"model_state": state}, tmp_path / f"seed{number}/checkpoint-8.pt")
    model = ("--model", "mlp", "--model-arg", "width=8,depth=2", *FEW)
    found = by_layer(mcx, tmp_path, "--num-alphas", "5", "--layers", "output", model=model)
    fc1, relu1, _, relu2, output = found["features"]
    assert (fc1["zero"], relu2["zero"], output["zero"]) == (
        [0] * 5,
        [len(images()[0])] * 5,
        [0, 0, 300, 0, 0],
    )
    assert relu2["cosine"] == relu2["coefficient"] == [None] * 5
    assert (relu2["baseline"], output["baseline"]) == (None, pytest.approx(-1))
    assert output["cosine"] == [pytest.approx(1), pytest.approx(1), None, pytest.approx(1), pytest.approx(1)]
    # Of some samples they are zero: the mean is over the others.
    x = images()[0].float().flatten(1)
    here, there = (F.relu(x @ state["fc1.weight"].T + state["fc1.bias"]).double() for state in (first, last))
    none = (here.norm(dim=1) * there.norm(dim=1)) == 0
    assert 0 < int(none.sum()) < 300
    kept = F.cosine_similarity(here[~none], there[~none]).mean()
    assert relu1["baseline"] == pytest.approx(float(kept), abs=1e-6)
    assert relu1["zero"][0] == int((here.norm(dim=1) == 0).sum())
    done = mcx("lmc", "interpolate", *ends(tmp_path), *model, "--num-alphas", "3", "--by-layer")
    assert "n/a" in next(line for line in done.out.splitlines() if "relu2" in line)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Module()
        self.positions.register_buffer("table", torch.zeros(3))
        self.first, self.stem = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight


def test_a_part_is_named_by_its_layer_its_module_or_a_pattern() -> None:
    model = Tied()
    norm = [
        f"stem.1.{each}" for each in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ]
    every = layers(model)
    assert every == {
        "first": ["positions.table", "first.weight", "first.bias"],
        "stem.0": ["stem.0.weight", "stem.0.bias"],
        "stem.1": norm,
        "second": ["second.bias"],
    }

    def alone(*words: str) -> dict[str, set[str]]:
        return {part.name: set(part.alone) for part in parts(model, words)}

    assert alone() == {name: set(tensors) for name, tensors in every.items()}
    assert alone("stem") == {"stem": {*every["stem.0"], *norm}}
    assert alone("stem.*", "first") == {name: set(every[name]) for name in ("stem.0", "stem.1", "first")}
    assert alone("second") == {"second": {"first.weight", "second.bias"}}  # what it shares moves in both
    assert alone("first.weight") == {"first.weight": {"first.weight"}}
    (part,) = parts(model, ["stem.0"])
    assert part.up_to == {*every["first"], *every["stem.0"]}
    (part,) = parts(model, ["second"])
    assert part.up_to == {tensor for tensors in every.values() for tensor in tensors}
    for word in ("sten", "stem.*.weight", ""):
        with pytest.raises(SettingsError, match="no layer"):
            parts(model, [word])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--by-layer", "--layers", "conv3"), "no layer 'conv3'"),
        (("--layers", "conv1"), "--layers has no effect without --by-layer"),
    ],
)
def test_layers_that_are_none_are_refused(mcx: Callable, own: Path, words: tuple, message: str) -> None:
    done = mcx("lmc", "interpolate", *ends(own), *MODEL, *words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert "conv3" not in message or "hint: did you mean 'conv" in done.err


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The positions that are measured."""
    found: list[float] = []
    measure = evaluate.measure
    monkeypatch.setattr(evaluate, "measure", lambda *given: (found.append(given[3]), measure(*given))[1])
    return found


def test_it_costs_what_a_dry_run_says_and_what_is_there_is_not_measured_again(
    mcx: Callable, own: Path, measured: list[float], tmp_path: Path
) -> None:
    words = ("lmc", "interpolate", *ends(own), *MODEL, "--num-alphas", "3", "--max-samples", "50")
    words = (*words, "--dpi", "30", "--output-dir", tmp_path)
    assert mcx(*words).code == 0
    assert json.loads((tmp_path / "line_summary.json").read_text())["layers"] is None
    assert len(measured) == 3
    said = mcx(*words, "--by-layer", "--dry-run").err
    # 5 layers alone, 5 with all before them; of the first both are one, of the last all have moved.
    assert "5 layers, alone and with all before them, the rest from either network: 32 more positions" in said
    assert mcx(*words, "--by-layer", "--layers", "mix,conv2").code == 0
    assert len(measured) == 3 + 2 * 2 * 2 * 2
    assert mcx(*words, "--by-layer").code == 0
    assert len(measured) == 3 + 32
    before = (tmp_path / "line_summary.json").read_bytes()
    assert "already complete" in mcx(*words, "--by-layer").err
    assert ((tmp_path / "line_summary.json").read_bytes(), len(measured)) == (before, 35)


def test_progress_counts_the_positions_of_all_lines_and_never_falls(own: Path) -> None:
    heard: list[tuple[int, int]] = []
    words = {"model": MODEL[1], "num_alphas": 3, "max_samples": 50, "by_layer": True, "layers": ("mix",)}
    api.interpolate(*ends(own), progress=lambda done, total, *_: heard.append((done, total)), **words)
    # The whole network, two lines of the layer alone and two up to it, and the features.
    assert heard == [(k + 1, 3 * 6) for k in range(3 * 6)]


def test_a_network_and_itself_are_measured_once(mcx: Callable, own: Path, measured: list[float]) -> None:
    words = (*MODEL, "--num-alphas", "3", "--max-samples", "50", "--by-layer")
    done = mcx("lmc", "interpolate", ends(own)[0], ends(own)[0], *words, "--json")
    assert "0 more positions" in done.err
    assert len(measured) == 3
    found = json.loads(done.out)
    assert all(max(each["gap"]["loss_test"]) < 1e-9 for each in found["layers"])
    assert all(each["cosine"] == [pytest.approx(1)] * 3 for each in found["features"])


def test_a_run_that_was_stopped_goes_on_to_the_same_result(
    mcx: Callable, own: Path, measured: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ("lmc", "interpolate", *ends(own), *MODEL, "--num-alphas", "3", "--max-samples", "50")
    words = (*words, "--by-layer", "--layers", "conv2,head", "--figure-format", "svg", "--output-dir")

    def run(name: str) -> int:
        return mcx(*words, tmp_path / name).code

    assert run("whole") == 0
    total = len(measured)
    monkeypatch.setenv("MCX_TESTING", "1")
    for at in (5, 11, 23):  # on the first layer's line, on a later one, among the features
        monkeypatch.setattr(failpoints, "_counts", {})
        monkeypatch.setenv("MCX_FAILPOINT", f"evaluate.after_position.rank0:{at}=usr2")
        assert run("parts") == 75
    monkeypatch.delenv("MCX_FAILPOINT")
    assert run("parts") == 0
    assert len(measured) == 2 * total
    for name in ("line.npz", "line_layers.svg", "line_features.svg"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    one, other = (
        json.loads((tmp_path / name / "line_summary.json").read_text()) for name in ("whole", "parts")
    )
    assert {**one, "files": None} == {**other, "files": None}
