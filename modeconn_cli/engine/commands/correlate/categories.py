"""High and low samples by a median split of the metrics that are there, under the documented names."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np
import pandas as pd

from modeconn_cli.engine.commands.correlate.sources import PER_EPOCH

WORDS = {
    "csl": "csl",
    PER_EPOCH: "csl",
    "curvature": "curvature",
    "dormant_prop": "dormant",
    "memo_score": "memo",
}

# Metrics -> which of them are high -> name; the first list is for samples without dormancy.
_NAMES: dict[tuple[str, ...], dict[tuple[bool, ...], str]] = {
    ("csl", "curvature", "memo"): {
        (True, True, True): "Most problematic samples",
        (True, False, True): "Difficult but stable samples",
        (False, True, False): "Easy but potentially disruptive samples",
        (False, False, False): "Ideal samples for early training",
    },
    ("csl", "curvature", "dormant", "memo"): {
        (True, True, True, True): "Most problematic samples",
        (True, False, False, True): "Difficult but stable samples",
        (False, True, True, False): "Easy but plasticity-impaired samples",
        (False, False, False, False): "Ideal samples for training",
    },
}


def _name(high: Mapping[str, bool]) -> str:
    """The category of a sample: metric -> whether it is high."""
    words = tuple(WORDS[metric] for metric in high)
    spelled = ", ".join(f"{'high' if high[metric] else 'low'} {WORDS[metric]}" for metric in high)
    return _NAMES.get(words, {}).get(tuple(high.values()), spelled)


def split(metrics: pd.DataFrame) -> tuple[pd.Series, dict[str, float]]:
    """The category of each sample, none where a metric is missing, and the medians that tell high from low.

    High is strictly above the median of the finite values. Where there is a loss per epoch it stands for CSL, whose
    sums over different numbers of epochs do not compare.
    """
    left_out = "csl" if PER_EPOCH in metrics else PER_EPOCH
    medians: dict[str, float] = {}
    code, known = np.zeros(len(metrics), dtype=np.int64), np.ones(len(metrics), dtype=bool)
    for metric in WORDS:
        values = (
            metrics[metric].to_numpy(np.float64) if metric in metrics and metric != left_out else np.empty(0)
        )
        finite = values[np.isfinite(values)]
        if len(finite):
            medians[metric] = float(np.median(finite))
            code = 2 * code + (values > medians[metric])
            known &= ~np.isnan(values)
    levels = product((False, True), repeat=len(medians))
    names = [_name(dict(zip(medians, high, strict=True))) for high in levels] if medians else []
    code[~known | (not medians)] = -1
    return pd.Series(pd.Categorical.from_codes(code, pd.Index(names)), metrics.index), medians
