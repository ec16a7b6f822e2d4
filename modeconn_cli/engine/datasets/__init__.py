"""Data sets: where the images come from, how they are split, and their ids.

A sample's id is its index in the untransformed source file of its split; (split, id) names it everywhere.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeconn_cli.engine import keyed
from modeconn_cli.engine.datasets import folder, noise, npz, transforms, user
from modeconn_cli.engine.datasets.images import ImageFiles, default_workers
from modeconn_cli.engine.datasets.noise import Flips
from modeconn_cli.engine.datasets.remembered import Remembered
from modeconn_cli.engine.datasets.samples import Batch, Samples
from modeconn_cli.engine.datasets.source import Source, Split, root_of
from modeconn_cli.engine.datasets.stored import Stored
from modeconn_cli.engine.datasets.used import Used, used
from modeconn_cli.engine.errors import InputError, NoDataSet, SettingsError
from modeconn_cli.engine.factories import arguments, call
from modeconn_cli.engine.registry import DATASETS, FOLDERS, canonical_dataset, check_dataset, is_import_path
from modeconn_cli.engine.settings.base import Settings, tilde
from modeconn_cli.engine.settings.shared import DataSettings, MeasuredDataSettings, SplitName

__all__ = ["Batch", "Data", "Remembered", "Samples", "is_folder", "load", "name_of", "refuse_unread"]

TRAINING, LABELS = "set of training samples", "set of training labels"


@dataclass(frozen=True)
class Data:
    """A data set ready for use: `fit` is trained on, `val` is cut from the training file.

    `doubts` are what the user should know of it: images that are left out, or not what the transform expects. `remarks`
    say what was settled without being asked. `class_names` are by label, empty where nobody says them; `folder` is the
    one that files of images lie in. Images that are not `seen` are of no meaning but in shape and type.
    """

    name: str
    num_classes: int
    input_shape: tuple[int, ...]
    fit: Samples
    val: Samples
    test: Samples
    use_test: bool
    remembered: Remembered
    flips: Flips | None = None  # of the training file's labels
    doubts: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    folder: Path | None = None
    seen: bool = True
    all_train: Callable[[], Samples] | None = field(default=None, repr=False)

    def split(self, name: SplitName) -> Samples:
        """`fit`, `val`, `test`, or `all-train`: the training file, `fit` and `val` together."""
        if name == "all-train":
            return self.fit if len(self.val) == 0 or self.all_train is None else self.all_train()
        return {"fit": self.fit, "val": self.val, "test": self.test}[name]

    @property
    def held_out(self) -> Samples:
        """The images that `te_` figures are measured on."""
        return self.test if self.use_test else self.val

    def files_of(self, samples: Samples) -> list[str]:
        """The file of each of these samples, by its place below the data set's folder; empty where there are none."""
        images = samples.images
        if not isinstance(images, ImageFiles):
            return []
        root = self.folder or Path()
        return [
            (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
            for path in images.paths
        ]

    @property
    def begins_grey(self) -> bool:
        """Whether the data are image files that are read in three channels and may all be grey."""
        images = self.fit.images
        return isinstance(images, ImageFiles) and images.channels == 3 and images.begins_grey

    def identity(self) -> dict[str, str]:
        """What tells these samples from others; nothing where nobody has seen them."""
        if not self.seen:
            return {}
        return {
            "data set": self.name,
            TRAINING: self.fit.fingerprint,
            LABELS: self.fit.labelling,
            "set of held-out samples": self.held_out.fingerprint if len(self.held_out) else "",
            "set of held-out labels": self.held_out.labelling if len(self.held_out) else "",
        }

    def flips_said(self) -> list[str]:
        """How many labels the noise has flipped, by what, and where; nothing without noise."""
        if self.flips is None:
            return []
        marked = self.flips.ids[self.flips.flipped]
        parts = {"fit": self.fit, "val": self.val}
        counts = [
            f"{int(torch.isin(samples.ids.cpu(), marked.cpu()).sum()):,} of {len(samples):,} in {name}"
            for name, samples in parts.items()
            if len(samples)
        ]
        what = {
            "uniform": "a probability per label",
            "asymmetric": f"a probability per label, of the classes {self.flips.map}",
            "instance": "a share of all labels, those that the teacher doubts",
            "file": f"of '{self.flips.source}'",
        }[self.flips.kind]
        return [f"label noise {self.flips.share:g}, {what}: flipped are {', '.join(counts)}"]

    def describe(self) -> dict[str, Any]:
        """What a record says about the data."""
        return {
            **self.remembered.entries(),
            "fit": len(self.fit),
            "val": len(self.val),
            "test": len(self.test),
            "held_out": "test" if self.use_test else "val",
            "transform": self.fit.transform.describe(),
        }


def load(
    settings: DataSettings,
    device: torch.device,
    *,
    held_out: bool = True,
    seen: bool = True,
    taught: Flips | None = None,
) -> Data:
    """Read, check, split and move a data set. The subset of --max-samples is the same for every command.

    `taught` are the flips that a teacher has made, where the settings ask for one.
    Images of an archive that are not to be `seen` are not read: a plan, or a network's shape, needs none. Raises
    SettingsError where `held_out` images are needed and there are none.
    """
    if settings.dataset is None:
        raise NoDataSet("no data set", f"pass --dataset ({', '.join(DATASETS)} or an .npz file)")
    name = settings.dataset
    refuse_unread(name, settings)
    source = _source(name, settings)
    if len(source.train) == 0:
        raise InputError(f"data set '{source.name}' has no training images")
    transform = _transform(settings, source)
    # Nobody has asked for the test images of data that have none.
    untested = held_out and settings.use_test and not (len(source.test) or settings.was_given("use_test"))
    use_test = settings.use_test and not untested
    settings = replace(settings, use_test=use_test)
    val_size, held = _validation(settings, source.train.labels)
    clean_labels, ids = source.train.labels, source.train.ids
    if taught is not None:
        flips: Flips | None = noise.placed(taught, clean_labels, ids)
    else:
        flips = noise.flips_of(
            settings, clean_labels, ids, source.num_classes, canonical_dataset(settings.dataset or name)
        )
    clean = isinstance(settings, MeasuredDataSettings) and settings.labels == "clean"
    labels = clean_labels if flips is None or clean else flips.trained
    size = settings.image_size

    def samples(split: Split, rows: Tensor) -> Samples:
        part = split.take(rows)
        images = part.images
        assert not isinstance(images, Stored)  # they have been read by now
        images = transforms.resized(images, size) if isinstance(images, Tensor) else images
        return Samples(images, part.labels, part.ids, transform).to(device)

    fit_rows, val_rows = _subset(settings, ~held, "fit"), _subset(settings, held, "val")
    test_rows = _subset(settings, torch.ones(len(source.test.labels), dtype=torch.bool), "test")
    remarks = (source.remark, _of_no_test(source, held) if untested else "", _of_workers(settings, source))
    rows = torch.cat([fit_rows, val_rows])
    if flips is not None:
        flips.check(rows)
    chosen = used(source, rows, test_rows, size, None if seen else device)
    train, count = replace(chosen.train, labels=labels[rows]), len(fit_rows)
    data = Data(
        name=source.name,
        num_classes=source.num_classes,
        input_shape=tuple(source.train.images.shape[1:]) if size is None else (source.channels, size, size),
        fit=samples(train, torch.arange(count)),
        val=samples(train, torch.arange(count, len(train))),
        test=samples(chosen.test, torch.arange(len(test_rows))),
        flips=flips,
        seen=chosen.seen,
        all_train=lambda: samples(train, rows.argsort() if chosen.seen else torch.arange(len(train))),
        use_test=use_test,
        class_names=source.class_names,
        folder=source.folder,
        remarks=tuple(filter(None, remarks)),
        doubts=tuple(
            filter(
                None,
                (source.doubt, *chosen.doubts, _of_another_range(settings, source.name, chosen, transform)),
            )
        ),
        remembered=Remembered(
            dataset=name,
            data_arg=settings.data_arg,
            val_size=val_size,
            val_per_class=settings.val_per_class,
            transform=transform.name,
            mean=settings.mean,
            std=settings.std,
            image_size=settings.image_size,
            max_samples=settings.max_samples,
            label_noise=None if flips is None else flips.share,
            label_seed=None if flips is None else flips.seed,
            noise_kind=None if flips is None or flips.kind == "uniform" else flips.kind,
            noise_map=None if flips is None else flips.map,
            noise_file=None
            if flips is None or flips.source is None
            else tilde(Path(flips.source).absolute()),
        ),
    )
    if held_out and len(data.held_out) == 0:
        raise SettingsError(
            f"data set '{source.name}' has no {'test' if use_test else 'validation'} images",
            "leave out --val-size to hold a tenth of its images out, or pass --val-size N; mcx train --val-size 0 "
            "--eval-every 0 trains on all of them and measures none"
            if settings.val_size == 0
            else "pass --no-use-test to hold a tenth of its images out, or --val-size N",
        )
    return data


def _transform(settings: DataSettings, source: Source) -> transforms.Transform:
    """What is done to the images: the transform that the settings name, else the source's, with their statistics."""
    transform = transforms.named(settings.transform or source.transform, source.channels)
    if settings.mean or settings.std:
        return transforms.with_statistics(transform, settings.mean, settings.std, source.channels)
    return transform


def _of_no_test(source: Source, held: Tensor) -> str:
    """What is measured on where a data set has no test images and nobody has said what then."""
    return (
        f"'{source.name}' has no test images: {int(held.sum())} of its {len(held)} images are held out for it"
    )


def _of_workers(settings: DataSettings, source: Source) -> str:
    """That nothing reads files here: scripts give every data set the number of workers, which never is a mistake."""
    if isinstance(source.train.images, ImageFiles) or not settings.was_given("workers"):
        return ""
    return f"--workers has no effect: the images of '{source.name}' lie in memory"


def _of_another_range(
    settings: DataSettings, name: str, chosen: Used, transform: transforms.Transform
) -> str:
    """What is wrong where images are floats, and lie elsewhere than the transform's statistics expect them.

    Statistics of one's own are for images of any range, but those of images from 0 to 1 lie there themselves.
    """
    if chosen.span is None or not transform.mean:
        return ""
    low, high = chosen.span
    if low >= 0 and high <= 1:
        return ""
    if settings.mean and (low < 0 or max(settings.mean) > 1):
        return ""
    expects = "--mean and --std are of" if settings.mean else f"transform '{transform.name}' expects"
    said = f"images of '{name}' are floats from {low:.4g} to {high:.4g}, and {expects} 0 to 1: "
    if low < 0 or high > 255:
        return said + "divide them by what is white, or pass --transform none"
    mean, std = (
        ",".join(f"{255 * value:.6g}" for value in values) for values in (transform.mean, transform.std)
    )
    return (
        said
        + f"pass --mean {mean} --std {std} where 255 is white"
        + ("" if settings.mean else ", or --transform none to take them as they are")
    )


def _validation(settings: DataSettings, labels: Tensor) -> tuple[int | None, Tensor]:
    """How many training images are held back (None where that is said per class), and which, bool [N].

    They are the first of each class, or the last of all, of images that lie class by class evenly spaced ones: the
    last would be of a single class. Raises SettingsError where that leaves nothing of a class.
    """
    # Without the test images the figures are measured on a tenth of the training images, as in Garipov's code.
    tenth = 0 if settings.use_test else max(1, len(labels) // 10)
    per_class, size = settings.val_per_class, tenth if settings.val_size is None else settings.val_size
    if size >= len(labels):
        raise SettingsError(f"--val-size {size} leaves nothing of {len(labels)} images")
    if per_class is not None and settings.val_size is not None:
        raise SettingsError("--val-size and --val-per-class both choose validation images", "use one of them")
    held = torch.zeros(len(labels), dtype=torch.bool)
    if per_class is None:
        blocks, classes = int((torch.diff(labels) != 0).sum()) + 1, len(torch.unique(labels))
        if size and blocks == classes > 1:
            held[torch.linspace(0, len(labels), 2 * size + 1, dtype=torch.float64)[1::2].long()] = True
        else:
            held[len(labels) - size :] = True
        return size, held
    for number in torch.unique(labels).tolist():
        own = (labels == number).nonzero()[:, 0]
        if len(own) <= per_class:
            raise SettingsError(
                f"--val-per-class {per_class} leaves nothing of class {number}: {len(own)} images"
            )
        held[own[:per_class]] = True
    return None, held


def _subset(settings: DataSettings, wanted: Tensor, split: str) -> Tensor:
    """The rows that are `wanted`, bool [N], or --max-samples of them, ascending."""
    rows = wanted.nonzero()[:, 0]
    if settings.max_samples is None or settings.max_samples >= len(rows):
        return rows
    drawn = keyed.permutation(0, f"subset of {split}", len(rows))[: settings.max_samples]
    return rows[drawn.sort().values]


def refuse_unread(dataset: str, settings: Settings) -> None:
    """Raises SettingsError for a setting that was given and that a data set does not read."""
    name = canonical_dataset(dataset)
    if is_import_path(name):
        settings.refuse("on a data factory", "data_path", "download")
    elif name.endswith(".npz"):
        settings.refuse("on an .npz file", "data_arg", "download")
    elif is_folder(name):
        settings.refuse("on a folder of images", "download")
    elif name in DATASETS:
        offered = {"folder": "data_path", "download": "download"}
        taken = inspect.signature(_factory(name)).parameters
        unread = [setting for word, setting in offered.items() if word not in taken]
        settings.refuse(f"on the data set {name}", *unread)


def name_of(dataset: str, place: Path | None = None) -> str:
    """The name, `Data.name`, of the data set that --dataset and --data-path mean, without reading it."""
    name = canonical_dataset(dataset)
    if is_import_path(name) or name in DATASETS:
        return name
    if name.endswith(".npz"):
        return Path(name).stem
    return folder.called(root_of(name, place) if name in FOLDERS else Path(name))


def is_folder(name: str) -> bool:
    """Whether a data set is a folder of images, whose files have no shape in common."""
    other = is_import_path(name) or name.endswith(".npz")
    return not other and (name in FOLDERS or "/" in name or Path(name).is_dir())


def _factory(name: str) -> Callable[..., Source]:
    """What makes a registered data set. Raises SettingsError with the closest name."""
    check_dataset(name)
    module, function = DATASETS[name].split(":")
    found: Callable[..., Source] = getattr(
        importlib.import_module(f"modeconn_cli.engine.datasets.{module}"), function
    )
    return found


def _source(name: str, settings: DataSettings) -> Source:
    """Read the data set that a name means. Raises SettingsError with the closest registered name."""
    args, place = arguments(settings.data_arg, "--data-arg"), settings.data_path
    if is_import_path(name):
        return user.read(name, args)
    if name.endswith(".npz"):
        return npz.read(_look_up(Path(name), place))
    if is_folder(name):
        workers = default_workers() if settings.workers is None else settings.workers
        root = root_of(name, place) if name in FOLDERS else _look_up(Path(name), place)
        read = partial(folder.read, root, settings.image_size, workers)
        images: Source = call(read, args, "--data-arg")
        return images
    source: Source = call(_factory(name), args, "--data-arg", folder=place, download=settings.download)
    return source


def _look_up(path: Path, folder: Path | None) -> Path:
    """A path as given, or below --data-path."""
    return folder / path if folder is not None and not path.exists() else path
