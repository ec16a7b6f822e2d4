"""The lock of a job folder: one process at a time works in it, and a dead one's lock is taken over."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import OutputError
from modeconn_cli.engine.machine.pace import Paces
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import files, records

PULSE = 30.0  # seconds between two touches of a lock by its live owner
STALE_AFTER = 600.0  # seconds without one after which another host's lock is taken over


@dataclasses.dataclass(frozen=True)
class Owner:
    """Who holds a lock; `slurm` and `restart`: its job in a queue, and how often that was started again."""

    pid: int
    host: str
    started: str
    slurm: str | None = None
    restart: str | None = None

    @classmethod
    def here(cls) -> Owner:
        """This process."""
        started, job = datetime.datetime.now().strftime("%H:%M"), os.environ.get("SLURM_JOB_ID")
        restart = None if job is None else os.environ.get("SLURM_RESTART_COUNT", "0")
        return cls(os.getpid(), socket.gethostname(), started, job, restart)

    @classmethod
    def of(cls, path: Path) -> Owner | None:
        """What a lock says; None where there is none, or where a kill left it half written."""
        said = records.peek_object(path)
        known = {field.name: said[field.name] for field in dataclasses.fields(cls) if field.name in said}
        return cls(**known) if {"pid", "host", "started"} <= set(known) else None

    def lives(self, path: Path) -> bool:
        """Whether the process that has written the lock in `path` is at work still."""
        own = Owner.here()
        if own.slurm is not None and own.slurm == self.slurm and own.restart != self.restart:
            return False  # this job, before it was put into the queue again
        if self.host == own.host and isinstance(self.pid, int):
            return files.alive(self.pid) and self.pid != own.pid
        with contextlib.suppress(OSError):
            return time.time() - path.stat().st_mtime < STALE_AFTER
        return False


def is_running(private: Path) -> bool:
    """Whether a live process holds the job's lock."""
    path = private / names.LOCK_FILE
    owner = Owner.of(path)
    return owner is not None and owner.lives(path)


def silent_for(private: Path) -> float | None:
    """Seconds without a sign of life of an owner on another machine; None where nobody has left a lock there."""
    path = private / names.LOCK_FILE
    owner = Owner.of(path)
    if owner is None or owner.host == socket.gethostname():
        return None
    return time.time() - path.stat().st_mtime


class Lock:
    """A folder's lock, kept alive by a thread. Raises OutputError where another process holds it.

    One whose owner is dead is taken over with a note. With each sign of life goes how far the job is.
    """

    def __init__(self, private: Path, runtime: Runtime, paces: Paces) -> None:
        self._path, self._owner, self._paces = private / names.LOCK_FILE, Owner.here(), paces
        with _alone(private):
            if self._path.exists():
                other = Owner.of(self._path)
                if other is not None and other.lives(self._path):
                    raise OutputError(
                        f"'{private.parent.parent}' is locked by pid {other.pid} on {other.host} "
                        f"(started {other.started})",
                        "wait for it or choose another --output-dir",
                    )
                pid = "unknown" if other is None else other.pid
                runtime.note(f"taking over the lock of pid {pid}, which has ended")
            said = {name: value for name, value in vars(self._owner).items() if value is not None}
            files.write_json(self._path, said)
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._pulse, daemon=True)
        self._thread.start()

    def _pulse(self) -> None:
        while not self._released.wait(PULSE):
            with contextlib.suppress(OSError):
                os.utime(self._path)
            with contextlib.suppress(OutputError):
                self._say_progress()

    def _say_progress(self) -> None:
        latest = self._paces.latest()
        if latest is not None:
            unit, pace = latest
            said = {"unit": unit, "done": pace.done, "total": pace.total, "per_second": pace.rate()}
            progress = {"schema": "mcx.progress/1", "time": records.now(), **said}
            files.write_json(self._path.with_name(names.PROGRESS_FILE), progress)

    def release(self) -> None:
        """Give the lock up, unless another process has taken it over meanwhile."""
        self._released.set()
        self._thread.join()
        if Owner.of(self._path) == self._owner:
            with contextlib.suppress(OutputError):
                if self._path.with_name(names.MANIFEST_FILE).exists():
                    self._path.with_name(names.PROGRESS_FILE).unlink(missing_ok=True)
                else:
                    self._say_progress()
            self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time judges a lock and takes it; the kernel lets go where that process dies."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network disks cannot do it
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
