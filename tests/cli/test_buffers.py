"""Networks with buffers of their own on a path: each end has its own, and between them they are interpolated."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeconn_cli.cli import app
from modeconn_cli.engine import datasets
from modeconn_cli.engine.settings.shared import DataSettings

NETWORKS = """
import torch
from torch import nn

class Buffered(nn.Module):
    '''Spectral norm, an instance norm that tracks, and a mask that is another one under every seed.'''

    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.norm = nn.InstanceNorm2d(6, affine=True, track_running_stats=True)
        self.hidden = nn.utils.parametrizations.spectral_norm(nn.Linear(216, 20))
        self.head = nn.Linear(20, num_classes)
        self.register_buffer("mask", (torch.rand(20) > 0.4).float() * 2)
        self.register_buffer("floor", torch.where(torch.rand(20) > 0.5, 0.1, -torch.inf))
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)

    def forward(self, x):
        h = self.hidden(self.norm(self.conv(x)).relu().flatten(1))
        return self.head(torch.maximum(h.relu() - 0.2, self.floor) * self.mask) * self.scale

class Indexed(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(64, num_classes)
        self.register_buffer("index", torch.randperm(64))

    def forward(self, x):
        return self.head(x.flatten(1)[:, self.index])

class OfTheBatch(nn.Sequential):
    def __init__(self, num_classes):
        layers = nn.Linear(64, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, num_classes)
        super().__init__(nn.Flatten(), *layers)

def buffered(input_shape, num_classes):
    return Buffered(num_classes)

def indexed(input_shape, num_classes):
    return Indexed(num_classes)

def of_the_batch(input_shape, num_classes):
    return OfTheBatch(num_classes)
"""
DATA = ("--dataset", "digits", "--max-samples", "400")


@pytest.fixture
def trained(
    made_once: Callable[[str, Callable[[Path], None]], Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], list[Path]]:
    """The checkpoints of two seeds of one of these networks."""

    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / "buffered_networks.py").write_text(NETWORKS)
        monkeypatch.syspath_prepend(folder)
        for name in ("buffered", "indexed", "of_the_batch"):
            words = [
                "train",
                "--model",
                f"buffered_networks:{name}",
                *DATA,
                "--seeds",
                "0,1",
                "--lr",
                "0.1",
                "-q",
            ]
            assert app.main([*words, "--epochs", "3", "--output-dir", str(folder / name)]) == 0

    folder = made_once("buffered", make)
    monkeypatch.syspath_prepend(folder)
    return lambda name: [folder / name / f"seed{seed}/checkpoint-3.pt" for seed in (0, 1)]


def _blend(a: Tensor, b: Tensor, t: float) -> Tensor:
    return (1 - t) * a + t * b if 0 < t < 1 else (a, b)[int(t)]


def plain(states: list[Mapping[str, Tensor]], t: float) -> tuple[float, float]:
    """Loss on the training and the test images of the network between two, in float64, without mcx."""
    model: nn.Module = importlib.import_module("buffered_networks").Buffered(10)
    between = {
        name: _blend(a.double(), states[1][name].double(), t) if a.is_floating_point() else a
        for name, a in states[0].items()
    }
    model.double().load_state_dict(between)
    data = datasets.load(DataSettings(dataset="digits", max_samples=400), torch.device("cpu"))
    found = []
    for samples in (data.fit, data.held_out):
        images = (samples.images.double() / 255 - 0.5) / 0.5
        with torch.no_grad():
            found.append(float(F.cross_entropy(model.eval()(images), samples.labels)))
    return found[0], found[1]


@pytest.mark.parametrize("command", ["curve", "lmc"])
def test_a_line_has_each_ends_buffers_and_interpolates_between(
    mcx: Callable, trained: Callable[[str], list[Path]], tmp_path: Path, command: str
) -> None:
    ends = trained("buffered")
    model = ("--model", "buffered_networks:buffered")
    if command == "curve":
        words = ["curve", "eval", "--endpoint0", ends[0], "--endpoint1", ends[1], "--num-points", "5"]
    else:
        words = ["lmc", "interpolate", *ends, "--num-alphas", "5"]
    done = mcx(*words, *model, *DATA, "--output-dir", tmp_path)
    assert done.code == 0, done.err
    note = "buffers are each endpoint's own at its end, and interpolated between: mask, floor, norm.running_mean, "
    assert done.err.count(note) == 1
    states = [torch.load(end, weights_only=True)["model_state"] for end in ends]
    with np.load(tmp_path / ("curve.npz" if command == "curve" else "line.npz")) as file:
        found = np.stack([file["tr_nll"], file["te_nll"]], axis=1)
    expected = [plain(states, t) for t in (0, 0.25, 0.5, 0.75, 1)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    logged = [json.loads((end.parent / "metrics.jsonl").read_text().splitlines()[-1]) for end in ends]
    np.testing.assert_allclose(found[[0, -1], 1], [each["test_loss"] for each in logged], rtol=1e-6)


def test_a_curve_keeps_the_buffers_of_both_its_ends(
    mcx: Callable, trained: Callable[[str], list[Path]], tmp_path: Path
) -> None:
    ends = trained("buffered")
    model = ("--model", "buffered_networks:buffered")
    words = ("curve", "train", "--endpoint0", ends[0], "--endpoint1", ends[1], "--epochs", "1")
    done = mcx(*words, *model, *DATA, "--output-dir", tmp_path / "curve")
    assert done.code == 0, done.err
    assert done.err.count("and interpolated between: mask, ") == 1
    curve = ("--curve-checkpoint", tmp_path / "curve/checkpoints/checkpoint-1.pt", *model)
    done = mcx("curve", "eval", *curve, *DATA, "--num-points", "3", "--output-dir", tmp_path / "eval", "-q")
    assert done.code == 0, done.err
    states = [torch.load(end, weights_only=True)["model_state"] for end in ends]
    with np.load(tmp_path / "eval/curve.npz") as file:
        found = file["te_nll"]
    np.testing.assert_allclose(found[[0, 2]], [plain(states, t)[1] for t in (0, 1)], rtol=1e-5)
    assert mcx("curve", "extract", *curve, "--t", "0.5", "--output", tmp_path / "half.pt").code == 0
    half = torch.load(tmp_path / "half.pt", weights_only=True)["model_state"]
    torch.testing.assert_close(half["mask"], (states[0]["mask"] + states[1]["mask"]) / 2)
    np.testing.assert_allclose(found[1], plain([half, half], 0)[1], rtol=1e-5)


def test_ends_may_be_of_other_types_than_the_network(
    mcx: Callable, trained: Callable[[str], list[Path]], tmp_path: Path
) -> None:
    first, last = trained("buffered")
    content = torch.load(first, weights_only=True)
    content["model_state"] = {
        n: t.half() if t.is_floating_point() else t for n, t in content["model_state"].items()
    }
    torch.save(content, tmp_path / "half.pt")
    words = ("lmc", "interpolate", tmp_path / "half.pt", last, "--model", "buffered_networks:buffered", *DATA)
    done = mcx(*words, "--num-alphas", "3", "--output-dir", tmp_path / "line")
    assert done.code == 0, done.err


def test_whole_numbers_that_differ_have_nothing_between_them(
    mcx: Callable, trained: Callable[[str], list[Path]], tmp_path: Path
) -> None:
    words = ("lmc", "interpolate", *trained("indexed"), "--model", "buffered_networks:indexed", *DATA)
    done = mcx(*words, "--output-dir", tmp_path / "line")
    assert done.code == 3
    assert "'index' holds whole numbers that differ" in done.err


@pytest.mark.parametrize("command", ["curve", "fisher", "functional", "run"])
def test_statistics_of_the_batch_are_refused(
    mcx: Callable, trained: Callable[[str], list[Path]], tmp_path: Path, command: str
) -> None:
    ends, model = trained("of_the_batch"), ("--model", "buffered_networks:of_the_batch", *DATA)
    if command == "curve":
        words = [
            "curve",
            "eval",
            "--endpoint0",
            ends[0],
            "--endpoint1",
            ends[1],
            "--output-dir",
            tmp_path / "o",
        ]
    elif command == "run":
        words = ["lmc", "run", "--k1", "0", "--k2", "1", "--output-dir", tmp_path / "o"]
    else:
        words = ["l2", *ends, "--metric", command]
    done = mcx(*words, *model)
    assert done.code == 3
    assert "depend on the rest of its batch" in done.err
