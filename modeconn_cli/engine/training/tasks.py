"""Classes that are added task by task: whose images an epoch goes over, and over which classes its loss is taken."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from modeconn_cli.engine.datasets import Samples
from modeconn_cli.engine.datasets.samples import spans


@dataclass(frozen=True)
class Tasks:
    """`order` [C]: the classes in the order they are added, `per_task` at a time, every `epochs` epochs."""

    order: tuple[int, ...]
    per_task: int
    epochs: int

    @property
    def count(self) -> int:
        """The last task has what is left of the classes."""
        return -(-len(self.order) // self.per_task)

    def at(self, epoch: int) -> int:
        """The task, from 0, of the epoch in progress after `epoch` completed ones."""
        return min(epoch // self.epochs, self.count - 1)

    def ends(self, epoch: int) -> bool:
        """Whether a task is over after `epoch` completed epochs."""
        return epoch > 0 and epoch % self.epochs == 0

    def added(self, task: int) -> tuple[int, ...]:
        """The classes that a task adds."""
        return self.order[task * self.per_task : (task + 1) * self.per_task]

    def seen(self, task: int) -> Tensor:
        """The classes seen in a task, int64, ascending."""
        return torch.tensor(sorted(self.order[: (task + 1) * self.per_task]))


class Curriculum:
    """What every epoch of a run goes over: all samples with all classes, or those of the classes seen."""

    def __init__(self, samples: Samples, tasks: Tasks | None = None) -> None:
        self.samples, self.tasks = samples, tasks

    @cached_property
    def _rows(self) -> list[Tensor]:
        """Row numbers by task."""
        assert self.tasks is not None
        labels = self.samples.labels.cpu()
        return [torch.isin(labels, self.tasks.seen(task)).nonzero()[:, 0] for task in range(self.tasks.count)]

    def rows(self, epoch: int) -> Tensor | None:
        """The rows that the epoch after `epoch` completed ones goes over, [n]; None for all."""
        return None if self.tasks is None else self._rows[self.tasks.at(epoch)]

    def classes(self, epoch: int) -> Tensor | None:
        """The classes that its loss is over, ascending; None for all."""
        return None if self.tasks is None else self.tasks.seen(self.tasks.at(epoch)).to(self.samples.device)

    def size(self, epoch: int) -> int:
        """How many samples it goes over."""
        rows = self.rows(epoch)
        return len(self.samples) if rows is None else len(rows)

    def steps(self, epoch: int, batch_size: int) -> int:
        return len(spans(self.size(epoch), batch_size, merge_single=True))

    def rows_before(self, epoch: int, batch: int, batch_size: int, every: int) -> int:
        """How many samples the epochs before it went over, every so many of them, and those before a batch in it."""
        whole = sum(self.size(earlier) for earlier in range(0, epoch, every))
        if batch == 0 or epoch % every:
            return whole
        return whole + spans(self.size(epoch), batch_size, merge_single=True)[batch - 1][1]

    def steps_before(self, epoch: int, batch_size: int) -> int:
        """The steps of all epochs before it."""
        if self.tasks is None:
            return epoch * self.steps(0, batch_size)
        each = self.tasks.epochs
        begun = range(0, epoch, each)
        return sum(self.steps(first, batch_size) * min(each, epoch - first) for first in begun)
