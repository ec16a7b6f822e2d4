"""How a setting is declared, checked and written down."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from modeconn_cli.engine.errors import SettingsError

# What may change between two runs into the same folder: nothing, only towards more work, anything.
Change = Literal["same", "grow", "free"]


def setting(
    default: Any = None,
    help: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    flags: tuple[str, ...] = (),
    keys: tuple[str, ...] = (),
    positional: bool = False,
    change: Change = "same",
    shown: str | None = None,
    group: str = "",
) -> Any:
    """One setting: its default, its help line and its bounds.

    `low` and `high` are inclusive, `above` is exclusive. `flags` are further spellings of the flag, `keys`
    further YAML keys; `shown` replaces the default in the help.
    """
    details = {
        "help": help,
        "low": low,
        "high": high,
        "above": above,
        "flags": flags,
        "keys": keys,
        "positional": positional,
        "change": change,
        "shown": shown,
        "group": group,
    }
    return dataclasses.field(default=default, metadata=details)


@dataclasses.dataclass(frozen=True)
class Spec:
    """What `setting` declared, with the type taken apart."""

    name: str
    kind: type
    many: bool
    optional: bool
    choices: tuple[str, ...]
    default: Any
    help: str
    low: float | None
    high: float | None
    above: float | None
    flags: tuple[str, ...]
    keys: tuple[str, ...]
    positional: bool
    change: Change
    shown: str | None
    group: str

    @property
    def flag(self) -> str:
        """The flag as typed: `--batch-size`."""
        return "--" + self.name.replace("_", "-")

    def problem(self, value: Any) -> str:
        """What is wrong with `value`, empty where nothing is."""
        if value is None:
            return ""
        items = value if self.many else (value,)
        for item in items:
            if self.choices and item not in self.choices:
                return f"must be one of {', '.join(self.choices)}, got {item!r}"
            if self.kind in (int, float) and not isinstance(item, str):
                problem = self._out_of_bounds(item)
                if problem:
                    return problem
        return ""

    def _out_of_bounds(self, number: float) -> str:
        if not math.isfinite(number):
            return f"must be finite, got {number}"
        if self.low is not None and number < self.low:
            return f"must be at least {self.low}, got {number}"
        if self.high is not None and number > self.high:
            return f"must be at most {self.high}, got {number}"
        if self.above is not None and number <= self.above:
            return f"must be greater than {self.above}, got {number}"
        return ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The base of every command's settings; bounds are checked wherever one is made."""

    def __post_init__(self) -> None:
        for spec in specs(type(self)):
            problem = spec.problem(getattr(self, spec.name))
            if problem:
                raise SettingsError(f"{spec.flag} {problem}")

    def as_plain(self) -> dict[str, Any]:
        """Values as a YAML or JSON file holds them: paths as text, tuples as lists."""
        return {spec.name: plain(getattr(self, spec.name)) for spec in specs(type(self))}

    def recorded(self) -> dict[str, Any]:
        """The same without who shares the work, which is no part of a result."""
        return {s.name: plain(getattr(self, s.name)) for s in specs(type(self)) if s.group != "distributed"}

    def lasting(self) -> dict[str, Any]:
        """The same without what may change freely between runs: a result does not depend on it."""
        return {s.name: plain(getattr(self, s.name)) for s in specs(type(self)) if s.change != "free"}


def refuse_idle(settings: Settings, where: str, names: Iterable[str]) -> None:
    """Raise SettingsError for a setting that has been changed and has no effect `where` the others are as they are."""
    for spec in specs(type(settings)):
        if spec.name in names and getattr(settings, spec.name) != spec.default:
            raise SettingsError(f"{spec.flag} has no effect {where}")


def plain(value: Any) -> Any:
    """Paths as text, tuples as lists, the home directory as `~`."""
    if isinstance(value, Path):
        return tilde(value)
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def tilde(path: Path) -> str:
    """The path with the user's home directory written as `~`, so that records do not name people."""
    text = str(path)
    try:
        home = str(Path.home())
    except RuntimeError:
        return text
    if home not in ("", "/") and (text == home or text.startswith(home + "/")):
        return "~" + text[len(home) :]
    return text


_SPECS: dict[type[Settings], tuple[Spec, ...]] = {}


def specs(cls: type[Settings]) -> tuple[Spec, ...]:
    """The settings of a class in the order of their declaration."""
    if cls not in _SPECS:
        _SPECS[cls] = _specs(cls)
    return _SPECS[cls]


def _specs(cls: type[Settings]) -> tuple[Spec, ...]:
    hints = typing.get_type_hints(cls)
    return tuple(_spec(field, hints[field.name]) for field in dataclasses.fields(cls))


def _spec(field: dataclasses.Field[Any], hint: Any) -> Spec:
    optional = False
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        optional, hint = True, inner[0]
    many = typing.get_origin(hint) is tuple
    if many:
        hint = typing.get_args(hint)[0]
    choices: tuple[str, ...] = ()
    if typing.get_origin(hint) is Literal:
        choices, hint = typing.get_args(hint), str
    details: Mapping[str, Any] = field.metadata
    return Spec(
        name=field.name,
        kind=hint,
        many=many,
        optional=optional,
        choices=choices,
        default=field.default,
        **details,
    )
