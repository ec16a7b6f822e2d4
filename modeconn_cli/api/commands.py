"""The commands as functions: the same settings, the same results, the same files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from modeconn_cli.api.words import settings_with, spoken
from modeconn_cli.cli import pages
from modeconn_cli.cli.commands import COMMANDS
from modeconn_cli.cli.complete import settings_of
from modeconn_cli.engine import names
from modeconn_cli.engine.errors import SettingsError, did_you_mean, within_memory
from modeconn_cli.engine.settings.base import Settings

if TYPE_CHECKING:
    from modeconn_cli.cli.tables import Block
    from modeconn_cli.engine.commands.correlate import CorrelateResult
    from modeconn_cli.engine.commands.csl.aggregate import CslAggregateResult
    from modeconn_cli.engine.commands.csl.score import CslScoreResult
    from modeconn_cli.engine.commands.curve.train import CurveTrainResult
    from modeconn_cli.engine.commands.dormant import DormantResult
    from modeconn_cli.engine.commands.l2 import L2ManyResult, L2Result
    from modeconn_cli.engine.commands.lmc.interpolate import LmcInterpolateResult
    from modeconn_cli.engine.commands.swap import SwapResult
    from modeconn_cli.engine.commands.train import TrainResult
    from modeconn_cli.engine.machine.runtime import Runtime

R = TypeVar("R")
S = TypeVar("S", bound=Settings)
File = str | PathLike[str]

# Called with (done, total, fields, unit). The unit `step` is the finest: batches trained on, positions measured or
# samples scored; its count runs over the whole call and never falls. Other units (`epoch`, `network`, `checkpoint`,
# `part`) tell the end of something larger and count within the part that `fields` name (its seed, branch …). `fields`
# say what is known of it by now: losses, accuracies, the position.
Progress = Callable[[int, int, Mapping[str, Any], str], None]


@dataclass(frozen=True, repr=False)
class Answer(Generic[R]):
    """What a command found; a notebook shows its tables and figures.

    `result` is the record that `--json` prints, `files` are those that were written or replaced by this call, `figures`
    those of the result, whichever call has drawn them, `notes` and `warnings` what the command line says on stderr.
    `str(answer)` is the text of the terminal.
    """

    command: str
    result: R
    files: tuple[Path, ...]
    figures: tuple[Path, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    blocks: tuple[Block, ...]

    def __str__(self) -> str:
        from modeconn_cli.cli import tables

        return tables.plain_text(self.blocks)

    def __repr__(self) -> str:
        counts = ((len(self.files), "file"), (len(self.figures), "figure"), (len(self.warnings), "warning"))
        said = [f"{count} {what}{'' if count == 1 else 's'}" for count, what in counts if count]
        return (
            f"<Answer of {self.command}: {', '.join([type(self.result).__name__, *said])}; print() shows it>"
        )

    def document(self) -> dict[str, Any]:
        """The result as plain values, which JSON holds."""
        found: dict[str, Any] = self.result.document()  # type: ignore[attr-defined]
        return found

    def _repr_html_(self) -> str:
        from modeconn_cli.api import html

        return html.page(self.blocks, self.figures)


class _Heard:
    """Listens to a command in the place of the terminal."""

    dry_run = False

    def __init__(self, command: str, progress: Progress | None) -> None:
        self.command, self._progress = command, progress
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.answer: Answer[Any] | None = None

    def note(self, text: str, level: str = "note") -> None:
        if level != "detail":
            (self.warnings if level == "warning" else self.notes).append(text)

    def plan(self, lines: Sequence[str]) -> None:
        self.notes += lines

    def progress(self, done: int, total: int, fields: Mapping[str, Any], unit: str = "step") -> None:
        if self._progress is not None:
            self._progress(done, total, fields, unit)

    def run(
        self,
        engine: Callable[[S, Runtime], Any],
        settings: S,
        render: Callable[[Any], Sequence[Block]],
    ) -> None:
        from modeconn_cli.api import html
        from modeconn_cli.engine.machine import runtime
        from modeconn_cli.engine.results import files

        with files.watched() as written, within_memory(getattr(settings, "batch_size", None)):
            result = engine(settings, runtime.start(settings, listener=self, command=self.command))
        made = [path for path in written if names.JOB_FOLDER not in path.parts and path.exists()]
        self.answer = Answer(
            self.command,
            result,
            tuple(made),
            html.figures(made, result.document(), getattr(settings, "output_dir", None), self.command),
            tuple(self.notes),
            tuple(self.warnings),
            tuple(render(result)),
        )


def run(command: str, *, progress: Progress | None = None, **settings: Any) -> Answer[Any]:
    """Do what `mcx <command>` does, with the settings under their names: `mcx <command> --help-all` lists them, with
    their defaults.

    Values are Python's, or the words that a flag would get; a `model` may be the class or function that makes it, which
    a module, script or notebook defines at its top level. Raises the command's own errors, all of them McxError: of
    settings (SettingsError), of inputs (InputError), of outputs (OutputError), of an answer that is no (AnswerIsNo),
    and Stopped where Ctrl-C ended a job that the same call continues. They name settings as Python does; the hint is a
    note of the error.
    """
    if command not in COMMANDS:
        error = SettingsError(
            f"unknown command '{command}'", did_you_mean(command.replace("_", " "), COMMANDS)
        )
        error.add_note(error.hint)
        raise error
    heard, cls = _Heard(command, progress), settings_of(command)
    with spoken(cls):
        pages.function_of(command).of_settings(settings_with(cls, settings), heard)
        if heard.answer is None:
            raise SettingsError(f"'{command}' answers on the command line only")
    return heard.answer


def train(
    *,
    model: str | Callable[..., Any],
    dataset: str | Callable[..., Any],
    output_dir: File,
    progress: Progress | None = None,
    **settings: Any,
) -> Answer[TrainResult]:
    """Train networks, one per seed, as `mcx train` does: `seeds=(0, 1, 2)`, `epochs`, `lr`, `batch_size` …

    `mcx train --help-all` lists every setting; `model` may be a class or function of your own.
    """
    return run("train", progress=progress, model=model, dataset=dataset, output_dir=output_dir, **settings)


def swap(
    checkpoint: File, output: File, *, progress: Progress | None = None, **settings: Any
) -> Answer[SwapResult]:
    """Exchange neurons of a network and prove that its function stays the same, as `mcx swap` does."""
    return run("swap", progress=progress, checkpoint=checkpoint, output=output, **settings)


@overload
def distance(
    first: File, second: File, /, *, progress: Progress | None = None, **settings: Any
) -> Answer[L2Result]: ...
@overload
def distance(
    first: File, second: File, third: File, /, *more: File, progress: Progress | None = None, **settings: Any
) -> Answer[L2ManyResult]: ...
@overload
def distance(*checkpoints: File, progress: Progress | None = None, **settings: Any) -> Answer[Any]: ...
def distance(*checkpoints: File, progress: Progress | None = None, **settings: Any) -> Answer[Any]:
    """Measure how far apart checkpoints are, as `mcx l2` does: an L2Result of two, an L2ManyResult of more or of the
    folder of a run. Networks in memory: `calculate_l2_distance`, `functional_distance` and the others of the documents.
    """
    return run("l2", progress=progress, checkpoints=checkpoints, **settings)


def interpolate(
    first: File, second: File, *, progress: Progress | None = None, **settings: Any
) -> Answer[LmcInterpolateResult]:
    """Measure the barrier on the straight line between two networks, as `mcx lmc interpolate` does."""
    return run("lmc interpolate", progress=progress, checkpoints=(first, second), **settings)


def train_curve(
    endpoint0: File, endpoint1: File, output_dir: File, *, progress: Progress | None = None, **settings: Any
) -> Answer[CurveTrainResult]:
    """Train a curve of low loss between two networks, as `mcx curve train` does."""
    ends = {"endpoint0": endpoint0, "endpoint1": endpoint1}
    return run("curve train", progress=progress, output_dir=output_dir, **ends, **settings)


def score(
    run_folder: File, output_dir: File, *, progress: Progress | None = None, **settings: Any
) -> Answer[CslScoreResult]:
    """Score the loss and the gradient norm of every sample at every checkpoint of a run, as `mcx csl score` does."""
    return run("csl score", progress=progress, output_dir=output_dir, **_run_or_file(run_folder), **settings)


def aggregate(
    input_dir: File, output_dir: File, *, progress: Progress | None = None, **settings: Any
) -> Answer[CslAggregateResult]:
    """Cumulative sample loss and learning time from the arrays of `score`, as `mcx csl aggregate` does."""
    return run("csl aggregate", progress=progress, input_dir=input_dir, output_dir=output_dir, **settings)


def curvature(
    run_folder: File, output_dir: File, *, progress: Progress | None = None, **settings: Any
) -> Answer[Any]:
    """Measure the curvature of every sample's loss, as `mcx curvature` does: a CurvatureResult, or with sweeps a
    StabilityResult.
    """
    return run("curvature", progress=progress, output_dir=output_dir, **_run_or_file(run_folder), **settings)


def dormant(
    run_folder: File, output_dir: File, *, progress: Progress | None = None, **settings: Any
) -> Answer[DormantResult]:
    """Find the share of units that every sample leaves inactive, as `mcx dormant` does."""
    return run("dormant", progress=progress, output_dir=output_dir, **_run_or_file(run_folder), **settings)


def correlate(
    output_dir: File, *, progress: Progress | None = None, **settings: Any
) -> Answer[CorrelateResult]:
    """Join every per-sample metric by sample id and correlate them, as `mcx correlate` does."""
    return run("correlate", progress=progress, output_dir=output_dir, **settings)


def _run_or_file(place: File) -> dict[str, Path]:
    path = Path(place)
    return {"checkpoint_dir" if path.is_dir() else "checkpoint": path}
