"""Reading a checkpoint of 120 MB, checks included, against checking its members and loading it."""

from __future__ import annotations

from pathlib import Path

import torch

from bench import counts, networks
from bench.layer_analysis import plain
from bench.pairs import Pair
from modeconn_cli.engine.networks import checkpoints
from modeconn_cli.engine.results import files


def prepare(folder: Path) -> Pair:
    """A network and its momentum, as training writes them."""
    path = folder / "checkpoint-1.pt"
    model = networks.network()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    content = {"epoch": 1, "model_state": model.state_dict(), "optimizer_state": optimizer.state_dict()}
    files.write_tensors(path, content)
    with counts.opens(path) as ours:
        checkpoints.read(path)
    with counts.opens(path) as reference:
        plain(path)
    fact = f"opens of the file: {len(ours)} (reference: {len(reference)})"
    return Pair(lambda: checkpoints.read(path), lambda: plain(path), (fact,))
