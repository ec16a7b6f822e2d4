"""What Python users import: the commands as functions, networks and curves as objects, results as tables.

Every function takes the settings of its command by their names (`batch_size=64` for `--batch-size 64`), does what the
command does with the same files, and gives an `Answer`. The functions of the documents stand beside them under their
own names. Importing this package imports no torch.

>>> import tempfile
>>> from pathlib import Path
>>> from modeconn_cli import api
>>> folder = Path(tempfile.mkdtemp())
>>> answer = api.train(model="mlp", dataset="digits", epochs=1, seeds=(0, 1), threads=1, output_dir=folder / "runs")
>>> first, second = (network.checkpoint for network in answer.result.networks)
>>> distance = api.distance(first, second).result.distance
>>> distance.total_params
8970
>>> network = api.curve(first, second).at(0.5)  # an nn.Module in eval mode
>>> sum(parameter.numel() for parameter in network.parameters())
8970
>>> print(*api.read(folder / "runs" / "seed0")["metrics"].columns[:3])
epoch lr train_loss
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from modeconn_cli.api.commands import (
    Answer,
    Progress,
    aggregate,
    correlate,
    curvature,
    distance,
    dormant,
    interpolate,
    run,
    score,
    swap,
    train,
    train_curve,
)
from modeconn_cli.api.documents import (
    Curvatures,
    Dormancies,
    calculate_l2_distance,
    compute_csl,
    compute_curvature_per_image,
    compute_learning_time_from_grads,
    compute_per_sample_dormant,
    cosine_similarity_distance,
    euclidean_distance,
    functional_distance,
    weighted_euclidean_distance,
)
from modeconn_cli.api.networks import Curve, Network, curve, load
from modeconn_cli.api.results import Tables, read

__all__ = [
    "Answer",
    "Curvatures",
    "Curve",
    "Dormancies",
    "Network",
    "Progress",
    "Tables",
    "aggregate",
    "calculate_l2_distance",
    "compute_csl",
    "compute_curvature_per_image",
    "compute_learning_time_from_grads",
    "compute_per_sample_dormant",
    "correlate",
    "cosine_similarity_distance",
    "curvature",
    "curve",
    "distance",
    "dormant",
    "euclidean_distance",
    "functional_distance",
    "interpolate",
    "load",
    "read",
    "run",
    "score",
    "swap",
    "train",
    "train_curve",
    "weighted_euclidean_distance",
]

if TYPE_CHECKING:
    from modeconn_cli.api import draw as draw
else:

    def __getattr__(name: str) -> Any:
        """`api.draw`, which imports torch and matplotlib, is there as soon as it is asked for."""
        if name == "draw":
            return importlib.import_module("modeconn_cli.api.draw")
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
