"""How far a command is: a bar on a terminal with a line per epoch above it, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modeconn_cli.cli import tables
from modeconn_cli.engine.errors import one_line
from modeconn_cli.engine.machine.pace import Pace

if TYPE_CHECKING:
    from rich.progress import Progress

EVERY = 30.0  # seconds between two lines in a log
SPACE = 32  # columns of a terminal that the bar and its numbers want at least
LINES = ("epoch", "part")  # units whose end leaves a line above the bar


@dataclass
class Watch:
    """Shows the progress of one command; `say` prints a line where there is no bar."""

    command: str
    fancy: Callable[[Any], bool]
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self._bar: Progress | None = None
        self.begin = self._printed = self._reported = time.monotonic()
        self._steps: Pace | None = None
        self._units: Pace | None = None

    def line(self, text: str) -> None:
        """A line of its own, above the bar where there is one."""
        if self._bar is None:
            self.say(text)
        else:
            self._above(tables.wrapped(one_line(text), self._bar.console.width))

    def _above(self, pieces: Sequence[str]) -> None:
        from rich.text import Text

        assert self._bar is not None
        self._bar.console.print(Text("\n".join(pieces)), soft_wrap=True)

    def report(self, done: int, total: int, fields: Mapping[str, Any], unit: str) -> None:
        """Work units done: a bar and a line per epoch on a terminal; else a line per unit, and each half minute."""
        now = time.monotonic()
        left = self._left(done, total, unit == "step", now)
        took = _duration(now - self.begin) + (f", about {_duration(left)} left" if left is not None else "")
        words = [f"{unit} {done}/{total} ", *_words(fields), f" ({took})"]
        if self.fancy(sys.stderr):
            bar = self._draw(done, total, fields, unit)
            if unit in LINES:
                self._above(tables.packed(words, bar.console.width))
        elif unit != "step" or now - self._printed >= EVERY:
            self._printed = now
            self.say(" ".join(words))

    def close(self) -> None:
        """Take the bar away; the terminal is left clean."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _left(self, done: int, total: int, steps: bool, now: float) -> float | None:
        """The seconds that are left, by the steps where the unit has any."""
        before, self._reported = self._reported, now
        pace = self._steps if steps else self._units
        if pace is None or not pace.goes_on(done, total):
            # Steps before the first report may have been done by an earlier run.
            pace = Pace(now, done, total, done, now) if steps else Pace(before, done - 1, total, done, now)
        last = self._units.now if self._units is not None else self.begin
        pace.done, pace.now = done, now
        if steps:
            self._steps = pace
        else:
            self._units = pace
            if self._steps is not None and self._steps.now > last:
                pace = self._steps
        return pace.left()

    def _draw(self, done: int, total: int, fields: Mapping[str, Any], unit: str) -> Progress:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.add_task(self.command, total=total)
            self._bar.start()
        if unit == "epoch":  # the bar itself counts steps
            return self._bar
        text = " ".join([self.command, *_words(fields)])
        if len(text) > self._bar.console.width - SPACE:
            text = self.command  # a number that is cut would say another one
        self._bar.update(self._bar.task_ids[0], description=text, completed=done, total=total)
        return self._bar


def _words(fields: Mapping[str, Any]) -> list[str]:
    return [
        one_line(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}")
        for key, value in fields.items()
    ]


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"
