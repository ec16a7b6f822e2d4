"""What is written down of every sample while a network is trained: when it was seen, and with which loss."""

from __future__ import annotations

import os
import sys
import zipfile
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from torch import Tensor

from modeconn_cli.engine import names
from modeconn_cli.engine.datasets import Batch
from modeconn_cli.engine.datasets.noise import Flips
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import arrays, files
from modeconn_cli.engine.results.manifest import ANEW
from modeconn_cli.engine.training.loop import Step
from modeconn_cli.engine.training.recorder import Recorder
from modeconn_cli.engine.training.tasks import Curriculum

HEADER = b"sample_id,memo_score,true_label,class_id,epoch_num,batch_num,task_num\n"
ROW = np.dtype(
    [(name, "<i4") for name in ("sample_id", "true_label", "class_id", "epoch_num", "batch_num", "task_num")]
    + [("memo_score", "<f4")]
)
BLOCK = 1 << 16  # bytes on either side of a place in which its line is looked for
COUNTED = 1 << 24  # bytes whose lines are counted at a time
OWN = "recorded "  # begins what a checkpoint within an epoch says of it


class _TrackedRows(ABC):
    """A row per sample and step, in the order of epochs and batches.

    There is one write per batch, so that a kill costs the last batch at most. `memo` maps sample ids to scores as
    text; ids without one have none. Epochs, batches and tasks count from 0; only every `every`-th epoch is written.
    """

    def __init__(
        self, path: Path, memo: Mapping[int, str], curriculum: Curriculum, batch_size: int, every: int = 1
    ) -> None:
        self._path, self._memo, self._curriculum, self._every = path, memo, curriculum, every
        self._batch_size = batch_size
        self._handle: int | None = None

    @abstractmethod
    def _places(self, handle: int) -> range:
        """The places in the file that belong to some row."""

    @abstractmethod
    def _when(self, handle: int, place: int) -> tuple[int, int]:
        """Epoch and batch of the row that a place belongs to; later than any for one that is not whole."""

    @abstractmethod
    def _count(self, handle: int, place: int) -> int:
        """How many rows end there."""

    @abstractmethod
    def _encoded(self, epoch: int, number: int, task: int, batch: Batch) -> bytes:
        """The rows of a batch."""

    def begin(self, epoch: int, batch: int, _state: Mapping[str, Tensor]) -> None:
        """Take up a run that stands before a batch: rows from there on are dropped.

        Raises InputError where rows before it are missing.
        """
        try:
            self._handle = handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            places = self._places(handle)
            before = bisect_left(places, (epoch, batch), key=lambda place: self._when(handle, place))
            end = places.start + before * places.step
            found = self._count(handle, end)
            wanted = self._curriculum.rows_before(epoch, batch, self._batch_size, self._every)
            if found == wanted:
                os.ftruncate(handle, end)
                os.lseek(handle, 0, os.SEEK_END)
                files.published(self._path)
        except OSError as error:
            raise files.refused(self._path, error) from error
        except (ValueError, IndexError) as error:
            raise InputError(f"'{self._path}' is not the tracking of a training: {error}", ANEW) from error
        if found != wanted:
            raise InputError(
                f"'{self._path}' has {found:,} rows up to epoch {epoch}, batch {batch}, from which the training goes "
                f"on, and not {wanted:,}",
                ANEW,
            )

    def step(self, epoch: int, number: int, batch: Batch, _done: Step) -> None:
        if epoch % self._every:
            return
        assert self._handle is not None
        data = self._encoded(epoch, number, self._curriculum.task(epoch), batch)
        try:
            while data:  # a write may take a part only
                data = data[os.write(self._handle, data) :]
        except OSError as error:
            raise files.refused(self._path, error) from error

    def state(self) -> dict[str, Tensor]:
        self.end(0)
        return {}

    def end(self, _epoch: int) -> None:
        """No checkpoint is on the disk before the rows that it follows."""
        if self._handle is not None:
            os.fsync(self._handle)

    def close(self) -> None:
        if self._handle is not None:
            os.fsync(self._handle)
            os.close(self._handle)
            self._handle = None


