"""Processes that read images: how many there are changes nothing, and one that the system ends stops the command."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modeconn_cli.engine.datasets import images
from modeconn_cli.engine.networks import checkpoints


def words(pictures: Path, output: Path) -> tuple[str | Path, ...]:
    model = ("--model", "mlp", "--model-arg", "width=4,depth=1", "--image-size", "8", "--batch-size", "4")
    how = ("--epochs", "2", "--save-freq", "1", "--threads", "1", "-q")
    return ("train", *model, "--dataset", pictures, *how, "--output-dir", output)


def networks_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("checkpoint-*.pt")}


def test_e17_any_number_of_workers_gives_the_same_weights(
    mcx: Callable, pictures: Path, tmp_path: Path
) -> None:
    found = []
    for workers in ("0", "2"):
        done = mcx(*words(pictures, tmp_path / workers), "--workers", workers)
        assert done.code == 0, done.err
        found.append(networks_in(tmp_path / workers))
    assert found[0] == found[1]
    assert len(found[0]) == 3


def test_e8_e17_a_run_goes_on_with_another_number_of_workers(
    mcx: Callable, pictures: Path, tmp_path: Path, stopped_by: Callable
) -> None:
    assert mcx(*words(pictures, tmp_path / "whole"), "--workers", "0").code == 0
    with stopped_by("train.after_step:6=usr2"):
        assert mcx(*words(pictures, tmp_path / "again"), "--workers", "1").code == 75
    assert mcx(*words(pictures, tmp_path / "again"), "--workers", "0").code == 0
    assert networks_in(tmp_path / "again") == networks_in(tmp_path / "whole")


def test_e8_workers_are_noted_where_images_lie_in_memory_and_nowhere_else(
    mcx: Callable, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scripts give them to every data set, and a continuation may have others."""
    (tmp_path / "in_memory.py").write_text(
        "import torch\n\n\ndef data(split):\n    return [(torch.zeros(1, 2, 2), k % 2) for k in range(6)]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    arrays = {"images": np.zeros((6, 1, 2, 2), np.uint8), "labels": np.arange(6) % 2}
    np.savez(tmp_path / "d.npz", **arrays, split=["train"] * 4 + ["test"] * 2)
    in_memory = {
        "synthetic": "synthetic",
        tmp_path / "d.npz": "d",
        "in_memory:data": "in_memory:data",
    }
    for dataset, name in in_memory.items():
        line = ("train", "--model", "mlp", "--dataset", dataset, "--output-dir", tmp_path / "o", "--dry-run")
        note = f"--workers has no effect: the images of '{name}' lie in memory\n"
        done = mcx(*line, "--num-workers", "2")
        assert (done.code, done.err.count(note)) == (0, 1), done.err
    assert "--workers" not in mcx(*line).err
    monkeypatch.setenv("MCX_TRAIN_WORKERS", "0")
    assert note in mcx(*line).err
    monkeypatch.delenv("MCX_TRAIN_WORKERS")
    done = mcx(*words(pictures, tmp_path / "out")[:-3], "--output-dir", "o", "--dry-run", "--workers", "0")
    assert (done.code, "--workers" in done.err) == (0, False), done.err


def test_e14_m5_a_worker_that_is_killed_ends_the_training_which_goes_on_later(
    mcx: Callable, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a system that is short of memory: in the second epoch, when the first is saved."""
    assert mcx(*words(pictures, tmp_path / "whole"), "--workers", "0").code == 0
    decoded, main = images._decoded, os.getpid()

    def killed(*given: Any, **more: Any) -> Any:
        if os.getpid() != main and (tmp_path / "again/seed0/checkpoint-1.pt").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return decoded(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(images, "_decoded", killed)
        done = mcx(*words(pictures, tmp_path / "again"), "--workers", "1")
    assert (done.code, done.out) == (3, ""), done.err
    assert "a process that reads images was ended by the system" in done.err
    assert "hint: pass fewer --workers (0: none)" in done.err
    assert "Traceback" not in done.err
    saved = sorted((tmp_path / "again/seed0").glob("checkpoint-*.pt"))
    assert [checkpoints.read(path).epoch for path in saved] == [0, 1]
    assert mcx(*words(pictures, tmp_path / "again"), "--workers", "0").code == 0
    assert networks_in(tmp_path / "again") == networks_in(tmp_path / "whole")
