"""Five positions on a straight line against the bare forwards of the same batches, with and without batch norm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from bench import counts, networks
from bench.pairs import Pair
from modeconn_cli.engine.datasets import Data, Remembered, Samples
from modeconn_cli.engine.datasets.transforms import named
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints, models, subject
from modeconn_cli.engine.paths.evaluate import evaluate_path
from modeconn_cli.engine.paths.opened import line_between
from modeconn_cli.engine.paths.statistics import StatisticsPolicy
from modeconn_cli.engine.results import files
from modeconn_cli.engine.settings.path import PathSettings
from modeconn_cli.engine.training import batch_norms

FIT, HELD_OUT, BATCH_SIZE, WIDTH, POSITIONS = 512, 256, 128, 16, 5


def prepare(folder: Path, norm: str) -> Pair:
    """uint8 images, as data sets keep them; the reference gets them normalised, its network in the same modes."""
    arch = models.Architecture("cnn", networks.CLASSES, networks.SHAPE, {"width": WIDTH, "norm": norm})
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = models.build(arch)
        about = arch.about().entry()
        files.write_tensors(folder / f"{seed}.pt", {"model_state": network.state_dict(), "mcx": about})
    how, runtime = PathSettings(batch_size=BATCH_SIZE), Runtime()
    ends = [checkpoints.read(folder / f"{seed}.pt") for seed in (0, 1)]
    found = subject.open_networks(ends, how, runtime, "no data")
    fit, held_out = _samples(FIT), _samples(HELD_OUT)
    data = Data("made", networks.CLASSES, networks.SHAPE, fit, held_out, held_out, True, Remembered())
    opened = line_between(replace(found, loaded=data), StatisticsPolicy("recompute", BATCH_SIZE, how.seed))
    ts = [k / (POSITIONS - 1) for k in range(POSITIONS)]

    def ours() -> None:
        evaluate_path(opened, ts, runtime, None)

    model = models.build(arch).eval()
    passes = {"fit": _ready(fit), "held out": _ready(held_out)}

    def reference() -> None:
        with torch.no_grad():
            for _ in ts:
                for layer in batch_norms(model):
                    layer.train()
                for images in passes["fit"] if norm == "batch" else ():
                    model(images)
                model.eval()
                for part in passes.values():
                    for images in part:
                        model(images)

    with counts.passes(opened.subject.model) as passed:
        ours()
    fact = f"{passed['forward']} forwards for {POSITIONS} positions, {FIT:,} + {HELD_OUT:,} images"
    return Pair(ours, reference, (fact,))


def _samples(count: int) -> Samples:
    torch.manual_seed(count)
    pixels = torch.randint(0, 256, (count, *networks.SHAPE), dtype=torch.uint8)
    labels = torch.randint(0, networks.CLASSES, (count,))
    return Samples(pixels, labels, torch.arange(count), named("half", networks.SHAPE[0]))


def _ready(samples: Samples) -> tuple[Tensor, ...]:
    """The batches as the network sees them."""
    assert isinstance(samples.images, Tensor)
    return torch.split((samples.images.float() / 255 - 0.5) / 0.5, BATCH_SIZE)
