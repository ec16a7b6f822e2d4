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
WHOLE = "."  # the file itself
BESIDE = ("optim", "sched", "scaler", "rng")  # in the names of what trainers keep beside weights
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
    """The entry that holds the weights, or the `wanted` one: dots between nested names, `.` for the file itself.

    Raises InputError where there is none or several may be meant, and for one of the standard names that does not hold
    the weights as it should: another entry is not taken in its place.
    """
    listed = ", ".join(map(str, content)) or "nothing"
    if wanted is not None:
        value = _own(content) if wanted == WHOLE else _at(content, wanted)
        if not _is_state(value):
            raise InputError(f"'{path}' has no state dict under '{wanted}'", f"entries: {listed}")
        return _entry("bare" if wanted == WHOLE else wanted, value, {})
    holding = {key: value for key, value in content.items() if _may_hold_weights(str(key), value)}
    key = _only(_candidates(content, holding, path), path)
    if key is None or key == WHOLE:
        own = _own(content)
        if not _is_state(own):
            raise InputError(f"'{path}' holds no state dict", f"entries: {listed[:500]}")
        return _entry("bare", own, holding)
    if not _is_state(content[key]):
        inner = content[key] if isinstance(content[key], Mapping) else {}
        names = ", ".join(str(name) for name, value in inner.items() if isinstance(value, Mapping))
        raise InputError(
            f"'{path}': '{key}' is no state dict, but holds others: {names[:300] or 'none'}",
            f"pass --state-key {key}.NAME",
        )
    return _entry(key, content[key], holding)


def _candidates(content: Mapping[str, Any], holding: Mapping[str, Any], path: Path) -> list[str]:
    """What may be the weights: the standard names, where there are any, else every entry with tensors and the file."""
    standard = {
        key: content[key] for key in STANDARD if not isinstance(content.get(key, ""), str | int | float)
    }
    usable = [key for key, value in standard.items() if _has_tensors(value)]
    if usable:
        return usable
    own = any(isinstance(t, Tensor) and t.is_floating_point() and t.ndim for t in content.values())
    others = [*([WHOLE] if own else []), *holding]
    empty = next((key for key, value in standard.items() if not (isinstance(value, Mapping) and value)), None)
    if empty is not None and others:
        raise InputError(
            f"'{path}': '{empty}' holds no weights, and no other entry is taken for them",
            f"pass --state-key with one of {', '.join(others)}",
        )
    return others


def _own(content: Mapping[Any, Any]) -> dict[Any, Any]:
    """What a file holds itself, without the dictionaries of tensors beside it."""
    return {
        name: value
        for name, value in content.items()
        if str(name).endswith(EXTRA) or not (isinstance(value, Mapping) and _has_tensors(value))
    }


def _only(candidates: list[str], path: Path) -> str | None:
    """Raises InputError where there are several."""
    if len(candidates) > 1:
        names = ", ".join(f"'{key}'" for key in candidates)
        hint = "pass --state-key NAME" + ("; '.' is the file itself" if WHOLE in candidates else "")
        raise InputError(f"'{path}' has several candidates for the weights: {names}", hint)
    return candidates[0] if candidates else None


def _may_hold_weights(key: str, value: Any) -> bool:
    """Whether an entry is a dictionary with tensors in it, and not what an optimizer or a module's extra state is."""
    if not isinstance(value, Mapping) or key.endswith(EXTRA) or "param_groups" in value:
        return False
    return not any(word in key.lower() for word in BESIDE) and _has_tensors(value)


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


def _has_tensors(value: Any, depth: int = 20) -> bool:
    """Whether there is a tensor in it, however deep in dictionaries and lists."""
    if isinstance(value, Mapping) and depth:
        return any(_has_tensors(each, depth - 1) for each in value.values())
    if isinstance(value, list | tuple) and depth:
        return any(_has_tensors(each, depth - 1) for each in value)
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
