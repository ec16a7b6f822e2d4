"""Loss and accuracy along the straight line between two networks. α = 0 is the first, α = 1 the second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from modeconn_cli.engine import weights
from modeconn_cli.engine.barriers import all_barriers
from modeconn_cli.engine.datasets import Data
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.positions import Positioned, Source
from modeconn_cli.engine.settings.curve import PathSettings
from modeconn_cli.engine.training import evaluate

Row = dict[str, float]
LISTS = ("losses_train", "accuracy_lst_train", "losses_test", "accuracy_lst_test")


def alphas(count: int) -> list[float]:
    """Equally spaced positions that contain 0, ½ and 1. Raises SettingsError for an even count."""
    if count % 2 == 0:
        raise SettingsError(f"--num-alphas {count} is even and leaves out the middle", "use an odd number")
    return [k / (count - 1) for k in range(count)]


@dataclass(frozen=True)
class Line:
    """The figures of a line, each a list over α. Losses are means of cross-entropy in nats, accuracies shares."""

    alphas: list[float]
    losses_train: list[float]
    accuracy_lst_train: list[float]
    losses_test: list[float]
    accuracy_lst_test: list[float]
    distance: float
    bn: dict[str, Any]

    def barriers(self) -> dict[str, dict[str, float | None]]:
        """definition -> series -> barrier: losses in nats, errors in percentage points."""
        series = {
            "loss_train": np.array(self.losses_train),
            "error_train": 100 - 100 * np.array(self.accuracy_lst_train),
            "loss_test": np.array(self.losses_test),
            "error_test": 100 - 100 * np.array(self.accuracy_lst_test),
        }
        return all_barriers(np.array(self.alphas), series)


def measure(
    source: Source,
    data: Data,
    settings: PathSettings,
    positions: list[float],
    known: Mapping[float, Row] | None = None,
) -> Line:
    """Evaluate a line on the training images and on held-out images; positions in `known` are not evaluated again.

    Costs one pass over both splits per new position, and the passes that the batch norm policy needs.
    """
    positioned = Positioned(source, settings, data.fit)
    rows: dict[float, Row] = dict(known or {})
    for alpha in positions:
        if alpha in rows:
            continue
        positioned.move_to(alpha)
        row: Row = {}
        for name, samples in {"train": data.fit, "test": data.held_out}.items():
            score = evaluate(positioned.model, samples, settings.batch_size)
            row |= {f"losses_{name}": score.loss, f"accuracy_lst_{name}": score.correct / score.count}
        rows[alpha] = row
    first, last = source.path.points
    return Line(
        alphas=positions,
        losses_train=[rows[alpha]["losses_train"] for alpha in positions],
        accuracy_lst_train=[rows[alpha]["accuracy_lst_train"] for alpha in positions],
        losses_test=[rows[alpha]["losses_test"] for alpha in positions],
        accuracy_lst_test=[rows[alpha]["accuracy_lst_test"] for alpha in positions],
        distance=float(weights.gram([last], first)[0, 0].sqrt()),
        bn=positioned.describe(),
    )
