"""The table of `mcx csl aggregate`: every score of `samples/scores.py` that the arrays allow, a line per sample."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modeconn_cli.engine.commands.csl import naming
from modeconn_cli.engine.commands.csl.inputs import RunArrays
from modeconn_cli.engine.results import files
from modeconn_cli.engine.results.columns import ID
from modeconn_cli.engine.samples.folds import Fold
from modeconn_cli.engine.samples.pictures import Pictured
from modeconn_cli.engine.samples.scores import NORM, Score, scores
from modeconn_cli.engine.settings.csl import CslAggregateSettings
from modeconn_cli.engine.statistics import auroc, average_precision

STEM, ENDINGS = "scores", (".csv", ".json")
SCHEMA = "mcx.scores/1"
BY = {"param": "parameters", "input": "input"}  # what gradients are by, in words
POSITION = "position"  # in the place of the id where no file names the samples


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


def measured(found: RunArrays, settings: CslAggregateSettings, known: Mapping[str, np.ndarray]) -> Scored:
    """Fold the columns of every epoch, each read once; `known` are the scores that other arrays have given."""
    table = scores(settings.el2n_epoch)
    absent = {score.name: why for score in table if (why := _absent(score, found, known, settings.lr))}
    folds = {s.name: s.fold(found.count) for s in table if s.fold is not None and s.name not in absent}
    _fold(
        found,
        [score for score in table if score.name in folds],
        folds,
        begins=settings.class_order is not None,
        lr=settings.lr,
    )
    values: dict[str, np.ndarray] = {}
    for score in table:
        if score.name not in absent:
            whole = folds.pop(score.name).result() if score.fold is not None else known[score.name]
            values[score.name] = whole.astype(np.float32)
    return Scored(table, values, absent)


def _fold(
    found: RunArrays, table: list[Score], folds: Mapping[str, Fold], *, begins: bool, lr: float | None
) -> None:
    """Take up every epoch; where classes begin later, NaNs before a sample's first value are left out."""
    if not table:
        return
    needed = dict.fromkeys((*(name for score in table for name in score.needs), "correct"))
    wanted, rates = [name for name in needed if name != "lr"], found.rates(lr)
    seen = np.full(found.count, not begins)
    for epoch, columns in zip(found.epochs, found.columns(wanted), strict=True):
        seen |= ~np.isnan(columns["correct"])
        columns["lr"] = np.asarray(rates.get(epoch, np.nan))
        for score in table:
            score.step(folds[score.name], epoch, columns, seen)


def _absent(score: Score, found: RunArrays, known: Mapping[str, np.ndarray], lr: float | None) -> str:
    """Why a score is not there; nothing where it is."""
    if score.fold is None:
        if score.name in known:
            return ""
        return {
            "csl_ce": "the losses were scored without weight decay, or are there with it alone",
            "csl_per_epoch": "classes came at once: --class-order was not given",
            **dict.fromkeys(naming.VOGS, "it was not scored at these epochs (csl score --vog)"),
            "csg": "gradient norms by the input were not scored at every epoch (csl score --grad input)",
            "lt_first_epoch_sq": "gradient norms by the input were not scored (csl score --grad input)",
        }.get(score.name, "there are no gradient norms")
    if found.dynamics is None:
        return "not every epoch has a file dynamics_*.npz (csl score writes them)"
    if score.by is not None and (score.by != found.summary.get("grad") or NORM not in found.said_columns):
        return f"gradient norms by the {BY[score.by]} were not scored (csl score --grad {score.by})"
    if "lr" in score.needs and (lacking := set(found.epochs) - set(found.rates(lr))):
        return f"the checkpoints of {len(lacking)} epochs, such as {min(lacking)}, say no learning rate (--lr says one)"
    if isinstance(score.epochs, int) and score.epochs not in found.epochs:
        return f"epoch {score.epochs} is not among the epochs (--el2n-epoch)"
    if len(found.epochs) < score.least:
        return f"it takes {score.least} epochs, there are {len(found.epochs)}"
    return ""


def write(
    folder: Path,
    found: RunArrays,
    scored: Scored,
    noise: Mapping[int, tuple[int, int]],
    losses: str,
    data: Pictured,
) -> None:
    """`scores_….csv`, a line per sample in the order of the ids, and `scores_….json`, what its columns are."""
    order = np.argsort(found.ids)
    ids = found.ids[order]

    def cells(rows: slice) -> np.ndarray:
        columns = [ids[rows], *(values[order[rows]] for values in scored.values.values())]
        return np.stack([column.astype(object) for column in columns], axis=1)

    table, document = (folder / found.named.aggregated(STEM, ending) for ending in ENDINGS)
    header = [ID if found.named_ids else POSITION, *scored.values]
    files.write_rows(table, header, ["%d", *["%.9g"] * len(scored.values)], len(ids), cells)
    files.write_json(document, {**_document(found, scored, noise, losses), "images": data.document()})


def _document(
    found: RunArrays, scored: Scored, noise: Mapping[int, tuple[int, int]], losses: str
) -> dict[str, Any]:
    flips = np.array([noise[i][0] != noise[i][1] for i in found.ids.tolist()]) if noise else None
    return {
        "schema": SCHEMA,
        "dataset": found.named.dataset,
        "run_idx": found.named.run_idx,
        "noise_level": found.named.noise,
        "split": found.summary.get("split"),
        "losses": losses,
        "samples": found.count,
        "epochs": found.epochs,
        "scores": [_described(score, scored.values[score.name], flips) for score in scored.rows
                   if score.name in scored.values],
        "absent": [{"name": name, "why": why} for name, why in scored.absent.items()],
    }  # fmt: skip


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
