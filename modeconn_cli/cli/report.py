"""What leaves the program: the result on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO, TypeVar

from modeconn_cli.cli import tables, written
from modeconn_cli.cli.progress import Watch
from modeconn_cli.engine.errors import Elsewhere, McxError, OutputError, Stopped, one_line, within_memory

if TYPE_CHECKING:
    from modeconn_cli.engine.machine.ranks import Group
    from modeconn_cli.engine.machine.runtime import Runtime
    from modeconn_cli.engine.settings.base import Settings


class PipeClosed(Exception):
    """The reader of stdout has gone."""


class Result(Protocol):
    """What an engine returns: a record that can be written as JSON."""

    def document(self) -> dict[str, Any]: ...


S = TypeVar("S", bound="Settings")


def fancy(stream: Any) -> bool:
    """Whether colour and rules are welcome on a stream."""
    plain = os.environ.get("TERM") == "dumb" or bool(os.environ.get("NO_COLOR"))
    return bool(stream.isatty()) and not plain


class Output:
    """Standard output, whose failures are errors of ours: PipeClosed, or OutputError for a full disk."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._checked():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._checked():
            self._stream.flush()

    @contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            silence(self._stream)
            raise PipeClosed from None
        except OSError as error:
            silence(self._stream)
            raise OutputError(f"standard output cannot be written: {error.strerror}") from error


