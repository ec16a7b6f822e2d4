"""Which samples are hard by which score: how well its hard end finds flagged ones, and how far scores agree.

A score has an end at which hard samples lie, `high` or `low`; where it has `either` or says none, large values are
taken. Its hardest k samples are those at that end; where equal values lie at the edge, each of them belongs to the k by
the share of the places that are left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from modeconn_cli.engine.commands.correlate.join import CLASS
from modeconn_cli.engine.results.columns import ID
from modeconn_cli.engine.statistics import Correlation, auroc, average_precision, compared

FITTED = 0.99  # share of labels that a network which fits its data has right
APART = 1.959963984540054  # standard errors: 95 %
MARGIN = "margin_last"


@dataclass(frozen=True)
class Auroc:
    """The chance that a flagged sample has the larger value, its standard error, and the average precision of the
    samples at the hard `end` first, over the `n` samples with both; `flagged` of them are flagged.

    `at_end` is the chance that the flagged sample lies further at that end. `behind` is by how much the best metric of
    the flag is better there, over the samples that have both, with the standard error of that difference (DeLong).
    """

    flag: str
    flagged: int
    metric: str
    auroc: float | None
    stderr: float | None
    n: int
    average_precision: float | None
    end: str
    at_end: float | None
    behind: float | None
    behind_stderr: float | None

    @property
    def as_good(self) -> bool:
        """Whether it is not told apart from the best."""
        if self.behind is None:
            return False
        return self.behind == 0 or (
            self.behind_stderr is not None and self.behind < APART * self.behind_stderr
        )


def hard(values: pd.Series, end: str) -> np.ndarray:
    """A metric [N], float64, with hard samples at its high end."""
    found: np.ndarray = values.to_numpy(np.float64)
    return -found if end == "low" else found


def finding(
    table: pd.DataFrame, flags: Sequence[str], metrics: Sequence[str], ends: Mapping[str, str]
) -> list[Auroc]:
    """Every metric against every flag, in their order."""
    return [row for flag in flags for row in _of_flag(table, flag, metrics, ends)]


def _of_flag(table: pd.DataFrame, flag: str, metrics: Sequence[str], ends: Mapping[str, str]) -> list[Auroc]:
    known = table[flag].notna().to_numpy()
    marks = table[flag].to_numpy()[known] == 1
    values = {name: hard(table[name], ends.get(name, ""))[known] for name in metrics}
    found = {name: auroc(each, marks) for name, each in values.items()}
    sure = {
        name: each.value
        for name, each in found.items()
        if each.value is not None and ends.get(name) != "either"
    }
    best = max(sure, key=lambda name: sure[name]) if sure else None
    rows = []
    for name, each in found.items():
        low = ends.get(name) == "low"
        behind: tuple[float | None, float | None] = (None, None)
        if best is not None and each.value is not None:
            behind = compared(values[best], values[name], marks)
        rows.append(
            Auroc(
                flag=flag,
                flagged=each.positive,
                metric=name,
                auroc=1 - each.value if low and each.value is not None else each.value,
                stderr=each.stderr,
                n=each.n,
                average_precision=average_precision(values[name], marks),
                end="low" if low else "high",
                at_end=each.value,
                behind=behind[0],
                behind_stderr=behind[1],
            )
        )
    return rows


def best_of(rows: Sequence[Auroc], metrics: Sequence[str], ends: Mapping[str, str]) -> str | None:
    """The metric that finds the first flag best; without flags the first with a known hard end."""
    ranked = [row for row in rows if row.flag == rows[0].flag and row.behind == 0]
    if ranked:
        return ranked[0].metric
    return next((name for name in metrics if ends.get(name) in ("high", "low")), None)


def belonging(values: np.ndarray, k: int) -> np.ndarray:
    """How far each sample belongs to the k with the largest values [N]: 1, 0, or a share at the edge. NaN are last.

    >>> belonging(np.array([3.0, 1.0, 1.0, 0.0]), 2).tolist()
    [1.0, 0.5, 0.5, 0.0]
    """
    known = ~np.isnan(values)
    k = min(k, int(known.sum()))
    found = np.zeros(len(values))
    if k == 0:
        return found
    edge = np.partition(values[known], -k)[-k]
    above, at = known & (values > edge), known & (values == edge)
    found[above] = 1.0
    found[at] = (k - above.sum()) / at.sum()
    return found


def agreement(table: pd.DataFrame, metrics: Sequence[str], ends: Mapping[str, str], k: int) -> np.ndarray:
    """The share [M, M] of the hardest k of one metric that are among those of the other; 1 of two that order alike.

    A sample that belongs to both by shares is in common by the smaller one. NaN for a metric without k values.
    """
    members = np.stack([belonging(hard(table[name], ends.get(name, "")), k) for name in metrics])
    shares = np.array([np.minimum(members, own).sum(1) for own in members]) / k
    few = members.sum(1) < k - 0.5
    shares[few] = shares[:, few] = np.nan
    return shares


def oriented(found: Sequence[Correlation], metrics: Sequence[str], ends: Mapping[str, str]) -> np.ndarray:
    """Spearman's correlations [M, M] of metrics with hard samples at their high ends; NaN where there is none."""
    place = {name: k for k, name in enumerate(metrics)}
    signs = [-1.0 if ends.get(name) == "low" else 1.0 for name in metrics]
    square = np.full((len(metrics), len(metrics)), np.nan)
    np.fill_diagonal(square, 1.0)
    for each in found:
        a, b = place[each.metric_a], place[each.metric_b]
        if each.spearman is not None:
            square[a, b] = square[b, a] = signs[a] * signs[b] * each.spearman
    return square


