"""The log of a training, a line of JSON per epoch, and what follows from it: when a run is stopped early."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import files, logs
from modeconn_cli.engine.results.manifest import ANEW


@dataclass(frozen=True, kw_only=True)
class LoggedEpoch:
    """`epoch` epochs are completed. Losses in nats, accuracies in percent; None for what is not in the line.

    `train_…` are of the batches as they were trained on, `train_nll` is the loss without the regulariser, where there
    is one; `…_middle` of the network half-way along a curve, or in the middle of endpoint 0's simplex, whose volume
    `log_volume` says. `weights_of_epoch` is given where a task ends with the weights of an earlier epoch.
    """

    epoch: int
    lr: float | None = None
    train_loss: float | None = None
    train_accuracy: float | None = None
    train_nll: float | None = None
    val_loss: float | None = None
    val_accuracy: float | None = None
    test_loss: float | None = None
    test_accuracy: float | None = None
    val_loss_middle: float | None = None
    val_accuracy_middle: float | None = None
    test_loss_middle: float | None = None
    test_accuracy_middle: float | None = None
    log_volume: float | None = None
    seconds: float | None = None
    weights_of_epoch: int | None = None

    def known(self) -> dict[str, float]:
        """What is in the line."""
        return {name: value for name, value in vars(self).items() if value is not None}


class MetricsLog:
    """The log of the run in a folder; `rows` are in the order of epochs, none missing.

    `begun` is the epoch that a run which is gone on with began after: what stands behind a damaged or a missing line is
    left out, to be trained again. None for a run that is only read. Raises InputError where that is damaged.
    """

    def __init__(self, folder: Path, begun: int | None = None) -> None:
        self._path, self._begun = folder / names.METRICS, begun or 0
        self._lines: list[bytes] = []
        self.rows: list[LoggedEpoch] = []
        self._damage = ""
        for line in logs.read(self._path, LoggedEpoch):
            row, damage = line.record, line.damage
            if row is not None and (self.rows or begun is not None) and row.epoch != self.epoch + 1:
                damage = f"line {line.number} is of epoch {row.epoch}, not {self.epoch + 1}"
            if row is None or damage:
                self._damage = f"'{self._path}' is not the log of a training: {damage}"
                break
            self._lines.append(line.text)
            self.rows.append(row)
        if self._damage and begun is None:
            raise InputError(self._damage, ANEW)

    @property
    def epoch(self) -> int:
        """The last one; before the first that after which the run began."""
        return self.rows[-1].epoch if self.rows else self._begun

    def check(self, epoch: int) -> None:
        """Raises InputError where lines of epochs up to this one, of a checkpoint, are damaged or lost."""
        if self.epoch < epoch:
            what = self._damage or f"'{self._path}' ends with epoch {self.epoch}"
            raise InputError(
                f"{what}; the checkpoint is at epoch {epoch}",
                f"remove the checkpoints after epoch {self.epoch} to train on from there, or {ANEW}",
            )

    def add(self, row: LoggedEpoch) -> None:
        self.rows.append(row)
        logs.append_line(self._path, json.dumps(row.known()))

    def cut(self, epoch: int) -> None:
        """Drop the lines of epochs after this one, which will be trained again, and all that is damaged.

        Begins a log that is missing. Raises InputError where lines before are lost.
        """
        self.check(epoch)
        kept = sum(row.epoch <= epoch for row in self.rows)
        self.rows, self._damage = self.rows[:kept], ""
        content = b"".join(line + b"\n" for line in self._lines[:kept])
        if not self._path.exists() or self._path.read_bytes() != content:
            files.atomic_write(self._path, content)


class Patience:
    """Early stopping: `over` after `epochs` epochs without a validation loss that is better by `min_delta`."""

    def __init__(self, epochs: int | None, min_delta: float, rows: Iterable[LoggedEpoch]) -> None:
        self._epochs, self._min_delta = epochs, min_delta
        self._best, self._since = float("inf"), 0
        for row in rows:
            self.see(row)

    def see(self, row: LoggedEpoch) -> None:
        self._since += 1
        if row.val_loss is not None and row.val_loss < self._best - self._min_delta:
            self._best, self._since = row.val_loss, 0

    @property
    def over(self) -> bool:
        return self._epochs is not None and self._since >= self._epochs
