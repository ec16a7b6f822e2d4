"""Settings of the `mcx lmc` commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.settings.base import Settings, like, setting
from modeconn_cli.engine.settings.path import MOST_POSITIONS, PathSettings
from modeconn_cli.engine.settings.shared import (
    PATRINI,
    Align,
    BatchNorm,
    ComputeSettings,
    DataSettings,
    DistributedSettings,
    FigureSettings,
    FolderSettings,
    MeasuredDataSettings,
    NetworkSettings,
    OptionalFolderSettings,
    TransformName,
)
from modeconn_cli.engine.settings.train import OptimizerSettings, TrainSettings


@dataclass(frozen=True, kw_only=True)
class AlphaSettings(Settings):
    """Positions on the straight line."""

    num_alphas: int = setting(
        25,
        "positions from 0 to 1; odd, so that the middle is one of them (a file keeps all it was measured at)",
        low=3,
        high=MOST_POSITIONS,
        change="grow",
    )


@dataclass(frozen=True, kw_only=True)
class LmcRunSettings(
    AlphaSettings,
    NetworkSettings,
    DataSettings,
    OptimizerSettings,
    ComputeSettings,
    DistributedSettings,
    FigureSettings,
    FolderSettings,
):
    """Branch off a training run and measure the straight lines back to it."""

    preset: Literal["digits", "mnist", "cifar10", "tiny-imagenet", "imagenet"] | None = setting(
        None, "settings of a documented experiment; flags overrule them", shown="none", change="free"
    )
    max_epochs: int | None = setting(
        None, "epochs of the main branch", low=1, shown="max k1 + max k2", change="grow"
    )
    k1: tuple[int, ...] = setting((0, 1, 2, 5), "epochs at which a branch begins", low=0, change="grow")
    k2: tuple[int, ...] = setting((1, 4, 9), "epochs after which a branch is compared", low=1, change="grow")
    branch_seed: tuple[int, ...] = setting(
        (),
        "seed of the branches' data order and augmentation; of several, comma-listed, the barriers are a mean and its "
        "spread",
        low=0,
        shown="the seed + 1",
        change="grow",
    )
    bn: BatchNorm = setting(
        "recompute",
        "statistics of batch norm on the line, or repair: of every layer's outputs, between those of the ends; other "
        "buffers are each network's own at its end, and interpolated between the ends",
    )
    align: Align = setting(
        "none",
        "measure every line a second time with the branch aligned to the main branch, as mcx align does, into "
        "aligned_by_<method>/",
        change="grow",
    )
    patience: int | None = like(
        TrainSettings, "patience", help="stop a branch after so many epochs without a better validation loss"
    )
    min_delta: float = like(TrainSettings, "min_delta")
    schedule: Literal["garipov", "cosine", "linear", "step", "constant"] = setting(
        "constant", "learning rate over the epochs of the main branch"
    )
    schedule_epochs: int | None = setting(
        None,
        "epochs that the schedule spans; what an experiment began with stays",
        low=1,
        shown="--max-epochs",
        change="free",
        needs=("schedule", "garipov", "cosine", "linear", "step"),
    )
    transform: TransformName | None = like(DataSettings, "transform", shown="the data's", rare=False)
    label_noise: float | None = like(DataSettings, "label_noise", shown="0")
    label_seed: int | None = like(DataSettings, "label_seed", shown="the seed", needs=("label_noise",))
    noise_kind: Literal["uniform", "asymmetric", "instance"] | None = like(
        DataSettings, "noise_kind", shown="uniform", needs=("label_noise",)
    )
    noise_map: str | None = like(DataSettings, "noise_map", shown=PATRINI, needs=("noise_kind", "asymmetric"))
    noise_file: Path | None = like(DataSettings, "noise_file", shown="none")
    output_dir: Path = like(FolderSettings, "output_dir")  # asked for before the network is
    model: str = like(
        NetworkSettings,
        "model",
        shown="the preset's",
        missing=("no network", "pass --model NAME or --preset NAME"),
    )
    num_classes: int | None = like(NetworkSettings, "num_classes", shown="the data's")
    dataset: str | None = like(DataSettings, "dataset", shown="the preset's")


@dataclass(frozen=True, kw_only=True)
class LmcInterpolateSettings(
    AlphaSettings,
    PathSettings,
    MeasuredDataSettings,
    DistributedSettings,
    FigureSettings,
    OptionalFolderSettings,
):
    """Measure the barrier between two networks."""

    places = ()

    checkpoints: tuple[Path, ...] = setting((), "the two checkpoints", positional=True, repeats=True)
    endpoint0: Path | None = like(PathSettings, "endpoint0", unless="checkpoints")
    endpoint1: Path | None = like(PathSettings, "endpoint1", unless="checkpoints")
    permutation: Path | None = like(PathSettings, "permutation", unless="")
    by_layer: bool = setting(
        False,
        "also move one layer at a time, and all up to it, the rest of the network staying at one end or the other, and "
        "compare each layer's features on the line with those of the ends, interpolated",
        change="grow",
    )
    layers: tuple[str, ...] = setting(
        (),
        "which layers, comma-listed: a module's path, whose layers move together, or a pattern such as features.*, "
        "which stands for each that it fits",
        shown="every module with parameters",
        change="grow",
        needs=("by_layer",),
    )

    @property
    def ends(self) -> tuple[Path, ...]:
        return self.checkpoints or super().ends

    def check(self) -> None:
        super().check()
        if len(self.ends) != 2:
            raise SettingsError(
                f"two checkpoints are needed, got {len(self.ends)}", "mcx lmc interpolate A.pt B.pt"
            )
        self.check_path()


@dataclass(frozen=True, kw_only=True)
class LmcReportSettings(FigureSettings, OptionalFolderSettings):
    """Compare the barriers of experiments."""

    folders: tuple[Path, ...] = setting(
        (),
        "folders of mcx lmc run, or of the original study's JSON files",
        positional=True,
        missing=("no folder to read", "mcx lmc report DIR…"),
    )
    barrier: Literal["max_gap", "sup_minus_mean", "midpoint", "max_minus_max_end", "max_minus_min_end"] = (
        setting("max_gap", "definition that table and figures show; the CSV holds all")
    )
    series: Literal["loss_test", "error_test", "loss_train", "error_train"] = setting(
        "loss_test", "what rises: loss in nats or error in points, on test or training images"
    )