class TrackedCsv(_TrackedRows):
    """The rows as documented, in CSV."""

    def begin(self, epoch: int, batch: int, state: Mapping[str, Tensor]) -> None:
        if not self._path.exists():
            files.atomic_write(self._path, HEADER)
        super().begin(epoch, batch, state)

    def _places(self, handle: int) -> range:
        return range(len(HEADER), os.fstat(handle).st_size)

    def _when(self, handle: int, place: int) -> tuple[int, int]:
        first = max(len(HEADER), place - BLOCK)
        data = os.pread(handle, 2 * BLOCK, first)
        begin = data.rfind(b"\n", 0, place - first) + 1
        end = data.find(b"\n", place - first) + 1
        cells = data[begin:end].split(b",")
        return (int(cells[4]), int(cells[5])) if len(cells) == 7 else (sys.maxsize, 0)

    def _count(self, handle: int, place: int) -> int:
        count, begin = 0, len(HEADER)
        while begin < place:
            part = os.pread(handle, min(COUNTED, place - begin), begin)
            count, begin = count + part.count(b"\n"), begin + len(part)
        return count

    def _encoded(self, epoch: int, number: int, task: int, batch: Batch) -> bytes:
        ids, labels = batch.ids.tolist(), batch.labels.tolist()
        cells: list[Any] = [None] * (4 * len(batch))
        cells[0::4] = ids
        cells[1::4] = [self._memo.get(i, "") for i in ids] if self._memo else [""] * len(ids)
        cells[2::4] = cells[3::4] = labels
        # One format for all rows: the training waits for this.
        return (f"%s,%s,%s,%s,{epoch},{number},{task}\n" * len(batch) % tuple(cells)).encode()


class TrackedColumns(_TrackedRows):
    """Writes rows of fixed size while a run trains, which `pack` makes columns of in the end."""

    def _places(self, handle: int) -> range:
        return range(0, os.fstat(handle).st_size // ROW.itemsize * ROW.itemsize, ROW.itemsize)

    def _when(self, handle: int, place: int) -> tuple[int, int]:
        row = np.frombuffer(os.pread(handle, ROW.itemsize, place), ROW)[0]
        return int(row["epoch_num"]), int(row["batch_num"])

    def _count(self, _handle: int, place: int) -> int:
        return place // ROW.itemsize

    def _encoded(self, epoch: int, number: int, task: int, batch: Batch) -> bytes:
        rows = np.empty(len(batch), ROW)
        rows["sample_id"] = batch.ids.cpu().numpy()
        rows["true_label"] = rows["class_id"] = batch.labels.cpu().numpy()
        rows["epoch_num"], rows["batch_num"], rows["task_num"] = epoch, number, task
        rows["memo_score"] = [float(self._memo.get(i, "nan")) for i in rows["sample_id"].tolist()]
        return rows.tobytes()

    def pack(self, path: Path) -> None:
        """Write the columns, [rows] each, as .npz, a few rows in memory at a time."""
        rows = np.memmap(self._path, ROW, "r") if self._path.stat().st_size else np.empty(0, ROW)

        def write(stream: IO[bytes]) -> None:
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
                for name in ROW.names or ():
                    entry = zipfile.ZipInfo(f"{name}.npy")  # of no time: the same bytes for the same run
                    with archive.open(entry, "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, rows[name], allow_pickle=False)

        files.atomic_write(path, write)


class RecordedDynamics:
    """Loss and logits that every sample was trained with in each epoch: augmented, in train mode, before the step."""

    def __init__(self, folder: Path, name: str, curriculum: Curriculum, flips: Flips | None) -> None:
        self._samples, self._curriculum = curriculum.samples.ids.cpu().numpy(), curriculum
        # An epoch that is made again is the same; what is missing has not been seen yet.
        self._recorder = Recorder(folder, self._samples, name=name, overwrite=True, warn=lambda _: None)
        self._epoch, self._classes = -1, curriculum.classes(0)
        if flips is not None:
            files.write_text(self._recorder.folder.table(Path(names.LABEL_NOISE).stem), flips.table())

    def begin(self, epoch: int, batch: int, state: Mapping[str, Tensor]) -> None:
        """Raises InputError where the losses of an earlier epoch are missing or cut off.

        Epochs count from 1 here, as checkpoints do: 1 is the epoch that ends with the first.
        """
        for earlier in range(1, epoch + 1):
            path = self._recorder.folder.losses(earlier)
            if not path.exists():
                raise InputError(f"'{path}' is missing", ANEW)
            arrays.read(path, len(self._samples))
        self._recorder.drop()
        own = {name.removeprefix(OWN): each for name, each in state.items() if name.startswith(OWN)}
        if batch and own:
            self._recorder.load_state_dict(own)

    def step(self, epoch: int, _number: int, batch: Batch, done: Step) -> None:
        if epoch != self._epoch:
            self._epoch, self._classes = epoch, self._curriculum.classes(epoch)
        self._recorder.step(batch.ids, done.logits, batch.labels, self._classes)

    def state(self) -> dict[str, Tensor]:
        return {OWN + name: each for name, each in self._recorder.state_dict().items()}

    def end(self, epoch: int) -> None:
        """Write an epoch; samples that it did not go over are NaN."""
        self._recorder.epoch_end(epoch)

    def close(self) -> None:
        """Everything is written."""
