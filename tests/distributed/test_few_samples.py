"""Several processes and awkward data: numbers of samples that no number of ranks divides, and none at all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

TINY = ("--model", "mlp", "--model-arg", "width=4", "--num-classes", "3")


@pytest.fixture
def run(mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Train a network of a few weights on so many samples: run/seed0 in the working directory."""
    monkeypatch.chdir(tmp_path)

    def make(count: int) -> None:
        random = np.random.default_rng(0)
        images = random.integers(0, 256, (count + 6, 1, 8, 8), dtype=np.uint8)
        split = np.array(["train"] * count + ["test"] * 6)
        np.savez("data.npz", images=images, labels=np.arange(count + 6) % 3, split=split)
        words = (
            *TINY,
            "--dataset",
            "data.npz",
            "--epochs",
            "1",
            "--save-freq",
            "1",
            "--output-dir",
            "run",
            "-q",
        )
        done = mcx("train", *words)
        assert done.code == 0, done.err

    return make


def arrays(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.npy")}


@pytest.mark.parametrize(
    ("count", "worlds"), [(1031, (2, 3)), (2, (3,))], ids=["a prime", "fewer than ranks"]
)
def test_g1_any_number_of_ranks_gives_the_same_files(
    mcx: Callable, start: Callable, run: Callable[[int], None], count: int, worlds: tuple[int, ...]
) -> None:
    """A unit is 1,024 samples or less: a prime more is two units, for two or three ranks."""
    run(count)
    words = ("csl", "score", "--checkpoint-dir", "run/seed0", "--batch-size", "100", "--output-dir")
    assert mcx(*words, "one", "--threads", "1").code == 0
    ids = np.load("one/sample_ids.npy")
    assert ids.tolist() == list(range(count))
    for world in worlds:
        done = start(*words, f"of {world}", "--nproc-per-node", str(world))
        _, err = done.communicate(timeout=100)
        assert done.returncode == 0, err
        assert arrays(f"of {world}") == arrays("one")


def test_j9_data_that_are_not_there_are_said_once(run: Callable[[int], None]) -> None:
    run(12)
    Path("data.npz").unlink()
    words = ("csl", "score", "--checkpoint-dir", "run/seed0", "--output-dir", "out", "--nproc-per-node", "2")
    done = subprocess.run(
        [sys.executable, "-m", "modeconn_cli", *words],
        capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1, done.stderr
    assert "data.npz' does not exist" in errors[0]
    assert "Traceback" not in done.stderr
    assert not list(Path().glob("out/*.npy"))
