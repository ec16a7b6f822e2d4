"""Figures of cumulative sample loss: histograms, learning curves, and the hardest and easiest samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from modeconn_cli.engine import datasets
from modeconn_cli.engine.errors import McxError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results.figures import COLOURS, png
from modeconn_cli.engine.settings.shared import DataSettings, SplitName

NAMES = ("histograms", "curves", "samples")
TITLES = {
    "csl": "cumulative sample loss (nats)",
    "csl_ce": "the same without weight decay (nats)",
    "csl_per_epoch": "mean loss per epoch seen (nats)",
    "lt": "learning time (share of epochs)",
    "lt_first_epoch": "first epoch below tau",
    "lt_stays": "first epoch from which on below tau",
    "lt_first_epoch_sq": "first epoch below tau, squared norms",
}


@dataclass(frozen=True)
class Picture:
    """pixels [H, W] or [H, W, 3] in 0 … 1, and what the label says."""

    pixels: np.ndarray
    label: int


def histograms(values: Mapping[str, np.ndarray]) -> bytes:
    """One panel per metric; counts on a logarithmic scale."""
    from matplotlib.figure import Figure

    chosen = {name: values[name] for name in TITLES if name in values}
    figure = Figure(figsize=(4.2 * len(chosen), 3.6), layout="constrained")
    for axis, (name, array) in zip(
        np.atleast_1d(figure.subplots(1, len(chosen))), chosen.items(), strict=True
    ):
        finite = array[np.isfinite(array)]
        if len(finite):
            axis.hist(finite, bins=60, color=COLOURS[1])
            axis.set_yscale("log")
        axis.set_xlabel(TITLES[name])
        axis.set_ylabel("samples")
        if len(finite) < len(array):
            axis.set_title(f"{len(array) - len(finite):,} without a value", fontsize=9)
    return png(figure)


def curves(epochs: Sequence[int], losses: Mapping[str, np.ndarray]) -> bytes:
    """Loss over epochs of the hardest and the easiest samples: name -> [E, samples]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axis = figure.subplots()
    for (name, values), colour in zip(losses.items(), COLOURS, strict=False):
        for k in range(values.shape[1]):
            axis.plot(
                epochs, values[:, k], color=colour, alpha=0.6, linewidth=1, label=name if k == 0 else None
            )
    if any((values > 0).any() for values in losses.values()):
        axis.set_yscale("log")
    axis.set_xlabel("epoch")
    axis.set_ylabel("loss (nats)")
    axis.grid(alpha=0.25)
    if len(axis.lines):
        axis.legend()
    return png(figure)


def gallery(
    ids: np.ndarray,
    chosen: Mapping[str, np.ndarray],
    csl: np.ndarray,
    images: Mapping[int, Picture],
    noise: Mapping[int, tuple[int, int]],
) -> bytes:
    """The hardest samples above the easiest; without images only their ids and values.

    `noise`: id -> clean and trained label.
    """
    from matplotlib.figure import Figure

    columns = max(max((len(places) for places in chosen.values()), default=1), 1)
    figure = Figure(figsize=(1.25 * columns + 0.8, 2 * 1.9), layout="constrained")
    panels = figure.subplots(len(chosen), columns, squeeze=False)
    for (name, places), row in zip(chosen.items(), panels, strict=True):
        row[0].set_ylabel(name)
        for k, axis in enumerate(row):
            axis.set_xticks([])
            axis.set_yticks([])
            if k >= len(places):
                axis.axis("off")
                continue
            number = int(ids[places[k]])
            picture = images.get(number)
            title = f"id {number}\nCSL {csl[places[k]]:.3g}"
            if picture is not None:
                axis.imshow(picture.pixels, cmap="gray", vmin=0, vmax=1)
                clean, trained = noise.get(number, (picture.label, picture.label))
                title += f"\nlabel {trained}" + (f", was {clean}" if clean != trained else "")
            axis.set_title(title, fontsize=7)
    return png(figure)


def images_of(
    settings: DataSettings, split: SplitName, ids: np.ndarray, runtime: Runtime
) -> dict[int, Picture]:
    """The pictures of some samples of a split where the data set can be loaded; a note where it cannot."""
    if settings.dataset is None:
        runtime.note(
            "no pictures of the samples: they are made by code, which --dataset pkg.mod:factory runs"
        )
        return {}
    try:
        data = datasets.load(settings, torch.device("cpu"), held_out=False)
    except McxError as error:
        runtime.note(f"no pictures of the samples: {error.message} (--dataset with the path of the data set)")
        return {}
    samples = data.split("test" if split == "test" else "all-train")
    rows = torch.isin(samples.ids, torch.from_numpy(ids.astype(np.int64))).nonzero()[:, 0]
    out: dict[int, Picture] = {}
    for batch in samples.take(rows).batches(64) if len(rows) else ():
        low, high = batch.images.amin((1, 2, 3), keepdim=True), batch.images.amax((1, 2, 3), keepdim=True)
        pixels = ((batch.images - low) / (high - low).clamp_min(1e-12)).permute(0, 2, 3, 1).numpy()
        for image, label, number in zip(pixels, batch.labels.tolist(), batch.ids.tolist(), strict=True):
            out[number] = Picture(image[..., 0] if image.shape[-1] not in (3, 4) else image[..., :3], label)
    return out
