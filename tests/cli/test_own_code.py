"""Unusual networks and data of the user's own: taken as they are meant, or one line says what fails."""

from __future__ import annotations

import importlib
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

class Complex(Plain):
    def __init__(self):
        super().__init__()
        self.phase = nn.Parameter(torch.zeros(3, dtype=torch.cfloat))

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


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model", "own_code:Pair"), "gives tuple for two images, expected (2, 10) logits"),
        (("--model", "own_code:Failing"), "forward fails on images (2, 1, 8, 8): KeyError: 'no such layer'"),
        (("--model", "own_code:Unmade"), "Unmade() fails at own_code.py:36: ValueError: no weights here"),
        (("--model", "own_code:Complex"), "the parameter 'phase' of 'own_code:Complex' is complex"),
        (("--model", "own_code:script"), "'own_code:script' made a script, whose layers cannot be seen"),
        (("--dataset", "own_code:failing_item"), "an item fails at own_code.py:52: ZeroDivisionError"),
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
