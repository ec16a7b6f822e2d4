"""Results and provenance as strict JSON documents."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import yaml

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Opened
from modeconn_cli.engine.registry import CHECKPOINT_SCHEMA, todays_name
from modeconn_cli.engine.results import files, logs, strict_json
from modeconn_cli.engine.results.fingerprints import Fingerprint, identify, sha256
from modeconn_cli.engine.results.parsing import opened
from modeconn_cli.engine.settings.base import Settings, tilde

PACKAGES = ("torch", "torchvision", "numpy")

# The versions of records that this one knows; of all others it is the first.
KNOWN_SCHEMAS = {"mcx.checkpoint": int(CHECKPOINT_SCHEMA.rpartition("/")[2]), "mcx.status_of_folder": 2}
_STEP = re.compile(r"([^.\[\]]+)(?=[.\[]|$)|\[(\d+)\]")  # of a place: a name, or a number in brackets
_SCHEMA = re.compile(r"(mcx\.[a-z0-9_]+)/([0-9]{1,9})")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """The base of every result: frozen, with a schema tag."""

    schema: ClassVar[str]

    def document(self) -> dict[str, Any]:
        """The record as strict JSON; values that JSON cannot hold become null and are listed."""
        return strict({"schema": self.schema, **self.fields()})

    def fields(self) -> dict[str, Any]:
        """The document's entries; a record that is written differently overrides this."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


R = TypeVar("R", bound=Record)


def kept(kind: type[R], path: Path) -> R | None:
    """The result that a finished job has written; None for one of an earlier version, which has not said all of it, and
    where infinities would have to be told from values that are not there.
    """
    document = peek_object(path)
    wanted = [field.name for field in dataclasses.fields(kind)]
    exact = "nonfinite" not in document or document.get("infinite") == []
    if not exact or not document.keys() >= set(wanted):
        return None
    try:
        for place in document.get("nonfinite", []):
            *way, last = [int(number) if number else name for name, number in _STEP.findall(place)]
            within: Any = document
            for step in way:
                within = within[step]
            within[last] = math.nan
        return logs.record(kind, {name: document[name] for name in wanted})
    except (ValueError, LookupError, TypeError):
        return None


def strict(document: dict[str, Any]) -> dict[str, Any]:
    """Plain values only; NaN and infinity become null and their places are listed under `nonfinite`, infinities also
    under `infinite`.
    """
    missing: dict[str, float] = {}
    out: dict[str, Any] = {key: _plain(value, key, missing) for key, value in document.items()}
    if missing:
        out["nonfinite"] = list(missing)
        out["infinite"] = [place for place, value in missing.items() if math.isinf(value)]
    return out


def _plain(value: Any, place: str, missing: dict[str, float]) -> Any:
    if isinstance(value, InputFile):
        value = value.fields()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item, f"{place}.{key}", missing) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item, f"{place}[{i}]", missing) for i, item in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        missing[place] = value
        return None
    return value


