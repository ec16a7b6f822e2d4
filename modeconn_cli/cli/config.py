"""Where the value of every setting comes from: flag > MCX_<COMMAND>_<FLAG> > --config > preset > checkpoint >
MCX_MODEL and MCX_DATASET > mcx.yaml > default.

Configuration files and presets are flat YAML, every value as the text a flag would get.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeconn_cli.cli.commands import COMMANDS
from modeconn_cli.cli.complete import settings_of
from modeconn_cli.cli.words import parse
from modeconn_cli.engine import settings as settings_package
from modeconn_cli.engine.errors import SettingsError, did_you_mean
from modeconn_cli.engine.names import PROJECT_FILE
from modeconn_cli.engine.settings.base import Settings, specs
from modeconn_cli.engine.settings.shared import (
    DATA,
    NETWORK,
    ComputeSettings,
    DataSettings,
    DistributedSettings,
    TracedSettings,
)

if TYPE_CHECKING:
    import yaml  # imported where a file is read: most command lines have none

EVERY = "every command"  # that a project file stands for
PRESETS = Path(settings_package.__file__).parent / "presets"
LARGEST = 100_000  # bytes; a configuration is a page of text
DEEPEST = 20  # lists within lists

# Keys of the original experiments that have no meaning here.
IGNORED = frozenset(
    {"defaults", "experiment_name", "hydra", "project_name", "use_wandb", "wandb_project", "run_name"}
)
# Of the first symmetry-plane script, whose steps are passes over all training images that begin at the middle.
STEPS = frozenset({"optimization_steps", "eval_points_per_segment", "print_freq"})
# Their `early_stopping: false` leaves `patience` and `min_delta` without a meaning.
EARLY_STOPPING = "early_stopping"
# Their `save_intermediate: false` keeps the last checkpoint only, whatever `save_freq` says.
SAVE_INTERMEDIATE = "save_intermediate"

# For every command.
VARIABLES = {"model": "MCX_MODEL", "dataset": "MCX_DATASET"}
OTHERS = ("MCX_DEBUG", "MCX_TESTING", "MCX_FAILPOINT")  # which are no settings

EVERY = "every command"
FLAG, ENVIRONMENT = "flag", "environment"  # the origins that count as given
NULL = ("", "~", "null", "Null", "NULL")

Value = str | list[str]


@dataclass(frozen=True, kw_only=True)
class Standing(TracedSettings, DataSettings, ComputeSettings, DistributedSettings):
    """What a project file may say: network, data and machine."""


def resolve(
    cls: type[Settings], command: str, typed: Mapping[str, Any], file: Path | None
) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """Values, where each came from, and notes, for one command line."""
    _check_environment(cls, command)
    known = {key: spec.name for spec in specs(cls) for key in spec.yaml_keys}
    typed = {name: value for name, value in typed.items() if value not in (None, [])}
    in_file, ignored = read(file, known, command) if file else ({}, [])
    notes = _strangers()
    notes += [f"ignored in {file}: {', '.join(ignored)}"] if ignored else []
    preset = typed.get("preset") or os.environ.get(_variable(command, "preset")) or in_file.get("preset")
    place = PRESETS / f"{preset}.yaml"
    # An unknown name is refused by its own parser.
    in_preset = read(place, known, command)[0] if "preset" in known and preset and place.is_file() else {}
    if command == "curve train" and file:
        notes += _unsaid({**in_file, **typed}, file, original=bool(ignored), noise="init_noise" in in_file)
    if "optimization_steps" in ignored:
        notes.append(
            "optimization_steps counts steps down the largest loss on the path, each over all training images; curves "
            "are trained for --epochs on the mean loss here"
        )
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for spec in specs(cls):
        name, variable = spec.name, _variable(command, spec.name)
        if name in typed:
            origin, source, text = FLAG, name if spec.positional else spec.flag, typed[name]
        elif os.environ.get(variable):
            origin, source, text = f"{ENVIRONMENT} {variable}", variable, os.environ[variable]
        elif name in in_file:
            origin, source, text = f"config {file}", f"config {file}: {name}", in_file[name]
        elif name in in_preset:
            origin, source, text = f"preset {preset}", f"preset {preset}: {name}", in_preset[name]
        else:
            values[name], origins[name] = spec.default, "default"
            continue
        origins[name] = origin
        try:
            values[name] = text if isinstance(text, bool) else parse(spec, text)
        except SettingsError as error:
            raise SettingsError(f"{source}: {error.message}", error.hint) from None
    return values, origins, notes


def standing(cls: type[Settings], known: Collection[str]) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """What stands for every command of a project: values of `cls` by name, where each is said, and notes.

    `MCX_MODEL` and `MCX_DATASET` come before the nearest `mcx.yaml` from the working directory upwards. Names in
    `known` are given otherwise. A file of another user's is not read, as a network of one's own runs code.
    """
    shared = {spec.name: spec for spec in specs(Standing)}
    mine = {spec.name for spec in specs(cls)} - set(known)
    # What is said of the project's network is no word on another, nor that of its data.
    mine -= {*(DATA if "dataset" in known else ()), *(NETWORK if "model" in known else ())}
    file, notes = _project_file()
    in_file = (
        read(file, {key: s.name for s in shared.values() for key in s.yaml_keys}, EVERY)[0] if file else {}
    )
    texts: dict[str, tuple[str, Value]] = {name: (str(file), text) for name, text in in_file.items()}
    texts |= {
        name: (variable, os.environ[variable])
        for name, variable in VARIABLES.items()
        if os.environ.get(variable)
    }
    values = {}
    for name, (where, text) in texts.items():
        try:
            value = parse(shared[name], text)
            problem = shared[name].problem(value)
        except SettingsError as error:
            raise SettingsError(f"{where}: {name}: {error.message}", error.hint) from None
        if problem:
            raise SettingsError(f"{where}: {name} {problem}")
        if name in mine:
            values[name] = value
    return values, {name: texts[name][0] for name in values}, notes


def _project_file() -> tuple[Path | None, list[str]]:
    """The nearest project file from the working directory upwards, and why one that is there is not read."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        path = folder / PROJECT_FILE
        try:
            owner = path.stat().st_uid
        except OSError:
            continue
        if hasattr(os, "getuid") and owner != os.getuid():
            return None, [f"'{path}' is not read: it belongs to another user"]
        return path, []
    return None, []


