"""What a checkpoint remembers of the data that its network was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from types import UnionType
from typing import Any

from modeconn_cli.engine.registry import canonical_dataset, is_import_path
from modeconn_cli.engine.settings.shared import DataSettings


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """The data settings of a training, under their own names; `label_noise` is None for clean labels.

    `noise_kind` is None for uniform noise, `file` for labels of a file; `noise_file` is the one that was read.
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
    noise_kind: str | None = None
    noise_map: str | None = None
    noise_file: str | None = None
    whole: bool = True

    def entries(self) -> dict[str, object]:
        """The settings as files and records hold them, with lists for tuples."""
        said = {name: getattr(self, name) for name in KINDS}
        said |= {name: value for name in NOISE_KINDS if (value := getattr(self, name)) is not None}
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

# The same of noise that is not uniform, which only those files say that have such labels.
NOISE_KINDS: dict[str, type | UnionType] = {"noise_kind": str, "noise_map": str, "noise_file": str}
NOISE = ("label_noise", "label_seed", "noise_kind", "noise_map")
OF_A_FILE = ("instance", "file")  # kinds whose flips are kept beside the checkpoints, and not made anew


# Settings that say one thing in two ways: where one is given, the other is not taken from a checkpoint.
_ALTERNATIVES = {"val_size": "val_per_class", "val_per_class": "val_size"}


def of_same_data(settings: DataSettings, remembered: Remembered | None) -> dict[str, Any]:
    """What is remembered of the data that the settings are about; nothing where they name another data set.

    A data factory is left out: a checkpoint alone does not run code.
    """
    if remembered is None:
        return {}
    name = canonical_dataset(remembered.dataset or "")
    if settings.dataset not in (None, name):
        return {}
    known = {name: getattr(remembered, name) for name in KINDS}
    if remembered.noise_kind == "asymmetric":
        known |= {"noise_kind": "asymmetric", "noise_map": remembered.noise_map}
    if remembered.noise_kind in OF_A_FILE or settings.noise_file is not None:
        known = {name: value for name, value in known.items() if name not in NOISE}
    if is_import_path(name):
        del known["dataset"]
    given = {name for name, other in _ALTERNATIVES.items() if getattr(settings, other) is not None}
    return {name: value for name, value in known.items() if value not in (None, ()) and name not in given}
