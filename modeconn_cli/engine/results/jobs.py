"""A job folder: the record of what was asked for, a lock, a status, and what may change between two runs.

Everything lies in `<folder>/.mcx/<command>/`, so that several commands can share a folder. The manifest is
written last: it says that the result is whole.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import Elsewhere, InputError, McxError, OutputError, SettingsError, Stopped
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import files, products, records
from modeconn_cli.engine.results.products import ANEW
from modeconn_cli.engine.settings.base import Settings, Spec, specs

LISTING = "inputs.txt"
PULSE = 30.0  # seconds between two touches of a lock by its live owner
STALE_AFTER = 600.0  # seconds without one after which another host's lock is taken over


@dataclass
class Job:
    """An open job: `complete` when an earlier run with the same settings has done everything."""

    folder: Path
    private: Path
    record: dict[str, Any]
    complete: bool = False
    resumed: bool = False
    listing: str | None = None
    products: list[Path] = field(default_factory=list)

    def finish(self, products: Iterable[Path], **facts: Any) -> None:
        """Write the manifest: the job is done and these are its files."""
        entries = [
            {
                "file": str(path.relative_to(self.folder)),
                "size": path.stat().st_size,
                "sha256": records.sha256(path),
            }
            for path in products
        ]
        document = {
            "schema": "mcx.manifest/1",
            "files": entries,
            **facts,
            **self.record,
            "end": records.now(),
        }
        if self.listing is not None:
            files.write_text(self.private / LISTING, self.listing)
        files.write_json(self.private / names.MANIFEST_FILE, document)
        self.complete = True


def private_folder(folder: Path, command: str, key: str = "") -> Path:
    """Where a job keeps its record, lock, status and manifest."""
    return folder / names.JOB_FOLDER / "-".join([*command.split(), *key.split()])


@contextlib.contextmanager
def opened(
    settings: Settings,
    folder: Path,
    command: str,
    runtime: Runtime,
    *,
    inputs: Iterable[Path] = (),
    owned: Iterable[str] = (),
    mends: bool = False,
    key: str = "",
    listing: str | None = None,
) -> Iterator[Job]:
    """Open a job folder for one run and leave it locked, recorded and with a true status.

    `owned` are the glob patterns of the job's own files in the folder: `--overwrite` removes them, and
    finding them without a record means that someone else's results lie there. A job that `mends` makes files again
    that are missing from a finished run. Jobs with different `key`s of one command share a folder. `listing` says
    what the result is made of: a finished job is done again where it has changed. Raises OutputError for foreign
    results, for a folder that cannot be written and for a live lock; InputError where
    settings or inputs changed.
    """
    private = private_folder(folder, command, key)
    if not runtime.group.leader:
        _compare_ranks(runtime.group.lead(settings.lasting), settings)
        # Results are the leader's to write: for all others they are complete.
        yield Job(folder, private, {}, complete=True, resumed=True)
        return
    job: Job | None = None
    lock: _Lock | None = None

    def open_() -> dict[str, Any]:
        nonlocal job, lock
        for place in (folder, private):
            files.make_folder(place)
            files.check_writable(place)
        for pattern in {str(Path(pattern).parent) for pattern in owned}:
            for place in folder.glob(pattern) if pattern != "." else ():
                files.remove_leftovers(place)
        lock = _Lock(private, runtime)
        job = Job(folder, private, records.provenance(settings, command, inputs), listing=listing)
        present = [path for pattern in owned for path in folder.glob(pattern)]
        _continue_or_begin(job, settings, runtime, present, mends)
        return settings.lasting()

    try:
        runtime.group.lead(open_)
        assert job is not None
        if job.complete:
            runtime.note(f"already complete: {folder}")
            yield job
            return
        _status(private, "running")
        try:
            yield job
        except McxError as error:
            if error.exit_code == Stopped.exit_code:  # here or at another rank
                _status(private, "preempted")
            else:
                _status(
                    private, "failed", error=error.cause if isinstance(error, Elsewhere) else error.message
                )
            raise
        except (KeyboardInterrupt, SystemExit):
            _status(private, "interrupted")
            raise
        _status(private, "complete" if job.complete else "running")
    finally:
        if lock is not None:
            lock.release()


def _status(private: Path, state: str, **more: Any) -> None:
    files.write_json(
        private / names.STATUS_FILE, {"schema": "mcx.status/1", "state": state, "time": records.now(), **more}
    )


def _continue_or_begin(
    job: Job, settings: Settings, runtime: Runtime, present: list[Path], mends: bool
) -> None:
    overwrite, resume = getattr(settings, "overwrite", False), getattr(settings, "resume", True)
    record = job.private / names.RECORD_FILE
    if not (resume and record.exists()):
        if record.exists() and not overwrite:
            raise OutputError(f"'{job.folder}' exists", "use --no-resume --overwrite to start anew")
        if present and not overwrite:
            raise OutputError(f"'{present[0]}' exists", "use --overwrite to replace it")
        # Manifest and record vouch for the files, so they go first.
        for path in (job.private / names.MANIFEST_FILE, record, *present):
            path.unlink(missing_ok=True)
        for path in job.private.rglob("*"):  # parts and logs of what is begun anew
            if path.is_file() and path.name != names.LOCK_FILE:
                path.unlink(missing_ok=True)
        _begin(job)
        return
    old = records.read_object(record, ANEW)
    _compare(old, job.record, settings, runtime)
    # What an earlier run recorded stays: begin time and the settings that its files were made with.
    job.resumed = True
    job.complete = (job.private / names.MANIFEST_FILE).exists()
    lost = products.lost(job.folder, job.private)
    if lost and not mends:
        raise InputError(f"'{lost[0]}' is missing or was changed after the job had finished", ANEW)
    if job.complete and job.listing is not None and not _lists(job):
        runtime.note("the inputs have changed since the job had finished: done again")
        (job.private / names.MANIFEST_FILE).unlink()
        job.complete = False
    if lost:
        runtime.note(f"'{lost[0]}' is missing or was changed after the job had finished: made again")
        (job.private / names.MANIFEST_FILE).unlink(missing_ok=True)
        job.complete = False
    grown = [s.name for s in specs(type(settings)) if s.change == "grow"]
    then, now = old.get("settings", {}), job.record["settings"]
    if any(then.get(name) != now[name] for name in grown):
        # More is asked for than was done: what is there stays, the manifest is written anew at the end.
        (job.private / names.MANIFEST_FILE).unlink(missing_ok=True)
        job.complete = False
        _begin(job)


def _compare_ranks(leaders: dict[str, Any], settings: Settings) -> None:
    """Raises SettingsError where this rank was started with other settings than the leader."""
    own = settings.lasting()
    paths = {spec.name for spec in specs(type(settings)) if spec.kind is Path}  # may be local to a machine
    other = next((name for name in own if name not in paths and own[name] != leaders.get(name)), None)
    if other is not None:
        raise SettingsError(
            f"'{other}' is {own[other]} here and {leaders.get(other)} at rank 0",
            "start all ranks with the same words",
        )


def _alike(spec: Spec, before: Any, after: Any) -> bool:
    """Whether a setting is what it was; a path may be spelled in another way."""
    if spec.kind is Path and not spec.many and before and after:
        first, second = (os.path.abspath(os.path.expanduser(str(path))) for path in (before, after))
        return first == second
    return bool(before == after)


def _lists(job: Job) -> bool:
    """Whether the finished job was made of the same inputs."""
    path = job.private / LISTING
    return path.exists() and path.read_text("utf-8") == job.listing


def _begin(job: Job) -> None:
    files.write_text(job.private / names.SETTINGS_FILE, records.settings_text(job.record["settings"]))
    files.write_json(job.private / names.RECORD_FILE, records.strict(job.record))


def _compare(old: dict[str, Any], new: dict[str, Any], settings: Settings, runtime: Runtime) -> None:
    """Raise InputError where something that changes the result is not what it was."""
    then, now = old.get("settings", {}), new["settings"]
    hint = "use another --output-dir, or --no-resume --overwrite to start anew"
    # A record of before a setting existed was made with its default.
    then = {**type(settings)().as_plain(), **then}
    for spec in specs(type(settings)):
        if spec.change == "free":
            before, after = then.get(spec.name), now.get(spec.name)
            if spec.name in ("device", "threads") and before != after:
                runtime.note(
                    f"{spec.name} was {before or 'unset'}, now {after or 'unset'}: last bits may differ"
                )
            continue
        if spec.change == "same" and not _alike(spec, then.get(spec.name), now[spec.name]):
            raise InputError(f"'{spec.name}' was {then.get(spec.name)}, now {now[spec.name]}", hint)
    hashes = [entry["sha256"] for entry in old.get("inputs", [])]
    if len(hashes) != len(new["inputs"]):
        raise InputError(f"the job began with {len(hashes)} input files, now {len(new['inputs'])}", hint)
    for entry, hash_ in zip(new["inputs"], hashes, strict=True):
        if entry["sha256"] != hash_:
            raise InputError(f"'{entry['path']}' is not the file the job began with", hint)


def is_running(private: Path) -> bool:
    """Whether a live process holds the job's lock."""
    path = private / names.LOCK_FILE
    return path.exists() and _lives(_owner(path), path)


