"""The manifest of a job: its files as it left them. It is written last, and says that the result is whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import logs, records
from modeconn_cli.engine.results.fingerprints import sha256

ENTRY = ("file", "size", "sha256")
ANEW = "use --no-resume --overwrite"


@dataclass(frozen=True)
class Entry:
    """A file of a finished job; `file` is its place in the job's folder, `size` in bytes."""

    file: str
    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path, folder: Path) -> Entry:
        """The file as it is now."""
        return cls(str(path.relative_to(folder)), path.stat().st_size, sha256(path))


def read(private: Path) -> list[Entry] | None:
    """The files that a finished job has made; None for a job that has not finished."""
    path = private / names.MANIFEST_FILE
    if not path.exists():
        return None
    listed = records.read_object(path, ANEW).get("files", [])
    try:
        return [logs.record(Entry, {name: entry[name] for name in ENTRY}) for entry in listed]
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(f"'{path}' is no list of a job's files", ANEW) from error


def lost(folder: Path, private: Path) -> list[Path]:
    """Files of a finished job that are not there any more, or not of the size that they had."""
    sizes = {folder / entry.file: entry.size for entry in read(private) or ()}
    return [path for path, size in sizes.items() if not path.exists() or path.stat().st_size != size]


def check(paths: Iterable[Path], commands: tuple[str, ...]) -> None:
    """Raise InputError for results that their job has not finished, or that are not there or not as the job left them.

    `commands` are the beginnings of the names of the jobs that make such files; a file beside none of them is taken
    as it is found.
    """
    jobs: dict[Path, list[tuple[str, dict[Path, Entry] | None]]] = {}
    for path in paths:
        for folder in (path.parent, path.parent.parent):
            if folder not in jobs:
                jobs[folder] = _jobs(folder, commands)
            if _vouched(path, folder, jobs[folder]):
                break


def made_beside(path: Path, commands: tuple[str, ...]) -> set[Path]:
    """What finished jobs by one of these names have made in the folder of a file."""
    return {file for _, made in _jobs(path.parent, commands) for file in made or ()}


def _jobs(folder: Path, commands: tuple[str, ...]) -> list[tuple[str, dict[Path, Entry] | None]]:
    """The jobs of a folder by name, with the files that each has made; None for one that has not finished."""
    out = []
    for record in sorted((folder / names.JOB_FOLDER).glob(f"*/{names.RECORD_FILE}")):
        private = record.parent
        if private.name.startswith(commands) and private.name != "curvature-sweep":
            made = read(private)
            entries = None if made is None else {folder / entry.file: entry for entry in made}
            out.append((private.name, entries))
    return out


def _vouched(path: Path, folder: Path, jobs: list[tuple[str, dict[Path, Entry] | None]]) -> bool:
    """Whether one of the jobs has made a file, and it is as the job left it."""
    for name, made in jobs:
        if made is not None and path in made:
            if not path.exists():
                raise InputError(f"'{path}' is missing, which '{name}' had made", "make it again")
            if sha256(path) != made[path].sha256:
                raise InputError(
                    f"'{path}' is not as '{name}' left it: it was changed or damaged", "make it again"
                )
            return True
    unfinished = [name for name, made in jobs if made is None]
    if unfinished:
        raise InputError(
            f"'{unfinished[0]}' in '{folder}' is not complete", "run its command again, which goes on with it"
        )
    return False
