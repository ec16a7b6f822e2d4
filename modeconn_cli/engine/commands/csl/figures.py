"""Figures of cumulative sample loss: histograms, learning curves, and the hardest and easiest samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from modeconn_cli.engine import datasets
from modeconn_cli.engine.errors import McxError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results.figures import (
    BLACK,
    BLUE,
    COLOURS,
    VERMILION,
    WIDE,
    WIDTH,
    lines_of,
    page,
    plain_logarithm,
    whole_numbers,
)
from modeconn_cli.engine.settings.shared import FigureSettings, MeasuredDataSettings, SplitName

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 50
ACROSS = 5  # pictures beside each other
LONGEST = 22  # letters of a name above a picture
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


@dataclass(frozen=True)
class Picture:
    """pixels [H, W] or [H, W, 3] in 0 … 1, what the label says, the file and the names of the classes where known."""

    pixels: np.ndarray
    label: int
    file: str = ""
    names: tuple[str, ...] = ()

    def called(self, label: int) -> str:
        return shortened(self.names[label]) if self.names else f"{label}"


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


def gallery(
    ids: np.ndarray,
    chosen: Mapping[str, np.ndarray],
    csl: np.ndarray,
    images: Mapping[int, Picture],
    noise: Mapping[int, tuple[int, int]],
    title: str,
    look: FigureSettings,
) -> bytes:
    """The hardest samples above the easiest; without images only their ids and values.

    `noise`: id -> clean and trained label.
    """
    longest = max((len(places) for places in chosen.values()), default=1)
    drawn_ids = {int(ids[place]) for places in chosen.values() for place in places} & images.keys()
    if any(noise[each][0] != noise[each][1] for each in drawn_ids & noise.keys()):
        title += "; orange: the label was flipped"
    columns = min(max(longest, 1), ACROSS)
    rows = max(1, -(-longest // columns))
    with page(look, title, len(chosen) * rows, columns, height=0.95) as drawn:
        for number, (name, places) in enumerate(chosen.items()):
            own = drawn.panels[number * rows * columns : (number + 1) * rows * columns]
            own[0].set_ylabel(name, fontweight="bold")
            for k, axis in enumerate(own):
                axis.set_xticks([])
                axis.set_yticks([])
                axis.grid(visible=False)
                if k >= len(places):
                    axis.set_axis_off()
                    continue
                sample = int(ids[places[k]])
                words = [f"id {sample}", f"CSL {csl[places[k]]:.3g}"]
                draw_sample(axis, images.get(sample), words, noise.get(sample))
    return drawn.content


def draw_sample(
    axis: Axes, picture: Picture | None, words: Sequence[str], labels: tuple[int, int] | None = None
) -> None:
    """One sample under its `words` and its label; `labels` are the clean one and the one that was trained on."""
    lines, flipped = list(words), False
    if picture is not None:
        axis.imshow(picture.pixels, cmap="gray", vmin=0, vmax=1)
        clean, trained = labels or (picture.label, picture.label)
        flipped = clean != trained
        if picture.file:
            lines.insert(1, shortened(picture.file.rpartition("/")[2]))
        lines.append(f"label {picture.called(trained)}")
        if flipped and picture.names:
            lines.append(f"was {picture.called(clean)}")
        elif flipped:
            lines[-1] += f", was {clean}"
    axis.set_title("\n".join(lines), fontsize=5.5, color=VERMILION if flipped else BLACK, pad=2)


def shortened(name: str) -> str:
    """A name as it fits above a picture: its end tells files apart."""
    return name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"


def images_of(
    settings: MeasuredDataSettings, scored: str | None, split: SplitName, ids: np.ndarray, runtime: Runtime
) -> dict[int, Picture]:
    """The pictures of some samples of a split where the data set can be loaded; a note where it cannot, and a warning
    where they are not the samples that were `scored` (a fingerprint).
    """
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
    if scored is not None and data.fit.fingerprint != scored:
        runtime.warn(f"no pictures of the samples: '{data.name}' does not hold the samples that were scored")
        return {}
    samples = data.split("test" if split == "test" else "all-train")
    rows = torch.isin(samples.ids, torch.from_numpy(ids.astype(np.int64))).nonzero()[:, 0]
    out: dict[int, Picture] = {}
    wanted = samples.take(rows)
    of_files = dict(zip(wanted.ids.tolist(), data.files_of(wanted), strict=False))
    for batch in wanted.batches(64) if len(rows) else ():
        low, high = batch.images.amin((1, 2, 3), keepdim=True), batch.images.amax((1, 2, 3), keepdim=True)
        pixels = ((batch.images - low) / (high - low).clamp_min(1e-12)).permute(0, 2, 3, 1).numpy()
        for image, label, number in zip(pixels, batch.labels.tolist(), batch.ids.tolist(), strict=True):
            image = image[..., 0] if image.shape[-1] not in (3, 4) else image[..., :3]
            out[number] = Picture(image, label, of_files.get(number, ""), data.class_names)
    return out
