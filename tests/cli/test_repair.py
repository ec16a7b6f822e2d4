"""`--bn repair` of the commands that go along a line or a curve."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def normed(made_once: Callable) -> Path:
    """Two networks with batch norm directly behind each convolution: seed0/ and seed1/ with checkpoint-1.pt."""
    return made_once("normed", lambda folder: _train(folder, "cnn", "--model-arg", "width=4,norm=batch"))


@pytest.fixture(scope="module")
def residual(made_once: Callable) -> Path:
    """Two networks whose convolutions have no bias, and behind some of them no batch norm."""
    return made_once("residual", lambda folder: _train(folder, "preresnet8"))


def _train(folder: Path, *model: str) -> None:
    from modeconn_cli.cli import app

    words = [
        "train",
        "--model",
        *model,
        "--dataset",
        "digits",
        "--seeds",
        "0,1",
        "--epochs",
        "1",
        "--lr",
        "0.1",
    ]
    assert app.main([*words, "--max-samples", "200", "--output-dir", str(folder), "-q"]) == 0


def ends(folder: Path, *names: str) -> list[str | Path]:
    return [
        "--endpoint0",
        folder / "seed0/checkpoint-1.pt",
        "--endpoint1",
        folder / "seed1/checkpoint-1.pt",
        *names,
    ]


@pytest.mark.parametrize("model", ["normed", "residual"])
def test_between_the_ends_it_decides_the_result_and_at_the_ends_nothing(
    mcx: Callable, model: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder, found = request.getfixturevalue(model), {}
    for policy in ("lerp", "repair"):
        done = mcx("lmc", "interpolate", *ends(folder, "--num-alphas", "3", "--bn", policy, "--json"))
        found[policy] = json.loads(done.out)
    for series in ("losses_train", "losses_test", "accuracy_lst_test"):
        plain, repaired = found["lerp"][series], found["repair"][series]
        assert (repaired[0], repaired[2]) == (plain[0], plain[2])
        assert repaired[1] != plain[1]
    # Of the first: three batch norms behind convolutions and a linear layer.
    layers = {"normed": 4, "residual": 7 + 6}[model]
    expected = {"policy": "repair", "samples": 200, "batch_size": 128, "order_seed": 0, "layers": layers}
    assert {name: found["repair"]["bn"][name] for name in expected} == expected


def test_a_network_is_written_repaired(mcx: Callable, normed: Path, tmp_path: Path) -> None:
    here = ends(normed, "--bn", "repair", "--bn-samples", "150")
    done = mcx("curve", "eval", *here, "--num-points", "3", "--output-dir", tmp_path / "line", "--json")
    assert done.code == 0, done.err
    line = json.loads(done.out)
    assert line["endpoints"][0]["te_nll"] == line["statistics"]["te_nll"]["start"]
    point = tmp_path / "middle.pt"
    done = mcx("curve", "extract", *here, "--t", "0.5", "--output", point, "--json")
    assert json.loads(done.out)["bn"] == line["bn"]
    assert line["bn"]["samples"] == 150
    # On the line from itself to itself it is as it was written, as any checkpoint is.
    done = mcx("lmc", "interpolate", point, point, "--num-alphas", "3", "--bn", "keep", "--json")
    middle = json.loads(mcx("lmc", "interpolate", *here, "--num-alphas", "3", "--json").out)["losses_test"][1]
    assert json.loads(done.out)["losses_test"] == [pytest.approx(middle, abs=1e-6)] * 3
    whole = torch.load(normed / "seed0/checkpoint-1.pt", weights_only=True)["model_state"]
    assert torch.load(point, weights_only=True)["model_state"].keys() == whole.keys()


def test_a_shift_that_no_tensor_of_the_checkpoint_can_hold_is_refused(
    mcx: Callable, residual: Path, tmp_path: Path
) -> None:
    point = tmp_path / "point.pt"
    words = ("curve", "extract", *ends(residual, "--bn", "repair", "--output"), point, "--t")
    done = mcx(*words, "0.5")
    assert (done.code, done.out, point.exists()) == (3, "", False)
    assert "can hold the shift of conv1, layer1.0.conv2, layer2.0.conv2, layer2.0.downsample.0" in done.err
    assert mcx(*words, "1").code == 0  # the end itself


def test_a_curve_without_the_statistics_of_its_ends_is_refused(mcx: Callable, tmp_path: Path) -> None:
    words = (
        "--curve-checkpoint",
        DATA / "garipov_preresnet8_curve.pt",
        "--dataset",
        "synthetic",
        "--bn",
        "repair",
    )
    done = mcx("curve", "eval", *words, "--output-dir", tmp_path / "out")
    assert done.code == 3
    assert "does not hold both ends' statistics of batch norm" in done.err


@pytest.mark.slow
def test_lines_of_an_experiment_are_repaired_each_by_its_own_ends(mcx: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "lmc"
    words = [
        "lmc",
        "run",
        "--model",
        "preresnet8",
        "--dataset",
        "digits",
        "--max-samples",
        "100",
        "--lr",
        "0.1",
    ]
    words += ["--k1", "0", "--k2", "1,2", "--num-alphas", "3", "--bn", "repair", "--output-dir", str(folder)]
    plan = mcx(*words, "--dry-run").err
    assert "after about 6 passes over 100 to repair the layers" in plan  # 11 layers on the longest way
    pairs = json.loads(mcx(*words, "--json").out)["pairs"]
    assert len(pairs) == 2
    for pair in pairs:
        wrote = json.loads(Path(pair["file"]).read_text())
        checkpoints = [
            folder / f"checkpoints/{branch}/checkpoint-{pair['k1'] + pair['k2']}.pt"
            for branch in ("main", "k1_0")
        ]
        done = mcx("lmc", "interpolate", *checkpoints, "--num-alphas", "3", "--bn", "repair", "--json")
        alone = json.loads(done.out)
        assert wrote["losses_test"] == pytest.approx(alone["losses_test"], rel=1e-6)
        assert wrote["bn"] == alone["bn"]


def test_without_batch_norm_a_result_that_was_repaired_is_another(
    mcx: Callable, mlps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pair = [mlps / f"seed{k}/checkpoint-4.pt" for k in (0, 1)]
    words = ("lmc", "interpolate", *pair, "--num-alphas", "3", "--output-dir", "o")
    assert mcx(*words, "--bn", "repair").code == 0
    done = mcx(*words, "--bn", "keep")
    assert done.code != 0
    assert "'bn' was repair, now keep" in done.err
    assert "already complete" in mcx(*words, "--bn", "repair").err
