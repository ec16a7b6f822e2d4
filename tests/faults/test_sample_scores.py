"""Every score of samples: odd networks, numbers that overflow, epochs that are missing, and kills between epochs."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from faults.commands import OWN
from modeconn_cli.engine.samples import scoring

RUN = "runs/seed0"
LAST = f"{RUN}/checkpoint-2.pt"
COMMANDS: dict[str, tuple[str, ...]] = {
    "csl score": ("csl", "score"),
    "curvature": ("curvature", "--niter", "2"),
    "dormant": ("dormant",),
}
# One network as it is usually written, and as it may be written too; `fails` is what the next forwards do.
ODD = """
import torch
from torch import nn

fails = []


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(64, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        if fails and fails.pop():
            raise RuntimeError("it fails")
        return self.three(torch.relu(self.two(torch.relu(self.one(x.flatten(1))))))


class Odd(Plain):
    def __init__(self):
        super().__init__()
        self.drop, self.act = nn.Dropout(0.5), nn.ReLU(inplace=True)
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    def forward(self, x):
        return self.three(self.drop(self.act(self.two(self.drop(self.act(self.one(x.flatten(1))))))))


def plain(num_classes=3):
    return Plain()


def odd(num_classes=3):
    return Odd()


def half(num_classes=3):
    net = Odd()
    for part in (net.two, net.three):
        part.requires_grad_(True)
    return net
"""


def most_slow(names: Iterable[str], quick: str) -> list[object]:
    """All names, of which one alone is tried by default."""
    return [each if each == quick else pytest.param(each, marks=pytest.mark.slow) for each in names]


def arrays_of(folder: str) -> dict[str, np.ndarray]:
    """Every array of a result by its name."""
    made = [path for path in Path(folder).rglob("*.npy") if ".mcx" not in path.parts]
    return {str(path.relative_to(folder)): np.load(path) for path in made}


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert first.keys() == second.keys() != set()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


@pytest.fixture
def odd(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The study with networks of other code, and weights that fit each of them: odd.pt."""
    (here / "oddnet.py").write_text(ODD)
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "oddnet", raising=False)
    torch.manual_seed(0)
    parts = {"one": nn.Linear(64, 6), "two": nn.Linear(6, 6), "three": nn.Linear(6, 3)}
    torch.save({"epoch": 1, "model_state": nn.ModuleDict(parts).state_dict()}, here / "odd.pt")
    return here


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> list[tuple[nn.Module, int]]:
    """The networks that are scored from now on, each with the number of hooks that it was opened with."""
    seen: list[tuple[nn.Module, int]] = []
    plain = scoring.open_run

    def open_run(*words: object) -> object:
        run = plain(*words)  # type: ignore[arg-type]
        seen.append((run.model, hooks(run.model)))
        return run

    monkeypatch.setattr(scoring, "open_run", open_run)
    return seen


def hooks(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(part, kind)) for part in model.modules() for kind in kinds)


