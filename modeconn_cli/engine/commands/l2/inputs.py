"""Which checkpoints are compared, and what of them."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from modeconn_cli.engine import names
from modeconn_cli.engine.commands.l2 import labels
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints, weights
from modeconn_cli.engine.networks.checkpoints import Checkpoint
from modeconn_cli.engine.networks.checkpoints.epochs import between, in_range
from modeconn_cli.engine.results import shards
from modeconn_cli.engine.settings.l2 import L2Settings
from modeconn_cli.engine.settings.scoring import EPOCHS


@dataclass(frozen=True)
class Network:
    """One checkpoint, its tensors pages of its file; `weights` is what is compared of it."""

    label: str
    path: Path
    checkpoint: Checkpoint
    weights: dict[str, Tensor]
    stamp: tuple[object, ...] = ()

    def check_unchanged(self) -> None:
        """Raises InputError where the file is not the one any more that was measured: a record would name another."""
        if _stamp(self.path) != self.stamp:
            raise InputError(
                f"'{self.path}' was replaced while it was measured", "run the same command again"
            )


@dataclass(frozen=True)
class Given:
    """label -> checkpoint, in the order given; `epochs` where they are those of one run, ascending."""

    paths: Mapping[str, Path]
    epochs: tuple[int, ...] | None = None


def is_pair(settings: L2Settings) -> bool:
    """Whether the command is about two checkpoints alone."""
    words = _words(settings)
    return settings.output_dir is None and len(words) == 2 and not any(map(_is_several, words))


def given(settings: L2Settings, runtime: Runtime) -> Given:
    """The checkpoints by position, by flag, of a folder or of a pattern.

    Raises SettingsError for several of these at once, or fewer than two checkpoints.
    """
    words = _words(settings)
    several = [word for word in words if _is_several(word)]
    if any(map(settings.was_given, EPOCHS)) and not several:
        raise SettingsError(
            "--start-epoch, --end-epoch and --step choose from a folder or a pattern", "mcx l2 FOLDER"
        )
    paths = [
        path for word in words for path in (_expanded(word, settings, runtime) if word in several else [word])
    ]
    if len(paths) < 2:
        raise SettingsError(
            f"two checkpoints are needed, got {len(paths)}",
            "mcx l2 FIRST.pt SECOND.pt; a folder takes no label, a pattern has * or ?",
        )
    if is_pair(settings):
        return Given(dict(zip(("first", "second"), labels.paths(words), strict=True)))
    named = labels.labelled(paths)
    return Given(named, _epochs(list(named.values()), settled=len(words) == 1))


def _words(settings: L2Settings) -> list[Path]:
    by_flag = settings.checkpoint1, settings.checkpoint2
    if settings.checkpoints and any(by_flag):
        raise SettingsError(
            "checkpoints are given by position and by --checkpoint1/--checkpoint2", "use one of them"
        )
    return list(settings.checkpoints or (path for path in by_flag if path is not None))


def _is_several(word: Path) -> bool:
    return os.path.isdir(word) or len(_fitting(word)) > 0


def _fitting(word: Path) -> list[Path]:
    """The files of a pattern, in the order of their epochs; none of a word that is the name of a file."""
    if not set("*?") & set(str(word)) or os.path.lexists(word):
        return []
    found = [Path(name) for name in sorted(glob.glob(str(word)))]
    return sorted(found, key=lambda path: names.epoch_of(path) or 0)


def _expanded(word: Path, settings: L2Settings, runtime: Runtime) -> list[Path]:
    """The checkpoints of a folder or a pattern in the order of their epochs, of the range that is asked for."""
    if os.path.isdir(word):
        return list(in_range(word, settings, runtime).values())
    found = _fitting(word)
    epochs = {epoch: path for path in found if (epoch := names.epoch_of(path)) is not None}
    if len(epochs) < len(found):  # names that say no epoch, or one twice: all of them
        return found
    kept, _ = between(
        epochs, settings.start_epoch, settings.end_epoch, settings.epoch_step, f"files of '{word}'"
    )
    return [epochs[epoch] for epoch in kept]


def _epochs(paths: list[Path], settled: bool) -> tuple[int, ...] | None:
    """The epochs of checkpoints that make a trajectory: those of one folder, each later than the one before."""
    epochs = tuple(epoch for path in paths if (epoch := names.epoch_of(path)) is not None)
    rising = len(epochs) == len(paths) and list(epochs) == sorted(set(epochs))
    together = len({path.absolute().parent for path in paths}) == 1
    return epochs if rising and together and (settled or len(paths) > 2) else None


def read(label: str, path: Path, settings: L2Settings, runtime: Runtime) -> Network:
    """Map a checkpoint. Its parameters are compared, and its buffers where they are asked for.

    Raises InputError for a file that is broken, and for anything but real weights. Whether the weights are finite
    shows when they are measured.
    """
    stamp = _stamp(path)
    checkpoint = checkpoints.read(path, state_key=settings.state_key, mapped=True)
    if checkpoint.is_curve:
        raise InputError(f"'{path}' is a curve, not a network", "take a point of it with mcx curve extract")
    runtime.detail(checkpoint.found())
    found = checkpoint.parameters()
    whole = [n for n, t in found.items() if not t.is_floating_point() and t.ndim > 0]
    found = {name: tensor for name, tensor in found.items() if tensor.is_floating_point()}
    if whole or not found:
        what = f"{whole[0]} holds whole numbers" if whole else "it holds no parameters"
        raise InputError(f"'{path}' cannot be compared: {what}", "distances are between real weights")
    if settings.include_buffers:
        every = weights.distinct(checkpoint.state)
        found = {name: tensor for name, tensor in every.items() if tensor.is_floating_point()}
    if not settings.allow_nonfinite:
        others = {name: tensor for name, tensor in checkpoint.state.items() if name not in found}
        checkpoints.check_finite(others, path)
    return Network(label, path, checkpoint, found, stamp)


def _stamp(path: Path) -> tuple[object, ...]:
    """What changes when a file is replaced."""
    try:
        parts = [path, *(shards.shards(path) if shards.is_index(path) else [])]
        return tuple((s.st_ino, s.st_size, s.st_mtime_ns) for s in (part.stat() for part in parts))
    except (OSError, InputError):
        return ()
