"""What a terminal shows: tables of every width without a number or a path that is cut, progress, written files."""

from __future__ import annotations

import dataclasses
import io
import re
import types
import typing
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from modeconn_cli.cli import (
    animate,
    convert,
    correlate,
    csl,
    curvature,
    curve,
    demo,
    doctor,
    dormant,
    info,
    l2,
    lmc,
    progress,
    status,
    swap,
    tables,
    train,
    written,
)
from modeconn_cli.engine.commands import animate as animate_
from modeconn_cli.engine.commands import convert as convert_
from modeconn_cli.engine.commands import correlate as correlate_
from modeconn_cli.engine.commands import curvature as curvature_
from modeconn_cli.engine.commands import doctor as doctor_
from modeconn_cli.engine.commands import dormant as dormant_
from modeconn_cli.engine.commands import info as info_
from modeconn_cli.engine.commands import status as status_
from modeconn_cli.engine.commands import swap as swap_
from modeconn_cli.engine.commands import train as train_
from modeconn_cli.engine.commands.csl import aggregate, score
from modeconn_cli.engine.commands.curvature import stability
from modeconn_cli.engine.commands.curve import analyze, compare, extract
from modeconn_cli.engine.commands.curve import eval as curve_eval
from modeconn_cli.engine.commands.curve import plane as curve_plane
from modeconn_cli.engine.commands.curve import train as curve_train
from modeconn_cli.engine.commands.l2 import pair, summary
from modeconn_cli.engine.commands.l2.trajectory import Waypoint
from modeconn_cli.engine.commands.lmc import interpolate, report
from modeconn_cli.engine.commands.lmc import run as lmc_run
from modeconn_cli.engine.commands.lmc.line import Line
from modeconn_cli.engine.paths.evaluate import SeriesSummary
from modeconn_cli.engine.settings.l2 import L2Settings
from modeconn_cli.engine.statistics import Spread
from modeconn_cli.engine.stories import demo as demo_

LONG = "a-network-whose-name-is-long.features.denseblock4.denselayer16.conv2.weight"
PATH = "/scratch/projects/mode-connectivity/2026-11-26/results/runs/of-a-user/seed0/checkpoint-12345.pt"
COUNT, FIGURE = 1_234_567_890_123, 123456.654321


