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


def test_what_a_file_holds_is_counted_as_distances_count_it(
    mcx: Callable, tmp_path: Path, masked: str
) -> None:
    words = ("--model", masked, "--dataset", "digits", "--epochs", "1", "--save-freq", "1")
    assert mcx("train", *words, "--output-dir", tmp_path).code == 0
    ends = [tmp_path / f"seed0/checkpoint-{epoch}.pt" for epoch in (0, 1)]
    words = ("--model", masked, "--epochs", "0", "--output-dir", tmp_path / "curve")
    assert mcx("curve", "train", "--endpoint0", ends[0], "--endpoint1", ends[1], *words).code == 0
    counts = [
        json.loads(mcx("info", path, "--json").out)["num_params"]
        for path in (*ends, tmp_path / "curve/checkpoints/checkpoint-0.pt")
    ]
    assert counts == [650] * 3
    assert json.loads(mcx("l2", *ends, "--json").out)["total_params"] == 650


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
        ("curvature", "--checkpoint-dir", "{run}", "--sweep-niter", "2"),
        ("swap", "--checkpoint", "{run}/checkpoint-1.pt", "--verify"),
        ("l2", "{run}/checkpoint-0.pt", "{run}/checkpoint-1.pt", "--metric", "functional"),
        ("l2", "a={run}/checkpoint-0.pt", "b={run}/checkpoint-1.pt", "--metric", "l2,fisher"),
        ("l2", "{run}", "--metric", "functional"),
        ("l2", "{run}/*.pt", "--metric", "functional"),
        (
            "l2",
            "--checkpoint1",
            "{run}/checkpoint-0.pt",
            "--checkpoint2",
            "{run}/checkpoint-1.pt",
            "--metric",
            "functional",
        ),
        ("lmc", "interpolate", "{run}/checkpoint-0.pt", "{run}/checkpoint-1.pt"),
        ("curve", "eval", "--endpoint0", "{run}/checkpoint-0.pt", "--endpoint1", "{run}/checkpoint-1.pt"),
        ("curve", "train", "--endpoint0", "{run}/checkpoint-0.pt", "--endpoint1", "{run}/checkpoint-1.pt"),
        ("curve", "extract", "--endpoint0", "{run}/checkpoint-0.pt", "--endpoint1", "{run}/checkpoint-1.pt"),
        ("csl", "score", "--checkpoint-dir", "{run}", "--model", "MLP"),
        ("csl", "score", "--checkpoint-dir", "{run}", "--dataset", "Digits"),
    ],
)
def test_the_settings_that_are_printed_are_those_that_the_checkpoints_bring(
    mcx: Callable, noisy: Path, words: tuple[str, ...]
) -> None:
    done = mcx(*(word.format(run=noisy) for word in words), "--print-config")
    assert done.code == 0, done.err
    for line in ("model: mlp", "num_classes: 10", "dataset: digits", "label_noise: 0.25", "label_seed: 0"):
        named = line.split(": ")[0] in ("model", "dataset") and f"--{line.split(': ')[0]}" in words
        assert f"\n{line}  # {'flag' if named else 'checkpoint '}" in f"\n{done.out}", line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("curve", "eval", "--endpoint0", "{run}/checkpoint-0.pt", "--endpoint1", "{run}/checkpoint-1.pt"),
            "wd: 0.0005",
        ),
        (("csl", "score", "--checkpoint-dir", "{run}"), "noise_level: 0.25"),
        (("l2", "{run}/checkpoint-0.pt", "{run}/checkpoint-1.pt"), "# dataset:"),
        (("swap", "--checkpoint", "{run}/checkpoint-1.pt"), "# label_noise:"),
        (("csl", "score", "--checkpoint-dir", "{run}", "--label-noise", "0"), "# label_seed:"),
        (("csl", "score", "--checkpoint-dir", "{run}", "--val-per-class", "2"), "# val_size:"),
        (("csl", "score", "--checkpoint-dir", "{run}", "--dataset", "synthetic"), "# label_noise:"),
    ],
)
def test_what_is_printed_is_what_the_command_would_use(
    mcx: Callable, noisy: Path, words: tuple[str, ...], line: str
) -> None:
    done = mcx(*(word.format(run=noisy) for word in words), "--print-config")
    assert f"\n{line}  # " in done.out, done.err


