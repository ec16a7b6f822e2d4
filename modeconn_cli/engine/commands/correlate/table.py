"""The join: one row per sample, by sample id; missing stays missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modeconn_cli.engine.commands.correlate.sources import Source, places
from modeconn_cli.engine.errors import InputError

# The order of the documented columns; those of --with and --flags come after them.
METRICS = (
    "memo_score", "csl", "csl_per_epoch", "lt", "curvature", "directional_eig", "dormant_prop", "dormant_post"
)  # fmt: skip
TASK = "task_num"
GROUPS = ("class_id", TASK)
SEEN = ("first_epoch", "last_epoch", "times_seen")
CATEGORY, SPLIT, ID = "category", "split", "sample_id"
RESERVED = (ID, SPLIT, *GROUPS, *METRICS, *SEEN, CATEGORY)


@dataclass(frozen=True)
class Coverage:
    """How many samples a source has, how many of them all sources have and no other one has."""

    source: str
    path: str
    samples: int
    in_all: int
    only_here: int
    columns: list[str]


@dataclass(frozen=True)
class Table:
    """N samples: `columns` float [N] each, NaN is missing; `metrics` and `flags` are names of columns."""

    ids: np.ndarray
    split: str
    columns: Mapping[str, np.ndarray]
    metrics: list[str]
    flags: list[str]
    coverage: list[Coverage]


def join(sources: Sequence[Source], how: str | None) -> Table:
    """All columns of all sources, in the order of the ids.

    Raises InputError where the sources name different samples and `how` does not say what to do, and where they
    contradict each other about a sample's class or split.
    """
    split = _split(sources)
    ids, coverage = _samples(sources, how)
    columns: dict[str, np.ndarray] = {}
    origin: dict[str, Source] = {}
    for source in sources:
        place = _places(source, ids)
        for name, values in source.columns().items():
            column = _spread(values, place, ids)
            if name == "class_id" and name in columns:
                column = _one_class(columns[name], column, ids, origin[name], source)
            columns[name] = column
            origin[name] = source
    further = [name for s in sources for name in s.metrics if name not in METRICS]
    flags = [name for s in sources for name in s.flags]
    metrics = [name for name in METRICS if name in columns] + further
    return Table(ids, split, columns, metrics, flags, coverage)


def _split(sources: Sequence[Source]) -> str:
    said = {source.split: source for source in sources if source.split}
    if len(said) > 1:
        shown = " and ".join(f"'{source.path}' of the {split} split" for split, source in said.items())
        raise InputError(
            f"the sources are samples of different splits: {shown}",
            "correlate the scores of one split at a time",
        )
    return next(iter(said), "")


def _samples(sources: Sequence[Source], how: str | None) -> tuple[np.ndarray, list[Coverage]]:
    """The ids of the rows, and what each source has of them."""
    first = sources[0].ids
    alike = all(np.array_equal(source.ids, first) for source in sources[1:])
    if alike:
        every, times = first, np.full(len(first), len(sources))
    else:
        every, times = np.unique(np.concatenate([source.ids for source in sources]), return_counts=True)
    coverage = [_covered(source, every, times, len(sources)) for source in sources]
    if alike:
        return first, coverage
    if how is None:
        shown = "; ".join(
            f"{c.source} {c.samples:,} ({c.in_all:,} in all, {c.only_here:,} only here)" for c in coverage
        )
        raise InputError(
            f"the sources name different samples: {shown}",
            "--how inner keeps the samples in all sources, --how outer those in any",
        )
    ids = every[times == len(sources)] if how == "inner" else every
    if len(ids) == 0:
        raise InputError("no sample is in all sources", "pass --how outer, or look for ids of another split")
    return ids, coverage


def _covered(source: Source, every: np.ndarray, times: np.ndarray, count: int) -> Coverage:
    seen = times if len(source.ids) == len(every) else times[np.searchsorted(every, source.ids)]
    return Coverage(
        source=source.name,
        path=str(source.path),
        samples=len(source.ids),
        in_all=int((seen == count).sum()),
        only_here=int((seen == 1).sum()) if count > 1 else 0,
        columns=list(source.columns()),
    )


def _places(source: Source, ids: np.ndarray) -> np.ndarray | None:
    """Where each row stands in the source, -1 for nowhere; None where the source has the rows as they are."""
    if np.array_equal(source.ids, ids):
        return None
    return places(source.ids, ids)


def _spread(values: np.ndarray, place: np.ndarray | None, ids: np.ndarray) -> np.ndarray:
    if place is None:
        return values
    column = np.full(len(ids), np.nan, dtype=values.dtype)
    column[place >= 0] = values[place[place >= 0]]
    return column


def _one_class(
    old: np.ndarray, new: np.ndarray, ids: np.ndarray, first: Source, second: Source
) -> np.ndarray:
    """The class ids of both sources. Raises InputError where they differ."""
    differ = (old != new) & ~np.isnan(old) & ~np.isnan(new)
    if differ.any():
        k = int(np.argmax(differ))
        raise InputError(
            f"sample {ids[k]} is of class {old[k]:g} in {first.name} and of class {new[k]:g} in {second.name} "
            f"({int(differ.sum()):,} samples)",
            "are they of the same split and the same run?",
        )
    merged: np.ndarray = np.where(np.isnan(old), new, old)
    return merged
