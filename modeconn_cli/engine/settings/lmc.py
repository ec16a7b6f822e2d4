"""Settings of the `mcx lmc` commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modeconn_cli.engine.settings.base import Settings, setting
from modeconn_cli.engine.settings.curve import PathSettings
from modeconn_cli.engine.settings.shared import (
    BatchNorm,
    ComputeSettings,
    DataSettings,
    DistributedSettings,
    FolderSettings,
    NetworkSettings,
)
from modeconn_cli.engine.settings.train import OptimizerSettings


@dataclass(frozen=True, kw_only=True)
class AlphaSettings(Settings):
    """Positions on the straight line."""

    num_alphas: int = setting(
        25,
        "positions from 0 to 1; odd, so that the middle is one of them (a file keeps all it was measured at)",
        low=3,
        change="grow",
        group="line",
    )


@dataclass(frozen=True, kw_only=True)
class LmcRunSettings(
    AlphaSettings,
    NetworkSettings,
    DataSettings,
    OptimizerSettings,
    ComputeSettings,
    DistributedSettings,
    FolderSettings,
):
    """Branch off a training run and measure the straight lines back to it."""

    preset: Literal["digits", "mnist", "cifar10", "tiny-imagenet", "imagenet"] | None = setting(
        None,
        "settings of a documented experiment; flags overrule them",
        shown="none",
        change="free",
        group="lmc",
    )
    max_epochs: int | None = setting(
        None, "epochs of the main branch", low=1, shown="max k1 + max k2", change="grow", group="lmc"
    )
    k1: tuple[int, ...] = setting(
        (0, 1, 2, 5), "epochs at which a branch begins", low=0, change="grow", group="lmc"
    )
    k2: tuple[int, ...] = setting(
        (1, 4, 9), "epochs after which a branch is compared", low=1, change="grow", group="lmc"
    )
    branch_seed: int | None = setting(
        None, "seed of the branches' data order and augmentation", low=0, shown="the seed + 1", group="lmc"
    )
    bn: BatchNorm = setting("recompute", "statistics of batch norm on the line", group="lmc")
    patience: int | None = setting(
        None,
        "stop a branch after so many epochs without a better validation loss",
        low=1,
        shown="off",
        group="lmc",
    )
    min_delta: float = setting(
        0.0, "smallest decrease of the validation loss that counts", low=0, group="lmc"
    )
    schedule: Literal["garipov", "cosine", "step", "constant"] = setting(
        "constant", "learning rate over the epochs of the main branch", group="training"
    )
    schedule_epochs: int | None = setting(
        None,
        "epochs that the schedule spans; what an experiment began with stays",
        low=1,
        shown="--max-epochs",
        change="free",
        group="training",
    )


@dataclass(frozen=True, kw_only=True)
class LmcInterpolateSettings(AlphaSettings, PathSettings, DistributedSettings, FolderSettings):
    """Measure the barrier between two networks."""

    checkpoints: tuple[Path, ...] = setting((), "the two checkpoints", positional=True)
    permutation: Path | None = setting(
        None,
        "units of the second network: the <stem>_metadata.json of the swap that made it from the first, which is "
        "undone, or an .npz with an order of units per layer, which is applied",
        group="line",
    )


@dataclass(frozen=True, kw_only=True)
class LmcReportSettings(FolderSettings):
    """Compare the barriers of experiments."""

    folders: tuple[Path, ...] = setting(
        (), "folders of mcx lmc run, or of the original study's JSON files", positional=True
    )
    barrier: Literal["max_gap", "sup_minus_mean", "midpoint", "max_minus_max_end", "max_minus_min_end"] = (
        setting("max_gap", "definition that table and figures show; the CSV holds all", group="report")
    )
    series: Literal["loss_test", "error_test", "loss_train", "error_train"] = setting(
        "loss_test", "what rises: loss in nats or error in points, on test or training images", group="report"
    )
