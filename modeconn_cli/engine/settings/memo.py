"""Settings of `mcx memo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.settings.base import like, setting
from modeconn_cli.engine.settings.shared import (
    ComputeSettings,
    DataSettings,
    DistributedSettings,
    FolderSettings,
    NetworkSettings,
    TransformName,
)
from modeconn_cli.engine.settings.train import OptimizationSettings, OptimizerSettings, TrainSettings


@dataclass(frozen=True, kw_only=True)
class MemoSettings(
    NetworkSettings, DataSettings, OptimizerSettings, ComputeSettings, DistributedSettings, FolderSettings
):
    """Train many networks on random shares of the data, and tell what each sample adds to its own answer."""

    models: int = setting(
        256, "networks that are trained; more of them later add to those there", low=2, change="grow"
    )
    share: float = setting(
        0.7, "share of the training images that each network is trained on", above=0, high=1
    )
    influence_threshold: float = setting(
        0.15, "influences above it are written down: influence.csv", low=0, high=1, change="grow"
    )
    stack: int | None = setting(
        None,
        "networks that are trained at once",
        low=1,
        shown="as many as 256 MB hold, at most 64; 1 where they do not stack",
        rare=True,
    )
    epochs: int = like(OptimizationSettings, "epochs", low=1, panel="Training")
    model: str = like(TrainSettings, "model")
    num_classes: int | None = like(TrainSettings, "num_classes")
    dataset: str | None = like(TrainSettings, "dataset")
    transform: TransformName | None = like(TrainSettings, "transform")
    label_noise: float | None = like(TrainSettings, "label_noise")
    label_seed: int | None = like(TrainSettings, "label_seed")
    output_dir: Path = like(FolderSettings, "output_dir")

    def check(self) -> None:
        super().check()
        if self.share == 1:
            raise SettingsError(
                "--share 1 leaves no image out, and there is nothing to compare with", "pass less, as 0.7"
            )
