"""What counts as a parameter: what the network says, else what a file's names tell."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

NETWORKS = """
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

def layers(hidden, after=()):
    return nn.Sequential(nn.Flatten(), hidden, *after, nn.ReLU(), nn.Linear(32, 10))

class Own(nn.Module):
    '''A float buffer of any name, a float mask, and whole numbers.'''

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)
        self.register_buffer("gains", torch.rand(64))
        self.register_buffer("index", torch.randperm(64))
        self.register_buffer("attn_mask", torch.rand(3, 3))

    def forward(self, x):
        return self.head((x.flatten(1) * self.gains)[:, self.index])

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.head(self.b(self.a(x.flatten(1)).tanh()).tanh())

class Extra(nn.Module):
    '''Its outputs are scaled by what it keeps as extra state.'''

    def __init__(self):
        super().__init__()
        self.head, self.scale = nn.Linear(64, 10), float(torch.rand(()) + 1)

    def get_extra_state(self):
        return {"scale": self.scale, "history": torch.arange(3.0)}

    def set_extra_state(self, state):
        self.scale = state["scale"]

    def forward(self, x):
        return self.head(x.flatten(1)) * self.scale

def own(input_shape, num_classes):
    return Own()

def tied(input_shape, num_classes):
    return Tied()

def extra(input_shape, num_classes):
    return Extra()

def normed(input_shape, num_classes):
    return layers(nn.Linear(64, 32), [nn.BatchNorm1d(32)])

def spectral(input_shape, num_classes):
    return layers(spectral_norm(nn.Linear(64, 32)))

def spectral_parametrized(input_shape, num_classes):
    return layers(parametrizations.spectral_norm(nn.Linear(64, 32)))

def weight_normed(input_shape, num_classes):
    return layers(weight_norm(nn.Linear(64, 32)))

def pruned(input_shape, num_classes):
    return layers(prune.random_unstructured(nn.Linear(64, 32), "weight", 0.3))
