"""The manifest of a job: its files as it left them. It is written last, and says that the result is whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import records
from modeconn_cli.engine.results.fingerprints import sha256

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
    return [Entry(entry["file"], entry["size"], entry["sha256"]) for entry in listed]


def lost(folder: Path, private: Path) -> list[Path]:
    """Files of a finished job that are not there any more, or not of the size that they had."""
    sizes = {folder / entry.file: entry.size for entry in read(private) or ()}
    return [path for path, size in sizes.items() if not path.exists() or path.stat().st_size != size]


def check(path: Path, commands: tuple[str, ...]) -> None:
    """Raise InputError for a result that its job has not finished, or that is not as the job left it.

    `commands` are the beginnings of the names of the jobs that make such files; a file beside none of them is taken
    as it is found.
    """
    for folder in (path.parent, path.parent.parent):
        unfinished = []
        for record in sorted((folder / names.JOB_FOLDER).glob(f"*/{names.RECORD_FILE}")):
            private = record.parent
            if not private.name.startswith(commands) or private.name == "curvature-sweep":
                continue
            made = read(private)
            if made is None:
                unfinished.append(private.name)
            for entry in made or ():
                if folder / entry.file == path:
                    if sha256(path) != entry.sha256:
                        raise InputError(f"'{path}' is not as '{private.name}' left it", "make it again")
                    return
        if unfinished:
            raise InputError(
                f"'{unfinished[0]}' in '{folder}' is not complete",
                "run its command again, which goes on with it",
            )
