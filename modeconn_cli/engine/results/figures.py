"""The one look of all figures, and their bytes: without a display, and whatever matplotlib is told elsewhere.

A command draws with functions `draw_…(axis, data…)`, which take any axes of matplotlib, a user's own among them, and
puts them on a `page`, which gives them size, title, legends and fixed settings.

Figures are made for half a page of a paper: 3.4 inches wide at 8 points. Colours are those of Okabe and Ito (2008),
which colour-blind readers can tell apart; lines differ by dashes or markers too.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np
import numpy.typing as npt

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import one_line
from modeconn_cli.engine.results import records
from modeconn_cli.engine.settings.shared import FigureSettings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
COLOURS = (VERMILION, BLUE, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
MISSING = "#eeeef1"  # a cell without a value

WIDTH, WIDE = 3.4, 7.0  # inches: half a page, and a whole one
PANEL = 2.0  # inches: a panel's height
SMALL = 6.0  # points: numbers in cells
_TITLE, _LEGEND = 8.5, 7.0  # points
_GAP = 27.0  # points below a panel that its ticks and their label take
_LOOK = {
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "hatch.linewidth": 0.5,
    "legend.fontsize": _LEGEND,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "figure.constrained_layout.h_pad": 0.05,
    "svg.hashsalt": "mcx",  # else the names in an SVG are drawn by chance
    "pdf.fonttype": 42,  # whole letters, which journals ask for and editors can change
}


@contextlib.contextmanager
def plain_matplotlib() -> Iterator[None]:
    """matplotlib as it comes, in the look of all figures.

    Neither a matplotlibrc nor MPLBACKEND nor a character without a glyph changes or stops a figure.
    """
    # The name of a backend that is not there would stop the import.
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    plain = {k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith("backend")}
    settings: Any = plain | _LOOK
    # It logs which fonts it does not find, and that it looks for fonts: no news for who waits for a result.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph ")
        yield


@dataclass
class Page:
    """A figure while it is drawn: its `panels` in reading order. `content` are its bytes once the page is left."""

    figure: Figure
    panels: list[Axes]
    notes: dict[str, str] = field(default_factory=dict)  # kept in the file, by a name
    content: bytes = b""


@contextlib.contextmanager
def page(
    look: FigureSettings,
    title: str,
    rows: int = 1,
    columns: int = 1,
    *,
    width: float = WIDTH,
    height: float = PANEL,
    layout: str | None = "constrained",
    **how: Any,
) -> Iterator[Page]:
    """A page of panels, `height` inches or each of so many; every panel with named artists gets a legend below it.

    `how` goes to matplotlib's `subplots`. Without a layout the title lies at the top of the page.
    """
    with plain_matplotlib():
        from matplotlib.figure import Figure

        heights = how.get("gridspec_kw", {}).get("height_ratios", [height] * rows)
        said = one_line(title) if look.figure_title else ""
        lines = textwrap.wrap(said, int(width * 72 / (0.68 * _TITLE)))
        tall = sum(heights) + 0.16 * max(len(lines), 1) + 0.1
        figure = Figure(figsize=(width, tall), layout=layout)  # type: ignore[arg-type] # the names of layouts
        panels = figure.subplots(rows, columns, squeeze=False, **how)
        drawn = Page(figure, list(panels.flat))
        at = {} if layout else {"y": 1 - 0.05 / tall, "va": "top"}
        if lines:
            figure.suptitle("\n".join(lines), fontsize=_TITLE, fontweight="bold", parse_math=False, **at)
        yield drawn
        for axis in list(figure.axes):
            _legend_below(figure, axis)
        drawn.content = _content(figure, look, drawn.notes)


def _legend_below(figure: Figure, axis: Axes) -> None:
    """A legend that lies on no data: below the panel, in as many columns as fit. The page grows by it."""
    handles, labels = axis.get_legend_handles_labels()
    if not labels:
        return
    from matplotlib.transforms import ScaledTranslation

    width, height = figure.get_size_inches()
    room = 72 * width / len({round(a.get_position().x0, 3) for a in figure.axes if a.get_subplotspec()})
    wanted = 0.54 * _LEGEND * max(map(len, labels)) + 3.5 * _LEGEND
    columns = max(1, min(len(labels), int(room / wanted)))
    below = axis.transAxes + ScaledTranslation(0, -_GAP / 72, figure.dpi_scale_trans)
    legend = axis.legend(
        handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, ncols=columns,
        borderaxespad=0, columnspacing=1.2,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
    lines = -(-len(labels) // columns)
    figure.set_size_inches(width, height + lines * 1.5 * _LEGEND / 72)


def _content(figure: Figure, look: FigureSettings, notes: Mapping[str, str]) -> bytes:
    """A figure's bytes, without a date; equal figures give equal bytes."""
    text = " ".join(f"{name}:{value}" for name, value in notes.items()) or None
    metadata: dict[str, Any] = {
        "png": {"Software": None, **notes},
        "pdf": {"CreationDate": None, "Keywords": text},
        "svg": {"Date": None, "Description": text},
    }[look.figure_format]
    buffer = io.BytesIO()
    figure.savefig(buffer, format=look.figure_format, dpi=look.dpi, metadata=metadata)
    return buffer.getvalue()


