"""Settings of `mcx status`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modeconn_cli.engine.settings.base import Settings, setting


@dataclass(frozen=True, kw_only=True)
class StatusSettings(Settings):
    """How far the jobs of a folder are."""

    folder: Path = setting(
        None,
        "the --output-dir of any command, or a folder of such",
        positional=True,
        missing=("no folder", "mcx status DIR"),
    )
    verify: bool = setting(
        False, "read every file of every finished job and compare it with its recorded hash"
    )
