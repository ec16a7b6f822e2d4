"""What leaves the program: the result on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from modeconn_cli.cli import tables
from modeconn_cli.engine.errors import OutputError

if TYPE_CHECKING:
    from rich.progress import Progress

    from modeconn_cli.engine.runtime import Runtime
    from modeconn_cli.engine.settings.base import Settings

EVERY = 30.0  # seconds between two progress lines in a log


class PipeClosed(Exception):
    """The reader of stdout has gone."""


class Result(Protocol):
    """What an engine returns: a record that can be written as JSON."""

    def document(self) -> dict[str, Any]: ...


def fancy(stream: Any) -> bool:
    """Whether colour and rules are welcome on a stream."""
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


class Report:
    """The output of one command."""

    def __init__(
        self,
        command: str,
        *,
        as_json: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        dry_run: bool = False,
    ) -> None:
        self.command = command
        self.as_json = as_json
        self.quiet = quiet
        self.verbose = verbose
        self.dry_run = dry_run
        self._bar: Progress | None = None
        self._last = time.monotonic()
        self._begin = time.monotonic()

    def runtime(self, settings: Settings) -> Runtime:
        """The machine the engine runs on, speaking through this report."""
        from modeconn_cli.engine import runtime

        return runtime.start(settings, listener=self, command=self.command, dry_run=self.dry_run)

    # What the engine says -------------------------------------------------------------------------------

    def note(self, text: str, level: str = "note") -> None:
        """A line for the reader on stderr. Levels: detail (only with -v), note, warning."""
        if (level == "detail" and not self.verbose) or (self.quiet and level != "warning"):
            return
        self._say(f"mcx {self.command}: {level}: {text}" if level == "warning" else text)

    def plan(self, lines: Sequence[str]) -> None:
        """What a long job is going to do."""
        if not self.quiet:
            for line in lines:
                self._say(line)

    def progress(self, done: int, total: int, fields: Mapping[str, Any], unit: str = "step") -> None:
        """Work units done: a bar on a terminal, else a line per unit and for steps every half minute."""
        if self.quiet:
            return
        if fancy(sys.stderr):
            self._draw(done, total, fields, unit)
            return
        now = time.monotonic()
        if unit != "step" or now - self._last >= EVERY:
            self._last = now
            self._say(f"{unit} {done}/{total}  {_fields(fields)}  ({now - self._begin:.0f} s)")

    def _draw(self, done: int, total: int, fields: Mapping[str, Any], unit: str) -> None:
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
        task = self._bar.task_ids[0]
        text = f"{self.command} {_fields(fields)}"
        if unit == "epoch":  # the bar itself counts steps
            self._bar.update(task, description=text)
        else:
            self._bar.update(task, completed=done, total=total, description=text)

    def close(self) -> None:
        """Take the bar away; the terminal is left clean."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _say(self, text: str) -> None:
        if self._bar is not None:
            from rich.text import Text

            self._bar.console.print(Text(text), soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    # The result -----------------------------------------------------------------------------------------

    def emit(self, result: Result | None, render: Callable[[Any], Sequence[tables.Part]]) -> None:
        """Print a result: JSON for programs, ruled tables on a terminal, plain text in a pipe.

        None is the result of a dry run and prints nothing.
        """
        self.close()
        if result is None:
            return
        if self.as_json:
            self._out(json.dumps(result.document(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        elif fancy(sys.stdout):
            from rich.console import Console

            tables.draw(Console(), render(result))
        else:
            self._out(tables.plain_text(render(result)))

    def print_config(self, settings: Settings, origins: Mapping[str, str]) -> None:
        """The settings as a configuration file, each with its origin."""
        from modeconn_cli.cli import config

        for name, value in settings.as_plain().items():
            text = config.write({name: value}).rstrip("\n")
            line = f"# {name}:" if text in ("", "{}") else text
            self._out(f"{line}  # {origins[name]}\n")

    @staticmethod
    def _out(text: str) -> None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            raise PipeClosed from None
        except OSError as error:
            raise OutputError(f"standard output cannot be written: {error.strerror}") from error


def _fields(fields: Mapping[str, Any]) -> str:
    return " ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in fields.items()
    )
