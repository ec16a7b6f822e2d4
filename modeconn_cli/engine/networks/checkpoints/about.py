"""What a checkpoint says of itself: the entry `mcx` of its file, which is written and read here alone."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modeconn_cli.engine.datasets import remembered
from modeconn_cli.engine.datasets.remembered import Remembered
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.registry import CHECKPOINT_SCHEMA, FIRST_SCHEMA, FORMER_NAMES, todays_name
from modeconn_cli.engine.results import records
from modeconn_cli.engine.settings.base import Spec, specs
from modeconn_cli.engine.settings.shared import ComputeSettings, DataSettings, TracedSettings

_LONGEST = 40  # characters of a value that is refused
_LARGEST = 1 << 31  # of epochs and tasks, which are counted
# What is no setting of its own, with what it has to be.
_KINDS: dict[str, type] = {
    "model_args": dict,
    "wd": float,
    "buffers": list,
    "settings": dict,
    "tasks": dict,
    "halves": dict,
    "schedule_epochs": int,
    "task": int,
    "weights_of_epoch": int,
    "path": dict,
    "merged_from": dict,
    "provenance": dict,
}
# What is a setting is within the setting's own bounds.
_KINDS |= remembered.NOISE_KINDS  # type: ignore[arg-type] # each of one type
_SPECS: dict[str, Spec] = {
    spec.name: spec
    for owner, names in (
        (TracedSettings, ("model", "num_classes", "input_shape", "input_tokens")),
        (ComputeSettings, ("seed",)),
        (DataSettings, tuple(remembered.KINDS)),
    )
    for spec in specs(owner)
    if spec.name in names
}
_KNOWN = {"schema", *_KINDS, *_SPECS}


def _is_number(value: object, kind: type) -> bool:
    """Whether it is a plain number of a kind, and finite: True and False are none."""
    fits = type(value) is int or (kind is float and type(value) is float)
    return fits and abs(value) <= sys.float_info.max  # type: ignore[arg-type]


def _is_plain(value: object, depth: int = 20) -> bool:
    """Whether it is made of what files of ours hold: texts, numbers, lists and entries under texts."""
    if isinstance(value, dict):
        return depth > 0 and all(isinstance(k, str) and _is_plain(v, depth - 1) for k, v in value.items())
    if type(value) in (list, tuple):
        return depth > 0 and all(_is_plain(each, depth - 1) for each in value)  # type: ignore[attr-defined]
    return value is None or type(value) in (str, bool, int, float)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _plausible(name: str, value: object) -> bool:
    """Whether an entry can have been written by mcx."""
    if name in _SPECS:
        spec = _SPECS[name]
        listed = tuple(value) if spec.many and isinstance(value, list) else value
        return value is not None and not spec.problem(listed)
    kind = _KINDS[name]
    if kind in (int, float):
        return _is_number(value, kind) and 0 <= value < _LARGEST  # type: ignore[operator]
    if kind is list:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    return isinstance(value, kind) and _is_plain(value)


@dataclass(frozen=True, kw_only=True)
class About:
    """The network, the data it was trained on and how; None where a file does not say.

    `buffers` are the names in its state dict that are no parameters: buffers, and second names of tied weights.
    `settings` are those of the training, `wd` its weight decay, `schedule_epochs` the epochs that its learning rates
    span. Of a run that learnt its classes task by task there are `tasks`, and of a task's end `task` and
    `weights_of_epoch`; of one that learnt one half of the samples after the other there are `halves`. `path` says where
    on a path the network lies, `merged_from` the share of each network in an average, by its label, `provenance` who
    has made the file from what.
    `further` holds entries that this version does not know; they are handed on.
    """

    model: str | None = None
    num_classes: int | None = None
    input_shape: tuple[int, ...] | None = None
    input_tokens: int | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    data: Remembered | None = None
    seed: int | None = None
    wd: float | None = None
    buffers: tuple[str, ...] = ()
    settings: Mapping[str, Any] | None = None
    tasks: Mapping[str, Any] | None = None
    halves: Mapping[str, Any] | None = None
    schedule_epochs: int | None = None
    task: int | None = None
    weights_of_epoch: int | None = None
    path: Mapping[str, Any] | None = None
    merged_from: Mapping[str, float] | None = None
    provenance: Mapping[str, Any] | None = None
    further: Mapping[str, Any] = field(default_factory=dict)

    def entry(self) -> dict[str, Any]:
        """The entry of the file. What is not known is left out, but for the data, whose settings stand together."""
        found: dict[str, Any] = {"schema": CHECKPOINT_SCHEMA}
        for name, value in vars(self).items():
            if name == "data":
                found |= {} if self.data is None else self.data.entries()
            elif name == "further":
                found |= self.further
            elif value is not None:
                found[name] = list(value) if isinstance(value, tuple) else value
        return found

    @classmethod
    def read(cls, entry: object, path: Path) -> About:
        """What the file at `path` says of itself, nothing where it has no such entry.

        Its network has the name of today. Raises InputError for values of other types than those that are written, and
        for an entry of a later version.
        """
        if not isinstance(entry, dict):
            return cls()
        schema = entry.get("schema", FIRST_SCHEMA)
        if not isinstance(schema, str) or schema not in FORMER_NAMES:
            raise InputError(f"'{path}' was written by a newer mcx ({_shown(schema)})", "update mcx")
        found: dict[str, Any] = {}
        for name in (*_SPECS, *_KINDS):
            value = entry.get(name)
            if value is None:
                continue
            if not _plausible(name, value):
                raise InputError(
                    f"'{path}': what it says about itself is damaged ('{name}' is {_shown(value)})"
                )
            found[name] = tuple(value) if isinstance(value, list) else value
        if "model" in found:
            found["model"] = todays_name(found["model"], schema)
        if "settings" in found:
            found["settings"] = records.settings_of({**entry, "versions": {"checkpoint": schema}})
        of_data = {
            name: found.pop(name) for name in (*remembered.KINDS, *remembered.NOISE_KINDS) if name in found
        }
        further = {name: value for name, value in entry.items() if name not in _KNOWN}
        return cls(
            **found,
            data=Remembered(**of_data, whole=set(remembered.KINDS) <= set(entry)) if of_data else None,
            further=further,
        )

    def of_task(self, task: int, weights_of_epoch: int) -> About:
        """What a checkpoint of the weights that a task ends with says."""
        return replace(self, task=task, weights_of_epoch=weights_of_epoch)
