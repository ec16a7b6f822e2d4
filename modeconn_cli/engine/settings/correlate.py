"""Settings of `mcx correlate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.settings.base import setting, without_effect
from modeconn_cli.engine.settings.shared import FigureSettings, FolderSettings

GroupName = Literal["class_id", "task_num"]


@dataclass(frozen=True, kw_only=True)
class CorrelateSettings(FigureSettings, FolderSettings):
    """Every per-sample metric joined by sample id."""

    tracking: Path | None = setting(None, "sample_tracking_data_final.csv of a run")
    csl: Path | None = setting(
        None, "csl_*.npy, or the folder of mcx csl aggregate (its lt_*.npy is taken too)"
    )
    lt: Path | None = setting(None, "lt_*.npy, or the folder that holds it")
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
        named = self.tracking, self.csl, self.lt, self.curvature, self.dormant, self.memo, *self.with_files
        if not any(named):
            raise SettingsError(
                "no metrics", "pass --csl, --lt, --curvature, --dormant, --memo, --tracking or --with"
            )

    def idle(self) -> dict[str, str]:
        unnamed = without_effect("class_id" not in self.by, "without class_id in --by", "class_map")
        return super().idle() | unnamed
