"""Calling factories by name: registered ones and `pkg.mod:factory`.

An import path runs the user's own code; it is only ever taken from the command line or a configuration file.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from modeconn_cli.engine.errors import InputError, McxError, SettingsError, did_you_mean

_OURS = str(Path(__file__).parents[1]) + os.sep


def arguments(words: Iterable[str], flag: str) -> dict[str, Any]:
    """`key=value` words as keyword arguments; values are read as Python literals, else as text.

    `depths=2`, `2`, `6` is one value, a tuple that was listed with commas like the words themselves.
    """
    out: dict[str, Any] = {}
    whole: list[str] = []
    for word in words:
        if whole and "=" not in word and _is_literal(listed := f"{whole[-1]},{word}"):
            whole[-1] = listed
        else:
            whole.append(word)
    for word in whole:
        key, equals, text = word.partition("=")
        if not equals or not key.isidentifier():
            raise SettingsError(f"{flag}: '{word}' is not key=value")
        if key in out:
            raise SettingsError(f"{flag} names {key} twice")
        try:
            out[key] = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
        except (ValueError, SyntaxError):
            out[key] = text
    return out


def _is_literal(word: str) -> bool:
    try:
        ast.literal_eval(word.partition("=")[2])
    except (ValueError, SyntaxError):
        return False
    return True


def words_of(args: Mapping[str, Any]) -> tuple[str, ...]:
    """Arguments as the words that mean them; nothing where words cannot say them."""
    words = []
    for key, value in args.items():
        plain, quoted = f"{key}={value}", f"{key}={value!r}"
        words.append(plain if arguments([plain], "") == {key: value} else quoted)
    return tuple(words) if arguments(words, "") == dict(args) else ()


def call(factory: Callable[..., Any], given: Mapping[str, Any], flag: str, **offered: Any) -> Any:
    """Call a factory with the user's arguments and those of `offered` that it accepts; what is not known (None) is its
    default where it has one.

    Raises SettingsError for arguments that it does not take and where one of ours fails, InputError where another does.
    """
    parameters = inspect.signature(factory).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for key in given:
        if key not in parameters and not takes_any:
            raise SettingsError(f"{flag}: unknown argument '{key}'", did_you_mean(key, parameters))
    accepted = {
        key: value
        for key, value in offered.items()
        if key in parameters and (value is not None or parameters[key].default is inspect.Parameter.empty)
    }
    words = {**accepted, **given}
    try:
        inspect.signature(factory).bind(**words)
    except TypeError as error:
        raise SettingsError(f"{flag}: {error}") from error
    if not given and _is_ours(factory):  # a fault of our own is not the user's
        return factory(**words)
    try:
        return factory(**words)
    except (McxError, MemoryError):
        raise
    except Exception as error:
        said = ", ".join(f"{key}={value!r}" for key, value in words.items())
        name = getattr(factory, "__name__", type(factory).__name__)
        kind = SettingsError if _is_ours(factory) and not _calls_others(factory) else InputError
        raise kind(f"{name}({said}) fails{blamed(error)}", f"{flag} key=value sets its arguments") from error


def _is_ours(factory: Callable[..., Any]) -> bool:
    """Whether it fails of what it is given alone."""
    return _module(factory).startswith("modeconn_cli.")


def _calls_others(factory: Callable[..., Any]) -> bool:
    """Whether it makes a library's network, which may fail of other things, such as tensors without memory."""
    return _module(factory).endswith(".libraries")


def _module(factory: Callable[..., Any]) -> str:
    return str(getattr(getattr(factory, "func", factory), "__module__", ""))  # of a partial its function's


def blamed(error: Exception) -> str:
    """What an exception of the user's own code says, and the last line outside libraries that it came through."""
    reason = (str(error).strip() or "no reason given").splitlines()[0]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame.filename)]
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{where}: {type(error).__name__}: {reason}"


def source_of(path: str) -> Path | None:
    """The source file of the module that `pkg.mod:factory` names, once imported; None where it has none."""
    file = getattr(sys.modules.get(path.partition(":")[0]), "__file__", None)
    return None if file is None else Path(file)


def _is_own(file: str) -> bool:
    """Whether a source file is the user's: neither installed nor ours."""
    return "site-packages" not in file and not file.startswith((_OURS, "<"))


def imported(path: str) -> Callable[..., Any]:
    """The callable that `pkg.mod:factory` names; the working directory is searched too."""
    module_name, _, name = path.partition(":")
    if module_name.endswith(".py"):
        dotted = ".".join(Path(module_name).with_suffix("").parts)
        raise SettingsError(f"'{module_name}' is a file, not a module", f"drop the ending: {dotted}:{name}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's own code runs
        sought = isinstance(error, ModuleNotFoundError) and error.name == module_name.partition(".")[0]
        hint = f"it is looked for in {here} and where Python looks" if sought else ""
        raise InputError(f"cannot import '{module_name}'{blamed(error)}", hint) from error
    found = getattr(module, name, None)
    if not callable(found):
        raise InputError(f"module '{module_name}' has no function '{name}'", did_you_mean(name, vars(module)))
    return found  # type: ignore[no-any-return]


def of_torchvision(part: str) -> Any:
    """A module of torchvision. Raises InputError where it cannot be imported: it is made for one version of torch."""
    import torch

    try:
        return importlib.import_module(f"torchvision.{part}")
    except Exception as error:  # whatever its libraries say
        try:
            found = importlib.metadata.version("torchvision")
        except importlib.metadata.PackageNotFoundError:
            raise InputError("torchvision is not installed", "pip install torchvision") from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"torchvision {found} does not fit torch {torch.__version__}: {reason}",
            "they must be a pair, from one index: pip install --upgrade torch torchvision",
        ) from error
