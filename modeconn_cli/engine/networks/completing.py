"""What checkpoints bring where settings say nothing: the network, its data, and how it was trained.

Opening a subject asks for it, a command before it records its settings, and `--print-config`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from modeconn_cli.engine import datasets, names
from modeconn_cli.engine.datasets.remembered import NOISE, OF_A_FILE, of_same_data
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.factories import words_of
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints
from modeconn_cli.engine.networks.checkpoints import About, Checkpoint, epochs
from modeconn_cli.engine.networks.models.recognise import recognised
from modeconn_cli.engine.registry import canonical_model, is_import_path
from modeconn_cli.engine.settings.base import Settings, specs
from modeconn_cli.engine.settings.scoring import RunFolderSettings, ScoringSettings
from modeconn_cli.engine.settings.shared import (
    DataSettings,
    MeasuredDataSettings,
    ModelSettings,
    NetworkSettings,
)

S = TypeVar("S", bound=NetworkSettings)

ONE_CHANNEL = {"data_arg": ("channels=1",)}  # of a folder's images, for a network that takes no more


def completed(settings: S, about: About, path: Path) -> S:
    """The settings, and where they say nothing what the checkpoint at `path` says, which counts as nobody's wish.

    It comes before what stands for every command of a project.
    """
    own = settings.without_standing()
    lacking = {
        name: value
        for name, value in _said(own, about, path).items()
        if name in settings.from_checkpoint and getattr(own, name) in (None, ())
    }
    kept = {name: getattr(settings, name) for name in settings.standing if name not in lacking}
    if (
        about.data is not None
    ):  # it says how its data are read, and of a factory of the user's which one it is
        same = kept.get("dataset") == about.data.dataset
        said = {spec.name for spec in specs(MeasuredDataSettings) if not spec.machine} - {
            *(["dataset"] * same)
        }
        kept = {name: value for name, value in kept.items() if name not in said}
    return replace(own, **kept).with_brought(lacking) if lacking or settings.standing else settings


def _said(settings: NetworkSettings, about: About, path: Path) -> dict[str, Any]:
    """What a checkpoint says that these settings are about, by their names."""
    out: dict[str, Any] = {}
    if about.model is not None:
        model = canonical_model(about.model)
        if settings.model in (None, model):
            out["model_arg"] = words_of(about.model_args)
        if not is_import_path(model):  # a checkpoint alone does not run code
            out["model"] = model
    out |= {"num_classes": about.num_classes, "wd": about.wd, "run_idx": names.run_of(path)}
    if about.wd is not None and getattr(settings, "weight_decay", 0.0) is None:
        # In the loss of scores as the optimizer minimised it; of none there are no forms.
        out |= {"weight_decay": float(about.wd), "wd_form": "half" if about.wd else None}
    noise = names.noise_of(path)  # the file's name, then what the checkpoint says of its labels
    if noise is None and about.data is not None and about.data.whole:
        noise = about.data.label_noise or 0.0
    out["noise_level"] = noise
    tasks = about.tasks or {}
    plan = {"classes_per_task": tasks.get("per_task"), "epochs_per_task": tasks.get("epochs")}
    out |= {name: value for name, value in plan.items() if isinstance(value, int)}
    if isinstance(settings, DataSettings):
        out |= of_same_data(settings, about.data)
        out |= _kept_flips(settings, about, path)
        out |= _of_same_files(settings, about)
    return {name: value for name, value in out.items() if value not in (None, ())}


def _kept_flips(settings: DataSettings, about: About, path: Path) -> dict[str, Any]:
    """The flips of a run that are not made anew: the table beside its checkpoints, else the file that was read then.

    Raises InputError where neither is there.
    """
    said = about.data
    if said is None or said.noise_kind not in OF_A_FILE or not of_same_data(settings, said):
        return {}
    if settings.noise_file is not None or settings.label_noise is not None:
        return {}
    beside = names.file_of(path).parent / names.LABEL_NOISE
    places = [beside] + ([] if said.noise_file is None else [Path(said.noise_file).expanduser()])
    found = next((place for place in places if names.file_of(place).is_file()), None)
    if found is None:
        raise InputError(
            f"the labels that '{path}' was trained on lie in {names.LABEL_NOISE} beside it, which is not there",
            "pass it as --noise-file, or --label-noise 0 for clean labels",
        )
    if said.noise_kind != "instance":
        return {"noise_file": found}
    return {"noise_file": found, **{name: getattr(said, name) for name in NOISE}}


def _of_same_files(settings: DataSettings, about: About) -> dict[str, Any]:
    """How the images of a folder were read for the network of a checkpoint: in one channel, and how large."""
    shape, remembered = about.input_shape or (), about.data.dataset if about.data is not None else None
    folder = settings.dataset or remembered
    if folder is None or not datasets.is_folder(folder):
        return {}
    out = ONE_CHANNEL if shape[:1] == (1,) and settings.dataset else {}
    trained_on = folder == remembered and about.data is not None and about.data.image_size is None
    return out | ({"image_size": shape[1]} if trained_on and len(set(shape[1:])) == 1 else {})


def completed_by_sources(settings: Settings) -> tuple[Settings, dict[str, str]]:
    """The settings as a command completes them by the files that they name, and the origin of each such value."""
    if not isinstance(settings, ModelSettings):
        return settings, {}
    read: list[Checkpoint] = []
    for path in _candidates(settings):
        read.append(checkpoints.read(path, state_key=settings.state_key, allow_nonfinite=True))
        if read[-1].about.data is not None:
            break
    if not read:
        return settings, {}
    found = deciding(read)
    with contextlib.suppress(SettingsError):  # what cannot be recognised stays as it is
        found = recognised(found, settings, Runtime())
    done = completed(settings, found.about, found.path)
    return done, dict.fromkeys(done.brought, f"checkpoint {found.path}")


def _candidates(settings: ModelSettings) -> list[Path]:
    """The files among which one decides what network and data are; none that is not there."""
    words = settings.sources
    if isinstance(settings, RunFolderSettings):
        meant = [list(epochs.meant(word, settings, Runtime(), gaps=True)) for word in words]
        # A run speaks by the first checkpoint that is scored.
        alone = isinstance(settings, ScoringSettings)
        words = tuple(path for paths in meant for path in (paths[:1] if alone else paths))
    return [path for path in words if names.file_of(path).is_file()]


def deciding(read: Sequence[Checkpoint]) -> Checkpoint:
    """Which of several checkpoints says what network and data are: the first that knows its data, else the first."""
    return next((each for each in read if each.about.data is not None), read[0])
