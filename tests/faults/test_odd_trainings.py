"""Trainings at their limits: losses that overflow, a full disk, ends that do not fit, no epochs, too few images."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from faults.commands import OWN, TRAIN, A, B
from modeconn_cli.engine.networks import checkpoints
from modeconn_cli.engine.results import files, streams

CURVE = ["curve", "train", A, B, *OWN, "--epochs", "2", "--save-freq", "1", "-q"]
LMC = ["lmc", "run", *OWN, "--dataset", "data.npz", "--k1", "1", "--k2", "1", "--num-alphas", "3", "-q"]
RUNS = {"train": TRAIN, "curve train": CURVE, "lmc run": LMC}
EVERY = pytest.mark.parametrize("command", RUNS)


def finite(path: Path) -> bool:
    content = checkpoints.integrity.load(path)
    states = content.get("control_points") or [content["model_state"]]
    return all(bool(torch.isfinite(tensor).all()) for state in states for tensor in state.values())


@EVERY
@pytest.mark.parametrize("rate", ["1e9", "1e30"])
def test_e10_a_loss_that_is_not_finite_names_step_rate_and_the_last_finite_checkpoint(
    mcx: Callable, here: Path, command: str, rate: str
) -> None:
    done = mcx(*RUNS[command], "--batch-size", "8", "--lr", rate, "--output-dir", "out")
    assert (done.code, done.out) == (3, ""), done.err
    found = re.search(
        r"error: the training loss became NaN or infinite by step (\d+) at learning rate (\S+); "
        r"the last finite checkpoint is '(\S+)'\n",
        done.err,
    )
    assert found is not None, done.err
    assert int(found[1]) <= 16
    assert float(found[2]) == float(rate)
    assert "hint: use a smaller --lr\n" in done.err
    made = list(Path("out").rglob("*.pt"))
    assert Path(found[3]) in made
    assert all(map(finite, made))
    assert mcx("status", "out").code == 3


@pytest.mark.parametrize("command", ["train", "curve train"])
def test_e11_a_disk_that_is_full_at_the_third_epoch_leaves_the_checkpoints_before_it(
    mcx: Callable, here: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    words = [*RUNS[command], "--epochs", "4", "--output-dir", "out"]
    folder = Path("out", {"train": "seed0", "curve train": "checkpoints"}[command])
    assert mcx(*words).code == 0
    expected = {path.name: path.read_bytes() for path in folder.glob("*.pt")}
    shutil.rmtree("out")
    second: list[Path] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            files, "published", lambda path: second.extend([path] * (path.name == "checkpoint-2.pt"))
        )
        patch.setattr(streams, "failpoint", lambda place: "short" * (place == "files.write" and bool(second)))
        done = mcx(*words)
    assert (done.code, done.out) == (5, ""), done.err
    assert f"error: no space left writing '{folder}/checkpoint-3.pt'" in done.err
    assert not list(Path("out").rglob(".mcx-*.tmp"))
    left = {path.name: path.read_bytes() for path in folder.glob("*.pt")}
    assert left == {
        name: expected[name] for name in ("checkpoint-0.pt", "checkpoint-1.pt", "checkpoint-2.pt")
    }
    assert mcx(*words).code == 0
    assert {path.name: path.read_bytes() for path in folder.glob("*.pt")} == expected


@pytest.mark.parametrize("kind", ["curve train", "curve eval", "lmc interpolate"])
def test_e12_ends_of_other_shapes_are_refused_with_all_mismatches(
    mcx: Callable, here: Path, kind: str
) -> None:
    content = torch.load(B, weights_only=True)
    for name in ("4.weight", "4.bias"):
        content["model_state"][name] = content["model_state"][name][:2]
    with Path("other.pt").open("wb") as stream:
        torch.save(content, stream)
    for ends in ((A, "other.pt"), ("other.pt", A)):
        done = mcx(*kind.split(), *ends, *OWN, "--output-dir", "out")
        assert (done.code, done.out, Path("out").exists()) == (3, "", False), done.err
        assert "2 of 9 tensors differ in shape" in done.err or "2 mismatches, 4.weight" in done.err


def test_e12_equal_ends_are_trained_with_a_warning(mcx: Callable, here: Path) -> None:
    shutil.copy(A, "copy.pt")
    for k, other in enumerate((A, "copy.pt")):
        words = [word if word != B else other for word in CURVE]
        done = mcx(*words, "--epochs", "1", "--output-dir", str(k))
        assert done.code == 0, done.err
        assert "mcx curve train: warning: " in done.err


@pytest.mark.parametrize(
    ("bends", "said"), [("1", "at least 2"), ("0", "at least 2"), ("-1", "at least 2"), ("2", "")]
)
def test_e12_too_few_bends_are_refused(mcx: Callable, here: Path, bends: str, said: str) -> None:
    done = mcx(*CURVE, "--num-bends", bends, "--output-dir", "out")
    assert (done.code, done.out, Path("out").exists()) == (2, "", False), done.err
    assert (f"--num-bends must be {said}" if said else "leaves nothing to train") in done.err


@pytest.mark.parametrize("kind", ["bezier", "polychain"])
@pytest.mark.parametrize("bends", ["3", "4"])
def test_e15_the_ends_of_every_kind_of_curve_are_the_networks_bit_for_bit(
    mcx: Callable, here: Path, kind: str, bends: str
) -> None:
    words = [
        *CURVE,
        "--epochs",
        "1",
        "--curve",
        kind,
        "--num-bends",
        bends,
        "--lr",
        "0.1",
        "--output-dir",
        "out",
    ]
    assert mcx(*words).code == 0
    curve = ("--curve-checkpoint", "out/checkpoints/checkpoint-1.pt")
    for t, end in (("0", A), ("1", B)):
        done = mcx("curve", "extract", *curve, "--t", t, *OWN, "--bn", "none", "--output", f"{t}.pt", "-q")
        assert done.code == 0, done.err
        own, taken = checkpoints.read(Path(end)).state, checkpoints.read(Path(f"{t}.pt")).state
        assert list(taken) == list(own)
        parameters = [name for name in own if not name.startswith("2.running")]  # these are of the path
        assert all(torch.equal(taken[name], own[name]) for name in parameters if "tracked" not in name)
    done = mcx("curve", "extract", *curve, "--t", "0.5", *OWN, "--bn", "none", "--output", "half.pt", "-q")
    half = checkpoints.read(Path("half.pt")).state["1.weight"]
    assert not any(torch.equal(half, checkpoints.read(Path(end)).state["1.weight"]) for end in (A, B))


ODD = {
    "no epochs": ["--epochs", "0"],
    "less data than a batch": ["--max-samples", "3", "--batch-size", "128"],
    "one sample": ["--max-samples", "1"],
    "batches of one": ["--max-samples", "5", "--batch-size", "1"],
    "a last batch of one": ["--max-samples", "5", "--batch-size", "4"],
}


@pytest.mark.parametrize("command", ["train", "curve train"])
@pytest.mark.parametrize("odd", ODD)
def test_e16_too_little_to_train_on_is_defined(mcx: Callable, here: Path, command: str, odd: str) -> None:
    """The network has batch norm, of which a batch of one has no variance."""
    done = mcx(*RUNS[command], *ODD[odd], "--output-dir", "out")
    alone = odd in ("one sample", "batches of one")
    assert (done.code, "Traceback" in done.err) == (3 if alone else 0, False), done.err
    assert (
        "hint: batch norm has no variance over a batch of one: pass a larger --batch-size" in done.err
    ) == alone
    made = sorted(path.name for path in Path("out").rglob("checkpoint-*.pt"))
    epochs = 0 if alone or odd == "no epochs" else 2
    assert made == [f"checkpoint-{epoch}.pt" for epoch in range(epochs + 1)]
    assert all(map(finite, Path("out").rglob("*.pt")))
