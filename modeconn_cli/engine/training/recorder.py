"""The recorder of training dynamics, for any training loop: three lines, and `mcx csl aggregate` reads the rest.

Every step's logits become the loss and the columns of `training/columns.py` where they are, some steps at a time;
whatever is on a GPU stays there until the epoch ends, so that a step waits for nothing.

>>> import tempfile
>>> folder = tempfile.mkdtemp()
>>> rec = Recorder(folder, ids=[7, 8, 9])
>>> rec.step([9, 7], np.array([[0.0, 1.0], [2.0, 0.0]]), [1, 0])
>>> rec.step([8], np.array([[0.0, 0.0]]), [1])
>>> rec.epoch_end()
Epoch(epoch=1, samples=3, missing=0, repeated=0, nonfinite=0)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine import exact
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine import collective
from modeconn_cli.engine.networks.cross_entropy import cross_entropy
from modeconn_cli.engine.training import columns
from modeconn_cli.engine.training.recorded import UNKNOWN, Epoch, Folder, Mode

if TYPE_CHECKING:
    from transformers import Trainer

VALUES = ("loss", *(column.name for column in columns.COLUMNS))
TOGETHER = 32  # steps that are reduced at a time; the first ones sooner, so that mistakes are seen early
MOST = 1 << 22  # logits that are kept until then
MOVED = 1 << 18  # rows that stay on a GPU before the epoch ends
SHARED = -(1 << 62)  # in the place of a label that is not one-hot


class Recorder:
    """Records every sample's loss and logits while a network is trained, one value per sample and epoch.

    `folder` is what `mcx csl aggregate --input-dir` takes. `ids`: those of all samples, whole numbers from 0 on, each
    once; without them they are those of the first epoch. `name` is that of the data in the files' names. `mode` says
    what the logits are: of `train` mode, before the step, or of `eval` mode; a folder holds one kind. `strict` refuses
    an epoch in which ids are missing, which are NaN otherwise. `overwrite` lets an epoch that is there be recorded
    anew. `warn` is told what is odd, `warnings.warn` where none is given.

    A recorder of a folder with finished epochs goes on after the last; an epoch that has not ended leaves nothing. Only
    one at a time records into a folder.
    Under torch.distributed every rank makes one, passes its own share to `step` and calls `epoch_end`; rank 0 writes.

    Raises InputError for a folder of other values, other ids or another `mode`.
    """

    def __init__(
        self,
        folder: str | Path,
        ids: Any = None,
        *,
        name: str = "data",
        mode: Mode = "train",
        strict: bool = False,
        overwrite: bool = False,
        warn: Callable[[str], object] | None = None,
    ) -> None:
        self._strict, self._overwrite, self.warn = strict, overwrite, warn or _warn
        self._folder: Folder | None = None
        self._ids: np.ndarray | None = None
        self._labels: np.ndarray | None = None
        given = None if ids is None else exact.ids(_listed(ids), "ids")
        if given is not None and not len(given):
            raise InputError("ids: there are none")

        self._open(given, lambda: Folder(Path(folder), name, mode))
        self._classes: int | None = None
        self._seen: Tensor | None = None
        self._steps: list[_Step] = []
        self._blocks: list[_Block] = []
        self._rows: list[_Rows] = []
        self._number = self._waiting = 0

    @property
    def last(self) -> int | None:
        """The last epoch that is there, None where there is none; of rank 0."""
        return max(self.folder.epochs(), default=None)

    @property
    def folder(self) -> Folder:
        """Where its files are; of rank 0."""
        assert self._folder is not None, "only the first rank writes"
        return self._folder

    def step(self, ids: Any, logits: Any, labels: Any, classes: Any = None) -> None:
        """A batch, before or after its step: ids [B], logits [B, C], labels [B] or one-hot [B, C].

        Tensors of any device, arrays or lists; gradients are not followed. `classes` int64 [C], ascending, where the
        logits are of some classes alone, of which there may be more later: which one each column is, a tensor that is
        not written over.

        Raises InputError for shapes and types that do not fit, another number of classes than before, ids that are not
        the recorder's and labels that are no class. Values are looked at some steps at a time, on a GPU at the end of
        the epoch.
        """
        z = _logits(logits)
        taken = _Step(_ids(ids), z, _labels(labels, z), None if classes is None else torch.as_tensor(classes))
        for what, found in (("ids", taken.ids), ("labels", taken.labels)):
            if len(found) != len(z):
                raise InputError(f"step: {len(found)} {what} for {len(z)} rows of logits")
        self._check_classes(taken)
        if self._steps and not taken.alike(self._steps[0]):
            self._reduce()
        self._steps.append(taken)
        self._number += 1
        self._waiting += z.numel()
        early = self._number <= TOGETHER and self._number & (self._number - 1) == 0
        if early or self._number % TOGETHER == 0 or self._waiting >= MOST:
            self._reduce()

    def epoch_end(self, epoch: int | None = None) -> Epoch:
        """Write the epoch: all of it, or nothing after a kill. Without `epoch` it is the one after the last, or 1.

        Returns what was recorded of how many samples. Raises InputError where nothing was recorded, for an epoch that
        is there already or that another recorder has written meanwhile, a label that is another one than before,
        and what `step` raises of values.
        """

        def own() -> _Rows:
            self._reduce()
            return self._settled()

        try:
            found, ids = collective.together(own, lambda shares: self._written(epoch, shares))
        finally:
            self._begin()
        self._know(ids)
        return found

    def expect(self, ids: Any) -> None:
        """These are the ids of all samples, where none are known yet."""
        if self._ids is None:
            self._open(exact.ids(_listed(ids), "ids"), lambda: self.folder)

    def go_on(self, epoch: int) -> None:
        """A trainer goes on after `epoch` finished ones. Raises InputError where later ones are there, and are not to
        be overwritten: at once, and not after the first of them.
        """

        def look(_: Sequence[None]) -> None:
            if self.last is not None and self.last > epoch and not self._overwrite:
                raise InputError(
                    f"'{self.folder.path}' holds epochs up to {self.last}, and the trainer is at {epoch}",
                    "use another folder, or pass Recorder(…, overwrite=True)",
                )

        collective.together(lambda: None, look)

    def drop(self) -> None:
        """Forget the steps since the last epoch."""
        self._begin()

    def abandon(self, epoch: int) -> None:
        """Forget them, as the loop has left the epoch before its end, and say so."""
        self.drop()
        self.warn(f"epoch {epoch} has not ended, and is not recorded")

    def state_dict(self) -> dict[str, Tensor]:
        """The epoch in progress, for a loop that goes on within it: after `load_state_dict` it ends the same."""
        rows, waiting = self._settled(), _joined(self._steps)
        found = {name: torch.from_numpy(getattr(rows, name)) for name in _Rows.NAMES}
        found |= {"number": torch.tensor(self._number), "classes": torch.tensor(self._classes or 0)}
        if waiting is not None:
            found |= {"waiting_ids": waiting.ids.cpu(), "waiting_logits": waiting.logits.cpu()}
            found |= {"waiting_labels": waiting.labels.cpu(), "waiting_sizes": torch.tensor(self._sizes())}
            found |= {} if waiting.classes is None else {"waiting_classes": waiting.classes.cpu()}
        return found

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on with the epoch that `state_dict` has given."""
        self._begin()
        rows = {name: state[name].numpy() for name in _Rows.NAMES}
        self._classes = int(state["classes"]) or None
        self._rows = [_Rows(**rows, classes=self._classes)]
        self._number = int(state["number"])
        if "waiting_ids" in state:
            sizes = state["waiting_sizes"].tolist()
            ids, logits, labels = (
                torch.split(state[f"waiting_{name}"], sizes) for name in ("ids", "logits", "labels")
            )
            classes = state.get("waiting_classes")
            self._steps = [_Step(*part, classes) for part in zip(ids, logits, labels, strict=True)]
            self._waiting = state["waiting_logits"].numel()

    def attach(self, trainer: Trainer) -> Recorder:
        """Record what a `Trainer` of transformers trains on, epoch by epoch; call it before `trainer.train()`.

        The id of a sample is its place in `trainer.train_dataset`. Steps of an evaluation are not recorded, nor is an
        epoch that `max_steps` ends. Raises InputError for a data set without places.
        """
        from modeconn_cli.engine.training.trainer_recorder import attach

        attach(self, trainer)
        return self

    def _begin(self) -> None:
        """Stand at the beginning of an epoch."""
        self._classes, self._steps, self._blocks, self._rows = None, [], [], []
        self._number = self._waiting = 0

    def _open(self, given: np.ndarray | None, folder: Callable[[], Folder]) -> None:
        """Open the folder on rank 0; all ranks know its ids then. Raises InputError where theirs are not the same."""

        def opened(shares: list[np.ndarray | None]) -> np.ndarray | None:
            if any(not _same(share, shares[0]) for share in shares):
                raise InputError(
                    "the ranks have other ids", "pass the same ids to every rank: those of all samples"
                )
            self._folder = folder()
            self._there = set(self._folder.epochs())
            known, self._labels = self._folder.open(given)
            return known

        self._know(collective.together(lambda: given, opened))

    def _know(self, ids: np.ndarray | None) -> None:
        """The ids of all samples, which are known from now on."""
        if ids is not None and self._ids is None:
            self._ids, self._order = ids, np.argsort(ids, kind="stable")
            self._ascending = ids[self._order]

    def _places(self, ids: np.ndarray) -> np.ndarray:
        """Where ids are among the recorder's. Raises InputError for the first that is none of them."""
        assert self._ids is not None
        places = np.minimum(np.searchsorted(self._ascending, ids), len(self._ascending) - 1)
        unknown = self._ascending[places] != ids
        if unknown.any():
            raise InputError(
                f"step: id {ids[unknown][0]} is none of the {len(self._ids):,} of the recorder",
                "Recorder(folder, ids=…) takes those of all samples",
            )
        found: np.ndarray = self._order[places]
        return found

    def _sizes(self) -> list[int]:
        return [len(each.ids) for each in self._steps]

    def _check_classes(self, taken: _Step) -> None:
        """Raises InputError for another number of classes than before."""
        count = taken.logits.shape[1]
        if taken.classes is not None:
            if taken.classes is self._seen:  # looked at, for which a GPU would have to be waited for
                return
            if taken.classes.shape != (count,):
                raise InputError(f"step: {tuple(taken.classes.shape)} classes for logits of {count}")
            if not bool((taken.classes[1:] > taken.classes[:-1]).all()):
                raise InputError(f"step: classes {taken.classes.tolist()} are not ascending")
            self._seen = taken.classes
            return
        if self._classes is None:
            self._classes = count
        _check_count(self._classes, count)

    @torch.no_grad()
    def _reduce(self) -> None:
        """Make columns of the logits that wait, where they are."""
        waiting = _joined(self._steps)
        if waiting is None:
            return
        numbers = np.repeat(np.arange(self._number - len(self._steps), self._number), self._sizes())
        self._steps, self._waiting = [], 0
        self._blocks.append(waiting.reduced(numbers))
        if (
            _at_hand(waiting.logits)
            or self._number <= 1
            or sum(len(block.steps) for block in self._blocks) >= MOVED
        ):
            self._settle()

    def _settle(self) -> None:
        """Move the columns to the machine's own memory, and look at ids and labels."""
        blocks, self._blocks = self._blocks, []
        for block in blocks:
            ids, labels, right = (
                block.ids.cpu().numpy(),
                block.labels.cpu().numpy(),
                block.right.cpu().numpy(),
            )
            if self._ids is not None:
                self._places(ids)
            elif (ids < 0).any():
                raise InputError(f"step: id {ids[ids < 0][0]} is negative", exact.NUMBER_SAMPLES)
            if not right.all():
                k = int((~right).argmax())
                raise InputError(
                    f"step: {_spelled(labels[k])} of sample {ids[k]}, expected a number or a one-hot row of "
                    f"{block.classes} classes",
                    exact.ONE_CLASS,
                )
            self._rows.append(_Rows(ids, block.steps, labels, block.values.cpu().numpy().T, self._classes))

    def _settled(self) -> _Rows:
        """All rows so far whose columns are there."""
        self._settle()
        self._rows = [_Rows.of(self._rows)]
        return self._rows[0]

    def _written(self, epoch: int | None, shares: list[_Rows]) -> tuple[Epoch, np.ndarray]:
        """Write what all ranks have recorded, each sample's first row; also the ids of all."""
        folder, rows = self.folder, _Rows.of(shares)
        if not len(rows.ids):
            raise InputError(
                "epoch_end: no step since the last epoch", "call step(ids, logits, labels) for every batch"
            )
        for count in (share.classes for share in shares):
            _check_count(folder.classes or rows.classes, count)
        self._check_alone()
        number = self._number_of(epoch)
        # By step, then by rank, then by row: as one process would have seen them.
        rows = rows.take(np.argsort(rows.steps, kind="stable"))
        ids, first = np.unique(rows.ids, return_index=True)
        self._know(ids)
        assert self._ids is not None
        labels = self._relabelled(rows)
        repeated, rows = len(rows.ids) - len(ids), rows.take(first)
        places = self._places(rows.ids)
        missing = len(self._ids) - len(ids)
        self._say(number, missing, repeated, places)
        whole = np.full((len(VALUES), len(self._ids)), np.nan, dtype=np.float32)
        whole[:, places] = rows.values.T
        losses = rows.values[:, 0]
        found = Epoch(number, len(ids), missing, repeated, int((~np.isfinite(losses)).sum()))
        if found.nonfinite:
            self.warn(
                f"epoch {number}: the losses of {found.nonfinite:,} samples are NaN or infinite; they are kept so"
            )
        folder.write(found, self._ids, labels, dict(zip(VALUES, whole, strict=True)), rows.classes)
        self._there.add(number)
        self._labels = labels
        return found, self._ids

    def _check_alone(self) -> None:
        """Raises InputError where another recorder has written epochs since this one has opened the folder."""
        if others := sorted(set(self.folder.epochs()) - self._there):
            raise InputError(
                f"another recorder has written epoch {others[0]} into '{self.folder.path}' meanwhile",
                "give every training a folder of its own",
            )

    def _number_of(self, epoch: int | None) -> int:
        """The epoch's number. Raises InputError for one that is there, and is not to be overwritten, or is none."""
        last = self.last
        if epoch is None:
            return 1 if last is None else last + 1
        if isinstance(epoch, bool) or not isinstance(epoch, int | np.integer) or epoch < 0:
            raise InputError(f"epoch_end: epoch {epoch!r} is no whole number from 0 on")
        if not self._overwrite and self.folder.losses(int(epoch)).exists():
            raise InputError(
                f"'{self.folder.path}' holds epoch {epoch} already",
                "leave its number out to go on after the last, or pass Recorder(…, overwrite=True)",
            )
        if last is not None and epoch > last + 1:
            self.warn(f"epochs {last + 1} to {epoch - 1} were not recorded")
        return int(epoch)

    def _say(self, epoch: int, missing: int, repeated: int, places: np.ndarray) -> None:
        """Say what is odd. Raises InputError for missing ids where they are refused."""
        assert self._ids is not None
        if missing:
            absent = np.ones(len(self._ids), dtype=bool)
            absent[places] = False
            some = f"{missing:,} of {len(self._ids):,} ids were in no step, such as {self._ids[absent][0]}"
            said = f"epoch {epoch}: {some}"
            if self._strict:
                raise InputError(said, "a loader with drop_last leaves some out")
            self.warn(f"{said}; their values are NaN (a loader with drop_last leaves some out)")
        if repeated:
            self.warn(
                f"epoch {epoch}: {repeated:,} rows were of samples that had been in an earlier one, which counts"
            )

    def _relabelled(self, rows: _Rows) -> np.ndarray:
        """The labels known now. Raises InputError for a sample whose label is another one than before."""
        assert self._ids is not None
        labels = (
            np.full(len(self._ids), UNKNOWN, dtype=np.int64) if self._labels is None else self._labels.copy()
        )
        places = self._places(rows.ids)
        fresh = labels[places] == UNKNOWN
        labels[places[fresh][::-1]] = rows.labels[fresh][::-1]  # the first counts
        other = labels[places] != rows.labels
        if other.any():
            k = int(other.argmax())
            raise InputError(
                f"step: the label of sample {rows.ids[k]} was {labels[places[k]]}, now {rows.labels[k]}",
                "labels that change have a recorder and a folder of their own",
            )
        return labels