def silence(stream: TextIO) -> None:
    """Send the rest of a stream that cannot be written nowhere: Python flushes it once more at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def say(text: str) -> None:
    """One line on stderr. A log that cannot be written stops no work; one whose reader has gone does."""
    try:
        print(one_line(text), file=sys.stderr, flush=True)
    except BrokenPipeError:
        silence(sys.stderr)
        raise PipeClosed from None
    except OSError:
        silence(sys.stderr)


def fail(command: str, error: McxError) -> int:
    """Say an error, its hint, and the exit code; nothing where another rank has spoken.

    A job that was stopped and can go on is no error.
    """
    if isinstance(error, Stopped):
        say(f"mcx {command}".strip() + f": {'; '.join(filter(None, (error.message, error.hint)))}")
        return error.exit_code
    if error.message:
        say(f"mcx {command}".strip() + f": error: {error.message}")
    if error.hint:
        say(f"hint: {error.hint}")
    return error.exit_code


@dataclass
class Report:
    """The output of one command."""

    command: str
    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        self._watch = Watch(self.command, fancy, say)
        self._plan: list[str] = []

    def runtime(self, settings: Settings) -> Runtime:
        """The machine the engine runs on, speaking through this report."""
        from modeconn_cli.engine.machine import runtime

        return runtime.start(settings, listener=self, command=self.command, dry_run=self.dry_run)

    # What the engine says -------------------------------------------------------------------------------

    def note(self, text: str, level: str = "note") -> None:
        """A line for the reader on stderr. Levels: detail (only with -v), note, warning."""
        if (level == "detail" and not self.verbose) or (self.quiet and level != "warning"):
            return
        self._watch.line(f"mcx {self.command}: {level}: {text}" if level == "warning" else text)

    def plan(self, lines: Sequence[str]) -> None:
        """What a long job is going to do."""
        self._plan += lines
        if not self.quiet:
            for line in lines:
                self._watch.line(line)

    def progress(self, done: int, total: int, fields: Mapping[str, Any], unit: str = "step") -> None:
        """Work units done, as far as anyone wants to know."""
        if not self.quiet:
            self._watch.report(done, total, fields, unit)

    # The result -----------------------------------------------------------------------------------------

    def run(
        self,
        engine: Callable[[S, Runtime], Result | None],
        settings: S,
        render: Callable[[Any], Sequence[tables.Block]],
    ) -> None:
        """Run an engine, print its result and name the files it wrote; where the answer is no, what led to it."""
        from modeconn_cli.engine.results import files

        with files.watched() as found:
            try:
                self._run(engine, settings, render, found)
            finally:
                self._watch.close()

    def _run(
        self,
        engine: Callable[[S, Runtime], Result | None],
        settings: S,
        render: Callable[[Any], Sequence[tables.Block]],
        found: Collection[Path],
    ) -> None:
        runtime = self.runtime(settings)
        group = runtime.group
        try:
            if group.leader and not self.dry_run:
                _check_places(settings)
            with within_memory(getattr(settings, "batch_size", None)):
                result = engine(settings, runtime)
            everywhere = _of_all_ranks(group, found)
        except McxError as error:
            if isinstance(error, Elsewhere) or not group.failed(error):
                raise Elsewhere(error.exit_code) from error
            if group.world > 1:
                _keep_cause(settings, group.rank, error)
            if not group.leader:
                error.message = f"rank {group.rank}: {error.message}"
            if error.result is not None:
                self.emit(error.result, render)
                self._name(found)
            raise
        except Exception as error:
            group.failed(McxError(f"{type(error).__name__}: {error}"))
            raise
        finally:
            group.leave()
        if group.leader:
            self.emit(result, render)
            self._name(everywhere)

    def _name(self, found: Iterable[Path]) -> None:
        """The last lines: the files that were written and are for the user."""
        from modeconn_cli.engine import names

        results = [path for path in found if names.JOB_FOLDER not in path.parts and path.exists()]
        for line in written.lines(results):
            self.note(f"wrote {line}")

    def emit(self, result: Result | None, render: Callable[[Any], Sequence[tables.Block]]) -> None:
        """Print a result: JSON for programs, ruled tables on a terminal, plain text in a pipe.

        None is the result of a dry run, which has its plan for programs and has said it to people.
        """
        self._watch.close()
        if self.as_json:
            plan = {"schema": "mcx.plan/1", "command": f"mcx {self.command}", "plan": self._plan}
            _write_json(plan if result is None else result.document())
        elif result is None:
            return
        elif fancy(sys.stdout):
            from rich.console import Console

            tables.draw(Console(), _printable(render(result)))
        else:
            sys.stdout.write(tables.plain_text(_printable(render(result))))
        sys.stdout.flush()

    def print_config(self, settings: Settings, origins: Mapping[str, str]) -> None:
        """The settings as a configuration file, or as JSON, each with its origin."""
        from modeconn_cli.engine.results.records import settings_text

        if self.as_json:
            known = {name: {"value": v, "origin": origins[name]} for name, v in settings.as_plain().items()}
            _write_json({"schema": "mcx.settings/1", "command": f"mcx {self.command}", "settings": known})
            return
        for name, value in settings.as_plain().items():
            line = settings_text({name: value}).rstrip("\n") or f"# {name}:"
            sys.stdout.write(f"{line}  # {one_line(origins[name])}\n")
        sys.stdout.flush()


def _write_json(document: Mapping[str, Any]) -> None:
    # ASCII, as the terminal's encoding may not hold the names of files.
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def _check_places(settings: Settings) -> None:
    """Raises OutputError where results cannot be written: known before an input is read."""
    from modeconn_cli.engine.results import files

    output, folder = getattr(settings, "output", None), getattr(settings, "output_dir", None)
    for place in (output and output.parent, folder):
        if place is not None:
            files.check_writable(place)


def _of_all_ranks(group: Group, written: Iterable[Path]) -> list[Path]:
    """The files that all processes have written, each once."""
    found = group.gather([os.fspath(path) for path in written])
    return [Path(name) for name in dict.fromkeys(name for names in found for name in names)]


def _keep_cause(settings: Settings, rank: int, error: McxError) -> None:
    """Why the first rank failed, beside the results: a launcher's own report hides it."""
    from modeconn_cli.engine import names
    from modeconn_cli.engine.results import files

    folder = getattr(settings, "output_dir", None)
    if folder is not None and (folder / names.JOB_FOLDER).is_dir():
        cause = {"rank": rank, "message": error.message, "hint": error.hint, "exit_code": error.exit_code}
        with suppress(McxError):
            files.write_json(folder / names.JOB_FOLDER / f"error.rank{rank}.json", cause)


def _printable(parts: Sequence[tables.Block]) -> list[tables.Block]:
    """Parts without control characters: names of layers and files come from outside."""
    out: list[tables.Block] = []
    for part in parts:
        if isinstance(part, tables.Lines):
            out.append(tables.Lines(tuple(map(one_line, part.lines))))
        else:
            rows = tuple(tuple(map(one_line, row)) for row in part.rows)
            out.append(replace(part, title=one_line(part.title), rows=rows))
    return out
