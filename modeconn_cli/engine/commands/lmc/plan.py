"""What an experiment takes: epochs to train, positions to evaluate, and how much of it is there already."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from modeconn_cli.engine import names
from modeconn_cli.engine.commands.lmc import pairs
from modeconn_cli.engine.commands.lmc.line import alphas
from modeconn_cli.engine.datasets import Data
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.paths import repair
from modeconn_cli.engine.settings.lmc import LmcRunSettings
from modeconn_cli.engine.settings.shared import Align, BatchNorm
from modeconn_cli.engine.training import Recipe, batch_norms, rates, space
from modeconn_cli.engine.training.folder import stopped_early


@dataclass(frozen=True)
class Plan:
    """The branches of one seed, and the epochs of the main one. A branch goes by its k1, the main one by None.

    The main branch and what is said of all seeds lie in `root`, the branches and their lines in `place`. Lines with one
    end aligned (`align`) have folders of their own, of the same form: what is said of all seeds in `lines_root`, the
    lines in `lines_place`.
    """

    settings: LmcRunSettings
    root: Path
    place: Path
    k1: tuple[int, ...]
    k2: tuple[int, ...]
    max_epochs: int
    schedule_epochs: int
    branch_seed: int
    alphas: tuple[float, ...]
    align: Align = "none"

    @property
    def lines_root(self) -> Path:
        return self.root if self.align == "none" else self.root / f"aligned_by_{self.align}"

    @property
    def lines_place(self) -> Path:
        return self.lines_root / self.place.relative_to(self.root)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return [(k1, k2) for k1 in self.k1 for k2 in self.k2]

    @property
    def branches(self) -> dict[int | None, int]:
        """k1 -> the epoch the branch is trained until; the main one comes first."""
        return {None: self.max_epochs, **{k1: k1 + max(self.k2) for k1 in self.k1}}

    def needed(self, k1: int | None) -> list[int]:
        """The epochs of a branch that are compared or, of the main one, branched from."""
        if k1 is None:
            return sorted({epoch for k1, k2 in self.pairs for epoch in (k1, k1 + k2)})
        return [k1 + k2 for k2 in self.k2]

    def folder(self, k1: int | None) -> Path:
        """Where a branch has its checkpoints."""
        if k1 is None:
            return self.root / names.CHECKPOINTS / "main"
        return self.place / names.CHECKPOINTS / f"k1_{k1}"

    def checkpoint(self, k1: int | None, epoch: int) -> Path:
        return self.folder(k1) / names.checkpoint(epoch)

    def file(self, dataset: str, k1: int, k2: int) -> Path:
        """Where a pair has its numbers."""
        return self.lines_place / "processed" / pairs.name(dataset, self.settings.batch_size, k1, k2)

    def table(self, dataset: str) -> Path:
        """Where the pairs of this seed are listed."""
        return self.lines_place / "dataframes" / f"{dataset}.csv"

    def epochs_left(self, *, main: bool = True) -> int:
        """Epochs that no checkpoint is there for, with those of the main branch or without."""
        left = 0
        for k1, until in self.branches.items():
            if (main or k1 is not None) and not self.ended(k1):
                there = [names.epoch_of(path) for path in self.folder(k1).glob("*.pt")]
                reached = max((epoch for epoch in there if epoch is not None), default=k1 or 0)
                left += max(until - reached, 0)
        return left

    def ended(self, k1: int | None) -> bool:
        """Whether early stopping has ended a branch."""
        settings = self.settings
        if settings.patience is None:
            return False
        return stopped_early(self.folder(k1), settings.patience, settings.min_delta)

    def positions_left(self, dataset: str) -> int:
        """Positions on the lines that the pairs' files do not hold; lines that early stopping left out have none."""
        left, ended = 0, {branch for branch in self.branches if self.ended(branch)}
        for k1, k2 in self.pairs:
            if any(not self.checkpoint(branch, k1 + k2).exists() for branch in ended & {None, k1}):
                continue
            found = pairs.known(self.file(dataset, k1, k2))
            left += len(set(self.alphas).difference(() if found is None else found.line.alphas.tolist()))
        return left