@dataclasses.dataclass(frozen=True)
class InputFile:
    """A file that a result was made from, as it was."""

    path: str
    modified: str
    content: Fingerprint

    @classmethod
    def of(cls, path: Path) -> InputFile:
        """The file as it is now. Raises InputError for one that cannot be read."""
        with files.reading(path):
            content, time = identify(path), names.file_of(path).stat().st_mtime
        modified = datetime.datetime.fromtimestamp(time, datetime.UTC).isoformat(timespec="seconds")
        return cls(tilde(path), modified, content)

    def fields(self) -> dict[str, Any]:
        """Its entries in a document."""
        content = {name: value for name, value in vars(self.content).items() if value is not None}
        return {"path": self.path, "modified": self.modified, **content}


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Who made a file, from what, with what: command, settings, versions, inputs, commit.

    `standing` are the settings that a project's file or variable gave, with where that is said. `data` tells the data
    from others (name -> hash), `code` the source files of the user's own network (its words -> hash).
    `time` and `host` are the only entries that differ between two runs of one command on one machine's data.
    """

    command: str
    settings: dict[str, Any]
    versions: dict[str, str]
    inputs: list[InputFile]
    git_commit: str | None
    host: str
    time: str
    standing: dict[str, str]
    data: dict[str, str]
    code: dict[str, str]


def provenance(settings: Settings, command: str, opened: Opened, further: Iterable[Path] = ()) -> Provenance:
    """The provenance of a result that is made now: of the files that its settings name, `further` ones, and of the data
    and the code that the command has opened.

    No command has to say what it reads, so that none can forget it.
    """
    sources = [InputFile.of(path) for path in (*settings.files_read(), *further)]
    code = {name: sha256(path) for name, path in opened.code.items() if path is not None}
    return Provenance(
        f"mcx {command}",
        settings.recorded(),
        versions(),
        sources,
        git_commit(),
        socket.gethostname(),
        now(),
        dict(settings.standing),
        opened.data(),
        code,
    )


def settings_text(values: Mapping[str, Any]) -> str:
    """Plain settings as the text of a configuration file, a line each; what is not set is left out."""
    return "".join(f"{key}: {_inline(value)}\n" for key, value in values.items() if value not in (None, []))


def _inline(value: Any) -> str:
    """A value in YAML's one-line form."""
    items = value if isinstance(value, list) else [value]
    style = '"' if any(isinstance(item, str) and not item.isprintable() for item in items) else None
    text = yaml.safe_dump(
        value, default_flow_style=True, default_style=style, allow_unicode=True, width=float("inf")
    )
    return text.removesuffix("\n").removesuffix("\n...")


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def settings_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a record was made with, none where it has none; its network has the name of today."""
    settings, versions = document.get("settings"), document.get("versions")
    if not isinstance(settings, dict):
        return {}
    schema = versions.get("checkpoint") if isinstance(versions, dict) else None
    model = settings.get("model")
    return {**settings, "model": todays_name(model, schema)} if isinstance(model, str) else settings


@cache
def versions() -> dict[str, str]:
    """Versions of mcx, its checkpoints, Python and the packages that make numbers; a missing package is left out."""
    from modeconn_cli import __version__

    out = {
        "mcx": __version__,
        "checkpoint": CHECKPOINT_SCHEMA,
        "python": platform.python_version(),
        "platform": sys.platform,
    }
    for name in PACKAGES:
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return out


@cache
def git_commit() -> str | None:
    """The commit of the working directory, None outside a repository."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def read_object(path: Path, hint: str = "") -> dict[str, Any]:
    """The JSON object in a file.

    Raises InputError with `hint` where there is none or one of its numbers is beyond every float, and for a record that
    a newer version has written.
    """
    found = _object_in(path, hint)
    _check_schema(found, path)
    return found


def peek_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file that may be anyone's; empty where there is none.

    Raises InputError for a record that a newer version has written: nobody but its reader knows what it says.
    """
    found: dict[str, Any] = {}
    with contextlib.suppress(InputError):
        found = _object_in(path, "")
    _check_schema(found, path)
    return found


def _object_in(path: Path, hint: str) -> dict[str, Any]:
    try:
        with opened(path) as stream:
            text = stream.read()
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror}", hint) from error
    except InputError as error:
        raise InputError(error.message, hint or error.hint) from error
    found = strict_json.parsed(text, path, hint)
    if not isinstance(found, dict):
        raise InputError(f"'{path}' cannot be read: it holds no JSON object", hint)
    return found


def _check_schema(document: Mapping[str, Any], path: Path) -> None:
    """Raise InputError for a record of ours in a form that only newer versions know."""
    schema = document.get("schema")
    found = _SCHEMA.fullmatch(schema) if isinstance(schema, str) else None
    if found and int(found[2]) > KNOWN_SCHEMAS.get(found[1], 1):
        raise InputError(f"'{path}' was written by a newer mcx ('{schema}')", "update mcx")
