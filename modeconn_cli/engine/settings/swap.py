"""Settings of `mcx swap`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.settings.base import like, setting, without_effect
from modeconn_cli.engine.settings.shared import (
    DATA,
    ComputeSettings,
    MeasuredDataSettings,
    OverwriteSettings,
    TracedSettings,
)

LARGEST_SEED = 2**32 - 1  # of the generator that the original script draws pairs with


@dataclass(frozen=True, kw_only=True)
class SwapSettings(TracedSettings, MeasuredDataSettings, ComputeSettings, OverwriteSettings):
    """Exchange neurons of a network."""

    places = (("checkpoint",),)

    checkpoint: Path = setting(
        None, "checkpoint of the network", missing=("no network to swap", "pass --checkpoint FILE")
    )
    output: Path = setting(
        None,
        "file of the swapped network",
        change="free",
        absent=True,
        tensors=True,
        missing=("no file for the swapped network", "pass --output FILE"),
    )
    layer_depth: Literal["early", "mid", "late"] = setting(
        "mid",
        "first, middle or last group of units",
        unless="layer_name",
    )
    layer_name: str | None = setting(None, "which layer, by its module path", shown="by depth")
    num_swaps: int = setting(1, "pairs of units to exchange", low=1, unless="pairs")
    pairs: tuple[str, ...] = setting((), "the pairs: 228:6,3:9", shown="drawn by seed")
    mirror: bool = setting(False, "reverse the units of every hidden layer")
    random: bool = setting(False, "permute the units of every hidden layer at random")
    seed: int = like(ComputeSettings, "seed", default=42, help="seed of the pairs", high=LARGEST_SEED)
    batch_size: int = like(ComputeSettings, "batch_size", rare=True)
    verify: bool | None = setting(
        None,
        "check on the whole test set too, or not at all",
        shown="a quick check in float64",
    )
    allow_nonfinite: bool = setting(False, "accept NaN and infinity in the weights", rare=True)

    def check(self) -> None:
        super().check()
        if self.mirror and self.random:
            raise SettingsError("--mirror and --random exclude each other")

    @property
    def sources(self) -> tuple[Path, ...]:
        return () if self.checkpoint is None else (self.checkpoint,)

    @property
    def from_checkpoint(self) -> frozenset[str]:
        # The quick check takes no data: those of the checkpoint are not looked for.
        return super().from_checkpoint - set(() if self.verify or self.dataset else DATA)

    def idle(self) -> dict[str, str]:
        drawn = not (self.pairs or self.mirror)
        whole = "with --mirror and --random, which permute every hidden layer"
        # A data set is read where one is named, and without one the network is traced on images of that size.
        unread = [name for name in DATA if name not in ("dataset", "image_size")]
        return {
            **super().idle(),
            **without_effect(
                self.mirror or self.random, whole, "pairs", "num_swaps", "layer_name", "layer_depth"
            ),
            **without_effect(self.input_tokens is not None, "with --input-tokens", "image_size"),
            **without_effect(bool(self.verify or self.dataset), "with a data set, of images", "input_tokens"),
            **without_effect(self.use_test, "on the test images", "labels"),
            **without_effect(not (self.verify or self.dataset), "without --verify", *unread),
            **without_effect(not self.verify, "without --verify", "batch_size"),
            **without_effect(self.verify is False and not drawn, "without pairs to draw or a check", "seed"),
        }
