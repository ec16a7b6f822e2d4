"""The animation: one bar per layer, a frame per position of the curve, as a GIF.

Matplotlib draws once what stays. A frame is that picture with the bars and the header drawn over it: all of it anew
would take five times as long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray
from PIL import Image, ImageChops
from PIL.GifImagePlugin import getdata, getheader

from modeconn_cli.engine.commands.animate import style
from modeconn_cli.engine.commands.animate.layers import METRICS, LayerDistances

# Pixels; rows are counted from the top.
WIDTH, HEIGHT, EDGE = 960, 540, 24
TITLE_ROW, LEGEND_ROW, AXES_TOP = 42, 78, 104
TRACK_LEFT, TRACK_RIGHT, TRACK_HEIGHT = 728, 856, 20
LABEL_ROOM, SLANTED_ROOM = 44, 24  # names that fit below the bars upright, and slanted
LEGEND = {
    "frameon": False, "fontsize": 10.5, "labelcolor": style.INK, "borderpad": 0, "borderaxespad": 0, "handlelength": 1,
    "handleheight": 1, "handletextpad": 0.5, "columnspacing": 1.4,
}  # fmt: skip
COLOURS = 64  # of more, some lie so close to each other that Pillow mistakes them: white became 252


def write(into: IO[bytes], data: LayerDistances, shown: Sequence[int], hundredths: int, comment: str) -> None:
    """The positions `shown`, each for so many hundredths of a second, as a GIF that repeats for ever.

    All frames have the palette of the one with the longest bars, as one for each would take Pillow 50 ms a frame.
    """
    bars = Bars(data, shown)
    fullest = max(shown, key=lambda k: float(np.nansum(np.abs(data.values[k]))))
    palette = bars.frame(fullest).quantize(COLOURS, Image.Quantize.MAXCOVERAGE)
    frames = (bars.frame(k).quantize(palette=palette, dither=Image.Dither.NONE) for k in shown)
    write_gif(into, frames, 10 * hundredths, comment)


def write_gif(into: IO[bytes], frames: Iterator[Image.Image], duration: int, comment: str) -> None:
    """Frames of one palette, which leaves an index free, each for `duration` ms, as they come.

    Pillow's own `save_all` holds all frames, half a megabyte each, before it writes the first. As there, a frame after
    the first is the rectangle that has changed, transparent where nothing has.
    """
    last = next(frames)
    header, _ = getheader(
        last.copy(), info={"duration": duration, "loop": 0, "comment": comment.encode("ascii")}
    )
    for block in (*header, *getdata(last, duration=duration)):
        into.write(block)
    assert last.palette is not None
    free = min(len(last.palette.palette) // 3, 255)
    for frame in frames:
        delta = ImageChops.subtract_modulo(frame, last)
        box = delta.getbbox(alpha_only=False) or (0, 0, 1, 1)
        changes = frame.copy()
        changes.paste(free, mask=delta.point([255, *(0,) * 255], "1"))
        how = {"duration": duration, "transparency": free, "include_color_table": True}
        for block in getdata(changes.crop(box), box[:2], **how):
            into.write(block)
        last = frame
    into.write(b";")


class Bars:
    """The picture of one file; `frame(k)` is position k of its curve."""

    def __init__(self, data: LayerDistances, shown: Sequence[int]) -> None:
        self._data, self._decimals = data, decimals(data.t[list(shown)])
        # The swapped layer is drawn last, over its neighbours.
        self._order = np.array(sorted(range(len(data.names)), key=lambda i: i == data.swapped))
        inks = [style.SWAPPED if i == data.swapped else style.FILLS[data.kinds[i]] for i in self._order]
        self._values, self._inks = data.drawn[:, self._order], np.array(inks)
        self._figure, self._canvas = style.new_figure(WIDTH, HEIGHT)
        self._draw_axes()
        self._draw_legend()
        self._text(EDGE, TITLE_ROW, METRICS[data.metric][0], size=15, weight="bold")
        self._time = self._text(WIDTH - EDGE, TITLE_ROW, "", size=15, weight="bold", ha="right")
        self._draw_track()
        self._moving: tuple[Artist, ...] = (self._bars, self._time, self._way)
        for artist in self._moving:
            artist.set_animated(True)
        self._canvas.draw()
        self._still = self._canvas.copy_from_bbox(self._figure.bbox)

    def frame(self, k: int) -> Image.Image:
        """The picture at position k, in RGB."""
        values, t = self._values[k], float(self._data.t[k])
        lost = np.isnan(values)  # a pale bar over the whole height
        floor, ceiling = self._axes.get_ylim()
        ends = np.stack([np.where(lost, floor, 0), np.where(lost, ceiling, values)], axis=1)
        places = np.broadcast_to(self._order[:, None], ends.shape)
        self._bars.set_segments(list(np.stack([places, ends], axis=2)))
        self._bars.set_color(list(np.where(lost, style.NO_VALUE, self._inks)))
        self._time.set_text(f"t = {t:.{self._decimals}f}" if abs(t) < 1e6 else f"t = {t:.9g}")
        self._way.set_data([self._data.t[0], t], [0, 0])
        self._canvas.restore_region(self._still)
        for artist in self._moving:
            self._figure.draw_artist(artist)
        return Image.fromarray(np.asarray(self._canvas.buffer_rgba())[..., :3])

    def _draw_axes(self) -> None:
        data, count = self._data, len(self._data.names)
        inside = (EDGE / WIDTH, EDGE / HEIGHT, 1 - 2 * EDGE / WIDTH, 1 - (AXES_TOP + EDGE) / HEIGHT)
        self._figure.set_layout_engine("constrained", rect=inside, w_pad=0, h_pad=0)
        axes = self._axes = self._figure.add_subplot()
        axes.set_xlim(-0.6, count - 0.4)
        low, high = data.span()
        room = 0.05 * (high - low)
        axes.set_ylim(low - room if low < 0 else 0, high + room if high > 0 else 0)
        named = style.labelled(count, LABEL_ROOM, data.swapped)
        if len(named) <= SLANTED_ROOM:
            style.name_ticks(axes.xaxis, data, named, 9.5, rotation=45, ha="right", rotation_mode="anchor")
        else:
            style.name_ticks(axes.xaxis, data, named, 8.0, rotation=90)
        axes.tick_params(axis="x", length=0, pad=5)
        axes.tick_params(axis="y", length=0, labelsize=10, labelcolor=style.INK)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_ylabel(METRICS[data.metric][1], fontsize=10.5, color=style.INK)
        axes.grid(visible=False)
        axes.grid(axis="y", color=style.GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set(color=style.MUTED, linewidth=0.8)
        self._figure.draw_without_rendering()
        per_layer = axes.get_window_extent().width / (count + 0.2)  # pixels
        wide = 0.72 * per_layer if per_layer > 6 else per_layer
        widths = [max(wide, 3 if i == data.swapped else 1) * 72 / style.DPI for i in self._order]
        self._bars = axes.vlines(self._order, 0, 0, linewidths=widths, antialiased=False, snap=True)

    def _draw_legend(self) -> None:
        """The colours that occur."""
        data = self._data
        kinds = {kind for i, kind in enumerate(data.kinds) if i != data.swapped}
        entries = [("swapped layer", style.SWAPPED)] if data.swapped is not None else []
        entries += [(kind, fill) for kind, fill in style.FILLS.items() if kind in kinds]
        entries += [("not finite", style.NO_VALUE)] if data.nonfinite else []
        legend = self._figure.legend(
            handles=[Patch(facecolor=fill, label=word) for word, fill in entries],
            loc="center left",
            bbox_to_anchor=(EDGE / WIDTH, 1 - LEGEND_ROW / HEIGHT),
            ncols=len(entries),
            **LEGEND,
        )
        legend.set_in_layout(False)

    def _draw_track(self) -> None:
        """A line from endpoint 0 to endpoint 1; how far along it a frame is."""
        low, width = 1 - (LEGEND_ROW + TRACK_HEIGHT / 2) / HEIGHT, (TRACK_RIGHT - TRACK_LEFT) / WIDTH
        track = self._figure.add_axes((TRACK_LEFT / WIDTH, low, width, TRACK_HEIGHT / HEIGHT))
        track.set_axis_off()
        track.margins(x=0)
        track.plot(self._data.t[[0, -1]], [0, 0], alpha=0)
        track.axhline(0, color=style.TRACK, linewidth=2.5, clip_on=False)
        (self._way,) = track.plot([], [], "o-", color=style.INK, linewidth=2.5, markersize=8, clip_on=False)
        self._way.set_markevery([1])
        for column, end, side in ((TRACK_LEFT - 12, 0, "right"), (TRACK_RIGHT + 12, 1, "left")):
            self._text(column, LEGEND_ROW + 4, f"endpoint {end}", size=9.5, color=style.MUTED, ha=side)

    def _text(self, column: float, row: float, text: str, **look: Any) -> Text:
        return self._figure.text(column / WIDTH, 1 - row / HEIGHT, text, **{"color": style.INK, **look})


def decimals(t: NDArray[np.float64]) -> int:
    """Digits after the point, two at least, that tell the shown positions apart."""
    return next((digits for digits in range(2, 9) if len({f"{x:.{digits}f}" for x in t}) == len(t)), 9)
