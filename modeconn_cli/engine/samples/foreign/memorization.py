"""Memorisation of Feldman & Zhang 2020: an .npz with `memorization` or `tr_mem`, or a table of such scores."""

from __future__ import annotations

import numpy as np

from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.results import memo_scores
from modeconn_cli.engine.results.memo_scores import MEMO
from modeconn_cli.engine.samples.foreign.look import Look
from modeconn_cli.engine.samples.foreign.source import Source, Told, in_order
from modeconn_cli.engine.samples.scores import Score

MEMORIZATION = Score(
    MEMO,
    "probability of being correct after training with the sample minus that without it",
    "Feldman & Zhang 2020, arXiv:2008.03703",
    "high",
    (-1.0, 1.0),
    (),
)


def fits(look: Look) -> bool:
    scores = ("memorization", "tr_mem", MEMO)
    return look.form in ("npz", "csv") and any(name in look.names for name in scores)


def read(looks: list[Look], told: Told) -> Source:
    """The scores by sample id; influence is not read."""
    if len(looks) > 1:
        raise SettingsError(f"--from takes one file of memorization scores, got {len(looks)}")
    path = looks[0].path
    found, assumed = memo_scores.read(path, assume=told.settings.assume_index or told.names is not None)
    ids = found.index.to_numpy(np.int64)
    if assumed:
        ids = told.positions(len(ids), path)
        told.runtime.note(
            "the order of the published files may be that of TensorFlow Datasets, not that of the data set's own files"
        )
    elif told.names is not None:
        ids = told.ids(ids, f"'{path}'")
    if left := [name for name in looks[0].names if name.startswith("infl")]:
        told.runtime.note(f"left out, as it is not one value per sample: {', '.join(left[:3])}")
    order = in_order(ids, f"'{path}'")
    return Source(
        epochs=[],
        ids=ids[order],
        known={MEMO: found.to_numpy(np.float64)[order]},
        further=(MEMORIZATION,),
        lacks="memorization scores hold nothing else",
    )
