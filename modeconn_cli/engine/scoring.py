"""What every per-sample score begins with: the checkpoints of a run by epoch, their network, and the samples."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modeconn_cli.engine import checkpoints, datasets, files, jobs, models, names, records, weights
from modeconn_cli.engine.csl.naming import epochs_between
from modeconn_cli.engine.datasets import Data, Samples
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.models.recognise import recognised
from modeconn_cli.engine.runtime import Runtime
from modeconn_cli.engine.settings.csl import ScoringSettings


@dataclass(frozen=True)
class Subject:
    """A network that takes the weights of one checkpoint after the other, and the samples that are scored."""

    model: nn.Module
    arch: models.Architecture
    data: Data
    samples: Samples
    about: Mapping[str, Any]  # of the first checkpoint

    def load(self, path: Path, settings: ScoringSettings) -> None:
        """Take the weights of a checkpoint. Raises InputError where they do not fit."""
        found = checkpoints.read(path, state_key=settings.state_key, allow_nonfinite=settings.allow_nonfinite)
        if found.is_curve:
            raise InputError(f"'{path}' is a curve, not a network", "mcx curve extract gives its networks")
        weights.load_into(self.model, found.state, str(path))


def series(settings: ScoringSettings, run_idx: int | None = None) -> dict[int, Path]:
    """epoch -> checkpoint, ascending, of the range that the settings name."""
    if settings.checkpoint_dir is None:
        raise SettingsError("no checkpoints", "pass --checkpoint-dir DIR")
    folder = settings.checkpoint_dir
    if not folder.is_dir():
        raise InputError(f"'{folder}' is not a folder", "pass the folder that holds checkpoint-<epoch>.pt")
    runs = {run for path in folder.iterdir() if (run := names.run_of(path)) is not None}
    if len(runs) > 1 and run_idx is None:
        raise SettingsError(
            f"'{folder}' holds checkpoints of {len(runs)} runs: {', '.join(map(str, sorted(runs)[:10]))}",
            "choose one with --run-idx",
        )
    found: dict[int, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        epoch = names.epoch_of(path)
        if epoch is not None and names.run_of(path) in (
            None,
            run_idx if run_idx is not None else names.run_of(path),
        ):
            found.setdefault(epoch, []).append(path)
    twice = next((paths for paths in found.values() if len(paths) > 1), None)
    if twice is not None:
        raise SettingsError(
            f"'{folder}' holds several checkpoints of one epoch: {', '.join(path.name for path in twice[:3])}",
            "choose the run with --run-idx, or move them apart",
        )
    if not found:
        raise InputError(f"'{folder}' holds no checkpoints", _nearby(folder))
    kept, _ = epochs_between(
        found, settings.start_epoch, settings.end_epoch, settings.epoch_step, "checkpoints"
    )
    return {epoch: found[epoch][0] for epoch in kept}


def _nearby(folder: Path) -> str:
    """Where checkpoints are below a folder that has none."""
    below = sorted({path.parent for path in folder.glob("*/*") if names.epoch_of(path) is not None})
    if below:
        return f"did you mean --checkpoint-dir {below[0]}?"
    return "names such as checkpoint-<e>.pt and index-<i>_epoch-<e>.pt are known"


def open_subject(settings: ScoringSettings, path: Path, runtime: Runtime) -> Subject:
    """The network of a checkpoint with the data it was trained on, or what the settings name."""
    first = checkpoints.read(path, state_key=settings.state_key, allow_nonfinite=settings.allow_nonfinite)
    if first.is_curve:
        raise InputError(f"'{path}' is a curve, not a network", "mcx curve extract gives its networks")
    first = recognised(first, settings, runtime)
    completed = datasets.merge_settings(settings, first.about)
    data = datasets.load(completed, runtime.device)
    arch = models.architecture(settings, first, num_classes=data.num_classes, input_shape=data.input_shape)
    if data.input_shape != arch.input_shape or data.num_classes > arch.num_classes:
        raise InputError(
            f"data set '{data.name}' has images {data.input_shape} in {data.num_classes} classes, the network takes "
            f"{arch.input_shape} in {arch.num_classes}"
        )
    samples = data.split(settings.split)
    if len(samples) == 0:
        raise SettingsError(
            f"data set '{data.name}' has no samples in split '{settings.split}'", "choose --split"
        )
    model = models.build(arch).to(runtime.device)
    weights.load_into(model, first.state, str(path))
    return Subject(model.eval(), arch, data, samples, first.about)


class EpochLog:
    """The epochs of a job that are finished, a line each, with the checkpoint that each was made from."""

    def __init__(self, job: jobs.Job) -> None:
        self._path = job.private / "scored.jsonl"
        if not job.resumed:
            self._path.unlink(missing_ok=True)
        self.rows: dict[int, dict[str, Any]] = {
            row["epoch"]: row for row in map(json.loads, files.read_lines(self._path))
        }

    def kept(self, epoch: int, checkpoint: Path, made: Iterable[Path]) -> bool:
        """Whether an epoch and its files are finished. Raises InputError where its checkpoint is another one now."""
        row = self.rows.get(epoch)
        if row is None or row["sizes"] != _sizes(made):
            return False
        stat = checkpoint.stat()
        touched = (stat.st_size, stat.st_mtime_ns) != (row["size"], row["mtime_ns"])
        if touched and records.sha256(checkpoint) != row["sha256"]:
            raise InputError(
                f"'{checkpoint}' is not the checkpoint that epoch {epoch} was scored with",
                "use another --output-dir, or --no-resume --overwrite to start anew",
            )
        return True

    @staticmethod
    def stamp(checkpoint: Path) -> dict[str, Any]:
        """What a line says of a checkpoint; taken before it is read."""
        stat = checkpoint.stat()
        return {
            "checkpoint": checkpoint.name,
            "sha256": records.sha256(checkpoint),
            "size": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
        }

    def add(self, epoch: int, stamp: Mapping[str, Any], made: Iterable[Path], **facts: Any) -> None:
        """After the files of an epoch are there."""
        self.rows[epoch] = row = {"epoch": epoch, **facts, **stamp, "sizes": _sizes(made)}
        files.append_line(self._path, json.dumps(row))


def _sizes(made: Iterable[Path]) -> list[int]:
    """Bytes of files, -1 for those that are not there."""
    return [path.stat().st_size if path.exists() else -1 for path in made]


def first_batch(samples: Samples, size: int) -> torch.Tensor:
    """The images of the first samples, as the network sees them."""
    return next(iter(samples.batches(max(size, 2)))).images
