"""Checkpoints that several tests of the command line measure; they are not written to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modeconn_cli.cli import app


@pytest.fixture
def ends(networks: Path) -> list[Path]:
    """Two trained networks of one architecture."""
    return [networks / f"seed{k}/checkpoint-4.pt" for k in (0, 1)]


@pytest.fixture(scope="session")
def mlps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another architecture on few samples: seed0/ and seed1/ with checkpoint-0.pt to checkpoint-4.pt."""
    folder = tmp_path_factory.mktemp("mlps")
    words = ["train", "--model", "mlp", "--dataset", "digits", "--seeds", "0,1", "--epochs", "4"]
    more = ["--save-freq", "1", "--max-samples", "200", "--output-dir", str(folder), "-q"]
    assert app.main([*words, *more]) == 0
    return folder


@pytest.fixture(scope="session")
def noisy(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A run on few samples with a quarter of the labels flipped: checkpoint-0.pt and checkpoint-1.pt."""

    def train(folder: Path) -> None:
        words = ["train", "--model", "mlp", "--dataset", "digits", "--epochs", "1", "--label-noise", "0.25"]
        assert app.main([*words, "--max-samples", "100", "--output-dir", str(folder), "-q"]) == 0

    return made_once("noisy", train) / "seed0"


@pytest.fixture
def swaps(mcx: Callable, ends: list[Path], tmp_path: Path) -> list[Path]:
    """A swap of the first network, and the mirror of that."""
    out = [tmp_path / "s1.pt", tmp_path / "s2.pt"]
    assert mcx("swap", "--checkpoint", ends[0], "--output", out[0], "--num-swaps", "2").code == 0
    assert mcx("swap", "--checkpoint", out[0], "--output", out[1], "--mirror").code == 0
    return out
