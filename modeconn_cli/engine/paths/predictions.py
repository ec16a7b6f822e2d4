"""Which samples change class along a path, and where. Shapes: T positions, N held-out samples, C classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from modeconn_cli.engine.results import figures
from modeconn_cli.engine.results.figures import COLOURS, draw_cells, lines_of, page, shortened
from modeconn_cli.engine.settings.shared import FigureSettings

HEADER = ("sample_id", "label", "t_before", "t_after", "class_before", "class_after")
MOST_ROWS = 40  # classes in a figure, whose accuracies are rows


@dataclass(frozen=True)
class OfClass:
    """The samples of a class (None: of all): how many there are, how many are given another class at some position than
    at t = 0, how often a class changes from one position to the next, and how many are right at both ends, at
    neither, at t = 0 alone (`lost`) and at t = 1 alone (`gained`).
    """

    label: int | None
    samples: int
    changing: int
    changes: int
    right: int
    wrong: int
    lost: int
    gained: int


@dataclass(frozen=True)
class Predictions:
    """The class that each sample is given along a path: `classes` unsigned [T, N] with `confidence` float32 [T, N], at
    `ts` [T], of samples with `ids` and `labels`, int64 [N].
    """

    ts: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    classes: np.ndarray
    confidence: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Whether each answer is the label, [T, N]."""
        found: np.ndarray = self.classes == self.labels
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """The content of `predictions.npz`; `predictions` and `targets` are the names that the scripts of the
        neuron-swap experiments read.
        """
        return {**vars(self), "predictions": self.classes, "targets": self.labels}

    def changes(self) -> Iterator[tuple[int, int, float, float, int, int]]:
        """Every change of class from one position to the next, by sample: the rows under `HEADER`."""
        samples, steps = np.nonzero((self.classes[1:] != self.classes[:-1]).T)
        for n, k in zip(samples.tolist(), steps.tolist(), strict=True):
            yield (
                int(self.ids[n]),
                int(self.labels[n]),
                float(self.ts[k]),
                float(self.ts[k + 1]),
                int(self.classes[k, n]),
                int(self.classes[k + 1, n]),
            )

    def by_class(self) -> list[OfClass]:
        """All samples, then those of each class that has some."""
        everyone = np.ones(len(self.labels), dtype=bool)
        labels = np.unique(self.labels).tolist()
        return [self._of(None, everyone), *(self._of(label, self.labels == label) for label in labels)]

    def _of(self, label: int | None, chosen: np.ndarray) -> OfClass:
        classes, right = self.classes[:, chosen], self.right[:, chosen]
        first, last = right[0], right[-1]
        return OfClass(
            label,
            int(chosen.sum()),
            int((classes != classes[0]).any(0).sum()),
            int((classes[1:] != classes[:-1]).sum()),
            int((first & last).sum()),
            int((~first & ~last).sum()),
            int((first & ~last).sum()),
            int((~first & last).sum()),
        )

    def figure(self, title: str, look: FigureSettings, class_names: Sequence[str] = ()) -> bytes:
        """The share of samples that are given another class than at either end, and the accuracy of each class."""
        labels = np.unique(self.labels)
        shown = labels if len(labels) <= MOST_ROWS else labels[:MOST_ROWS]
        rows = max(2.0, 0.16 * len(shown))
        with page(
            look, title, rows=2, height=figures.PANEL, gridspec_kw={"height_ratios": [figures.PANEL, rows]}
        ) as drawn:
            top, below = drawn.panels
            for number, (end, at) in enumerate(((0, 0), (1, -1))):
                share = 100 * (self.classes != self.classes[at]).mean(1)
                style = {**lines_of(number), "marker": None}
                top.plot(
                    self.ts, share, color=COLOURS[number], label=f"other class than at t = {end}", **style
                )
            wrong = 100 * (~self.right).mean(1)
            top.plot(self.ts, wrong, color="0.4", linewidth=0.8, label="wrong class")
            top.set(xlim=(0, 1), ylim=(0, None), xlabel="t", ylabel="samples (%)")
            values = np.array([100 * self.right[:, self.labels == label].mean(1) for label in shown])
            image = draw_cells(below, values, low=0, high=100, written=False)
            drawn.figure.colorbar(image, ax=below, label="accuracy (%)")
            said = [class_names[k] if k < len(class_names) else str(k) for k in shown.tolist()]
            below.set_yticks(range(len(shown)), [shortened(name) for name in said])
            marks = np.linspace(0, len(self.ts) - 1, min(5, len(self.ts))).round().astype(int)
            below.set_xticks(marks, [f"{self.ts[k]:.2g}" for k in marks])
            below.set(
                xlabel="t", ylabel="class" if len(shown) == len(labels) else f"first {MOST_ROWS} classes"
            )
        return drawn.content
