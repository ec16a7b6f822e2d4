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
    lines_of,
    page,
    shades,
    shortened,
    whole_numbers,
)
from modeconn_cli.engine.settings.shared import FigureSettings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

    from modeconn_cli.engine.networks.activations.layers import LayerDormancy

TITLES = {"pre": "outputs of layers (documented)", "post": "after nonlinearities"}
NAMED = 60  # layers whose names fit beside a panel
FEW = 8  # layers whose lines are all named
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


RANKS = {
    "entropy_rank": "entropy rank",
    "srank": "srank(0.01)",
    "stable_rank": "stable rank",
    "approximate_rank": "approximate rank, 99 %",
    "feature_norm": "mean feature norm",
    "weight_norm": "weight norm",
    "distance_from_init": "distance from initialisation",
    "dead": "dead units",
}


def ranks(
    epochs: Sequence[int],
    layers: Sequence[Sequence[LayerDormancy]],
    ends: Sequence[int],
    title: str,
    look: FigureSettings,
) -> bytes:
    """Ranks, norms and dead units of every layer over epochs, a panel each; `layers` are those of every epoch, `ends`
    the epochs after which a task was over and the next one began.
    """
    with page(look, title, len(RANKS) // 2, 2, width=WIDE) as drawn:
        for axis, (name, said) in zip(drawn.panels, RANKS.items(), strict=True):
            values = {
                row.layer: [getattr(of_epoch[k], name) for of_epoch in layers]
                for k, row in enumerate(layers[0])
            }
            draw_by_layer(axis, epochs, values, named=name in ("dead", "distance_from_init"))
            for end in ends:
                axis.axvline(end, color="0.6", linewidth=0.6, linestyle=":")
            axis.set_ylabel(said)
    return drawn.content


def draw_by_layer(
    axis: Axes,
    epochs: npt.ArrayLike,
    values: Mapping[str, Sequence[float | None]] | pd.DataFrame,
    *,
    named: bool = True,
) -> None:
    """A number of every layer over epochs, a line each, from the first layer (dark) to the last (light).

    `values` have a value per epoch of every layer, by its name: a mapping, or a table with a row per epoch and a column
    per layer, made of a column such as `srank` of `dormant_layers_epoch_<e>` of `api.read`. What is not known, None or
    NaN, is left out. Of many layers the first and the last are `named`.
    """
    epochs = np.asarray(epochs)
    found = {str(name): np.asarray(of_layer, dtype=float) for name, of_layer in values.items()}
    ends = (0, len(found) - 1)
    for k, ((name, of_layer), shade) in enumerate(zip(found.items(), shades(len(found)), strict=True)):
        label = shortened(name) if named and (len(found) <= FEW or k in ends) else None
        axis.plot(
            epochs,
            of_layer,
            color=shade,
            label=label,
            linewidth=1,
            **(lines_of(k) if len(found) <= FEW else {}),
        )
    whole_numbers(axis)
    axis.set_ylim(bottom=0)


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
