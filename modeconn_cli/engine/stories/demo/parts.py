"""The parts of a story: each is a command with its own settings, so that it can be repeated by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, TypeVar

from modeconn_cli.engine.machine.runtime import Runtime

S = TypeVar("S", contravariant=True)
R = TypeVar("R", covariant=True)


class Command(Protocol[S, R]):
    def __call__(self, settings: S, runtime: Runtime, /) -> R | None: ...


class Parts:
    """Runs commands as parts of a story whose results lie in `root`, and counts them for the progress line.

    `machine` holds the settings that say on what device and with how many threads, `look` those of figures.
    """

    def __init__(
        self, root: Path, runtime: Runtime, count: int, machine: dict[str, Any], look: dict[str, Any]
    ) -> None:
        self.root, self.machine, self.look = root, machine, look
        self._runtime = runtime
        self._done, self._count = 0, count

    def do(self, text: str, command: Command[S, R], settings: S) -> R:
        """Run one command; `text` says what it has done."""
        part = self._runtime.for_command().part(self._done, 1, self._count)
        result = command(settings, part.hushed(steps=True))
        self._done += 1
        self._runtime.progress(self._done, self._count, unit="part", finished=text)
        assert result is not None
        return result
