"""Settings of `mcx correlate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.settings.base import like, setting, without_effect
from modeconn_cli.engine.settings.csl import CslAggregateSettings
from modeconn_cli.engine.settings.shared import DataSettings, FigureSettings, FolderSettings

GroupName = Literal["class_id", "task_num"]


@dataclass(frozen=True, kw_only=True)
class CorrelateSettings(FigureSettings, FolderSettings):
    """Every per-sample metric joined by sample id."""

    tracking: Path | None = setting(None, "sample_tracking_data_final.csv of a run")
    csl: Path | None = setting(
        None, "csl_*.npy, or the folder of mcx csl aggregate (its lt_*.npy is taken too)"
    )
    lt: Path | None = setting(None, "lt_*.npy, or the folder that holds it")
    scores: Path | None = setting(
        None, "scores_*.csv of mcx csl aggregate, or the folder that holds it: every score, by its hard end"
    )
    curvature: Path | None = setting(
        None, "folder of mcx curvature, its per_image_curvature.npy or a curvature_results_*.csv"
    )
    dormant: Path | None = setting(
        None, "dormant_props_epoch_<e>.npy, or a folder of them: the last epoch is joined, all are drawn"
    )
    memo: Path | None = setting(None, "memorization scores: .csv with sample_id, .npz with ids, or .npy")
    with_files: tuple[Path, ...] = setting(
        (),
        "further metrics, comma-listed: .csv with sample_id, .npy with sample_ids.npy beside it",
        flags=("--with",),
        keys=("with",),
    )
    flags: Path | None = setting(
        None, "what the metrics should find: .csv with sample_id and columns of 0 and 1, or .npy"
    )
    hardest: int | None = setting(
        None,
        "how many samples are the hardest by a score, whose agreement is told",
        low=1,
        shown="as many as are flagged, else 1 %, but 10",
        needs=("scores",),
    )
    num_samples: int = like(
        CslAggregateSettings,
        "num_samples",
        help="hardest samples that are drawn",
        needs=("scores",),
        unless="",
    )
    dataset: str | None = like(
        DataSettings,
        "dataset",
        help="the data whose images are drawn",
        shown="those that were scored",
        change="free",
        needs=("scores",),
    )
    data_path: Path | None = like(
        DataSettings, "data_path", help="folder of the data, for the images", needs=("scores",)
    )
    by: tuple[GroupName, ...] = setting(("class_id", "task_num"), "what the groups are made by, comma-listed")
    class_map: Path | None = setting(
        None, "names of the classes: .csv with class_id,class_name, or a JSON or YAML object"
    )
    how: Literal["inner", "outer"] | None = setting(
        None, "where sources name different samples: keep those in all, or those in any", shown="an error"
    )
    assume_index: bool = setting(
        False, "an array without ids holds sample 0, 1, 2 …, as the original scripts' arrays"
    )
    parquet: bool = setting(False, "write per_sample.parquet too (needs pyarrow)")

    def check(self) -> None:
        super().check()
        named = (
            self.tracking,
            self.csl,
            self.lt,
            self.scores,
            self.curvature,
            self.dormant,
            self.memo,
            *self.with_files,
        )
        if not any(named):
            raise SettingsError(
                "no metrics",
                "pass --csl, --lt, --scores, --curvature, --dormant, --memo, --tracking or --with",
            )

    def idle(self) -> dict[str, str]:
        unnamed = without_effect("class_id" not in self.by, "without class_id in --by", "class_map")
        return super().idle() | unnamed
