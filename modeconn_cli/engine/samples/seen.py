"""Runs that learnt their classes task by task: over which classes, and which samples, an epoch is scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.samples.subject import Subject
from modeconn_cli.engine.settings.scoring import ScoringSettings
from modeconn_cli.engine.training.incremental import read_order
from modeconn_cli.engine.training.tasks import Tasks

DOCUMENTED = (5, 200)  # classes and epochs of a task, where neither flag nor checkpoint says


class Seen:
    """Which classes have been seen by an epoch; all of them where there are no tasks."""

    def __init__(self, tasks: Tasks | None, samples_labels: Tensor) -> None:
        self._tasks, self._labels = tasks, samples_labels
        self.classes: Tensor | None = None  # int64, ascending; None for all
        self.chosen: Tensor | None = (
            None  # which samples are of these classes, bool [N] on the CPU; None for all
        )

    def begin(self, epoch: int) -> Tensor | None:
        """Take up an epoch; the samples that are scored."""
        if self._tasks is not None:
            self.classes = self._tasks.seen(self._tasks.at(max(epoch - 1, 0))).to(self._labels.device)
            self.chosen = torch.isin(self._labels, self.classes).cpu()
        return self.chosen

    @property
    def count(self) -> int:
        """How many samples are scored."""
        return len(self._labels) if self.chosen is None else int(self.chosen.sum())

    @property
    def partial(self) -> bool:
        """Whether epochs may leave samples out."""
        return self._tasks is not None


def seen_classes(settings: ScoringSettings, subject: Subject, runtime: Runtime) -> Seen:
    """As the settings say, else as the run says of itself.

    Raises SettingsError for an order that nobody gives, InputError for one that is no permutation of the classes.
    """
    own = subject.about.tasks
    if not settings.seen_classes:
        if own is not None:
            runtime.note(
                "the run learnt its classes task by task; --seen-classes leaves out those not seen yet"
            )
        return Seen(None, subject.samples.labels)
    return Seen(_tasks(settings, subject, own, runtime), subject.samples.labels)


def _tasks(
    settings: ScoringSettings, subject: Subject, own: Mapping[str, Any] | None, runtime: Runtime
) -> Tasks:
    if settings.class_order is None and own is None:
        raise SettingsError("--seen-classes needs the order of the classes", "pass --class-order FILE")
    said, classes = own or {}, subject.data.num_classes
    if own is None and (settings.classes_per_task is None or settings.epochs_per_task is None):
        runtime.warn(
            f"{settings.classes_per_task or DOCUMENTED[0]} classes every {settings.epochs_per_task or DOCUMENTED[1]} "
            "epochs are assumed: the checkpoints do not say (--classes-per-task, --epochs-per-task)"
        )
    try:
        per_task = settings.classes_per_task or int(said.get("per_task", DOCUMENTED[0]))
        epochs = settings.epochs_per_task or int(said.get("epochs", DOCUMENTED[1]))
        if settings.class_order is not None:
            order = tuple(read_order(settings.class_order, classes).tolist())
        else:
            order = tuple(int(number) for number in said["order"])
        if sorted(order) != list(range(classes)):
            raise ValueError(f"{order} is no order of the classes")
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(f"what the checkpoint says of its tasks is damaged ({error})") from error
    return Tasks(order, per_task, epochs)
