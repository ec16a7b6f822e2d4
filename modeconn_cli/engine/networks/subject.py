"""Opens what a command works on: networks, recognised and built, and the data that belong to them.

Settings that name a network and its data stop here: below, plain values go on. What they do not say a checkpoint
brings (`completing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from modeconn_cli.engine import datasets
from modeconn_cli.engine.datasets import Data
from modeconn_cli.engine.datasets.noise import Flips
from modeconn_cli.engine.errors import InputError, McxError, SettingsError
from modeconn_cli.engine.factories import source_of
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints, extra, models, weights
from modeconn_cli.engine.networks.checkpoints import About, Checkpoint
from modeconn_cli.engine.networks.completing import ONE_CHANNEL, completed
from modeconn_cli.engine.networks.forward import forward
from modeconn_cli.engine.networks.independent import TRIED, check_independent
from modeconn_cli.engine.networks.models import Architecture
from modeconn_cli.engine.networks.models.recognise import fits, recognised, with_classes_of
from modeconn_cli.engine.registry import DATASETS, canonical_dataset, is_import_path
from modeconn_cli.engine.settings.shared import (
    DataSettings,
    FileSettings,
    ModelSettings,
    NetworkSettings,
)

S = TypeVar("S", bound=NetworkSettings)

# `the data's shape`: where anything names data; whether the network knows their classes does not matter.
Needed = Literal["data", "data without held-out images", "the data's shape", "no data"]

A_POINT = "take a point of it with mcx curve extract"


@dataclass(frozen=True)
class Subject:
    """Networks of one architecture, and the data they were trained on or that the settings name.

    `model` is on the device and holds the weights of the first of `checkpoints`; of a network that is yet to be
    trained there are none. `about` is what the first checkpoint says of itself.
    """

    model: nn.Module
    arch: Architecture
    about: About
    checkpoints: tuple[Checkpoint, ...]
    loaded: Data | None

    @property
    def data(self) -> Data:
        """The data. A subject that was opened without any has none to give."""
        if self.loaded is None:
            raise ValueError("opened without data")
        return self.loaded

    def check_independent(self) -> None:
        """Raises InputError where what the network gives for a sample depends on the rest of its batch."""
        images = next(iter(self.data.held_out.batches(TRIED))).images
        check_independent(self.model, images, self.data.num_classes)

    def trained(self, settings: NetworkSettings, *, seed: int, wd: float, **more: Any) -> About:
        """What every checkpoint of a training says of itself: network, data, and what it was trained with."""
        return self.arch.about(
            data=self.data.remembered,
            seed=seed,
            wd=wd,
            buffers=tuple(weights.not_parameters(self.model)),
            settings=settings.lasting(),
            **more,
        )


def read(
    path: Path,
    settings: FileSettings,
    runtime: Runtime,
    *,
    allow_nonfinite: bool = False,
    hint: str = A_POINT,
) -> Checkpoint:
    """The checkpoint of a network. Raises InputError for one that is broken, and with `hint` for a curve."""
    try:
        found = checkpoints.read(path, state_key=settings.state_key, allow_nonfinite=allow_nonfinite)
    except InputError as error:
        if "--allow-nonfinite" in error.hint and not hasattr(settings, "allow_nonfinite"):
            raise InputError(error.message) from error  # the command has no such flag
        raise
    if found.is_curve:
        raise InputError(f"'{path}' is a curve, not a network", hint)
    runtime.detail(found.found())
    for remark in found.remarks:
        runtime.note(remark, once=True)
    return found


def read_own(path: Path) -> Checkpoint:
    """A checkpoint that the command itself has written: no flag of the user's says how it is read.

    Raises InputError for one that is broken, and where the last step of the training has left no finite weights.
    """
    found = checkpoints.read(path, allow_nonfinite=True)
    try:
        checkpoints.check_finite(found.state, path, found.about.buffers)
    except InputError as error:
        raise InputError(error.message, "use a smaller --lr") from error
    return found


def open_networks(
    read: Sequence[Checkpoint], settings: ModelSettings, runtime: Runtime, needed: Needed = "data"
) -> Subject:
    """The subject of one checkpoint or of several of one network; the first says which network and which data.

    Raises SettingsError where nobody says which network or which data, InputError where weights, network and data
    do not go together. The checkpoints of the subject have the names of the network.
    """
    first = read[0]
    for other in read[1:]:
        if weights.prefixes(first.state, other.state):
            continue  # which the network's own names decide
        alike = weights.named_as(other.state, first.state)
        weights.check_alike(first.state, alike, str(first.path), str(other.path))
    first = recognised(first, settings, runtime)
    found = open_described(first.about, first.path, settings, runtime, needed, first.state)
    for each in read[1:]:
        check_said(each, found.arch, settings)
    own = found.model.state_dict()
    named = tuple(named_as(each, own, runtime) for each in (first, *read[1:]))
    for each in named[1:]:
        extra.check(named[0], each)
    for each in reversed(named):
        weights.load_into(found.model, each.whole, str(each.path))
    return replace(found, checkpoints=named)


def named_as(
    read: Checkpoint, wanted: Mapping[str, Any], runtime: Runtime, *, some: bool = False
) -> Checkpoint:
    """The checkpoint under the names of a network (`Checkpoint.named_as`), and a note of what that leaves out."""
    named = read.named_as(wanted, some=some)
    for remark in named.remarks[len(read.remarks) :]:
        runtime.note(remark, once=True)
    return named


def check_said(read: Checkpoint, arch: Architecture, settings: NetworkSettings) -> None:
    """Raises InputError where a checkpoint says that it holds another network than `arch`, and no setting says which is
    meant: their tensors may have the same names and shapes.
    """
    said, wished = (
        read.about,
        {name for name in ("model", "model_arg") if getattr(settings, name)} - {*settings.brought},
    )
    if said.model is None or "model" in wished:
        return
    mine, its = arch.model, said.model
    if mine == its and "model_arg" not in wished and dict(said.model_args) != dict(arch.args):
        mine, its = f"{mine} of {dict(arch.args)}", f"{its} of {dict(said.model_args)}"
    if mine != its:
        raise InputError(
            f"'{read.path}' holds {its}, the first checkpoint {mine}",
            "pass --model with the network that is meant",
        )


def open_untrained(
    settings: NetworkSettings,
    runtime: Runtime,
    *,
    watched: bool,
    measured: bool = True,
    taught: Flips | None = None,
) -> Subject:
    """The subject of a training: a network with fresh weights, and its data; `measured`: on images that are held out.
    `taught` are the flips of labels that a teacher has made.

    Raises SettingsError where early stopping watches (`watched`) validation images and there are none.
    """
    needed: Needed = "data" if measured else "data without held-out images"
    found = open_described(About(), None, settings, runtime, needed, taught=taught)
    check_watched(found.data, watched=watched)
    return found


def check_watched(data: Data, *, watched: bool) -> None:
    """Raises SettingsError where early stopping has nothing to watch."""
    if watched and len(data.val) == 0:
        raise SettingsError(
            "early stopping watches validation images and there are none", "pass --val-size N"
        )


def open_described(
    about: About,
    path: Path | None,
    settings: NetworkSettings,
    runtime: Runtime,
    needed: Needed = "data",
    state: Mapping[str, Tensor] | None = None,
    taught: Flips | None = None,
) -> Subject:
    """The network that a file at `path` describes, with fresh weights, and its data.

    Classes are those of a flag, the file's own word, those of the weights `state` that it is to hold, the data's, in
    this order; the images' shape is the data's before the file's.
    """
    if path is not None:
        settings = completed(settings, about, path)
    settings = _of_files(settings)
    data = load_data(about, settings, runtime, needed, measured=path is not None, taught=taught)
    arch = _architecture(settings, about, path, data, state)
    if data is not None and data.begins_grey and not _takes(arch, state):
        data, arch = _in_one_channel(data, arch, about, path, settings, runtime, state, taught)
    if about.model not in (None, arch.model):
        runtime.warn(f"'{path}' says it holds {about.model}: read as {arch.model}, as --model says")
    if data is not None and needed != "the data's shape":
        _check_fits(arch, data, about, state, runtime)
    model = models.build(arch, note=runtime.note)
    if _shape(settings, data) is None:
        arch = models.with_own_example(arch, model, settings, about)
    if is_import_path(arch.model):
        runtime.opened.code[arch.model] = source_of(arch.model)
    return Subject(model.to(runtime.device), arch, about, (), data)


def _architecture(
    settings: NetworkSettings,
    about: About,
    path: Path | None,
    data: Data | None,
    state: Mapping[str, Tensor] | None,
) -> Architecture:
    arch = models.architecture(
        settings,
        about,
        path,
        num_classes=None if data is None else data.num_classes,
        input_shape=_shape(settings, data),
    )
    return with_classes_of(arch, state) if state is not None and settings.num_classes is None else arch


def _in_one_channel(
    data: Data,
    arch: Architecture,
    about: About,
    path: Path | None,
    settings: NetworkSettings,
    runtime: Runtime,
    state: Mapping[str, Tensor] | None,
    taught: Flips | None,
) -> tuple[Data, Architecture]:
    """Grey image files in one channel, and the network for them, where it takes that and nobody says three.

    Of a network that is not ours nothing is guessed: it has been tried with three.
    """
    if not isinstance(settings, DataSettings) or settings.data_arg or settings.input_shape:
        return data, arch
    grey = replace(data, input_shape=(1, *data.input_shape[1:]))
    arch_of_one = _architecture(settings, about, path, grey, state)
    if not _takes(arch_of_one, state):
        return data, arch
    runtime.note(f"images of '{data.name}' are read as grey, in the one channel that the network takes")
    again = settings.with_brought(ONE_CHANNEL)
    data = datasets.load(again, runtime.device, held_out=len(data.held_out) > 0, taught=taught)
    runtime.opened.take_data(data.identity)
    return data, arch_of_one


def _takes(arch: Architecture, state: Mapping[str, Tensor] | None) -> bool:
    """Whether a network has these weights, and its forward takes images of the shape that it is built for."""
    if state is not None and not fits(arch, state):
        return False
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            forward(models.build(arch).eval(), torch.zeros(2, *arch.input_shape))
    except McxError:
        return False
    return True


def load_data(
    about: About,
    settings: NetworkSettings,
    runtime: Runtime,
    needed: Needed,
    *,
    measured: bool = True,
    taught: Flips | None = None,
) -> Data | None:
    """The data that the settings name, else those that a checkpoint remembers.

    `measured`: a network is there already, and was trained on images of some transform. Raises SettingsError where a
    checkpoint alone names a data factory, which would run its code.
    """
    if needed == "no data" or not isinstance(settings, DataSettings):
        return None
    if needed == "the data's shape" and settings.dataset is None:
        return None
    factory = None if about.data is None else about.data.dataset
    if settings.dataset is None and factory is not None and is_import_path(factory):
        raise SettingsError(
            f"the checkpoint names the data factory '{factory}', which would run code",
            f"pass --dataset {factory} if you trust it",
        )
    data = datasets.load(
        settings,
        runtime.device,
        held_out=needed != "data without held-out images",
        seen=not runtime.dry_run and needed != "the data's shape",
        taught=taught,
    )
    if needed != "the data's shape":  # on whose images no result depends
        runtime.opened.take_data(data.identity)
    for doubt in data.doubts:
        runtime.warn(doubt)
    for remark in data.remarks:
        runtime.note(remark, once=True)
    if needed != "the data's shape" and settings.transform is None and not settings.mean:
        _say_transform(data, runtime, measured=measured)
    implied = about.data
    if implied is not None and not implied.whole and implied.dataset == data.name:
        applied = data.fit.transform
        usual = applied.name == implied.transform and not applied.has_own_statistics
        said = ", as networks of this kind are trained" if usual else ""
        runtime.note(f"evaluated on {data.name} with {applied.said}{said}")
    return data


def _say_transform(data: Data, runtime: Runtime, *, measured: bool) -> None:
    """What is done to the images where nobody has said it: it may not be what the network was trained with."""
    transform = data.fit.transform
    another = "--transform, or --mean and --std, say another"
    if measured:
        runtime.note(
            f"images go through {transform.spelled}, the default of '{data.name}', as no checkpoint says its own: "
            f"{another}",
            once=True,
        )
    elif transform.name != "none" and canonical_dataset(data.remembered.dataset or "") not in DATASETS:
        more = transform.augmentation
        training = f"; in training {more}" if more else ""
        runtime.note(
            f"images go through {transform.spelled}{training} (default of '{data.name}': {another})",
            once=True,
        )


def _check_fits(
    arch: Architecture, data: Data, about: About, state: Mapping[str, Tensor] | None, runtime: Runtime
) -> None:
    """Raises InputError where a network with these weights cannot take the images or the labels of a data set,
    SettingsError where one that is yet to be trained has too few classes.
    """
    if arch.num_classes is not None and arch.num_classes < data.num_classes:
        what = f"the network has {arch.num_classes} classes, data set '{data.name}' has {data.num_classes}"
        if state is not None:
            raise InputError(what, "choose the --dataset that it was trained on")
        raise SettingsError(what, f"pass --num-classes {data.num_classes}")
    trained_on = about.input_shape
    if trained_on in (None, data.input_shape):
        return
    shapes = f"data set '{data.name}' has images {data.input_shape}, the network was trained on {trained_on}"
    if state is None or not fits(arch, state):
        raise InputError(shapes)
    runtime.warn(f"{shapes}: it is used on the data's")


def _of_files(settings: S) -> S:
    """The settings with the size and the channel of a folder's images that --input-shape says: files have none."""
    shape = settings.input_shape
    if not (isinstance(settings, DataSettings) and settings.dataset and datasets.is_folder(settings.dataset)):
        return settings
    said: dict[str, Any] = {}
    if shape[:1] == (1,) and not settings.data_arg:
        said |= ONE_CHANNEL
    if len(shape) == 3 and shape[1] == shape[2] and settings.image_size is None:
        said["image_size"] = shape[1]
    return settings.with_brought(said)


def _shape(settings: NetworkSettings, data: Data | None) -> tuple[int, ...] | None:
    """The images' shape: the data's, else of an image's size that the settings name."""
    if data is not None:
        return data.input_shape
    size = settings.image_size if isinstance(settings, DataSettings) else None
    return None if size is None else (3, size, size)
