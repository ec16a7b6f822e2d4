"""Settings of the `mcx csl` commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modeconn_cli.engine.settings.base import Settings, like, setting, without_effect
from modeconn_cli.engine.settings.scoring import EpochSettings, ScoringSettings
from modeconn_cli.engine.settings.shared import DataSettings, FigureSettings, FolderSettings

ExportName = Literal["aum", "cartography", "feldman", "cleanlab"]


@dataclass(frozen=True, kw_only=True)
class NameSettings(Settings):
    """How the arrays are called."""

    run_idx: int | None = setting(
        None, "number of the run in file names", low=0, shown="the run's own, else 1"
    )
    noise_level: float | None = setting(
        None, "noise level in file names", low=0, shown="the run's own, else 0.01"
    )


@dataclass(frozen=True, kw_only=True)
class CslScoreSettings(ScoringSettings, NameSettings):
    """Score every sample at every checkpoint."""

    grad: Literal["param", "input", "none"] = setting(
        "param", "gradient norm by the parameters, by the input, or none"
    )
    weight_decay: float | None = setting(
        None, "weight decay in the loss; 0 leaves it out", low=0, shown="the run's own, else 1e-4"
    )
    wd_form: Literal["seed", "half"] | None = setting(
        None,
        "seed adds wd·Σp² as documented, half ½·wd·Σp² as SGD minimises",
        shown="half for the run's own decay, else seed",
    )
    scheme: Literal["long", "short"] = setting("long", "file names with run and noise, or without")
    vog: bool = setting(
        False,
        "variance of gradients too: one backward pass by the input more, and two copies of the images on the disk",
    )
    compat: Literal["vog"] | None = setting(
        None, "vog: the mean over an image's channels first, as the original code", needs=("vog",)
    )

    @property
    def run(self) -> int | None:
        return self.run_idx

    def idle(self) -> dict[str, str]:
        short = self.scheme == "short"
        return {
            **super().idle(),
            **without_effect(self.weight_decay == 0, "with --weight-decay 0", "wd_form"),
            **without_effect(short, "with --scheme short", "noise_level"),
            **without_effect(short and self.checkpoint is not None, "with --scheme short", "run_idx"),
            **without_effect(not self.scores_by_seed, "without random labels", "seed"),
        }


@dataclass(frozen=True, kw_only=True)
class CslAggregateSettings(FigureSettings, FolderSettings, EpochSettings, NameSettings):
    """Cumulative sample loss and learning time from the arrays of a run."""

    places = (("input_dir",),)

    input_dir: Path = setting(
        None,
        "folder of the loss_*.npy and loss_grad_*.npy",
        missing=("no arrays", "pass --input-dir DIR, or --from FILE for other tools' files"),
        unless="from_files",
    )
    from_files: tuple[Path, ...] = setting(
        (),
        "files of other tools, or a folder of them, in the place of arrays: aum's records, cartography's "
        "training_dynamics, cleanlab's labels and pred_probs, memorization scores; comma-listed",
        flags=("--from",),
        keys=("from",),
        gathers=True,
    )
    id_map: Path | None = setting(
        None,
        "which sample each id of these files is: .csv with guid,sample_id",
        shown="ids are sample ids",
        needs=("from_files",),
    )
    dataset: str | None = setting(
        None,
        "data set in the file names, or the data themselves as for csl score; its images are drawn where they are",
        shown="the only one there, with the data that were scored",
        change="free",  # which arrays are meant is the job's key, and what is drawn its listing
    )
    data_path: Path | None = like(
        DataSettings, "data_path", help="folder of the data, for the images", unless="from_files"
    )
    scheme: Literal["long", "short"] | None = setting(
        None, "naming scheme", shown="the only one there", unless="from_files"
    )
    strict_grads: bool = setting(
        False, "missing gradient norms of an epoch are an error", unless="from_files"
    )
    loss_as_grad: bool = setting(False, "take the losses for gradient norms throughout", unless="from_files")
    allow_missing: bool = setting(False, "leave out missing epochs of the range, and say so")
    class_order: Path | None = setting(
        None,
        "classes in the order they were learnt, .npy: NaN before a class was seen is no fault",
        unless="from_files",
    )
    assume_index: bool = setting(
        False,
        "arrays without ids hold sample 0, 1, 2 …, as the original scripts' do; without it no sample is named",
    )
    el2n_epoch: int = setting(
        10, "epoch of the scores el2n and grand; the paper's are of about the tenth", low=0
    )
    lr: float | None = setting(
        None, "learning rate of every epoch, for tracin_self", low=0, shown="what each checkpoint says"
    )
    swapped_dir: Path | None = setting(
        None,
        "of train --two-phase the arrays of the run with its halves swapped: second-split forgetting of all samples",
        unless="from_files",
    )
    num_samples: int = setting(
        10, "hardest and easiest samples that are drawn", low=1, change="free", unless="from_files"
    )
    export: tuple[ExportName, ...] = setting(
        (),
        "write the files of these tools too, in their definitions, comma-listed",
        change="grow",
    )

    @property
    def undrawn(self) -> str:
        return "with --from" if self.from_files else super().undrawn
