"""The layer analysis of a curve at 61 positions against reading its file."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench import counts, networks
from bench.pairs import Pair
from modeconn_cli.engine.networks import checkpoints
from modeconn_cli.engine.paths.layers import layer_distances
from modeconn_cli.engine.results import files

POSITIONS = 61
ROWS, COLUMNS = "layer_blocks.2.1", "layer_blocks.2.2"  # a layer and the one that reads its channels


def prepare(folder: Path) -> Pair:
    """The file holds the control points and nothing else; it is in the disk cache for both sides."""
    path = folder / "curve.pt"
    written = networks.control_points()
    files.write_tensors(path, {"control_points": written, "curve": "bezier", "num_bends": len(written)})
    points = checkpoints.read(path).content["control_points"]
    swapped = swap(points[0])
    ts = np.linspace(0, 1, POSITIONS)

    def ours() -> None:
        layer_distances("bezier", points, ts, swapped)

    tensors = [tensor for point in points for tensor in point.values()]
    with counts.Reads(tensors) as reads:
        ours()
    each = sum(reads.elements.values()) / sum(tensor.numel() for tensor in tensors)
    return Pair(ours, lambda: plain(path), (f"{each:.3f} reads of each element of {len(points)} points",))


def swap(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Channels 3 and 5 of a layer exchanged; the other tensors are the same objects."""
    order = torch.arange(len(state[f"{ROWS}.bias"]))
    order[[3, 5]] = order[[5, 3]]
    return {
        **state,
        f"{ROWS}.weight": state[f"{ROWS}.weight"][order],
        f"{ROWS}.bias": state[f"{ROWS}.bias"][order],
        f"{COLUMNS}.weight": state[f"{COLUMNS}.weight"][:, order],
    }


def plain(path: Path) -> None:
    """Check every member of a `.pt` file, then load it."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    torch.load(path, map_location="cpu", weights_only=True)
