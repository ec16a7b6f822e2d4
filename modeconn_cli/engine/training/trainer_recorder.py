"""The recorder at a `Trainer` of transformers.

A callback sees no logits, and the collator no ids: so the data set says each item's place, the collator hands them on
beside the model's inputs, and the loss's computation, which has the outputs, takes them away again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset, IterableDataset

from modeconn_cli.engine.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import Trainer

    from modeconn_cli.engine.training.recorder import Recorder

IDS = "mcx_ids"  # beside the model's inputs
WHOLE = 1e-6  # how far from a whole number the epoch's number may be where it has ended


def attach(recorder: Recorder, trainer: Trainer) -> None:
    """As `Recorder.attach` says."""
    from transformers import TrainerCallback

    data = trainer.train_dataset
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")) or isinstance(data, IterableDataset):
        raise InputError(
            "the trainer's train_dataset has no places, which are the ids", "pass a map-style data set"
        )
    if isinstance(data, Placed):
        raise InputError("a recorder is attached to this trainer already")
    if _grouped(trainer.args):
        raise InputError(
            "the trainer groups samples by length, for which items have to be its own", "turn that off"
        )
    recorder.expect(range(len(data)))
    # The trainer drops what the model does not take from items that are dicts: here it has to do so within them.
    trainer.data_collator = _Collator(
        trainer._get_collator_with_removed_columns(trainer.data_collator, description="training"),
        trainer.data_collator,
    )
    trainer.train_dataset = Placed(data)
    compute = trainer.compute_loss

    def compute_loss(model: Any, inputs: dict[str, Any], return_outputs: bool = False, **more: Any) -> Any:
        ids = inputs.pop(IDS, None)
        if ids is None or not model.training:
            return compute(model, inputs, return_outputs=return_outputs, **more)
        label = next((name for name in trainer.label_names if name in inputs), None)
        if label is None:
            raise InputError(f"the trainer's inputs have no labels: {', '.join(inputs)}", "pass label_names")
        labels = inputs[label]
        loss, outputs = compute(model, inputs, return_outputs=True, **more)
        logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[1]
        recorder.step(ids, logits, labels)
        return (loss, outputs) if return_outputs else loss

    class Ends(TrainerCallback):  # type: ignore[misc] # of a library that the checker does not read
        """Says where epochs begin and end."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            recorder.go_on(int(state.epoch or 0))

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            recorder.drop()

        def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            epoch = round(state.epoch)
            if abs(state.epoch - epoch) < WHOLE:
                recorder.epoch_end(epoch)
            else:
                recorder.abandon(math.ceil(state.epoch))

    trainer.compute_loss = compute_loss
    trainer.add_callback(Ends())


class Item:
    """An item with its place; no dict, so that nobody drops the place from it."""

    def __init__(self, place: int, value: Any) -> None:
        self.place, self.value = place, value


class Placed(Dataset[Item]):
    """A data set whose items say their places."""

    def __init__(self, data: Any) -> None:
        self.data = data
        if hasattr(data, "__getitems__"):
            self.__getitems__ = self._several  # torch's loader asks for it

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, place: int) -> Item:
        return Item(int(place), self.data[place])

    def _several(self, places: Sequence[int]) -> list[Item]:
        return [Item(int(k), value) for k, value in zip(places, self.data.__getitems__(places), strict=True)]


class _Collator:
    """Collates items with `inner` and hands their places on; others as ever."""

    def __init__(self, inner: Callable[[list[Any]], Any], plain: Callable[[list[Any]], Any]) -> None:
        self.inner, self.plain = inner, plain

    def __call__(self, items: list[Any]) -> Any:
        if not isinstance(items[0], Item):
            return self.plain(items)
        batch = self.inner([item.value for item in items])
        batch[IDS] = torch.tensor([item.place for item in items])
        return batch


def _grouped(args: Any) -> bool:
    """Whether samples are chosen by their lengths; the name of it has changed."""
    strategy = getattr(args, "train_sampling_strategy", "random")
    return bool(getattr(args, "group_by_length", False)) or strategy not in ("random", "sequential")
