"""Settings of `mcx info`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modeconn_cli.engine.settings.base import setting, without_effect
from modeconn_cli.engine.settings.shared import NETWORK, TracedSettings


@dataclass(frozen=True, kw_only=True)
class InfoSettings(TracedSettings):
    """Say what a checkpoint holds."""

    checkpoint: Path = setting(None, "the file", positional=True, missing=("no checkpoint", "mcx info FILE"))
    show_keys: int = setting(20, "tensors listed; 0: none", low=0)
    symmetries: bool = setting(
        False, "build the network and list its groups of exchangeable units, and what is not exchangeable"
    )

    @property
    def sources(self) -> tuple[Path, ...]:
        return () if self.checkpoint is None else (self.checkpoint,)

    def idle(self) -> dict[str, str]:
        return {
            **super().idle(),
            **without_effect(not self.symmetries, "without --symmetries", *NETWORK),
        }
