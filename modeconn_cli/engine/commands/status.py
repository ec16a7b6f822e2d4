"""`mcx status`: how far the jobs of a folder are, for people and for scripts that put a job into the queue again."""

from __future__ import annotations

import datetime
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError, McxError, Stopped, must_exist
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import locks, logs, manifest, records, strict_json
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.settings.status import StatusSettings

State = Literal["complete", "running", "resumable", "failed", "damaged"]


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of work, and how many a second; None for what is not known."""

    unit: str
    done: int
    total: int | None
    per_second: float | None


@dataclass(frozen=True)
class JobStatus:
    """One job. `resumable`: the same command goes on; `damaged`: complete once, but its files are not as they were.

    `folder` is where its results are, as seen from the folder that was asked for; `last_sign` is when it was last
    heard of (UTC); `next` is the command line that goes on with it, None where there is nothing to be done.
    """

    folder: str
    job: str
    state: State
    last_sign: str | None
    reason: str
    files: int
    progress: Progress | None
    next: str | None


@dataclass(frozen=True, kw_only=True)
class StatusResult(Record):
    schema: ClassVar[str] = "mcx.status_of_folder/2"

    folder: str
    jobs: tuple[JobStatus, ...]


def run(settings: StatusSettings, _runtime: Runtime) -> StatusResult:
    """Raises Stopped where a job is not complete, InputError where one failed or is damaged and where there is none."""
    folder = settings.folder
    must_exist(folder, "pass the --output-dir of a command, or a folder of such folders", folder=True)
    known = found(folder)
    each = tuple(
        each
        for private in known
        for each in (_status(folder, private, settings.verify), *_unbegun(folder, private, known))
    )
    if not each:
        raise InputError(f"'{folder}' holds no job of mcx", "pass the --output-dir of a command")
    result = StatusResult(folder=str(folder), jobs=each)
    bad = [job for job in each if job.state in ("failed", "damaged")]
    if bad:
        raise InputError(_said(folder, bad, f"{bad[0].state}: {bad[0].reason}"), result=result)
    late = [job for job in each if job.state != "complete"]
    if late:
        again = "wait for it" if late[0].state == "running" else "run the same command again"
        raise Stopped(_said(folder, late, f"is not complete: {late[0].reason}"), again, result)
    return result


def found(folder: Path) -> list[Path]:
    """Where the jobs of a folder, and of all below it, keep their records; links are not followed."""
    out: list[Path] = []
    for place, below, _ in os.walk(folder):
        below.sort()
        if names.JOB_FOLDER in below:
            below.remove(names.JOB_FOLDER)
            private = Path(place) / names.JOB_FOLDER
            if not private.is_symlink():
                out += sorted(path.parent for path in private.glob(f"*/{names.RECORD_FILE}"))
    return out


def _parts(private: Path) -> dict[str, Path]:
    """Of the training of several seeds that a job belongs to: seed -> where its job is; empty where it is alone."""
    whole = private / names.WHOLE_FILE
    try:
        asked = yaml.load(whole.read_text("utf-8"), Loader=yaml.BaseLoader) if whole.exists() else {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    runs = private.parent.parent.parent
    seeds = asked.get("seeds", []) if isinstance(asked, dict) else []
    return {seed: runs / f"seed{seed}" / names.JOB_FOLDER / private.name for seed in seeds}


def _unbegun(root: Path, private: Path, known: list[Path]) -> Iterator[JobStatus]:
    """The seeds of a training that have not begun, said by the first that has."""
    parts = _parts(private)
    if next((place for place in parts.values() if place in known), None) != private:
        return
    for place in parts.values():
        if not place.exists():
            yield JobStatus(
                folder=os.path.relpath(place.parent.parent, root),
                job=private.name,
                state="resumable",
                last_sign=None,
                reason="it has not begun",
                files=0,
                progress=None,
                next=_next(
                    private.parent.parent,
                    private,
                    records.peek_object(private / names.RECORD_FILE),
                    anew=False,
                ),
            )


def _said(folder: Path, jobs: list[JobStatus], what: str) -> str:
    """The first of the jobs, and how many others are no better."""
    first = jobs[0]
    place = folder if first.folder == "." else folder / first.folder
    more = f" (and {len(jobs) - 1} more)" if len(jobs) > 1 else ""
    return f"'{first.job}' in '{place}' {what}{more}"


def _status(root: Path, private: Path, verify: bool) -> JobStatus:
    """A job's own word, unless its files (to `verify`, each byte of them) or its process say otherwise."""
    folder = private.parent.parent
    said = records.peek_object(private / names.STATUS_FILE)
    record = records.peek_object(private / names.RECORD_FILE)
    state, reason = said.get("state", ""), ""
    now: State
    try:
        made = manifest.read(private)
        lost = manifest.lost(folder, private) or (manifest.altered(folder, private) if verify else [])
        broken = f"'{lost[0]}' is missing or was changed" if lost else ""
        broken = broken or ("" if record else f"'{private / names.RECORD_FILE}' cannot be read")
    except McxError as error:
        made, broken = None, error.message
    if locks.is_running(private):
        now, reason = "running", "it is running"
    elif broken:
        now, reason = "damaged", broken
    elif made is not None:
        now = "complete"
    elif state == "failed":
        now, reason = "failed", str(said.get("error", ""))
    else:
        now, silent = "resumable", locks.silent_for(private)
        reason = "it was stopped" if state == "preempted" else "its process has ended"
        if silent is not None:
            reason = f"its process on another machine has given no sign of life for {silent:.0f} s"
    return JobStatus(
        folder=str(folder.relative_to(root)),
        job=private.name,
        state=now,
        last_sign=said["time"] if "time" in said and state != "running" else _last_sign(private),
        reason=reason,
        files=len(made or ()),
        progress=_progress(folder, private, record),
        next=None
        if now in ("complete", "running")
        else _next(folder, private, record, anew=now == "damaged"),
    )