def _unsaid(given: Mapping[str, Any], file: Path, *, original: bool, noise: bool) -> list[str]:
    """What the scripts of the original experiments do without a word in their YAML files, or otherwise than here.

    `original`: the file has keys of theirs; `noise`: it says `init_noise`, which may be theirs without such keys.
    """
    notes = []
    if original and not {"curve", "constraint"} & given.keys():
        notes.append(
            f"{file} says no curve: a Bezier curve without a constraint; the original's polygon script means "
            "--curve polychain, its symmetry-plane script --constraint symmetry-plane-per-tensor"
        )
    noisy = str(given.get("init_method", "")).lower() in ("perturbed", "sphere")
    if noise and noisy and "compat" not in given:
        notes.append(
            f"init_noise {given['init_noise']} is the norm of the noise beside the endpoints' distance, per tensor; "
            "the original gives every element that deviation: --compat elementwise-noise"
        )
    return notes


def explicit(origins: Mapping[str, str]) -> frozenset[str]:
    """The settings that were given for this command alone: by a flag or by its own variable."""
    return frozenset(name for name, origin in origins.items() if origin.split()[0] in (FLAG, ENVIRONMENT))


def _check_environment(cls: type[Settings], command: str) -> None:
    """Raise SettingsError for a variable that is named as one of this command's settings and is none."""
    begin, known = _variable(command, ""), {_variable(command, spec.name) for spec in specs(cls)}
    for name, value in os.environ.items():
        if name.startswith(begin) and value and name not in known:
            raise SettingsError(f"{name}: unknown setting of '{command}'", did_you_mean(name, known))


