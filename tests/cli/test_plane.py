"""`mcx curve plane` as its user sees it: a network of the user's own with batch norm, trained for three epochs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from modeconn_cli.engine import training
from modeconn_cli.engine.networks import checkpoints
from modeconn_cli.engine.paths import evaluate

NET = """
from torch import nn

def net(num_classes):
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(27, num_classes)
    )
"""
FEW = ("--max-samples", "120", "-q")
SERIES = ("tr_loss", "tr_nll", "tr_err", "tr_acc", "te_loss", "te_nll", "te_err", "te_acc", "l2_norm")


@pytest.fixture(scope="module")
def trained(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """Two seeds with a checkpoint of each epoch, and a curve between them."""
    from modeconn_cli.cli import app

    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / "planenet.py").write_text(NET)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.syspath_prepend(str(folder))
            own = ["--model", "planenet:net", *FEW]
            words = [
                "train",
                *own,
                "--dataset",
                "digits",
                "--seeds",
                "0,1",
                "--epochs",
                "3",
                "--save-freq",
                "1",
            ]
            assert app.main([*words, "--lr", "0.1", "--output-dir", "runs"]) == 0
            ends = ["runs/seed0/checkpoint-3.pt", "runs/seed1/checkpoint-3.pt"]
            words = ["curve", "train", *ends, *own, "--epochs", "2", "--lr", "0.1"]
            assert app.main([*words, "--output-dir", "curve"]) == 0

    return made_once("planes", make)


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(trained))
    for name in ("runs", "curve", "planenet.py"):
        (tmp_path / name).symlink_to(trained / name)
    return tmp_path


OWN = ("--model", "planenet:net", *FEW)
A, B, C = "runs/seed0/checkpoint-3.pt", "runs/seed1/checkpoint-3.pt", "runs/seed0/checkpoint-0.pt"
CURVE = "curve/checkpoints/checkpoint-2.pt"


def arrays(folder: str) -> dict[str, np.ndarray]:
    with np.load(Path(folder) / "plane.npz") as archive:
        return {name: archive[name] for name in archive.files}


@pytest.mark.parametrize("bn", ["recompute", "keep", "none"])
def test_the_three_networks_are_what_curve_eval_measures_at_the_ends_bit_for_bit(
    mcx, here: Path, bn: str
) -> None:
    words = (*OWN, "--bn", bn, "--wd", "0.01")
    done = mcx("curve", "plane", A, B, C, *words, "--grid-points", "2", "--output-dir", "plane")
    assert (done.code, done.err) == (0, "")
    found = arrays("plane")
    for k, end in ((1, B), (2, C)):
        assert mcx("curve", "eval", A, end, *words, "--num-points", "2", "--output-dir", f"line{k}").code == 0
        with np.load(f"line{k}/curve.npz") as line:
            for name in SERIES:
                np.testing.assert_array_equal(found[f"points_{name}"][[0, k]], line[name], err_msg=name)


def test_a_curve_lies_in_the_plane_of_its_control_points(mcx, here: Path) -> None:
    done = mcx("curve", "plane", CURVE, *OWN, "--grid-points", "3", "--margin", "0", "--output-dir", "plane")
    assert done.code == 0
    assert mcx("curve", "eval", CURVE, *OWN, "--num-points", "3", "--output-dir", "eval").code == 0
    found = arrays("plane")
    with np.load("eval/curve.npz") as curve:
        for name in SERIES:
            np.testing.assert_array_equal(found[f"points_{name}"][[0, 2]], curve[name][[0, 2]], err_msg=name)
        # The curve's length is that of its way in the plane.
        ways = np.linalg.norm(np.diff(found["curve_coordinates"][[0, 30, 60]], axis=0), axis=1)
        np.testing.assert_allclose(ways, curve["dl"][1:], rtol=1e-5)
    assert found["ts"].tolist() == np.linspace(0, 1, 61).tolist()
    summary = json.loads(Path("plane/plane_summary.json").read_text())
    assert (summary["made"], summary["schema"]) == ("curve", "mcx.curve_plane/1")


def test_batch_norm_is_recomputed_at_every_cell(mcx, here: Path) -> None:
    """Cells on the networks are as the networks, up to the rounding of the blend."""
    words = ("--grid-points", "4", "--margin", "1")
    for bn in ("recompute", "none"):
        assert mcx("curve", "plane", A, B, C, *OWN, *words, "--bn", bn, "--output-dir", bn).code == 0
        found = arrays(bn)
        at = found["bend_coordinates"]
        cells = found["grid"].reshape(-1, 2)
        for k in (0, 2):
            cell = int(np.argmin(np.linalg.norm(cells - at[k], axis=1)))
            assert np.allclose(cells[cell], at[k], atol=1e-6)
            assert np.isclose(found["te_nll"].reshape(-1)[cell], found["points_te_nll"][k], rtol=1e-4)
    assert not np.allclose(arrays("none")["te_nll"], arrays("recompute")["te_nll"])
    summary = json.loads(Path("recompute/plane_summary.json").read_text())
    assert summary["passes"] == {"statistics": 19}, "one batch at each of the 16 cells and 3 networks"


def test_21_x_21_cells_cost_441_and_3_evaluations(mcx, here: Path, undrawn, monkeypatch) -> None:
    measured, passes = [], []
    monkeypatch.setattr(evaluate, "measure", _counted(evaluate.measure, measured))
    monkeypatch.setattr(training, "evaluate", _counted(training.evaluate, passes))
    words = ("curve", "plane", A, B, C, *OWN, "--max-samples", "20", "--bn", "keep", "--output-dir", "plane")
    assert mcx(*words).code == 0
    assert (len(measured), len(passes)) == (441 + 3, 2 * (441 + 3))
    found = arrays("plane")
    assert {found[name].shape for name in (*SERIES, "loss")} == {(21, 21)}
    assert mcx(*words).code == 0
    assert len(measured) == 441 + 3, "nothing is measured again"


def _counted(function: Callable, calls: list) -> Callable:
    def counted(*given, **how):
        calls.append(1)
        return function(*given, **how)

    return counted


def test_other_levels_draw_the_figure_again_and_measure_nothing(mcx, here: Path, monkeypatch) -> None:
    words = ("curve", "plane", A, B, C, *OWN[:-1], "--grid-points", "3", "--output-dir", "plane")
    assert mcx(*words).code == 0
    before = {path.name: path.read_bytes() for path in Path("plane").iterdir() if path.is_file()}
    monkeypatch.setattr(evaluate, "measure", None)
    done = mcx(*words, "--levels", "linear")
    assert done.code == 0
    assert "figures are drawn again (levels was log, now linear)" in done.err
    after = {path.name: path.read_bytes() for path in Path("plane").iterdir() if path.is_file()}
    assert after["plane.png"] != before["plane.png"]
    assert after["plane.npz"] == before["plane.npz"]
    done = mcx(*words, "--levels", "linear")
    assert "already complete" in done.err


def test_landscaper_and_plane_plot_read_the_arrays(mcx, here: Path, undrawn) -> None:
    """Landscaper pairs `loss` with the points of NumPy's mesh of `coordinates`; plane_plot.py reads Garipov's keys."""
    assert mcx("curve", "plane", A, B, C, *OWN, "--grid-points", "3", "--output-dir", "plane").code == 0
    found = arrays("plane")
    mesh = np.meshgrid(*found["coordinates"])
    places = np.stack([axis.flat for axis in mesh], axis=1)
    assert found["coordinates"].shape[0] == 2
    for place, loss in zip(places, found["loss"].flat, strict=True):
        i, j = np.argwhere((found["grid"] == place).all(-1))[0]
        assert loss == found["tr_loss"][i, j]
    dx, dy = json.loads(Path("plane/plane_summary.json").read_text())["spans"]
    np.testing.assert_allclose(found["grid"][:, 0, 0], found["alphas"] * dx, rtol=1e-12)
    np.testing.assert_allclose(found["grid"][0, :, 1], found["betas"] * dy, rtol=1e-12)


def test_a_run_is_projected_on_its_principal_directions(mcx, here: Path) -> None:
    done = mcx("curve", "plane", "--run", "runs/seed0", *OWN, "--grid-points", "2", "--output-dir", "way")
    assert (done.code, done.err) == (0, "")
    rows = []
    for epoch in range(4):
        state = checkpoints.read(Path(f"runs/seed0/checkpoint-{epoch}.pt")).state
        names = [name for name in state if name.endswith((".weight", ".bias"))]
        rows.append(torch.cat([state[name].reshape(-1) for name in names]).double().numpy())
    matrix = np.stack(rows) - rows[-1]
    _, values, vectors = np.linalg.svd(matrix - matrix.mean(0), full_matrices=False)
    shares = (values**2 / (values**2).sum())[:2]
    found = arrays("way")
    np.testing.assert_allclose(np.abs(found["bend_coordinates"]), np.abs(matrix @ vectors[:2].T), atol=1e-9)
    assert found["epochs"].tolist() == [0, 1, 2, 3]
    summary = json.loads(Path("way/plane_summary.json").read_text())
    np.testing.assert_allclose(summary["shares"], shares, rtol=1e-9)
    assert [each["epoch"] for each in summary["points"]] == [0, 1, 2, 3]
    assert f"shares of variance: {100 * shares[0]:.2f}% and {100 * shares[1]:.2f}%" in done.out
    other = ("curve", "plane", "--run", "runs/seed0", *OWN, "--grid-points", "2", "--output-dir", "way")
    refused = mcx(*other, "--start-epoch", "1")
    assert refused.code == 3
    assert "'start_epoch' was unset, now 1" in refused.err or "start_epoch" in refused.err


def test_random_directions_go_out_from_one_network(mcx, here: Path) -> None:
    words = ("curve", "plane", A, *OWN, "--grid-points", "3", "--output-dir")
    assert mcx(*words, "one", "--random-directions", "0").code == 0
    assert mcx(*words, "two", "--random-directions", "1").code == 0
    one, two = arrays("one"), arrays("two")
    assert one["alphas"].tolist() == one["betas"].tolist() == [-1.0, 0.0, 1.0]
    for name in ("tr_nll", "te_err"):
        assert one[name][1, 1] == one[f"points_{name}"][0], "the middle is the network"
    assert not np.allclose(one["tr_nll"], two["tr_nll"])
    assert one["tr_nll"].argmin() == 4


def test_cells_that_are_no_numbers_are_kept_and_counted(mcx, here: Path) -> None:
    words = (
        "curve",
        "plane",
        A,
        B,
        C,
        *OWN[:-1],
        "--grid-points",
        "3",
        "--margin",
        "1e38",
        "--output-dir",
        "far",
    )
    done = mcx(*words)
    assert done.code == 0
    found = arrays("far")
    bad = ~np.isfinite(found["tr_loss"])
    assert 0 < bad.sum() < 9
    summary = json.loads(Path("far/plane_summary.json").read_text())
    assert summary["nonfinite_cells"] == bad.sum()
    assert f"{bad.sum()} of 9 cells are not finite" in done.err
    assert f"Cells that are not finite: {bad.sum()} of 9" in done.out
    again = mcx(*words)
    assert (again.code, again.out) == (0, done.out)


def test_a_cell_without_a_number_is_white(here: Path) -> None:
    from modeconn_cli.engine.commands.curve.plane_figure import draw_plane
    from modeconn_cli.engine.results.figures import page
    from modeconn_cli.engine.settings.shared import FigureSettings

    values = np.arange(1.0, 26.0).reshape(5, 5)
    values[3, 1] = np.nan
    axes = np.linspace(0, 1, 5)
    given = {
        "tr_loss": values,
        "te_loss": values,
        "coordinates": np.stack([axes, axes]),
        "bend_coordinates": np.zeros((1, 2)),
    }
    with page(FigureSettings(), "") as drawn:
        contours = draw_plane(drawn.panels[0], given, "tr_loss")
        drawn.figure.canvas.draw()
        inside = [
            any(path.contains_point((x, y)) for path in contours.get_paths())
            for x, y in ((0.75, 0.25), (0.5, 0.75))
        ]
    assert inside == [False, True], "the first axis of an array is the horizontal one"
    assert drawn.panels[0].get_facecolor() == (1.0, 1.0, 1.0, 1.0)


MIDDLE = ("curve", "extract", A, B, "--t", "0.5", *OWN, "--output", "middle.pt")
REFUSED = {
    (A, A, A): (3, "the three networks are equal"),
    (A, B, A): (3, f"'{A}' and '{A}' have equal weights"),
    (A, "middle.pt", B): (3, "lie on a straight line, within 0.01 degrees: the angle at"),
    (A, B): (2, "a plane goes through three networks, got 2"),
    (A, B, C, "--random-directions", "0"): (2, "--random-directions go out from one network, got 3 networks"),
    ("--curve-checkpoint", CURVE, "--random-directions", "0"): (2, "got a curve"),
    ("--run", "runs/seed0", "--random-directions", "0"): (2, "got a run"),
    ("--run", "runs/seed0", A, B, C): (2, "give either three networks, a curve, or a run"),
    (A,): (3, "has no curve points"),
    (CURVE, "--random-directions", "0"): (3, "is a curve, not a network"),
    (A, "--random-directions", "0", "--margin", "0.2"): (
        2,
        "--margin has no effect with --random-directions",
    ),
    (A, B, C, "--reach", "1"): (2, "--reach has no effect without --random-directions"),
    (A, B, C, "--end-epoch", "1"): (2, "--end-epoch has no effect without --run"),
    (A, B, C, "--bn", "lerp"): (2, "'lerp'"),
    ("--run", "runs/seed0", "--start-epoch", "2"): (3, "the run has 2 checkpoints"),
    ("--run", "runs"): (3, "'runs' holds no checkpoints"),
    (A, B, "bends.pt"): (3, "is a curve, not a network"),
    ("bends.pt",): (3, "has 4 control points: a plane goes through three"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_spans_no_plane_is_refused(mcx, here: Path, words: tuple[str, ...]) -> None:
    if "middle.pt" in words:
        assert mcx(*MIDDLE).code == 0
    if "bends.pt" in words:
        made = ("curve", "train", A, B, *OWN, "--num-bends", "4", "--epochs", "0", "--output-dir", "bends")
        assert mcx(*made).code == 0
        Path("bends.pt").write_bytes(Path("bends/checkpoints/checkpoint-0.pt").read_bytes())
    done = mcx("curve", "plane", *words, *OWN, "--output-dir", "out")
    code, said = REFUSED[words]
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "words", [(A, "nan.pt", B), ("nan_curve.pt",), ("nan.pt", "--random-directions", "0")]
)
def test_weights_that_are_no_numbers_span_no_plane(mcx, here: Path, words: tuple[str, ...]) -> None:
    for name, source, entry in (("nan.pt", A, "model_state"), ("nan_curve.pt", CURVE, "control_points")):
        content = torch.load(source, weights_only=True)
        state = content[entry] if entry == "model_state" else content[entry][1]
        next(iter(state.values())).view(-1)[0] = float("nan")
        torch.save(content, name)
    done = mcx("curve", "plane", *words, *OWN, "--output-dir", "out")
    assert (done.code, done.out) == (3, "")
    assert "0.weight" in done.err
    assert "--allow-nonfinite" not in done.err


def test_another_architecture_is_refused(mcx, here: Path, networks: Path) -> None:
    done = mcx("curve", "plane", A, B, networks / "seed0/checkpoint-4.pt", *OWN, "--output-dir", "out")
    assert done.code == 3
    assert "different networks" in done.err
