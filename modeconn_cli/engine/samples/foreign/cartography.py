"""Dataset cartography (Swayamdipta et al. 2020): `training_dynamics/dynamics_epoch_<e>.jsonl`, `td_metrics.jsonl`.

Dynamics have a line {"guid", "logits_epoch_<e>": [z_1 … z_K], "gold"} per sample and a file per epoch. Metrics are what
its scripts make of them: their correctness counts epochs, and their forgetfulness is 1000 where a sample is never
learnt; here the one is a share and the other ∞.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.results import strict_json
from modeconn_cli.engine.results.parsing import opened
from modeconn_cli.engine.samples import scores
from modeconn_cli.engine.samples.foreign.look import LONGEST, Look
from modeconn_cli.engine.samples.foreign.source import LOSS, Columns, Source, Told, described, in_order, room

NEVER = 1000  # its forgetfulness of a sample that is never learnt
ROWS = 1024  # lines that are treated at a time
WHOLE_LINES = "it takes a whole object a line; write the file of this epoch again"
_LOGITS = re.compile(r"logits_epoch_(\d{1,9})")

Line = tuple[int, dict[str, Any]]  # its number in the file, and its object


def is_dynamics(look: Look) -> bool:
    return look.form == "jsonl" and look.has("guid", "gold") and _epoch(look) is not None


def is_metrics(look: Look) -> bool:
    return look.form == "jsonl" and look.has("guid", "confidence", "variability", "forgetfulness")


def _epoch(look: Look) -> int | None:
    """The epoch that the first line of a file speaks of, where it is one."""
    found = [int(match[1]) for name in look.names if (match := _LOGITS.fullmatch(name))]
    return found[0] if len(found) == 1 else None


@dataclass(frozen=True)
class _Epoch:
    """What a file says: ids, ascending, and labels, int64 [N], the columns, float32 [N], and the number of classes."""

    ids: np.ndarray
    labels: np.ndarray
    columns: Columns
    classes: int


def dynamics(looks: list[Look], told: Told) -> Source:
    """The columns of every epoch, a file read at a time; the first file's samples and classes are those of all."""
    files: dict[int, Look] = {}
    for look in looks:
        epoch = _epoch(look)
        assert epoch is not None
        if epoch in files:
            raise SettingsError(f"'{files[epoch].path}' and '{look.path}' both hold epoch {epoch}")
        files[epoch] = look
    epochs, missing = told.epochs(files, "training dynamics")
    told.runtime.note("epochs are numbered as in the files, whose first one is 0")
    first = _read(files[epochs[0]], epochs[0], told, None)
    described(told, first.columns, f"epoch {epochs[0]}")

    def begin() -> Iterator[Columns]:
        yield first.columns
        for k, epoch in enumerate(epochs[1:], 2):
            told.runtime.progress(k, len(epochs), "epoch", epoch=epoch)
            found = _read(files[epoch], epoch, told, first)
            described(told, found.columns, f"epoch {epoch}")
            yield found.columns

    def probs() -> np.ndarray:
        whole = room(told.folder, (len(first.ids), first.classes))
        for ids, _, z in _pieces(files[epochs[-1]], epochs[-1], told, first.classes):
            whole[np.searchsorted(first.ids, ids)] = z.softmax(1).float().numpy()
        return whole

    return Source(
        epochs=epochs,
        missing=missing,
        ids=first.ids,
        labels=first.labels,
        holds=tuple(first.columns),
        begin=begin,
        probs=probs,
    )


def _pieces(
    look: Look, epoch: int, told: Told, classes: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray, Tensor]]:
    """Ids and labels, int64 [n], and logits, float64 [n, K], of some thousands of lines, one after the other."""
    where, name = f"'{look.path}'", f"logits_epoch_{epoch}"
    lines = _lines(look, ("guid", "gold", name))
    while True:
        guids, labels, rows, numbers = [], [], [], []
        for number, record in islice(lines, ROWS):
            row = _logits(record, name, look, number)
            classes = len(row) if classes is None else classes
            if len(row) != classes:
                raise InputError(
                    f"{where}, line {number}, has {len(row)} logits, where there were {classes} before",
                    "every line of every epoch takes one logit per class",
                )
            labels.append(_gold(record, classes, look, number))
            guids.append(record["guid"])
            rows.append(row)
            numbers.append(number)
        if not rows:
            return
        ids = told.ids(guids, f"{where}, lines {numbers[0]} to {numbers[-1]}")
        yield ids, np.array(labels, dtype=np.int64), torch.from_numpy(np.stack(rows))


def _read(look: Look, epoch: int, told: Told, first: _Epoch | None) -> _Epoch:
    """A file. Raises InputError where its samples, labels or classes are not those of the `first` one."""
    parts: list[tuple[np.ndarray, np.ndarray, Columns]] = []
    classes, where = 0 if first is None else first.classes, f"'{look.path}'"
    for ids, labels, z in _pieces(look, epoch, told, classes or None):
        y, classes = torch.from_numpy(labels), z.shape[1]
        found = {**scores.of_logits(z, y), LOSS: F.cross_entropy(z, y, reduction="none")}
        parts.append(
            (ids, labels, {name: values.numpy().astype(np.float32) for name, values in found.items()})
        )
    if not parts:
        raise InputError(f"{where} names no samples")
    ids = np.concatenate([ids for ids, _, _ in parts])
    order = in_order(ids, where)
    whole = {name: np.concatenate([part[name] for _, _, part in parts])[order] for name in parts[0][2]}
    read = _Epoch(ids[order], np.concatenate([labels for _, labels, _ in parts])[order], whole, classes)
    if first is not None:
        _check_same(read, first, where)
    return read


