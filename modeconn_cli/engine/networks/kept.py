"""What modules keep beside their state dict: attributes, and buffers that are not saved.

A helper object that a module holds counts as a container, as its lists and dictionaries do: all of them are looked into
down to `DEPTH`.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

FRAMEWORK = frozenset(vars(nn.Module()))  # what every module has: parameters, buffers, hooks, its mode
DEPTH = 3
_OPAQUE = (nn.Module, type, Enum, types.ModuleType, types.FunctionType, types.MethodType)

Place = tuple[str, str]  # the name of a module, and of its attribute


def attributes(model: nn.Module) -> Iterator[tuple[Place, Any]]:
    """What a module holds beside parameters, modules and buffers that are saved."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for attribute, value in vars(module).items():
            if attribute not in FRAMEWORK:
                yield (name, attribute), value
        for attribute in module._non_persistent_buffers_set:
            yield (name, attribute), module._buffers[attribute]


def mark(value: Any, depth: int = DEPTH) -> Any:
    """Equal for a value that is the same object and was not written into."""
    if isinstance(value, Tensor):
        return id(value), 0 if value.is_inference() else value._version
    if depth:
        entries = _entries(value)
        if entries is not None:
            return id(value), tuple((repr(key), mark(entry, depth - 1)) for key, entry in entries.items())
        if isinstance(value, list | tuple | set):
            return id(value), tuple(mark(entry, depth - 1) for entry in value)
    return value if isinstance(value, bool | int | float | str | None) else id(value)


def tensors(value: Any, depth: int = DEPTH) -> Iterator[Tensor]:
    """The tensors in a value."""
    if isinstance(value, Tensor):
        yield value
    elif depth:
        entries = _entries(value)
        inside: Iterable[Any] = () if entries is None else entries.values()
        for entry in value if isinstance(value, list | tuple | set) else inside:
            yield from tensors(entry, depth - 1)


@dataclass(frozen=True)
class Kept:
    """A value that later changes do not reach: its object, and what it held."""

    value: Any
    held: Any = None

    @classmethod
    def of(cls, value: Any, depth: int = DEPTH) -> Kept:
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            made = value.detach().clone()  # one with a history could not be copied with the network
            return cls(made, made)
        entries = _entries(value) if depth else None
        if entries is not None:
            return cls(value, {key: cls.of(entry, depth - 1) for key, entry in entries.items()})
        if isinstance(value, list) and depth:
            return cls(value, [cls.of(entry, depth - 1) for entry in value])
        return cls(value, value.copy() if isinstance(value, set) else None)

    def restored(self, there: Any = None) -> Any:
        """The object with what it held; `there` is what stands in its place now, which says a tensor's device."""
        value, held = self.value, self.held
        entries = None if held is None else _entries(value)
        if isinstance(value, Tensor) and held is not None:
            like = there if isinstance(there, Tensor) else value
            return held.to(like.device, like.dtype if held.is_floating_point() else held.dtype).clone()
        if entries is not None:
            now = dict(entries)
            entries.clear()
            entries.update({key: each.restored(now.get(key)) for key, each in held.items()})
        elif isinstance(value, list) and held is not None:
            value[:] = [each.restored() for each in held]
        elif isinstance(value, set):
            value.clear()
            value.update(held)
        return value


def restore(module: nn.Module, attribute: str, first: Kept | None) -> None:
    """Put back what an attribute was first; without a value it goes."""
    own = module._buffers if attribute in module._buffers else vars(module)
    if first is None:
        own.pop(attribute, None)
        module._non_persistent_buffers_set.discard(attribute)
    else:
        own[attribute] = first.restored(own.get(attribute))


def _entries(value: Any) -> dict[Any, Any] | None:
    """The named entries of a dictionary or of a helper object; None for anything else."""
    if isinstance(value, dict):
        return value
    if isinstance(value, _OPAQUE):
        return None
    found = getattr(value, "__dict__", None)
    return found if isinstance(found, dict) and found else None
