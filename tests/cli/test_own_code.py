"""Unusual networks and data of the user's own: taken as they are meant, or one line says what fails."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modeconn_cli.engine import datasets
from modeconn_cli.engine.settings.shared import DataSettings

CODE = """
import torch
from torch import nn

class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(64, 16), nn.Linear(16, 10)

    def forward(self, x):
        return self.b(self.a(x.flatten(1)).relu())

class Lazy(Plain):
    def __init__(self):
        nn.Module.__init__(self)
        self.a, self.b = nn.LazyLinear(16), nn.LazyLinear(10)

class Dictionary(Plain):
    def forward(self, x):
        return {"logits": super().forward(x), "input": x}

class Writing(Plain):
    def forward(self, x):
        return super().forward(x.mul_(2))

class Pair(Plain):
    def forward(self, x):
        return super().forward(x), x

class Failing(Plain):
    def forward(self, x):
        raise KeyError("no such layer")

class Unmade(Plain):
    def __init__(self):
        raise ValueError("no weights here")

class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.head = nn.Linear(64, 24), nn.Linear(16, 10)
        self.wave = nn.Parameter(torch.randn(24, 16, dtype=torch.cfloat) * 0.2)

    def forward(self, x):
        hidden = torch.relu(self.fc(x.flatten(1)))
        return self.head((hidden.to(self.wave.dtype) @ self.wave).abs())

def script():
    return torch.jit.trace(Plain(), torch.zeros(2, 1, 8, 8))

