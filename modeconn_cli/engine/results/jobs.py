"""Was this made already, by the same command? The one rule for job folders and for single files.

A job keeps its record, lock, status and manifest in `<folder>/.mcx/<command>/`, so that several commands can share a
folder. A single file carries its provenance inside, or in a record beside it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import (
    Elsewhere,
    InputError,
    McxError,
    OutputError,
    SettingsError,
    Stopped,
    within_memory,
)
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import files, manifest, records
from modeconn_cli.engine.results.fingerprints import sha256
from modeconn_cli.engine.results.kept import Kept
from modeconn_cli.engine.results.locks import Lock
from modeconn_cli.engine.results.manifest import ANEW
from modeconn_cli.engine.results.records import Provenance, R
from modeconn_cli.engine.results.sameness import code_changed, defaults, difference
from modeconn_cli.engine.settings.base import Settings, plain, specs
from modeconn_cli.engine.settings.shared import FIGURE_FORMATS, FIGURES

LISTING = "inputs.txt"


@dataclass
class Job:
    """An open job: `complete` when an earlier run with the same settings has done everything.

    `record` is None at the ranks that leave the writing to the first. `redrawn` are the settings of this run where all
    is done but that its figures are wanted in another form; the manifest stands until `finish`.
    """

    folder: Path
    private: Path
    record: Provenance | None
    complete: bool = False
    resumed: bool = False
    listing: str | None = None
    redrawn: Settings | None = None

    @cached_property
    def kept(self) -> Kept:
        """The states that the job goes on from."""
        return Kept(self.folder, self.private)

    def finish(self, made: Iterable[Path], **facts: Any) -> None:
        """Write the manifest: the job is done and these are its files."""
        if not (self.private / names.RECORD_FILE).exists():
            raise OutputError(
                f"'{self.private}' was removed while the job was running", "run the same command again"
            )
        before = manifest.before(self.private)
        document = {
            "schema": "mcx.manifest/1",
            "files": [manifest.Entry.of(path, self.folder, before) for path in made],
            **facts,
            **({} if self.record is None else vars(self.record)),
            "end": records.now(),
        }
        if self.listing is not None:
            files.write_text(self.private / LISTING, self.listing)
        files.write_json(self.private / names.MANIFEST_FILE, records.strict(document))
        (self.private / manifest.HASHES).unlink(missing_ok=True)
        if self.redrawn is not None and self.record is not None:
            _write_record(self, self.record, self.redrawn)
        self.complete = True

    def found(self, kind: type[R], path: Path, settings: Settings, *free: str) -> R | None:
        """The result that the finished job has written, None where it is not as the job left it, and where one of the
        settings `free`, which change nothing but how much is said, is another one.
        """
        if not self.complete:
            return None
        entry = (manifest.read(self.private) or {}).get(str(path.relative_to(self.folder)))
        if entry is None or not entry.holds(path):
            return None
        then = records.settings_of(records.read_object(self.private / names.RECORD_FILE))
        if any(then.get(name) != plain(getattr(settings, name)) for name in free):
            return None
        return records.kept(kind, path)

    def reopen(self) -> None:
        """There is more to do: what is there stays, the manifest is written anew at the end."""
        manifest.set_aside(self.private)
        self.complete = False

    def anew(self, settings: Settings) -> bool:
        """Whether a file that jobs of one folder share may be made again: the job was begun anew and is alone there."""
        others = [
            path for path in self.private.parent.glob(f"*/{names.RECORD_FILE}") if path.parent != self.private
        ]
        return bool(getattr(settings, "overwrite", False)) and not self.resumed and not others


def listing(inputs: Mapping[str, Path]) -> str:
    """What a result is made of: a line per file, by the name it goes by, with its size and time."""
    stats = [(name, path.stat()) for name, path in inputs.items()]
    return "".join(f"{name} {stat.st_size} {stat.st_mtime_ns}\n" for name, stat in stats)


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
    further: Iterable[Path] = (),
    owned: Iterable[str] = (),
    mends: bool = False,
    key: str = "",
    listing: str | None = None,
    unread: Collection[str] = (),
) -> Iterator[Job]:
    """Open a job folder for one run and leave it locked, recorded and with a true status.

    `owned` are the glob patterns of the job's own files in the folder: `--overwrite` removes them, and
    finding them without a record means that someone else's results lie there. `further` are files that it reads beside
    those that settings name. A job that `mends` makes files again that are missing from a finished run. Jobs with
    different `key`s of one command share a folder. `listing` says what the result is made of: a finished job is done
    again where it has changed. `unread` are settings that have no effect on these inputs.

    Raises OutputError for foreign results, for a folder that cannot be written and for a live lock; InputError where
    settings or inputs changed, or where ranks see different files or data.
    """
    private = private_folder(folder, command, key)
    agree(settings, runtime, further)
    if not runtime.group.leader:
        _compare_ranks(runtime.group.lead(settings.lasting), settings)
        # Results are the leader's to write: for all others they are complete.
        yield Job(folder, private, None, complete=True, resumed=True)
        return
    job: Job | None = None
    with contextlib.ExitStack() as stack:

        def open_() -> dict[str, Any]:
            nonlocal job
            _prepare(folder, private, owned)
            stack.callback(Lock(private, runtime, stack.enter_context(runtime.followed())).release)
            record = records.provenance(settings, command, runtime.opened, further)
            job = Job(folder, private, record, listing=listing)
            if getattr(settings, "resume", True) and (private / names.RECORD_FILE).exists():
                _continue(job, record, settings, runtime, mends, unread)
            else:
                present = [path for pattern in owned for path in folder.glob(pattern)]
                _begin(job, record, present, settings)
            return settings.lasting()

        runtime.group.lead(open_)
        assert job is not None
        stack.enter_context(files.guarded(folder))
        if job.complete:
            runtime.note(f"already complete: {folder}")
            yield job
        else:
            with _telling(job, settings):
                yield job


def agree(settings: Settings, runtime: Runtime, further: Iterable[Path] = ()) -> None:
    """Raises InputError where ranks see different files or data, before anything is computed."""

    def seen() -> dict[str, str]:
        read = (*settings.files_read(), *further)
        return {**{f"file {k}": sha256(path) for k, path in enumerate(read)}, **runtime.opened.data()}

    runtime.group.agree(seen)


def _prepare(folder: Path, private: Path, owned: Iterable[str]) -> None:
    """Make the folders, and remove what killed processes have left in them."""
    for place in (folder, private):
        files.make_folder(place)
        files.check_writable(place)
    for within, below, _ in os.walk(private):  # without a look at each of the files, which may be many
        for each in below:
            files.remove_leftovers(Path(within, each))
    for pattern in {str(Path(pattern).parent) for pattern in owned} - {"."}:
        for place in folder.glob(pattern):
            files.remove_leftovers(place)


@contextlib.contextmanager
def _telling(job: Job, settings: Settings) -> Iterator[None]:
    """The job's status says how far it is, and how it ended."""
    _status(job.private, "running")
    try:
        with within_memory(getattr(settings, "batch_size", None)):
            yield
    except McxError as error:
        if error.exit_code == Stopped.exit_code:  # here or at another rank
            _status_if_possible(job.private, "preempted")
        else:
            why = error.cause if isinstance(error, Elsewhere) else error.message
            _status_if_possible(job.private, "failed", error=why)
        raise
    except (KeyboardInterrupt, SystemExit):
        _status_if_possible(job.private, "interrupted")
        raise
    _status(job.private, "complete" if job.complete else "running")


