"""Pictures of single samples with their ids: which data they come from, and a page of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from modeconn_cli.engine import datasets
from modeconn_cli.engine.datasets import Samples
from modeconn_cli.engine.datasets.remembered import KINDS
from modeconn_cli.engine.errors import McxError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.registry import is_import_path
from modeconn_cli.engine.results.figures import BLACK, VERMILION, page
from modeconn_cli.engine.settings.base import plain
from modeconn_cli.engine.settings.shared import FigureSettings, MeasuredDataSettings, SplitName

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

ACROSS = 5  # pictures beside each other
LONGEST = 22  # letters of a name above a picture


@dataclass(frozen=True)
class Pictured:
    """The data whose images are drawn; `scored` is the fingerprint of the samples that were scored, where known."""

    settings: MeasuredDataSettings
    scored: str | None

    @classmethod
    def of(cls, said: Mapping[str, Any], scored: object, dataset: str | None, place: Path | None) -> Pictured:
        """The data that a document has `said`, with another name or place where one is given.

        A document does not make code run: of a data factory there is no name.
        """
        name = dataset if dataset is not None else said.get("dataset")
        known = None if dataset is None and is_import_path(str(name)) else name
        there = said.get("data_path")
        found = MeasuredDataSettings(
            dataset=known, data_path=place or (Path(there).expanduser() if isinstance(there, str) else None)
        )
        kept = [key for key, kind in KINDS.items() if key != "dataset" and isinstance(said.get(key), kind)]
        brought = {key: tuple(said[key]) if KINDS[key] is list else said[key] for key in kept}
        labels = {"labels": said.get("labels", found.labels)}
        return cls(found.with_brought(brought | labels), scored if isinstance(scored, str) else None)

    def document(self) -> dict[str, Any]:
        """What `of` takes: the settings that say which images these are, as JSON holds them."""
        wanted = ("data_path", "labels", *KINDS)
        said = {name: plain(getattr(self.settings, name)) for name in wanted}
        return {
            "said": {name: value for name, value in said.items() if value is not None},
            "scored": self.scored,
        }


@dataclass(frozen=True)
class Picture:
    """pixels [H, W] or [H, W, 3] in 0 … 1, the label in the data, the file and the names of the classes where known;
    `trained` is the label that was scored, where it is known.
    """

    pixels: np.ndarray
    label: int
    file: str = ""
    names: tuple[str, ...] = ()
    trained: int | None = None

    @property
    def labels(self) -> tuple[int, int]:
        """That in the data and that which was scored."""
        return self.label, self.label if self.trained is None else self.trained

    def called(self, label: int) -> str:
        return shortened(self.names[label]) if 0 <= label < len(self.names) else f"{label}"


def gallery(
    ids: np.ndarray,
    chosen: Mapping[str, np.ndarray],
    score: tuple[str, np.ndarray],
    images: Mapping[int, Picture],
    noise: Mapping[int, tuple[int, int]],
    title: str,
    look: FigureSettings,
) -> bytes:
    """Samples of a kind under each other, such as the hardest and the easiest; without images only ids and values.

    `ids` [N] are of all samples, `chosen` the places of those of each kind, `score` what the values [N] are called and
    the values; `noise`: id -> clean and trained label.
    """
    called, values = score
    longest = max((len(places) for places in chosen.values()), default=1)
    drawn_ids = {int(ids[place]) for places in chosen.values() for place in places} & images.keys()
    labels = {each: noise.get(each, images[each].labels) for each in drawn_ids}
    if any(clean != trained for clean, trained in labels.values()):
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
                words = [f"id {sample}", f"{called} {values[places[k]]:.3g}".strip()]
                draw_sample(axis, images.get(sample), words, labels.get(sample))
    return drawn.content


def draw_sample(
    axis: Axes, picture: Picture | None, words: Sequence[str], labels: tuple[int, int] | None = None
) -> None:
    """One sample under its `words` and its label; `labels` are the clean one and the one that was trained on."""
    lines, flipped = list(words), False
    if picture is not None:
        axis.imshow(picture.pixels, cmap="gray", vmin=0, vmax=1)
        clean, trained = labels or picture.labels
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
    pictured: Pictured, split: SplitName, ids: np.ndarray, runtime: Runtime, trained: pd.Series | None = None
) -> dict[int, Picture]:
    """The pictures of some samples of a split where the data set can be loaded; a note where it cannot, and a warning
    where they are not the samples that were `scored` (a fingerprint), or do not look it: where ids are none of theirs,
    or most labels are others than those that were scored, `trained` by sample id.
    """
    settings, scored = pictured.settings, pictured.scored
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
    if trained is not None:
        _check_labels(samples, trained, data.name, runtime)
    said = {} if trained is None else trained.reindex(ids).dropna().astype(int).to_dict()
    if absent := sorted(set(ids.tolist()) - set(wanted.ids.tolist())):
        runtime.warn(
            f"no pictures of {len(absent)} of {len(ids)} samples: '{data.name}' has none of these ids, such as "
            f"{absent[0]}"
        )
    of_files = dict(zip(wanted.ids.tolist(), data.files_of(wanted), strict=False))
    for batch in wanted.batches(64) if len(rows) else ():
        low, high = batch.images.amin((1, 2, 3), keepdim=True), batch.images.amax((1, 2, 3), keepdim=True)
        pixels = ((batch.images - low) / (high - low).clamp_min(1e-12)).permute(0, 2, 3, 1).numpy()
        for image, label, number in zip(pixels, batch.labels.tolist(), batch.ids.tolist(), strict=True):
            image = image[..., 0] if image.shape[-1] not in (3, 4) else image[..., :3]
            out[number] = Picture(image, label, of_files.get(number, ""), data.class_names, said.get(number))
    return out


def _check_labels(samples: Samples, trained: pd.Series, name: str, runtime: Runtime) -> None:
    """Warn where most labels that were scored are others than the data's: its ids are of other samples then."""
    ids, labels = (values.cpu().numpy() for values in (samples.ids, samples.labels))
    said = trained.reindex(ids).to_numpy(np.float64)
    known = ~np.isnan(said)
    others = int((said != labels)[known].sum())
    if 2 * others > known.sum():
        runtime.warn(
            f"{others:,} of {known.sum():,} labels are others than those of '{name}': if its ids are not these, the "
            "pictures are of other samples"
        )
