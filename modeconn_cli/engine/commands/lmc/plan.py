"""What an experiment takes: epochs to train, positions to evaluate, and how much of it is there already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from modeconn_cli.engine import names
from modeconn_cli.engine.commands.lmc import pairs
from modeconn_cli.engine.datasets import Data
from modeconn_cli.engine.errors import McxError, SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.settings.lmc import LmcRunSettings
from modeconn_cli.engine.training import Recipe, batch_norms, rates
from modeconn_cli.engine.training.folder import stopped_early


@dataclass(frozen=True)
class Plan:
    """The branches, and the epochs of the main one."""

    root: Path
    max_epochs: int
    k1: tuple[int, ...]
    k2: tuple[int, ...]
    schedule_epochs: int
    branch_seed: int
    alphas: tuple[float, ...]
    patience: int | None
    min_delta: float

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return [(k1, k2) for k1 in self.k1 for k2 in self.k2]

    @property
    def branches(self) -> dict[int | None, int]:
        """k1 (None: the main branch) -> the epoch it is trained until."""
        return {None: self.max_epochs, **{k1: k1 + max(self.k2) for k1 in self.k1}}

    @property
    def epochs(self) -> int:
        return sum(until - (k1 or 0) for k1, until in self.branches.items())

    def folder(self, k1: int | None) -> Path:
        """Where a branch has its checkpoints."""
        return self.root / names.CHECKPOINTS / ("main" if k1 is None else f"k1_{k1}")

    def checkpoint(self, k1: int | None, epoch: int) -> Path:
        return self.folder(k1) / names.checkpoint(epoch)

    def epochs_left(self) -> int:
        """Epochs that no checkpoint is there for."""
        left = 0
        for k1, until in self.branches.items():
            if self.ended(k1):
                continue
            there = [
                epoch for path in self.folder(k1).glob("*.pt") if (epoch := names.epoch_of(path)) is not None
            ]
            left += max(until - max(there, default=k1 or 0), 0)
        return left

    def ended(self, k1: int | None) -> bool:
        """Whether early stopping has ended a branch."""
        if self.patience is None:
            return False
        return stopped_early(self.folder(k1), self.patience, self.min_delta)

    def positions_left(self, files: Sequence[Path]) -> int:
        """Positions on the lines that the pairs' files do not hold; lines that early stopping left out have none."""
        left = 0
        for (k1, k2), path in zip(self.pairs, files, strict=True):
            if any(
                self.ended(branch) and not self.checkpoint(branch, k1 + k2).exists() for branch in (None, k1)
            ):
                continue
            known: set[float] = set()
            if path.exists():
                try:
                    known = set(pairs.read(path).line.alphas)
                except McxError:
                    known = set()  # reported where it is used
            left += len(set(self.alphas) - known)
        return left


def plan(settings: LmcRunSettings, alphas: Sequence[float]) -> Plan:
    """The experiment's size. Raises SettingsError for epochs that do not exist and for equal seeds."""
    k1, k2 = tuple(sorted(set(settings.k1))), tuple(sorted(set(settings.k2)))
    if not k1 or not k2:
        raise SettingsError("no epochs to compare", "pass --k1 0,1 --k2 1,4")
    max_epochs = settings.max_epochs or max(k1) + max(k2)
    if max(k1) > max_epochs:
        raise SettingsError(
            f"--k1 {max(k1)} lies beyond the main branch of {max_epochs} epochs", "pass --max-epochs"
        )
    if max(k1) + max(k2) > max_epochs:
        raise SettingsError(
            f"k1 + k2 = {max(k1)} + {max(k2)} lies beyond the main branch of {max_epochs} epochs",
            "pass --max-epochs",
        )
    branch_seed = settings.seed + 1 if settings.branch_seed is None else settings.branch_seed
    main_seed = settings.seed if settings.data_seed is None else settings.data_seed
    if branch_seed in (settings.seed, main_seed):
        raise SettingsError(
            f"the branch seed {branch_seed} is the main branch's: the branches would reproduce it",
            "pass another --branch-seed",
        )
    return Plan(
        settings.output_dir, max_epochs, k1, k2, settings.schedule_epochs or max_epochs, branch_seed, tuple(alphas),
        settings.patience, settings.min_delta,
    )  # fmt: skip


def lines(
    todo: Plan,
    files: Sequence[Path],
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    how: str,
    runtime: Runtime,
) -> list[str]:
    """The plan in words, with an estimate of the time that what is left takes here. `how`: the batch norm policy."""
    epochs, positions = todo.epochs_left(), todo.positions_left(files)
    images = len(data.fit) + len(data.held_out)
    statistics = len(data.fit) if how == "recompute" and batch_norms(model) else 0
    out = [
        f"train on {data.name}: a main branch of {todo.max_epochs} epochs and {len(todo.k1)} branches of "
        f"{max(todo.k2)}, {todo.epochs} epochs of {len(data.fit):,} images on {runtime.device}",
        f"evaluate {len(files)} lines at {len(todo.alphas)} positions on {images:,} images"
        + (f", after a pass over {statistics:,} for batch norm" if statistics else ""),
    ]
    done = f"still to do: {epochs} epochs and {positions} positions"
    if epochs or positions:
        rate = rates.measure(model, data.fit, recipe)
        seconds = epochs * len(data.fit) * rate.train + positions * (images + statistics) * rate.evaluate
        done += f", about {rates.duration(seconds)} on this machine"
    return [*out, done, f"results in {todo.root}"]
