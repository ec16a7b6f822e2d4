"""One pass over all samples under each checkpoint, in work units that survive a kill.

A unit is a run of consecutive batches under one checkpoint. What it yields is kept in a file of its own, in a folder of
its epoch's, until the epoch is whole; an epoch's arrays are put together from its units in their order, so that neither
a restart nor who computed which unit changes a byte of them.

Of several ranks the first puts an epoch together as soon as all have done their units of it, and the others go on
meanwhile. None gets far ahead: whoever waits would have waited in the end, and the disk holds the parts of the last few
epochs, however many there are. Every name is known, so that no folder is listed but what earlier runs have left.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Generic

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine.errors import CONTINUE, InputError, Stopped
from modeconn_cli.engine.machine.ranks import check_same
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import arrays, files, jobs, logs, records, strict_json
from modeconn_cli.engine.results.failpoints import failpoint
from modeconn_cli.engine.samples.log import ELSEWHERE, EpochLog, Row, ScoredEpoch
from modeconn_cli.engine.samples.measure import Measure
from modeconn_cli.engine.samples.scored_run import todays_identity

UNIT = 1024  # samples of a work unit, rounded down to whole batches
AHEAD = 4  # units, at least, that a rank may do before those of another
PARTS, SUBJECT = "parts", "subject.json"

Unit = tuple[int, int]  # begin and end of its samples
Values = dict[str, np.ndarray]  # of the samples of a unit


class Sweep(Generic[Row]):
    """Goes through checkpoints and samples, and keeps what is finished. `batch_size` samples are scored at a time."""

    def __init__(
        self, measure: Measure[Any, Row, Any], job: jobs.Job, runtime: Runtime, batch_size: int
    ) -> None:
        self._measure, self._job, self._runtime = measure, job, runtime
        self._run, self._group, self._batch_size = measure.run, runtime.group, batch_size
        self._count = len(measure.run.samples)
        self._of_samples = (*measure.columns, *measure.fields)
        self._log = EpochLog(job, measure.row)
        self._parts = job.private / PARTS
        size = max(1, UNIT // batch_size) * batch_size
        self._units = [(begin, min(begin + size, self._count)) for begin in range(0, self._count, size)]
        self._left_over: Collection[str] = ()  # names of the parts that earlier runs have finished
        self._standing: int | None = None  # the epoch that the network has the weights of
        self.scored = 0  # epochs in this run
        self.rate: float | None = None  # samples per second

    def rows(self, *, every: bool) -> list[Row]:
        """The line in the log of each epoch of the run, or of `every` epoch that was ever scored into the folder.

        Those of earlier runs are read back.
        """
        self._say_damage(every=every)
        left, begun = self._left(), time.perf_counter()
        done = len(self._run.checkpoints) - len(left)
        if self._job.resumed and left and self._group.leader:
            self._runtime.note(
                f"continuing '{self._job.folder}': {done} of {len(self._run.checkpoints)} epochs are scored already"
            )
        if left:
            self._go_through(left)
            self.scored = len(left)
            self.rate = self.scored * self._count / (time.perf_counter() - begun)
        listed = self._log.rows if every else self._run.checkpoints
        lines = self._group.lead(lambda: [self._log.rows[epoch].text() for epoch in sorted(listed)])
        return [logs.record(self._measure.row, strict_json.parsed(line, self._log.path)) for line in lines]

    def _go_through(self, epochs: Sequence[int]) -> None:
        """Score this rank's units of every epoch; the leader puts the epochs together."""
        group, waiting = self._group, deque[ScoredEpoch]()
        scored, finished = (
            group.tally(),
            group.tally(),
        )  # epochs: of each rank's units, and put together by the leader
        ahead = -(-AHEAD * group.world // len(self._units))
        for number, epoch in enumerate(epochs, start=1):
            if not group.leader:
                finished.wait([0], number - 1 - ahead)
            checkpoint = self._score(epoch, number - 1, len(epochs))
            scored.add()
            if not group.leader:
                continue
            waiting.append(checkpoint)
            scored.wait(range(group.world), number - ahead if number < len(epochs) else number)
            whole = min(scored.least(), number)
            while self.scored < whole:
                self._finish(checkpoint := waiting.popleft(), len(epochs))
                finished.add()
                if self._runtime.stopping() and self.scored < len(epochs):
                    raise Stopped(f"stopped after epoch {checkpoint.epoch}", CONTINUE)

    def _say_damage(self, *, every: bool) -> None:
        """Raises InputError where `every` epoch that was scored is to be listed and the log does not tell which."""
        for line in self._log.damage if self._group.leader else ():
            damage = f"'{self._log.path}' {line}"
            if every:
                raise InputError(
                    damage,
                    "remove that line and run the command again for the checkpoint of each epoch that is lost",
                )
            self._runtime.note(f"{damage}: its epoch is scored again")

    def _left(self) -> list[int]:
        """The epochs that are not finished; every rank must see the same run as the leader."""
        mine, chosen = self._run.identity(), self._run.checkpoints
        left, leaders, there = self._group.lead(lambda: self._found(mine))
        self._left_over = set(there)
        check_same(mine, leaders)
        if lacking := [epoch for epoch in left if epoch not in chosen]:
            raise InputError(
                f"this rank sees another folder of checkpoints than rank 0, without epochs {lacking[:10]}",
                "all ranks need the same files",
            )
        return left

    def _found(self, mine: Mapping[str, Any]) -> tuple[list[int], Mapping[str, Any], list[str]]:
        """The epochs that are not finished, what they are of, and the parts that are there of them."""
        left = self._unfinished(mine)
        return left, mine, self._survivors(left)

    def _survivors(self, left: Collection[int]) -> list[str]:
        """The parts that earlier runs have left of unfinished epochs; those of finished ones are removed.

        Said once, by one: a rank that looked for itself might come when the epoch has been put together.
        """
        of_folder = {self._folder(epoch).name: epoch for epoch in self._run.checkpoints}
        there = os.listdir(self._parts) if self._parts.exists() else []
        for name in there:
            if name.endswith(".npz"):  # of versions that had the parts of all epochs in one folder
                (self._parts / name).unlink(missing_ok=True)
        places = []
        for epoch in (of_folder[name] for name in there if name in of_folder):
            if epoch in left:
                checkpoint = self._begun(epoch)
                places += [self._place(checkpoint, unit) for unit in self._units]
            else:
                shutil.rmtree(self._folder(epoch), ignore_errors=True)
        return [self._name(path) for path in places if read_part(path, self._of_samples) is not None]

    def _unfinished(self, mine: Mapping[str, Any]) -> list[int]:
        """Raises InputError where the job began with another network or other samples."""
        record = self._job.private / SUBJECT
        if not record.exists():
            files.write_json(record, mine)
        then = todays_identity(records.read_object(record))
        changed = next((name for name in mine if then.get(name) != mine[name]), None)
        if changed is not None:
            raise InputError(f"the job in '{self._job.folder}' began with another {changed}", ELSEWHERE)
        chosen = self._run.checkpoints
        return [e for e in chosen if not self._log.kept(e, chosen[e], self._measure.files(e))]

    def _begun(self, epoch: int) -> ScoredEpoch:
        return ScoredEpoch.begun(epoch, self._run.checkpoints[epoch])

    def _score(self, epoch: int, number: int, count: int) -> ScoredEpoch:
        """The units of an epoch that fall to this process and are not on the disk; which checkpoint that was."""
        group, checkpoint = self._group, self._begun(epoch)
        first = number * len(self._units)  # units are numbered through all epochs
        mine = self._units[(group.rank - first) % group.world :: group.world]
        lacking = [u for u in mine if self._name(self._place(checkpoint, u)) not in self._left_over]
        if lacking:
            self._take_up(epoch)
        for unit, values in self._scored(lacking, number, count):
            files.write_arrays(self._place(checkpoint, unit), values)
            failpoint("scoring.after_part")
            failpoint(f"scoring.after_part.rank{group.rank}")
            group.beat()
        return checkpoint

    def _take_up(self, epoch: int) -> None:
        if self._standing != epoch:
            self._measure.begin(self._run.take_up(epoch))
            self._standing = epoch

    def _finish(self, checkpoint: ScoredEpoch, count: int) -> None:
        """Put an epoch together from its parts: write its files, then its line in the log.

        Raises InputError where the ranks saw other files.
        """
        epoch, places = checkpoint.epoch, [self._place(checkpoint, unit) for unit in self._units]
        lacking = 0

        def parts() -> Iterator[Values]:
            nonlocal lacking
            for path in places:
                part = read_part(path, self._of_samples)
                lacking += part is None
                if part is not None and not lacking:
                    yield part

        whole = joined(parts(), self._of_samples)
        if lacking:
            files.check_guarded(self._parts)
            raise InputError(
                f"{lacking} parts of epoch {epoch} are missing: the ranks saw other files than "
                f"'{self._run.checkpoints[epoch]}'",
                "all ranks need the same checkpoints and the same --output-dir",
            )
        self._take_up(epoch)
        row = self._measure.write(checkpoint, whole)
        self._log.add(row, self._measure.files(epoch))
        self._remove(epoch, places)
        self.scored += 1
        headline = self._measure.headline(row)
        self._runtime.progress(self.scored, count, unit="epoch", epoch=epoch, **headline)
        self._group.beat()

    def _remove(self, epoch: int, places: Iterable[Path]) -> None:
        """The parts of a finished epoch."""
        for path in places:
            path.unlink(missing_ok=True)
        try:
            self._folder(epoch).rmdir()
        except OSError:  # parts of what the checkpoint once was lie there too
            shutil.rmtree(self._folder(epoch), ignore_errors=True)

    def _folder(self, epoch: int) -> Path:
        return self._parts / f"epoch_{epoch}"

    def _place(self, checkpoint: ScoredEpoch, unit: Unit) -> Path:
        """The file of a part: it belongs to one content of the checkpoint."""
        words = (checkpoint.sha256[:16], str(unit[0]), str(unit[1]), *self._measure.further)
        return self._folder(checkpoint.epoch) / f"{'-'.join(words)}.npz"

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._parts))

    def _scored(self, units: list[Unit], number: int, count: int) -> Iterator[tuple[Unit, Values]]:
        """What each unit yields, from one pass over all their batches."""
        rows = [self._rows(unit) for unit in units]
        batches = self._run.samples.read([batch for of_unit in rows for batch in of_unit])
        for unit, of_unit in zip(units, rows, strict=True):
            found, sums = list[dict[str, Tensor]](), dict[str, Tensor]()
            for batch in islice(batches, len(of_unit)):
                values = self._measure.batch(batch)
                found.append({name: values.pop(name) for name in self._of_samples})
                for name, value in values.items():  # at once: they may be large
                    sums[name] = sums[name] + value if name in sums else value
                at = min(unit[0] + len(found) * self._batch_size, unit[1])
                self._runtime.progress(number * self._count + at, count * self._count, unit="step")
                if self._runtime.stopping():
                    raise Stopped(f"stopped after {self.scored} epochs", CONTINUE)
            yield unit, self._part(unit, found, sums)

    def _rows(self, unit: Unit) -> list[slice | Tensor]:
        """The rows of each batch of a unit: those of its samples that are scored."""
        (begin, end), size, chosen = unit, self._batch_size, self._run.seen.chosen
        if chosen is None:
            return [slice(first, min(first + size, end)) for first in range(begin, end, size)]
        rows = begin + chosen[begin:end].nonzero()[:, 0]
        return list(torch.split(rows, size)) if len(rows) else []

    def _part(self, unit: Unit, found: list[dict[str, Tensor]], sums: Mapping[str, Tensor]) -> Values:
        """The batches of a unit as one; samples that are not scored are NaN."""
        (begin, end), chosen = unit, self._run.seen.chosen
        wanted = slice(None) if chosen is None else chosen[begin:end].numpy()
        part: Values = {name: np.full(end - begin, np.nan) for name in self._measure.columns}
        for name, shape in self._measure.fields.items():
            part[name] = np.full((end - begin, *shape), np.nan, dtype=np.float32)
        for name in self._of_samples if found else ():
            part[name][wanted] = torch.cat([values[name] for values in found]).cpu().numpy()
        return part | {name: value.cpu().numpy() for name, value in sums.items()}


def joined(parts: Iterable[Values], columns: Collection[str]) -> Values:
    """Columns one after the other, all else added in the order given; parts without samples have nothing to add.

    One part is held at a time.
    """
    of_columns: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    sums: Values = {}
    for part in parts:
        for name, value in part.items():
            if name in of_columns:
                of_columns[name].append(value)
            else:
                sums[name] = sums[name] + value if name in sums else value
    return {name: np.concatenate(found or [np.zeros(0)]) for name, found in of_columns.items()} | sums


def read_part(path: Path, columns: Iterable[str]) -> Values | None:
    """What an earlier run has written; None where there is nothing that can be read, or not with these columns."""
    try:
        found = arrays.read_npz(path)
    except InputError:
        return None
    return found if set(columns) <= set(found) else None