@dataclass
class _Rows:
    """Rows of an epoch in the order of the steps: int64 [n] each, `values` float32 [n, VALUES].

    `classes` is the number of logits, None where every step says which classes they are of.
    """

    ids: np.ndarray
    steps: np.ndarray
    labels: np.ndarray
    values: np.ndarray
    classes: int | None

    NAMES: ClassVar = ("ids", "steps", "labels", "values")

    @classmethod
    def of(cls, parts: Sequence[_Rows]) -> _Rows:
        """Those of all parts, one after the other."""
        empty = np.empty(0, dtype=np.int64)
        whole = [cls(empty, empty, empty, np.empty((0, len(VALUES)), dtype=np.float32), None), *parts]
        joined = {name: np.concatenate([getattr(part, name) for part in whole]) for name in _Rows.NAMES}
        counts = (part.classes for part in parts if part.classes is not None)
        return cls(**joined, classes=next(counts, None))

    def take(self, rows: np.ndarray) -> _Rows:
        return _Rows(self.ids[rows], self.steps[rows], self.labels[rows], self.values[rows], self.classes)


@dataclass
class _Block:
    """Rows on a device: `values` float32 [VALUES, n]; `right` where a label is one of the classes."""

    ids: Tensor
    steps: np.ndarray
    labels: Tensor
    right: Tensor
    values: Tensor
    classes: int