def about(model: str | None, data: str | None, epochs: Sequence[int | None] = ()) -> str:
    """The words of a title: `cnn on digits, epochs 0–20`, as far as they are known."""
    said = " on ".join(word for word in (model, data) if word)
    known = sorted({epoch for epoch in epochs if epoch is not None})
    when = ""
    if len(known) == 1:
        when = f"epoch {known[0]}"
    elif known:
        when = f"epochs {known[0]}–{known[-1]}" if len(epochs) > 2 else f"epochs {known[0]} and {known[-1]}"
    return ", ".join(filter(None, (said, when)))


def inputs_beside(paths: Iterable[Path]) -> list[Path]:
    """What the jobs were made of that have made some files, in their order."""
    return [path for record in _records(paths) for path in _inputs(record)]


def said_beside(paths: Iterable[Path]) -> str:
    """Which network on which data the jobs say that have made some files: `cnn on digits`; empty where none does.

    What they leave out the jobs say that have made their inputs.
    """
    own = _records(paths)
    said = [
        records.settings_of(record) for record in (*own, *_records(p for r in own for p in _inputs(r)[:1]))
    ]
    named = [(each.get("model"), each.get("dataset")) for each in said]
    model, data = next(
        (each for each in named if all(each)), next((each for each in named if any(each)), ("", ""))
    )
    return about(str(model or ""), Path(str(data or "")).name)


def _records(paths: Iterable[Path]) -> list[Mapping[str, Any]]:
    """The records of the jobs of the folders that files lie in, or one above."""
    folders = dict.fromkeys(folder for path in paths for folder in (path.parent, path.parent.parent))
    found = [
        path for each in folders for path in sorted((each / names.JOB_FOLDER).glob(f"*/{names.RECORD_FILE}"))
    ]
    return [records.peek_object(path) for path in found]


