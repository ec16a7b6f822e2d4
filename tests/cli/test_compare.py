"""`mcx curve compare` as its user sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from modeconn_cli.engine.paths.barriers import barriers

SERIES = ("tr_nll", "tr_err", "te_nll", "te_err")


def evaluation(folder: Path, height: float, positions: int = 5) -> np.ndarray:
    """An evaluation as the original script writes it: a parabola of this height, which is returned."""
    folder.mkdir(parents=True)
    ts = np.linspace(0, 1, positions)
    values = 0.1 + 4 * height * ts * (1 - ts)
    np.savez(
        folder / "curve.npz",
        ts=ts,
        dl=np.array([0, *[2.0] * (positions - 1)]),
        **dict.fromkeys(SERIES, values),
    )
    return values


def test_a_line_and_a_curve_stand_beside_each_other(mcx: Callable, ends: list[Path], tmp_path: Path) -> None:
    few = ("--max-samples", "60", "-q", "--output-dir")
    assert mcx("curve", "eval", *ends, "--num-points", "3", *few, tmp_path / "straight").code == 0
    assert mcx("lmc", "interpolate", *ends, "--num-alphas", "3", *few, tmp_path / "lmc").code == 0
    done = mcx("curve", "compare", tmp_path / "straight", tmp_path / "lmc", "--output-dir", tmp_path / "out")
    assert done.code == 0
    rows = [line.split() for line in done.out.splitlines()[2:4]]
    assert [row[0] for row in rows] == ["straight", "lmc"]
    assert rows[0][1:] == rows[1][1:], "the same line, by either command"
    summary = json.loads((tmp_path / "straight/curve_summary.json").read_text())
    table = pd.read_csv(tmp_path / "out/curve_compare.csv")
    for definition, values in summary["barriers"].items():
        for series, value in values.items():
            assert table[f"{definition}_{series}"].tolist() == pytest.approx([value] * 2, rel=1e-12)
    assert table["endpoint_distance"].tolist() == pytest.approx([summary["endpoint_distance"]] * 2)
    assert (tmp_path / "out/curve_compare.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("given", ["runs", "each"])
def test_several_seeds_are_a_mean_and_a_standard_deviation(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.chdir(tmp_path)
    heights = (1.0, 2.0, 4.0)
    found = [evaluation(Path(f"runs/seed{k}"), height) for k, height in enumerate(heights)]
    evaluation(Path("alone"), 0.5)
    words = ["runs"] if given == "runs" else [f"runs/seed{k}" for k in range(3)]
    done = mcx("curve", "compare", *words, "alone", "--output-dir", "out", "--json")
    assert done.code == 0, done.err
    several, alone = json.loads(done.out)["paths"]
    assert (several["name"], len(several["files"]), alone["name"]) == (
        "runs",
        3,
        "alone",
    )
    gaps = [barriers(np.linspace(0, 1, 5), values)["max_gap"] for values in found]
    assert gaps == pytest.approx(heights)
    barrier = several["barriers"]["max_gap"]["loss_test"]
    assert barrier == pytest.approx({"mean": np.mean(heights), "sd": np.std(heights, ddof=1)})
    assert alone["barriers"]["max_gap"]["loss_test"] == {"mean": pytest.approx(0.5), "sd": None}
    assert several["length"] == {"mean": 8, "sd": 0}
    means = pd.read_csv("out/curve_compare_mean.csv")
    assert means["max_gap_loss_test_sd"].iloc[0] == pytest.approx(np.std(heights, ddof=1))
    assert len(pd.read_csv("out/curve_compare.csv")) == 4
    shown = mcx("curve", "compare", *words, "alone").out
    assert "2.3333 ± 1.5275" in shown
    assert "mean ± standard deviation over seeds" in shown
    apart = json.loads(mcx("curve", "compare", *words, "--no-group", "--json").out)["paths"]
    assert [each["barriers"]["max_gap"]["loss_test"]["mean"] for each in apart] == pytest.approx(
        list(heights)
    )
    assert len({each["name"] for each in apart}) == 3


def test_one_label_is_one_path(mcx: Callable, tmp_path: Path) -> None:
    for name, positions in (("a", 5), ("b", 9)):
        evaluation(tmp_path / name, 1.0, positions)
    words = [f"both={tmp_path / name}" for name in "ab"]
    done = mcx("curve", "compare", *words, "--json", "--output-dir", tmp_path / "out")
    (found,) = json.loads(done.out)["paths"]
    assert (found["name"], found["positions"], len(found["files"])) == ("both", 9, 2)


def test_folders_without_evaluations_and_broken_ones_are_refused(mcx: Callable, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = mcx("curve", "compare", tmp_path / "empty")
    assert (done.code, done.out) == (3, "")
    assert "holds no evaluation (curve.npz, line.npz)" in done.err
    evaluation(tmp_path / "short", 1.0)
    with np.load(tmp_path / "short/curve.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "short/curve.npz", **{**arrays, "te_nll": arrays["te_nll"][:-1]})
    done = mcx("curve", "compare", tmp_path / "short")
    assert (done.code, done.out) == (3, "")
    assert "does not hold series at positions t from 0 to 1" in done.err
    np.savez(tmp_path / "short/curve.npz", **{name: arrays[name] for name in arrays if name != "te_err"})
    assert "curve.npz' has no te_err" in mcx("curve", "compare", tmp_path / "short").err


def test_values_that_are_no_numbers_are_said_and_kept(mcx: Callable, tmp_path: Path) -> None:
    evaluation(tmp_path / "a", 1.0)
    with np.load(tmp_path / "a/curve.npz") as file:
        arrays = dict(file)
    arrays["te_nll"][2] = np.nan
    np.savez(tmp_path / "a/curve.npz", **arrays)
    done = mcx("curve", "compare", tmp_path / "a", "--output-dir", tmp_path / "out")
    assert done.code == 0
    assert "holds values that are no numbers" in done.err
    assert "n/a" in done.out