def silent_for(private: Path) -> float | None:
    """Seconds without a sign of life of an owner on another machine; None where nobody has left a lock there."""
    path = private / names.LOCK_FILE
    owner = _owner(path)
    if not owner or owner["host"] == socket.gethostname():
        return None
    return time.time() - path.stat().st_mtime


class _Lock:
    """A folder's lock, kept alive by a thread; one whose owner is dead is taken over with a note."""

    def __init__(self, private: Path, runtime: Runtime) -> None:
        self._path = private / names.LOCK_FILE
        started = datetime.datetime.now().strftime("%H:%M")
        self._content = {"pid": os.getpid(), "host": socket.gethostname(), "started": started, **_queued()}
        with _alone(private):
            if self._path.exists():
                owner = _owner(self._path)
                if _lives(owner, self._path):
                    raise OutputError(
                        f"'{private.parent.parent}' is locked by pid {owner['pid']} on {owner['host']} "
                        f"(started {owner['started']})",
                        "wait for it or choose another --output-dir",
                    )
                runtime.note(f"taking over the lock of pid {owner.get('pid', 'unknown')}, which has ended")
            files.write_json(self._path, self._content)
        self._released = threading.Event()
        threading.Thread(target=self._pulse, daemon=True).start()

    def _pulse(self) -> None:
        while not self._released.wait(PULSE):
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def release(self) -> None:
        """Give the lock up, unless another process has taken it over meanwhile."""
        self._released.set()
        if records.peek_object(self._path) == self._content:
            self._path.unlink(missing_ok=True)


