"""The folder of values that a training has recorded: arrays by epoch as `mcx csl aggregate` reads them.

Recorded values are of the logits that a training passes on (in train mode: augmented, before the step), others than
those of an evaluation of checkpoints. So a folder holds one kind, and `recorded.json` says which.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.results import arrays, files, listing, records

ABOUT, SCHEMA = "recorded.json", "mcx.recorded/1"
IDS = "sample_ids.npy"
Mode = Literal["train", "eval"]
KINDS: dict[Mode, str] = {
    "train": "of training: augmented images, train mode, before each step",
    "eval": "recorded in eval mode, by the loop that passed the logits",
}
SCORING = "csl-score"  # how the folders of the jobs begin that evaluate
ALONE = "give it a folder of its own: recorded and evaluated values are different quantities"
MARK = "recorded"  # beside the columns of an epoch: how many samples, missing and not finite
UNKNOWN = -1  # label of a sample that no epoch has had
_NAME = re.compile(r"(?!grad_|ce_)[^/\x00-\x1f]+")  # of data; `loss_grad_x` is another kind of array
_ARRAY = re.compile(r"(loss|dynamics)_.+_epoch_\d+.*")


@dataclass(frozen=True)
class Epoch:
    """What an epoch has recorded of how many samples.

    `missing` ids were in no step, and are NaN; `repeated` rows were of a sample that had been in an earlier one, which
    counts; the loss of `nonfinite` samples is NaN or infinite, and kept so.
    """

    epoch: int
    samples: int
    missing: int
    repeated: int
    nonfinite: int


class Folder:
    """The files of a recorder. Only one process works with them.

    An epoch is there when its losses are, which are written last; columns without them are of an epoch that was killed.
    """

    def __init__(self, path: Path, name: str, mode: Mode) -> None:
        """Raises InputError for a folder of other values, of another `mode` or `name`; SettingsError for a name that
        cannot be part of the files'.
        """
        if mode not in KINDS:
            raise SettingsError(f"mode is '{mode}'", "choose 'train' or 'eval'")
        if not _NAME.fullmatch(name):
            raise SettingsError(
                f"'{name}' cannot be part of the names of arrays",
                "give the data another name",
            )
        self.path, self.name, self.mode = path, name, mode
        files.make_folder(path)
        files.check_writable(path)
        self._check(mode, name)
        said = self._said()
        self.classes: int | None = said.get("classes")
        # Of before a training wrote more than its losses.
        self._alone: list[int] = said.get("alone", self.epochs() if said and "dataset" not in said else [])
        self._labels = np.empty(0, dtype=np.int64)

    def losses(self, epoch: int) -> Path:
        """The losses of an epoch, float32 [N]."""
        return self.path / f"loss_{self.name}_epoch_{epoch}.npy"

    def dynamics(self, epoch: int) -> Path:
        """The columns of its logits, float32 [N] each."""
        return self.path / f"dynamics_{self.name}_epoch_{epoch}.npz"

    def table(self, stem: str) -> Path:
        """A table of the samples, called as `csl aggregate` looks for it."""
        return self.path / f"{stem}_{self.name}_run1_noise_0.csv"

    def epochs(self) -> list[int]:
        """The epochs that are there, ascending."""
        own = re.compile(rf"loss_{re.escape(self.name)}_epoch_(\d+)\.npy")
        found = (own.fullmatch(path.name) for path in self.path.iterdir())
        return sorted(int(each[1]) for each in found if each)

    def open(self, ids: np.ndarray | None) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The ids of the folder, int64 [N], which are `ids` from now on where it has none, and the labels known so far.

        Raises InputError where the ids are others, or the table of labels is none of them.
        """
        path = self.path / IDS
        if path.exists():
            known = arrays.read_ids(path)
            if ids is not None and not np.array_equal(np.sort(known), np.sort(ids)):
                raise InputError(f"'{path}' names other samples than the recorder", "use another folder")
            ids = known
        elif ids is not None:
            files.write_array(path, ids)
        self._describe()
        if ids is None:
            return None, None
        self._labels = self._read_labels(ids)
        return ids, self._labels.copy()

    def write(
        self,
        epoch: Epoch,
        ids: np.ndarray,
        labels: np.ndarray,
        columns: Mapping[str, np.ndarray],
        classes: int | None,
    ) -> None:
        """An epoch: `columns` float32 [N] each, the loss among them, `labels` int64 [N] as far as they are known."""
        if not (self.path / IDS).exists():
            files.write_array(self.path / IDS, ids)
        if classes not in (None, self.classes):
            self.classes = classes
            self._describe()
        if not np.array_equal(labels, self._labels):
            rows = zip(ids.tolist(), labels.tolist(), strict=True)
            lines = ((i, None if label == UNKNOWN else label, None, None, None) for i, label in rows)
            files.write_text(self.table(listing.STEM), files.csv_text(listing.COLUMNS, lines))
            self._labels = labels.copy()
        self.losses(epoch.epoch).unlink(missing_ok=True)
        rest = {name: values for name, values in columns.items() if name != "loss"}
        counts = (epoch.samples, epoch.missing, epoch.nonfinite)
        files.write_arrays(self.dynamics(epoch.epoch), rest | {MARK: np.array(counts, dtype=np.int64)})
        files.write_array(self.losses(epoch.epoch), columns["loss"])

    def _said(self) -> dict[str, Any]:
        return records.peek_object(self.path / ABOUT)

    def _check(self, mode: Mode, name: str) -> None:
        """Raises InputError where other values are there than those of this recorder."""
        there = sorted(path for path in self.path.glob("*.np[yz]") if _ARRAY.fullmatch(path.name))
        if there and not (self.path / ABOUT).exists():
            raise InputError(
                f"'{self.path}' holds values that no recorder has written, such as '{there[0].name}'", ALONE
            )
        check_alone(self.path, there)
        said = self._said()
        for key, own in (("mode", mode), ("dataset", name)):
            if said.get(key, own) != own:
                raise InputError(
                    f"'{self.path}' holds recorded values whose {key} is '{said[key]}', not '{own}'",
                    "use another folder",
                )

    def _describe(self) -> None:
        document = {
            "schema": SCHEMA,
            "losses": KINDS[self.mode],
            "mode": self.mode,
            "dataset": self.name,
            "classes": self.classes,
            "alone": self._alone,
        }
        files.write_json(self.path / ABOUT, document)

    def _read_labels(self, ids: np.ndarray) -> np.ndarray:
        """int64 [N]. Raises InputError for a table that is none of these samples."""
        labels = np.full(len(ids), UNKNOWN, dtype=np.int64)
        table = self.table(listing.STEM)
        if not table.exists():
            return labels
        with files.reading(table), table.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        try:
            found = [(int(row["sample_id"]), int(row[listing.LABEL] or UNKNOWN)) for row in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"'{table}' is no table of samples and labels") from error
        if [number for number, _ in found] != ids.tolist():
            raise InputError(f"'{table}' is no table of these samples")
        labels[:] = [label for _, label in found]
        return labels


