"""A job folder: the record of what was asked for, a lock, a status, and what may change between two runs.

Everything lies in `<folder>/.mcx/<command>/`, so that several commands can share a folder. The manifest is
written last: it says that the result is whole.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from modeconn_cli.engine import files, names, records
from modeconn_cli.engine.errors import InputError, McxError, OutputError, Stopped
from modeconn_cli.engine.runtime import Runtime
from modeconn_cli.engine.settings.base import Settings, specs

RECORD_FILE = "record.json"
STALE_AFTER = 600.0  # seconds without a heartbeat after which another host's lock is taken over


@dataclass
class Job:
    """An open job: `complete` when an earlier run with the same settings has done everything."""

    folder: Path
    private: Path
    record: dict[str, Any]
    complete: bool = False
    resumed: bool = False
    products: list[Path] = field(default_factory=list)

    def heartbeat(self) -> None:
        """Show that the job lives; called at the end of every epoch."""
        with contextlib.suppress(OSError):
            os.utime(self.private / names.LOCK_FILE)

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
        files.write_json(self.private / names.MANIFEST_FILE, document)
        self.complete = True


@contextlib.contextmanager
def opened(
    settings: Settings,
    folder: Path,
    command: str,
    runtime: Runtime,
    *,
    inputs: Iterable[Path] = (),
    owned: Iterable[str] = (),
) -> Iterator[Job]:
    """Open a job folder for one run and leave it locked, recorded and with a true status.

    `owned` are the glob patterns of the job's own files in the folder: `--overwrite` removes them, and
    finding them without a record means that someone else's results lie there. Raises OutputError for those, for a
    folder that cannot be written and for a live lock; InputError where settings or inputs changed.
    """
    private = folder / names.JOB_FOLDER / command.replace(" ", "-")
    files.check_writable(folder)
    files.check_writable(private)
    lock = _lock(private, runtime)
    try:
        files.remove_leftovers(folder)
        record = records.provenance(settings, command, inputs)
        job = Job(folder, private, record)
        _continue_or_begin(
            job, settings, runtime, [path for pattern in owned for path in folder.glob(pattern)]
        )
        if job.complete:
            runtime.note(f"already complete: {folder}")
            yield job
            return
        _status(private, "running")
        try:
            yield job
        except Stopped:
            _status(private, "preempted")
            raise
        except McxError as error:
            _status(private, "failed", error=error.message)
            raise
        except KeyboardInterrupt:
            _status(private, "interrupted")
            raise
        _status(private, "complete" if job.complete else "running")
    finally:
        lock.unlink(missing_ok=True)


def _status(private: Path, state: str, **more: Any) -> None:
    files.write_json(
        private / names.STATUS_FILE, {"schema": "mcx.status/1", "state": state, "time": records.now(), **more}
    )


def _continue_or_begin(job: Job, settings: Settings, runtime: Runtime, present: list[Path]) -> None:
    overwrite, resume = getattr(settings, "overwrite", False), getattr(settings, "resume", True)
    old = _read(job.private / RECORD_FILE)
    if old is None or not resume:
        existing = [job.private / RECORD_FILE] if old is not None else present
        if existing and not overwrite:
            hint = (
                "use --overwrite to replace it"
                if old is None
                else "use --no-resume --overwrite to start anew"
            )
            raise OutputError(f"'{existing[0] if old is None else job.folder}' exists", hint)
        for path in (*present, job.private / names.MANIFEST_FILE):
            path.unlink(missing_ok=True)
        _begin(job)
        return
    _compare(old, job.record, settings, runtime)
    # What an earlier run recorded stays: begin time and the settings that its files were made with.
    job.resumed = True
    job.complete = (job.private / names.MANIFEST_FILE).exists()
    if job.complete:
        _check_products(job)


def _begin(job: Job) -> None:
    settings = {k: v for k, v in job.record["settings"].items() if v is not None and v != []}
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, default_flow_style=None, width=1000)
    files.write_text(job.private / names.SETTINGS_FILE, text)
    files.write_json(job.private / RECORD_FILE, records.strict(job.record))


def _compare(old: dict[str, Any], new: dict[str, Any], settings: Settings, runtime: Runtime) -> None:
    """Raise InputError where something that changes the result is not what it was."""
    then, now = old.get("settings", {}), new["settings"]
    hint = "use another --output-dir, or --no-resume --overwrite to start anew"
    for spec in specs(type(settings)):
        if spec.change == "free":
            before, after = then.get(spec.name), now[spec.name]
            if spec.name in ("device", "threads") and before != after:
                runtime.note(
                    f"{spec.name} was {before or 'unset'}, now {after or 'unset'}: last bits may differ"
                )
            continue
        if spec.change == "same" and then.get(spec.name) != now[spec.name]:
            raise InputError(f"'{spec.name}' was {then.get(spec.name)}, now {now[spec.name]}", hint)
    hashes = [entry["sha256"] for entry in old.get("inputs", [])]
    for entry, hash_ in zip(new["inputs"], hashes, strict=False):
        if entry["sha256"] != hash_:
            raise InputError(f"'{entry['path']}' is not the file the job began with", hint)


def _check_products(job: Job) -> None:
    manifest = _read(job.private / names.MANIFEST_FILE) or {}
    for entry in manifest.get("files", []):
        path = job.folder / entry["file"]
        if not path.exists() or path.stat().st_size != entry["size"]:
            raise InputError(
                f"'{path}' is missing or was changed after the job had finished",
                "use --no-resume --overwrite",
            )


def _read(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' cannot be read: {error}", "use --no-resume --overwrite") from error
    return document if isinstance(document, dict) else None


def _lock(private: Path, runtime: Runtime) -> Path:
    """Take the folder's lock; a lock whose owner is dead is taken over with a note."""
    path = private / names.LOCK_FILE
    started = datetime.datetime.now().strftime("%H:%M")
    content = {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
    for _ in range(2):
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            owner = _owner(path)
            if _lives(owner, path):
                raise OutputError(
                    f"'{private.parent.parent}' is locked by pid {owner.get('pid')} on {owner.get('host')} "
                    f"(started {owner.get('started')})",
                    "wait for it or choose another --output-dir",
                ) from None
            runtime.note(f"taking over the lock of pid {owner.get('pid')}, which has ended")
            path.unlink(missing_ok=True)
            continue
        with os.fdopen(handle, "w") as stream:
            json.dump(content, stream)
        return path
    raise OutputError(f"'{path}' is taken by another process")


def _owner(path: Path) -> dict[str, Any]:
    try:
        owner = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _lives(owner: dict[str, Any], path: Path) -> bool:
    if owner.get("host") == socket.gethostname() and isinstance(owner.get("pid"), int):
        return files.alive(owner["pid"]) and owner["pid"] != os.getpid()
    with contextlib.suppress(OSError):
        return time.time() - path.stat().st_mtime < STALE_AFTER
    return False


def file_output(path: Path, provenance: dict[str, Any], overwrite: bool, present: Path | None = None) -> bool:
    """Whether a single-file result is still to be written: False where the same command made it already.

    `present` is the file that carries the provenance, where that is not `path`. Raises OutputError for a file
    of any other origin, unless it may be overwritten, and for a folder that cannot be written.
    """
    files.check_writable(path.parent)
    if overwrite or not (path.exists() or path.is_symlink()):
        return True
    with contextlib.suppress(OSError, ValueError, InputError):
        document = json.loads((present or path).read_text("utf-8"))
        if records.made_alike(document.get("provenance"), provenance):
            return False
    raise OutputError(f"'{path}' exists", "use --overwrite to replace it")