def _queued() -> dict[str, str]:
    """Which job of a queue this is, and how often it was started again."""
    job = os.environ.get("SLURM_JOB_ID")
    return {} if job is None else {"slurm": job, "restart": os.environ.get("SLURM_RESTART_COUNT", "0")}


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


def _owner(path: Path) -> dict[str, Any]:
    """What a lock says: pid, host and started, or nothing at all."""
    owner = records.peek_object(path)
    return owner if {"pid", "host", "started"} <= set(owner) else {}


def _lives(owner: dict[str, Any], path: Path) -> bool:
    if not owner:
        return False
    own = _queued()
    if own and owner.get("slurm") == own["slurm"] and owner.get("restart") != own["restart"]:
        return False  # this job, before it was put into the queue again
    if owner["host"] == socket.gethostname() and isinstance(owner["pid"], int):
        return files.alive(owner["pid"]) and owner["pid"] != os.getpid()
    with contextlib.suppress(OSError):
        return time.time() - path.stat().st_mtime < STALE_AFTER
    return False


def file_output(
    path: Path,
    provenance: dict[str, Any],
    overwrite: bool,
    *,
    record: Path | None = None,
    beside: Iterable[Path] = (),
) -> bool:
    """Whether a single-file result is still to be written: False where the same command made it already.

    `record` is the file that carries the provenance and the sha256 of `path` (`checkpoint_sha256`), where that is
    not `path` itself; it and the files `beside` are written before `path`. Raises OutputError for a file of any
    other origin, unless it may be overwritten, and for a folder that cannot be written.
    """
    files.check_writable(path.parent)
    companions = [*([record] if record is not None else []), *beside]
    present = [file for file in (path, *companions) if files.occupied(file)]
    if overwrite or not present:
        return True
    document = records.peek_object(record or path)
    if records.made_alike(document.get("provenance"), provenance):
        if path not in present:
            return True  # a kill came before the last file
        if record is None or document.get("checkpoint_sha256") == records.sha256(path):
            return False
    raise OutputError(f"'{present[0]}' exists", "use --overwrite to replace it")
