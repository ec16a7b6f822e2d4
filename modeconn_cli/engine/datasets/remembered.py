"""What a checkpoint remembers of the data that its network was trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import UnionType
from typing import TypeVar

from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.registry import DATASETS, FOLDERS, fold, is_import_path
from modeconn_cli.engine.settings.shared import DataSettings

S = TypeVar("S", bound=DataSettings)


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """The data settings of a training, under their own names; `label_noise` is None for clean labels.

    `whole`: all of them are said. What the family of a network implies, or an older file says, may be a part only.
    """

    dataset: str | None = None
    data_arg: tuple[str, ...] = ()
    val_size: int | None = None
    val_per_class: int | None = None
    transform: str | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    image_size: int | None = None
    max_samples: int | None = None
    label_noise: float | None = None
    label_seed: int | None = None
    whole: bool = True

    def entries(self) -> dict[str, object]:
        """The same as files and records hold it, with lists for tuples."""
        said = {name: getattr(self, name) for name in KINDS}
        if not self.whole:
            said = {name: value for name, value in said.items() if value not in (None, ())}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in said.items()}


# The types that files hold these settings in.
KINDS: dict[str, type | UnionType] = {
    "dataset": str,
    "data_arg": list,
    "val_size": int,
    "val_per_class": int,
    "transform": str,
    "mean": list,
    "std": list,
    "image_size": int,
    "max_samples": int,
    "label_noise": int | float,
    "label_seed": int,
}


def canonical(name: str) -> str:
    """The registered spelling of a data set's name; case, `-` and `_` do not matter. Paths stay as they are."""
    folded = {fold(key): key for key in DATASETS}
    folded |= {fold(each): name for name, known in FOLDERS.items() for each in known}
    return folded.get(fold(name), name)


def completed(settings: S, remembered: Remembered | None) -> S:
    """The settings, and where they say nothing what a checkpoint remembers, unless they name another data set.

    Raises SettingsError where a checkpoint alone names a data factory, which would run its code.
    """
    if remembered is None:
        return settings
    if settings.dataset is not None and canonical(settings.dataset) != canonical(remembered.dataset or ""):
        return settings
    known = {name: value for name in KINDS if (value := getattr(remembered, name)) not in (None, ())}
    missing = {name: value for name, value in known.items() if getattr(settings, name) in (None, ())}
    if "dataset" in missing and is_import_path(missing["dataset"]):
        raise SettingsError(
            f"the checkpoint names the data factory '{missing['dataset']}', which would run code",
            f"pass --dataset {missing['dataset']} if you trust it",
        )
    return replace(settings, **missing)
