"""Settings of the `mcx curve` commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modeconn_cli.engine.settings.base import setting
from modeconn_cli.engine.settings.shared import (
    BatchNorm,
    ComputeSettings,
    DataSettings,
    DistributedSettings,
    FolderSettings,
    MeasuredDataSettings,
    ModelSettings,
)
from modeconn_cli.engine.settings.train import OptimizationSettings


@dataclass(frozen=True, kw_only=True)
class CurveTrainSettings(ModelSettings, DataSettings, OptimizationSettings, ComputeSettings, FolderSettings):
    """Train a curve of low loss between two networks."""

    endpoint0: Path | None = setting(
        None, "checkpoint of the network at t = 0", flags=("--init-start",), group="curve"
    )
    endpoint1: Path | None = setting(
        None, "checkpoint of the network at t = 1", flags=("--init-end",), group="curve"
    )
    curve: Literal["bezier", "polychain"] = setting("bezier", "kind of curve", group="curve")
    num_bends: int = setting(3, "control points, endpoints included", low=2, group="curve")
    init_method: Literal["linear", "biased", "perturbed", "sphere", "curve"] = setting(
        "linear",
        "where the free points begin; linear puts them on the straight line, which averages swapped units: their "
        "rows are identical there and only the noise of SGD separates them",
        group="curve",
    )
    init_curve: Path | None = setting(
        None, "curve checkpoint to begin from (--init-method curve)", group="curve"
    )
    init_alpha: float = setting(0.5, "position of the free point (biased)", low=0, high=1, group="curve")
    init_noise: float = setting(
        0.01, "norm of the noise relative to the endpoints' distance, per tensor", low=0, group="curve"
    )
    init_inside_sphere: bool = setting(
        False, "sphere: 0.9 instead of 1.1 times the endpoints' mean norm", group="curve"
    )
    fix_start: bool = setting(True, "keep endpoint 0", group="curve")
    fix_end: bool = setting(True, "keep endpoint 1", group="curve")
    constraint: Literal["none", "symmetry-plane"] = setting(
        "none", "keep the free point at equal distance from both ends", group="curve"
    )
    compat: Literal["elementwise-noise"] | None = setting(
        None, "reproduce an old number: noise of that size in every element", shown="off", group="curve"
    )
    lr: float = setting(0.015, "learning rate", above=0, group="training")
    eval_every: int = setting(
        0, "epochs between two evaluations at t = 0.5 on held-out images; 0: never", low=0, group="training"
    )
    patience: int | None = setting(
        None,
        "stop after so many epochs without a better validation loss at t = 0.5",
        low=1,
        shown="off",
        group="training",
    )
    min_delta: float = setting(
        0.0, "smallest decrease of the validation loss that counts", low=0, group="training"
    )
    allow_nonfinite: bool = setting(False, "accept NaN and infinity in the endpoints", group="model")


@dataclass(frozen=True, kw_only=True)
class PathSettings(ModelSettings, MeasuredDataSettings, ComputeSettings):
    """A trained curve, or the straight line between two networks."""

    curve_checkpoint: Path | None = setting(None, "checkpoint of a trained curve", group="curve")
    endpoint0: Path | None = setting(None, "without a curve: the network at t = 0", group="curve")
    endpoint1: Path | None = setting(None, "without a curve: the network at t = 1", group="curve")
    bn: BatchNorm = setting(
        "recompute",
        "statistics of batch norm at each t: of the training data, endpoint 0's, interpolated (straight lines "
        "only), or none (mean 0, variance 1)",
        group="curve",
    )
    bn_samples: int | None = setting(
        None, "training images for the statistics", low=2, shown="all", group="curve"
    )
    allow_nonfinite: bool = setting(False, "accept NaN and infinity in the weights", group="model")


@dataclass(frozen=True, kw_only=True)
class CurveEvalSettings(PathSettings, DistributedSettings, FolderSettings):
    """Evaluate a curve at equally spaced positions."""

    num_points: int = setting(61, "positions t from 0 to 1", low=2, group="curve")
    wd: float | None = setting(
        None, "weight decay in the loss", low=0, shown="the curve's own, else 0", group="curve"
    )


@dataclass(frozen=True, kw_only=True)
class CurveAnalyzeSettings(ModelSettings, FolderSettings):
    """Measure how far each layer moves along a curve."""

    curve_checkpoint: Path | None = setting(None, "checkpoint of a trained curve")
    original_checkpoint: Path | None = setting(None, "the network the curve should begin at, to compare")
    swap_metadata: Path | None = setting(None, "the <stem>_metadata.json that mcx swap wrote")
    num_points: int = setting(61, "positions t from 0 to 1", low=2)
    allow_nonfinite: bool = setting(False, "accept NaN and infinity in the weights")


@dataclass(frozen=True, kw_only=True)
class CurveExtractSettings(PathSettings):
    """Write the network at one position of a curve as an ordinary checkpoint."""

    t: float | None = setting(None, "position, 0 to 1", low=0, high=1)
    output: Path | None = setting(None, "file of the network", change="free")
    overwrite: bool = setting(False, "replace what is there", change="free")
