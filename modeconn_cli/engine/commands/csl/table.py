"""The table of `mcx csl aggregate`: every score of `samples/scores.py` that the arrays allow, a line per sample."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from modeconn_cli.engine.commands.csl import naming
from modeconn_cli.engine.commands.csl.inputs import RunArrays
from modeconn_cli.engine.commands.csl.naming import RunName
from modeconn_cli.engine.results import files, parquet
from modeconn_cli.engine.results.columns import ID
from modeconn_cli.engine.samples.folds import Fold
from modeconn_cli.engine.samples.scores import NORMS, Score
from modeconn_cli.engine.statistics import auroc, average_precision

STEM, ENDINGS = "scores", (".csv", ".json")
PARQUET = ".parquet"  # beside them, where pyarrow is installed
SCHEMA = "mcx.scores/1"
BY = {"param": "parameters", "input": "input"}  # what gradients are by, in words
AT_ONCE = 1 << 16  # rows of a Parquet file that are written at a time
POSITION = "position"  # in the place of the id where no file names the samples


class Given(Protocol):
    """What the scores are made of: columns [N] of `epochs`, those that it `holds`, and why there are no others."""

    @property
    def epochs(self) -> list[int]: ...
    @property
    def ids(self) -> np.ndarray: ...
    @property
    def named_ids(self) -> bool: ...
    @property
    def count(self) -> int: ...
    @property
    def holds(self) -> tuple[str, ...]: ...
    @property
    def lacks(self) -> str: ...
    def columns(self, names: Collection[str]) -> Iterator[dict[str, np.ndarray]]: ...


class Final:
    """The last array of those that pass, so that it is not read again: of the loss without decay where that comes."""

    def __init__(self, found: RunArrays) -> None:
        self._found, self._last = found, np.full(found.count, np.nan)

    def heard(self, paths: list[Path]) -> Iterator[np.ndarray]:
        for values in self._found.values(paths):
            last = values
            yield values
        self._last = np.array(last, dtype=np.float64)

    def values(self) -> np.ndarray:
        """float64 [N]."""
        return self._last


@dataclass(frozen=True)
class Scored:
    """Scores that there are, float32 [N] in the order of the run's ids, and why there are no others, by name."""

    rows: tuple[Score, ...]
    values: dict[str, np.ndarray]
    absent: dict[str, str]


def measured(
    found: Given, table: Sequence[Score], known: Mapping[str, np.ndarray], *, begins: bool = False
) -> Scored:
    """Fold the columns of every epoch, each read once; `known` are the scores that other arrays have given.

    `begins`: classes came later, and have NaN before.
    """
    absent = {score.name: why for score in table if (why := _absent(score, found, known))}
    made = [score for score in table if score.fold is not None and score.name not in {*absent, *known}]
    folds = {score.name: score.fold(found.count) for score in made if score.fold is not None}
    _fold(found, made, folds, begins=begins)
    values: dict[str, np.ndarray] = {}
    for score in table:
        if score.name not in absent:
            whole = folds.pop(score.name).result() if score.name in folds else known[score.name]
            values[score.name] = whole.astype(np.float32)
    return Scored(tuple(table), values, absent)


def _fold(found: Given, table: Sequence[Score], folds: Mapping[str, Fold], *, begins: bool) -> None:
    """Take up every epoch; where classes begin later, NaNs before a sample's first value are left out."""
    if not table:
        return
    wanted = list(dict.fromkeys((*(name for score in table for name in score.needs), "correct")))
    seen = np.full(found.count, not begins)
    for epoch, columns in zip(found.epochs, found.columns(wanted), strict=True):
        seen |= ~np.isnan(columns["correct"])
        for score in table:
            score.step(folds[score.name], epoch, columns, seen)


def _lacking(score: Score, found: Given) -> str:
    """Why what a score needs is not there."""
    for by, norm in NORMS.items():
        if norm in score.needs and norm not in found.holds:
            return f"gradient norms by the {BY[by]} were not scored (csl score --grad {by})"
    if "first_half" in score.needs and found.holds:
        return (
            "the run is not one of train --two-phase, or the end of its first phase is not among the epochs"
        )
    return (
        "not every checkpoint says its learning rate (--lr says one)" if "lr" in score.needs else found.lacks
    )


