"""The table of scores over the epochs of a run, each a fold of the columns of an epoch (`training/columns.py`).

`csl score` and the recorder write the columns; `csl aggregate` reads each once and folds it. A new score is a row,
whose function has at most 15 lines; the tests hold every row to its range and to its hard end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from modeconn_cli.engine.samples.folds import (
    Deviation,
    First,
    Fold,
    Forgotten,
    Last,
    Least,
    Mean,
    Total,
    at,
    forgotten_for_good,
    windows,
)
from modeconn_cli.engine.training.columns import COLUMNS as COLUMNS
from modeconn_cli.engine.training.columns import REAL
from modeconn_cli.engine.training.columns import Column as Column
from modeconn_cli.engine.training.columns import of_logits as of_logits

NORMS = {
    "param": "param_norm",
    "input": "input_norm",
}  # ‖∇ℓ‖₂ without weight decay, by what; no columns of logits
SECOND_SPLIT = "second_split_forgetting"
WINDOW = 10  # epochs of a window of the dynamic uncertainty, as in the paper
Columns = Mapping[str, np.ndarray]  # of one epoch, each [N]


@dataclass(frozen=True)
class Score:
    """A score over epochs: `fold` of what `of` makes of the `needs`, columns of an epoch.

    Without `fold` it is one of the sums and times of `losses`. `hard` is the end at which hard samples lie; `epochs`
    says which it is of: all that were kept, the last, or one number.
    """

    name: str
    formula: str  # in words
    paper: str
    hard: Literal["high", "low", "either"]
    within: tuple[float, float]
    needs: tuple[str, ...]
    fold: Callable[[int], Fold] | None = None
    of: Callable[[Columns], np.ndarray] = lambda columns: next(iter(columns.values()))
    epochs: Literal["all", "last"] | int = "all"
    least: int = 1  # epochs that it takes

    def step(self, fold: Fold, epoch: int, columns: Columns, seen: np.ndarray) -> None:
        """Take up an epoch."""
        wanted = {name: columns[name].astype(np.float64) for name in self.needs}
        fold.add(epoch, self.of(wanted), seen)


def margin(columns: Columns) -> np.ndarray:
    """z_y − max_{j≠y} z_j; NaN where both are infinite."""
    with np.errstate(invalid="ignore"):
        found: np.ndarray = columns["label_logit"] - columns["other_logit"]
    return found


def wrong(columns: Columns) -> np.ndarray:
    """1 where the sample is misclassified."""
    found: np.ndarray = 1.0 - columns["correct"]
    return found


def squared(columns: Columns) -> np.ndarray:
    """‖p − onehot(y)‖₂²."""
    return np.square(columns["el2n"])


def of_first_half(columns: Columns) -> np.ndarray:
    """Whether samples of the half that was trained on first are correct; NaN of the others."""
    return np.where(columns["first_half"] == 1, columns["correct"], np.nan)


def steps(columns: Columns) -> np.ndarray:
    """η‖∇ℓ‖²; η is one number for all samples."""
    found: np.ndarray = columns["lr"] * np.square(columns["param_norm"])
    return found


_CSL, _PLEISS = "Ravikumar et al. 2025", "Pleiss et al. 2020, arXiv:2001.10528"
_MAPS, _EL2N = "Swayamdipta et al. 2020, arXiv:2009.10795", "Paul et al. 2021, arXiv:2107.07075"
_MAINI = "Maini et al. 2022, arXiv:2210.15031"
_VOG = "Agarwal et al. 2022, arXiv:2008.11600"
_TRACIN, _TONEVA = "Pruthi et al. 2020, arXiv:2002.08484", "Toneva et al. 2019, arXiv:1812.05159"
_LOGITS, _LOSS, _GRAD = ("label_logit", "other_logit"), ("loss",), ("loss_grad",)
_PARAM, _INPUT = (NORMS["param"],), (NORMS["input"],)
_POSITIVE, _SHARE = (0.0, math.inf), (0.0, 1.0)
_NORM = (0.0, math.sqrt(2.0) * (1 + 1e-7))


def scores(el2n_epoch: int, half: int = 0) -> tuple[Score, ...]:
    """The table; `el2n_epoch` is the one whose EL2N and GraNd are the paper's, each of two phases has `half` epochs."""
    return (
        Score(
            "csl", "sum of the loss, with weight decay where it was scored so", _CSL, "high", _POSITIVE, _LOSS),
        Score(
            "csl_ce", "sum of the loss without weight decay", _CSL, "high", _POSITIVE, ("loss_ce",)),
        Score(
            "csl_per_epoch", "mean of the loss over the epochs since the class was seen", _CSL, "high", _POSITIVE,
            _LOSS),
        Score(
            "final_loss", "loss at the last epoch, without weight decay where it was scored so", "", "high", _POSITIVE,
            _LOSS, epochs="last"),
        Score(
            "lt", "1 − share of epochs whose running mean of the gradient norm is below tau", _CSL, "high", _SHARE,
            _GRAD),
        Score(
            "lt_first_epoch", "first epoch whose running mean of the gradient norm is at most tau; never: ∞", _CSL,
            "high", _POSITIVE, _GRAD),
        Score(
            "lt_first_epoch_sq", "the same with squared norms and the tau of the squares", _CSL, "high", _POSITIVE,
            _GRAD),
        Score(
            "lt_stays", "first epoch from which on the running mean stays at most tau; never: ∞", "", "high",
            _POSITIVE, _GRAD),
        Score(
            "csg", "sum of the squared norm of the loss's gradient by the input", _CSL, "high", _POSITIVE, _GRAD),
        Score(
            "aum", "mean of the margin, the label's logit minus the largest other one", _PLEISS, "low", REAL, _LOGITS,
            Mean, margin),
        Score(
            "margin_last", "margin at the last epoch", _PLEISS, "low", REAL, _LOGITS, Last, margin, "last"),
        Score(
            "margin_min", "smallest margin", _PLEISS, "low", REAL, _LOGITS, Least, margin),
        Score(
            "confidence", "mean of the label's probability", _MAPS, "low", _SHARE, ("label_prob",), Mean),
        Score(
            "variability", "standard deviation (ddof 0) of the label's probability", _MAPS, "either", (0.0, 0.5),
            ("label_prob",), Deviation),
        Score(
            "correctness", "share of epochs at which the sample is correct", _MAPS, "low", _SHARE, ("correct",), Mean),
        Score(
            "share_wrong", "1 − correctness", "", "high", _SHARE, ("correct",), Mean, wrong),
        Score(
            "el2n", "norm of probabilities minus one-hot label at one epoch", _EL2N, "high", _NORM, ("el2n",),
            at(el2n_epoch), epochs=el2n_epoch),
        Score(
            "el2n_mean", "mean over epochs of that norm", "", "high", _NORM, ("el2n",), Mean),
        Score(
            "el2n_squared_mean", "mean over epochs of that norm's square", "", "high", (0.0, 2 * (1 + 1e-6)),
            ("el2n",), Mean, squared),
        Score(
            "grand", "norm of the loss's gradient by the parameters at one epoch", _EL2N, "high", _POSITIVE, _PARAM,
            at(el2n_epoch), epochs=el2n_epoch),
        Score(
            "grand_mean", "mean over epochs of that norm", "", "high", _POSITIVE, _PARAM, Mean),
        Score(
            "grand_input", "norm of the loss's gradient by the input at one epoch", _EL2N, "high", _POSITIVE, _INPUT,
            at(el2n_epoch), epochs=el2n_epoch),
        Score(
            "grand_input_mean", "mean over epochs of that norm", "", "high", _POSITIVE, _INPUT, Mean),
        Score(
            "tracin_self", "sum of learning rate times the squared norm of the loss's gradient by the parameters",
            _TRACIN, "high", _POSITIVE, (*_PARAM, "lr"), Total, steps),
        Score(
            "vog", "mean over input elements of the standard deviation (ddof 0) over epochs of the gradient of the "
            "label's logit by the input", _VOG, "either", _POSITIVE, ("vog",)),
        Score(
            "vog_class", "the same, standardised within the samples of the class", _VOG, "either", REAL, ("vog",)),
        Score(
            "forgetting", "changes from correct to wrong between consecutive epochs; never correct: ∞", _TONEVA, "high",
            _POSITIVE, ("correct",), Forgotten),
        Score(
            SECOND_SPLIT, "of two phases on halves of the data, the first epoch of the second from which "
            "a sample of the first stays wrong, from 1; never: ∞", _MAINI, "low", (1.0, math.inf),
            ("correct", "first_half"), forgotten_for_good(half), of_first_half),
        Score(
            "first_learnt", "first epoch at which the sample is correct; never: ∞", _TONEVA, "high", _POSITIVE,
            ("correct",), First),
        Score(
            "entropy", "entropy of the probabilities at the last epoch, in nats",
            "Coleman et al. 2020, arXiv:1906.11829", "high", _POSITIVE, ("entropy",), Last, epochs="last"),
        Score(
            "entropy_mean", "mean over epochs of the entropy, in nats", "", "high", _POSITIVE, ("entropy",), Mean),
        Score(
            "dynamic_uncertainty", f"mean over all windows of {WINDOW} epochs of the standard deviation (ddof 0) of "
            "the label's probability", "He et al. 2024, arXiv:2306.05175", "high", (0.0, 0.5), ("label_prob",),
            windows(WINDOW), least=WINDOW),
    )  # fmt: skip
