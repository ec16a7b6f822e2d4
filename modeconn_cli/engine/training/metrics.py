"""The log of a training, a line of JSON per epoch, and what follows from it: when a run is stopped early."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import files
from modeconn_cli.engine.results.manifest import ANEW


@dataclass(frozen=True, kw_only=True)
class LoggedEpoch:
    """`epoch` epochs are completed. Losses in nats, accuracies in percent; None for what is not in the line.

    `train_…` are of the batches as they were trained on, `train_nll` is the loss without the regulariser, where there
    is one; `…_middle` of the network half-way along a curve. `weights_of_epoch` is given where a task ends with the
    weights of an earlier epoch.
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
    seconds: float | None = None
    weights_of_epoch: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.epoch, int):
            raise ValueError("an epoch is no whole number")

    def known(self) -> dict[str, float]:
        """What is in the line."""
        return {name: value for name, value in vars(self).items() if value is not None}


class MetricsLog:
    """The log of the run in a folder; `rows` are in the order of epochs. Raises InputError for what is none."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / names.METRICS
        try:
            self._lines = files.read_lines(self._path)
            self.rows = [LoggedEpoch(**files.parsed(line, self._path, ANEW)) for line in self._lines]
        except (InputError, ValueError, TypeError) as error:
            raise InputError(f"'{self._path}' is not the log of a training: {error}", ANEW) from error

    @property
    def epoch(self) -> int:
        """The last one; 0 before the first."""
        return self.rows[-1].epoch if self.rows else 0

    def add(self, row: LoggedEpoch) -> None:
        self.rows.append(row)
        files.append_line(self._path, json.dumps(row.known()))

    def cut(self, epoch: int, begun: int) -> None:
        """Drop the lines of epochs after this one, which will be trained again, and one that a kill cut off.

        Begins a log that is missing. Raises InputError where lines of epochs after `begun` are.
        """
        kept = [k for k, row in enumerate(self.rows) if row.epoch <= epoch]
        if len(kept) < epoch - begun:
            raise InputError(
                f"'{self._path}' has {len(kept)} lines, the checkpoint is at epoch {epoch}", ANEW
            )
        self.rows = [self.rows[k] for k in kept]
        text = "".join(f"{self._lines[k]}\n" for k in kept)
        if not self._path.exists() or self._path.read_bytes() != text.encode():
            files.write_text(self._path, text)


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
