"""Settings of `mcx l2`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modeconn_cli.engine.settings.base import Settings, setting

Order = Literal["normalized_l2", "raw_l2", "relative_distance", "relative"]


@dataclass(frozen=True, kw_only=True)
class L2Settings(Settings):
    """Measure how far apart checkpoints are."""

    checkpoints: tuple[Path, ...] = setting(
        (), "two checkpoints or more, as path or label=path", positional=True
    )
    checkpoint1: Path | None = setting(None, "the first checkpoint; distances are relative to its norm")
    checkpoint2: Path | None = setting(None, "the second checkpoint")
    output: Path | None = setting(None, "write the result as JSON", change="free")
    output_dir: Path | None = setting(None, "of several: a JSON file per pair and a summary", change="free")
    pairs: Literal["first", "all"] = setting("first", "of several: which pairs, the first with each or all")
    overwrite: bool = setting(False, "replace what is there", change="free")
    show_top_k: int = setting(10, "number of layers listed", low=1)
    sort_by: Order = setting("normalized_l2", "order of the listed layers")
    include_buffers: bool = setting(False, "count the statistics of normalisation layers too")
    state_key: str | None = setting(None, "entry of the files that holds the weights")
    allow_nonfinite: bool = setting(False, "accept NaN and infinity in the weights")

    @property
    def order(self) -> str:
        """`relative` is the arrays' word for `relative_distance`."""
        return "relative_distance" if self.sort_by == "relative" else self.sort_by