def made(kind: Any, **given: Any) -> Any:
    """A value of a type: dataclasses with long names and large numbers, two of everything that is listed."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return made(next(each for each in inside if each is not type(None)))
    if origin is typing.Literal:
        return inside[0]
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        fields = {field.name: field for field in dataclasses.fields(kind)}
        values = {name: given[name] if name in given else made(hints[name]) for name in fields}
        out = object.__new__(kind)  # neither checked nor completed
        for name, value in values.items():
            object.__setattr__(out, name, value)
        return out
    if origin in (tuple, list, Sequence, Collection):
        return tuple(made(inside[0]) for _ in range(2))
    if origin in (dict, Mapping):
        return defaultdict(lambda: made(inside[1]), {LONG: made(inside[1])})
    return {str: PATH, int: COUNT, float: FIGURE, bool: True, Path: Path(PATH)}.get(kind, LONG)


SERIES = {name: made(SeriesSummary) for name in ("tr_loss", "te_err")}
SPREADS = {"max_gap": dict.fromkeys(tables.SERIES, made(Spread))}
LINE = {name: made(SeriesSummary) for name in ("loss_train", "error_test")}
BARRIERS = {kind: dict.fromkeys(LINE, FIGURE) for kind in ("max_gap", "midpoint", "sup_minus_mean")}
DATA = {"dataset": LONG, "split": "test", "samples": COUNT, "transform": {"said": LONG}}
LABELS = {f"{LONG}-{k}": PATH for k in range(3)}
PAIRS = tuple(
    made(summary.SummaryRow, pair=f"{LONG}-{a}-{LONG}-{b}", status=f"'{PATH}' is damaged")
    for a, b in ((0, 1), (0, 2))
)
HARDEST = [{"sample_id": COUNT, "csl": FIGURE, "lt": FIGURE, "lt_stays": FIGURE, "flipped": 1}] * 3

TWO = L2Settings(checkpoint1=Path("a"), checkpoint2=Path("b"), metric=("l2", "cosine"))

TABLES: dict[str, Callable[[], Sequence[tables.Block]]] = {
    "train": lambda: train.table(made(train_.TrainResult)),
    "swap": lambda: swap.table(made(swap_.SwapResult)),
    "l2 of a pair": lambda: l2.table(made(pair.L2Result, data={"functional": DATA}, settings=TWO)),
    "l2": lambda: l2.many_table(
        made(
            summary.L2ManyResult,
            checkpoints=LABELS,
            columns=tuple(field.name for field in dataclasses.fields(summary.SummaryRow)),
            pairs=PAIRS,
            trajectory=tuple(made(Waypoint, label=label) for label in LABELS),
        )
    ),
    "curve train": lambda: curve.train_table(
        made(curve_train.CurveTrainResult, metrics={"train_loss": FIGURE, "train_accuracy": FIGURE})
    ),
    "curve eval": lambda: curve.eval_table(
        made(
            curve_eval.CurveEvalResult,
            statistics=SERIES,
            barriers=BARRIERS,
            segments=[BARRIERS] * 2,
            data=DATA,
        )
    ),
    "curve plane": lambda: curve.plane_table(
        made(
            curve_plane.CurvePlaneResult,
            made="run",
            statistics={name: made(curve_plane.OverCells) for name in ("tr_loss", "te_err")},
            data=DATA,
        )
    ),
    "curve compare": lambda: curve.compare_table(
        made(compare.CurveCompareResult, barrier="max_gap", paths=[made(compare.Compared, barriers=SPREADS)] * 2)
    ),
    "curve analyze": lambda: curve.analyze_table(made(analyze.CurveAnalyzeResult)),
    "curve extract": lambda: curve.extract_table(made(extract.CurveExtractResult)),
    "lmc run": lambda: lmc.run_table(made(lmc_run.LmcRunResult)),
    "lmc interpolate": lambda: lmc.interpolate_table(
        made(
            interpolate.LmcInterpolateResult,
            statistics=LINE,
            barriers=BARRIERS,
            line=made(Line, alphas=(0.0, 1.0)),
        )
    ),
    "lmc report": lambda: lmc.report_table(made(report.LmcReportResult)),
    "csl score": lambda: csl.score_table(made(score.CslScoreResult)),
    "csl aggregate": lambda: csl.aggregate_table(
        made(aggregate.CslAggregateResult, hardest=HARDEST, easiest=HARDEST)
    ),
    "curvature": lambda: curvature.table(made(curvature_.CurvatureResult)),
    "curvature --sweep-h": lambda: curvature.stability_table(made(stability.StabilityResult)),
    "dormant": lambda: dormant.table(made(dormant_.DormantResult)),
    "correlate": lambda: correlate.table(made(correlate_.CorrelateResult)),
    "animate": lambda: animate.table(made(animate_.AnimateResult)),
    "convert": lambda: convert.table(made(convert_.ConvertResult)),
    "info": lambda: info.table(made(info_.InfoResult)),
    "status": lambda: status.table(made(status_.StatusResult)),
    "doctor": lambda: doctor.table(made(doctor_.DoctorResult)),
    "demo": lambda: demo.table(made(demo_.DemoResult)),
}  # fmt: skip


def drawn(parts: Sequence[tables.Block], width: int) -> list[str]:
    """The lines on a terminal, without colours."""
    out = io.StringIO()
    tables.draw(Console(file=out, force_terminal=True, width=width, color_system=None), parts)
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("command", TABLES)
def test_no_number_and_no_path_of_a_table_is_cut(command: str, width: int) -> None:
    parts = TABLES[command]()
    lines = drawn(parts, width)
    text = "\n".join(lines)
    assert "…" not in re.sub(r"\d …|… \d|\(\d+ …", "", text)
    for part in parts:
        rows = part.rows if isinstance(part, tables.Table) else ()
        for cell in {cell for row in rows for cell in row}:
            for word in cell.split():
                found = re.search(rf"(^|[\s│(:,]){re.escape(word)}($|[\s│:,)])", text, re.MULTILINE)
                assert found, (command, word)
    for line in lines:  # a table fits, and other lines are broken where there is a space and no path
        assert len(line) <= width or ("│" not in line and ("/" in line or line.count(" ") < 9)), line


def test_columns_that_do_not_fit_are_drawn_below_with_the_keys() -> None:
    columns = ("epoch", *(f"a heading {k}" for k in range(8)), "checkpoint")
    rows = tuple((str(e), *(f"{e}{k}.123456" for k in range(8)), f"{PATH}{e}") for e in (3, 4))
    lines = drawn([tables.Table("Title", columns, rows, text_columns=0)], 80)
    assert [line for line in lines if line.startswith("│ ")] == [
        "│     3 │   30.123456 │   31.123456 │   32.123456 │   33.123456 │   34.123456 │",
        "│     4 │   40.123456 │   41.123456 │   42.123456 │   43.123456 │   44.123456 │",
        "│     3 │   35.123456 │   36.123456 │   37.123456 │",
        "│     4 │   45.123456 │   46.123456 │   47.123456 │",
    ]
    assert lines[-3:] == ["checkpoint:", f"  3: {PATH}3", f"  4: {PATH}4"]


def test_a_single_row_of_many_columns_is_drawn_as_lines() -> None:
    table = tables.Table(
        "", ("run", *("loss of a long name",) * 4, "file"), (("seed0", *("0.123456",) * 4, "a.pt"),)
    )
    assert drawn([table], 31) == [
        "run seed0:",
        *["  loss of a long name: 0.123456"] * 4,
        "  file:                a.pt",
    ]
    wide = drawn([table], 120)
    assert wide[3].split("│")[1:3] == [" seed0 ", "            0.123456 "]


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        (("checkpoint-0", "checkpoint-5", "checkpoint-50"), ["epoch 0–5", "epoch 0–50", "epoch 5–50"]),
        (("seed0", "seed1"), ["seed 0–1"]),
        (("run_01", "run_1"), ["run 01–1"]),
        (("wide-sgd-a.best", "wide-adam-a.best"), ["sgd–adam"]),
        (("init", "seed0"), ["init–seed0"]),
        (("a", "a-b"), ["a–a-b"]),
    ],
)
def test_pairs_are_named_by_what_differs(labels: Sequence[str], shown: list[str]) -> None:
    names = [f"{a}-{b}" for i, a in enumerate(labels) for b in labels[i + 1 :]]
    rows = tuple(made(summary.SummaryRow, pair=name, status="ok") for name in names)
    result = made(
        summary.L2ManyResult,
        checkpoints=dict.fromkeys(labels, PATH), trajectory=None, columns=("pair", "total_l2", "status"), pairs=rows,
    )  # fmt: skip
    (table,) = l2.many_table(result)
    assert isinstance(table, tables.Table)
    assert [row[0] for row in table.rows] == shown


# Progress -------------------------------------------------------------------------------------------------


def test_a_log_says_how_long_the_whole_still_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds of two epochs of five steps, two seconds each; the first step had been done before."""
    from modeconn_cli.engine.machine.runtime import Runtime

    clock, lines = [0.0], list[str]()
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    watch = progress.Watch("train", lambda _: False, lines.append)

    class Listener:
        def note(self, text: str, level: str = "note") -> None: ...
        def plan(self, lines: Sequence[str]) -> None: ...
        def progress(self, done: int, total: int, fields: Mapping[str, Any], unit: str = "step") -> None:
            watch.report(done, total, fields, unit)

    runtime = Runtime(device=None, listener=Listener())
    for k, seed in enumerate((3, 4)):
        part = runtime.part(k, 1, 2, seed=seed)
        for step in range(2 - k, 11):
            clock[0] += 2
            part.progress(step, 10, epoch=(step + 4) // 5)
            if step % 5 == 0:
                part.progress(step // 5, 2, unit="epoch", train_loss=0.25)
    assert lines == [
        "epoch 1/2  seed 3 train_loss 0.25  (8 s, about 30 s left)",
        "epoch 2/2  seed 3 train_loss 0.25  (18 s, about 20 s left)",
        "epoch 1/2  seed 4 train_loss 0.25  (28 s, about 10 s left)",
        "epoch 2/2  seed 4 train_loss 0.25  (38 s)",
    ]


def test_units_without_steps_have_a_pace_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, lines = [100.0], list[str]()
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    watch = progress.Watch("demo", lambda _: False, lines.append)
    for part in (1, 2, 3):
        clock[0] += 3600
        watch.report(part, 3, {"finished": "a"}, "part")
    assert [line.partition("(")[2] for line in lines] == [
        "60 min, about 2 h 00 min left)",
        "2 h 00 min, about 60 min left)",
        "3 h 00 min)",
    ]


# Written files --------------------------------------------------------------------------------------------


def test_a_command_ends_with_every_file_it_wrote(mcx: Callable, tmp_path: Path) -> None:
    words = (
        "train",
        "--model",
        "mlp",
        "--model-arg",
        "width=4,depth=1",
        "--dataset",
        "digits",
        "--epochs",
        "2",
    )
    more = (
        "--max-samples",
        "60",
        "--seeds",
        "0,1",
        "--save-freq",
        "1",
        "--label-noise",
        "0.1",
        "--track-samples",
    )
    done = mcx(*words, *more, "--output-dir", tmp_path / "run")
    listed = [line.removeprefix("wrote ") for line in done.err.splitlines() if line.startswith("wrote ")]
    assert done.err.splitlines()[-len(listed) :] == [f"wrote {each}" for each in listed]
    found = [
        path for each in listed for path in tmp_path.glob(each.split(" (")[0].removeprefix(f"{tmp_path}/"))
    ]
    there = [path for path in tmp_path.rglob("*") if path.is_file() and ".mcx" not in path.parts]
    assert sorted(found) == sorted(there)
    assert f"{tmp_path}/run/seed*/checkpoint-*.pt (6 files)" in listed
    again = mcx(*words, *more, "--output-dir", tmp_path / "run")
    assert "wrote" not in again.err
    assert "wrote" not in mcx(*words, *more, "--output-dir", tmp_path / "quiet", "-q").err


def test_many_files_are_named_by_their_folders() -> None:
    paths = [Path(f"out/{folder}/{name}.csv") for folder in ("a", "b") for name in "klmnopqr"]
    assert written.lines([*paths, Path("out/story.png")]) == [
        "out/a/ (8 files)",
        *(f"out/b/{name}.csv" for name in "klmnopqr"),
        "out/story.png",
    ]
    assert written.lines([*paths, Path("out/story.png")], 3) == [
        "out/a/ (8 files)",
        "out/b/ (8 files)",
        "out/story.png",
    ]
    assert written.lines([Path("x-1/loss_10.npy"), Path("x-1/loss_20.npy")]) == ["x-1/loss_*.npy (2 files)"]
