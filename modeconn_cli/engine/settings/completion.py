"""Settings of `mcx completion`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modeconn_cli.engine.settings.base import Settings, setting, without_effect


@dataclass(frozen=True, kw_only=True)
class CompletionSettings(Settings):
    """Print a shell's completion script, or the line that loads it."""

    shell: Literal["bash", "zsh", "fish", "install"] = setting(
        None,
        "bash, zsh or fish: its script; install: the line that loads it",
        positional=True,
        missing=("which shell?", "mcx completion bash, zsh or fish; mcx completion install"),
    )
    of: Literal["bash", "zsh", "fish"] | None = setting(
        None, "with install: bash, zsh or fish", positional=True, shown="the shell that $SHELL names"
    )

    def idle(self) -> dict[str, str]:
        return super().idle() | without_effect(self.shell != "install", f"with {self.shell}", "of")
