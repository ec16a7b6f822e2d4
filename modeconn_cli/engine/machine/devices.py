"""What this machine has: devices and cores."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from modeconn_cli.engine.errors import SettingsError

if TYPE_CHECKING:
    import torch


def cores() -> int:
    """How many cores this process may use, at least 1."""
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def find_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` as a device that is there; every local rank gets a GPU of its own.

    Raises SettingsError for anything else.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and torch.cuda.device_count() > 1:  # a launcher may show each process only its own
        name = f"cuda:{local_rank % torch.cuda.device_count()}"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdigit()) or (kind == "cpu" and index):
        raise SettingsError(f"unknown device '{name}'", "choose auto, cpu, cuda or cuda:N")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise SettingsError(f"MPS is not available (torch {torch.__version__})", "use --device cpu")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise SettingsError(f"CUDA is not available (torch {torch.__version__})", "use --device cpu")
        if index and int(index) >= torch.cuda.device_count():
            raise SettingsError(
                f"there is no device '{name}' (found {torch.cuda.device_count()})", "use --device cuda:0"
            )
    return torch.device(name)
