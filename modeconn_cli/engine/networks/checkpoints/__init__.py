"""The one reader of checkpoints: every layout is recognised here and nowhere else.

A file is a state dict, or holds one in an entry of its own, or holds the control points of a curve. What we write is
the layout of dnn-mode-connectivity (`epoch`, `model_state`, `optimizer_state`) with an entry `mcx` that says what the
network is.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import weights
from modeconn_cli.engine.networks.checkpoints import entry, integrity, pickles
from modeconn_cli.engine.networks.checkpoints.about import About
from modeconn_cli.engine.networks.weights import (
    STATISTICS,
    buffers_in,
    distinct,
    flat,
    is_continuous,
    one_thread,
    shortened,
)
from modeconn_cli.engine.results import shards

__all__ = ["STATE", "About", "Checkpoint", "check_finite", "content", "finite", "read"]

STATE = "model_state"  # the entry of the files we write that holds a network's weights
OPTIMIZER_KEYS = ("optimizer_state", "optimizer_state_dict", "optim_state", "optimizer", "optimizer_states")
MOST_EPOCHS = 1 << 31
LIGHTNING = "pytorch-lightning_version"  # its files have further wrappers


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory. `state` holds the tensors of the state dict, none for a curve; `extra` what modules keep
    beside tensors; `about` is what mcx wrote of it. `remarks` is what whoever trusts it should know.
    """

    path: Path
    layout: str
    state: dict[str, Tensor]
    epoch: int | None = None
    optimizer_state: dict[str, Any] | None = None
    about: About = field(default_factory=About)
    content: Mapping[str, Any] = field(default_factory=dict)
    prefix: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def whole(self) -> dict[str, Any]:
        """The state dict as the network's modules have saved it."""
        return {**self.state, **self.extra}

    def found(self) -> str:
        """Which of the file's entries the weights are, and what was taken off their names."""
        where = "the file itself" if self.layout == "bare" else f"its entry '{self.layout}'"
        return f"'{self.path}': weights are {where}" + (f", without '{self.prefix}'" if self.prefix else "")

    def named_as(self, wanted: Mapping[str, Any], *, some: bool = False) -> Checkpoint:
        """The checkpoint under the names of a network's or another file's state dict (`weights.named_as`).

        Tensors beside the prefix of all of those, or of `some`, are left out, with a remark. Raises InputError
        where several prefixes may be meant.
        """
        before = weights.prefixes(self.whole, wanted, some=some)
        if len(before) > 1:
            found = ", ".join(f"'{prefix}'" for prefix in before)
            hint = f"pass --state-key {before[0][:-1]}, or of one file {names.file_of(self.path)}::{before[0][:-1]}"
            raise InputError(f"'{self.path}' holds the network's tensors several times, under {found}", hint)
        if before:
            return self._below(before[0]).named_as(wanted)
        new = weights.renaming(self.whole, wanted)
        about = replace(self.about, buffers=tuple(new.get(name, name) for name in self.about.buffers))
        named = weights.named_as(self.whole, wanted)
        return replace(
            self,
            state={name: value for name, value in named.items() if isinstance(value, Tensor)},
            extra={new[name]: value for name, value in self.extra.items()},
            about=about,
        )

    def unwrapped(self) -> Checkpoint:
        """The checkpoint without what wrappers alone have added: parts of names, and counts of averages."""
        new = dict(zip(self.whole, weights.unwrapped(self.whole, weights.OF_WRAPPERS), strict=True))
        kept = {name: said for name, said in new.items() if name.rpartition(".")[2] != weights.AVERAGED}
        return replace(
            self,
            state={kept[name]: tensor for name, tensor in self.state.items() if name in kept},
            extra={kept[name]: value for name, value in self.extra.items() if name in kept},
            about=replace(self.about, buffers=tuple(kept[n] for n in self.about.buffers if n in kept)),
        )

    def _below(self, prefix: str) -> Checkpoint:
        """The tensors alone whose names begin so, without that."""
        short = dict(zip(self.whole, weights.unwrapped(self.whole), strict=True))
        inside = {name: said.removeprefix(prefix) for name, said in short.items() if said.startswith(prefix)}
        left = [name for name in short if name not in inside]
        beside = f"'{self.path}': the network's names begin with '{prefix}'; left out: {shortened(left)}"
        return replace(
            self,
            state={inside[name]: tensor for name, tensor in self.state.items() if name in inside},
            extra={inside[name]: value for name, value in self.extra.items() if name in inside},
            about=replace(self.about, buffers=tuple(inside[n] for n in self.about.buffers if n in inside)),
            prefix=self.prefix + prefix,
            remarks=(*self.remarks, *([beside] if left else [])),
        )

    def parameters(self) -> dict[str, Tensor]:
        """The parameters, as far as a file tells: without what mcx recorded as buffers and what is known to be one.

        A tensor with two names (tied weights) counts once, under its first.
        """
        buffers = {*self.about.buffers, *self.known_buffers()}
        return distinct({name: tensor for name, tensor in self.state.items() if name not in buffers})

    def known_buffers(self) -> list[str]:
        """What is a buffer by its name or its kind, without mcx's word for it."""
        return buffers_in(self.state)

    @property
    def learning_rate(self) -> float | None:
        """The learning rate of the optimizer's groups; None where the file does not say it, or says several."""
        groups = (self.optimizer_state or {}).get("param_groups")
        rates: list[Any] = [group.get("lr") if isinstance(group, Mapping) else None for group in groups or ()]
        known = bool(rates) and all(type(rate) in (int, float) and rate == rates[0] for rate in rates)
        return float(rates[0]) if known and math.isfinite(rates[0]) else None

    @property
    def is_curve(self) -> bool:
        return "control_points" in self.content


