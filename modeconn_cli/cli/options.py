"""One settings dataclass -> the options of a command, each of which takes the text that was typed."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from modeconn_cli.cli.commands import DISPLAY
from modeconn_cli.engine.settings.base import Settings, Spec, specs
from modeconn_cli.engine.settings.shared import DistributedSettings

METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
CONFIG = ("config", "print_config")  # of DISPLAY; the others are for the report


def takes(cls: type[Settings], command: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command function the options of a settings class; it is called with (settings, report)."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        parameters = [*map(_of_setting, specs(cls)), *map(_of_display, DISPLAY)]

        @functools.wraps(function)
        def run(**typed: Any) -> None:
            from modeconn_cli.cli import config
            from modeconn_cli.cli.report import Report

            report = Report(command, **{name: typed.pop(name) for name in DISPLAY if name not in CONFIG})
            file, print_config = (typed.pop(name) for name in CONFIG)
            values, origins, notes = config.resolve(cls, command, typed, Path(file) if file else None)
            # Settings that are only looked at may lack what the command needs.
            settings = cls(**values, explicit=config.explicit(origins), checked=print_config)
            for note in notes:
                report.note(note)
            if print_config:
                from modeconn_cli.engine.networks.subject import completed_by_sources

                settings, known = completed_by_sources(settings)
                report.print_config(settings, origins | known)
            elif (
                isinstance(settings, DistributedSettings)
                and settings.nproc_per_node is not None
                and not report.dry_run
            ):
                from modeconn_cli.cli import processes

                processes.run(settings, report, function)
            else:
                function(settings, report)

        del run.__wrapped__  # Typer would look at its signature
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _parameter(name: str, default: Any, kind: Any, option: Any) -> inspect.Parameter:
    annotation = Annotated[kind, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _of_setting(spec: Spec) -> inspect.Parameter:
    if spec.positional:
        argument = typer.Argument(help=spec.help, metavar=spec.name.upper(), show_default=False)
        return _parameter(spec.name, None, list[str] | None if spec.many else str | None, argument)
    shown = spec.shown or _shown(spec.default)
    text = f"{spec.help}{f'  [default: {shown}]' if shown else ''}"
    if spec.kind is bool:
        flags = f"{spec.flag}/{spec.negation}" if spec.negation else spec.flag
        return _parameter(spec.name, None, bool | None, typer.Option(flags, help=text, show_default=False))
    metavar = f"[{'|'.join(spec.choices)}]" if spec.choices else METAVARS.get(spec.kind)
    if spec.many and not spec.choices:
        metavar = f"{metavar},…"
    option = typer.Option(spec.flag, *spec.flags, help=text, metavar=metavar, show_default=False)
    return _parameter(spec.name, None, str | None, option)


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else ""
    if default is None or default == ():
        return ""
    return ",".join(map(str, default)) if isinstance(default, tuple) else f"{default}"


def _of_display(name: str) -> inspect.Parameter:
    flag, text = DISPLAY[name]
    if name == "config":
        option = typer.Option(help=f"{text}; values as in flags, quoted or not", metavar="FILE")
        return _parameter(name, None, str | None, option)
    short = {"quiet": ("-q",), "verbose": ("-v",)}.get(name, ())
    return _parameter(name, False, bool, typer.Option(*short, flag, help=text))
