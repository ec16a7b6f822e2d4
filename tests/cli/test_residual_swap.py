"""Layers whose outputs are added move together: a swap says all of them, and so does what measures it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

NETWORK = """
from torch import nn


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.begin = nn.Conv2d(1, 4, 3, padding=1)
        self.branch = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 10)

    def forward(self, images):
        before = self.begin(images).relu()
        return self.head((before + self.branch(before)).mean((2, 3)))
"""


@pytest.fixture
def swapped(mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "residual.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    from residual import Residual  # type: ignore[import-not-found]

    torch.manual_seed(0)
    torch.save(Residual().state_dict(), tmp_path / "bare.pt")
    model = ("--model", "residual:Residual", "--input-shape", "1,8,8")
    done = mcx(
        "swap",
        tmp_path / "bare.pt",
        *model,
        "--layer-name",
        "branch",
        "--pairs",
        "0:2",
        "--output",
        tmp_path / "s.pt",
    )
    assert done.code == 0, done.err
    assert "units of branch, and with them those of begin, which are added to them" in done.err
    return tmp_path


def test_the_metadata_names_every_layer_whose_units_move(swapped: Path) -> None:
    found = json.loads((swapped / "s_metadata.json").read_text())
    assert (found["layer_name"], sorted(found["layers_swapped"])) == ("branch", ["begin", "branch"])


def test_an_epoch_that_nobody_knows_stays_unknown(mcx: Callable, swapped: Path) -> None:
    assert "epoch" not in torch.load(swapped / "s.pt", weights_only=True)
    assert json.loads(mcx("info", swapped / "s.pt", "--json").out)["epoch"] is None


def test_the_analysis_of_a_curve_stars_them_and_gives_their_share_together(
    mcx: Callable, swapped: Path
) -> None:
    words = ("--model", "residual:Residual", "--dataset", "digits", "--max-samples", "20", "--epochs", "1")
    ends = ("--endpoint0", swapped / "bare.pt", "--endpoint1", swapped / "s.pt")
    assert mcx("curve", "train", *ends, *words, "--output-dir", swapped / "curve", "-q").code == 0
    curve = swapped / "curve/checkpoints/checkpoint-1.pt"
    more = ("--model", "residual:Residual", "--num-points", "3", "--output-dir", swapped / "a")
    done = mcx(
        "curve", "analyze", "--curve-checkpoint", curve, "--swap-metadata", swapped / "s_metadata.json", *more
    )
    assert done.code == 0, done.err
    starred = [line.split()[0] for line in done.out.splitlines() if " * " in line]
    assert starred == ["begin", "branch"]
    found = json.loads((swapped / "a/analysis_summary.json").read_text())
    assert found["swapped_layers"] == ["begin", "branch"]
    squares = {each["name"]: each["normalized_l2_middle"] ** 2 * each["n_params"] for each in found["layers"]}
    together = (squares["begin"] + squares["branch"]) / sum(squares.values())
    assert found["share_swapped_layers"] == pytest.approx(together)
    assert found["share_swapped"] == pytest.approx(squares["branch"] / sum(squares.values()))
    assert f"the 2 swapped layers {100 * together:.2f}% (branch alone" in done.out


def test_small_barriers_keep_three_figures_and_losses_are_named_for_what_they_are(
    mcx: Callable, swapped: Path
) -> None:
    words = (
        "--model",
        "residual:Residual",
        "--dataset",
        "digits",
        "--max-samples",
        "20",
        "--num-alphas",
        "3",
    )
    done = mcx("lmc", "interpolate", swapped / "bare.pt", swapped / "s.pt", *words, "--json")
    found = json.loads(done.out)["barriers"]
    text = mcx("lmc", "interpolate", swapped / "bare.pt", swapped / "s.pt", *words).out
    assert max(map(len, text.splitlines())) <= 80
    heads = next(line.split("  ") for line in text.splitlines() if line.strip().startswith("definition"))
    assert [head.strip() for head in heads if head.strip()] == [
        "definition",
        "train nll",
        "train error",
        "test nll",
        "test error",
    ]
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith("  m")}
    assert float(rows["midpoint"][0]) == pytest.approx(found["midpoint"]["loss_train"], rel=5e-3)
