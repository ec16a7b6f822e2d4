"""Settings of `mcx completion`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modeconn_cli.engine.settings.base import Settings, setting


@dataclass(frozen=True, kw_only=True)
class CompletionSettings(Settings):
    """Print a shell's completion script."""

    shell: Literal["bash", "zsh", "fish"] = setting(
        None,
        "bash, zsh or fish",
        positional=True,
        missing=("which shell?", "mcx completion bash, zsh or fish"),
    )
