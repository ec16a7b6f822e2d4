"""Settings of `mcx info`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modeconn_cli.engine.settings.base import Settings, setting


@dataclass(frozen=True, kw_only=True)
class InfoSettings(Settings):
    """Say what a checkpoint holds."""

    checkpoint: Path = setting(None, "the file", positional=True, missing=("no checkpoint", "mcx info FILE"))
    state_key: str | None = setting(None, "entry of the file that holds the weights")
    show_keys: int = setting(20, "tensors listed; 0: none", low=0)
