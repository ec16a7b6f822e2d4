"""Settings of `mcx help`."""

from __future__ import annotations

from dataclasses import dataclass

from modeconn_cli.engine.settings.base import Settings, setting


@dataclass(frozen=True, kw_only=True)
class HelpSettings(Settings):
    """Explain a command, or a topic."""

    words: tuple[str, ...] = setting((), "a command or a topic", positional=True, repeats=True)
