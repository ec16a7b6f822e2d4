"""Rules R2 and L4: a log holds whole lines; what is cut off or lost is made again, or named with what to do."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError, OutputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.paths import evaluate
from modeconn_cli.engine.results import logs
from modeconn_cli.engine.training.metrics import LoggedEpoch, MetricsLog

LINES = [json.dumps({"epoch": k, "train_loss": k / 7, "seconds": 0.25}) for k in (1, 2, 3)]
WHOLE = "".join(f"{line}\n" for line in LINES).encode()


# Writing ----------------------------------------------------------------------------------------------------


def test_a_line_after_one_that_was_cut_off_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for end in range(len(WHOLE) + 1):
        path.write_bytes(WHOLE[:end])
        logs.append_line(path, "next")
        whole = WHOLE[: WHOLE.rfind(b"\n", 0, end) + 1]
        assert path.read_bytes() == whole + b"next\n", end


def test_a_last_line_of_any_length_is_cut_away(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for length in (4094, 4095, 4096, 4097, 10_000):
        path.write_bytes(b"first\n" + b"x" * length)
        logs.append_line(path, "next")
        assert path.read_bytes() == b"first\nnext\n"


@pytest.mark.parametrize("left", [0, 1, 3])
def test_a_line_for_which_there_is_no_space_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    """The disk takes a part of it, and then nothing more."""
    path, write = tmp_path / "log", os.write
    path.write_bytes(WHOLE)
    space = [left]

    def full(handle: int, data: bytes) -> int:
        if not space[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = write(handle, data[: space[0]])
        space[0] -= done
        return done

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutputError, match="no space left writing"):
        logs.append_line(path, "a long line")
    assert path.read_bytes() == WHOLE
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:2]))
    logs.append_line(path, "a long line")
    assert path.read_bytes() == WHOLE + b"a long line\n", "short writes are gone on with"


# Reading ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    name: str
    value: float | None


@dataclass(frozen=True)
class Kind:
    number: int
    share: float
    parts: list[Part] = field(default_factory=list)
    means: dict[str, float | None] = field(default_factory=dict)


def test_a_record_comes_back_with_what_it_holds(tmp_path: Path) -> None:
    made = Kind(3, 0.1, [Part("a", None), Part("b", 2.0)], {"x": None})
    logs.append_line(tmp_path / "log", json.dumps(made, default=vars))
    assert [line.record for line in logs.read(tmp_path / "log", Kind)] == [made]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b'{"number": 1, "sha', "cannot be read"),
        (b'{"number": 1, {"number": 2, "share": 0.5}', "cannot be read"),
        (b"\xff\x00", "cannot be read"),
        (b"", "cannot be read"),
        (b"[1]", "it is no object"),
        (b"null", "it is no object"),
        (b'{"share": 0.5}', "missing 1 required positional argument: 'number'"),
        (b'{"number": 1.5, "share": 0.5}', "'number' is 1.5"),
        (b'{"number": true, "share": 0.5}', "'number' is True"),
        (b'{"number": 1, "share": "0.5"}', "'share' is 0.5"),
        (b'{"number": 1, "share": 0.5, "more": 0}', "'more' is none of its entries"),
        (b'{"number": 1, "share": 0.5, "parts": [1]}', "'parts' is [1]"),
        (b'{"number": 1, "share": 0.5, "parts": [{"name": 1}]}', "'name' is 1"),
        (b'{"number": 1, "share": 0.5, "means": {"x": []}}', "'means' is {'x': []}"),
        (b'{"number": 1, "number": 1, "share": 0.5}', "'number' occurs twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"number": ' + b"1" * 5000 + b', "share": 0.5}', "beyond every float"),
    ],
)
def test_l4_a_damaged_line_is_told_from_the_others(tmp_path: Path, text: bytes, why: str) -> None:
    good = b'{"number": 1, "share": 0.5}\n'
    (tmp_path / "log").write_bytes(good + text + b"\n" + good)
    first, damaged, last = logs.read(tmp_path / "log", Kind)
    assert first.record == last.record == Kind(1, 0.5)
    assert (damaged.record, damaged.damage[:8]) == (None, "line 2: ")
    assert why in damaged.damage


def test_l4_a_log_of_a_training_is_cut_back_to_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / names.METRICS
    for end in range(len(WHOLE) + 1):
        path.write_bytes(WHOLE[:end])
        count = WHOLE[:end].count(b"\n")
        log = MetricsLog(tmp_path, 0)
        assert (log.epoch, MetricsLog(tmp_path).epoch) == (count, count)
        log.cut(count)
        log.add(LoggedEpoch(epoch=count + 1))
        assert path.read_bytes() == WHOLE[: WHOLE.rfind(b"\n", 0, end) + 1] + b'{"epoch": %d}\n' % (count + 1)


@pytest.mark.parametrize("damage", ["lost", "joined", "another", "twice"])
def test_l4_a_log_of_a_training_that_lacks_an_epoch_says_where(tmp_path: Path, damage: str) -> None:
    lines = {
        "lost": [LINES[0], LINES[2]],
        "joined": [LINES[0], LINES[1][:9] + LINES[1], LINES[2]],
        "another": [LINES[0], "hello", LINES[2]],
        "twice": [LINES[0], LINES[0], LINES[2]],
    }[damage]
    (tmp_path / names.METRICS).write_text("".join(f"{line}\n" for line in lines))
    log = MetricsLog(tmp_path, 0)
    with pytest.raises(InputError, match="is not the log of a training: line 2") as caught:
        log.cut(3)
    assert caught.value.hint.startswith("remove the checkpoints after epoch 1 to train on from there, or ")
    with pytest.raises(InputError, match="is not the log of a training: line 2"):
        MetricsLog(tmp_path)
    log.cut(1)
    assert (tmp_path / names.METRICS).read_text() == LINES[0] + "\n"


def test_l4_a_log_of_positions_cut_off_or_damaged_anywhere_keeps_the_other_positions(tmp_path: Path) -> None:
    made = [evaluate.Measurement(t, *(t / k for k in range(2, 8))) for t in (0.0, 0.5, 1.0)]
    rows = [json.dumps(vars(each)).encode() + b"\n" for each in made]
    log, runtime = tmp_path / evaluate.LOG, Runtime(device=None)
    path, whole = tmp_path / evaluate.LOG.format(0), b"".join(rows)
    for at in range(len(whole) + 1):
        path.write_bytes(whole[:at])
        kept = evaluate._kept(evaluate.Measurement, log, runtime)
        assert list(kept.values()) == made[: whole[:at].count(b"\n")]
        path.write_bytes(whole[:at] + b"{" + whole[at:])
        others = [each for k, each in enumerate(made) if k != whole[:at].count(b"\n")]
        assert list(evaluate._kept(evaluate.Measurement, log, runtime).values()) == others


# Commands ---------------------------------------------------------------------------------------------------

TINY = ("--model", "mlp", "--model-arg", "width=4,depth=1", "--dataset", "digits", "--max-samples", "200")


def results(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file() and ".mcx" not in path.parts]
    seconds = re.compile(rb'"seconds": [\d.e-]+')
    return {str(path.relative_to(folder)): seconds.sub(b"", path.read_bytes()) for path in found}


def test_l4_a_training_goes_on_after_what_it_says_of_a_lost_line_was_done(
    mcx: Callable, fresh: Callable, tmp_path: Path
) -> None:
    words = ("train", *TINY, "--epochs", "4", "--save-freq", "1", "--output-dir")
    assert mcx(*words, tmp_path / "whole").code == 0
    folder = tmp_path / "out/seed0"
    kill = {"MCX_TESTING": "1", "MCX_FAILPOINT": "train.after_step:6=kill"}
    assert fresh(*words, tmp_path / "out", environment=kill).code == -9
    path = folder / names.METRICS
    rows = path.read_bytes().splitlines(keepends=True)
    assert len(rows) == 2
    path.write_bytes(rows[1])
    done = mcx(*words, tmp_path / "out")
    assert (done.code, f"'{path}' is not the log of a training: line 1" in done.err) == (3, True), done.err
    assert "remove the checkpoints after epoch 0 to train on from there" in done.err
    for epoch in (1, 2):
        (folder / names.checkpoint(epoch)).unlink()
    done = mcx(*words, tmp_path / "out")
    assert done.code == 0, done.err
    assert results(tmp_path / "out") == results(tmp_path / "whole")


@pytest.mark.parametrize("damage", [lambda rows: rows[1:], lambda rows: [rows[0][:20] + rows[1], *rows[2:]]])
def test_l4_epochs_whose_line_is_lost_are_scored_again(
    mcx: Callable, networks: Path, tmp_path: Path, damage: Callable[[list[bytes]], list[bytes]]
) -> None:
    words = ("dormant", "--checkpoint-dir", networks / "seed0", "--output-dir")
    assert mcx(*words, tmp_path / "whole").code == 0
    assert mcx(*words, tmp_path / "out").code == 0
    path = tmp_path / "out/.mcx/dormant/scored.jsonl"
    path.write_bytes(b"".join(damage(path.read_bytes().splitlines(keepends=True))))
    done = mcx(*words, tmp_path / "out")
    assert done.code == 0, done.err
    assert results(tmp_path / "out") == results(tmp_path / "whole")


@pytest.mark.slow
def test_l4_a_log_of_scores_cut_off_anywhere_is_completed(
    mcx: Callable, networks: Path, tmp_path: Path
) -> None:
    words = ("dormant", "--checkpoint-dir", networks / "seed0", "--max-samples", "64", "--output-dir")
    assert mcx(*words, tmp_path / "whole").code == 0
    assert mcx(*words, tmp_path / "out").code == 0
    path = tmp_path / "out/.mcx/dormant/scored.jsonl"
    whole = path.read_bytes()
    for end in range(0, len(whole), 53):
        path.write_bytes(whole[:end])
        done = mcx(*words, tmp_path / "out")
        assert (done.code, done.err.count("Traceback")) == (0, 0), (end, done.err)
        assert results(tmp_path / "out") == results(tmp_path / "whole")


def test_l4_positions_that_are_lost_are_measured_again(
    mcx: Callable, forked: Callable, networks: Path, tmp_path: Path
) -> None:
    ends = (
        "--endpoint0",
        networks / "seed0/checkpoint-4.pt",
        "--endpoint1",
        networks / "seed1/checkpoint-4.pt",
    )
    words = ("curve", "eval", *ends, "--num-points", "4", "--max-samples", "64", "--output-dir")
    assert mcx(*words, tmp_path / "whole").code == 0
    kill = {"MCX_TESTING": "1", "MCX_FAILPOINT": "evaluate.after_position.rank0:3=kill"}
    assert forked([*words, tmp_path / "out"], kill).code == -9
    path = tmp_path / "out/.mcx/curve-eval" / evaluate.LOG.format(0)
    rows = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(rows[0] + rows[1][:30] + rows[2])
    done = mcx(*words, tmp_path / "out")
    assert (done.code, f"'{path}' line 2: " in done.err, "measured again" in done.err) == (0, True, True), (
        done.err
    )
    arrays: Any = [(tmp_path / name / "curve.npz").read_bytes() for name in ("out", "whole")]
    assert arrays[0] == arrays[1]
