"""Settings of `mcx merge`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.settings.base import like, setting, without_effect
from modeconn_cli.engine.settings.shared import (
    ON_IMAGES,
    Align,
    ComputeSettings,
    LabelledNetworksSettings,
    MeasuredDataSettings,
    OverwriteSettings,
)


@dataclass(frozen=True, kw_only=True)
class MergeSettings(LabelledNetworksSettings, MeasuredDataSettings, ComputeSettings, OverwriteSettings):
    """Average networks."""

    checkpoints: tuple[Path, ...] = like(
        LabelledNetworksSettings,
        "checkpoints",
        missing=("no networks to merge", "mcx merge A.pt B.pt --output FILE"),
    )
    output: Path = setting(
        None,
        "file of the average",
        change="free",
        absent=True,
        tensors=True,
        missing=("no file for the average", "pass --output FILE.pt"),
    )
    weights: tuple[float, ...] = setting(
        (), "weight of each network, comma-listed, which are made to add up to 1", shown="equal", low=0,
        repeats=True, unless="greedy",
    )  # fmt: skip
    align: Align = setting(
        "none",
        "permute all into one common frame first, by their weights, as mcx align --cycle does, or by how their units "
        "act on training images",
    )
    bn: Literal["recompute", "average", "repair"] = setting(
        "recompute",
        "statistics of batch norm: of the training images under the average, or averaged too; repair, of networks "
        "without batch norm too, gives each layer's outputs the weighted mean of the members' means and deviations",
        effective=("repair",),
    )
    greedy: bool = setting(
        False,
        "a greedy soup: the best network on the validation images, and each next one that makes the average no worse "
        "there (--val-size says how many)",
    )

    def check(self) -> None:
        super().check()
        if len(self.checkpoints) < 2:
            raise SettingsError("an average is of two networks or more", "mcx merge A.pt B.pt --output FILE")
        if self.weights and (len(self.weights) != len(self.checkpoints) or sum(self.weights) <= 0):
            raise SettingsError(
                f"--weights takes a number for each of the {len(self.checkpoints)} networks, not all 0"
            )

    def idle(self) -> dict[str, str]:
        drawn = self.bn in ON_IMAGES or self.align == "weights" or self.flips_by_seed
        return super().idle() | without_effect(not drawn, f"with --bn {self.bn}", "seed")