@pytest.mark.parametrize("command", most_slow(COMMANDS, "csl score"))
def test_g12_h8_the_network_is_left_as_it_was(
    mcx: Callable, here: Path, network: list[tuple[nn.Module, int]], command: str
) -> None:
    assert mcx(*COMMANDS[command], "--checkpoint-dir", RUN, *OWN, "--output-dir", "out").code == 0
    ((model, opened_with),) = network
    weights = torch.load(LAST, weights_only=True)["model_state"]
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not any(part.training for part in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert hooks(model) == opened_with


SAME_FOR_ALL = {
    "csl score by the input": ("csl", "score", "--grad", "input"),
    "csl score without gradients": ("csl", "score", "--grad", "none"),
    "curvature by differences": ("curvature", "--niter", "2"),
    "curvature by products": ("curvature", "--niter", "2", "--method", "hvp"),
    "dormant": ("dormant",),
}


@pytest.mark.parametrize("score", most_slow(SAME_FOR_ALL, "curvature by differences"))
def test_h3_frozen_parameters_operations_in_place_and_dropout_change_no_score(
    mcx: Callable, odd: Path, score: str
) -> None:
    words, found = SAME_FOR_ALL[score], {}
    for name in ("plain", "odd"):
        done = mcx(
            *words, "odd.pt", "--dataset", "data.npz", "--model", f"oddnet:{name}", "--output-dir", name
        )
        assert done.code == 0, done.err
        found[name] = arrays_of(name)
    assert found["plain"].keys() == found["odd"].keys() != set()
    for name, values in found["plain"].items():
        np.testing.assert_allclose(found["odd"][name], values, rtol=1e-5, atol=1e-9, err_msg=name)


def test_h3_gradients_are_of_what_is_trained_and_where_nothing_is_that_is_said(
    mcx: Callable, odd: Path
) -> None:
    words = ("csl", "score", "odd.pt", "--dataset", "data.npz", "--weight-decay", "0", "--output-dir")
    norms = {}
    for name in ("plain", "half"):
        done = mcx(*words, name, "--model", f"oddnet:{name}")
        assert done.code == 0, done.err
        norms[name] = next(values for file, values in arrays_of(name).items() if "loss_grad" in file)
    assert (norms["half"] < norms["plain"]).all()
    assert (norms["half"] > 0).any()
    done = mcx(*words, "odd", "--model", "oddnet:odd")
    assert (done.code, done.out) == (3, ""), done.err
    assert "no parameter of the network is trained" in done.err
    assert "--grad input" in done.err


@pytest.mark.parametrize("command", most_slow(COMMANDS, "csl score"))
def test_h3_no_sample_has_anything_of_another(mcx: Callable, odd: Path, command: str) -> None:
    words = (*COMMANDS[command], "odd.pt", "--dataset", "data.npz", "--model", "oddnet:half", "--output-dir")
    assert mcx(*words, "before").code == 0
    with np.load("data.npz") as file:
        arrays = dict(file)
    arrays["x_train"][7] = 255 - arrays["x_train"][7]
    np.savez("data.npz", **arrays)
    assert mcx(*words, "after").code == 0
    before, after = arrays_of("before"), arrays_of("after")
    assert before.keys() == after.keys()
    changed = {name: np.flatnonzero(values != after[name]).tolist() for name, values in before.items()}
    assert {place for places in changed.values() for place in places} == {7}


@pytest.mark.parametrize("command", most_slow(COMMANDS, "curvature"))
def test_h4_what_overflows_is_kept_and_counted(mcx: Callable, odd: Path, command: str) -> None:
    content = torch.load("odd.pt", weights_only=True)
    content["model_state"] = {name: 1e25 * value for name, value in content["model_state"].items()}
    torch.save(content, "odd.pt")
    words = (
        *COMMANDS[command],
        "odd.pt",
        "--dataset",
        "data.npz",
        "--model",
        "oddnet:plain",
        "--output-dir",
        "out",
    )
    done = mcx(*words)
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    lost = max(int((~np.isfinite(values)).sum()) for values in arrays_of("out").values())
    assert lost > 0
    assert f"{lost} " in done.err, done.err
    json.loads(mcx(*words, "--json").out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


@pytest.mark.parametrize("command", most_slow(COMMANDS, "curvature"))
def test_h6_missing_epochs_are_named_or_left_out(mcx: Callable, here: Path, command: str) -> None:
    words = (*COMMANDS[command], "--checkpoint-dir", RUN, *OWN, "--start-epoch", "0", "--end-epoch", "2")
    assert mcx(*words, "--output-dir", "whole").code == 0
    Path(RUN, "checkpoint-1.pt").unlink()
    done = mcx(*words, "--output-dir", "out")
    assert (done.code, done.out) == (3, "")
    assert "checkpoints of 1 epochs are missing: 1" in done.err
    assert not Path("out").exists()
    done = mcx(*words, "--output-dir", "out", "--allow-missing")
    assert (done.code, "missing: [1]" in done.err) == (0, True), done.err
    found, whole = arrays_of("out"), arrays_of("whole")
    of_epochs = {name for name in whole if "epoch_" in name}
    assert {name for name in found if "epoch_" in name} == {n for n in of_epochs if "epoch_1" not in n}
    for name in found.keys() & of_epochs:
        np.testing.assert_array_equal(found[name], whole[name])


@pytest.mark.parametrize("command", most_slow(COMMANDS, "csl score"))
def test_h8_a_network_that_fails_leaves_no_hook_and_the_next_run_is_as_any(
    mcx: Callable, odd: Path, network: list[tuple[nn.Module, int]], command: str
) -> None:
    words = (*COMMANDS[command], "odd.pt", "--dataset", "data.npz", "--model", "oddnet:plain", "--output-dir")
    oddnet = importlib.import_module("oddnet")
    oddnet.fails[:] = [False] * 100
    assert mcx(*words, "whole").code == 0
    forwards = 100 - len(oddnet.fails)
    for after in (0, forwards - 6, forwards - 1):
        network.clear()
        oddnet.fails[:] = [True] * 100 + [False] * after
        done = mcx(*words, f"after{after}")
        assert (done.code, done.out, "it fails" in done.err) == (3, "", True), (after, done.err)
        assert all(hooks(model) <= opened_with for model, opened_with in network)
    oddnet.fails.clear()
    assert mcx(*words, "again").code == 0
    same(arrays_of("again"), arrays_of("whole"))


@pytest.mark.parametrize("command", most_slow(COMMANDS, "dormant"))
def test_h9_epochs_that_were_finished_before_a_kill_stay(
    forked: Callable, fresh: Callable, mcx: Callable, here: Path, command: str
) -> None:
    words = (*COMMANDS[command], "--checkpoint-dir", RUN, *OWN, "--batch-size", "16")
    assert mcx(*words, "--output-dir", "whole").code == 0
    kill = {"MCX_TESTING": "1", "MCX_FAILPOINT": "scoring.after_part:2=kill"}
    if command == "dormant":
        done = forked([*words, "--output-dir", "out"], kill)
    else:  # a fork takes no gradients once its parent has
        done = fresh(*words, "--output-dir", "out", environment=kill)
    assert done.code == -9
    made = [path for path in Path("out").rglob("*.npy") if "epoch_0" in str(path)]
    finished = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in made}
    assert finished
    assert not list(Path("out").rglob("*epoch_2*.npy"))
    done = mcx(*words, "--output-dir", "out", "--json")
    assert (done.code, json.loads(done.out)["scored"]) == (0, 2), done.err
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in made} == finished
    same(arrays_of("out"), arrays_of("whole"))
