"""The epochs of a job that are finished."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Generic, TypeVar

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import files, jobs, logs
from modeconn_cli.engine.results.fingerprints import sha256

ELSEWHERE = "use another --output-dir, or --no-resume --overwrite to start anew"


@dataclass(frozen=True, kw_only=True)
class ScoredEpoch:
    """One checkpoint as it was when it was read, and the sizes in bytes of the files that were made of it.

    A command adds what it says of an epoch beside its files.
    """

    epoch: int
    checkpoint: str
    sha256: str
    size: int
    mtime_ns: int
    sizes: list[int]

    @classmethod
    def begun(cls, epoch: int, checkpoint: Path) -> ScoredEpoch:
        """To be asked before the checkpoint is read; of no files yet.

        Raises InputError for one that is gone since the folder was listed.
        """
        with files.reading(checkpoint):
            stat, digest = names.file_of(checkpoint).stat(), sha256(checkpoint)
        return ScoredEpoch(
            epoch=epoch,
            checkpoint=names.checkpoint_of(checkpoint),
            sha256=digest,
            size=stat.st_size,
            mtime_ns=stat.st_mtime_ns,
            sizes=[],
        )

    def text(self) -> str:
        """One line of JSON: the epoch, what the command says of it, then the checkpoint and the files."""
        shared = [field.name for field in fields(ScoredEpoch)]
        own = [name for name in vars(self) if name not in shared]
        line = {name: getattr(self, name) for name in ("epoch", *own, *shared[1:])}
        return json.dumps(line, default=vars)


Row = TypeVar("Row", bound=ScoredEpoch)


class EpochLog(Generic[Row]):
    """The epochs of a job that are finished, a line each in its private folder; `rows` are `kind`s by epoch.

    An epoch whose line is lost or damaged is not finished; `damage` says which lines are.
    """

    def __init__(self, job: jobs.Job, kind: type[Row]) -> None:
        self.path = job.private / "scored.jsonl"
        lines = logs.read(self.path, kind)
        self.rows = {line.record.epoch: line.record for line in lines if line.record is not None}
        self.damage = [line.damage for line in lines if line.record is None]

    def kept(self, epoch: int, checkpoint: Path, made: Iterable[Path]) -> bool:
        """Whether an epoch and its files are finished. Raises InputError where its checkpoint is another one now."""
        row = self.rows.get(epoch)
        if row is None or row.sizes != _sizes(made):
            return False
        with files.reading(checkpoint):
            stat = names.file_of(checkpoint).stat()
        same = (checkpoint.name, stat.st_size, stat.st_mtime_ns) == (row.checkpoint, row.size, row.mtime_ns)
        if not same and sha256(checkpoint) != row.sha256:
            raise InputError(
                f"'{checkpoint}' is not the checkpoint that epoch {epoch} was scored with", ELSEWHERE
            )
        return True

    def add(self, row: Row, made: Iterable[Path]) -> None:
        """After the files of an epoch are there."""
        self.rows[row.epoch] = row = replace(row, sizes=_sizes(made))
        logs.append_line(self.path, row.text())


def _sizes(made: Iterable[Path]) -> list[int]:
    """Bytes of files, -1 for those that are not there."""
    return [path.stat().st_size if path.exists() else -1 for path in made]
