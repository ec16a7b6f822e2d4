"""High and low samples by a median split of the metrics that are there, under the documented names."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np

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


def name_of(high: Mapping[str, bool]) -> str:
    """The category of a sample: metric -> whether it is high."""
    present = [metric for metric in WORDS if metric in high]
    spelled = ", ".join(f"{'high' if high[metric] else 'low'} {WORDS[metric]}" for metric in present)
    known = _NAMES.get(tuple(WORDS[metric] for metric in present), {})
    return known.get(tuple(high[metric] for metric in present), spelled)


def fairer(columns: Mapping[str, np.ndarray]) -> bool:
    """Whether the loss per epoch stands for CSL, whose sums over different numbers of epochs do not compare."""
    return PER_EPOCH in columns


def split(columns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, list[str], dict[str, float]]:
    """Category of each sample as a number [N], -1 where a metric is missing; the names; the medians.

    High is strictly above the median of the finite values.
    """
    left = "csl" if fairer(columns) else PER_EPOCH
    present = [m for m in WORDS if m != left and m in columns and np.isfinite(columns[m]).any()]
    count = len(next(iter(columns.values())))
    if not present:
        return np.full(count, -1), [], {}
    medians = {m: float(np.median(columns[m][np.isfinite(columns[m])].astype(np.float64))) for m in present}
    code, missing = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=bool)
    for metric in present:
        values = columns[metric]
        code = 2 * code + (values.astype(np.float64) > medians[metric])
        missing |= np.isnan(values)
    code[missing] = -1
    names = [
        name_of(dict(zip(present, high, strict=True))) for high in product((False, True), repeat=len(present))
    ]
    return code, names, medians
