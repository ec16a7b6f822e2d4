"""Settings of commands that take a path between networks: a curve, a line, a chain of lines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.settings.base import like, setting, without_effect
from modeconn_cli.engine.settings.shared import (
    ON_IMAGES,
    BatchNorm,
    ComputeSettings,
    DataSettings,
    ModelSettings,
    PermutationSettings,
)

MOST_POSITIONS = 10_000_001  # of a path


@dataclass(frozen=True, kw_only=True)
class PathSettings(PermutationSettings, ModelSettings, DataSettings, ComputeSettings):
    """A trained curve, or the straight line between two networks."""

    places: ClassVar[tuple[tuple[str, ...], ...]] = (("curve_checkpoint",), ("endpoint0", "endpoint1"))

    curve_checkpoint: Path | None = setting(None, "checkpoint of a trained curve")
    endpoint0: Path | None = setting(None, "without a curve: the network at t = 0")
    endpoint1: Path | None = setting(None, "without a curve: the network at t = 1")
    permutation: Path | None = like(PermutationSettings, "permutation", unless="curve_checkpoint")
    bn: BatchNorm = setting(
        "recompute",
        "statistics of batch norm at each t: of the training data, endpoint 0's, interpolated (straight lines "
        "only), or none (mean 0, variance 1); repair, of networks without batch norm too, gives each layer's outputs "
        "mean and deviation between those of the ends; other buffers are each end's own there and interpolated in "
        "between, and whole numbers that differ are refused",
        effective=("repair",),
    )
    bn_samples: int | None = setting(
        None, "training images for the statistics", low=2, shown="all", needs=("bn", *ON_IMAGES)
    )
    allow_nonfinite: bool = setting(False, "accept NaN and infinity in the weights", rare=True)

    @property
    def ends(self) -> tuple[Path, ...]:
        """The networks that are joined by a straight line, as far as they are named."""
        return tuple(path for path in (self.endpoint0, self.endpoint1) if path is not None)

    @property
    def sources(self) -> tuple[Path, ...]:
        return self.ends[:1] if self.curve_checkpoint is None else (self.curve_checkpoint,)

    def check_path(self) -> None:
        """Raise SettingsError unless a curve is named or two endpoints are."""
        if len(self.ends) != (2 if self.curve_checkpoint is None else 0):
            raise SettingsError(
                "give either a curve or two endpoints",
                "pass --curve-checkpoint FILE, or --endpoint0 and --endpoint1",
            )

    def unread(self, has_batch_norm: bool) -> tuple[str, ...]:
        """The settings that the network at hand does not read: one without batch norm is as any with --bn none, unless
        its layers are repaired.
        """
        reads = has_batch_norm or self.bn == "repair"
        return () if reads else ("bn", *replace(self, bn="none").idle())

    def idle(self) -> dict[str, str]:
        ordered = self.bn in ON_IMAGES or self.flips_by_seed
        return super().idle() | without_effect(not ordered, f"with --bn {self.bn}", "seed")


@dataclass(frozen=True, kw_only=True)
class ChainSettings(PathSettings):
    """A trained curve, the straight line between two networks, or the chain of lines through more of them."""

    more = "chain"

    endpoint0: Path | None = like(PathSettings, "endpoint0", unless="chain")
    endpoint1: Path | None = like(PathSettings, "endpoint1", unless="chain")
    chain: tuple[Path, ...] = setting(
        (),
        "three checkpoints or more, joined in this order by straight segments of equal share in t",
        flags=("--ckpt",),
        gathers=True,
        repeats=True,
    )

    @property
    def ends(self) -> tuple[Path, ...]:
        return self.chain or super().ends

    def check_path(self) -> None:
        if not self.chain:
            return super().check_path()
        if self.curve_checkpoint is not None or len(self.chain) < 3:
            raise SettingsError(
                f"a chain is of three networks or more alone, got {len(self.chain)}"
                + (" and a curve" if self.curve_checkpoint is not None else ""),
                "pass --curve-checkpoint FILE, --endpoint0 and --endpoint1, or --chain A,B,C",
            )
        if self.bn == "repair":
            raise SettingsError(
                "--bn repair is between two networks, not along a chain", "use --bn recompute"
            )
        return None

    def idle(self) -> dict[str, str]:
        return super().idle() | without_effect(bool(self.chain), "along a chain", "permutation")
