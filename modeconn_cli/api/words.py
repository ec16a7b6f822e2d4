"""Settings as Python gives them, and the words of errors as Python users type them."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from modeconn_cli.cli.commands import DISPLAY
from modeconn_cli.cli.words import parse
from modeconn_cli.engine.errors import McxError, SettingsError, did_you_mean
from modeconn_cli.engine.settings.base import Settings, Spec, specs

S = TypeVar("S", bound=Settings)

# A flag, and what may be its value: numbers, DIR or FILE.npz, or a word, which has to be one of its choices.
_FLAG = re.compile(r"(--[a-z](?:[a-z0-9-]*[a-z0-9])?)(?:[ =](?!-)([\w.,:+-]*\w))?")
_PLACEHOLDER = re.compile(r"-?\d[\d.,e+-]*|[A-Z][A-Z0-9_.]*(?:\.[a-z0-9]+)?")


def settings_with(cls: type[S], given: Mapping[str, Any]) -> S:
    """The settings of a class with what was given by name, or by another name of its flag or key.

    Raises SettingsError, in Python's words, for a name that it lacks and for a value that does not fit.
    """
    known = {key: spec for spec in reversed(specs(cls)) for key in spec.yaml_keys}
    known |= {spec.name: spec for spec in specs(cls)}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name in DISPLAY or name == "json":
            raise SettingsError(
                f"'{name}' is for the command line", "a function of Python gives the result itself"
            )
        if name not in known:
            raise SettingsError(f"unknown setting '{name}'", did_you_mean(name, known))
        spec = known[name]
        if spec.name in values:
            raise SettingsError(f"'{name}' is another name of '{spec.name}', which is given too")
        values[spec.name] = _value(spec, value)
    return cls(**values, explicit=frozenset(values))


def check_ranges(cls: type[Settings], **given: Any) -> None:
    """Raise SettingsError, in Python's words, for values that settings do not allow; what else is needed may lack."""
    known = {spec.name: spec for spec in specs(cls)}
    with spoken(cls):
        cls(**{name: _value(known[name], value) for name, value in given.items()}, checked=True)


def _value(spec: Spec, value: Any) -> Any:
    """A Python value in the type of a setting; the settings themselves check it."""
    if value is None:
        return spec.default
    if spec.many and not isinstance(value, str):
        several = (
            isinstance(value, Iterable)
            and not isinstance(value, PathLike | Mapping)
            and not _is_scalar(value)
        )
        return tuple(_one(spec, item) for item in (value if several else (value,)))
    if isinstance(value, str):
        try:
            return parse(spec, value)
        except SettingsError as error:
            raise SettingsError(f"{spec.name}: {error.message}", error.hint) from None
    return _one(spec, value)


def _one(spec: Spec, value: Any) -> Any:
    if _is_scalar(value):
        value = value.item()
    if spec.kind is Path:
        if isinstance(value, str | PathLike):
            return Path(value)
        what = "a network in memory" if hasattr(value, "state_dict") else f"{type(value).__name__}"
        raise SettingsError(
            f"{spec.name} takes the path of a file, got {what}",
            "networks in memory: api.calculate_l2_distance(first, second), api.functional_distance(first, second, data)"
            " and the others of the documents; or torch.save(network.state_dict(), FILE) and pass model=",
        )
    if spec.name in ("model", "dataset") and not isinstance(value, str):
        return import_path(spec.name, value)
    if spec.kind is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value


def _is_scalar(value: Any) -> bool:
    """Whether a value is a number of NumPy or torch."""
    return getattr(value, "shape", None) == () and hasattr(value, "item")


def import_path(name: str, made_by: Any) -> str:
    """The `module:name` of a class or function; those of a notebook or script are in `__main__`.

    Raises SettingsError for what cannot be found again by its name.
    """
    if not isinstance(made_by, type) and (not callable(made_by) or hasattr(made_by, "state_dict")):
        raise SettingsError(
            f"{name} must be a name, or a class or function that makes it, got {type(made_by).__name__}",
            f"{name}={type(made_by).__name__} or {name}='module:{type(made_by).__name__}'",
        )
    module, called = str(getattr(made_by, "__module__", "")), str(getattr(made_by, "__qualname__", ""))
    if getattr(sys.modules.get(module), called, None) is not made_by:
        raise SettingsError(
            f"{name} is {called or 'an object'} of {module or 'no module'}, which cannot be found by its name",
            "define it at the top level of a module, script or notebook",
        )
    return f"{module}:{called}"


@contextlib.contextmanager
def spoken(cls: type[Settings] = Settings) -> Iterator[None]:
    """Errors that pass name settings as Python does, and their hint is a note of theirs."""
    try:
        yield
    except McxError as error:
        error.message, error.hint = in_python(error.message, cls), in_python(error.hint, cls, advice=True)
        error.args = (error.message,)
        if error.hint and error.hint not in getattr(error, "__notes__", ()):
            error.add_note(error.hint)
        raise


def in_python(text: str, cls: type[Settings], *, advice: bool = False) -> str:
    """The text with flags as keywords: `--num-points must …` is `num_points must …`, `--k1 0,1` is `k1=(0, 1)`.

    In advice a switch is said with its value: `use --overwrite` is `use overwrite=True`.
    """
    known = {flag: spec for spec in specs(cls) for flag in (spec.flag, *spec.flags)}
    denied = {spec.negation: spec for spec in specs(cls) if spec.negation}

    def said(match: re.Match[str]) -> str:
        flag, value = match[1], match[2] or ""
        rest = match[0][len(flag) :]
        if flag in denied:
            return f"{denied[flag].name}=False{rest}"
        spec = known.get(flag)
        name = spec.name if spec else flag[2:].replace("-", "_")
        if spec is not None and spec.kind is bool:
            return f"{name}=True{rest}" if advice else f"{name}{rest}"
        if spec is not None and (value in spec.choices or ":" in value):
            return f"{name}='{value}'"
        if _PLACEHOLDER.fullmatch(value):
            return f"{name}=({value.replace(',', ', ')})" if "," in value else f"{name}={value}"
        return f"{name}{rest}"

    text = re.sub(r"(=(?:\([^)]*\)|\S+)) (?=\w+=)", r"\1, ", _FLAG.sub(said, text))
    for spec in specs(cls):
        if spec.positional:
            text = re.sub(rf"(?<![\w.]){spec.name.upper()}(?= (?:must|has no|names))", spec.name, text)
    return text