def _check_same(read: _Epoch, first: _Epoch, where: str) -> None:
    """Raises InputError for other samples than those of the first epoch, and for other labels."""
    for these, others, what in ((first, read, "lacks"), (read, first, "has")):
        apart = np.setdiff1d(these.ids, others.ids, assume_unique=True)
        if len(apart):
            some = ", ".join(map(str, apart[:3]))
            raise InputError(
                f"{where} {what} {len(apart):,} samples that the first epoch "
                f"{'has' if what == 'lacks' else 'lacks'}, such as {some}",
                "a score is over the same epochs for all samples: --end-epoch leaves out the epochs that are not whole",
            )
    other = read.labels != first.labels
    if other.any():
        place = int(other.argmax())
        raise InputError(
            f"{where} gives {int(other.sum()):,} samples another label than the first epoch: sample "
            f"{read.ids[place]} has {read.labels[place]}, was {first.labels[place]}"
        )


def _lines(look: Look, needed: Iterable[str]) -> Iterator[Line]:
    """The objects of a file, line by line. Raises InputError for a line that is none, or has not what is `needed`."""
    with opened(look.path) as stream:
        number = 0
        while line := stream.readline(LONGEST + 1):
            number += 1
            if len(line) > LONGEST:
                raise InputError(
                    f"'{look.path}', line {number}, is longer than {LONGEST:,} bytes", WHOLE_LINES
                )
            if not line.strip():
                continue
            record = strict_json.parsed(line, look.path, WHOLE_LINES, line=number)
            lacking = [name for name in needed if not isinstance(record, dict) or name not in record]
            if lacking:
                raise InputError(f"'{look.path}', line {number}, has no {', '.join(lacking)}", WHOLE_LINES)
            yield number, record


def _logits(record: dict[str, Any], name: str, look: Look, number: int) -> np.ndarray:
    """Logits [K], float64; null, as pandas writes NaN, is one. Raises InputError for what are no numbers."""
    found = record.get(name)
    if not isinstance(found, list) or not found or not {type(each) for each in found} <= _NUMBERS:
        raise InputError(f"'{look.path}', line {number}, has no list of numbers '{name}'", WHOLE_LINES)
    return np.array(found, dtype=np.float64)  # NaN where there is null


_NUMBERS = {int, float, type(None)}


def _gold(record: dict[str, Any], classes: int, look: Look, number: int) -> int:
    label = record["gold"]
    if type(label) is not int or not 0 <= label < classes:
        raise InputError(
            f"'{look.path}', line {number}, has gold {str(label)[:40]!r}, which is none of its {classes} classes",
            "gold is the place of the label's logit, from 0",
        )
    return label


def metrics(looks: list[Look], told: Told) -> Source:
    """Confidence, variability and forgetting; correctness too where a column `epochs` says of how many it counts."""
    if len(looks) > 1:
        raise SettingsError(f"--from takes one file of cartography's metrics, got {len(looks)}")
    (look,) = looks
    guids: list[Any] = []
    names = ("confidence", "variability", "forgetfulness", "correctness", "epochs")
    read: dict[str, list[float]] = {name: [] for name in names if name in look.names}
    for number, record in _lines(look, ("guid", *read)):
        guids.append(record["guid"])
        for name, values in read.items():
            values.append(_number(record[name], partial(_refuse, look, number, name)))
    ids = told.ids(guids, f"'{look.path}'")
    order = in_order(ids, f"'{look.path}'")
    found = {name: np.array(values)[order] for name, values in read.items()}
    known = {"confidence": found["confidence"], "variability": found["variability"]}
    known["forgetting"] = np.where(found["forgetfulness"] == NEVER, np.inf, found["forgetfulness"])
    lacks = "cartography's metrics hold confidence, variability, correctness and forgetfulness alone"
    if "epochs" in found and "correctness" in found:
        wrong = ~(found["correctness"] <= found["epochs"]) & ~np.isnan(found["correctness"])
        if wrong.any() or not (found["epochs"] >= 1).all():
            raise InputError(f"'{look.path}' counts more correct epochs than there are")
        known["correctness"] = found["correctness"] / found["epochs"]
        known["share_wrong"] = 1.0 - known["correctness"]
    else:
        lacks += ", and do not say of how many epochs correctness is the count"
    told.runtime.note(
        f"forgetfulness {NEVER}, never learnt, is inf here; variability is taken for the one without --include_ci"
    )
    return Source(epochs=[], ids=ids[order], known=known, lacks=lacks)


def _number(value: Any, refuse: Any) -> float:
    if value is None:
        return float("nan")
    if type(value) not in (int, float):
        refuse(value)
    return float(value)


def _refuse(look: Look, number: int, name: str, value: Any) -> None:
    raise InputError(f"'{look.path}', line {number}, has {name} {str(value)[:40]!r}, which is no number")
