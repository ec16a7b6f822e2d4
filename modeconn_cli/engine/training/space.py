"""How much a run is going to write, said before it begins."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import nn

from modeconn_cli.engine.errors import in_bytes
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.settings.train import OptimizerSettings


def checkpoint_bytes(
    model: nn.Module, settings: OptimizerSettings, *, points: int = 1, trained: int = 1
) -> int:
    """Bytes of the tensors in a checkpoint of `points` networks of which `trained` are trained, with the optimizer's.

    What names and settings take comes on top, some kilobytes.
    """
    weights = sum(each.numel() * each.element_size() for each in model.parameters())
    buffers = sum(each.numel() * each.element_size() for each in model.buffers())
    states = 2 if settings.optimizer != "sgd" else int(settings.momentum > 0)
    return weights * (points + states * trained) + buffers


def kept_epochs(epochs: int, save_freq: int) -> int:
    """How many checkpoints a run of so many epochs keeps: the first, the last, and what lies between."""
    between = (epochs - 1) // save_freq if save_freq and epochs else 0
    return 1 + between + (epochs > 0)


def said(count: int, each: int, folder: Path, runtime: Runtime) -> str:
    """Checkpoints in words: how many, how large, and how much is free where they go; a warning where that is less."""
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free, needed = shutil.disk_usage(nearest).free, count * each
    if needed > free:
        runtime.warn(
            f"the checkpoints take {in_bytes(needed)}, and {in_bytes(free)} are free in '{nearest}': "
            "keep fewer of them (--save-freq), or write elsewhere"
        )
    times = f"{count} x {in_bytes(each)}" if count > 1 else f"one of {in_bytes(each)}"
    return f"checkpoints: {times}, {in_bytes(free)} free"
