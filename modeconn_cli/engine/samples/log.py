"""The epochs of a job that are finished."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.results.fingerprints import sha256
from modeconn_cli.engine.results.records import Record


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One checkpoint and the sizes in bytes of the files that were made of it."""

    epoch: int
    checkpoint: str
    sha256: str
    size: int
    mtime_ns: int
    sizes: list[int]


# What a result says of the run that made it; a summary says the same whoever made it, in one go or in several.
OF_THE_RUN = ("scored", "samples_per_second", "output_dir", "figure")


def write_summary(path: Path, result: Record, *, by_epoch: bool = True) -> None:
    """A result as JSON; `by_epoch`: with the epochs' numbers as keys."""
    document = {name: value for name, value in result.document().items() if name not in OF_THE_RUN}
    if by_epoch:
        document["epochs"] = {str(each["epoch"]): each for each in document["epochs"]}
    files.write_json(path, document)


class EpochLog:
    """The epochs of a job that are finished, a line each, with the checkpoint that each was made from."""

    def __init__(self, job: jobs.Job) -> None:
        self._path = job.private / "scored.jsonl"
        self.rows: dict[int, dict[str, Any]] = {
            row["epoch"]: row for row in map(json.loads, files.read_lines(self._path))
        }

    def kept(self, epoch: int, checkpoint: Path, made: Iterable[Path]) -> bool:
        """Whether an epoch and its files are finished. Raises InputError where its checkpoint is another one now."""
        row = self.rows.get(epoch)
        if row is None or row["sizes"] != _sizes(made):
            return False
        stat = checkpoint.stat()
        touched = (stat.st_size, stat.st_mtime_ns) != (row["size"], row["mtime_ns"])
        if touched and sha256(checkpoint) != row["sha256"]:
            raise InputError(
                f"'{checkpoint}' is not the checkpoint that epoch {epoch} was scored with",
                "use another --output-dir, or --no-resume --overwrite to start anew",
            )
        return True

    @staticmethod
    def stamp(checkpoint: Path) -> dict[str, Any]:
        """What a line says of a checkpoint; taken before it is read."""
        stat = checkpoint.stat()
        return {
            "checkpoint": checkpoint.name,
            "sha256": sha256(checkpoint),
            "size": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
        }

    def add(self, epoch: int, stamp: Mapping[str, Any], made: Iterable[Path], **facts: Any) -> None:
        """After the files of an epoch are there."""
        self.rows[epoch] = row = {"epoch": epoch, **facts, **stamp, "sizes": _sizes(made)}
        files.append_line(self._path, json.dumps(row))


def _sizes(made: Iterable[Path]) -> list[int]:
    """Bytes of files, -1 for those that are not there."""
    return [path.stat().st_size if path.exists() else -1 for path in made]
