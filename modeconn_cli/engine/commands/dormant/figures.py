"""How dormancy evolves over epochs: the samples' proportions, and every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from modeconn_cli.engine.networks.activations.layers import LayerDormancy
from modeconn_cli.engine.results.figures import COLOURS, bands, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {"pre": "outputs of layers (documented)", "post": "after nonlinearities"}
NAMED = 40  # layers whose names fit beside a panel


def evolution(
    epochs: Sequence[int],
    statistics: Mapping[str, Sequence[Mapping[str, float | None]]],
    tables: Sequence[Sequence[LayerDormancy]],
) -> bytes:
    """Per kind of site: mean and quantiles over samples above, the mean proportion of every layer below."""
    from matplotlib.figure import Figure

    longest = max(sum(row.site == kind for row in tables[0]) for kind in statistics)
    height = 3.2 + min(8.0, max(2.5, 0.17 * longest))
    figure = Figure(figsize=(6.5 * len(statistics), height), layout="constrained")
    panels = figure.subplots(
        2, len(statistics), squeeze=False, gridspec_kw={"height_ratios": [3.2, height - 3.2]}
    )
    for column, (kind, rows) in enumerate(statistics.items()):
        _quantiles(panels[0, column], epochs, rows, TITLES[kind], COLOURS[column])
        _layers(figure, panels[1, column], epochs, [[r for r in table if r.site == kind] for table in tables])
    return png(figure)


def _quantiles(
    axis: Axes, epochs: Sequence[int], rows: Sequence[Mapping[str, float | None]], title: str, colour: str
) -> None:
    bands(axis, epochs, rows, colour)
    means = np.array([row["mean"] for row in rows], dtype=float)  # None: NaN
    axis.plot(epochs, means, color=colour, marker=".", label="mean")
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("epoch")
    axis.set_ylabel("dormant share of units")
    axis.set_ylim(0, 1)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)


def _layers(
    figure: Figure, axis: Axes, epochs: Sequence[int], tables: Sequence[Sequence[LayerDormancy]]
) -> None:
    grid = np.array([[row.proportion for row in table] for table in tables]).T
    image = axis.imshow(grid, aspect="auto", vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
    names = [row.layer if len(row.layer) <= 40 else "…" + row.layer[-39:] for row in tables[0]]
    if len(names) <= NAMED:
        axis.set_yticks(range(len(names)), names, fontsize=6, parse_math=False)
    else:
        axis.set_ylabel("layer, in execution order")
    shown = range(0, len(epochs), max(1, -(-len(epochs) // 10)))
    axis.set_xticks(list(shown), [str(epochs[k]) for k in shown])
    axis.set_xlabel("epoch")
    figure.colorbar(image, ax=axis, label="mean dormant share")
