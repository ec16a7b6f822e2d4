"""Figures of cumulative sample loss: histograms, learning curves, and the hardest and easiest samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modeconn_cli.engine.results.figures import (
    BLUE,
    COLOURS,
    WIDE,
    WIDTH,
    lines_of,
    page,
    plain_logarithm,
    whole_numbers,
)
from modeconn_cli.engine.settings.shared import FigureSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 50
NAMES = ("histograms", "curves", "samples")  # which are last, and left out where nobody names them
TITLES = {
    "csl": "cumulative sample loss (nats)",
    "csl_ce": "the same without weight decay (nats)",
    "csl_per_epoch": "mean loss per epoch seen (nats)",
    "lt": "learning time (share of epochs)",
    "lt_first_epoch": "first epoch below tau",
    "lt_stays": "first epoch from which on below tau",
    "lt_first_epoch_sq": "first epoch below tau, squared norms",
}


def histograms(values: Mapping[str, np.ndarray], title: str, look: FigureSettings) -> bytes:
    """One panel per metric, counts on a logarithmic scale; a metric that has one value only is said and not drawn."""
    known = {name: array[np.isfinite(array)] for name, array in values.items() if name in TITLES}
    alike = {name: found for name, found in known.items() if len(found) == 0 or found.min() == found.max()}
    chosen = [name for name in TITLES if name in known and name not in alike] or list(known)[:1]
    said = [
        f"{name} is {found[0]:g} throughout" if len(found) else f"{name} has no value"
        for name, found in alike.items()
        if name not in chosen
    ]
    columns = 1 if len(chosen) <= 3 else 2
    rows = -(-len(chosen) // columns)
    width = WIDTH if columns == 1 else WIDE
    with page(look, "; ".join([title, *said]), rows, columns, width=width, height=1.8) as drawn:
        for axis, name in zip(drawn.panels, chosen, strict=False):
            draw_histogram(axis, values[name], TITLES[name])
        for spare in drawn.panels[len(chosen) :]:
            spare.set_axis_off()
    return drawn.content


def draw_histogram(axis: Axes, values: npt.ArrayLike, label: str) -> None:
    """How many samples have which value, [N]; whole numbers in bins of their own where there are few of them.

    `values` are a column of samples: `api.read(…)["samples"]["csl"]`, `["per_sample"]["curvature"]` …
    """
    values = np.asarray(values, dtype=float)
    finite = values[np.isfinite(values)]
    if len(finite):
        bins: Any = BINS
        if (finite == np.rint(finite)).all() and np.ptp(finite) < BINS:
            bins = np.arange(finite.min() - 0.5, finite.max() + 1)
            whole_numbers(axis)
        axis.hist(finite, bins=bins, color=BLUE, edgecolor="white", linewidth=0.2)
        axis.set_yscale("log")
        axis.set_ylim(bottom=0.7)  # a bar of one sample is seen
        axis.yaxis.set_minor_formatter(lambda _value, _place: "")
    axis.set_xlabel(label)
    axis.set_ylabel("samples")
    if len(finite) < len(values):
        axis.set_title(f"{len(values) - len(finite):,} without a value")


def curves(
    epochs: Sequence[int], losses: Mapping[str, np.ndarray], label: str, title: str, look: FigureSettings
) -> bytes:
    """Loss over epochs of the hardest and the easiest samples: name -> [E, samples]."""
    with page(look, title, height=2.4) as drawn:
        draw_curves(drawn.panels[0], epochs, losses)
        drawn.panels[0].set_ylabel(label)
    return drawn.content


def draw_curves(axis: Axes, epochs: npt.ArrayLike, losses: Mapping[str, npt.ArrayLike]) -> None:
    """A thin line per sample: name -> [E, samples]; loss on a logarithmic scale.

    Of `samples` of `api.read` on an output_dir of `mcx csl score` the columns `loss_epoch_<e>` of some rows, turned
    round (`.T`), are the values of a name.
    """
    epochs = np.asarray(epochs)
    drawn = {name: np.asarray(values, dtype=float) for name, values in losses.items()}
    for number, (name, values) in enumerate(drawn.items()):
        for k in range(values.shape[1]):
            axis.plot(
                epochs, values[:, k], color=COLOURS[number], alpha=0.7, linewidth=0.8,
                label=name if k == 0 else None, markersize=2, **lines_of(number),
            )  # fmt: skip
    if any((values > 0).any() for values in drawn.values()):
        axis.set_yscale("log")
        plain_logarithm(axis)
    whole_numbers(axis)
