"""Trainings that are continued, or asked for again: the same bits, or a line that says what differs."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faults.commands import OWN, TRAIN, A, B, other_data, other_weights
from modeconn_cli.engine.machine import runtime
from modeconn_cli.engine.networks import checkpoints
from modeconn_cli.engine.training import evaluation, loop

EPOCHS = ("--epochs", "2", "--save-freq", "1", "--batch-size", "16")  # of four steps each
RUNS = {
    "train": ([*TRAIN, "--batch-size", "16", "--output-dir", "out"], "out/seed0"),
    "curve train": (
        ["curve", "train", A, B, *OWN, *EPOCHS, "--output-dir", "out", "-q"],
        "out/checkpoints",
    ),
}
EVERY = pytest.mark.parametrize("command", RUNS)


def contents(folder: Path | str = ".") -> dict[str, bytes]:
    """Every file but what Python compiles, and what a job says of its last run."""
    found = (path for path in Path(folder).rglob("*") if path.is_file() and path.suffix != ".pyc")
    said = {"status.json", "progress.json", "run.lock"}
    return {str(path): path.read_bytes() for path in found if path.name not in said}


def networks_in(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).glob("checkpoint-*.pt")}


@pytest.fixture
def whole(mcx: Callable, here: Path) -> Callable[[str], dict[str, bytes]]:
    """The networks of a training that nothing disturbs, which is taken away again."""

    def run(command: str) -> dict[str, bytes]:
        words, folder = RUNS[command]
        assert mcx(*words).code == 0
        made = networks_in(folder)
        assert len(made) == 3
        shutil.rmtree("out")
        return made

    return run


@pytest.fixture
def begun(mcx: Callable, here: Path, stopped_by: Callable) -> Callable[[str], Path]:
    """A training that a signal has stopped after its first epoch: two checkpoints lie there."""

    def run(command: str) -> Path:
        words, folder = RUNS[command]
        with stopped_by("train.after_step:4=usr2"):
            done = mcx(*words)
        assert done.code == 75, done.err
        assert len(networks_in(folder)) == 2
        return Path(folder)

    return run


# Signals -------------------------------------------------------------------------------------------------


@EVERY
def test_e3_a_run_that_every_signal_stops_in_its_turn_ends_with_the_same_bits(
    mcx: Callable, whole: Callable, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """After two steps more each time: in the middle of an epoch, and at its end."""
    expected = whole(command)
    words, folder = RUNS[command]
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        with monkeypatch.context() as patch:
            patch.setattr(loop, "failpoint", at_step(2, number))
            done = mcx(*words)
        assert (done.code, done.out) == (75, ""), done.err
        assert mcx("status", folder, "-q").code == 75
    with monkeypatch.context() as patch:
        patch.setattr(loop, "failpoint", at_step(1, signal.SIGINT))
        assert mcx(*words).code == 75
    assert mcx(*words).code == 0
    assert networks_in(folder) == expected


def at_step(turn: int, *numbers: int) -> Callable[[str], str]:
    """What sends signals to this process at the end of a step."""
    left = [turn]

    def failpoint(place: str) -> str:
        left[0] -= place == "train.after_step"
        for number in numbers if left[0] == 0 else ():
            os.kill(os.getpid(), number)
        return ""

    return failpoint


# Is stopped after its first step, again and again.
IN_A_GROUP = """
import os, sys
from modeconn_cli.cli.app import main
from modeconn_cli.engine.training import loop
for number in {numbers}:
    loop.failpoint = lambda place: os.killpg(0, number)
    print(main({words!r}))