@dataclass
class _Step:
    """A batch as it came: ids [B], logits [B, C], labels [B] or [B, C], classes [C]."""

    ids: Tensor
    logits: Tensor
    labels: Tensor
    classes: Tensor | None

    def alike(self, other: _Step) -> bool:
        """Whether both can be reduced at once."""
        return (
            _kind(self.logits) == _kind(other.logits)
            and _kind(self.labels) == _kind(other.labels)
            and self.ids.device == other.ids.device
            and _equal(self.classes, other.classes)
        )

    def reduced(self, steps: np.ndarray) -> _Block:
        """The loss and the columns of every row."""
        z = self.logits.cpu() if self.logits.device.type == "mps" else self.logits  # which has no float64
        count, given = z.shape[1], self.labels.to(z.device)
        if given.ndim == 2:
            right = ((given == 0) | (given == 1)).all(1) & ((given == 1).sum(1) == 1)
            labels = given.to(torch.uint8).argmax(1).masked_fill(~right, SHARED)
        else:
            labels = given.long()
            right = (labels >= 0) & (labels < count)
        places = labels
        if self.classes is not None:
            classes = self.classes.to(z.device)
            labels = (
                torch.where(right, classes[labels.clamp(0, count - 1)], labels) if given.ndim == 2 else labels
            )
            places = torch.searchsorted(classes, labels)
            right = classes[places.clamp(0, count - 1)] == labels
        places = places.clamp(0, count - 1)
        found = columns.on_device(z, places)
        values = torch.stack([cross_entropy(z, places), *found.values()]).float()
        return _Block(self.ids, steps, labels, right, values, count)


