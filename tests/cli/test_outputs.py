"""What a user's network may give, and what is said of one whose outputs are no logits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

NETWORKS = """
from collections import namedtuple
import torch
from torch import nn

Heads = namedtuple("Heads", "logits aux")
Named = namedtuple("Named", "logits features")

class Output(dict):
    '''As Hugging Face's: a dictionary with attributes.'''
    def __getattr__(self, name):
        return self[name]

class Base(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.a, self.f, self.g = nn.Linear(64, 16), nn.Linear(16, classes), nn.Linear(16, classes)

    def hidden(self, x):
        return self.a(x.flatten(1)).relu()

class Plain(Base):
    def forward(self, x):
        return self.f(self.hidden(x))

class AsOutput(Base):
    def forward(self, x):
        h = self.hidden(x)
        return Output(logits=self.f(h), hidden_states=None, loss=None)

class AsNamed(Base):
    def forward(self, x):
        h = self.hidden(x)
        return Named(self.f(h), h)

class TwoHeads(Base):
    def forward(self, x):
        h = self.hidden(x)
        return Heads(self.f(h), self.g(h)) if self.training else self.f(h)

class Pair(Base):
    def forward(self, x):
        h = self.hidden(x)
        return self.f(h), h

class Normed(Base):
    def __init__(self):
        super().__init__()
        self.n = nn.BatchNorm1d(16)

    def forward(self, x):
        return self.f(self.n(self.a(x.flatten(1))))

def make(kind):
    return lambda input_shape, num_classes: kind()

plain, as_output, as_named, two_heads, pair, normed = map(make, (Plain, AsOutput, AsNamed, TwoHeads, Pair, Normed))
few = lambda input_shape, num_classes: Plain(5)
"""
DATA = ("--dataset", "digits", "--max-samples", "60")


@pytest.fixture(autouse=True)
def _networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "output_networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name", ["as_output", "as_named"])
def test_logits_are_taken_out_of_objects_and_named_tuples(mcx: Callable, tmp_path: Path, name: str) -> None:
    """Training and scores are those of the network that returns them alone."""
    found = []
    for each in ("plain", name):
        words = ("--model", f"output_networks:{each}", *DATA)
        assert mcx("train", *words, "--epochs", "1", "--output-dir", tmp_path / each, "-q").code == 0
        run = ("--checkpoint", tmp_path / each / "seed0/checkpoint-1.pt", *words)
        done = mcx("csl", "score", *run, "--output-dir", tmp_path / f"{each}-scores", "--json")
        assert done.code == 0, done.err
        (row,) = json.loads(done.out)["epochs"]
        assert mcx("dormant", *run, "--output-dir", tmp_path / f"{each}-dormant", "-q").code == 0
        found.append((row["mean_loss"], row["mean_grad"]))
    assert found[0] == pytest.approx(found[1], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "words", "code", "message"),
    [
        ("two_heads", (), 3, "gives a Heads in training mode"),
        ("pair", (), 3, "gives tuple for two images"),
        ("normed", ("--batch-size", "1"), 3, "Expected more than 1 value per channel"),
        ("few", (), 3, "gives (2, 5) for two images"),
    ],
)
def test_training_says_in_a_line_what_it_cannot_take(
    mcx: Callable, tmp_path: Path, name: str, words: tuple[str, ...], code: int, message: str
) -> None:
    model = ("--model", f"output_networks:{name}", *DATA)
    done = mcx("train", *model, *words, "--epochs", "1", "--output-dir", tmp_path / "run")
    assert (done.code, message in done.err) == (code, True), done.err


def test_scores_need_a_logit_for_every_class(mcx: Callable, tmp_path: Path) -> None:
    from importlib import import_module

    torch.save(import_module("output_networks").Plain(5).state_dict(), tmp_path / "few.pt")
    words = ("--checkpoint", tmp_path / "few.pt", "--model", "output_networks:few", *DATA)
    done = mcx("csl", "score", *words, "--output-dir", tmp_path / "out")
    assert done.code == 3
    assert "gives 5 logits, the data have 10 classes" in done.err
