"""Aggregating the arrays of a run against the document's code, which holds all of them in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.pairs import Pair
from modeconn_cli.engine.results import arrays
from modeconn_cli.engine.samples import losses as metrics

EPOCHS, COUNT = 100, 200_000


def prepare(folder: Path) -> Pair:
    """Losses and norms of 100 epochs, 80 MB each, in the disk cache for both sides."""
    generator = np.random.default_rng(0)
    paths = {kind: [folder / f"{kind}_{e}.npy" for e in range(EPOCHS)] for kind in ("loss", "grad")}
    for path in (*paths["loss"], *paths["grad"]):
        np.save(path, generator.random(COUNT, dtype=np.float32))

    def ours() -> None:
        metrics.cumulative_loss(arrays.stream(paths["loss"], COUNT), COUNT)
        metrics.learning_time(lambda: arrays.stream(paths["grad"], COUNT), range(EPOCHS), COUNT)

    def reference() -> None:
        losses, grads = (np.stack([np.load(path) for path in paths[kind]]) for kind in ("loss", "grad"))
        losses.sum(axis=0)
        condition = np.cumsum(grads, axis=0) / np.arange(1, EPOCHS + 1)[:, None]
        tau = float(condition.mean())
        _ = 1.0 - (condition < tau).mean(axis=0)

    return Pair(
        ours, reference, (f"{EPOCHS} epochs x {COUNT:,} samples, norms read twice, no matrix of them",)
    )
