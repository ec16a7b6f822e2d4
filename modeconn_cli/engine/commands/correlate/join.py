"""The join: one row per sample, by sample id; missing stays missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pandas as pd

from modeconn_cli.engine.commands.correlate.sources import Source
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results.columns import ID

# The order of the documented columns; those of --with and --flags come after them.
METRICS = (
    "memo_score", "csl", "csl_per_epoch", "lt", "curvature", "directional_eig", "dormant_prop", "dormant_post"
)  # fmt: skip
HARD = dict.fromkeys(("memo_score", "csl", "csl_per_epoch", "lt", "curvature"), "high")
CLASS, TASK = "class_id", "task_num"
SEEN = ("first_epoch", "last_epoch", "times_seen")
CATEGORY, SPLIT = "category", "split"
RESERVED = (ID, SPLIT, CLASS, TASK, *METRICS, *SEEN, CATEGORY)


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
class Joined:
    """All columns of the samples. `table` has a row per sample, indexed by its id (int64, ascending); NaN is missing.

    `metrics` and `flags` are names of columns; the other ones are facts, whole numbers in float64. `ends` say of a
    metric at which end hard samples lie: high, low or either.
    """

    table: pd.DataFrame
    split: str
    metrics: list[str]
    flags: list[str]
    coverage: list[Coverage]
    ends: Mapping[str, str]


def join(sources: Sequence[Source], how: str | None) -> Joined:
    """All columns of all sources, in the order of the ids.

    Raises InputError where the sources name different samples and `how` does not say what to do, and where they
    contradict each other about a sample's class or split.
    """
    split = _split(sources)
    ids, coverage = _samples(sources, how)
    tables = [source.table.reindex(ids) for source in sources]
    classes = {
        source.name: table.pop(CLASS) for source, table in zip(sources, tables, strict=True) if CLASS in table
    }
    table = pd.concat([_classes(classes), *tables], axis=1)
    metrics = [name for source in sources for name in source.metrics]
    metrics.sort(key=lambda name: METRICS.index(name) if name in METRICS else len(METRICS))
    flags = [name for source in sources for name in source.flags]
    further = [name for name in metrics if name not in METRICS]
    order = [CLASS, TASK, *METRICS, *SEEN, *further, *flags]
    ends = HARD | {name: end for source in sources for name, end in source.ends.items()}
    ends = {name: end for name, end in ends.items() if name in metrics}
    return Joined(table[[name for name in order if name in table]], split, metrics, flags, coverage, ends)


def _split(sources: Sequence[Source]) -> str:
    said = {source.split: source for source in sources if source.split}
    if len(said) > 1:
        shown = " and ".join(f"'{source.path}' of the {split} split" for split, source in said.items())
        raise InputError(
            f"the sources are samples of different splits: {shown}",
            "correlate the scores of one split at a time",
        )
    return next(iter(said), "")


def _samples(sources: Sequence[Source], how: str | None) -> tuple[pd.Index, list[Coverage]]:
    """The ids of the rows, and what each source has of them."""
    indices = [source.table.index for source in sources]
    every = reduce(pd.Index.union, indices)
    there = np.stack([index == every if len(index) == len(every) else every.isin(index) for index in indices])
    times = there.sum(axis=0)
    in_all = times == len(sources)
    coverage = [
        Coverage(
            source=source.name,
            path=str(source.path),
            samples=len(source.table),
            in_all=int(in_all.sum()),
            only_here=int((own & (times == 1)).sum()) if len(sources) > 1 else 0,
            columns=list(source.table.columns),
        )
        for source, own in zip(sources, there, strict=True)
    ]
    if how is None and not in_all.all():
        shown = "; ".join(
            f"{c.source} {c.samples:,} ({c.in_all:,} in all, {c.only_here:,} only here)" for c in coverage
        )
        raise InputError(
            f"the sources name different samples: {shown}",
            "--how inner keeps the samples in all sources, --how outer those in any",
        )
    ids = every[in_all] if how == "inner" else every
    if ids.empty:
        raise InputError("no sample is in all sources", "pass --how outer, or look for ids of another split")
    return ids, coverage


def _classes(said: Mapping[str, pd.Series]) -> pd.Series | None:
    """The class ids that the sources say: name of the source -> column. Raises InputError where two differ."""
    merged: pd.Series | None = None
    first = ""
    for second, classes in said.items():
        if merged is not None:
            differ = (merged != classes) & merged.notna() & classes.notna()
            if differ.any():
                k = int(differ.argmax())
                raise InputError(
                    f"sample {merged.index[k]} is of class {merged.iloc[k]:g} in {first} and of class "
                    f"{classes.iloc[k]:g} in {second} ({int(differ.sum()):,} samples)",
                    "are they of the same split and the same run?",
                )
        merged, first = classes if merged is None else merged.fillna(classes), second
    return merged