A, B = "{run}/checkpoint-0.pt", "{run}/checkpoint-1.pt"
ENDS = f"--endpoint0 {A} --endpoint1 {B}"
SPELLED = "--model MLP --num-classes 10 --dataset Digits --max-samples 100 --label-noise 0.25 --label-seed 0"
# Lines of words, and what a checkpoint says in words of its own.
ROUNDS = {
    "csl score --checkpoint-dir {run} --grad none --output-dir o": f"{SPELLED} --noise-level 0.25",
    f"csl score --checkpoint {B} --scheme short --output-dir o": SPELLED,
    f"csl score --checkpoint {B} --label-noise 0 --grad none --output-dir o": "--val-size 0",
    f"csl score --checkpoint {B} --split test --grad none --output-dir o": SPELLED,
    f"curvature --checkpoint {B} --niter 1 --output-dir o": SPELLED,
    "curvature --checkpoint-dir {run} --sweep-niter 1,2 --niter 1 --output-dir o": SPELLED,
    "dormant --checkpoint-dir {run} --start-epoch 1 --output-dir o": SPELLED,
    f"swap --checkpoint {B} --output o.pt": "--model MLP --num-classes 10",
    f"swap --checkpoint {B} --output o.pt --verify --no-use-test --val-size 40": "--model MLP --label-noise 0.25",
    f"swap --checkpoint {B} --output o.pt --mirror --no-verify": "--seed 7",
    f"l2 {A} {B} --output o.json": "",
    f"l2 {A} {B} --metric functional --output o.json": SPELLED,
    f"l2 {A} {B} --metric functional --label-noise 0 --output o.json": "--model mlp",
    f"l2 a={A} b={B} --metric functional --output-dir o": SPELLED,
    "l2 {run} --pairs all --output-dir o": "",
    f"lmc interpolate {A} {B} --num-alphas 3 --output-dir o": SPELLED,
    f"curve eval {ENDS} --num-points 2 --output-dir o": f"{SPELLED} --wd 5e-4",
    f"curve eval {ENDS} --num-points 2 --bn none --output-dir o": f"{SPELLED} --wd 5e-4",
    f"curve plane {A} --random-directions 0 --grid-points 2 --output-dir o": f"{SPELLED} --wd 5e-4",
    f"curve extract {ENDS} --t 0.5 --output o.pt": f"{SPELLED}",
    f"curve extract {ENDS} --t 0.5 --bn none --output o.pt": "--model MLP",
    f"curve train {ENDS} --epochs 1 --output-dir o": SPELLED,
    "train --model MLP --dataset Digits --max-samples 50 --epochs 1 --output-dir o": "--model mlp --dataset digits",
}


@pytest.mark.parametrize("line", ROUNDS)
def test_the_same_job_goes_on_with_the_settings_that_are_printed_and_with_spelled_out_ones(
    mcx: Callable, noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    words = line.format(run=noisy).split()
    command = words[:2] if words[0] in ("csl", "lmc", "curve") else words[:1]
    first = mcx(*words)
    assert first.code == 0, first.err
    before = {path: path.read_bytes() for path in tmp_path.rglob("o*") if path.is_file()}
    printed = mcx(*words, "--print-config")
    assert printed.code == 0, printed.err
    Path("printed.yaml").write_text(printed.out)
    rounds = [[*command, "--config", "printed.yaml"], [*words, *ROUNDS[line].split()]]
    rounds += [[*command, "--config", path] for path in tmp_path.glob("**/config.resolved.yaml")]
    for again in rounds:
        done = mcx(*again)
        assert (done.code, "already complete" in done.err) == (0, True), (again, done.err)
    assert {path: path.read_bytes() for path in before} == before


def test_a_job_of_before_the_record_said_what_checkpoints_brought_goes_on(
    mcx: Callable, noisy: Path, tmp_path: Path
) -> None:
    words = ("csl", "score", "--checkpoint-dir", noisy, "--grad", "none", "--output-dir", tmp_path)
    assert mcx(*words).code == 0
    (record,) = tmp_path.glob(".mcx/*/record.json")
    said = json.loads(record.read_text())
    for name in (
        "model",
        "num_classes",
        "dataset",
        "label_noise",
        "label_seed",
        "noise_level",
        "max_samples",
    ):
        assert said["settings"][name] is not None
        said["settings"][name] = None
    record.write_text(json.dumps(said))
    done = mcx(*words)
    assert (done.code, "already complete" in done.err) == (0, True), done.err
    done = mcx(*words, "--label-noise", "0.5")
    assert (done.code, "'label_noise' was None, now 0.5" in done.err) == (3, True), done.err


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
