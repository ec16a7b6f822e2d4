"""One pass over all samples under each checkpoint, in work units that survive a kill.

A unit is a run of consecutive batches under one checkpoint. What it yields is kept in a file of its own until its
epoch is whole; an epoch's arrays are put together from its units in their order, so that neither a restart nor who
computed which unit changes a byte of them.
"""

from __future__ import annotations

import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine.datasets import Batch
from modeconn_cli.engine.errors import InputError, OutputError, Stopped
from modeconn_cli.engine.machine.ranks import check_same
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import arrays, files, jobs, records
from modeconn_cli.engine.samples.log import EpochLog
from modeconn_cli.engine.samples.subject import Subject
from modeconn_cli.engine.settings.scoring import ScoringSettings

UNIT = 1024  # samples of a work unit, rounded down to whole batches
PARTS, SUBJECT = "parts", "subject.json"

Unit = tuple[int, int]  # begin and end of its samples
Stamp = Mapping[str, Any]  # of a checkpoint, taken before it is read


@dataclass(frozen=True)
class Part:
    """What some samples yield: `columns` [n] each, a value per sample, and `sums`, which add up over samples."""

    columns: Mapping[str, np.ndarray]
    sums: Mapping[str, np.ndarray]

    @classmethod
    def joined(cls, parts: list[Part]) -> Part:
        """Columns one after the other, sums added in the order given."""
        columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
        sums: dict[str, np.ndarray] = {}
        for part in parts:
            for name, values in part.sums.items():
                sums[name] = sums[name] + values if name in sums else values
        return cls(columns, sums)

    @classmethod
    def read(cls, path: Path) -> Part | None:
        """A part of an earlier run; None where there is none, or none that can be read."""
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            return None
        columns = {name[2:]: value for name, value in found.items() if name.startswith("c:")}
        return cls(columns, {name[2:]: value for name, value in found.items() if name.startswith("s:")})

    def write(self, path: Path) -> None:
        named = {f"c:{name}": value for name, value in self.columns.items()}
        files.write_arrays(path, named | {f"s:{name}": value for name, value in self.sums.items()})


