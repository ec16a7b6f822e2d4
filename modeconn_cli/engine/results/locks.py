"""The lock of a job folder: one process at a time works in it, and a dead one's lock is taken over."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import math
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import OutputError
from modeconn_cli.engine.machine.pace import Paces
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import files, records

PULSE = 10.0  # seconds between two touches of a lock by its live owner
STALE_AFTER = 600.0  # seconds without one after which a lock that nothing else tells of is taken over
AHEAD = 2.0  # seconds that a sign of life may lie in the future: some disks round times to two
PATIENCE = 2.5  # pulses that a lock with a time in the future is watched for


@dataclasses.dataclass(frozen=True)
class Owner:
    """Who holds a lock; `slurm` and `restart`: its job in a queue, and how often that was started again.

    A number of a process is given to others after its end: `place` says where it counts (a start of a machine, a
    container), `begun` when the process began there, in the kernel's ticks. None where the system does not tell.
    """

    pid: int
    host: str
    started: str
    slurm: str | None = None
    restart: str | None = None
    place: str | None = None
    begun: int | None = None

    @classmethod
    def here(cls) -> Owner:
        """This process."""
        started, job = datetime.datetime.now().strftime("%H:%M"), os.environ.get("SLURM_JOB_ID")
        restart = None if job is None else os.environ.get("SLURM_RESTART_COUNT", "0")
        pid = os.getpid()
        return cls(pid, socket.gethostname(), started, job, restart, _place(), _began(pid))

    @classmethod
    def of(cls, path: Path) -> Owner | None:
        """What a lock says; None where there is none, or where a kill left it half written."""
        said = records.peek_object(path)
        known = {field.name: said[field.name] for field in dataclasses.fields(cls) if field.name in said}
        pid = known.get("pid")
        possible = type(pid) is int and 0 < pid < 1 << 31
        return cls(**known) if possible and {"host", "started"} <= set(known) else None

    def seen(self) -> bool | None:
        """Whether this machine sees its process at work; None where it cannot tell."""
        own = Owner.here()
        if own.slurm is not None and own.slurm == self.slurm and own.restart != self.restart:
            return False  # this job, before it was put into the queue again
        if self.host != own.host or self.place not in (None, own.place):
            return None
        if self.pid == own.pid or not files.alive(self.pid):
            return False
        began = _began(self.pid)
        return None if self.begun is None or began is None else self.begun == began

    def lives(self, path: Path, now: float) -> bool:
        """Whether its process is at work still, as far as can be said at once: where this machine does not see it, by
        the last sign of life in `path`. `now` is the time of the same clock.
        """
        seen, age = self.seen(), _age(path, now)
        if seen is None and self.host == socket.gethostname() and self.place and age > _up():
            return False  # of before this machine was started
        return abs(age) < STALE_AFTER if seen is None else seen


def _place() -> str | None:
    """Where numbers of processes count: this start of the machine, in this container."""
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{start} {os.readlink('/proc/self/ns/pid')}"
    except (OSError, ValueError):
        return None


def _began(pid: int) -> int | None:
    """When a process began, in ticks since the machine did; 0 for one that has ended and is not buried yet, None where
    the system does not tell.
    """
    try:
        # The name, in parentheses, may hold anything; what follows begins with the third field.
        state, *more = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return 0 if state in (b"Z", b"X") else int(more[18])
    except (OSError, ValueError, IndexError):
        return None


def _up() -> float:
    """Seconds since the machine was started; infinite where the system does not tell."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return math.inf if clock is None else time.clock_gettime(clock)


def _clock(folder: Path) -> float:
    """The time by the clock of the disk that a folder lies on, which all machines share."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            return os.fstat(probe.fileno()).st_mtime
    except OSError:
        return time.time()


def _age(path: Path, now: float) -> float:
    """Seconds since a lock was touched, negative for a time in the future; infinite where it is gone."""
    try:
        return now - path.stat().st_mtime
    except OSError:
        return math.inf


def is_running(private: Path) -> bool:
    """Whether a live process holds the job's lock."""
    path = private / names.LOCK_FILE
    owner = Owner.of(path)
    return owner is not None and owner.lives(path, time.time())


def silent_for(private: Path) -> float | None:
    """Seconds without a sign of life of an owner on another machine; None where nobody has left a lock there."""
    path = private / names.LOCK_FILE
    owner = Owner.of(path)
    if owner is None or owner.host == socket.gethostname():
        return None
    return max(0.0, _age(path, time.time()))


class Lock:
    """A folder's lock, kept alive by a thread. Raises OutputError where another process holds it.

    One whose owner is dead is taken over with a note. Whether one on another machine lives, its last sign of life says,
    by the clock of the disk that both see; where that lies in the future, it counts once another follows. With each
    sign of life goes how far the job is.
    """

    def __init__(self, private: Path, runtime: Runtime, paces: Paces) -> None:
        self._path, self._owner, self._paces = private / names.LOCK_FILE, Owner.here(), paces
        with _alone(private):
            if self._path.exists():
                other = Owner.of(self._path)
                if other is not None and self._is_held(other, runtime):
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

    def _is_held(self, other: Owner, runtime: Runtime) -> bool:
        """Whether another process is at work. A time in the future tells nothing, so it is watched."""
        now = _clock(self._path.parent)
        if other.seen() is not None or _age(self._path, now) >= -AHEAD:
            return other.lives(self._path, now)
        last = _age(self._path, now)
        runtime.note(
            f"the lock of pid {other.pid} on {other.host} has a time in the future: waiting for a sign of life"
        )
        end = time.monotonic() + PATIENCE * PULSE
        while time.monotonic() < end:
            time.sleep(PULSE / 20)
            if _age(self._path, now) != last:
                return True
        return False

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
        # On a disk that takes nothing any more the lock stays, and counts for nothing once this process has ended.
        with contextlib.suppress(OSError):
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
