"""Rule R7, rows A13 and M2: a lock belongs to a process, not to its number, and to a sign of life, not to a clock."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import OutputError
from modeconn_cli.engine.machine.pace import Paces
from modeconn_cli.engine.machine.runtime import Runtime, Silent
from modeconn_cli.engine.results import locks


class Heard(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str, level: str = "note") -> None:
        self.notes.append(text)


def forge(folder: Path, *, age: float = 0.0, **words: Any) -> Path:
    """A lock of this process's parent, as that would have written it but for `words`, touched `age` seconds ago."""
    pid = words.get("pid", os.getppid())
    owner = dataclasses.replace(locks.Owner.here(), pid=pid, begun=locks._began(pid), started="10:02")
    said = {name: value for name, value in {**vars(owner), **words}.items() if value is not None}
    path = folder / names.LOCK_FILE
    path.write_text(json.dumps(said))
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def taken(folder: Path) -> list[str] | None:
    """What is said when the lock is taken; None where it is refused."""
    heard = Heard()
    try:
        locks.Lock(folder, Runtime(device=None, listener=heard), Paces()).release()
    except OutputError:
        return None
    return heard.notes


@pytest.fixture
def private(tmp_path: Path) -> Path:
    folder = tmp_path / "out/.mcx/job"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def unburied() -> Iterator[int]:
    """A process that has ended and whose parent has not asked how."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    while locks._began(pid) != 0:
        time.sleep(0.01)
    yield pid
    os.waitpid(pid, 0)


def test_a_process_that_is_at_work_keeps_its_lock_however_long_it_was_suspended(private: Path) -> None:
    forge(private, age=1e6)
    assert taken(private) is None
    assert locks.is_running(private)


def test_m2_the_lock_of_a_number_that_another_process_has_now_is_taken_over(private: Path) -> None:
    forge(private, begun=12)
    assert not locks.is_running(private)
    assert taken(private) == [f"taking over the lock of pid {os.getppid()}, which has ended"]


def test_a_process_that_has_ended_and_is_not_buried_holds_no_lock(private: Path, unburied: int) -> None:
    forge(private, pid=unburied, begun=12)
    assert taken(private) == [f"taking over the lock of pid {unburied}, which has ended"]


@pytest.mark.parametrize("pid", [0, -1, 10**30, True, "5", None])
def test_a_number_that_no_process_has_is_no_owner(private: Path, pid: object) -> None:
    forge(private).write_text(json.dumps({"pid": pid, "host": socket.gethostname(), "started": "10:02"}))
    assert taken(private) == ["taking over the lock of pid unknown, which has ended"]


def test_where_the_system_tells_no_times_the_heartbeat_decides(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_place", lambda: None)
    monkeypatch.setattr(locks, "_began", lambda _: None)
    forge(private)
    assert taken(private) is None
    forge(private, age=locks.STALE_AFTER + 1)
    assert taken(private) == [f"taking over the lock of pid {os.getppid()}, which has ended"]


def test_a_container_of_the_same_name_lives_by_its_heartbeat(private: Path) -> None:
    """Process numbers of another container say nothing here."""
    forge(private, pid=4_000_000, place="another")
    assert taken(private) is None
    forge(private, pid=4_000_000, place="another", age=locks.STALE_AFTER + 1)
    assert taken(private) == ["taking over the lock of pid 4000000, which has ended"]


def test_the_lock_of_before_this_machine_was_started_is_taken_over_at_once(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_up", lambda: 60.0)
    forge(private, place="before", age=50)
    assert taken(private) is None
    forge(private, place="before", age=70)
    assert taken(private) is not None


@pytest.mark.parametrize("skew", [-7200.0, 7200.0])
def test_a_wrong_clock_of_this_machine_changes_nothing(
    private: Path, monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    """The disk's clock is asked, by which both machines are measured."""
    forge(private, host="elsewhere")
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + skew)
    assert taken(private) is None


@pytest.mark.parametrize("ahead", [30.0, 3600.0, 1e9])
def test_m2_a_time_in_the_future_is_no_sign_of_life(
    private: Path, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    monkeypatch.setattr(locks, "PULSE", 0.05)
    forge(private, host="elsewhere", age=-ahead)
    pid = os.getppid()
    assert taken(private) == [
        f"the lock of pid {pid} on elsewhere has a time in the future: waiting for a sign of life",
        f"taking over the lock of pid {pid}, which has ended",
    ]


def test_m2_a_live_owner_whose_clock_is_ahead_keeps_its_lock(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PULSE", 1.0)
    path = forge(private, host="elsewhere", age=-3600)
    beats = threading.Timer(0.5, lambda: os.utime(path, (time.time() + 3601, time.time() + 3601)))
    beats.start()
    assert taken(private) is None
    beats.join()


def test_a13_the_lock_of_a_killed_process_is_taken_over(private: Path) -> None:
    pid = os.fork()
    if pid == 0:
        locks.Lock(private, Runtime(device=None), Paces())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert json.loads((private / names.LOCK_FILE).read_text())["pid"] == pid
    assert taken(private) == [f"taking over the lock of pid {pid}, which has ended"]
