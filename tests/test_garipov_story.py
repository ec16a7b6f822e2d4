"""A VGG16 of dnn-mode-connectivity, whose file says nothing of itself, goes through the documented line."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from modeconn_cli.engine.networks import models
from modeconn_cli.engine.networks.models import Architecture

pytestmark = pytest.mark.slow


def write_cifar10(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR-10 in its own files, four images each, with checksums of their own."""
    from torchvision.datasets import CIFAR10

    rng = np.random.default_rng(0)
    (folder / "cifar-10-batches-py").mkdir(parents=True)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        content = {"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8), "labels": [0, 9, 1, 2]}
        (folder / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(content))
    meta = {"label_names": [str(i) for i in range(10)]}
    (folder / "cifar-10-batches-py/batches.meta").write_bytes(pickle.dumps(meta))
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR10, attribute, [[name, None] for name, _ in getattr(CIFAR10, attribute)])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": None})


@pytest.mark.filterwarnings("ignore:dtype.*align:DeprecationWarning")
def test_the_documented_swap_line_works_as_written(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_cifar10(tmp_path / "data", monkeypatch)
    model = models.build(Architecture("vgg16", 10, (3, 32, 32), {}), seed=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    content = {"epoch": 200, "model_state": model.state_dict(), "optimizer_state": optimizer.state_dict()}
    with (tmp_path / "checkpoint-200.pt").open("wb") as stream:
        torch.save(content, stream)
    words = ("--output", "mid2/checkpoint-200.pt", "--layer-depth", "mid", "--num-swaps", "1", "--verify")
    done = mcx("swap", "--checkpoint", "checkpoint-200.pt", *words)
    assert done.code == 0, done.err
    assert "holds vgg16 by its keys (10 classes)" in done.err
    assert "evaluated on cifar10 with transform vgg, as networks of this kind are trained" in done.err
    assert "Total parameters:       15,245,130" in done.out
    metadata = json.loads((tmp_path / "mid2/checkpoint-200_metadata.json").read_text())
    assert (metadata["layer_name"], metadata["block_idx"], metadata["layer_idx"]) == (
        "layer_blocks.2.1",
        2,
        1,
    )
    # The pair that the original script draws with seed 42 among 256 units.
    assert (metadata["neuron_pairs"], metadata["num_filters"]) == ([[228, 6]], 256)
    assert metadata["verification"]["level"] == "full"
    written = torch.load(tmp_path / "mid2/checkpoint-200.pt", weights_only=True)
    assert written["epoch"] == 200
    assert written["metadata"]["neuron_pairs"] == [[228, 6]]  # where the original script has it too
    assert set(written["model_state"]) == set(content["model_state"])