def _strangers() -> list[str]:
    """What is said of variables that begin like ours and that no command knows."""
    known = {*VARIABLES.values(), *OTHERS}
    found = [
        name for name, value in os.environ.items() if name.startswith("MCX_") and value and name not in known
    ]
    if not found:
        return []
    known |= {_variable(each, spec.name) for each in COMMANDS for spec in specs(settings_of(each))}
    return [
        f"{name} is a variable that no command knows"
        + (f": {hint}" if (hint := did_you_mean(name, known)) else "")
        for name in sorted(set(found) - known)
    ]


def _variable(command: str, name: str) -> str:
    """The environment variable of a setting."""
    return f"MCX_{command}_{name}".replace(" ", "_").upper()


def read(path: Path, known: Mapping[str, str], command: str) -> tuple[dict[str, Value], list[str]]:
    """The settings a file gives, by setting name, and the keys that were ignored.

    `known` maps each accepted key to its setting. Values stay text, so that they meet the parser of the
    flag they stand for. Raises SettingsError with the line for anything but a flat mapping of known keys.
    """
    import yaml

    root = _compose(path)
    if root is None:
        return {}, []
    if not isinstance(root, yaml.MappingNode):
        raise SettingsError(f"config {path}: expected 'key: value' lines")
    values: dict[str, Value] = {}
    ignored: list[str] = []
    seen: set[str] = set()
    switches = {SAVE_INTERMEDIATE: True, EARLY_STOPPING: True}
    for key_node, value_node in root.value:
        where = f"config {path} line {key_node.start_mark.line + 1}"
        key = _scalar(key_node, where)
        name = key.replace("-", "_")
        if name in seen:
            raise SettingsError(f"{where}: duplicate key '{key}'")
        seen.add(name)
        if name in known:
            if known[name] in values:
                raise SettingsError(f"{where}: '{key}' gives '{known[name]}' a second time")
            values[known[name]] = _value(value_node, where)
        elif name in switches and "save_freq" in known:
            switches[name] = _scalar(value_node, where).casefold() not in ("false", "no", "off", "0")
        elif name in IGNORED or (name in STEPS and command == "curve train"):
            ignored.append(key)
        else:
            hint = did_you_mean(name, known)
            note = f" ({hint})" if hint.startswith("did you mean") else ""
            if command == EVERY:
                raise SettingsError(
                    f"{where}: '{key}' is no setting that stands for every command{note}",
                    f"it may say {', '.join(sorted(set(known.values())))}; others belong into a --config file",
                )
            raise SettingsError(f"{where}: unknown key '{key}' for '{command}'{note}", "" if note else hint)
    if not switches[SAVE_INTERMEDIATE]:
        values["save_freq"] = "0"
    if not switches[EARLY_STOPPING]:
        values = {name: value for name, value in values.items() if name not in ("patience", "min_delta")}
    return {name: value for name, value in values.items() if value != ""}, ignored


def _compose(path: Path) -> yaml.Node | None:
    import yaml

    text = _text(path)
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.BaseLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            line = event.start_mark.line + 1 if event.start_mark else 1
            if depth > DEEPEST:
                raise SettingsError(f"config {path} line {line}: expected 'key: value' lines")
            if getattr(event, "anchor", None) or getattr(event, "tag", None):
                raise SettingsError(f"config {path} line {line}: tags, anchors and aliases are not accepted")
        return yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SettingsError(f"config {path} line {line}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"config {path}: not YAML: {str(error).splitlines()[0]}") from error


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise SettingsError(f"config {path} is larger than {LARGEST:,} bytes")
        return content.decode("utf-8")
    except OSError as error:
        raise SettingsError(f"config {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"config {path} is not UTF-8 text") from error


def _scalar(node: yaml.Node, where: str) -> str:
    """The text of a single value; empty for null, which quotes make a word like any other."""
    import yaml

    if not isinstance(node, yaml.ScalarNode):
        raise SettingsError(f"{where}: expected a single value")
    return "" if node.style is None and node.value in NULL else str(node.value)


def _value(node: yaml.Node, where: str) -> Value:
    import yaml

    if isinstance(node, yaml.SequenceNode):
        return [_scalar(item, where) for item in node.value]
    return _scalar(node, where)