class Measure(Protocol):
    """A score of samples under one checkpoint after the other."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The values of a sample."""

    def files(self, epoch: int) -> list[Path]:
        """What `write` makes."""

    def begin(self, epoch: int, /) -> Tensor | None:
        """The subject's network has an epoch's weights; which samples are scored, bool [N], None for all."""

    def batch(self, batch: Batch) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """Columns [n] and sums of any shape, float64."""

    def write(self, epoch: int, whole: Part) -> dict[str, Any]:
        """Write an epoch's files; what its line in the log says beside. Samples that are not scored are NaN."""

    def headline(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """What the progress line says of an epoch."""


class Sweep:
    """Goes through checkpoints and samples, and keeps what is finished."""

    def __init__(
        self, settings: ScoringSettings, subject: Subject, measure: Measure, job: jobs.Job, runtime: Runtime
    ) -> None:
        self.settings, self.subject, self.measure = settings, subject, measure
        self.job, self.runtime, self._group = job, runtime, runtime.group
        self.scored = 0  # epochs in this run
        self.rate: float | None = None  # samples per second
        self._log = EpochLog(job)
        self._parts = job.private / PARTS

    def run(self, chosen: Mapping[int, Path]) -> list[dict[str, Any]]:
        """The line in the log of every epoch; those of earlier runs are read back.

        Several ranks share the units of all epochs, and the leader puts the epochs together at the end. Scoring one
        checkpoint after the other into one folder adds up: earlier ones are listed too.
        """
        mine = self.subject.identity()
        left, leaders = self._group.lead(lambda: (self._left(chosen, mine), mine))
        check_same(mine, leaders)
        if lacking := [epoch for epoch in left if epoch not in chosen]:
            raise InputError(
                f"this rank sees another folder of checkpoints than rank 0, without epochs {lacking[:10]}",
                "all ranks need the same files",
            )
        begun = time.perf_counter()
        for number, epoch in enumerate(left):
            if self._group.world == 1:
                self._finish(epoch, *self._score(epoch, chosen[epoch], number, len(left)), len(left))
                self.rate = self.scored * len(self.subject.samples) / (time.perf_counter() - begun)
                if self.runtime.stopping() and number + 1 < len(left):
                    raise Stopped(f"stopped by a signal after epoch {epoch}", "run the same command again")
            else:
                self._score(epoch, chosen[epoch], number, len(left))
        if left and self._group.world > 1:
            self._group.gather(None)
            self._group.lead(lambda: self._finish_all({epoch: chosen[epoch] for epoch in left}))
            self.scored = len(left)
            self.rate = self.scored * len(self.subject.samples) / (time.perf_counter() - begun)
        listed = chosen if self.settings.checkpoint is None else self._log.rows
        return self._group.lead(lambda: [self._log.rows[epoch] for epoch in sorted(listed)])

    def _left(self, chosen: Mapping[int, Path], now: dict[str, Any]) -> list[int]:
        """The epochs that are not finished. Raises InputError where the job began with another network or samples."""
        record = self.job.private / SUBJECT
        if not record.exists():
            files.write_json(record, now)
        changed = _difference(now, records.read_object(record))
        if changed:
            raise InputError(
                f"the job in '{self.job.folder}' began with another {changed}",
                "use another --output-dir, or --no-resume --overwrite to start anew",
            )
        return [e for e in chosen if not self._log.kept(e, chosen[e], self.measure.files(e))]

    def _score(self, epoch: int, path: Path, number: int, count: int) -> tuple[Stamp, dict[Unit, Part]]:
        """The units of an epoch that fall to this process; those of an earlier run are read back."""
        units = self._units()
        mine = [
            u for k, u in enumerate(units, number * len(units)) if k % self._group.world == self._group.rank
        ]
        if not mine:
            return {}, {}
        stamp = EpochLog.stamp(path)
        self.subject.load(path, self.settings, self.runtime)
        chosen = self.measure.begin(epoch)
        places = {unit: self._place(epoch, stamp, unit) for unit in mine}
        parts = {unit: part for unit in mine if (part := Part.read(places[unit])) is not None}
        for unit, part in self._scored([u for u in mine if u not in parts], chosen, number, count):
            parts[unit] = part
            if len(units) > 1 or self._group.world > 1:
                part.write(places[unit])
                files.failpoint("scoring.after_part")
                files.failpoint(f"scoring.after_part.rank{self._group.rank}")
            self._group.beat()
        return stamp, parts

    def _finish_all(self, left: Mapping[int, Path]) -> None:
        """Put the epochs together from the parts of all ranks. Raises InputError where they saw other files."""
        for epoch, path in left.items():
            stamp = EpochLog.stamp(path)
            parts = {unit: Part.read(self._place(epoch, stamp, unit)) for unit in self._units()}
            there = {unit: part for unit, part in parts.items() if part is not None}
            if len(there) < len(parts):
                raise InputError(
                    f"{len(parts) - len(there)} parts of epoch {epoch} are missing: the ranks saw other files than "
                    f"'{path}'",
                    "all ranks need the same checkpoints and the same --output-dir",
                )
            self.subject.load(path, self.settings, self.runtime)
            self.measure.begin(epoch)
            self._finish(epoch, stamp, there, len(left))
            self._group.beat()

    def _finish(self, epoch: int, stamp: Stamp, parts: Mapping[Unit, Part], count: int) -> None:
        """Write the files of an epoch, then its line in the log."""
        facts = self.measure.write(epoch, Part.joined([parts[unit] for unit in self._units()]))
        self._log.add(epoch, stamp, self.measure.files(epoch), **facts)
        self._remove_parts(f"epoch_{epoch}-*")
        self.scored += 1
        self.runtime.progress(self.scored, count, unit="epoch", epoch=epoch, **self.measure.headline(facts))

    def _place(self, epoch: int, stamp: Stamp, unit: Unit) -> Path:
        """The file of a part: it belongs to one content of the checkpoint."""
        return self._parts / f"epoch_{epoch}-{stamp['sha256'][:16]}-{unit[0]}-{unit[1]}.npz"

    def _units(self) -> list[Unit]:
        size = max(1, UNIT // self.settings.batch_size) * self.settings.batch_size
        count = len(self.subject.samples)
        return [(begin, min(begin + size, count)) for begin in range(0, count, size)]

    def _scored(
        self, units: list[Unit], chosen: Tensor | None, number: int, count: int
    ) -> Iterator[tuple[Unit, Part]]:
        """What each unit yields, from one pass over all their batches."""
        rows = [_rows(unit, chosen, self.settings.batch_size) for unit in units]
        batches = self.subject.samples.read([batch for of_unit in rows for batch in of_unit])
        whole = len(self.subject.samples)
        for unit, of_unit in zip(units, rows, strict=True):
            found = []
            for batch in islice(batches, len(of_unit)):
                found.append(self.measure.batch(batch))
                at = min(unit[0] + len(found) * self.settings.batch_size, unit[1])
                self.runtime.progress(number * whole + at, count * whole, unit="step")
                if self.runtime.stopping():
                    raise Stopped(
                        f"stopped by a signal after {self.scored} epochs", "run the same command again"
                    )
            yield unit, self._part(unit, chosen, found)

    def _part(
        self,
        unit: Unit,
        chosen: Tensor | None,
        found: list[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]],
    ) -> Part:
        """The batches of a unit as one part; samples that were not chosen are NaN."""
        wanted = slice(None) if chosen is None else chosen[unit[0] : unit[1]].numpy()
        columns = {}
        for name in self.measure.columns:
            columns[name] = np.full(unit[1] - unit[0], np.nan)
            if found:
                columns[name][wanted] = torch.cat([each[name] for each, _ in found]).cpu().numpy()
        names = found[0][1] if found else ()
        sums = {name: torch.stack([each[name] for _, each in found]).sum(0).cpu().numpy() for name in names}
        return Part(columns, sums)

    def _remove_parts(self, pattern: str) -> None:
        for path in self._parts.glob(pattern):
            path.unlink(missing_ok=True)


def _difference(now: Mapping[str, Any], then: Mapping[str, Any]) -> str:
    """The first part of an identity that is another one; empty where none is."""
    return next((name for name in now if then.get(name) != now[name]), "")


def _rows(unit: Unit, chosen: Tensor | None, batch_size: int) -> list[slice | Tensor]:
    """The rows of each batch of a unit."""
    begin, end = unit
    if chosen is None:
        return [slice(first, min(first + batch_size, end)) for first in range(begin, end, batch_size)]
    return (
        list(torch.split(begin + chosen[begin:end].nonzero()[:, 0], batch_size))
        if chosen[begin:end].any()
        else []
    )


def write_ids(path: Path, subject: Subject) -> None:
    """The samples' ids. Raises OutputError where the file names other samples."""
    ids = subject.samples.ids.cpu().numpy()
    if not path.exists():
        files.write_array(path, ids)
    elif not np.array_equal(arrays.read_ids(path), ids):
        raise OutputError(f"'{path}' names other samples than these", "use another --output-dir")