"""


@pytest.mark.slow
def test_e3_a_signal_to_the_whole_group_leaves_its_loaders_to_the_training(
    mcx: Callable, fresh: Callable, pictures: Path, tmp_path: Path
) -> None:
    model = ["--model", "mlp", "--model-arg", "width=4,depth=1", "--image-size", "8", "--epochs", "2"]
    words = ["train", *model, "--dataset", str(pictures), "--save-freq", "1", "--threads", "1", "-q"]
    words += ["--batch-size", "4", "--workers", "2", "--output-dir"]
    assert mcx(*words, tmp_path / "whole").code == 0
    again = [*words, str(tmp_path / "again")]
    numbers = [int(number) for number in runtime.STOP_SIGNALS]
    done = fresh("-c", IN_A_GROUP.format(numbers=numbers, words=again), start_new_session=True)
    assert (done.code, done.out.split(), "Traceback" in done.err) == (0, ["75"] * 4, False), done.err
    assert mcx(*again).code == 0
    assert networks_in(tmp_path / "again/seed0") == networks_in(tmp_path / "whole/seed0")


@EVERY
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_e4_a_second_signal_ends_at_once_and_the_last_checkpoint_is_whole(
    mcx: Callable, whole: Callable, monkeypatch: pytest.MonkeyPatch, command: str, number: int
) -> None:
    expected = whole(command)
    words, folder = RUNS[command]
    with monkeypatch.context() as patch:
        patch.setattr(runtime, "ECHO", 0.0)
        patch.setattr(loop, "failpoint", at_step(6, number, number))
        done = mcx(*words)
    assert (done.code, done.out) == (128 + number, ""), done.err
    assert "Traceback" not in done.err
    assert not (Path(folder) / "last.pt").exists(), "it did not stop to save"
    made = networks_in(folder)
    assert made == {name: expected[name] for name in ("checkpoint-0.pt", "checkpoint-1.pt")}
    assert mcx(*words).code == 0
    assert networks_in(folder) == expected


def test_e4_sigterm_that_comes_twice_at_once_is_one(
    mcx: Callable, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `timeout` and schedulers send it: to the process, and to its group."""
    words, folder = RUNS["train"]
    monkeypatch.setattr(loop, "failpoint", at_step(6, signal.SIGTERM, signal.SIGTERM))
    assert mcx(*words).code == 75
    assert checkpoints.read(Path(folder) / "last.pt").epoch == 1


# While it begins, logs, writes a checkpoint, takes the last step, writes the last of all.
PLACES = {
    "files.before_write:1": 75, "files.before_rename:4": 75, "logs.before_write:1": 75, "files.before_sync:6": 75,
    "train.after_step:1": 75, "logs.after_write:2": 75, "files.before_rename:7": 75, "train.after_step:8": 0,
    "logs.after_write:4": 0, "files.before_write:9": 0, "files.after_rename:10": 0,
}  # fmt: skip
QUICK = ("files.before_sync:6", "train.after_step:8")


@EVERY
@pytest.mark.parametrize(
    "place", [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in PLACES]
)
def test_e5_a_signal_at_any_moment_breaks_no_file(
    mcx: Callable, whole: Callable, stopped_by: Callable, command: str, place: str
) -> None:
    expected = whole(command)
    words, folder = RUNS[command]
    with stopped_by(f"{place}=term"):
        done = mcx(*words)
    assert done.code == PLACES[place], done.err
    for path in Path(folder).glob("*.pt"):
        checkpoints.read(path)
    assert mcx(*words).code == 0
    assert networks_in(folder) == expected


