"""Which entry of a file is the weights, and which of its values are no tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from modeconn_cli.engine.errors import InputError

# Entries that are meant to hold the weights. Where one of them does, no other entry is asked.
STANDARD = ("model_state", "model_state_dict", "state_dict", "model", "net", "model_weights")
EXTRA = "_extra_state"  # what modules save beside their tensors ends so


@dataclass(frozen=True)
class Entry:
    """The weights of a file: `key` is the name of their entry, or `bare` where the file is nothing else.

    `extra` is what the network's modules keep beside tensors, `passed_over` the names of other values among the
    weights, `rivals` those of further entries with tensors of the same names.
    """

    key: str
    tensors: dict[str, Tensor]
    extra: dict[str, Any] = field(default_factory=dict)
    passed_over: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()


def find(content: Mapping[str, Any], path: Path, wanted: str | None) -> Entry:
    """The entry that holds the weights, or the one that is `wanted`, with dots between nested names.

    Raises InputError where there is none or several may be meant, and for one of the standard names that holds tensors
    in another form: another entry is not taken in its place.
    """
    listed = ", ".join(map(str, content)) or "nothing"
    if wanted is not None:
        value = _at(content, wanted)
        if not _is_state(value):
            raise InputError(f"'{path}' has no state dict under '{wanted}'", f"entries: {listed}")
        return _entry(wanted, value, {})
    holding = {
        key: value
        for key, value in content.items()
        if isinstance(value, Mapping) and not str(key).endswith(EXTRA) and _has_tensors(value)
    }
    if not holding and _is_state(content):
        return _entry("bare", content, {})
    standard = [key for key in holding if key in STANDARD]
    candidates = standard or [key for key, value in holding.items() if _is_state(value)]
    if len(candidates) > 1:
        names = ", ".join(f"'{key}'" for key in candidates)
        raise InputError(f"'{path}' has several candidates for the weights: {names}", "pass --state-key NAME")
    if not candidates:
        raise InputError(f"'{path}' holds no state dict", f"entries: {listed[:500]}")
    (key,) = candidates
    if not _is_state(holding[key]):
        inner = ", ".join(str(name) for name, value in holding[key].items() if isinstance(value, Mapping))
        raise InputError(
            f"'{path}': '{key}' is no state dict, but holds others: {inner[:300]}",
            f"pass --state-key {key}.NAME",
        )
    return _entry(key, holding[key], holding)


def _entry(key: str, value: Mapping[str, Any], holding: Mapping[str, Mapping[str, Any]]) -> Entry:
    tensors = {name: each for name, each in value.items() if isinstance(each, Tensor)}
    others = {name: each for name, each in value.items() if name not in tensors}
    return Entry(
        key=key,
        tensors=tensors,
        extra={name: each for name, each in value.items() if name.endswith(EXTRA)},
        passed_over=tuple(name for name in others if not name.endswith(EXTRA)),
        rivals=tuple(
            name
            for name, each in holding.items()
            if name != key and tensors.keys() <= set(each) and _is_state(each)
        ),
    )


def _at(content: Mapping[str, Any], key: str) -> Any:
    """The value under a key, or under the nested keys that its dots separate."""
    if key in content or "." not in key:
        return content.get(key)
    first, _, rest = key.partition(".")
    inner = content.get(first)
    return _at(inner, rest) if isinstance(inner, Mapping) else None


def _has_tensors(value: Any, depth: int = 3) -> bool:
    """Whether there is a tensor in it, down to some dictionaries in dictionaries."""
    if isinstance(value, Mapping) and depth:
        return any(_has_tensors(each, depth - 1) for each in value.values())
    return isinstance(value, Tensor)


def _is_state(value: Any) -> bool:
    """Whether it maps names to tensors; values of modules' own and plain ones beside them do not matter."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        return False
    if not any(isinstance(each, Tensor) for each in value.values()):
        return False
    return not any(
        isinstance(each, Mapping) and _has_tensors(each)
        for name, each in value.items()
        if not name.endswith(EXTRA)
    )
