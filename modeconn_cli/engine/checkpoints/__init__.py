"""The one reader of checkpoints: every layout is recognised here and nowhere else.

Layouts: `formats.md` of the project's documents; the written one is dnn-mode-connectivity's
(`epoch`, `model_state`, `optimizer_state`) with an entry `mcx` that says what the network is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeconn_cli.engine import names
from modeconn_cli.engine.checkpoints import integrity
from modeconn_cli.engine.errors import InputError

__all__ = ["Checkpoint", "read"]

SCHEMA = "mcx.checkpoint/1"

# Entries that hold the weights, in the order of their standing.
STATE_KEYS = ("model_state", "model_state_dict", "state_dict", "model", "net", "model_weights")
OPTIMIZER_KEYS = ("optimizer_state", "optimizer_state_dict", "optim_state", "optimizer")
PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory. `state` is the whole state dict, empty for a curve; `about` what mcx wrote of it."""

    path: Path
    layout: str
    state: dict[str, Tensor]
    epoch: int | None = None
    optimizer_state: dict[str, Any] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    content: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_curve(self) -> bool:
        return "control_points" in self.content


def read(path: Path, *, state_key: str | None = None, allow_nonfinite: bool = False) -> Checkpoint:
    """Read a checkpoint after checking its bytes. Raises InputError for everything that is wrong with it."""
    content = integrity.load(path)
    if not isinstance(content, Mapping):
        raise InputError(f"'{path}' holds a {type(content).__name__}, expected a state dict")
    about = content.get("mcx")
    if isinstance(content.get("control_points"), list):
        points = content["control_points"]
        if not points or not all(_is_state(point) for point in points):
            raise InputError(f"'{path}': control_points are not state dicts")
        checkpoint = Checkpoint(
            path,
            "curve",
            {},
            _epoch(content, path),
            None,
            about if isinstance(about, Mapping) else {},
            content,
        )
        tensors = {f"point {k}: {n}": t for k, point in enumerate(points) for n, t in point.items()}
        _check_tensors(tensors, path, allow_nonfinite)
        return checkpoint
    key, state = _find_state(content, path, state_key)
    state = _strip(state)
    _check_tensors(state, path, allow_nonfinite)
    optimizer = next((content[k] for k in OPTIMIZER_KEYS if isinstance(content.get(k), Mapping)), None)
    return Checkpoint(
        path=path,
        layout=key,
        state=state,
        epoch=_epoch(content, path),
        optimizer_state=optimizer if key != "bare" else None,
        about=about if isinstance(about, Mapping) else {},
        content=content if key != "bare" else {},
    )


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(t, Tensor) for t in value.values())


def _find_state(
    content: Mapping[str, Any], path: Path, state_key: str | None
) -> tuple[str, Mapping[str, Tensor]]:
    """The entry that holds the weights, and its name (`bare` where the file is nothing else)."""
    found = ", ".join(map(str, content)) or "nothing"
    if state_key is not None:
        if not _is_state(content.get(state_key)):
            raise InputError(f"'{path}' has no state dict under '{state_key}'", f"entries: {found}")
        return state_key, content[state_key]
    if _is_state(content):
        return "bare", content
    candidates = [key for key, value in content.items() if _is_state(value)]
    known = [key for key in STATE_KEYS if key in candidates]
    if len(known) == 1 or (not known and len(candidates) == 1):
        key = (known or candidates)[0]
        return key, content[key]
    if candidates:
        names_ = ", ".join(f"'{key}'" for key in candidates)
        raise InputError(
            f"'{path}' has several candidates for the weights: {names_}", "pass --state-key NAME"
        )
    raise InputError(f"'{path}' holds no state dict", f"entries: {found[:500]}")


def _strip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes that DataParallel and torch.compile put before every name."""
    out = dict(state)
    stripped = True
    while stripped:
        stripped = False
        for prefix in PREFIXES:
            if out and all(name.startswith(prefix) for name in out):
                out = {name[len(prefix) :]: tensor for name, tensor in out.items()}
                stripped = True
    return out


def _epoch(content: Mapping[str, Any], path: Path) -> int | None:
    epoch = content.get("epoch")
    return epoch if isinstance(epoch, int) else names.epoch_of(path)


def _check_tensors(state: Mapping[str, Tensor], path: Path, allow_nonfinite: bool) -> None:
    meta = [name for name, tensor in state.items() if tensor.is_meta]
    if meta:
        raise InputError(f"'{path}': {meta[0]} is a meta tensor without values")
    if allow_nonfinite:
        return
    bad = [name for name, tensor in state.items() if not _finite(tensor)]
    if bad:
        shown = ", ".join(bad[:5]) + (", …" if len(bad) > 5 else "")
        raise InputError(
            f"'{path}' holds NaN or infinity in {len(bad)} of {len(state)} tensors: {shown}",
            "pass --allow-nonfinite to use it all the same",
        )


def _finite(tensor: Tensor) -> bool:
    """Whether all values are finite. min and max see NaN and infinity without a mask the size of the tensor."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) and torch.isfinite(high))