def test_e5_a_signal_while_it_evaluates_is_saved_after_it(
    mcx: Callable, whole: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = whole("train")
    words, folder = RUNS["train"]
    evaluate = evaluation.evaluate

    def stopped(*given: Any, **more: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "evaluate", stopped)
        assert mcx(*words).code == 75
    assert sorted(networks_in(folder)) == ["checkpoint-0.pt", "checkpoint-1.pt"]
    assert mcx(*words).code == 0
    assert networks_in(folder) == expected


# Checkpoints that are damaged -------------------------------------------------------------------------------

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "text": lambda content: b"hello\n",
    "cut off": lambda content: content[: len(content) // 2],
    "one byte": lambda content: content[:3000] + bytes([content[3000] ^ 1]) + content[3001:],
}


@EVERY
@pytest.mark.parametrize(
    "damage", [each if each == "cut off" else pytest.param(each, marks=pytest.mark.slow) for each in DAMAGE]
)
def test_e6_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(
    mcx: Callable, whole: Callable, begun: Callable, command: str, damage: str
) -> None:
    expected = whole(command)
    words, _ = RUNS[command]
    folder = begun(command)
    newest = folder / "checkpoint-1.pt"
    bad = DAMAGE[damage](newest.read_bytes())
    newest.write_bytes(bad)
    done = mcx(*words)
    assert done.code == 0, done.err
    assert f"warning: '{newest}'" in done.err
    assert "kept as 'checkpoint-1.pt.corrupt', going on from the one before" in done.err
    assert (folder / "checkpoint-1.pt.corrupt").read_bytes() == bad
    assert networks_in(str(folder)) == expected


@EVERY
@pytest.mark.parametrize("harm", ["damaged", "removed"])
def test_e7_a_run_without_any_whole_checkpoint_is_not_begun_anew_silently(
    mcx: Callable, whole: Callable, begun: Callable, command: str, harm: str
) -> None:
    expected = whole(command)
    words, _ = RUNS[command]
    folder = begun(command)
    for path in folder.glob("*.pt"):
        path.write_bytes(b"PK\x03\x04") if harm == "damaged" else path.unlink()
    before = contents("out")
    done = mcx(*words)
    assert (done.code, done.out) == (3, ""), done.err
    assert "every state before it" in done.err or "no checkpoint is left of the 1 epochs" in done.err
    assert "--no-resume --overwrite" in done.err
    assert contents("out") == before
    assert mcx(*words, "--no-resume", "--overwrite").code == 0
    assert networks_in(str(folder)) == expected


# Settings and inputs that are others ------------------------------------------------------------------------

OTHER = (
    "--lr 0.02", "--max-samples 30", "--momentum 0.5", "--batch-size 20", "--wd 0.25", "--epochs 9",
    "--schedule cosine", "--optimizer adam", "--save-freq 2", "--transform half", "--eval-every 2", "--val-size 6",
)  # fmt: skip
OF_ONE = {
    "train": ("--model mlp", "--data-seed 9", "--label-noise 0.5"),
    "curve train": (
        "--seed 9",
        "--curve polychain",
        "--num-bends 5",
        "--init-method perturbed",
        "--no-fix-end",
    ),
}


@EVERY
def test_e8_a_run_with_other_settings_is_refused_with_both_values(
    mcx: Callable, whole: Callable, begun: Callable, command: str
) -> None:
    expected = whole(command)
    words, _ = RUNS[command]
    folder = begun(command)
    before = contents("out")
    for other in (*OTHER, *OF_ONE[command]):
        done = mcx(*words, *other.split())
        assert (done.code, done.out, contents("out")) == (3, "", before), other
        name = other.split()[0].removeprefix("--no-").removeprefix("--").replace("-", "_")
        assert f"'{name}' was " in done.err, (other, done.err)
        assert ", now " in done.err
    done = mcx(*words, "--workers", "1", "--device", "cpu", "--threads", "1")
    assert done.code == 0, done.err
    assert "--workers has no effect" not in done.err, "-q"
    assert networks_in(str(folder)) == expected


def test_e8_a_run_of_another_seed_is_another_run(mcx: Callable, begun: Callable) -> None:
    """Its folder is named after it, and the one that is there is kept."""
    folder = begun("train")
    before = contents(folder)
    assert mcx(*RUNS["train"][0], "--seed", "9").code == 0
    assert contents(folder) == before
    assert networks_in("out/seed9")["checkpoint-2.pt"] != networks_in("runs/seed0")["checkpoint-2.pt"]


@EVERY
def test_e8_e13_a_run_whose_data_or_ends_are_others_is_refused_and_goes_on_with_the_old_ones(
    mcx: Callable, whole: Callable, begun: Callable, command: str
) -> None:
    expected = whole(command)
    words, _ = RUNS[command]
    folder = begun(command)
    inputs = {"data.npz": other_data} | ({} if command == "train" else {A: other_weights, B: other_weights})
    for name, exchange in inputs.items():
        own = Path(name).read_bytes()
        exchange(Path(name))
        before = contents()
        done = mcx(*words)
        assert (done.code, done.out, contents() == before) == (3, "", True), done.err
        assert Path(name).stem in done.err
        Path(name).write_bytes(own)
    assert mcx(*words).code == 0
    assert networks_in(str(folder)) == expected


@EVERY
def test_e9_a_run_that_is_finished_is_left_as_it_is(mcx: Callable, here: Path, command: str) -> None:
    words = [word for word in RUNS[command][0] if word != "-q"]
    assert mcx(*words).code == 0

    def files() -> dict[str, tuple[bytes, int]]:
        found = (path for path in Path("out").rglob("*") if path.is_file())
        return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}

    before = files()
    done = mcx(*words)
    assert (done.code, "already complete" in done.err, files() == before) == (0, True, True), done.err
    assert done.out
