"""cleanlab's input: `labels`, whole numbers [N], and `pred_probs`, probabilities [N, K], each a .npy.

They are of one moment and usually held out: scores over epochs have one epoch, and those of logits are absent.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.results import arrays
from modeconn_cli.engine.samples import scores
from modeconn_cli.engine.samples.foreign.look import Look
from modeconn_cli.engine.samples.foreign.source import LOSS, Columns, Source, Told, described, in_order

ROWS = 1 << 14  # that are treated at a time
NEAR = 1e-2  # to 1, of the sum of a row; half precision has three digits


def fits(look: Look) -> bool:
    return look.form == "npy" and look.axes in (1, 2)


def read(looks: list[Look], told: Told) -> Source:
    """The columns that probabilities give: all but the logits."""
    by_axes = {look.axes: look.path for look in looks}
    if len(looks) != 2 or by_axes.keys() != {1, 2}:
        shown = ", ".join(f"'{look.path.name}' with {look.axes} axes" for look in looks)
        raise SettingsError(
            f"--from takes labels [N] and probabilities [N, K] of cleanlab together, got {shown}",
            "--from labels.npy,pred_probs.npy",
        )
    labels_file, path = by_axes[1], by_axes[2]
    labels, probs = arrays.read(labels_file, kinds="iu").astype(np.int64), arrays.mapped(path)
    count, classes = probs.shape
    if len(labels) != count:
        raise InputError(f"'{labels_file}' holds {len(labels):,} samples, '{path}' {count:,}")
    if probs.dtype.kind != "f" or not count or not classes:
        raise InputError(f"'{path}' holds {probs.dtype} {probs.shape}, expected float [N, K]")
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"'{labels_file}', row {row}, is {labels[row]}, which is none of the {classes} classes of '{path}'"
        )
    ids = told.positions(count, labels_file)
    order = in_order(ids, f"'{labels_file}'")
    found = _columns(labels, probs, str(path))
    whole = {name: values[order] for name, values in found.items()}
    described(told, whole, f"'{path}'")

    def begin() -> Iterator[Columns]:
        yield whole

    return Source(
        epochs=[0],
        ids=ids[order],
        labels=labels[order],
        holds=tuple(whole),
        lacks="cleanlab's arrays hold probabilities, of which logits cannot be told",
        begin=begin,
    )


def _columns(labels: np.ndarray, probs: np.ndarray, path: str) -> Columns:
    """float32 [N] each. Raises InputError for rows that are no probabilities; NaN is kept."""
    parts = []
    for start in range(0, len(labels), ROWS):
        with np.errstate(invalid="ignore"):  # of NaN that signal
            p = np.array(probs[start : start + ROWS], dtype=np.float64)
        known = ~np.isnan(p).any(1)
        wrong = known & ((p < 0).any(1) | (p > 1).any(1) | (np.abs(p.sum(1) - 1) > NEAR))
        if wrong.any():
            row = start + int(wrong.argmax())
            raise InputError(
                f"'{path}', row {row}, is no distribution: its sum is {p[row - start].sum():.4g}",
                "pass probabilities, not logits",
            )
        # Logarithms of probabilities are logits: what follows is what every other source goes through.
        z, y = torch.from_numpy(p).log(), torch.from_numpy(labels[start : start + ROWS])
        found = {**scores.of_logits(z, y), LOSS: F.cross_entropy(z, y, reduction="none")}
        parts.append(
            {
                name: values.numpy().astype(np.float32)
                for name, values in found.items()
                if not name.endswith("_logit")
            }
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