def check_alone(folder: Path, found: Iterable[Path]) -> None:
    """Raises InputError where `found`, arrays by epoch in a folder, are of recorded values and of others."""
    about = folder / ABOUT
    if not about.exists():
        return
    jobs = sorted(path.name for path in (folder / names.JOB_FOLDER).glob(f"{SCORING}*") if path.is_dir())
    if jobs:
        raise InputError(
            f"'{folder}' holds values that were recorded ('{ABOUT}') and those of '{jobs[0]}'", ALONE
        )
    said = records.read_object(about)
    if not isinstance(said.get("dataset"), str):  # of before a training wrote more than its losses
        return
    own = re.compile(rf"(loss|dynamics)_({re.escape(said['dataset'])}_epoch_(\d+))\.np[yz]")
    for path in sorted(found):
        if not (parts := own.fullmatch(path.name)) or not _marked(
            folder / f"dynamics_{parts[2]}.npz", int(parts[3]) in said.get("alone", [])
        ):
            raise InputError(
                f"'{folder}' holds values that were recorded ('{ABOUT}') and others, such as '{path.name}'",
                ALONE,
            )


def _marked(dynamics: Path, alone: bool) -> bool:
    """Whether the columns of an epoch are a recorder's; where it has none, whether its losses may be `alone`."""
    if not dynamics.exists():
        return alone
    with arrays.npz(dynamics) as archive:
        return MARK in archive


def refuse(folder: Path) -> None:
    """Raises InputError for a folder of recorded values, into which an evaluation is to write."""
    if (folder / ABOUT).exists():
        raise InputError(f"'{folder}' holds values that were recorded ('{ABOUT}')", ALONE)


def kind_of(folder: Path) -> str:
    """What the losses of a folder are, in words."""
    said: Any = records.peek_object(folder / ABOUT).get("losses")
    return said if isinstance(said, str) else "of evaluation"
