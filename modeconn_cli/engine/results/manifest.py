"""The manifest of a job: its files as it left them. It is written last, and says that the result is whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import hashes, logs, records
from modeconn_cli.engine.results.fingerprints import read_hash, sha256

HASHES = "hashes.json"  # the manifest of a job that goes on
ANEW = "use --no-resume --overwrite"


@dataclass(frozen=True)
class Entry:
    """A file of a finished job; `file` is its place in the job's folder, `size` in bytes.

    `mtime_ns` and `inode` tell this version of it from others without reading it; of a copy they are other ones, and of
    the first records none.
    """

    file: str
    size: int
    sha256: str
    mtime_ns: int = -1
    inode: int = -1

    @classmethod
    def of(cls, path: Path, folder: Path, before: Mapping[str, Entry]) -> Entry:
        """The file as it is now; its hash is that of `before`, by place, where it has not changed since."""
        place, status = str(path.relative_to(folder)), path.stat()
        known = before.get(place)
        if known is not None and known.describes(status):
            return known
        return cls(place, status.st_size, sha256(path), status.st_mtime_ns, status.st_ino)

    def describes(self, status: os.stat_result) -> bool:
        """Whether this is the version of the file that was hashed."""
        return hashes.stamp(status) == (self.size, self.mtime_ns, self.inode)

    def holds(self, path: Path) -> bool:
        """Whether a file has the content that was recorded; one that has not changed since is not read."""
        return self.describes(path.stat()) or sha256(path) == self.sha256


Entries = dict[str, Entry]  # the files of a job by their place in its folder


def read(private: Path) -> Entries | None:
    """The files that a finished job has made; None for a job that has not finished."""
    return _listed(private / names.MANIFEST_FILE)


def _listed(path: Path) -> Entries | None:
    """A manifest, which is read once as long as it does not change: thousands of files ask for theirs."""
    try:
        version = hashes.stamp(path.stat())
    except FileNotFoundError:
        return None
    known = _read.get(path)
    if known is None or known[0] != version:
        _read[path] = known = version, _parsed(path)
    return known[1]


_read: dict[Path, tuple[tuple[int, int, int], Entries]] = {}


def _parsed(path: Path) -> Entries:
    listed = records.read_object(path, ANEW).get("files", [])
    wanted = [field.name for field in fields(Entry)]
    try:
        found = [logs.record(Entry, {n: entry[n] for n in wanted if n in entry}) for entry in listed]
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(f"'{path}' is no list of a job's files", ANEW) from error
    return {entry.file: entry for entry in found}


def before(private: Path) -> Entries:
    """What an earlier run of a job has recorded, finished or reopened since; what cannot be read is found anew."""
    found: Entries = {}
    for name in (HASHES, names.MANIFEST_FILE):
        with contextlib.suppress(InputError):
            found |= _listed(private / name) or {}
    return found


def set_aside(private: Path) -> None:
    """A job goes on: its files are not all there yet, and what is known of the others need not be found again."""
    with contextlib.suppress(FileNotFoundError):
        (private / names.MANIFEST_FILE).replace(private / HASHES)


def lost(folder: Path, private: Path) -> list[Path]:
    """Files of a finished job that are not there any more, or not of the size that they had."""
    return [
        folder / place
        for place, entry in (read(private) or {}).items()
        if _size(folder / place) != entry.size
    ]


def altered(folder: Path, private: Path) -> list[Path]:
    """Files of a finished job whose bytes are not those that were recorded; all of them are read, whatever is known."""
    entries = read(private) or {}
    return [folder / place for place, entry in entries.items() if read_hash(folder / place) != entry.sha256]


def _size(path: Path) -> int:
    """In bytes; −1 for a file that is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def check(paths: Iterable[Path], commands: tuple[str, ...]) -> None:
    """Raise InputError for results that their job has not finished, or that are not there or not as the job left them.

    `commands` are the beginnings of the names of the jobs that make such files; a file beside none of them is taken
    as it is found.
    """
    jobs: dict[Path, list[_Made]] = {}
    for path in paths:
        for folder in (path.parent, path.parent.parent):
            if folder not in jobs:
                jobs[folder] = _jobs(folder, commands)
            if _vouched(path, folder, jobs[folder]):
                break


def made_beside(path: Path, commands: tuple[str, ...]) -> set[Path]:
    """What finished jobs by one of these names have made in the folder of a file."""
    return {path.parent / place for job in _jobs(path.parent, commands) for place in job.entries or ()}


@dataclass(frozen=True)
class _Made:
    """What a job of a folder has made; None for one that has not finished."""

    job: str
    entries: Entries | None


def _jobs(folder: Path, commands: tuple[str, ...]) -> list[_Made]:
    private = [each for each in _recorded(folder / names.JOB_FOLDER) if each.name.startswith(commands)]
    return [_Made(each.name, read(each)) for each in private if each.name != "curvature-sweep"]


def _recorded(place: Path) -> list[Path]:
    """The jobs of a folder that have a record; the folder is listed once as long as no job joins it."""
    try:
        version = hashes.stamp(place.stat())
    except OSError:
        return []
    known = _listings.get(place)
    if known is None or known[0] != version:
        _listings[place] = known = version, sorted(path for path in place.glob("*/"))
    return [job for job in known[1] if (job / names.RECORD_FILE).exists()]


_listings: dict[Path, tuple[tuple[int, int, int], list[Path]]] = {}


def _vouched(path: Path, folder: Path, jobs: list[_Made]) -> bool:
    """Whether one of the jobs has made a file, and it is as the job left it."""
    place = str(path.relative_to(folder))
    for job in jobs:
        if job.entries is not None and place in job.entries:
            if not path.exists():
                raise InputError(f"'{path}' is missing, which '{job.job}' had made", "make it again")
            if not job.entries[place].holds(path):
                raise InputError(
                    f"'{path}' is not as '{job.job}' left it: it was changed or damaged", "make it again"
                )
            return True
    unfinished = [job.job for job in jobs if job.entries is None]
    if unfinished:
        raise InputError(
            f"'{unfinished[0]}' in '{folder}' is not complete", "run its command again, which goes on with it"
        )
    return False