def _inputs(record: Mapping[str, Any]) -> list[Path]:
    listed = record.get("inputs")
    found = (
        [each.get("path") for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    )
    return [Path(path).expanduser() for path in found if isinstance(path, str)]


def shortened(name: str, most: int = 24) -> str:
    """A name that fits beside a panel, on one line; of a long one the end, which tells layers and files apart."""
    text = one_line(name)
    return text if len(text) <= most else "…" + text[1 - most :]


def colours(count: int) -> list[str]:
    """Colours of things without an order."""
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def shades(count: int) -> list[Any]:
    """Colours from dark to light, for what has an order."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.85 * k / max(count - 1, 1)) for k in range(count)]


def lines_of(number: int) -> dict[str, Any]:
    """How the line of a series is told from others without its colour."""
    return {"marker": MARKERS[number % len(MARKERS)], "linestyle": DASHES[number % len(DASHES)]}


def whole_numbers(axis: Axes, label: str = "epoch") -> None:
    """Ticks along x at whole numbers only: epochs, tasks, classes."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axis.set_xlabel(label)


def plain_logarithm(axis: Axes) -> None:
    """Numbers along a logarithmic y-axis as they are read, `0.5` and `2`, where they span less than three decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_ylim()
    if high >= 1000 * low:
        return
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    few = high < 10 * low  # no more than one power of ten in sight
    axis.yaxis.set_major_formatter(plain)
    if high < 2 * low:
        axis.set_yscale("linear")  # on such a stretch both look alike, and ticks are round numbers
    elif few:
        axis.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
        axis.yaxis.set_minor_formatter(plain)
    else:
        axis.yaxis.set_minor_formatter(NullFormatter())


def draw_band(axis: Axes, places: Any, mean: Any, sd: Any, colour: str) -> None:
    """One standard deviation below and above a mean, [N] each; nothing where there is none."""
    centre, width = np.asarray(mean, dtype=float), np.asarray(sd, dtype=float)
    if np.isfinite(width).any():
        axis.fill_between(
            np.asarray(places), centre - width, centre + width, color=colour, alpha=0.2, linewidth=0
        )


# Quantiles and mean of several categories: a mapping each, or a table with a row each.
Quantiles = Union[Sequence[Mapping[str, float | None]], "pd.DataFrame"]


def column(rows: Quantiles, name: str) -> np.ndarray:
    """One of the numbers of all rows, [N]; None is NaN."""
    if isinstance(rows, Sequence):
        return np.array([row[name] for row in rows], dtype=float)
    return np.asarray(rows[name], dtype=float)


def draw_bands(axis: Axes, places: npt.ArrayLike, rows: Quantiles, colour: str) -> None:
    """The quantiles of `rows` over places: 5-95 and 25-75 % as bands, the median as a line."""
    places = np.asarray(places)
    values = {name: column(rows, name) for name in ("q5", "q25", "q50", "q75", "q95")}
    for low, high, alpha in (("q5", "q95", 0.15), ("q25", "q75", 0.3)):
        shown = f"{low[1:]}–{high[1:]} % of samples"
        axis.fill_between(
            places, values[low], values[high], color=colour, alpha=alpha, linewidth=0, label=shown
        )
    marker = "s" if len(places) < 3 else None
    axis.plot(places, values["q50"], color=colour, linestyle="--", linewidth=1, marker=marker, label="median")


def draw_boxes(axis: Axes, places: Sequence[float], rows: Sequence[Mapping[str, float | None]]) -> None:
    """The quantiles of each of several categories as a box from 25 to 75 %, with whiskers from 5 to 95 %."""
    stats = [
        {
            "med": r["q50"],
            "q1": r["q25"],
            "q3": r["q75"],
            "whislo": r["q5"],
            "whishi": r["q95"],
            "mean": r["mean"],
        }
        for r in rows
    ]
    known = [k for k, each in enumerate(stats) if None not in each.values()]
    if not known:
        return
    axis.bxp(
        [stats[k] for k in known], positions=[places[k] for k in known], widths=0.6, showfliers=False, showmeans=True,
        patch_artist=True, manage_ticks=False,
        boxprops={"facecolor": SKY, "alpha": 0.6, "linewidth": 0.7}, medianprops={"color": BLACK},
        whiskerprops={"linewidth": 0.7}, capprops={"linewidth": 0.7},
        meanprops={"marker": "D", "markersize": 2.5, "markerfacecolor": VERMILION, "markeredgewidth": 0},
    )  # fmt: skip


def draw_cells(
    axis: Axes,
    values: np.ndarray,
    *,
    low: float | None = None,
    high: float | None = None,
    written: bool = True,
    form: str = ".3g",
    size: float = SMALL,
) -> AxesImage:
    """A grid [rows, columns] as colours, with its numbers where they are `written`; returns the image.

    Cells that are not finite are pale and hatched.
    """  # fmt: skip
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    finite = values[np.isfinite(values)]
    low = low if low is not None else float(finite.min()) if len(finite) else 0.0
    high = high if high is not None else float(finite.max()) if len(finite) else 1.0
    norm = Normalize(low, high if high > low else low + 1.0)
    image = axis.imshow(
        np.ma.masked_invalid(values), cmap="viridis", norm=norm, aspect="auto", interpolation="nearest"
    )
    axis.grid(visible=False)
    for row, column in np.argwhere(~np.isfinite(values)):
        cell = Rectangle(
            (column - 0.5, row - 0.5), 1, 1, facecolor=MISSING, edgecolor="0.75", hatch="////", lw=0
        )
        axis.add_patch(cell)
    for row, column in np.argwhere(np.isfinite(values)) if written else ():
        value = float(values[row, column])
        ink = "white" if norm(value) < 0.6 else "black"
        axis.text(column, row, f"{value:{form}}", ha="center", va="center", fontsize=size, color=ink)
    return image
