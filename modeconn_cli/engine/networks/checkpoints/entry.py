"""Which entry of a file is the weights, and which of its values are no tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks.checkpoints.integrity import resave
from modeconn_cli.engine.networks.checkpoints.pickles import Inert, stands_in
from modeconn_cli.engine.networks.weights import called_a_parameter, is_continuous, shortened

WHOLE = "."  # the file itself
BESIDE = ("optim", "sched", "scaler", "rng")  # in the names of what trainers keep beside weights
EXTRA = "_extra_state"  # what modules save beside their tensors ends so


@dataclass(frozen=True)
class Entry:
    """The weights of a file: `key` is the name of their entry, or `bare` where the file is nothing else.

    `extra` is what the network's modules keep beside tensors, `passed_over` the names of other values among the
    weights, `rivals` those of further entries with tensors of the same names. Tensors that were
    chosen by what their names begin with had this `prefix`, `left_out` are the others.
    """

    key: str
    tensors: dict[str, Tensor]
    extra: dict[str, Any] = field(default_factory=dict)
    passed_over: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()
    prefix: str = ""
    left_out: tuple[str, ...] = ()


def find(content: Mapping[str, Any], path: Path, wanted: str | None) -> Entry:
    """The entry that holds the weights, or the `wanted` one: dots between nested names, `.` for the file itself, or
    what all names of one network among several begin with.

    Raises InputError where there is none or several may be meant, and for one of the standard names that does not hold
    the weights as it should: another entry is not taken in its place.
    """
    if wanted is not None:
        return _wanted(content, path, wanted)
    holding = {key: value for key, value in content.items() if _may_hold_weights(str(key), value)}
    key = _only(_candidates(content, holding, path), path)
    if key is None or key == WHOLE:
        own = _own(content)
        if not _is_state(own):
            raise _without_weights(content, path)
        return _entry("bare", own, holding, path)
    if isinstance(content[key], Inert):
        raise InputError(f"'{path}': '{key}' is a {content[key].of}, not a state dict", resave(path))
    if not _is_state(content[key]):
        inner = content[key] if isinstance(content[key], Mapping) else {}
        others = ", ".join(str(name) for name, value in inner.items() if isinstance(value, Mapping))
        raise InputError(
            f"'{path}': '{key}' is no state dict, but holds others: {others[:300] or 'none'}",
            f"pass --state-key {key}.NAME",
        )
    return _entry(key, content[key], holding, path)


def _wanted(content: Mapping[str, Any], path: Path, wanted: str) -> Entry:
    """The entry of this name, else the tensors of the entry that holds the weights whose names begin so."""
    value = _own(content) if wanted == WHOLE else _at(content, wanted)
    if _is_state(value):
        return _entry("bare" if wanted == WHOLE else wanted, value, {}, path)
    begin = f"{wanted}."
    with contextlib.suppress(InputError):
        whole = find(content, path, None)
        if any(name.startswith(begin) for name in whole.tensors):
            return replace(
                whole,
                tensors={n.removeprefix(begin): t for n, t in whole.tensors.items() if n.startswith(begin)},
                extra={n.removeprefix(begin): e for n, e in whole.extra.items() if n.startswith(begin)},
                prefix=begin,
                left_out=tuple(name for name in (*whole.tensors, *whole.extra) if not name.startswith(begin)),
            )
    if isinstance(value, Inert):
        raise InputError(f"'{path}': '{wanted}' is a {value.of}, not a state dict", resave(path))
    level = list(map(str, _stop(content, wanted)))
    raise InputError(
        f"'{path}' has no state dict under '{wanted}'", f"entries: {shortened(level, 20) or 'nothing'}"
    )


def _without_weights(content: Mapping[str, Any], path: Path) -> InputError:
    """What a file is that holds no state dict: arrays of NumPy, or other entries."""
    for key, value in {WHOLE: content, **content}.items():
        if (
            isinstance(value, Mapping)
            and value
            and all(isinstance(each, np.ndarray) for each in value.values())
        ):
            where = "" if key == WHOLE else f"['{key}']"
            return InputError(
                f"'{path}' holds arrays of NumPy{f' under {key!r}' if where else ''}, expected tensors",
                f"if you trust it, in Python: w = torch.load('{path}', weights_only=False){where}; "
                "torch.save({k: torch.as_tensor(v) for k, v in w.items()}, 'weights.pt')",
            )
    named = [
        f"{key} (a {value.of})" if isinstance(value, Inert) else str(key) for key, value in content.items()
    ]
    return InputError(f"'{path}' holds no state dict", f"entries: {', '.join(named)[:500] or 'nothing'}")


def _candidates(content: Mapping[str, Any], holding: Mapping[str, Any], path: Path) -> list[str]:
    """What may be the weights: the standard names, where there are any, else every entry with tensors and the file."""
    standard = {
        key: content[key] for key in names.STANDARD if not isinstance(content.get(key, ""), str | int | float)
    }
    usable = [key for key, value in standard.items() if _has_tensors(value)]
    if usable:
        return usable
    own = any(isinstance(t, Tensor) and is_continuous(t) and t.ndim for t in content.values())
    others = [*([WHOLE] if own else []), *holding]
    empty = next((key for key, value in standard.items() if not (isinstance(value, Mapping) and value)), None)
    if empty is not None and others:
        value = standard[empty]
        what = f"is a {value.of}, not a state dict" if isinstance(value, Inert) else "holds no weights"
        raise InputError(
            f"'{path}': '{empty}' {what}, and no other entry is taken for them",
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
        listed = ", ".join(f"'{key}'" for key in candidates)
        hint = "pass --state-key NAME" + ("; '.' is the file itself" if WHOLE in candidates else "")
        raise InputError(f"'{path}' has several candidates for the weights: {listed}", hint)
    return candidates[0] if candidates else None


def _may_hold_weights(key: str, value: Any) -> bool:
    """Whether an entry is a dictionary with tensors in it, and not what an optimizer or a module's extra state is."""
    if key.endswith(EXTRA) or any(word in key.lower() for word in BESIDE):
        return False
    if isinstance(value, Inert):  # of no weights are objects of torch: optimizers, data
        return value.tensors and not value.of.startswith("torch.")
    return isinstance(value, Mapping) and "param_groups" not in value and _has_tensors(value)


