"""A network that is compared: a checkpoint, whose tensors are pages of its file, and what of it counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints, subject, weights
from modeconn_cli.engine.networks.checkpoints import Checkpoint
from modeconn_cli.engine.results import shards
from modeconn_cli.engine.settings.l2 import L2Settings


@dataclass(frozen=True)
class Network:
    """`weights` is what is compared of the checkpoint; `stamp` changes when its file is replaced."""

    checkpoint: Checkpoint
    weights: Mapping[str, Tensor]
    stamp: tuple[object, ...] = ()

    @property
    def path(self) -> Path:
        return self.checkpoint.path

    def check_unchanged(self) -> None:
        """Raises InputError where the file is not the one any more that was measured: a record would name another."""
        if _stamp(self.path) != self.stamp:
            raise InputError(
                f"'{self.path}' was replaced while it was measured", "run the same command again"
            )


def opened(path: Path, settings: L2Settings, runtime: Runtime) -> Network:
    """Map a checkpoint, of which nothing counts yet (`compared`). Raises InputError for a file that is broken."""
    stamp = _stamp(path)
    checkpoint = mapped(path, settings.state_key)
    runtime.detail(checkpoint.found())
    for remark in checkpoint.remarks:
        runtime.note(remark, once=True)
    return Network(checkpoint, {}, stamp)


def compared(
    network: Network,
    settings: L2Settings,
    runtime: Runtime,
    model: nn.Module | None,
    names: Mapping[str, Any],
) -> Network:
    """The network with what counts of it: its parameters, and its buffers where they are asked for, under the names
    that the `model`, else another network's state dict (`names`) has for them.

    The parameters are those of the `model`; without one the file tells, or known names of buffers. Raises InputError
    for a file that is not the model's, and for one without parameters. Whether the weights are finite shows
    when they are measured.
    """
    wanted, some = (names, settings.common) if model is None else (model.state_dict(), False)
    checkpoint, path = subject.named_as(network.checkpoint, wanted, runtime, some=some), network.path
    counts = _compared(checkpoint, settings, runtime, model)
    whole = _whole_numbers(checkpoint, counts)
    if whole or not counts:
        what = f"{whole} holds whole numbers" if whole else "it holds no parameters"
        raise InputError(
            f"'{path}' cannot be compared: {what}", "distances are between real or complex weights"
        )
    if not settings.allow_nonfinite:
        others = {name: tensor for name, tensor in checkpoint.state.items() if name not in counts}
        checkpoints.check_finite(others, path, others)
    return Network(checkpoint, counts, network.stamp)


def _compared(
    checkpoint: Checkpoint, settings: L2Settings, runtime: Runtime, model: nn.Module | None
) -> dict[str, Tensor]:
    """What of a checkpoint counts, no whole numbers."""
    if model is not None:
        weights.check_fits(model, checkpoint.whole, str(checkpoint.path))
    if settings.include_buffers:
        counted = weights.distinct(checkpoint.state)
    elif model is not None:
        counted = weights.parameters_of(model, checkpoint.state)
    else:
        counted = checkpoint.parameters()
        if remark := _guessed(checkpoint, counted):
            runtime.note(remark, once=True)
    return {name: tensor for name, tensor in counted.items() if weights.is_continuous(tensor)}


def _guessed(checkpoint: Checkpoint, counted: Mapping[str, Tensor]) -> str:
    """What names and kinds alone have told of a file that does not say its buffers; empty where nothing is in doubt.

    What is called a weight or a bias is a parameter; other names that are counted may be buffers of the user's own.
    """
    if checkpoint.about.buffers or checkpoint.about.model is not None:
        return ""
    state, known = checkpoint.state, checkpoint.known_buffers()
    named = [name for name in known if weights.called_a_buffer(name, state)]
    kinds = [name for name in known if name not in named]
    doubtful = [
        name
        for name, tensor in counted.items()
        if weights.is_continuous(tensor) and not weights.called_a_parameter(name)
    ]
    parts = {
        "left out as buffers, by their names": named,
        "left out as they are not of float": kinds,
        "counted as parameters, though no name says so": doubtful,
    }
    said = "; ".join(f"{what}: {weights.shortened(names)}" for what, names in parts.items() if names)
    return said and f"{said} (--model says what the parameters are, --include-buffers counts all)"


def _whole_numbers(checkpoint: Checkpoint, compared: Mapping[str, Tensor]) -> str:
    """A tensor of whole numbers that is no buffer: quantised weights, or all that there is."""
    names = [
        name for name, tensor in checkpoint.state.items() if tensor.ndim and not weights.is_continuous(tensor)
    ]
    weights_ = [name for name in names if name.rpartition(".")[2] in ("weight", "bias")]
    return next(iter(weights_ if compared else names), "")


def mapped(path: Path, state_key: str | None = None) -> Checkpoint:
    """A checkpoint whose tensors are pages of its file. Raises InputError for a curve."""
    checkpoint = checkpoints.read(path, state_key=state_key, mapped=True)
    if checkpoint.is_curve:
        raise InputError(f"'{path}' is a curve, not a network", subject.A_POINT)
    return checkpoint


def _stamp(path: Path) -> tuple[object, ...]:
    """Identity, size and time of a file, and of those that an index names."""
    try:
        path = names.file_of(path)
        parts = [path, *(shards.shards(path) if shards.is_index(path) else [])]
        return tuple((s.st_ino, s.st_size, s.st_mtime_ns) for s in (part.stat() for part in parts))
    except (OSError, InputError):
        return ()