def _status_if_possible(private: Path, state: str, **more: str) -> None:
    """What has ended the job may keep its status from being written, and is what is told."""
    with contextlib.suppress(OutputError):
        _status(private, state, **more)


def _status(private: Path, state: str, **more: str) -> None:
    files.write_json(
        private / names.STATUS_FILE, {"schema": "mcx.status/1", "state": state, "time": records.now(), **more}
    )


def _begin(job: Job, record: Provenance, present: list[Path], settings: Settings) -> None:
    """Start anew. Raises OutputError for what is there and may not be replaced."""
    overwrite = getattr(settings, "overwrite", False)
    if not overwrite and (job.private / names.RECORD_FILE).exists():
        raise OutputError(f"'{job.folder}' exists", "use --no-resume --overwrite to start anew")
    if not overwrite and present:
        raise OutputError(f"'{present[0]}' exists", "use --overwrite to replace it")
    # Manifest and record vouch for the files, so they go first.
    for path in (job.private / names.MANIFEST_FILE, job.private / names.RECORD_FILE, *present):
        path.unlink(missing_ok=True)
    for path in job.private.rglob("*"):  # parts and logs of what is begun anew
        if path.is_file() and path.name != names.LOCK_FILE:
            path.unlink(missing_ok=True)
    _write_record(job, record, settings)


def _write_record(job: Job, record: Provenance, settings: Settings) -> None:
    idle = settings.idle()  # a file that is fed back asks for nothing without effect
    effective = {name: value for name, value in record.settings.items() if name not in idle}
    files.write_text(job.private / names.SETTINGS_FILE, records.settings_text(effective))
    files.write_json(job.private / names.RECORD_FILE, records.strict(vars(record)))