def _absent(score: Score, found: Given, known: Mapping[str, np.ndarray]) -> str:
    """Why a score is not there; nothing where it is."""
    if score.name in known:
        return ""
    if score.fold is None:
        return {
            "csl_ce": "the losses were scored without weight decay, or are there with it alone",
            "csl_per_epoch": "classes came at once: --class-order was not given",
            **dict.fromkeys(naming.VOGS, "it was not scored at these epochs (csl score --vog)"),
            "csg": "gradient norms by the input were not scored at every epoch (csl score --grad input)",
            "lt_first_epoch_sq": "gradient norms by the input were not scored (csl score --grad input)",
        }.get(score.name, "there are no gradient norms")
    if not set(score.needs) <= set(found.holds):
        return _lacking(score, found)
    if isinstance(score.epochs, int) and score.epochs not in found.epochs:
        return f"epoch {score.epochs} is not among the epochs (--el2n-epoch)"
    if len(found.epochs) < score.least:
        return f"it takes {score.least} epochs, there are {len(found.epochs)}"
    return ""


def write(
    folder: Path,
    named: RunName,
    found: Given,
    scored: Scored,
    noise: Mapping[int, tuple[int, int]],
    **facts: Any,
) -> None:
    """`scores_….csv`, a line per sample in the order of the ids, and `scores_….json`, what its columns are.

    `facts` are what else the document says of all of them.
    """
    order = np.argsort(found.ids)
    ids = found.ids[order]

    def cells(rows: slice) -> np.ndarray:
        columns = [ids[rows], *(values[order[rows]] for values in scored.values.values())]
        return np.stack([column.astype(object) for column in columns], axis=1)

    table, document = (folder / named.aggregated(STEM, ending) for ending in ENDINGS)
    header = [ID if found.named_ids else POSITION, *scored.values]
    files.write_rows(table, header, ["%d", *["%.9g"] * len(scored.values)], len(ids), cells)
    _write_parquet(folder / named.aggregated(STEM, PARQUET), header[0], ids, order, scored.values)
    flips = np.array([noise[i][0] != noise[i][1] for i in found.ids.tolist()]) if noise else None
    described = [_described(score, scored.values[score.name], flips) for score in scored.rows
                 if score.name in scored.values]  # fmt: skip
    said = {
        "schema": SCHEMA,
        "dataset": named.dataset,
        "run_idx": named.run_idx,
        "noise_level": named.noise,
        **facts,
        "samples": found.count,
        "epochs": found.epochs,
        "scores": described,
        "absent": [{"name": name, "why": why} for name, why in scored.absent.items()],
    }
    files.write_json(document, said)


def _write_parquet(
    path: Path, named: str, ids: np.ndarray, order: np.ndarray, values: Mapping[str, np.ndarray]
) -> None:
    """The same columns, where pyarrow is installed; where it is not, there is none of an earlier run either."""
    if not parquet.available():
        path.unlink(missing_ok=True)
        return

    def pieces() -> Iterator[pd.DataFrame]:
        for begin in range(0, len(ids), AT_ONCE):
            rows = slice(begin, begin + AT_ONCE)
            yield pd.DataFrame({named: ids[rows], **{name: v[order[rows]] for name, v in values.items()}})

    parquet.write(path, pieces)


def _described(score: Score, values: np.ndarray, flips: np.ndarray | None) -> dict[str, Any]:
    """A row of the table and how many samples have which kind of value; an open end of the range is null.

    `finds_flips`: how well the hard end finds flipped labels; the high end where neither is the hard one.
    """
    said: dict[str, Any] = {
        "name": score.name,
        "formula": score.formula,
        "paper": score.paper or None,
        "hard": score.hard,
        "range": [bound if math.isfinite(bound) else None for bound in score.within],
        "epochs": [score.epochs] if isinstance(score.epochs, int) else score.epochs,
        "finite": int(np.isfinite(values).sum()),
        "infinite": int(np.isinf(values).sum()),
        "nan": int(np.isnan(values).sum()),
    }
    if flips is not None:
        hard = -values if score.hard == "low" else values
        found = auroc(hard, flips)
        precision = average_precision(hard, flips)
        said["finds_flips"] = {
            "auroc": found.value, "stderr": found.stderr, "average_precision": precision, "n": found.n,
        }  # fmt: skip
    return said