def listed(
    table: pd.DataFrame, metric: str, ends: Mapping[str, str], flags: Sequence[str], k: int
) -> pd.DataFrame:
    """The hardest k samples, the hardest first: rank, id, class where known, value, flags."""
    values = hard(table[metric], ends.get(metric, ""))
    order = np.argsort(-values, kind="stable")
    order = order[~np.isnan(values[order])][:k]
    rows = table.iloc[order]
    found = pd.DataFrame({"rank": np.arange(1, len(rows) + 1), ID: rows.index})
    for name in (CLASS, metric, *flags):
        if name in rows:
            column = rows[name].to_numpy()
            found[name] = pd.array(column, dtype="Int64") if name != metric else column
    return found


def advice(table: pd.DataFrame, rows: Sequence[Auroc], best: str | None, metrics: Sequence[str]) -> list[str]:
    """What the run shows of which score to use, in sentences."""
    said = [_finds(rows, best)] if best is not None and rows else []
    if MARGIN in metrics and table[MARGIN].notna().any():
        share = float((table[MARGIN].dropna() > 0).mean())
        said.append(
            f"the network has {100 * share:.1f} % of the labels right at the last epoch"
            + (
                ": scores of the last epoch, variability and VoG say little of wrong labels that it has fitted; those "
                "over all epochs keep the order (share_wrong, csl, el2n_mean)"
                if share >= FITTED
                else ": it does not fit all of its data, so that csl and its kin tell what is not learnt, and are no "
                "measure of memorisation"
            )
        )
    return said


def _finds(rows: Sequence[Auroc], best: str) -> str:
    """Which score finds the first flag, which are as good, and whether any does."""
    of_first = [row for row in rows if row.flag == rows[0].flag]
    (top,) = (row for row in of_first if row.metric == best)
    if top.at_end is None:
        which = "none" if not top.flagged else "all"
        return f"{which} of the samples are flagged as {top.flag}: there is nothing to tell apart"
    error = "" if top.stderr is None else f" ± {top.stderr:.4f}"
    said = f"{best}, AUROC {top.at_end:.4f}{error}"
    if top.stderr is None or top.at_end - APART * top.stderr <= 0.5:
        return f"no score is known to find {top.flag} better than chance (95 %); the largest: {said}"
    alike = [row.metric for row in of_first if row.metric != best and row.as_good]
    also = f"; not told apart from it (95 %): {', '.join(alike)}" if alike else ""
    return f"best at finding {top.flag}: {said}{also}"
