"""Settings of `mcx info`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modeconn_cli.engine.settings.base import Settings, like, setting
from modeconn_cli.engine.settings.shared import FileSettings


@dataclass(frozen=True, kw_only=True)
class InfoSettings(Settings):
    """Say what a checkpoint holds."""

    checkpoint: Path = setting(None, "the file", positional=True, missing=("no checkpoint", "mcx info FILE"))
    state_key: str | None = like(FileSettings, "state_key")
    show_keys: int = setting(20, "tensors listed; 0: none", low=0)
