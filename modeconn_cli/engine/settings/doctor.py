"""Settings of `mcx doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modeconn_cli.engine.settings.base import Settings, setting


@dataclass(frozen=True, kw_only=True)
class DoctorSettings(Settings):
    """Whether this machine is fit."""

    folder: Path = setting(
        Path(), "where results will be written: its disk is tried", positional=True, shown="here"
    )