def failing_item(split):
    class Items(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return torch.zeros(1, 8, 8), 1 // (3 - index)

    return Items()

def nothing(split):
    return None
"""


@pytest.fixture(autouse=True)
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("own_code.py").write_text(CODE)
    importlib.invalidate_caches()


@pytest.mark.parametrize("name", ["Lazy", "Dictionary", "Writing"])
def test_an_unusual_network_is_scored_and_swapped(mcx: Callable, name: str) -> None:
    words = ("--model", f"own_code:{name}", "--dataset", "digits", "--max-samples", "40")
    done = mcx("train", *words, "--epochs", "1", "--output-dir", "t", "-q")
    assert done.code == 0, done.err
    file = "t/seed0/checkpoint-1.pt"
    assert mcx("csl", "score", "--checkpoint", file, *words, "--output-dir", "c").code == 0
    done = mcx("swap", "--checkpoint", file, *words, "--output", "s.pt", "--random", "--verify")
    assert "Equivalent:             yes" in done.out, done.err
    model = importlib.import_module("own_code").Plain().double()
    model.load_state_dict(torch.load(file, weights_only=True)["model_state"])
    data = datasets.load(DataSettings(dataset="digits", max_samples=40), torch.device("cpu")).fit
    images = (data.images.double() / 255 - 0.5) / 0.5 * (2 if name == "Writing" else 1)
    with torch.no_grad():
        losses = F.cross_entropy(model(images), data.labels, reduction="none")
    found = np.load(next(Path("c").glob("loss_ce_*_epoch_*.npy")))
    np.testing.assert_allclose(found, losses.numpy(), rtol=1e-5)


def test_complex_parameters_are_measured_scored_and_trained(mcx: Callable) -> None:
    words = ("--model", "own_code:Complex", "--dataset", "digits", "--max-samples", "40")
    net = importlib.import_module("own_code").Complex
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        states.append(net().state_dict())
        torch.save(states[-1], f"c{seed}.pt")
    a, b = states
    squares = {n: float((a[n].to(torch.cdouble) - b[n].to(torch.cdouble)).abs().square().sum()) for n in a}
    for more in ((), words[:2], ("--metric", "l2,functional", *words)):
        found = json.loads(mcx("l2", "c0.pt", "c1.pt", "--json", *more).out)
        assert found["total_l2"] == pytest.approx(sum(squares.values()) ** 0.5, rel=1e-12)
        assert found["all_layer_distances"]["wave"]["n_params"] == 24 * 16
        assert found["normalized_total_l2"] == pytest.approx(found["total_l2"] / found["total_params"] ** 0.5)
    done = mcx("l2", "c0.pt", "c1.pt", "--metric", "fisher", *words)
    assert (done.code, "'wave' is complex" in done.err, "--metric l2,cosine" in done.err) == (3, True, True)
    many = ("c0.pt", "c1.pt", "c0.pt", "c1.pt", "c0.pt", "c1.pt", "c0.pt", "c1.pt")  # by a Gram matrix
    rows = mcx("l2", *(f"n{k}={name}" for k, name in enumerate(many)), "--pairs", "all", "--json").out
    assert {round(row["total_l2"], 9) for row in json.loads(rows)["pairs"]} == {
        0,
        round(found["total_l2"], 9),
    }
    done = mcx("lmc", "interpolate", "c0.pt", "c1.pt", "--num-alphas", "3", "--output-dir", "line", *words)
    assert done.code == 0, done.err
    model = net()
    model.load_state_dict({name: (a[name] + b[name]) / 2 for name in a})
    data = datasets.load(DataSettings(dataset="digits", max_samples=40), torch.device("cpu")).fit
    images = (data.images / 255 - 0.5) / 0.5
    middle = F.cross_entropy(model(images), data.labels)
    assert np.load("line/line.npz")["tr_nll"][1] == pytest.approx(middle.item(), rel=1e-5)
    done = mcx("csl", "score", "--checkpoint", "c0.pt", "--output-dir", "c", "--weight-decay", "0", *words)
    assert done.code == 0, done.err
    model.load_state_dict(a)
    norms = []
    for image, label in zip(images, data.labels, strict=True):
        gradients = torch.autograd.grad(
            F.cross_entropy(model(image[None]), label[None]), list(model.parameters())
        )
        norms.append(sum(float(g.abs().double().square().sum()) for g in gradients) ** 0.5)
    np.testing.assert_allclose(np.load(next(Path("c").glob("*grad*.npy"))), norms, rtol=1e-4)
    done = mcx("swap", "--checkpoint", "c0.pt", "--output", "s.pt", "--random", "--verify", *words)
    assert "Equivalent:             yes" in done.out, done.err
    done = mcx("train", *words, "--epochs", "1", "--output-dir", "t", "-q")
    assert done.code == 0, done.err
    assert torch.load("t/seed0/checkpoint-1.pt", weights_only=True)["model_state"]["wave"].is_complex()
    ends = ("--endpoint0", "c0.pt", "--endpoint1", "c1.pt", "--epochs", "1", "--output-dir", "curve")
    assert mcx("curve", "train", *ends, *words).code == 0
    found_ = ("--curve-checkpoint", "curve/checkpoints/checkpoint-1.pt", "--t", "1", "--bn", "keep")
    done = mcx("curve", "extract", *found_, "--output", "x.pt", *words[:2])
    assert done.code == 0, done.err
    assert torch.equal(torch.load("x.pt", weights_only=True)["model_state"]["wave"], b["wave"])


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model", "own_code:Pair"), "gives tuple for two images, expected (2, 10) logits"),
        (("--model", "own_code:Failing"), "forward fails on images (2, 1, 8, 8): KeyError: 'no such layer'"),
        (("--model", "own_code:Unmade"), "Unmade() fails at own_code.py:36: ValueError: no weights here"),
        (("--model", "own_code:script"), "'own_code:script' made a script, whose layers cannot be seen"),
        (("--dataset", "own_code:failing_item"), "an item fails at own_code.py:57: ZeroDivisionError"),
        (("--dataset", "own_code:nothing"), "own_code:nothing (train) is a NoneType, no data set"),
    ],
)
def test_what_fails_in_the_users_own_code_is_one_line(
    mcx: Callable, flags: tuple[str, str], message: str
) -> None:
    rest = {"--model": "own_code:Plain", "--dataset": "digits", **dict([flags])}
    words = [word for pair in rest.items() for word in pair]
    done = mcx("train", *words, "--epochs", "1", "--output-dir", "t")
    assert done.code == 3
    assert message in done.err
    assert "Traceback" not in done.err
