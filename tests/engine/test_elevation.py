"""More control points for the same curve, and where the ends of a curve that is begun from another come from."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from modeconn_cli.cli import app
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.networks import checkpoints
from modeconn_cli.engine.networks.checkpoints import About
from modeconn_cli.engine.paths.elevation import elevation
from modeconn_cli.engine.paths.file import CurveFile
from modeconn_cli.engine.paths.path import Kind, coefficients
from modeconn_cli.engine.paths.start import points_of_curve

NET = """
from torch import nn


def net(num_classes=3):
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, num_classes))
"""
TS = np.linspace(0, 1, 101)
RAISED = [("bezier", n, m) for n in range(2, 8) for m in range(n, 10)]
REFINED = [("polychain", n, k * (n - 1) + 1) for n in range(2, 8) for k in (1, 2, 3, 5)]


@pytest.mark.parametrize(("kind", "count", "wanted"), RAISED + REFINED)
def test_the_curve_through_more_points_is_the_same(kind: Kind, count: int, wanted: int) -> None:
    points = np.random.default_rng(0).standard_normal((count, 50))
    more = elevation(kind, count, wanted) @ points
    assert len(more) == wanted
    assert np.array_equal(more[[0, -1]], points[[0, -1]])
    for t in TS:
        before, after = coefficients(kind, count, t) @ points, coefficients(kind, wanted, t) @ more
        assert np.abs(before - after).max() < 1e-14


@pytest.mark.parametrize(("n", "m"), [(2, 3), (3, 5), (4, 9)])
def test_the_degree_is_raised_as_in_fractions(n: int, m: int) -> None:
    """Point by point: raised by one at a time, b_i = i/(k+1) a_(i−1) + (1 − i/(k+1)) a_i."""
    found = [Fraction(7 * k * k - 3 * k + 1) for k in range(n)]
    for k in range(n - 1, m - 1):
        share = [Fraction(i, k + 1) for i in range(k + 2)]
        padded = [Fraction(0), *found, Fraction(0)]
        found = [share[i] * padded[i] + (1 - share[i]) * padded[i + 1] for i in range(k + 2)]
    ours = elevation("bezier", n, m) @ np.array([7.0 * k * k - 3 * k + 1 for k in range(n)])
    assert np.allclose(ours, [float(each) for each in found], rtol=1e-14)


@pytest.mark.parametrize(
    ("kind", "count", "wanted", "hint"),
    [("bezier", 5, 4, "5 or more"), ("polychain", 3, 4, "3, 5, 7"), ("polychain", 4, 3, "4 or more")],
)
def test_what_is_no_curve_of_that_many_points_is_refused(
    kind: Kind, count: int, wanted: int, hint: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        elevation(kind, count, wanted)
    assert hint in caught.value.hint


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("kind", ["bezier", "polychain"])
def test_networks_on_the_curve_are_the_same(kind: Kind, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    points = [
        {"a.weight": torch.randn(4, 3, dtype=dtype), "a.bias": torch.randn(4, dtype=dtype)} for _ in range(3)
    ]
    curve = CurveFile(Path("c.pt"), kind, points, (), About())
    more = points_of_curve(curve, points[0], points[-1], kind, 5)
    assert [each["a.bias"].dtype for each in more] == [dtype] * 5
    for t in TS[::5]:
        for name in points[0]:
            before, after = (
                sum(
                    float(c) * p[name].to(torch.complex128)
                    for c, p in zip(coefficients(kind, len(ps), t), ps, strict=True)
                )
                for ps in (points, more)
            )
            worst = float((before - after).abs().max())  # type: ignore[union-attr]
            assert worst < (1e-14 if dtype == torch.float64 else 1e-7)
    same = points_of_curve(curve, points[0], points[-1], kind, 3)
    assert all(torch.equal(a[n], b[n]) for a, b in zip(same, points, strict=True) for n in a)


@pytest.fixture(scope="module")
def curves(networks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curves")
    ends = [str(networks / f"seed{k}/checkpoint-4.pt") for k in (0, 1)]
    for kind in ("bezier", "polychain"):
        words = [*ends, "--curve", kind, "--epochs", "1", "--lr", "0.05", "--output-dir", str(folder / kind)]
        assert app.main(["curve", "train", *words, "-q"]) == 0
    return folder


def trained(folder: Path, epoch: int = 1) -> Path:
    return folder / f"checkpoints/checkpoint-{epoch}.pt"


@pytest.mark.parametrize("kind", ["bezier", "polychain"])
def test_training_begins_from_the_same_curve_of_more_points(
    mcx: Callable, networks: Path, curves: Path, tmp_path: Path, kind: str
) -> None:
    ends = [networks / f"seed{k}/checkpoint-4.pt" for k in (0, 1)]
    words = (
        *ends,
        "--curve",
        kind,
        "--num-bends",
        "5",
        "--init-method",
        "curve",
        "--init-curve",
        trained(curves / kind),
    )
    done = mcx(
        "curve",
        "train",
        *words,
        "--epochs",
        "1",
        "--lr",
        "1e-30",
        "--momentum",
        "0",
        "--output-dir",
        tmp_path / "c",
    )
    assert (done.code, "warning" in done.err) == (0, False), done.err
    found = torch.load(trained(tmp_path / "c"), weights_only=True)
    assert len(found["control_points"]) == 5
    for name, folder in (("few", curves / kind), ("many", tmp_path / "c")):
        words = (trained(folder), "--num-points", "5", "--output-dir", tmp_path / name)
        assert mcx("curve", "eval", *words, "-q").code == 0
    with np.load(tmp_path / "few/curve.npz") as few, np.load(tmp_path / "many/curve.npz") as many:
        assert np.allclose(few["te_nll"], many["te_nll"], rtol=1e-5)
        assert np.allclose(few["l2_norm"], many["l2_norm"], rtol=1e-7)


REFUSED = {
    ("bezier", "bezier", "2"): "with fixed ends leaves nothing to train",
    ("polychain", "polychain", "4"): "a polychain of 3 control points is none of 4",
    ("bezier", "polychain", "5"): "no polychain of 5 control points is the same",
}


@pytest.mark.parametrize(("of", "kind", "count"), REFUSED)
def test_a_start_that_does_not_exist_is_refused_before_the_job(
    mcx: Callable, networks: Path, curves: Path, tmp_path: Path, of: str, kind: str, count: str
) -> None:
    ends = [networks / f"seed{k}/checkpoint-4.pt" for k in (0, 1)]
    words = (
        *ends,
        "--curve",
        kind,
        "--num-bends",
        count,
        "--init-method",
        "curve",
        "--init-curve",
        trained(curves / of),
    )
    done = mcx("curve", "train", *words, "--output-dir", tmp_path / "c")
    assert (done.code, REFUSED[of, kind, count] in done.err) == (2, True), done.err
    assert not (tmp_path / "c").exists()


def test_a_curve_between_other_networks_is_said(
    mcx: Callable, networks: Path, curves: Path, tmp_path: Path
) -> None:
    ends = networks / "seed0/checkpoint-0.pt", networks / "seed1/checkpoint-4.pt"
    words = (*ends, "--epochs", "1", "--init-method", "curve", "--init-curve", trained(curves / "polychain"))
    done = mcx("curve", "train", *words, "--output-dir", tmp_path / "c")
    assert done.code == 0
    assert "endpoint 0 is not that of" in done.err
    assert "endpoint 1 is not that of" not in done.err
    assert "is a polychain: a bezier through its points is another curve" in done.err


def test_ends_that_are_trained_have_no_statistics_of_their_own(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They move, go on from where another curve has left them, and their files' statistics are another network's."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "endnet.py").write_text(NET)
    data = ("--dataset", "synthetic", "--data-arg", "train=60,test=20,size=8,channels=1,classes=3")
    words = ("--model", "endnet:net", *data)
    made = mcx("train", *words, "--seeds", "0,1", "--epochs", "1", "--output-dir", tmp_path / "runs")
    assert made.code == 0, made.err
    ends = [checkpoints_of(tmp_path / "runs", k) for k in (0, 1)]
    free = (*ends, *words, "--no-fix-start", "--epochs", "1", "--lr", "0.1", "--num-bends", "2")
    assert mcx("curve", "train", *free, "--output-dir", tmp_path / "free").code == 0
    found = torch.load(trained(tmp_path / "free"), weights_only=True)["control_points"]
    own = [checkpoints.read(path).state for path in ends]
    assert not torch.equal(found[0]["2.weight"], own[0]["2.weight"])
    assert torch.equal(found[1]["2.weight"], own[1]["2.weight"])
    done = mcx(
        "curve",
        "eval",
        trained(tmp_path / "free"),
        *words[:2],
        "--num-points",
        "2",
        "--output-dir",
        tmp_path / "e",
        "--json",
    )
    assert json.loads(done.out)["endpoints"] == [{}, {}]
    again = (*free, "--init-method", "curve", "--init-curve", trained(tmp_path / "free"))
    done = mcx("curve", "train", *again, "--lr", "1e-30", "--output-dir", tmp_path / "again")
    assert (done.code, "is not that of" in done.err) == (0, False), done.err
    went = torch.load(trained(tmp_path / "again"), weights_only=True)["control_points"]
    assert all(torch.equal(went[k][n], found[k][n]) for k in (0, 1) for n in found[k])


def checkpoints_of(runs: Path, seed: int) -> Path:
    return runs / f"seed{seed}/checkpoint-1.pt"


@pytest.mark.parametrize("kind", ["bezier", "polychain"])
@pytest.mark.parametrize("bends", range(3, 8))
def test_any_number_of_bends_is_trained(
    mcx: Callable, networks: Path, tmp_path: Path, kind: str, bends: int
) -> None:
    ends = [networks / f"seed{k}/checkpoint-4.pt" for k in (0, 1)]
    words = (
        *ends,
        "--curve",
        kind,
        "--num-bends",
        str(bends),
        "--epochs",
        "1",
        "--max-samples",
        "64",
        "--batch-size",
        "8",
    )
    done = mcx("curve", "train", *words, "--lr", "0.05", "--output-dir", tmp_path, "--json")
    assert done.code == 0, done.err
    found = torch.load(trained(tmp_path), weights_only=True)["control_points"]
    first, last = (checkpoints.read(path).state for path in ends)
    assert len(found) == bends
    for k, point in enumerate(found):
        for name, tensor in point.items():
            straight = torch.lerp(first[name], last[name], k / (bends - 1))
            assert torch.equal(tensor, straight) == (k in (0, bends - 1)), (k, name)