def plans(settings: LmcRunSettings) -> list[Plan]:
    """The experiment's size, by seed of the branches; of several each has a folder of its own.

    Raises SettingsError for epochs that do not exist and for the main branch's seed.
    """
    k1, k2 = tuple(sorted(settings.k1)), tuple(sorted(settings.k2))
    if not k1 or not k2:
        raise SettingsError("no epochs to compare", "pass --k1 0,1 --k2 1,4")
    max_epochs = settings.max_epochs or max(k1) + max(k2)
    beyond = f"beyond the main branch of {max_epochs} epochs"
    if max(k1) > max_epochs:
        raise SettingsError(f"--k1 {max(k1)} lies {beyond}", "pass --max-epochs")
    if max(k1) + max(k2) > max_epochs:
        raise SettingsError(f"k1 + k2 = {max(k1)} + {max(k2)} lies {beyond}", "pass --max-epochs")
    seeds = tuple(sorted(settings.branch_seed)) or (settings.seed + 1,)
    main_seed = settings.seed if settings.data_seed is None else settings.data_seed
    if same := {settings.seed, main_seed} & set(seeds):
        raise SettingsError(
            f"the branch seed {min(same)} is the main branch's: the branches would reproduce it",
            "pass another --branch-seed",
        )
    root = settings.output_dir
    return [
        Plan(
            settings=settings,
            root=root,
            place=root if len(seeds) == 1 else root / f"branch{seed}",
            k1=k1,
            k2=k2,
            max_epochs=max_epochs,
            schedule_epochs=settings.schedule_epochs or max_epochs,
            branch_seed=seed,
            alphas=tuple(alphas(settings.num_alphas)),
        )
        for seed in seeds
    ]


def aligned(every: list[Plan]) -> list[Plan]:
    """The same branches with one end of every line aligned, where the settings ask for that."""
    return [replace(each, align=each.settings.align) for each in every if each.settings.align != "none"]


def _passes(bn: BatchNorm, model: nn.Module, data: Data) -> tuple[float, str]:
    """How often a position's statistics go over the training images, and that in words.

    Raises InputError for a network whose layers cannot be repaired.
    """
    count = f"{len(data.fit):,}"
    if bn == "recompute" and batch_norms(model):
        return 1, f", after a pass over {count} for batch norm"
    if bn == "repair":
        passes = repair.passes(repair.places(model, data.input_shape))
        return passes, f", after about {passes:g} passes over {count} to repair the layers"
    return 0, ""


def lines(every: list[Plan], model: nn.Module, data: Data, recipe: Recipe, runtime: Runtime) -> list[str]:
    """The plan in words, with an estimate of the time that what is left takes here."""
    todo, count = every[0], len(every)
    in_all = todo.max_epochs + count * len(todo.k1) * max(todo.k2)
    epochs = sum(each.epochs_left(main=k == 0) for k, each in enumerate(every))
    positions = sum(each.positions_left(data.name) for each in (*every, *aligned(every)))
    align = todo.settings.align
    images = len(data.fit) + len(data.held_out)
    passes, what_for = _passes(todo.settings.bn, model, data)
    statistics = passes * len(data.fit)
    out = [
        f"train on {data.name}: a main branch of {todo.max_epochs} epochs and {count * len(todo.k1)} branches of "
        f"{max(todo.k2)}, {in_all} epochs of {len(data.fit):,} images on {runtime.device}",
        f"evaluate {count * len(todo.pairs)} lines"
        + ("" if align == "none" else f", as they are and aligned by {align},")
        + f" at {len(todo.alphas)} positions on {images:,} images{what_for}",
    ]
    done = f"still to do: {epochs} epochs and {positions} positions"
    if epochs or positions:
        rate = rates.measure(model, data.fit, recipe)
        seconds = epochs * len(data.fit) * rate.train + positions * (images + statistics) * rate.evaluate
        done += f", about {rates.duration(seconds)} on this machine"
    kept = todo.max_epochs + 1 + count * len(todo.k1) * max(todo.k2)
    files = space.said(kept, space.checkpoint_bytes(model, todo.settings), todo.root, runtime)
    return [*out, done, f"results in {todo.root}", files]
