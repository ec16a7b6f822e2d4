"""Settings of every command that scores samples under the checkpoints of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.settings.base import Settings, setting, specs, without_effect
from modeconn_cli.engine.settings.shared import (
    ComputeSettings,
    DistributedSettings,
    FolderSettings,
    MeasuredDataSettings,
    ModelSettings,
    SplitName,
)


@dataclass(frozen=True, kw_only=True)
class EpochSettings(Settings):
    """Which checkpoints of a run."""

    start_epoch: int | None = setting(None, "first epoch", low=0, shown="the first one found", change="grow")
    end_epoch: int | None = setting(
        None, "last epoch, included", low=0, shown="the last one found", change="grow"
    )
    epoch_step: int = setting(1, "epochs from one to the next", low=1, flags=("--step",), change="grow")

    @property
    def gaps(self) -> bool:
        """Whether epochs of the range may be missing."""
        return False

    @property
    def run(self) -> int | None:
        """Which run is meant, where a folder holds several."""
        return None

    @property
    def last_alone(self) -> bool:
        """Whether only the last checkpoint of the range is meant."""
        return False


@dataclass(frozen=True, kw_only=True)
class RunFolderSettings(EpochSettings):
    """Which files of a folder are the checkpoints of a run."""

    pattern: str | None = setting(
        None,
        "names of a folder's checkpoints, {epoch} in the place of the number, * for any text: 'step{epoch}.pt', "
        "'checkpoint-{epoch}/model.safetensors'",
        shown="by the names and the files' own epochs",
    )

    def check(self) -> None:
        super().check()
        words = self.pattern
        if words is not None and (
            words.count("{epoch}") != 1 or words[:1] in "/~" or ".." in words.split("/")
        ):
            raise SettingsError(
                f"--pattern '{words}' must be a name inside the folder with {{epoch}} in it once",
                "for example --pattern 'step{epoch}.pt'",
            )


EPOCHS = tuple(spec.name for spec in specs(RunFolderSettings))


@dataclass(frozen=True, kw_only=True)
class ScoringSettings(
    ModelSettings,
    MeasuredDataSettings,
    ComputeSettings,
    DistributedSettings,
    FolderSettings,
    RunFolderSettings,
):
    """Every sample under the checkpoints of a run."""

    places = (("checkpoint_dir",),)

    checkpoint: Path | None = setting(
        None,
        "one checkpoint instead of a folder of them; scoring one after the other into one folder adds up",
        change="free",
        adds_up=True,
    )
    checkpoint_dir: Path | None = setting(
        None, "folder of the run's checkpoints: checkpoint-<e>.pt, and as other trainers name them"
    )
    allow_missing: bool = setting(False, "leave out missing epochs of the range, and say so", change="free")
    seen_classes: bool = setting(
        False,
        "of a run that learnt classes task by task: samples of classes not seen by an epoch are NaN, losses are over "
        "the classes seen",
    )
    class_order: Path | None = setting(
        None,
        "the classes in the order they were learnt, .npy",
        shown="the run's own",
        needs=("seen_classes",),
    )
    classes_per_task: int | None = setting(
        None, "classes added at a time", low=1, shown="the run's own, else 5", needs=("seen_classes",)
    )
    epochs_per_task: int | None = setting(
        None, "epochs of a task", low=1, shown="the run's own, else 200", needs=("seen_classes",)
    )
    split: SplitName = setting("all-train", "which samples; all-train is the whole training file")
    allow_nonfinite: bool = setting(False, "accept NaN and infinity in the weights", change="free", rare=True)

    @classmethod
    def of_words(cls, words: Sequence[str]) -> Mapping[str, str | list[str]]:
        """A folder is that of a run, a file one checkpoint; of what is not there the ending tells which is meant."""
        given, path = super().of_words(words), names.file_of(Path(words[0]))
        folder = path.is_dir() or not (path.exists() or path.suffix)
        return given if folder else {"checkpoint": words[0]}

    @property
    def sources(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.checkpoint, self.checkpoint_dir) if path is not None)[:1]

    @property
    def gaps(self) -> bool:
        return self.allow_missing

    @property
    def scores_by_seed(self) -> bool:
        """Whether the command's seed decides which of the labels that are scored are flipped."""
        return self.flips_by_seed and self.split != "test"

    def check(self) -> None:
        super().check()
        if (self.checkpoint is None) == (self.checkpoint_dir is None):
            raise SettingsError(
                "give either one checkpoint or a folder of them", "pass --checkpoint or --checkpoint-dir"
            )

    def idle(self) -> dict[str, str]:
        alone, untouched = self.checkpoint is not None, self.split == "test"
        return {
            **super().idle(),
            **without_effect(alone, "with --checkpoint", *EPOCHS, "allow_missing"),
            **without_effect(untouched, "with --split test, whose labels are never flipped", "labels"),
        }
