"""Two processes of one thread against one process of one thread, and the merge of what many have scored.

The seconds are those of the scoring itself, from its own rate: start-up is not among them.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.pairs import Pair, Seconds
from modeconn_cli.engine.commands import dormant as dormancy
from modeconn_cli.engine.commands.csl import score
from modeconn_cli.engine.machine import launch, runtime
from modeconn_cli.engine.networks import models
from modeconn_cli.engine.results import files
from modeconn_cli.engine.samples.sweep import joined, read_part
from modeconn_cli.engine.settings.csl import CslScoreSettings
from modeconn_cli.engine.settings.dormant import DormantSettings

CLASSES, SHAPE = 10, (3, 32, 32)
MERGED, COLUMNS = 1_300_000, ("loss", "norms")


def dormant(folder: Path) -> Pair:
    count = 6144  # a forward pass is short beside what begins and ends a run
    settings = DormantSettings(**_settings(folder, count))
    two, one = (_scored(dormancy.run, settings, folder, count, processes) for processes in (2, 1))
    return Pair(two, one, (f"{count:,} samples",))


def csl(folder: Path) -> Pair:
    count = 2048
    settings = CslScoreSettings(**_settings(folder, count))
    two, one = (_scored(score.run, settings, folder, count, processes) for processes in (2, 1))
    return Pair(two, one, (f"{count:,} samples",))


def merge(folder: Path) -> Pair:
    """The parts of 1.3 million samples, two columns each, from the disk to one array per column."""
    generator = np.random.default_rng(0)
    for k, begin in enumerate(range(0, MERGED, 1024)):
        count = min(1024, MERGED - begin)
        files.write_arrays(folder / f"{k}.npz", {name: generator.random(count) for name in COLUMNS})
    paths = [folder / f"{k}.npz" for k in range(-(-MERGED // 1024))]

    def merged() -> None:
        parts = [part for path in paths if (part := read_part(path, COLUMNS)) is not None]
        whole = joined(parts, COLUMNS)
        for name, values in whole.items():
            files.write_array(folder / f"{name}.npy", values.astype(np.float32))

    return Pair(merged, None, (f"{MERGED:,} samples from {len(paths):,} parts",))


def _settings(folder: Path, count: int) -> dict[str, Any]:
    """A ResNet-20 and samples of CIFAR's shape, made up."""
    arch = models.Architecture("preresnet20", CLASSES, SHAPE, {})
    checkpoint = folder / "checkpoint-1.pt"
    about = {
        **arch.describe(), "dataset": "synthetic", "data_arg": [f"train={count}", "test=10"], "transform": "half",
    }  # fmt: skip
    files.write_tensors(
        checkpoint, {"epoch": 1, "model_state": models.build(arch).state_dict(), "mcx": about}
    )
    return {"checkpoint": checkpoint, "batch_size": 64, "threads": 1, "device": "cpu", "dist": "auto"}


def _scored(
    command: Callable[[Any, runtime.Runtime], Any], settings: Any, folder: Path, count: int, processes: int
) -> Callable[[], Seconds]:
    """A run in processes of its own: this one never computes a gradient, and can be forked again."""
    numbers = itertools.count()

    def run() -> Seconds:
        out = folder / f"{processes}-{next(numbers)}"
        spent = folder / "seconds"

        def body() -> int:
            torch.set_num_threads(1)
            machine = runtime.start(settings, listener=runtime.Silent(), command="bench")
            result = command(replace(settings, output_dir=out), machine)
            if machine.group.leader:
                spent.write_text(str(count / result.samples_per_second))
            machine.group.leave()
            return 0

        ended = launch.launch(processes, body)
        assert ended.code == 0, f"the processes ended with {ended}"
        shutil.rmtree(out)
        return Seconds(float(spent.read_text()))

    return run
