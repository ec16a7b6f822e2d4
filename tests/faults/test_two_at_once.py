"""Two runs into one place at the same time, and runs after a killed one, of every command with a folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faults.commands import CASES
from modeconn_cli.engine import names
from modeconn_cli.engine.results import files

QUICK = ("curve analyze", "csl score")
each_job = pytest.mark.parametrize(
    "command",
    [
        each if each in QUICK else pytest.param(each, marks=pytest.mark.slow)
        for each, case in CASES.items()
        if case.job
    ],
)


Start = Callable[..., Any]


@pytest.fixture
def other(command: str, forked: Start, fresh: Start) -> Start:
    """Runs a command in another process, a fork where that trains nothing: autograd has threads, which a fork lacks."""
    if command in QUICK:
        return forked
    return lambda words, environment=None: fresh(*words, environment=environment)


def arrays() -> dict[str, bytes]:
    suffixes = (".npy", ".npz", ".pt", ".csv", ".png")
    return {str(path): path.read_bytes() for path in Path("out").rglob("*") if path.suffix in suffixes}


@each_job
def test_a12_the_second_run_is_refused_and_the_first_is_as_if_alone(
    here: Path, other: Start, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    case, second, published = CASES[command], list[object](), files.published
    assert case.run() == 0
    alone = arrays()
    shutil.rmtree("out")

    def meanwhile(path: Path) -> None:
        published(path)
        if len(second) < 2 and path.name == names.STATUS_FILE:
            second.append(None)
            second.append(other([*case.words, "--output-dir", "out"]))

    with monkeypatch.context() as patch:
        patch.setattr(files, "published", meanwhile)
        assert case.run() == 0
    _, done = second
    assert (done.code, done.out) == (5, "")
    assert "' is locked by pid " + str(os.getpid()) in done.err
    assert "Traceback" not in done.err
    assert arrays() == alone


@each_job
def test_a13_the_lock_of_a_killed_run_is_taken_over_with_a_note(
    here: Path, other: Start, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    case, said = CASES[command], {"MCX_TESTING": "1", "MCX_FAILPOINT": "files.after_rename:3=kill"}
    assert other([*case.words, "--output-dir", "out"], said).code == -signal.SIGKILL
    (lock,) = Path("out").rglob(names.LOCK_FILE)
    owner = json.loads(lock.read_text())["pid"]
    words = [word for word in case.words if word != "-q"]
    capsys.readouterr()
    assert type(case)(words, case.inputs, case.into).run() == 0
    assert f"taking over the lock of pid {owner}, which has ended\n" in capsys.readouterr().err
    assert not lock.exists()
