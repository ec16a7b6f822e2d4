"""One settings dataclass -> the options of a command, each of which takes the text that was typed."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from modeconn_cli.cli.commands import DISPLAY
from modeconn_cli.engine import registry
from modeconn_cli.engine.errors import SettingsError, must_exist
from modeconn_cli.engine.settings.base import Settings, Spec, specs
from modeconn_cli.engine.settings.shared import DataSettings, DistributedSettings, NetworkSettings

WORDS = "plain_words"  # those without a flag, where they stand for settings
CONFIG = ("config", "print_config")  # of DISPLAY; the others are for the report


def takes(cls: type[Settings], command: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command function the options of a settings class; it is called with (settings, report)."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        parameters = [*map(_of_setting, specs(cls)), *map(_of_display, DISPLAY)]
        if cls.places:
            parameters.append(_parameter(WORDS, list[str] | None, typer.Argument()))

        @functools.wraps(function)
        def run(**typed: Any) -> None:
            from modeconn_cli.cli import config
            from modeconn_cli.cli.report import Report

            report = Report(
                command, **{name: bool(typed.pop(name)) for name in DISPLAY if name not in CONFIG}
            )
            file, print_config = (typed.pop(name) for name in CONFIG)
            _join(cls, typed)
            _place(cls, typed)
            values, origins, notes = config.resolve(cls, command, typed, Path(file) if file else None)
            given = [name for name, origin in origins.items() if origin != "default"]
            given += cls(**values, checked=True).idle()  # what has no effect needs no value
            stands, said, more = config.standing(cls, given)
            for note in [*notes, *more]:
                report.note(note)
            for where in dict.fromkeys(said.values()):
                report.note(f"{where} says {', '.join(name for name in said if said[name] == where)}")
            # Settings that are only looked at may lack what the command needs.
            settings = cls(
                **{**values, **stands},
                explicit=config.explicit(origins),
                standing=said,
                checked=bool(print_config),
            )
            if not print_config:
                _check_named(settings)
            if print_config:
                from modeconn_cli.engine.networks.completing import completed_by_sources

                settings, known = completed_by_sources(settings)
                report.print_config(settings, origins | said | known)
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
        run.of_settings = function  # type: ignore[attr-defined] # for Python, which has settings and no words
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _check_named(settings: Settings) -> None:
    """Raise InputError for a file that is not there, SettingsError for an unknown name, before torch is imported.

    Ranks see their files each for themselves, and say it to the others.
    """
    if any(name in os.environ for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS")):
        return
    for path in settings.inputs():
        must_exist(path)
    if (
        isinstance(settings, NetworkSettings)
        and settings.model
        and not registry.is_import_path(settings.model)
    ):
        registry.find_model(settings.model)
    if isinstance(settings, DataSettings) and settings.dataset:
        registry.check_dataset(settings.dataset)


def _join(cls: type[Settings], typed: dict[str, Any]) -> None:
    """Make one comma-listed value of what a flag that gathers values was given."""
    for spec in specs(cls):
        if spec.gathers and typed[spec.name]:
            typed[spec.name] = ",".join(typed[spec.name])


def _place(cls: type[Settings], typed: dict[str, Any]) -> None:
    """Give words without a flag to the settings that they stand for. Raises SettingsError for one given twice."""
    words = typed.pop(WORDS, None)
    if not words:
        return
    for name, word in cls.of_words(words).items():
        if typed[name] is not None:
            said = f"'{word}' stands" if isinstance(word, str) else f"'{' '.join(word)}' stand"
            raise SettingsError(
                f"{said} for --{name.replace('_', '-')}, which is given too", "leave one of them out"
            )
        typed[name] = word


def _parameter(name: str, kind: Any, option: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option]
    )


def _of_setting(spec: Spec) -> inspect.Parameter:
    if spec.positional:
        return _parameter(spec.name, list[str] | None if spec.many else str | None, typer.Argument())
    if spec.kind is bool:
        flags = f"{spec.flag}/{spec.negation}" if spec.negation else spec.flag
        return _parameter(spec.name, bool | None, typer.Option(flags))
    kind = list[str] | None if spec.gathers else str | None
    return _parameter(spec.name, kind, typer.Option(spec.flag, *spec.flags))


def _of_display(name: str) -> inspect.Parameter:
    each = DISPLAY[name]
    return _parameter(name, str | None if each.metavar else bool | None, typer.Option(*each.short, each.flag))