def _joined(steps: list[_Step]) -> _Step | None:
    """Steps that are alike as one; None where there is none."""
    if not steps:
        return None
    ids, logits, labels = (
        torch.cat([getattr(step, name) for step in steps]) for name in ("ids", "logits", "labels")
    )
    return _Step(ids, logits, labels, steps[0].classes)


def _at_hand(values: Tensor) -> bool:
    """Whether nothing has to be waited for to read them."""
    return values.device.type == "cpu"


def _kind(values: Tensor) -> tuple[Any, ...]:
    return values.shape[1:], values.dtype, values.device


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether both are the same classes; a GPU is not waited for where it is one tensor."""
    return a is b or (a is not None and b is not None and torch.equal(a, b))


def _listed(ids: Any) -> Any:
    return ids if hasattr(ids, "dtype") else list(ids)


def _ids(values: Any) -> Tensor:
    """int64 [B], a copy."""
    if isinstance(values, Tensor) and values.ndim == 1 and values.dtype in (torch.int64, torch.int32):
        return values.detach().to(torch.int64, copy=True)
    return torch.from_numpy(exact.ids(values, "step", repeats=True))


def _logits(values: Any) -> Tensor:
    """Floats [B, C], a copy without gradients. Raises InputError for anything else."""
    if isinstance(values, Tensor):
        found = values.detach().clone()
    else:
        array = np.array(values)
        if array.dtype.kind != "f":
            raise InputError(f"step: logits are {array.dtype} {array.shape}, expected floats [B, C]")
        found = torch.from_numpy(array if array.itemsize <= 8 else array.astype(np.float64))
    if found.ndim != 2 or not found.is_floating_point() or not found.shape[1]:
        kind = str(found.dtype).removeprefix("torch.")
        raise InputError(f"step: logits are {kind} {tuple(found.shape)}, expected floats [B, C]")
    return found


def _labels(values: Any, logits: Tensor) -> Tensor:
    """Whole numbers [B], or anything [B, C], a copy. Raises InputError for anything else."""
    if isinstance(values, Tensor):
        found = values.detach().clone()
    else:
        array = np.array(values)
        if array.dtype.kind not in "biuf":
            raise InputError("step: labels are no numbers", exact.NUMBER_CLASSES)
        found = torch.from_numpy(array)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if (found.ndim == 2 and found.shape[1] == logits.shape[1]) or (
        found.ndim == 1 and not found.is_floating_point() and not found.is_complex()
    ):
        return found
    kind = str(found.dtype).removeprefix("torch.")
    raise InputError(
        f"step: labels are {kind} {tuple(found.shape)}, expected whole numbers [B] or one-hot [B, {logits.shape[1]}]",
        exact.ONE_CLASS,
    )


def _check_count(known: int | None, count: int | None) -> None:
    if None not in (known, count) and known != count:
        raise InputError(
            f"step: logits of {count} classes, and of {known} before",
            "pass step(…, classes=…) where classes are added",
        )


def _same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return (a is None) == (b is None) and (a is None or b is None or np.array_equal(a, b))


def _spelled(label: int) -> str:
    return "a row of labels that is not one-hot" if label == SHARED else f"label {label}"


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)
