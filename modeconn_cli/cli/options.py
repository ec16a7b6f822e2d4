"""One settings dataclass -> a command's options, YAML keys and environment variables.

Every value reaches `parse` as text, wherever it comes from: flag > MCX_<COMMAND>_<FLAG> > --config > default.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from modeconn_cli.engine import settings as settings_package
from modeconn_cli.engine.errors import SettingsError, did_you_mean
from modeconn_cli.engine.settings.base import Settings, Spec, specs
from modeconn_cli.engine.settings.shared import DistributedSettings

TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
PRESETS = Path(settings_package.__file__).parent / "presets"
METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


def parse(spec: Spec, text: str | list[str]) -> Any:
    """The value that `text` means for a setting. Raises SettingsError without the name of its source."""
    if spec.many:
        items = text if isinstance(text, list) else text.split(",")
        return tuple(_one(spec, item.strip()) for item in items if item.strip())
    if isinstance(text, list):
        raise SettingsError("takes a single value, got a list")
    return _one(spec, text)


def _one(spec: Spec, text: str) -> Any:
    if spec.choices:
        return _choice(spec.choices, text)
    if spec.kind is bool:
        word = text.strip().casefold()
        if word not in TRUE + FALSE:
            raise SettingsError(f"'{text}' is neither true nor false")
        return word in TRUE
    if spec.kind in (int, float):
        try:
            return spec.kind(text)
        except ValueError:
            what = "a whole number" if spec.kind is int else "a number"
            raise SettingsError(f"'{text}' is not {what}") from None
    return _path(text) if spec.kind is Path else spec.kind(text)


def _path(text: str) -> Path:
    """`~/` is the home directory, as records write it; a shell has replaced it in a flag already."""
    if not text or "\0" in text:
        raise SettingsError("is not a path")
    return Path(os.path.expanduser(text) if text == "~" or text.startswith("~/") else text)


def _choice(choices: tuple[str, ...], text: str) -> str:
    """Names are matched without case, dashes and underscores: `Bezier` is `bezier`."""
    folded = {_fold(choice): choice for choice in choices}
    if _fold(text) not in folded:
        raise SettingsError(f"'{text}' is not one of {', '.join(choices)}", did_you_mean(text, choices))
    return folded[_fold(text)]


def _fold(name: str) -> str:
    return name.casefold().replace("-", "").replace("_", "")


def resolve(
    cls: type[Settings], command: str, given: Mapping[str, Any], config: Path | None
) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """Values, where each came from, and notes, for one command line."""
    from modeconn_cli.cli import config as files

    known = {key: spec.name for spec in specs(cls) for key in (spec.name, *spec.keys, *_flag_keys(spec))}
    in_file, ignored = files.read(config, known, command) if config else ({}, [])
    notes = [f"ignored in {config}: {', '.join(ignored)}"] if ignored else []
    preset, in_preset = _preset(command, known, given, in_file)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for spec in specs(cls):
        variable = _variable(command, spec.name)
        flag = given.get(spec.name)
        if flag is not None and flag != []:
            source, text = spec.flag if not spec.positional else spec.name, flag
            origins[spec.name] = "flag"
        elif os.environ.get(variable):
            source, text = variable, os.environ[variable]
            origins[spec.name] = f"environment {variable}"
        elif spec.name in in_file:
            source, text = f"config {config}: {spec.name}", in_file[spec.name]
            origins[spec.name] = f"config {config}"
        elif spec.name in in_preset:
            source, text = f"preset {preset}: {spec.name}", in_preset[spec.name]
            origins[spec.name] = f"preset {preset}"
        else:
            values[spec.name] = spec.default
            origins[spec.name] = "default"
            continue
        try:
            values[spec.name] = text if isinstance(text, bool) else parse(spec, text)
        except SettingsError as error:
            raise SettingsError(f"{source}: {error.message}", error.hint) from None
    return values, origins, notes


def _variable(command: str, name: str) -> str:
    """The environment variable of a setting."""
    return "MCX_" + f"{command}_{name}".replace(" ", "_").replace("-", "_").upper()


def _preset(
    command: str, known: Mapping[str, str], given: Mapping[str, Any], in_file: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """The settings of the preset that is named, below every other source and above the defaults."""
    from modeconn_cli.cli import config as files

    name = given.get("preset") or os.environ.get(_variable(command, "preset")) or in_file.get("preset")
    path = PRESETS / f"{name}.yaml"
    if "preset" not in known or not name or not path.is_file():
        return "", {}  # an unknown name is refused by its own parser
    return str(name), files.read(path, known, command)[0]


def _flag_keys(spec: Spec) -> tuple[str, ...]:
    return tuple(flag.lstrip("-").replace("-", "_") for flag in spec.flags)


def takes(cls: type[Settings], command: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command function the options of a settings class; it is called with (settings, report)."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        parameters = [_parameter(spec) for spec in specs(cls)] + _display_parameters()

        @functools.wraps(function)
        def run(**given: Any) -> None:
            from modeconn_cli.cli.report import Report

            display = {name: given.pop(name) for name in ("as_json", "quiet", "verbose", "dry_run")}
            config, print_config = given.pop("config"), given.pop("print_config")
            values, origins, notes = resolve(cls, command, given, Path(config) if config else None)
            settings = cls(**values)
            report = Report(command, **display)
            for note in notes:
                report.note(note)
            if print_config:
                from modeconn_cli.engine.networks import subject

                settings, known = subject.remembered(settings)
                origins |= known
                report.print_config(settings, origins)
            elif (
                isinstance(settings, DistributedSettings)
                and settings.nproc_per_node is not None
                and not report.dry_run
            ):
                from modeconn_cli.cli import processes

                processes.run(settings, report, function)
            else:
                function(settings, report)

        run.__dict__.pop("__wrapped__")
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _parameter(spec: Spec) -> inspect.Parameter:
    metavar = f"[{'|'.join(spec.choices)}]" if spec.choices else METAVARS.get(spec.kind)
    if spec.many and not spec.choices:
        metavar = f"{metavar},…"
    shown = spec.shown or _shown(spec.default)
    text = f"{spec.help}{f'  [default: {shown}]' if shown else ''}"
    annotation: Any
    if spec.positional:
        annotation = Annotated[
            list[str] | None, typer.Argument(help=spec.help, metavar=spec.name.upper(), show_default=False)
        ]
        if not spec.many:
            annotation = Annotated[
                str | None, typer.Argument(help=spec.help, metavar=spec.name.upper(), show_default=False)
            ]
    elif spec.kind is bool:
        name = spec.name.replace("_", "-")
        off = "" if spec.default is False and not spec.optional else f"/--no-{name}"
        annotation = Annotated[bool | None, typer.Option(f"--{name}{off}", help=text, show_default=False)]
    else:
        flags = (spec.flag, *spec.flags)
        annotation = Annotated[
            str | None, typer.Option(*flags, help=text, metavar=metavar, show_default=False)
        ]
    return inspect.Parameter(spec.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else ""
    if default is None or default == ():
        return ""
    return ",".join(map(str, default)) if isinstance(default, tuple) else f"{default}"


def _display_parameters() -> list[inspect.Parameter]:
    """What every command takes beside its settings."""
    flags: dict[str, Any] = {
        "config": Annotated[
            str | None,
            typer.Option(
                help="read settings from a YAML file; values as in flags, quoted or not", metavar="FILE"
            ),
        ],
        "print_config": Annotated[bool, typer.Option("--print-config", help="print the settings and stop")],
        "dry_run": Annotated[bool, typer.Option("--dry-run", help="say what would be done and stop")],
        "as_json": Annotated[bool, typer.Option("--json", help="print the result as JSON")],
        "quiet": Annotated[bool, typer.Option("-q", "--quiet", help="no progress and no notes")],
        "verbose": Annotated[bool, typer.Option("-v", "--verbose", help="more notes")],
    }
    return [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None if name == "config" else False, annotation=hint
        )
        for name, hint in flags.items()
    ]
