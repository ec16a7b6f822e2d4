"""Distances: two sharded networks of 1 GB, two VGG16 against reading them, fifty networks at once, and Fisher."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from bench import counts, networks
from bench.pairs import Pair
from bench.per_sample import SHAPE, batch
from bench.per_sample import network as resnet
from modeconn_cli.engine.networks import checkpoints, distances, sums, weights
from modeconn_cli.engine.results import files
from modeconn_cli.engine.samples.per_sample.fisher import DiagonalFisher

SHARDS, TENSORS, SIDE = 4, 16, 2048  # 1 GB of float32
MANY, SAMPLES, CLASSES = 50, 32, 10


def sharded(folder: Path) -> Pair:
    """From opening the indices to the distance of every tensor; the limit is 2 × 1.07 GB at 6 GB/s."""
    generator = torch.Generator().manual_seed(0)
    indices = []
    for side in ("a", "b"):
        names: dict[str, str] = {}
        (folder / side).mkdir()
        for shard in range(SHARDS):
            name = f"model-{shard}.safetensors"
            part = {f"{shard}.{k}": torch.randn(SIDE, SIDE, generator=generator) for k in range(TENSORS)}
            save_file(part, folder / side / name)
            names |= dict.fromkeys(part, name)
        indices.append(folder / side / "model.safetensors.index.json")
        indices[-1].write_text(json.dumps({"weight_map": names}))

    def ours() -> distances.Distance:
        first, second = (checkpoints.read(path, mapped=True) for path in indices)
        return distances.l2(first.state, second.state)

    size = 2 * 4 * SHARDS * TENSORS * SIDE**2
    private = resident("RssAnon")
    exact = _exact(indices)
    found = ours()
    fact = (
        f"{size / 1e9:.2f} GB; relative error {abs(found.total_l2 / exact - 1):.1e}; "
        f"{(resident('RssAnon') - private) / 1e6:.0f} MB of memory beside the pages of the files"
    )
    return Pair(ours, None, (fact,))


def _exact(indices: list[Path]) -> float:
    first, second = (checkpoints.read(path, mapped=True).state for path in indices)
    total = 0.0
    for name, tensor in first.items():
        for row in range(0, len(tensor), 64):
            a, b = (t[row : row + 64].double() for t in (tensor, second[name]))
            total += float((a - b).square().sum())
    return math.sqrt(total)


def resident(kind: str) -> int:
    """Bytes of this process's memory, by the kernel's word."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(kind))


def vgg(folder: Path) -> Pair:
    """Two files as training writes them, against reading both with all checks."""
    paths = [folder / f"checkpoint-{k}.pt" for k in range(2)]
    for seed, path in enumerate(paths):
        files.write_tensors(path, {"epoch": 1, "model_state": networks.network(seed).state_dict()})

    def ours() -> distances.Distance:
        first, second = (checkpoints.read(path, mapped=True) for path in paths)
        return distances.l2(first.parameters(), second.parameters())

    return Pair(ours, lambda: [checkpoints.read(path) for path in paths])


def many(folder: Path) -> Pair:
    """All pairs of fifty networks, against subtracting each pair."""
    paths = [folder / f"checkpoint-{k}.pt" for k in range(MANY)]
    generator = torch.Generator().manual_seed(0)
    for path in paths:
        files.write_tensors(path, {"model_state": {"w": torch.randn(1 << 20, generator=generator)}})
    pairs = list(itertools.combinations(range(MANY), 2))

    def ours() -> list[dict[str, sums.Squares]]:
        return sums.among([checkpoints.read(path, mapped=True).state for path in paths], pairs)

    def reference() -> list[distances.Distance]:
        states = [checkpoints.read(path).state for path in paths]
        return [distances.l2(states[i], states[j]) for i, j in pairs]

    with counts.opens(paths[0]) as opened:
        found = ours()
    exact = reference()
    worst = max(
        abs(one["w"].delta ** 0.5 / other.total_l2 - 1) for one, other in zip(found, exact, strict=True)
    )
    return Pair(
        ours, reference, (f"{len(pairs)} pairs; each file opened {len(opened)} x; worst error {worst:.0e}",)
    )


def fisher(_folder: Path) -> Pair:
    """The diagonal Fisher information of ResNet-18, against a forward and backward pass over its samples per class."""
    model, (images, labels) = resnet(), batch(SAMPLES)
    ids = torch.arange(SAMPLES)
    found = DiagonalFisher(model, SHAPE, "true")
    found.add(images[:4], labels[:4], ids[:4])

    def reference() -> None:
        for _ in range(CLASSES):
            model.zero_grad()
            F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]

    fact = f"{weights.count(found.information()):,} parameters, {SAMPLES} samples"
    return Pair(lambda: found.add(images, labels, ids), reference, (fact,))
