"""Runs that learnt their classes task by task: over which classes, and which samples, an epoch is scored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.settings.scoring import ScoringSettings
from modeconn_cli.engine.training.tasks import Tasks, read_order

DOCUMENTED = {"per_task": 5, "epochs": 200}  # where neither flag nor checkpoint says


class Seen:
    """Which classes have been seen by an epoch; all of them where there are no `tasks`. `labels` are the samples' [N].

    After `begin`: `classes`, int64 and ascending, and `chosen`, bool [N] on the CPU, the samples of these classes;
    None each for all.
    """

    def __init__(self, tasks: Tasks | None, labels: Tensor) -> None:
        self.tasks, self._labels = tasks, labels
        self.classes: Tensor | None = None
        self.chosen: Tensor | None = None

    def begin(self, epoch: int) -> None:
        """Take up an epoch."""
        if self.tasks is not None:
            self.classes = self.tasks.seen_by(epoch).to(self._labels.device)
            self.chosen = torch.isin(self._labels, self.classes).cpu()

    def of(self, values: np.ndarray) -> np.ndarray:
        """The values [N] of the samples that are scored."""
        return values if self.chosen is None else values[self.chosen.numpy()]


def seen_classes(
    settings: ScoringSettings,
    own: Mapping[str, Any] | None,
    labels: Tensor,
    num_classes: int,
    runtime: Runtime,
) -> Seen:
    """Which classes have been seen: as the settings say, else as the run's checkpoint says of its tasks (`own`).

    Raises SettingsError for an order that nobody gives, InputError for one that is no permutation of the classes.
    """
    if settings.seen_classes:
        return Seen(_tasks(settings, own, num_classes, runtime), labels)
    if own is not None:
        runtime.note("the run learnt its classes task by task; --seen-classes leaves out those not seen yet")
    return Seen(None, labels)


def own_tasks(own: Mapping[str, Any] | None) -> Tasks | None:
    """The tasks that a run's checkpoint says it learnt, None where it says none. Raises InputError for damaged ones."""
    if own is None:
        return None
    with _undamaged():
        return Tasks(tuple(map(int, own["order"])), int(own["per_task"]), int(own["epochs"]))


def _tasks(
    settings: ScoringSettings, own: Mapping[str, Any] | None, num_classes: int, runtime: Runtime
) -> Tasks:
    if settings.class_order is None and own is None:
        raise SettingsError("--seen-classes needs the order of the classes", "pass --class-order FILE")
    said = {**DOCUMENTED, **(own or {})}
    flags = {"per_task": settings.classes_per_task, "epochs": settings.epochs_per_task}
    if own is None and None in flags.values():
        assumed = {name: flags[name] or said[name] for name in DOCUMENTED}
        runtime.warn(
            f"{assumed['per_task']} classes every {assumed['epochs']} epochs are assumed: the checkpoints do not say "
            "(--classes-per-task, --epochs-per-task)"
        )
    with _undamaged():
        per_task, epochs = (flags[name] or int(said[name]) for name in DOCUMENTED)
        if settings.class_order is not None:
            order = tuple(read_order(settings.class_order, num_classes).tolist())
        else:
            order = tuple(int(number) for number in said["order"])
        if sorted(order) != list(range(num_classes)):
            raise ValueError(f"{order} is no order of the classes")
    return Tasks(order, per_task, epochs)


@contextlib.contextmanager
def _undamaged() -> Iterator[None]:
    """Raises InputError where a checkpoint says no tasks that can be."""
    try:
        yield
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(f"what the checkpoint says of its tasks is damaged ({error})") from error