def content(
    epoch: int | None, weights: Mapping[str, Any], about: About, optimizer: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A checkpoint as we write it; `weights` are the entries that hold them, `STATE` for a network.

    An epoch that is not known has no entry.
    """
    known = {} if epoch is None else {"epoch": epoch}
    stepped = {} if optimizer is None else {"optimizer_state": optimizer}
    return {**known, **weights, **stepped, "mcx": about.entry()}


def read(
    path: Path, *, state_key: str | None = None, allow_nonfinite: bool = False, mapped: bool = False
) -> Checkpoint:
    """Read a checkpoint after checking its bytes. Raises InputError for everything that is wrong with it.

    The entry that the path says (`A.pt::ema`) is its weights, before `state_key`.

    With `mapped` the tensors are pages of the file (`integrity.load`); values are then left to `check_finite`, as
    looking at them would read the file twice.
    """
    file, own = names.file_and_entry(path)
    content: Any = _shards(file, mapped) if shards.is_index(file) else integrity.load(file, mapped=mapped)
    state_key = own or state_key
    allow_nonfinite = allow_nonfinite or mapped
    if isinstance(content, list | tuple) and state_key is not None:
        content = entry.numbered(content)
    if not isinstance(content, dict):
        raise _no_dictionary(content, file)
    about = About.read(content.get("mcx"), path)
    if isinstance(content.get("control_points"), list):
        points = content["control_points"]
        if not points or not all(_are_tensors(point) for point in points):
            raise InputError(f"'{path}': control_points are not state dicts")
        tensors = {f"point {k}: {n}": t for k, point in enumerate(points) for n, t in point.items()}
        _check_tensors(tensors, path, None if allow_nonfinite else ())
        return Checkpoint(path, "curve", {}, _epoch(content, path), None, about, content)
    try:
        found = entry.find(content, file, state_key)
    except InputError as error:
        if state_key is None or own:
            raise
        of_one = "--state-key is that of every file; of one alone: FILE::ENTRY"
        raise InputError(error.message, "; ".join(filter(None, (error.hint, of_one)))) from None
    key, parts = found.key, weights.WRAPPERS if LIGHTNING in content else weights.OF_TORCH
    names_, prefix = weights.without_prefix(found.tensors, parts)
    state = dict(zip(names_, found.tensors.values(), strict=True))
    about = replace(about, buffers=tuple(name.removeprefix(prefix) for name in about.buffers))
    _check_tensors(state, path, None if allow_nonfinite else {*about.buffers, *buffers_in(state)})
    kept = [_alone(content[k]) for k in OPTIMIZER_KEYS if k in content]
    optimizer = next((dict(each) for each in kept if isinstance(each, Mapping)), None)
    return Checkpoint(
        path=path,
        layout=key,
        state=state,
        epoch=_epoch(content, path),
        optimizer_state=optimizer if key != "bare" else None,
        about=about,
        content=content if key != "bare" else {},
        prefix=found.prefix + prefix,
        extra={name.removeprefix(prefix): value for name, value in found.extra.items()},
        remarks=_remarks(found),
    )


def _no_dictionary(content: Any, path: Path) -> InputError:
    """What a file holds in place of a dictionary, and the way to the weights in it."""
    kind = content.of if isinstance(content, pickles.Inert) else type(content).__name__
    states = (
        [f"{path}::{k}" for k, each in enumerate(content) if _are_tensors(each)]
        if kind in ("list", "tuple")
        else []
    )
    if states:
        hint = f"take one by its number: {' or '.join(states[:3])}"
    elif kind in ("list", "tuple") and content and all(isinstance(each, Tensor) for each in content):
        hint = (
            f"give them their names, in Python: w = torch.load('{path}'); "
            "torch.save(dict(zip(model.state_dict(), w)), 'weights.pt')"
        )
    else:
        hint = integrity.resave(path, "w.state_dict()") if isinstance(content, pickles.Inert) else ""
    return InputError(f"'{path}' holds a {kind}, expected a state dict", hint)


def _are_tensors(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(n, str) and isinstance(t, Tensor) for n, t in value.items())
    )


def _alone(kept: Any) -> Any:
    """The state of an optimizer, out of a list of one, as Lightning writes it."""
    return kept[0] if isinstance(kept, list) and len(kept) == 1 else kept


def _remarks(found: entry.Entry) -> tuple[str, ...]:
    said = []
    if found.passed_over:
        said.append(f"values beside the weights are passed over: {shortened(found.passed_over)}")
    if found.left_out:
        said.append(
            f"left out, as their names do not begin with '{found.prefix}': {shortened(found.left_out)}"
        )
    if found.rivals:
        said.append(
            f"the weights are '{found.key}'; --state-key takes others of the same names: {shortened(found.rivals)}"
        )
    return tuple(said)


def _shards(path: Path, mapped: bool) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for part in shards.shards(path):
        content = integrity.load(part, mapped=mapped)
        if not _are_tensors(content):
            raise InputError(f"'{part}', which '{path.name}' names, holds no tensors by name")
        for name, tensor in content.items():
            if name in out:
                raise InputError(f"'{path}': tensor '{name}' is in two of its files")
            out[name] = tensor
    lost = [name for name in shards.tensors(path) if name not in out]
    if lost:
        raise InputError(f"'{path}' names '{lost[0]}', which none of its files holds")
    return out


def _epoch(content: Mapping[str, Any], path: Path) -> int | None:
    """The epoch that a file says, else its name. Raises InputError for a file of ours that says what is none."""
    epoch = content.get("epoch")
    if type(epoch) is int and 0 <= epoch < MOST_EPOCHS:
        return epoch
    if epoch is not None and isinstance(content.get("mcx"), Mapping):
        raise InputError(f"'{path}': what it says about itself is damaged ('epoch' is {str(epoch)[:40]})")
    return names.epoch_of(path)


def _check_tensors(state: Mapping[str, Tensor], path: Path, buffers: Collection[str] | None) -> None:
    """Raises InputError for tensors without values in every place; without `buffers` those are not looked at."""
    for name, tensor in state.items():
        if tensor.is_meta:
            raise InputError(f"'{path}': {name} is a meta tensor without values")
        if tensor.layout != torch.strided:
            raise InputError(f"'{path}': {name} is a sparse tensor, expected dense ones")
    if buffers is not None:
        check_finite(state, path, buffers)


def provenance_in(path: Path) -> Any:
    """The provenance that a checkpoint carries; None in a file of any other origin."""
    with contextlib.suppress(InputError):
        return read(path, allow_nonfinite=True).about.provenance
    return None


def check_finite(state: Mapping[str, Tensor], path: Path, buffers: Collection[str] = ()) -> None:
    """Raises InputError, naming the tensors of a checkpoint that hold NaN or infinity.

    Of those, `buffers` that are no statistics may hold −∞, as masks of attention do.
    """
    masks = {name for name in buffers if name.rpartition(".")[2] not in STATISTICS}
    with one_thread():
        bad = [name for name, tensor in state.items() if not finite(tensor, mask=name in masks)]
    if bad:
        shown = ", ".join(bad[:5]) + (", …" if len(bad) > 5 else "")
        raise InputError(
            f"'{path}' holds NaN or infinity in {len(bad)} of {len(state)} tensors: {shown}",
            "pass --allow-nonfinite to use it all the same",
        )


def finite(tensor: Tensor, *, mask: bool = False) -> bool:
    """Whether all values are finite, or −∞ in a `mask`.

    min and max see NaN and infinity without another tensor of the same size.
    """
    if not is_continuous(tensor) or tensor.numel() == 0:
        return True
    tensor = flat(tensor) if tensor.is_complex() else tensor
    low, high = torch.aminmax(tensor if tensor.element_size() > 1 else tensor.float())
    return all(math.isfinite(end) or (mask and end == -math.inf) for end in (float(low), float(high)))
