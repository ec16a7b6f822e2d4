"""What other tools have recorded of samples, as the columns of `samples/scores.py`, and what readers of it are told."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from modeconn_cli.engine import exact
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks.checkpoints.epochs import between
from modeconn_cli.engine.results import columns, files
from modeconn_cli.engine.samples.foreign.look import Look
from modeconn_cli.engine.samples.scores import Score
from modeconn_cli.engine.settings.csl import CslAggregateSettings

LOSS = "loss"  # a column too: the cross-entropy, where files hold all logits or probabilities
ONE_BY_ONE = "pass --id-map FILE, a .csv with guid,sample_id"
SHOWN = 3  # ids that a refusal names

Columns = dict[str, np.ndarray]  # of one epoch, float32 [N] each


@dataclass(frozen=True, kw_only=True)
class Source:
    """The samples `ids`, int64 [N], ascending, and what is known of them.

    `holds` are the columns that every epoch has, `lacks` says why there are no others; `begin` begins a pass over the
    epochs. `known` are scores that the files hold themselves, float64 [N], in our definitions, and `further` rows of
    the table that stand for those of them which no fold gives. `labels`, int64 [N], are those that were trained on;
    `probs` gives the probabilities of the last epoch, float32 [N, K], where the files hold all of them.
    """

    epochs: list[int]
    ids: np.ndarray
    named_ids: bool = True
    missing: list[int] = field(default_factory=list)
    labels: np.ndarray | None = None
    holds: tuple[str, ...] = ()
    lacks: str = ""
    known: Mapping[str, np.ndarray] = field(default_factory=dict)
    further: tuple[Score, ...] = ()
    begin: Callable[[], Iterator[Columns]] = lambda: iter(())
    probs: Callable[[], np.ndarray] | None = None

    @property
    def count(self) -> int:
        """How many samples there are."""
        return len(self.ids)

    def columns(self, names: Collection[str]) -> Iterator[Columns]:
        """Columns [N] of one epoch after the other."""
        for found in self.begin():
            yield {name: found[name] for name in names}


@dataclass(frozen=True)
class Told:
    """What the user says of the files, the conversation, and `folder`, that of the results, beside or above which a
    reader may put what does not fit into memory.
    """

    settings: CslAggregateSettings
    runtime: Runtime
    folder: Path
    names: Mapping[str, int] | None  # id of a sample in the files -> its id here, where --id-map says so

    def epochs(self, found: Iterable[int], what: str) -> tuple[list[int], list[int]]:
        """The epochs of the range that are there, and those that are not. Raises InputError for gaps."""
        there, asked = sorted(found), self.settings
        first = there[0] if asked.start_epoch is None else asked.start_epoch
        lenient = asked.allow_missing
        kept, missing = between(there, first, asked.end_epoch, asked.epoch_step, what, lenient=lenient)
        if missing:
            self.runtime.warn(f"{len(missing)} epochs of the range are missing and left out: {missing[:10]}")
        return kept, missing

    def ids(self, given: Any, where: str) -> np.ndarray:
        """Sample ids, int64 [n], of those that a file has. Raises InputError for those that are no whole numbers."""
        if self.names is not None:
            spelled = [str(each) for each in given]
            unknown = [each for each in spelled if each not in self.names]
            if unknown:
                raise InputError(
                    f"{where}: --id-map names no sample for {len(unknown):,} ids, such as {_some(unknown)}",
                    "give each a line guid,sample_id",
                )
            return np.array([self.names[each] for each in spelled], dtype=np.int64)
        try:
            return exact.ids(given, where, repeats=True, spelled=True)
        except InputError as error:
            raise InputError(
                f"{where}: ids are no sample ids, which are whole numbers from 0 on: {_some(map(str, given))}",
                ONE_BY_ONE,
            ) from error

    def positions(self, count: int, path: Path) -> np.ndarray:
        """The ids of rows 0, 1, 2 … of a file without ids. Raises InputError where nobody says which they are."""
        if self.names is None and not self.settings.assume_index:
            raise InputError(
                f"'{path}' names no samples",
                "pass --assume-index if row 0, 1, 2 … is sample 0, 1, 2 …, or --id-map FILE, a .csv with "
                "guid,sample_id whose guid is the row",
            )
        return self.ids(np.arange(count), f"'{path}'")


class Format(NamedTuple):
    """A kind of files: what it is called, whether a file is of it, and what makes a source of all of them."""

    name: str
    fits: Callable[[Look], bool]
    read: Callable[[list[Look], Told], Source]


def room(folder: Path, shape: tuple[int, ...]) -> np.ndarray:
    """float32 zeros on disk, which nobody has to remove. Raises OutputError where there is no space for them."""
    folder = next(each for each in (folder, *folder.parents) if each.is_dir())
    size = int(np.prod(shape)) * 4
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            if hasattr(os, "posix_fallocate"):  # a page that finds no space later would kill the process
                os.posix_fallocate(stream.fileno(), 0, size)
            stream.truncate(size)
            return np.memmap(stream, dtype=np.float32, mode="r+", shape=shape)
    except OSError as error:
        raise files.refused(folder, error) from error


def id_map(path: Path) -> dict[str, int]:
    """guid -> sample id, of a .csv. Raises InputError for a table without these columns, and for ids twice."""
    with columns.reading(path):
        table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    guids = table[columns.id_column(table.columns, path, ("guid",))]
    ids = columns.sample_ids(table[columns.id_column(table.columns, path)], path)
    if (twice := guids[guids.duplicated()]).size:
        raise InputError(f"'{path}' holds {len(twice):,} guids twice, such as {_some(twice)}")
    return dict(zip(guids, ids.tolist(), strict=True))


def _some(ids: Iterable[str]) -> str:
    shown = [each for each, _ in zip(ids, range(SHOWN), strict=False)]
    return ", ".join(f"'{each[:80]}'" for each in shown)


def in_order(ids: np.ndarray, where: str) -> np.ndarray:
    """The places of ids [N], ascending. Raises InputError for one that is there twice."""
    order = np.argsort(ids, kind="stable")
    ascending = ids[order]
    if (twice := ascending[1:][ascending[1:] == ascending[:-1]]).size:
        raise InputError(f"{where} names {len(twice):,} samples twice: the first is {twice[0]}")
    return order


def described(told: Told, columns_of_epoch: Mapping[str, np.ndarray], where: str) -> None:
    """Warn of values that are not finite; they are kept as they are."""
    broken = np.zeros(len(next(iter(columns_of_epoch.values()))), dtype=bool)
    for values in columns_of_epoch.values():
        broken |= np.isnan(values)
    if broken.any():
        told.runtime.warn(f"{where}: {int(broken.sum()):,} samples have a NaN; it stays one in their scores")