def _entry(key: str, value: Mapping[str, Any], holding: Mapping[str, Any], path: Path) -> Entry:
    """Raises InputError for an object of an unknown class in a tensor's place, or in what is kept for a module."""
    for name, each in value.items():
        kept, other = name.endswith(EXTRA), isinstance(each, Inert) and each.of != Inert.of
        if (kept and stands_in(each)) or (
            other and (key != "bare" or each.tensors or "." in name or called_a_parameter(name))
        ):
            raise InputError(f"'{path}': '{name}' is a {stands_in(each)}, not a tensor", resave(path))
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


def _at(content: Any, key: str) -> Any:
    """The value under a key, or under the nested keys that its dots separate, the longest that there is first; in a
    list they are numbers.
    """
    inside = numbered(content)
    for first, rest in _cuts(key):
        if first in inside:
            found = _at(inside[first], rest) if rest else inside[first]
            if found is not None:
                return found
    return None


def _stop(content: Any, key: str) -> Mapping[Any, Any]:
    """The dictionary in which the search for a key ends."""
    inside = numbered(content)
    for first, rest in _cuts(key):
        if first in inside and numbered(inside[first]):
            return _stop(inside[first], rest) if rest else numbered(inside[first])
    return inside


def _cuts(key: str) -> Iterator[tuple[str, str]]:
    """A key and nothing, then what is before and after each of its dots, the last first."""
    yield key, ""
    for k in reversed([k for k, letter in enumerate(key) if letter == "."]):
        yield key[:k], key[k + 1 :]


def numbered(value: Any) -> Mapping[Any, Any]:
    """A dictionary itself, a list as one with numbers for names, anything else as an empty one."""
    if isinstance(value, Mapping):
        return value
    return {str(k): each for k, each in enumerate(value)} if type(value) in (list, tuple) else {}


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