"""
BY_NAME = ["normed", "spectral", "spectral_parametrized", "weight_normed", "pruned"]
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[list[Path], float, int]]:
    """Bare files of two networks, and the distance and the number of their parameters in float64."""
    (tmp_path / "odd_networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str) -> tuple[list[Path], float, int]:
        factory = getattr(importlib.import_module("odd_networks"), name)
        paths, vectors = [], []
        for seed in (0, 1):
            torch.manual_seed(seed)
            model: nn.Module = factory((1, 8, 8), 10)
            paths.append(tmp_path / f"{name}{seed}.pt")
            with paths[-1].open("wb") as stream:
                torch.save(model.state_dict(), stream)
            vectors.append(parameters_to_vector(model.parameters()).detach().double())
        return paths, float((vectors[0] - vectors[1]).norm()), len(vectors[0])

    return make


@pytest.mark.parametrize("name", [*BY_NAME, "own", "tied", "extra"])
def test_a_network_that_is_named_says_what_its_parameters_are(
    mcx: Callable, pair: Callable[[str], tuple[list[Path], float, int]], name: str
) -> None:
    paths, distance, count = pair(name)
    done = mcx("l2", *paths, "--model", f"odd_networks:{name}", "--dataset", "digits", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["total_l2"] == pytest.approx(distance, rel=1e-9)
    assert found["total_params"] == count
    assert "left out" not in done.err


@pytest.mark.parametrize("name", BY_NAME)
def test_names_tell_where_no_network_is_named(
    mcx: Callable, pair: Callable[[str], tuple[list[Path], float, int]], name: str
) -> None:
    paths, distance, count = pair(name)
    done = mcx("l2", *paths, "--json")
    found = json.loads(done.out)
    assert (found["total_l2"], found["total_params"]) == (pytest.approx(distance, rel=1e-9), count)
    assert ("left out as buffers" in done.err) == (name != "weight_normed")
    assert "no name says so" not in done.err


def test_whole_numbers_never_stop_a_distance(
    mcx: Callable, pair: Callable[[str], tuple[list[Path], float, int]]
) -> None:
    """The float buffer of a name of its own counts, as nothing tells it; it and the others are named in one note."""
    paths, _, count = pair("own")
    done = mcx("l2", *paths, "--json")
    assert (done.code, json.loads(done.out)["total_params"]) == (0, count + 64)
    note = (
        "left out as buffers, by their names: attn_mask; left out as they are not of float: index; counted as "
        "parameters, though no name says so: gains (--model says what the parameters are, --include-buffers counts all)"
    )
    assert done.err.count(note) == 1
    for quiet in (("--include-buffers",), ("--model", "odd_networks:own", "--dataset", "digits")):
        assert "left out" not in mcx("l2", *paths, *quiet).err


@pytest.mark.parametrize("metric", ["fisher", "cosine"])
def test_further_metrics_count_the_same(
    mcx: Callable, pair: Callable[[str], tuple[list[Path], float, int]], metric: str
) -> None:
    paths, distance, count = pair("own")
    words = ("--model", "odd_networks:own", "--dataset", "digits", "--metric", f"l2,{metric}", "--json")
    more = ("--fisher-samples", "20") if metric == "fisher" else ()
    found = json.loads(mcx("l2", *paths, *words, *more).out)
    assert (found["total_l2"], found["total_params"]) == (pytest.approx(distance, rel=1e-9), count)
    assert found[f"{metric}_distance"] > 0


def test_another_network_is_refused_with_its_mismatches(
    mcx: Callable, pair: Callable[[str], tuple[list[Path], float, int]]
) -> None:
    paths, _, _ = pair("own")
    done = mcx("l2", *paths, "--model", "odd_networks:tied", "--dataset", "digits")
    assert done.code == 3
    assert "does not fit the model" in done.err


def test_extra_state_goes_through_all_files(
    mcx: Callable, pair: Callable[[str], tuple[list[Path], float, int]], tmp_path: Path
) -> None:
    """It decides what the network computes: the loss that training has logged is the loss of every file of it."""
    pair("extra")
    words = ("--model", "odd_networks:extra", "--dataset", "digits", "--max-samples", "200")
    run, model = tmp_path / "run", ("--model", "odd_networks:extra")
    assert mcx("train", *words, "--seeds", "0,1", "--epochs", "1", "--output-dir", run, "-q").code == 0
    ends = [run / f"seed{seed}/checkpoint-1.pt" for seed in (0, 1)]
    logged = [json.loads((end.parent / "metrics.jsonl").read_text().splitlines()[-1]) for end in ends]
    half = tmp_path / "start.pt"
    line = ("--endpoint0", ends[0], "--endpoint1", ends[0], *model)
    assert mcx("curve", "extract", *line, "--t", "0", "--output", half).code == 0
    scored = mcx(
        "csl",
        "score",
        "--checkpoint",
        half,
        *words,
        "--split",
        "test",
        "--output-dir",
        tmp_path / "s",
        "--json",
    )
    assert scored.code == 0, scored.err
    (epoch,) = json.loads(scored.out)["epochs"]
    assert epoch["mean_loss"] == pytest.approx(logged[0]["test_loss"], rel=1e-6)
    ends_of_curve = ("--endpoint0", ends[0], "--endpoint1", ends[0], "--epochs", "1")
    assert mcx("curve", "train", *ends_of_curve, *words, "--output-dir", tmp_path / "c", "-q").code == 0
    curve = ("--curve-checkpoint", tmp_path / "c/checkpoints/checkpoint-1.pt", *words, "--num-points", "2")
    done = json.loads(mcx("curve", "eval", *curve, "--output-dir", tmp_path / "e", "--json").out)
    assert done["statistics"]["te_nll"]["start"] == pytest.approx(logged[0]["test_loss"], rel=1e-6)
