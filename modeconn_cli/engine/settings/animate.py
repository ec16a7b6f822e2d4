"""Settings of `mcx animate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.settings.base import setting
from modeconn_cli.engine.settings.shared import FigureSettings, OverwriteSettings

Quantity = Literal[
    "normalized_l2",
    "relative",
    "raw_l2",
    "modulo_swap_l2",
    "from_line_l2",
    "norm_difference",
    "relative_distance",
]


@dataclass(frozen=True, kw_only=True)
class AnimateSettings(FigureSettings, OverwriteSettings):
    """Draw layer distances along a curve."""

    places = (("data",),)

    data: Path = setting(
        None,
        "layer distances along a curve (.npz), as curve analyze writes them",
        missing=("no layer distances", "pass --data FILE.npz, a file of mcx curve analyze"),
    )
    output: Path = setting(
        None,
        "the animation to write (.gif)",
        change="free",
        absent=True,
        missing=("no file for the result", "pass --output FILE.gif"),
    )
    fps: float = setting(10, "frames per second; a GIF holds multiples of 10 ms per frame", above=0)
    metric: Quantity = setting("normalized_l2", "what the bars show, as far as the file has it")
    heatmap: bool = setting(
        False, "also write <output stem>_heatmap.png (or .pdf, .svg): layers by t", change="free"
    )
    max_frames: int | None = setting(
        None,
        "draw so many evenly spaced positions, both ends included",
        low=2,
        flags=("--num-points",),
        shown="all",
    )

    def check(self) -> None:
        super().check()
        if self.output.suffix.casefold() != ".gif":
            raise SettingsError(f"--output '{self.output}' does not end in .gif")

    @property
    def undrawn(self) -> str:
        return "" if self.heatmap else "without --heatmap"

    @property
    def array(self) -> str:
        """The name of the metric in the file; `relative_distance` is the tables' word for `relative`."""
        return "relative" if self.metric == "relative_distance" else self.metric
