"""`mcx status`: how far the jobs of a folder are, for people and for scripts that put a job into the queue again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError, Stopped
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import locks, manifest, records
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.settings.status import StatusSettings

State = Literal["complete", "running", "resumable", "failed", "damaged"]


@dataclass(frozen=True)
class JobStatus:
    """One job. `resumable`: the same command goes on; `damaged`: complete once, but its files are not as they were."""

    job: str
    state: State
    since: str | None
    reason: str
    files: int


@dataclass(frozen=True, kw_only=True)
class StatusResult(Record):
    schema: ClassVar[str] = "mcx.status_of_folder/1"

    folder: str
    jobs: tuple[JobStatus, ...]


def run(settings: StatusSettings, _runtime: Runtime) -> StatusResult:
    """Raises Stopped for a job that is not complete, InputError for one that failed or is damaged, and for none."""
    folder = settings.folder
    found = sorted(path.parent for path in (folder / names.JOB_FOLDER).glob(f"*/{names.RECORD_FILE}"))
    if not found:
        raise InputError(f"'{folder}' holds no job of mcx", "pass the --output-dir of a command")
    each = tuple(_status(folder, private) for private in found)
    result = StatusResult(folder=str(folder), jobs=each)
    bad = next((job for job in each if job.state in ("failed", "damaged")), None)
    if bad is not None:
        raise InputError(f"'{bad.job}' in '{folder}' {bad.state}: {bad.reason}", result=result)
    late = next((job for job in each if job.state != "complete"), None)
    if late is not None:
        again = "wait for it" if late.state == "running" else "run the same command again"
        raise Stopped(f"'{late.job}' in '{folder}' is not complete: {late.reason}", again, result)
    return result


def _status(folder: Path, private: Path) -> JobStatus:
    """A job's own word, unless its files or its process say otherwise."""
    said: dict[str, str] = {}
    if (private / names.STATUS_FILE).exists():
        said = records.read_object(private / names.STATUS_FILE)
    lost, made = manifest.lost(folder, private), manifest.read(private)
    state, reason = said.get("state", ""), ""
    now: State
    if locks.is_running(private):
        now, reason = "running", "it is running"
    elif lost:
        now, reason = "damaged", f"'{lost[0]}' is missing or was changed"
    elif made is not None:
        now = "complete"
    elif state == "failed":
        now, reason = "failed", said.get("error", "")
    else:
        now, silent = "resumable", locks.silent_for(private)
        reason = "it was stopped" if state == "preempted" else "its process has ended"
        if silent is not None:
            reason = f"its process on another machine has given no sign of life for {silent:.0f} s"
    return JobStatus(private.name, now, said.get("time"), reason, len(made or ()))
