"""Aggregating the arrays of a run against reading its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.pairs import Pair
from modeconn_cli.engine.csl import arrays, metrics

EPOCHS, COUNT = 100, 200_000


def prepare(folder: Path) -> Pair:
    """Losses and norms of 100 epochs, 80 MB each, in the disk cache for both sides."""
    generator = np.random.default_rng(0)
    paths = {kind: [folder / f"{kind}_{e}.npy" for e in range(EPOCHS)] for kind in ("loss", "grad")}
    for path in (*paths["loss"], *paths["grad"]):
        np.save(path, generator.random(COUNT, dtype=np.float32))

    def ours() -> None:
        metrics.cumulative_loss((arrays.read(path, COUNT) for path in paths["loss"]), COUNT)
        norms = paths["grad"]
        metrics.learning_time(lambda: (arrays.read(path, COUNT) for path in norms), range(EPOCHS), COUNT)

    def reference() -> None:
        for path in (*paths["loss"], *paths["grad"], *paths["grad"]):
            path.read_bytes()

    return Pair(ours, reference, (f"{EPOCHS} epochs x {COUNT:,} samples, norms read twice",))
