"""Settings of `mcx swap`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modeconn_cli.engine.settings.base import setting
from modeconn_cli.engine.settings.shared import ComputeSettings, MeasuredDataSettings, ModelSettings


@dataclass(frozen=True, kw_only=True)
class SwapSettings(ModelSettings, MeasuredDataSettings, ComputeSettings):
    """Exchange neurons of a network."""

    checkpoint: Path | None = setting(None, "checkpoint of the network", group="swap")
    output: Path | None = setting(None, "file of the swapped network", change="free", group="swap")
    overwrite: bool = setting(False, "replace what is there", change="free", group="swap")
    layer_depth: Literal["early", "mid", "late"] = setting(
        "mid", "which layer: the first, the middle or the last group of exchangeable units", group="swap"
    )
    layer_name: str | None = setting(None, "which layer, by its module path", shown="by depth", group="swap")
    num_swaps: int = setting(1, "pairs of units to exchange", low=1, group="swap")
    pairs: tuple[str, ...] = setting(
        (), "the pairs themselves: 228:6,3:9", shown="drawn by seed", group="swap"
    )
    mirror: bool = setting(False, "reverse the units of every hidden layer", group="swap")
    random: bool = setting(False, "permute the units of every hidden layer at random", group="swap")
    seed: int = setting(42, "seed of the pairs", low=0, group="swap")
    verify: bool | None = setting(
        None,
        "compare both networks on the whole test set too; --no-verify: no check at all",
        shown="a quick check in float64",
        group="swap",
    )
    allow_nonfinite: bool = setting(False, "accept NaN and infinity in the weights", group="swap")
