"""How dormancy evolves over epochs: the samples' proportions, and every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from modeconn_cli.engine.results.figures import (
    BLUE,
    VERMILION,
    WIDE,
    WIDTH,
    Quantiles,
    column,
    draw_bands,
    draw_cells,
    page,
    shortened,
    whole_numbers,
)
from modeconn_cli.engine.settings.shared import FigureSettings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

TITLES = {"pre": "outputs of layers (documented)", "post": "after nonlinearities"}
NAMED = 60  # layers whose names fit beside a panel
WRITTEN = 8  # epochs up to which cells hold their number


def evolution(
    epochs: Sequence[int],
    statistics: Mapping[str, Sequence[Mapping[str, float | None]]],
    layers: Mapping[str, Mapping[str, Sequence[float]]],
    title: str,
    look: FigureSettings,
) -> bytes:
    """Per kind of site: mean and quantiles over samples above, the mean share of every layer below.

    `layers`: kind -> the layer's name -> its share at every epoch, in execution order.
    """
    longest = max(len(layers[kind]) for kind in statistics)
    heights = [2.0, min(9.0, max(1.6, 0.14 * longest + 0.8))]
    columns = len(statistics)
    with page(
        look, title, 2, columns, width=WIDE if columns > 1 else WIDTH, gridspec_kw={"height_ratios": heights}
    ) as drawn:
        for k, (kind, rows) in enumerate(statistics.items()):
            above, below = drawn.panels[k], drawn.panels[columns + k]
            draw_shares(above, epochs, rows, (VERMILION, BLUE)[k])
            above.set_title(TITLES[kind])
            image = draw_layers(below, epochs, layers[kind])
            drawn.figure.colorbar(image, ax=below, label="mean dormant share")
    return drawn.content


def draw_shares(axis: Axes, epochs: npt.ArrayLike, rows: Quantiles, colour: str = VERMILION) -> None:
    """Mean and quantiles over samples of the dormant share of their units, by epoch.

    `rows` have mean, q5, q25, q50, q75 and q95 of each epoch: a metric's rows of `evolution` of `api.read` on an
    output_dir of `mcx correlate`, whose `epoch` are the `epochs`.
    """
    epochs = np.asarray(epochs)
    draw_bands(axis, epochs, rows, colour)
    axis.plot(epochs, column(rows, "mean"), color=colour, marker="o", label="mean")
    whole_numbers(axis)
    axis.set_ylabel("dormant share of units")
    axis.set_ylim(0, 1)


def draw_layers(
    axis: Axes, epochs: npt.ArrayLike, shares: Mapping[str, npt.ArrayLike] | pd.DataFrame
) -> AxesImage:
    """The mean dormant share of every layer by epoch, as a grid; returns its image, for a colour bar.

    `shares` have a value per epoch of every layer, by its name: a mapping, or a table with a row per epoch and a column
    per layer, made of the columns `proportion` of `dormant_layers_epoch_<e>` of `api.read`.
    """
    epochs = np.asarray(epochs)
    shares = {str(name): np.asarray(values, dtype=float) for name, values in shares.items()}
    written = len(epochs) <= WRITTEN and len(shares) <= NAMED
    image = draw_cells(
        axis, np.array(list(shares.values())), low=0, high=1, written=written, form=".2f", size=5
    )
    if len(shares) <= NAMED:
        axis.set_yticks(range(len(shares)), map(shortened, shares), fontsize=5.5, parse_math=False)
    else:
        axis.set_ylabel("layer, in execution order")
    shown = range(0, len(epochs), max(1, -(-len(epochs) // 8)))
    axis.set_xticks(list(shown), [str(epochs[k]) for k in shown])
    axis.set_xlabel("epoch")
    return image
