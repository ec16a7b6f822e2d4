"""The recorder as a callback of Lightning, `lightning` or `pytorch_lightning`, whichever a training uses."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.training.recorder import Recorder

LIBRARIES = ("lightning.pytorch", "pytorch_lightning")
NAMES = ("ids", "logits", "labels")  # of a step's output


def of_output(output: Any, _batch: Any) -> tuple[Any, ...]:
    """ids [B], logits [B, C] and labels [B] that a training step returns beside its loss.

    Raises InputError where it does not.
    """
    lacking = [name for name in NAMES if not isinstance(output, Mapping) or name not in output]
    if lacking:
        raise InputError(
            f"training_step returns no {', '.join(lacking)}",
            "return {'loss': …, 'ids': …, 'logits': …, 'labels': …}, or pass RecorderCallback(…, read=…)",
        )
    return tuple(output[name] for name in NAMES)


@cache
def callback() -> type:
    """`RecorderCallback`, whose base is that of the library that is in use. Raises InputError where there is none."""
    name = next((name for name in LIBRARIES if name in sys.modules), None) or next(
        filter(_found, LIBRARIES), None
    )
    if name is None:
        raise InputError("Lightning is not installed", "pip install 'modeconn-cli[lightning]'")
    base: Any = importlib.import_module(name).Callback

    class RecorderCallback(base):  # type: ignore[misc] # of a library that the checker does not read
        """Records what a `Trainer` of Lightning trains on, epoch by epoch, as `Recorder(folder, ids, **options)` does.

        `training_step` returns {'loss', 'ids', 'logits', 'labels'}, or `read(output, batch)` gives ids, logits and
        labels of its output and the batch. Steps of validation are not recorded, nor is an epoch that `max_steps` ends.
        """

        def __init__(
            self,
            folder: str | Path,
            ids: Any = None,
            *,
            read: Callable[[Any, Any], tuple[Any, ...]] = of_output,
            **options: Any,
        ) -> None:
            super().__init__()
            self._made, self._read = partial(Recorder, folder, ids, **options), read
            self.recorder: Recorder | None = None

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
            self.recorder = self._made()  # by now the ranks know each other

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
            self._recording().go_on(trainer.current_epoch)

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
            self._recording().drop()

        def on_train_batch_end(
            self,
            trainer: Any,  # noqa: ARG002
            pl_module: Any,  # noqa: ARG002
            outputs: Any,
            batch: Any,
            batch_idx: int,  # noqa: ARG002
        ) -> None:
            if outputs is not None:  # else the step was skipped
                self._recording().step(*self._read(outputs, batch))

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
            recorder, epoch = self._recording(), trainer.current_epoch + 1
            if trainer.is_last_batch:
                recorder.epoch_end(epoch)
            else:
                recorder.abandon(epoch)

        def _recording(self) -> Recorder:
            assert self.recorder is not None
            return self.recorder

    RecorderCallback.__module__, RecorderCallback.__qualname__ = (
        "modeconn_cli",
        "RecorderCallback",
    )  # to be pickled
    return RecorderCallback


def _found(name: str) -> bool:
    """Whether a library is installed."""
    return importlib.util.find_spec(name.partition(".")[0]) is not None
