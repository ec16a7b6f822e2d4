"""The files of `mcx memo`: scores by id, the sparse table of influences, and what both are computed from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from modeconn_cli.engine.commands.memo.estimate import Estimate, Influences
from modeconn_cli.engine.commands.memo.study import Answers
from modeconn_cli.engine.datasets import Data
from modeconn_cli.engine.results import files
from modeconn_cli.engine.results.columns import ID
from modeconn_cli.engine.results.memo_scores import MEMO

SCORES, INFLUENCE = "memo_scores.csv", "influence.csv"
NETWORKS, SUMMARY, LABEL_NOISE = "memo_networks.npz", "memo_summary.json", "memo_label_noise.csv"
OWNED = (SCORES, INFLUENCE, NETWORKS, SUMMARY, LABEL_NOISE)


def joined(found: Iterable[Influences]) -> Influences:
    parts = list(found)
    return Influences(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("of", "on", "value", "error"))
    )


def write(folder: Path, data: Data, answers: Answers, memo: Estimate, pairs: Influences) -> None:
    """All but the summary. Where there is no score the cell is empty."""
    ids, labels = data.fit.ids.cpu().numpy(), data.fit.labels.cpu().numpy()
    others = data.held_out.ids.cpu().numpy()
    files.write_arrays(
        folder / NETWORKS,
        {
            "members": answers.members,
            "sample_ids": ids,
            "labels": labels,
            "held_out_ids": others,
            "held_out_labels": data.held_out.labels.cpu().numpy(),
            "trained": answers.trained,
            "right": answers.right,
            "right_held_out": answers.right_held_out,
        },
    )
    n_in = answers.trained.sum(0)
    _write(
        folder / SCORES,
        {
            ID: ids,
            MEMO: memo.value,
            "standard_error": memo.error,
            "label": labels,
            "n_in": n_in,
            "right_in": memo.right_in,
            "n_out": len(answers.trained) - n_in,
            "right_out": memo.right_out,
        },
    )
    _write(
        folder / INFLUENCE,
        {
            "training_id": ids[pairs.of],
            "test_id": others[pairs.on],
            "influence": pairs.value,
            "standard_error": pairs.error,
        },
    )


def _write(path: Path, columns: dict[str, np.ndarray]) -> None:
    """CSV of whole numbers and of floats that read back as they are."""

    def rows(of: slice) -> np.ndarray:
        return np.stack([column[of].astype(object) for column in columns.values()], axis=1)

    formats = ["%r" if column.dtype.kind == "f" else "%d" for column in columns.values()]
    files.write_rows(path, list(columns), formats, len(next(iter(columns.values()))), rows)
