"""Classes that are added task by task: whose images an epoch goes over, and over which classes its loss is taken.

Protocol: Dohare et al. 2024, Loss of plasticity in deep continual learning.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine import keyed
from modeconn_cli.engine.datasets import Samples
from modeconn_cli.engine.datasets.samples import spans
from modeconn_cli.engine.errors import InputError, SettingsError, must_exist
from modeconn_cli.engine.results import arrays
from modeconn_cli.engine.settings.train import TaskSettings
from modeconn_cli.engine.training.halves import Halves


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

    def begun(self, epochs: int) -> range:
        """The tasks that a run of so many completed epochs has been through, the last maybe in part."""
        return range(self.at(epochs - 1) + 1 if epochs else 0)

    def added(self, task: int) -> tuple[int, ...]:
        """The classes that a task adds."""
        return self.order[task * self.per_task : (task + 1) * self.per_task]

    def seen(self, task: int) -> Tensor:
        """The classes seen in a task, int64, ascending."""
        return torch.tensor(sorted(self.order[: (task + 1) * self.per_task]))

    def seen_by(self, epoch: int) -> Tensor:
        """The classes that a network of `epoch` completed epochs was trained on last; at 0 those of the first task."""
        return self.seen(self.at(max(epoch - 1, 0)))

    def entry(self) -> dict[str, Any]:
        """What a checkpoint says of them."""
        return {**asdict(self), "order": list(self.order)}

    def check(self, samples: Samples, epochs: int) -> None:
        """Raises SettingsError for epochs after the last task, and for a first task without images."""
        if epochs > self.count * self.epochs:
            raise SettingsError(
                f"--epochs {epochs}, and the {self.count} tasks are over after {self.count * self.epochs}",
                "raise --epochs-per-task, or leave out --epochs",
            )
        first = self.seen(0)
        if not torch.isin(samples.labels.cpu(), first).any():
            raise SettingsError(f"no training image is of a class of the first task: {first.tolist()}")


def tasks_of(settings: TaskSettings, num_classes: int, seed: int) -> Tasks | None:
    """The tasks that settings ask for. Raises InputError for an order that is none."""
    if settings.classes_per_task is None:
        return None
    if settings.class_order is None:
        order = keyed.permutation(seed, "class order", num_classes)
    else:
        order = read_order(settings.class_order, num_classes)
    return Tasks(tuple(order.tolist()), settings.classes_per_task, settings.epochs_per_task)


def read_order(path: Path, num_classes: int | None = None) -> Tensor:
    """The classes in the order they are learnt, int64 [C].

    Raises InputError for what is no permutation of them, or of as many as there are in the file.
    """
    must_exist(path)
    order = np.array(arrays.read(path, kinds="iu"), dtype=np.int64)
    num_classes = len(order) if num_classes is None else num_classes
    missing = sorted(set(range(num_classes)) - set(order.tolist()))
    if missing or len(order) != num_classes:
        shown = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
        raise InputError(
            f"'{path}' is no permutation of the {num_classes} classes",
            f"{shown} is missing" if missing else f"it has {len(order)} entries",
        )
    return torch.from_numpy(order)


class Curriculum:
    """What every epoch of a run goes over: all samples with all classes, those of the classes seen, or a half."""

    def __init__(self, samples: Samples, plan: Tasks | Halves | None = None) -> None:
        self.samples, self.plan = samples, plan
        self.tasks = plan if isinstance(plan, Tasks) else None
        self._rows: tuple[int, Tensor] | None = (
            None  # of the one task that is gone through, which may be all samples
        )
        self._before: dict[int, list[int]] = {}  # batch size -> the steps before each task

    @cached_property
    def sizes(self) -> list[int]:
        """How many samples every task goes over."""
        if isinstance(self.plan, Halves):
            first = int(self.plan.first(self.samples.ids).sum())
            return [first, len(self.samples) - first]
        if self.tasks is None:
            return [len(self.samples)]
        counts = torch.bincount(self.samples.labels.cpu(), minlength=len(self.tasks.order)).tolist()
        added = (sum(counts[number] for number in self.tasks.added(k)) for k in range(self.tasks.count))
        return list(accumulate(added))

    def task(self, epoch: int) -> int:
        """The task, or the phase, of the epoch after `epoch` completed ones; 0 without any."""
        return 0 if self.plan is None else self.plan.at(epoch)

    def rows(self, epoch: int) -> Tensor | None:
        """The rows that this epoch goes over, [n]; None for all."""
        if self.plan is None:
            return None
        task = self.task(epoch)
        if self._rows is None or self._rows[0] != task:
            if isinstance(self.plan, Halves):
                seen = self.plan.members(self.samples.ids.cpu(), task)
            else:
                seen = torch.isin(self.samples.labels.cpu(), self.plan.seen(task))
            self._rows = task, seen.nonzero()[:, 0]
        return self._rows[1]

    def classes(self, epoch: int) -> Tensor | None:
        """The classes that its loss is over, ascending; None for all."""
        return None if self.tasks is None else self.tasks.seen(self.task(epoch)).to(self.samples.device)

    def size(self, epoch: int) -> int:
        """How many samples it goes over."""
        return self.sizes[self.task(epoch)]

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
        if self.plan is None or epoch == 0:
            return epoch * self.steps(0, batch_size)
        ends, each = self._ends(batch_size), self.plan.epochs
        last = self.task(epoch - 1)
        return ends[last] + self.steps(epoch - 1, batch_size) * (epoch - last * each)

    def _ends(self, batch_size: int) -> list[int]:
        """The steps before each task."""
        if batch_size not in self._before:
            assert self.plan is not None
            each = self.plan.epochs
            own = (each * self.steps(task * each, batch_size) for task in range(self.plan.count))
            self._before[batch_size] = [0, *accumulate(own)]
        return self._before[batch_size]
