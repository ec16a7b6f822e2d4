"""The frames of the animation: one bar per layer at one position of the curve.

What stays is drawn by matplotlib once. A frame is a copy of it with the bars filled in, over pixel columns that
were computed once, and with its header drawn anew. All of it is in numbers of one palette, so that no frame is
quantised: 61 frames take 0.1 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox, IdentityTransform
from numpy.typing import NDArray

from modeconn_cli.engine.commands.animate import style
from modeconn_cli.engine.commands.animate.gif import Palette, Pixels
from modeconn_cli.engine.commands.animate.layers import LayerDistances

# Pixels; rows are counted from the top.
WIDTH, HEIGHT, EDGE = 960, 540, 24
AXES_LEFT, AXES_RIGHT, AXES_TOP = 104, WIDTH - EDGE, 112
TITLE_ROW, LEGEND_ROW = 42, 78
TRACK_LEFT, TRACK_RIGHT = 728, 856
HEADER_LEFT, HEADER_BOTTOM = 560, LEGEND_ROW + 14  # what t and the track may cover
LABEL_ROOM, SLANTED_ROOM = 44, 24  # names that fit below the bars upright, and slanted

INKS = (
    (style.INK, 24),
    (style.SWAPPED, 12),
    (style.MUTED, 12),
    *((fill, 1) for fill in style.FILLS.values()),
    *((ink, 1) for ink in (style.GRID, style.TRACK, style.NO_VALUE)),
)


class Bars:
    """The picture of one file; `frame(k)` is position k of its curve."""

    def __init__(self, data: LayerDistances, positions: Sequence[int]) -> None:
        self.palette = Palette(INKS)
        self._data = data
        self._decimals = decimals(data.t[list(positions)])
        self._figure, self._canvas = style.new_figure(WIDTH, HEIGHT)
        self._axes = self._figure.add_axes((0.1, 0.1, 0.8, 0.8))
        self._draw_axes()
        self._draw_words()
        self._time = self._text(
            WIDTH - EDGE, TITLE_ROW, "", size=15, weight="bold", ha="right", animated=True
        )
        self._way = self._line(style.INK, animated=True)
        self._dot = self._line(style.INK, marker="o", markersize=8, animated=True)
        self._canvas.draw()
        self._still = self.palette.index(self._pixels())
        header = Bbox.from_extents(HEADER_LEFT, HEIGHT - HEADER_BOTTOM, WIDTH, HEIGHT)
        self._clean_header = self._canvas.copy_from_bbox(header)
        self._columns = self._pixel_columns()
        self._rows = self._pixel_rows(np.array([0.0, *self._axes.get_ylim()])).astype(int)
        self._tops = self._pixel_rows(data.values * style.WORDS[data.metric].scale)

    def frame(self, k: int) -> Pixels:
        """The numbers of the colours at position k, (HEIGHT, WIDTH)."""
        picture = self._still.copy()
        picture[:HEADER_BOTTOM, HEADER_LEFT:] = self._header(float(self._data.t[k]))
        zero, floor, ceiling = self._rows
        no_value = self.palette.number(style.NO_VALUE)
        for layer, columns, colour in self._columns:
            top = self._tops[k, layer]
            if np.isnan(top):
                picture[ceiling:floor, columns] = no_value
            else:
                picture[min(int(top), zero) : max(int(top), zero), columns] = colour
        return picture

    def _header(self, t: float) -> Pixels:
        start, stop = self._data.t[0], self._data.t[-1]
        here = TRACK_LEFT + (TRACK_RIGHT - TRACK_LEFT) * (t - start) / max(stop - start, 1e-300)
        self._canvas.restore_region(self._clean_header)
        self._time.set_text(f"t = {t:.{self._decimals}f}" if abs(t) < 1e6 else f"t = {t:.9g}")
        self._way.set_data([TRACK_LEFT, here], [HEIGHT - LEGEND_ROW] * 2)
        self._dot.set_data([here], [HEIGHT - LEGEND_ROW])
        for artist in (self._time, self._way, self._dot):
            self._figure.draw_artist(artist)
        return self.palette.index(self._pixels()[:HEADER_BOTTOM, HEADER_LEFT:])

    def _pixels(self) -> Pixels:
        return np.asarray(self._canvas.buffer_rgba())

    def _pixel_rows(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The row, counted from the top, of values on the vertical axis."""
        flat = np.stack([np.zeros(values.size), values.ravel()], axis=1)
        ups: NDArray[np.float64] = self._axes.transData.transform(flat)[:, 1]
        return np.rint(HEIGHT - ups).reshape(values.shape)

    def _pixel_columns(self) -> list[tuple[int, slice, int]]:
        """Layer, columns and colour of each bar: at least one pixel wide, the swapped layer three and on top."""
        data = self._data
        count = len(data.names)
        per_layer = (AXES_RIGHT - AXES_LEFT) / count
        half = 0.36 if per_layer > 6 else 0.5
        edges = np.stack([np.arange(count) - half, np.arange(count) + half], axis=1)
        places = self._axes.transData.transform(np.stack([edges.ravel(), np.zeros(2 * count)], axis=1))[:, 0]
        bars = []
        for i, (left, right) in enumerate(np.rint(places).astype(int).reshape(count, 2)):
            least = 3 if i == data.swapped else 1
            ink = style.SWAPPED if i == data.swapped else style.FILLS[data.kinds[i]]
            bars.append((i, slice(left, max(right, left + least)), self.palette.number(ink)))
        return sorted(bars, key=lambda bar: bar[0] == data.swapped)

    def _draw_axes(self) -> None:
        data, axes = self._data, self._axes
        shown = style.labelled(len(data.names), LABEL_ROOM, data.swapped)
        size = 9.5 if len(shown) <= SLANTED_ROOM else 8.0
        longest = style.text_width(self._canvas, [style.label(data.names[i]) for i in shown], size)
        slanted = len(shown) <= SLANTED_ROOM and longest < 120
        bottom = EDGE + (0.71 * longest + 14 if slanted else longest + 4)
        width, height = AXES_RIGHT - AXES_LEFT, HEIGHT - AXES_TOP - bottom
        axes.set_position((AXES_LEFT / WIDTH, bottom / HEIGHT, width / WIDTH, height / HEIGHT))
        axes.set_xlim(-0.6, len(data.names) - 0.4)
        axes.set_ylim(*style.limits(data))
        turn = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if slanted else {"rotation": 90}
        style.name_ticks(axes.xaxis, data, shown, size, **turn)
        axes.tick_params(axis="x", length=0, pad=5)
        axes.tick_params(axis="y", length=0, labelsize=10, labelcolor=style.INK)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        middle = (bottom + height / 2) / HEIGHT
        axes.set_ylabel(style.WORDS[data.metric].axis, fontsize=10.5, color=style.INK)
        axes.yaxis.set_label_coords((EDGE + 16) / WIDTH, middle, self._figure.transFigure)
        axes.grid(axis="y", color=style.GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set(color=style.MUTED, linewidth=0.8)

    def _draw_words(self) -> None:
        """Title, legend of the colours that occur, and the two ends of the curve."""
        data = self._data
        self._text(EDGE, TITLE_ROW, style.WORDS[data.metric].title, size=15, weight="bold")
        kinds = {kind for i, kind in enumerate(data.kinds) if i != data.swapped}
        entries = [("swapped layer", style.SWAPPED)] if data.swapped is not None else []
        entries += [(word, style.FILLS[kind]) for kind, word in style.KIND_WORDS.items() if kind in kinds]
        entries += [("not finite", style.NO_VALUE)] if data.nonfinite else []
        self._figure.legend(
            handles=[Patch(facecolor=colour, label=word) for word, colour in entries],
            loc="center left",
            bbox_to_anchor=(EDGE / WIDTH, 1 - LEGEND_ROW / HEIGHT),
            ncols=len(entries),
            frameon=False,
            borderpad=0,
            borderaxespad=0,
            handlelength=1,
            handleheight=1,
            handletextpad=0.5,
            columnspacing=1.4,
            fontsize=10.5,
            labelcolor=style.INK,
        )
        self._text(TRACK_LEFT - 12, LEGEND_ROW + 4, "endpoint 0", size=9.5, color=style.MUTED, ha="right")
        self._text(TRACK_RIGHT + 12, LEGEND_ROW + 4, "endpoint 1", size=9.5, color=style.MUTED)
        self._line(style.TRACK).set_data([TRACK_LEFT, TRACK_RIGHT], [HEIGHT - LEGEND_ROW] * 2)

    def _text(self, column: int, row: int, text: str, **look: Any) -> Text:
        return self._figure.text(column / WIDTH, 1 - row / HEIGHT, text, **{"color": style.INK, **look})

    def _line(self, ink: str, **look: Any) -> Line2D:
        line = Line2D([], [], color=ink, linewidth=2.5, transform=IdentityTransform(), **look)
        self._figure.add_artist(line)
        return line


def decimals(t: NDArray[np.float64]) -> int:
    """Digits after the point, two at least, that tell the shown positions apart."""
    return next((digits for digits in range(2, 9) if len({f"{x:.{digits}f}" for x in t}) == len(t)), 9)
