"""The names of networks and data sets, and where each is made. Torch-free, for help and completion."""

from __future__ import annotations

import ast
import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modeconn_cli.engine.errors import SettingsError, did_you_mean

MOST_FILES = 50  # of the working directory that are looked through for the name of a network


@dataclass(frozen=True)
class Entry:
    """A registered network: `where` is module:function in engine/networks/models, called with
    (input_shape, num_classes, **args, **model arguments); `input_shape` [C, H, W] serves where neither the
    checkpoint nor the data say one."""

    where: str
    input_shape: tuple[int, int, int] = (3, 32, 32)
    args: dict[str, Any] = field(default_factory=dict)


MODELS: dict[str, Entry] = {
    "mlp": Entry("mlp:mlp", (1, 8, 8)),
    "cnn": Entry("cnn:cnn", (1, 8, 8)),
    "lenet5": Entry("lenet:lenet5", (1, 28, 28)),
    "lenet5-max": Entry("lenet:lenet5_max", (1, 28, 28)),
    "vgg16": Entry("vgg:vgg", args={"depth": 16, "norm": False}),
    "vgg19": Entry("vgg:vgg", args={"depth": 19, "norm": False}),
    "vgg16_bn": Entry("vgg:vgg", args={"depth": 16, "norm": True}),
    "vgg19_bn": Entry("vgg:vgg", args={"depth": 19, "norm": True}),
    "garipov-vgg16bn": Entry("vgg:garipov_vgg", args={"depth": 16}),
    "garipov-vgg19bn": Entry("vgg:garipov_vgg", args={"depth": 19}),
    "convfc": Entry("convfc:convfc"),
    "preresnet20": Entry("preresnet:preresnet", args={"depth": 20}),
    "preresnet110": Entry("preresnet:preresnet", args={"depth": 110}),
    "preresnet164": Entry("preresnet:preresnet", args={"depth": 164}),
    "wrn28-10": Entry("wrn:wrn", args={"depth": 28, "width": 10}),
    "resnet18": Entry("resnet:resnet18"),
    "resnet34": Entry("resnet:resnet34"),
    "csl-resnet18": Entry("resnet:csl_resnet18"),
    "incremental-resnet18": Entry("resnet:incremental_resnet18"),
    "simple-cifar10-cnn": Entry("simple_cifar10_cnn:simple_cifar10_cnn"),
}

# What a file says of its network is meant by the names of its time. Files that name no schema are of the first.
FIRST_SCHEMA, CHECKPOINT_SCHEMA = "mcx.checkpoint/1", "mcx.checkpoint/2"
FORMER_NAMES: dict[str, dict[str, str]] = {  # of a schema: name then -> name today
    FIRST_SCHEMA: {"lenet5": "lenet5-max"},
    CHECKPOINT_SCHEMA: {},
}

# Families whose members are numbered; `wrn28-10` and `WideResNet28x10` are the same network.
FAMILIES: tuple[tuple[re.Pattern[str], str, tuple[str, ...], str], ...] = (
    (re.compile(r"preresnet(\d+)"), "preresnet:preresnet", ("depth",), "preresnet{}"),
    (re.compile(r"(?:wrn|wideresnet)(\d+)[x-](\d+)"), "wrn:wrn", ("depth", "width"), "wrn{}-{}"),
)
# Libraries whose networks are named library:NAME, with the module that makes them.
LIBRARIES: dict[str, str] = {"torchvision": "libraries:torchvision_model", "timm": "libraries:timm_model"}

# Folders of images that have a name of their own, and the names of the folders that their archives hold.
FOLDERS: dict[str, tuple[str, ...]] = {
    "imagenet": ("imagenet",),
    "tiny-imagenet": ("tiny-imagenet", "tiny-imagenet-200"),
}


# name -> module:function in engine/datasets; the function takes the data arguments, and `folder` and `download`
# where it asks for them, and returns a Source.
DATASETS: dict[str, str] = {
    "digits": "digits:digits",
    "synthetic": "synthetic:synthetic",
    "mnist": "vision:mnist",
    "cifar10": "vision:cifar10",
    "cifar100": "vision:cifar100",
}


def find_model(name: str) -> tuple[str, Entry]:
    """The registered spelling of a name, and its entry; case, `-` and `_` do not matter.

    Raises SettingsError with the closest name.
    """
    library, colon, inside = name.partition(":")
    if colon and library in LIBRARIES:
        return name, Entry(LIBRARIES[library], (3, 224, 224), {"name": inside})
    folded = {fold(key): key for key in MODELS}
    if fold(name) in folded:
        key = folded[fold(name)]
        return key, MODELS[key]
    for pattern, where, parameters, spelling in FAMILIES:
        found = pattern.fullmatch(name.casefold().replace("_", ""))
        if found:
            numbers = [int(group) for group in found.groups()]
            args = dict(zip(parameters, numbers, strict=True))
            return spelling.format(*numbers), Entry(where, args=args)
    raise SettingsError(f"unknown model '{name}'", _own_network(name) or did_you_mean(name, MODELS))


def _own_network(name: str) -> str:
    """How a network of the user's own is named, where a file of the working directory has the name or defines it."""
    for path in sorted(Path().glob("*.py"))[:MOST_FILES]:
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        made = [each.name for each in tree.body if isinstance(each, ast.ClassDef | ast.FunctionDef)]
        if name in made:
            return f"pass --model {path.stem}:{name} for the one in {path}"
        if name in (path.stem, path.name):
            which = f"one of {', '.join(made[:8])}" if made else "a function that makes the network"
            return f"pass --model {path.stem}:FACTORY for a network in {path}, FACTORY being {which}"
    return ""


def todays_name(model: str, schema: str | None) -> str:
    """What a network is called today that a file of a checkpoint's schema names."""
    return FORMER_NAMES.get(schema or FIRST_SCHEMA, {}).get(fold(model), model)


def canonical_model(name: str) -> str:
    """The registered spelling of a network's name; a name that is not registered stays as it is."""
    try:
        return find_model(name)[0]
    except SettingsError:
        return name


def canonical_dataset(name: str) -> str:
    """The registered spelling of a data set's name; case, `-` and `_` do not matter. Paths stay as they are."""
    folded = {fold(key): key for key in DATASETS}
    folded |= {fold(each): key for key, known in FOLDERS.items() for each in known}
    return folded.get(fold(name), name)


def check_dataset(name: str) -> None:
    """Raise SettingsError, with the closest name, for what is neither registered nor the path of a folder or file."""
    elsewhere = is_import_path(name) or name.endswith(".npz") or "/" in name or Path(name).is_dir()
    if not elsewhere and canonical_dataset(name) not in (*DATASETS, *FOLDERS):
        raise SettingsError(
            f"unknown data set '{name}'", _own_data(name) or did_you_mean(name, (*DATASETS, *FOLDERS))
        )


def _own_data(name: str) -> str:
    """The folder or .npz file of the working directory that may be meant."""
    there = [path for path in sorted(Path().iterdir()) if path.is_dir() or path.suffix == ".npz"]
    near = difflib.get_close_matches(name, [path.name for path in there], n=1, cutoff=0.7)
    near = near or [path.name for path in there if path.stem == name]
    return f"did you mean '{near[0]}'?" if near else ""


def is_import_path(name: str) -> bool:
    """Whether a name is `pkg.mod:factory`, which runs the user's code, rather than a registered one."""
    return ":" in name and name.partition(":")[0] not in LIBRARIES


def fold(name: str) -> str:
    """A name as it is compared: without case, `-` and `_`."""
    return name.casefold().replace("-", "").replace("_", "")
