"""The branches of an experiment, trained into their folders."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from modeconn_cli.engine import names
from modeconn_cli.engine.commands.lmc.plan import Plan
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import models
from modeconn_cli.engine.networks.subject import Subject, read_own
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.training import NetworkProblem, Recipe, evaluate, recipe_of
from modeconn_cli.engine.training.folder import Keeping, train
from modeconn_cli.engine.training.tasks import Curriculum


class Branches:
    """The main branch, which keeps a checkpoint of every epoch, and one branch per k1 that goes on from there."""

    def __init__(self, plan: Plan, subject: Subject, runtime: Runtime) -> None:
        self._settings, self._plan, self._subject, self._runtime = plan.settings, plan, subject, runtime

    def network(self) -> nn.Module:
        """The network as the main branch begins."""
        return models.build(self._subject.arch, self._settings.seed).to(self._runtime.device)

    def recipe(self, k1: int | None) -> Recipe:
        """How a branch is trained; `k1` None is the main one."""
        settings = self._settings if k1 is None else replace(self._settings, data_seed=None)
        return recipe_of(
            settings,
            epochs=self._plan.branches[k1],
            batch_size=settings.batch_size,
            seed=settings.seed if k1 is None else self._plan.branch_seed,
            horizon=self._plan.schedule_epochs,
        )

    def train(self, job: jobs.Job, number: int = 0, count: int = 1) -> tuple[int, list[str]]:
        """Train the epochs that are missing; their number, and the checkpoints that early stopping left out.

        These are the branches of seed `number`, from 0, of `count` seeds: their steps count among those of all. Raises
        InputError where other checkpoints are missing, or where the schedule spans other epochs than before.
        """
        self._check_schedule()
        self._check_seed()
        job = replace(job, resumed=True)  # whatever a branch's folder holds is the job's own
        trained, left_out = 0, list[str]()
        epochs = {k1: until - (k1 or 0) for k1, until in self._plan.branches.items()}
        own = sum(epochs.values()) - epochs[None]  # of the branches of one seed
        whole = epochs[None] + count * own
        before = 0  # epochs of the main branch and of all branches so far
        for k1, until in self._plan.branches.items():
            if k1 is None or self._plan.checkpoint(None, k1).exists():
                which = {"branch": "main" if k1 is None else f"k1={k1}"}
                if k1 is not None and len(self._settings.branch_seed) > 1:
                    which["seed"] = str(self._plan.branch_seed)
                # A branch counts its epochs from 0, though it begins at k1.
                part = self._runtime.part(before - (k1 or 0), until, whole, **which)
                trained += self._train_branch(k1, job, part)
                left_out += self._left_out(k1)
            before += epochs[k1] + (number * own if k1 is None else 0)
        return trained, left_out

    def steps(self, count: int) -> int:
        """The training steps of the main branch and of the branches of so many seeds."""
        epochs = [until - (k1 or 0) for k1, until in self._plan.branches.items()]
        per_epoch = Curriculum(self._subject.data.fit, None).steps(0, self._settings.batch_size)
        return per_epoch * (epochs[0] + count * sum(epochs[1:]))

    def _check_schedule(self) -> None:
        """Raises InputError where the learning rates would not be those of the epochs that are there."""
        first = self._plan.checkpoint(None, 0)
        if self._settings.schedule == "constant" or not first.exists():
            return
        spanned = read_own(first).about.schedule_epochs
        if spanned != self._plan.schedule_epochs:
            raise InputError(
                f"the {self._settings.schedule} schedule of this experiment spans {spanned} epochs, "
                f"now {self._plan.schedule_epochs}",
                f"pass --schedule-epochs {spanned} to go on with it, or use another --output-dir",
            )

    def _check_seed(self) -> None:
        """Raises InputError where the branches that are there were trained with another seed."""
        for k1 in self._plan.k1:
            there = min(self._plan.folder(k1).glob("checkpoint-*.pt"), default=None)
            seed = None if there is None else read_own(there).about.seed
            if seed not in (None, self._plan.branch_seed):
                raise InputError(
                    f"the branches in '{self._plan.place}' have the seed {seed}, now {self._plan.branch_seed}",
                    "several seeds have folders of their own: --branch-seed 1,2; or use another --output-dir",
                )

    def _left_out(self, k1: int | None) -> list[str]:
        """The checkpoints that early stopping left out. Raises InputError where others are missing."""
        folder = self._plan.folder(k1)
        absent = [epoch for epoch in self._plan.needed(k1) if not self._plan.checkpoint(k1, epoch).exists()]
        last = max(names.epoch_of(path) or 0 for path in folder.glob("checkpoint-*.pt"))
        lost = [names.checkpoint(epoch) for epoch in absent if epoch < last]
        if lost:
            raise InputError(
                f"'{folder}' lacks {', '.join(lost)}",
                "put them back, or delete the checkpoints of later epochs to train them again",
            )
        return [str(self._plan.checkpoint(k1, epoch)) for epoch in absent]

    def _train_branch(self, k1: int | None, job: jobs.Job, runtime: Runtime) -> int:
        """Train a branch; the number of epochs that this took."""
        settings, folder = self._settings, self._plan.folder(k1)
        model, recipe = self.network(), self.recipe(k1)
        about = self._subject.trained(
            settings, seed=recipe.seed, wd=settings.wd, schedule_epochs=self._plan.schedule_epochs
        )
        start = None if k1 is None else self._plan.checkpoint(None, k1)
        keeping = Keeping(folder, 1, about, settings.patience, settings.min_delta, start)

        def watched(_: int) -> dict[str, float]:
            """The validation loss, where early stopping watches it."""
            if settings.patience is None:
                return {}
            score = evaluate(model, self._subject.data.val, settings.batch_size)
            return {"val_loss": score.loss, "val_accuracy": score.accuracy}

        before = len(list(folder.glob("checkpoint-*.pt")))
        files.make_folder(folder)
        problem = NetworkProblem(model, settings.wd)
        train(problem, self._subject.data.fit, recipe, runtime, job, keeping, watched)
        begun = k1 is None and before == 0  # with the checkpoint of epoch 0, which takes no training
        return len(list(folder.glob("checkpoint-*.pt"))) - before - begun
