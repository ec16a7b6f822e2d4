"""What the records of a folder say of its files: which job has made them, and whether it has finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import records

ANEW = "use --no-resume --overwrite"


def lost(folder: Path, private: Path) -> list[Path]:
    """Files of the manifest that are not there any more, or not as they were; none where the job is not complete."""
    paths = {folder / entry["file"]: entry["size"] for entry in _entries(private) or []}
    return [path for path, size in paths.items() if not path.exists() or path.stat().st_size != size]


def count(private: Path) -> int | None:
    """How many files a complete job has made; None for one that is not complete."""
    found = _entries(private)
    return None if found is None else len(found)


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
            entries = _entries(private)
            if entries is None:
                unfinished.append(private.name)
            for entry in entries or []:
                if folder / entry["file"] == path:
                    if records.sha256(path) != entry["sha256"]:
                        raise InputError(f"'{path}' is not as '{private.name}' left it", "make it again")
                    return
        if unfinished:
            raise InputError(
                f"'{unfinished[0]}' in '{folder}' is not complete",
                "run its command again, which goes on with it",
            )


def _entries(private: Path) -> list[dict[str, Any]] | None:
    """The manifest's entries; None without a manifest."""
    path = private / names.MANIFEST_FILE
    return list(records.read_object(path, ANEW).get("files", [])) if path.exists() else None
