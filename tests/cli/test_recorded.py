"""What a run says of itself in its files is what it did, and later commands believe it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

MASKED = """
import torch
from torch import nn

class Masked(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.linear = nn.Linear(64, num_classes)
        self.register_buffer("mask", torch.full((1000,), 100.0))

    def forward(self, images):
        return self.linear(images.flatten(1) * self.mask[:64] / 100)

def net(input_shape, num_classes):
    return Masked(num_classes)
"""


@pytest.fixture
def masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A network of 650 parameters with a buffer of its own of 1,000 numbers, by its import path."""
    (tmp_path / "masked_network.py").write_text(MASKED)
    monkeypatch.syspath_prepend(tmp_path)
    return "masked_network:net"


def test_training_refuses_a_choice_of_labels_that_its_record_could_not_say(
    mcx: Callable, tmp_path: Path
) -> None:
    words = (
        "train",
        "--model",
        "mlp",
        "--dataset",
        "digits",
        "--epochs",
        "1",
        "--output-dir",
        tmp_path / "run",
    )
    done = mcx(*words, "--label-noise", "0.3", "--labels", "clean")
    assert done.code == 2
    assert "--labels" in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("noise", ["0.3", "0"])
def test_losses_are_of_the_labels_that_the_run_was_trained_on(
    mcx: Callable, tmp_path: Path, noise: str
) -> None:
    run = tmp_path / "run"
    words = ("--model", "mlp", "--dataset", "digits", "--epochs", "3", "--lr", "0.1", "--wd", "0")
    assert mcx("train", *words, "--label-noise", noise, "--output-dir", run).code == 0
    trained = [json.loads(line) for line in (run / "seed0/metrics.jsonl").read_text().splitlines()][-1]
    scored = mcx(
        "csl", "score", "--checkpoint", run / "seed0/checkpoint-3.pt", "--split", "fit", "--weight-decay", "0",
        "--grad", "none", "--output-dir", tmp_path / "scores",
    )  # fmt: skip
    assert scored.code == 0, scored.err
    (found,) = (tmp_path / "scores").glob("loss_digits_*_epoch_3*.npy")
    # The network went on learning while the training's own mean was taken.
    assert float(np.load(found).mean()) == pytest.approx(trained["train_loss"], rel=0.25)


@pytest.mark.parametrize("how", ["train", "lmc"])
def test_a_networks_own_buffers_are_no_parameters_whoever_trained_it(
    mcx: Callable, tmp_path: Path, masked: str, how: str
) -> None:
    words = ("--model", masked, "--dataset", "digits", "--output-dir", tmp_path / "run", "--lr", "0.1")
    if how == "train":
        assert mcx("train", *words, "--epochs", "1", "--seeds", "0").code == 0
        ends = [tmp_path / f"run/seed0/checkpoint-{epoch}.pt" for epoch in (0, 1)]
    else:
        run = mcx("lmc", "run", *words, "--k1", "0", "--k2", "1", "--num-alphas", "3")
        assert run.code == 0, run.err
        ends = sorted((tmp_path / "run").rglob("main/checkpoint-[01].pt"))
    states = [torch.load(end, weights_only=True)["model_state"] for end in ends]
    states[1]["mask"] += 12.0  # a distance over the buffer would be 379
    torch.save({**torch.load(ends[1], weights_only=True), "model_state": states[1]}, ends[1])
    done = mcx("l2", *ends, "--json")
    assert done.code == 0, done.err
    statistics = json.loads(done.out)
    direct = sum(
        float((states[0][name].double() - states[1][name].double()).square().sum())
        for name in ("linear.weight", "linear.bias")
    )
    assert "1,650" not in done.out
    assert json.dumps(statistics).count("650")
    assert mcx("l2", *ends).out.splitlines()[1].split()[-1] == f"{direct**0.5:.6f}"


@pytest.mark.parametrize(
    "words",
    [
        ("csl", "score", "--checkpoint-dir", "{run}"),
        ("curvature", "--checkpoint", "{run}/checkpoint-1.pt"),
        ("dormant", "--checkpoint-dir", "{run}"),
        ("swap", "--checkpoint", "{run}/checkpoint-1.pt"),
        ("l2", "{run}/checkpoint-0.pt", "{run}/checkpoint-1.pt"),
        ("l2", "{run}"),
        ("l2", "--checkpoint1", "{run}/checkpoint-0.pt", "--checkpoint2", "{run}/checkpoint-1.pt"),
        ("lmc", "interpolate", "{run}/checkpoint-0.pt", "{run}/checkpoint-1.pt"),
        ("curve", "eval", "--endpoint0", "{run}/checkpoint-0.pt", "--endpoint1", "{run}/checkpoint-1.pt"),
        ("curve", "train", "--endpoint0", "{run}/checkpoint-0.pt", "--endpoint1", "{run}/checkpoint-1.pt"),
    ],
)
def test_the_settings_that_are_printed_are_those_that_the_checkpoints_bring(
    mcx: Callable, tmp_path: Path, words: tuple[str, ...]
) -> None:
    where = ("--output-dir", tmp_path)
    train = (
        "--model",
        "mlp",
        "--dataset",
        "digits",
        "--label-noise",
        "0.25",
        "--epochs",
        "1",
        "--save-freq",
        "1",
    )
    assert mcx("train", *train, *where).code == 0
    done = mcx(*(word.format(run=tmp_path / "seed0") for word in words), "--print-config")
    assert done.code == 0, done.err
    for line in ("model: mlp", "num_classes: 10", "dataset: digits", "label_noise: 0.25", "label_seed: 0"):
        assert f"\n{line}  # checkpoint " in f"\n{done.out}", line


def test_a_trained_curve_records_the_data_that_its_ends_have_brought(mcx: Callable, tmp_path: Path) -> None:
    train = ("--model", "mlp", "--dataset", "digits", "--val-size", "40", "--epochs", "1", "--save-freq", "1")
    assert mcx("train", *train, "--output-dir", tmp_path).code == 0
    ends = [tmp_path / f"seed0/checkpoint-{epoch}.pt" for epoch in (0, 1)]
    words = (
        "--endpoint0",
        ends[0],
        "--endpoint1",
        ends[1],
        "--epochs",
        "1",
        "--output-dir",
        tmp_path / "curve",
    )
    assert mcx("curve", "train", *words).code == 0
    said = torch.load(tmp_path / "curve/checkpoints/checkpoint-1.pt", weights_only=True)["mcx"]
    assert said["settings"]["dataset"] == said["dataset"] == "digits"
    assert (said["settings"]["val_size"], said["val_size"]) == (40, 40)


def test_what_a_family_implies_says_nothing_of_labels(mcx: Callable, tmp_path: Path) -> None:
    source = Path(__file__).parents[1] / "data/garipov_preresnet8_a.pt"
    done = mcx("swap", "--checkpoint", source, "--output", tmp_path / "swapped.pt")
    assert done.code == 0, done.err
    said = torch.load(tmp_path / "swapped.pt", weights_only=True)["mcx"]
    assert (said["dataset"], said["transform"]) == ("cifar10", "resnet")
    assert not {"label_noise", "val_size"} & set(said)