def _last_sign(private: Path) -> str | None:
    """When the job last wrote one of its own files; a live process touches its lock every half minute."""
    times = [path.stat().st_mtime for path in _own_files(private)]
    if not times:
        return None
    return datetime.datetime.fromtimestamp(max(times), datetime.UTC).isoformat(timespec="seconds")


def _own_files(private: Path) -> Iterator[Path]:
    known = (names.LOCK_FILE, names.STATUS_FILE, names.RECORD_FILE, names.PROGRESS_FILE)
    return (path for name in known if (path := private / name).exists())


def _progress(folder: Path, private: Path, record: dict[str, Any]) -> Progress | None:
    """How far a job has said it was, else the epochs in the log of a training that was killed before it said so."""
    said = records.peek_object(private / names.PROGRESS_FILE)
    if isinstance(said.get("done"), int):
        return Progress(str(said.get("unit")), said["done"], said.get("total"), said.get("per_second"))
    total = records.settings_of(record).get("epochs")
    if not isinstance(total, int):
        return None
    try:
        rows = [
            strict_json.parsed(line, folder / names.METRICS)
            for line in logs.read_lines(folder / names.METRICS)
        ]
        if not rows:
            return Progress("epoch", 0, total, None)
        seconds = rows[-1].get("seconds")
        return Progress("epoch", rows[-1]["epoch"], total, 1 / seconds if seconds else None)
    except (InputError, LookupError, AttributeError, TypeError):  # not as a training writes it
        return None


def _next(folder: Path, private: Path, record: dict[str, Any], *, anew: bool) -> str | None:
    """The command line that goes on with a job, or does it anew where its files are not what they were."""
    settings, command = private / names.SETTINGS_FILE, record.get("command")
    if not anew:  # which is about this job alone
        whole = (place / names.WHOLE_FILE for place in _parts(private).values())
        settings = next((path for path in whole if path.exists()), settings)
    if not isinstance(command, str) or not settings.exists():
        return None
    words = [*command.split(), "--config", str(settings)]
    output = records.settings_of(record).get("output_dir")
    if isinstance(output, str) and not _holds(Path(output).expanduser(), folder):
        # The job was started from another working directory, or has been moved.
        place = next((at for at in (folder, *folder.parents) if at.name == Path(output).name), folder)
        words += ["--output-dir", str(place)]
    return shlex.join([*words, *(["--no-resume", "--overwrite"] if anew else [])])


def _holds(output: Path, folder: Path) -> bool:
    """Whether a job's folder is its --output-dir, or below it, as a path is read from here."""
    return folder.resolve().is_relative_to(output.resolve())
