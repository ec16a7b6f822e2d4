"""Every figure of mcx: its look, its bytes in every format, and that nothing outside changes them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from modeconn_cli.engine.commands.animate import heatmap
from modeconn_cli.engine.commands.animate.layers import LayerDistances
from modeconn_cli.engine.commands.correlate import figures as correlate
from modeconn_cli.engine.commands.correlate.groups import TaskSamples
from modeconn_cli.engine.commands.csl import figures as csl
from modeconn_cli.engine.commands.curvature.stability import StabilityRow
from modeconn_cli.engine.commands.curvature.stability import figure as sweep
from modeconn_cli.engine.commands.dormant import figures as dormant
from modeconn_cli.engine.commands.l2 import figures as l2
from modeconn_cli.engine.commands.l2.trajectory import Waypoint
from modeconn_cli.engine.commands.lmc import figures as lmc
from modeconn_cli.engine.commands.lmc.line import Line
from modeconn_cli.engine.commands.lmc.pairs import Pair, PairResult
from modeconn_cli.engine.paths import figures as paths
from modeconn_cli.engine.results import figures
from modeconn_cli.engine.samples import pictures
from modeconn_cli.engine.settings.shared import FIGURE_FORMATS, FigureSettings
from modeconn_cli.engine.statistics import correlations, statistics
from modeconn_cli.engine.stories.demo import figures as demo
from modeconn_cli.engine.training import task_results

TITLE = "a network with quite a long name on a data set with a long name, epochs 0–12"
DRAW = np.random.default_rng(0)
PNG = FigureSettings()


def _path() -> dict[str, np.ndarray]:
    ts = np.linspace(0, 1, 11)
    hill = 0.2 + 3 * ts * (1 - ts)
    return {"ts": ts, "te_nll": hill, "tr_nll": 0.8 * hill, "te_err": 9 * hill, "tr_err": 7 * hill}


def _pairs() -> list[Pair]:
    out, ts = [], np.linspace(0, 1, 5)
    for k1 in (0, 1, 3):
        for k2 in (1, 4):
            hill = 0.3 + (k2 / (1 + k1)) * ts * (1 - ts)
            line = Line(
                alphas=ts,
                losses_train=hill,
                accuracy_lst_train=1 - hill / 9,
                losses_test=hill,
                accuracy_lst_test=1 - hill / 9,
            )
            result = PairResult(k1, k2, k1 + k2, float(k2 + k1), line.barriers(), "x.json")
            out.append(Pair("digits", 128, result, line, original=False))
    return out


def _samples() -> pd.DataFrame:
    csl_ = DRAW.exponential(size=60)
    return pd.DataFrame({"csl": csl_, "$tail_x": np.exp(4 * csl_), "signed": DRAW.standard_t(1, 60) ** 3})


def _drawn() -> dict[str, Callable[[FigureSettings], bytes]]:
    path, pairs, samples = _path(), _pairs(), _samples()
    results = {"digits": [pair.result for pair in pairs], "another": [pair.result for pair in pairs[:4]]}
    barrier = "max_gap_loss_test"
    stats = [statistics(DRAW.random(40)) for _ in range(4)]
    group = pd.DataFrame({"class_id": range(4), "csl_mean": DRAW.random(4), "csl_sd": DRAW.random(4)})
    seen = [TaskSamples(k, 40, k, 9, 3.0, {"csl": stats[k], "lt": stats[k]}) for k in range(4)]
    epochs = pd.DataFrame(
        [
            {"epoch": k, "metric": "dormant_prop", "task_num": pd.NA, "samples": 40, **s}
            for k, s in enumerate(stats)
        ]
    ).assign(flagged_mean=0.4, unflagged_mean=0.3)
    ways = [Waypoint(k, f"e{k}", float(k), float(3 - k), 1.0, float(k), 0.1, 0.5) for k in range(4)]
    swept = [StabilityRow(p, v, 1.0, v, 1.0, 0.9, 0.9, 0.1, 0.8, 0.0)
             for p, values in {"h": (1e-4, 1e-2), "niter": (1, 10)}.items() for v in values]  # fmt: skip
    ends = [
        task_results.TaskResult(k, (k,), k + 1, k, 3, 90.0, 0.1, 90.0, (50.0,) * (k + 1)) for k in range(5)
    ]
    layers = LayerDistances(
        tuple(f"block{k}.a_long_name.conv" for k in range(9)), ("convolution",) * 9, path["ts"],
        DRAW.random((11, 9)), "from_line_l2", 0, "",
    )  # fmt: skip
    losses = {"hardest": DRAW.random((4, 3)) + 1, "easiest": DRAW.random((4, 3))}
    images = {k: pictures.Picture(DRAW.random((8, 8)), 3) for k in range(12)}
    chosen = {"hardest": np.arange(6), "easiest": np.arange(6, 12)}
    values = {
        "csl": DRAW.exponential(size=60),
        "lt_first_epoch": np.ones(60),
        "lt_stays": np.arange(60) % 4.0,
    }
    shares = {"pre": {"conv1": [0.1, 0.2, 0.3, 0.4]}, "post": {"conv1": [0.1, 0.2, 0.3, 0.4]}}
    distances = np.abs(np.subtract.outer(np.arange(5.0), np.arange(5.0)))
    flag = pd.Series(np.arange(60) % 7 == 0).astype(float)
    found = correlations({name: samples[name].to_numpy() for name in samples})
    return {
        "curve": lambda look: paths.path_figure(path, TITLE, look),
        "demo": lambda look: demo.lines_against_curves({"a": {"line": path, "curve": path}}, TITLE, look),
        "story": lambda look: lmc.story(pairs, TITLE, look),
        "maps": lambda look: next(lmc.maps(results["digits"], TITLE, look)),
        "report": lambda look: lmc.report(results, barrier, TITLE, look),
        "across": lambda look: lmc.across(results, barrier, TITLE, look),
        "histograms": lambda look: csl.histograms(values, TITLE, look),
        "curves": lambda look: csl.curves(range(4), losses, "loss (nats)", TITLE, look),
        "gallery": lambda look: pictures.gallery(
            np.arange(12), chosen, ("CSL", np.arange(12.0)), images, {0: (1, 2)}, TITLE, look
        ),
        "scatter": lambda look: correlate.scatter(samples, found, flag, TITLE, look),
        "groups": lambda look: correlate.groups({"class_id": group}, ["csl"], (), TITLE, look),
        "tasks": lambda look: correlate.tasks(seen, TITLE, look),
        "evolution": lambda look: correlate.evolution(epochs, "flipped", TITLE, look),
        "dormant": lambda look: dormant.evolution(
            range(4), {"pre": stats, "post": stats}, shares, TITLE, look
        ),
        "l2": lambda look: l2.heat_map([f"seed{k}/model" for k in range(5)], {"L2": distances}, TITLE, look),
        "trajectory": lambda look: l2.trajectory(ways, TITLE, look),
        "sweep": lambda look: sweep(swept, TITLE, look),
        "task ends": lambda look: task_results.figure(ends, TITLE, look),
        "layers": lambda look: heatmap.draw(layers, '{"a": 1}', TITLE, look),
    }


DRAWN = _drawn()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """Every figure whose bytes are asked for, laid out."""
    found: list[Figure] = []
    content = figures._content

    def spy(figure: Figure, *rest: object) -> bytes:
        found.append(figure)
        return content(figure, *rest)

    monkeypatch.setattr(figures, "_content", spy)
    return found


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_has_a_title_whole_epochs_and_a_legend_that_lies_on_no_data(
    name: str, seen: list[Figure]
) -> None:
    assert DRAWN[name](PNG).startswith(b"\x89PNG")
    (figure,) = seen
    assert figure.get_suptitle().replace("\n", " ").startswith(TITLE)
    width, height = figure.get_size_inches()
    assert width <= figures.WIDE
    with figures.plain_matplotlib():
        renderer = FigureCanvasAgg(figure).get_renderer()
        box = figure.get_tightbbox(renderer)
        assert box.x0 > -0.02, "nothing is cut off"
        assert box.y0 > -0.02
        assert box.x1 < width + 0.02
        assert box.y1 < height + 0.02
        panels = [axis.get_window_extent(renderer) for axis in figure.axes]
        legends = [axis.get_legend() for axis in figure.axes if axis.get_legend() is not None]
        for legend in legends:
            frame = legend.get_window_extent(renderer)
            assert not any(frame.overlaps(panel) for panel in panels)
        for axis in figure.axes:
            if "epoch" in axis.get_xlabel() and axis.get_xscale() == "linear":
                low, high = axis.get_xlim()
                ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
                assert ticks
                assert all(tick == round(tick) for tick in ticks)


@pytest.mark.parametrize("kind", FIGURE_FORMATS)
@pytest.mark.parametrize("name", DRAWN)
def test_equal_figures_have_equal_bytes_in_every_format(name: str, kind: str) -> None:
    look = FigureSettings(figure_format=kind, dpi=60)
    first = DRAWN[name](look)
    assert first == DRAWN[name](look)
    assert first[:5] == {"png": b"\x89PNG\r", "pdf": b"%PDF-", "svg": b"<?xml"}[kind]
    assert b"CreationDate" not in first
    assert b"<dc:date>" not in first


def test_i6_what_matplotlib_is_told_elsewhere_changes_no_figure() -> None:
    plain = DRAWN["curve"](PNG)
    with matplotlib.rc_context(
        {
            "text.usetex": True,
            "font.size": 30,
            "axes.facecolor": "red",
            "svg.hashsalt": None,
            "savefig.bbox": "tight",
        }
    ):
        assert DRAWN["curve"](PNG) == plain
        assert matplotlib.rcParams["font.size"] == 30, "and nothing of it stays changed"


def test_i6_m4_a_backend_that_is_not_there_and_a_strange_matplotlibrc_stop_no_figure(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.family: NoSuchFont\nbackend: nothing\n")
    code = (
        "import os, sys; from modeconn_cli.engine.results.figures import page; "
        "from modeconn_cli.engine.settings.shared import FigureSettings as F\n"
        "with page(F(), 'a title') as drawn: drawn.panels[0].plot([0, 1], [0, 1], label='x')\n"
        "assert drawn.content.startswith(b'\\x89PNG') and os.environ['MPLBACKEND'] == 'gone'\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    environment = {**os.environ, "MPLBACKEND": "gone", "MATPLOTLIBRC": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_the_pixels_are_those_that_dpi_says() -> None:
    sizes = [DRAWN["curve"](FigureSettings(dpi=dpi))[16:20] for dpi in (100, 200)]
    assert [int.from_bytes(size, "big") for size in sizes] == [340, 680]


def test_a_title_can_be_left_to_the_caption(seen: list[Figure]) -> None:
    DRAWN["curve"](FigureSettings(figure_title=False))
    assert seen[0].get_suptitle() == ""


def test_barriers_of_nothing_are_no_landscape() -> None:
    pairs = pd.DataFrame(
        {"k1": [0, 1], "k2": [1, 1], "distance": [1.0, 2.0], "max_gap_loss_test": [1e-17, 0.0]}
    )
    axis = Figure().subplots()
    lmc.draw_against_k1(axis, pairs)
    assert axis.get_ylim()[1] >= lmc.LEAST["loss"]


def test_losses_are_written_as_they_are_read() -> None:
    axis = Figure().subplots()
    csl.draw_curves(axis, [0, 1, 2], {"a": np.array([[2.4], [0.9], [0.3]])})
    axis.figure.draw_without_rendering()
    said = [tick.get_text() for tick in (*axis.get_yticklabels(), *axis.get_yticklabels(minor=True))]
    assert "1" in said
    assert not any("10^" in text for text in said)


def test_the_barrier_and_the_ends_are_marked() -> None:
    axis = Figure().subplots()
    path = _path()
    paths.draw_path(axis, path["ts"], path["te_nll"], path["tr_nll"])
    labels = axis.get_legend_handles_labels()[1]
    assert "barrier: 0.75 (max_gap)" in labels
    assert "ends: 0.2 and 0.2" in labels
    bar = next(line for line in axis.lines if str(line.get_label()).startswith("barrier"))
    assert list(bar.get_xdata()) == [0.5, 0.5]
    np.testing.assert_allclose(bar.get_ydata(), [0.2, 0.95])


def test_a_metric_with_one_value_is_said_and_not_drawn(seen: list[Figure]) -> None:
    DRAWN["histograms"](PNG)
    labels = [axis.get_xlabel() for axis in seen[0].axes]
    assert csl.TITLES["lt_first_epoch"] not in labels
    assert "lt_first_epoch is 1 throughout" in seen[0].get_suptitle().replace("\n", " ")


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        (np.arange(100.0), "linear"),
        (np.exp(np.arange(100) / 5), "log"),
        ((np.arange(100.0) - 50) ** 9, "rank"),
    ],
)
def test_heavy_tails_are_drawn_by_logarithm_or_rank(values: np.ndarray, scale: str) -> None:
    scaled = correlate.Scaled(pd.Series(values, name="x"))
    assert scaled.scale == scale
    assert np.ptp(scaled.units) == pytest.approx(1)
    assert np.abs(np.diff(scaled.units) - 1 / 99).max() < 1e-9


def test_the_comment_of_a_heat_map_is_found_in_every_format() -> None:
    for kind in ("pdf", "svg"):
        assert heatmap.comment_in(DRAWN["layers"](FigureSettings(figure_format=kind))) == '{"a": 1}'
    assert heatmap.comment_in(b"%PDF-1.4 of someone else") == ""


def test_cells_of_tasks_hold_their_numbers() -> None:
    ends = [
        task_results.TaskResult(k, (k,), k + 1, k, 3, 90.0, 0.1, 90.0, (51.2,) * (k + 1)) for k in range(3)
    ]
    axis = Figure().subplots()
    task_results.draw_tasks(axis, ends)
    assert [text.get_text() for text in axis.texts] == ["51"] * 6
