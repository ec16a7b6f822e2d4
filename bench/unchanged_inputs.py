"""What the steps of `bench.unchanged` read and mcx does not make itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

# A network of the user's own, and the Python functions on it.
OWN = """
from torch import nn

def make(num_classes, width=6):
    layers = nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, num_classes)
    return nn.Sequential(*layers)
"""
FUNCTIONS = """
import numpy as np
import torch
from own import make
from modeconn_cli import api

torch.manual_seed(0)
one, other = make(10), make(10)
images, labels, ids = torch.randn(20, 1, 8, 8), torch.arange(20) % 10, torch.arange(20) + 50
loader = [(images[:12], labels[:12], ids[:12]), (images[12:], labels[12:], ids[12:])]
for method in ("fd", "hvp"):
    folder = f"api/curvature/{method}"
    found = api.compute_curvature_per_image(one, loader, 1e-2, 3, 2.0, folder, seed=1, method=method)
    np.savez(f"{folder}/all.npz", **vars(found))
losses = np.random.default_rng(0).random((4, 6))
lt, tau = api.compute_learning_time_from_grads(losses)
dormant = vars(api.compute_per_sample_dormant(one, loader, eps=0.01))
print(dormant.pop("layers"), tau, api.calculate_l2_distance(one, other), api.euclidean_distance(one, other))
np.savez("api/arrays.npz", csl=api.compute_csl(losses), lt=lt, **dormant)
print(api.cosine_similarity_distance("cnn/seed0/checkpoint-4.pt", "cnn/seed1/checkpoint-4.pt"))
print(*(api.weighted_euclidean_distance(one, other, loader, kind=kind) for kind in ("true", "empirical")))
print(api.functional_distance(one, other, images))
"""


def give(folder: Path) -> None:
    """Make a folder of inputs: those of the tests, and foreign, hand-written and damaged ones."""
    shutil.copytree(Path(__file__).parents[1] / "tests/data", folder)
    draw, ids = np.random.default_rng(0), np.arange(0, 1437, 2)
    np.save(folder / "order.npy", draw.permutation(10))
    np.savez(folder / "order.npz", conv1=draw.permutation(4))
    for name in ("csl", "lt"):
        np.save(folder / f"{name}_values.npy", draw.random(50))
    images, split = draw.integers(0, 256, (60, 8, 8), dtype=np.uint8), np.repeat(["train", "test"], (40, 20))
    np.savez(folder / "images.npz", images=images, labels=np.arange(60) % 10, split=split)
    for name, values in {"memo": draw.random(719), "extra": draw.random(719), "flags": ids % 7 // 6}.items():
        lines = [f"{i},{value:.6g}\n" for i, value in zip(ids, values, strict=True)]
        (folder / f"{name}.csv").write_text(f"sample_id,{name}\n{''.join(lines)}")
    shapes = {"0.weight": (6, 1, 3, 3), "0.bias": (6,), "3.weight": (10, 384), "3.bias": (10,)}
    state = {name: torch.from_numpy(draw.random(shape) - 0.5).float() for name, shape in shapes.items()}
    torch.save(state, folder / "own.pt")
    torch.save({**state, "3.bias": torch.full((10,), torch.nan)}, folder / "nan.pt")
    save_file(state, folder / "own.safetensors")
    study: dict[str, Any] = {"dataset": "MNIST", "k1": 0, "k2": 1, "distance": 2.5, "alphas": [0.0, 0.5, 1.0]}
    for part, losses in {"train": [0.5, 1.25, 0.625], "test": [0.75, 1.5, 0.875]}.items():
        study |= {f"losses_{part}": losses, f"accuracy_lst_{part}": [90.0, 60.5, 88.0]}
    texts = {
        "own.py": OWN,
        "functions.py": FUNCTIONS,
        "broken.pt": "PK\x03\x04 cut off",
        "names.json": json.dumps({str(i): f"digit {i}" for i in range(10)}),
        "study/MNIST_batch_128_k1_0_k2_1.json": json.dumps(study),
        "train.yaml": "model: mlp\ndataset: digits\nepochs: 1\nmax_samples: 50\nseeds: [1, 2]\noutput_dir: t/yaml\n",
        "l2.yaml": "checkpoint1: cnn/seed0/checkpoint-0.pt\ncheckpoint2: cnn/seed0/checkpoint-4.pt\nshow-top-k: 2\n",
        "wrong.yaml": "sort_by: normalised_l2\n",
    }
    (folder / "study").mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text)
