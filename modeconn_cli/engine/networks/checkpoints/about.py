"""What a checkpoint says of itself: the entry `mcx` of its file, which is written and read here alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import UnionType
from typing import Any

from modeconn_cli.engine.datasets import remembered
from modeconn_cli.engine.datasets.remembered import Remembered
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.registry import CHECKPOINT_SCHEMA, FIRST_SCHEMA, FORMER_NAMES, todays_name
from modeconn_cli.engine.results import records

_KINDS: dict[str, type | UnionType] = {
    "model": str,
    "num_classes": int,
    "input_shape": list,
    "model_args": dict,
    "seed": int,
    "wd": int | float,
    "buffers": list,
    "settings": dict,
    "tasks": dict,
    "schedule_epochs": int,
    "task": int,
    "weights_of_epoch": int,
    "path": dict,
    "provenance": dict,
}
_KNOWN = {"schema", *_KINDS, *remembered.KINDS}


@dataclass(frozen=True, kw_only=True)
class About:
    """The network, the data it was trained on and how; None where a file does not say.

    `buffers` are the names in its state dict that are no parameters: buffers, and second names of tied weights.
    `settings` are those of the training, `wd` its weight decay, `schedule_epochs` the epochs that its learning rates
    span. Of a run that learnt its classes task by task there are `tasks`, and of a task's end `task` and
    `weights_of_epoch`. `path` says where on a path the network lies, `provenance` who has made the file from what.
    `further` holds entries that this version does not know; they are handed on.
    """

    model: str | None = None
    num_classes: int | None = None
    input_shape: tuple[int, ...] | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    data: Remembered | None = None
    seed: int | None = None
    wd: float | None = None
    buffers: tuple[str, ...] = ()
    settings: Mapping[str, Any] | None = None
    tasks: Mapping[str, Any] | None = None
    schedule_epochs: int | None = None
    task: int | None = None
    weights_of_epoch: int | None = None
    path: Mapping[str, Any] | None = None
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
            raise InputError(f"'{path}' was written by another version of mcx ('{schema}')", "update mcx")
        found: dict[str, Any] = {}
        for name, kind in {**_KINDS, **remembered.KINDS}.items():
            value = entry.get(name)
            if not isinstance(value, kind | None):
                raise InputError(f"'{path}': what it says about itself is damaged ('{name}')")
            if value is not None:
                found[name] = tuple(value) if isinstance(value, list) else value
        if "model" in found:
            found["model"] = todays_name(found["model"], schema)
        if "settings" in found:
            found["settings"] = records.settings_of({**entry, "versions": {"checkpoint": schema}})
        of_data = {name: found.pop(name) for name in remembered.KINDS if name in found}
        further = {name: value for name, value in entry.items() if name not in _KNOWN}
        return cls(
            **found,
            data=Remembered(**of_data, whole=set(remembered.KINDS) <= set(entry)) if of_data else None,
            further=further,
        )

    def of_task(self, task: int, weights_of_epoch: int) -> About:
        """What a checkpoint of the weights that a task ends with says."""
        return replace(self, task=task, weights_of_epoch=weights_of_epoch)