def _continue(
    job: Job, record: Provenance, settings: Settings, runtime: Runtime, mends: bool, unread: Collection[str]
) -> None:
    """Take up what an earlier run began; its record stays, with the settings that its files were made with.

    Raises InputError where something that changes the result is not what it was.
    """
    old = records.read_object(job.private / names.RECORD_FILE, ANEW)
    changed = difference(old, record, settings, unread)
    if changed:
        raise InputError(changed, "use another --output-dir, or --no-resume --overwrite to start anew")
    then = {**defaults(settings), **records.settings_of(old)}
    for name in ("device", "threads"):
        now = record.settings.get(name)
        if name in record.settings and then[name] != now:
            runtime.note(f"{name} was {then[name] or 'unset'}, now {now or 'unset'}: last bits may differ")
    if changed := code_changed(old, record):
        runtime.note(changed)
    job.resumed = True
    job.complete = (job.private / names.MANIFEST_FILE).exists()
    redrawn = job.complete and drawn_otherwise(then, settings)
    lost = manifest.lost(job.folder, job.private)
    if redrawn:  # a kill may have come between a figure and the manifest
        lost = [path for path in lost if path.suffix.removeprefix(".") not in FIGURE_FORMATS]
    if lost and not mends:
        raise InputError(f"'{lost[0]}' is missing or was changed after the job had finished", ANEW)
    if job.complete and job.listing is not None and not _lists(job):
        runtime.note("the inputs have changed since the job had finished: done again")
        job.reopen()
    if lost:
        runtime.note(f"'{lost[0]}' is missing or was changed after the job had finished: made again")
        job.reopen()
    if redrawn and job.complete:
        runtime.note(f"all is there; figures are drawn again ({redrawn})")
        job.complete, job.redrawn = False, settings
    grown = [spec.name for spec in specs(type(settings)) if spec.change == "grow"]
    if any(then[name] != record.settings[name] for name in grown):
        job.reopen()
        _write_record(job, record, settings)


def drawn_otherwise(then: Mapping[str, Any], settings: Settings) -> str:
    """Which settings of figures are not what they were, in words; empty where figures need not be drawn again."""
    idle, usual = settings.idle(), defaults(settings)
    changed = [
        f"{name} was {before}, now {getattr(settings, name)}"
        for name in (*FIGURES, *getattr(settings, "drawn", ()))
        if name in usual
        and name not in idle
        and (before := then.get(name, usual[name])) != getattr(settings, name)
    ]
    return ", ".join(changed)


def _lists(job: Job) -> bool:
    """Whether the finished job was made of the same inputs."""
    path = job.private / LISTING
    return path.exists() and path.read_text("utf-8") == job.listing


def _compare_ranks(leaders: Mapping[str, Any], settings: Settings) -> None:
    """Raises SettingsError where this rank was started with other settings than the leader."""
    own = settings.lasting()
    paths = {spec.name for spec in specs(type(settings)) if spec.kind is Path}  # may be local to a machine
    other = next((name for name in own if name not in paths and own[name] != leaders.get(name)), None)
    if other is not None:
        raise SettingsError(
            f"'{other}' is {own[other]} here and {leaders.get(other)} at rank 0",
            "start all ranks with the same words",
        )


def _inside(path: Path) -> Any:
    """The provenance that a JSON file carries; None in a file of any other origin."""
    return records.peek_object(path).get("provenance")


def file_output(path: Path, made: Provenance, settings: Settings, **how: Any) -> bool:
    """As `is_due`, of a file on its own: raises OutputError also for a folder that cannot be written."""
    files.check_writable(path.parent)
    return is_due(path, made, settings, **how)


def is_due(
    path: Path,
    made: Provenance,
    settings: Settings,
    *,
    record: Path | None = None,
    beside: Iterable[Path] = (),
    stored: Callable[[Path], Any] = _inside,
    unread: Collection[str] = (),
) -> bool:
    """Whether a single-file result is still to be written: False where the same command made it already.

    `record` is the file that carries the provenance and the sha256 of `path` (`checkpoint_sha256`), where that is
    not `path` itself; it and the files `beside` are written before `path`. `stored` reads the provenance that a file
    carries, `unread` as in `opened`. Raises OutputError for a file of any other origin, unless it may be overwritten.
    """
    companions = [*([record] if record is not None else []), *beside]
    present = [file for file in (path, *companions) if files.occupied(file)]
    if getattr(settings, "overwrite", False) or not present:
        return True
    otherwise = _otherwise(stored(record or path), made, settings, unread)
    if otherwise == "":
        if path not in present:
            return True  # a kill came before the last file
        if record is None or records.peek_object(record).get("checkpoint_sha256") == sha256(path):
            return False
    made_of = f", made otherwise: {otherwise}" if otherwise else ""
    raise OutputError(f"'{present[0]}' exists{made_of}", "use --overwrite to replace it")


def _otherwise(old: Any, new: Provenance, settings: Settings, unread: Collection[str]) -> str | None:
    """What the same command does otherwise than it did by a provenance, whoever wrote that: empty where nothing is;
    None where another command made the file.
    """
    try:
        return difference(old, new, settings, unread) if old["command"] == new.command else None
    except (KeyError, TypeError, AttributeError):  # of another kind
        return None
