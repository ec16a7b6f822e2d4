"""The demo, shortened: it tells its story, and its second run changes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from modeconn_cli.cli import app

README = Path(__file__).parents[2] / "README.md"
SHORT = ("--epochs", "6", "--curve-epochs", "6", "--num-points", "5")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    assert app.main(["demo", "--output-dir", str(folder), *SHORT, "-q"]) == 0
    return folder


def test_the_second_run_changes_nothing_and_tells_the_same(mcx: Callable, demo: Path) -> None:
    before = {
        path: path.read_bytes() for path in demo.rglob("*") if path.is_file() and ".mcx" not in path.parts
    }
    done = json.loads(mcx("demo", "--output-dir", demo, *SHORT, "--json").out)
    after = {
        path: path.read_bytes() for path in demo.rglob("*") if path.is_file() and ".mcx" not in path.parts
    }
    assert after == before
    seeds, swap = done["pairs"]
    # What is true after six epochs already: a barrier on the line, a lower one along the curve, none at the swap.
    assert seeds["line_barrier"] > 5 * max(swap["line_barrier"], 0.01)
    assert seeds["curve_barrier"] < seeds["line_barrier"] / 3
    assert swap["total_l2"] < seeds["total_l2"]
    naive, aligned, repaired = done["aligned"]
    assert (naive["barrier"], naive["total_l2"]) == (seeds["line_barrier"], seeds["total_l2"])
    assert aligned["barrier"] < naive["barrier"] / 2
    assert repaired["barrier"] < aligned["barrier"]
    assert aligned["total_l2"] == repaired["total_l2"] < naive["total_l2"]
    assert done["share_swapped"] + done["share_neighbours"] + done["share_elsewhere"] == pytest.approx(1)


def test_the_results_lie_as_in_the_documents(demo: Path) -> None:
    root = demo / "cnn/digits"
    for name in (
        "endpoints/checkpoints/seed0/checkpoint-6.pt",
        "endpoints_neuronswap/mid2/checkpoint-6.pt",
        "endpoints_neuronswap/mid2/checkpoint-6_metadata.json",
        "endpoints_neuronswap/mid2/checkpoint-6_layer_distances.json",
        "endpoint_l2_distances/seed0-mid2.json",
        "curve_neuronswap_mid2_reg/checkpoints/checkpoint-6.pt",
        "curve_neuronswap_mid2_reg/checkpoints/endpoint_l2_distance.txt",
        "curve_neuronswap_mid2_reg/analysis/layer_distances_along_curve.npz",
        "curve_neuronswap_mid2_reg/analysis/analysis_summary.json",
        "curve_neuronswap_mid2_reg/analysis/layer_distances_evolution.gif",
        "curve_neuronswap_mid2_reg/analysis/layer_distances_evolution_heatmap.png",
        "aligned/seed1.pt",
        "aligned/seed1_permutation.npz",
        "aligned/line_repaired/curve.npz",
        "linear_against_curve.png",
    ):
        assert (root / name).is_file(), name


def shape(text: str) -> list[list[str]]:
    """The words of a text with every number as #: figures depend on the machine, the words do not."""
    return [re.sub(r"\d[\d.,e-]*", "#", line).split() for line in text.strip().splitlines()]


def test_the_readme_shows_what_the_demo_prints(mcx: Callable, demo: Path) -> None:
    shown = README.read_text().split("<!-- demo -->\n```\n")[1].split("```")[0]
    printed = mcx("demo", "--output-dir", demo, *SHORT).out
    assert shape(shown) == shape(printed)[: len(shape(shown))]


@pytest.mark.slow
def test_the_full_demo_finds_flipped_labels(mcx: Callable, demo: Path) -> None:
    done = json.loads(mcx("demo", "--output-dir", demo, *SHORT, "--full", "--json").out)
    assert done["samples"]["auroc"]["csl"] > 0.75  # after six epochs; 0.99 after twenty
    assert Path(done["samples"]["pictures"]).read_bytes().startswith(b"\x89PNG")
    assert "flipped" in done["samples"]["hardest"][0]
