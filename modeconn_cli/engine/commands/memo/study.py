"""The networks of `mcx memo`, trained block by block: each block's answers are a file, which a kill leaves behind.

Blocks are numbered and of a fixed size, so that neither a restart nor who trains which block changes a byte. Who was
trained on what follows from the seed, and is not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import nn

from modeconn_cli.engine.datasets.images import ImageFiles
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import models
from modeconn_cli.engine.networks.subject import Subject
from modeconn_cli.engine.results import arrays, files
from modeconn_cli.engine.results.failpoints import failpoint
from modeconn_cli.engine.settings.memo import MemoSettings
from modeconn_cli.engine.training import members, stack
from modeconn_cli.engine.training.loop import recipe_of
from modeconn_cli.engine.training.members import Member
from modeconn_cli.engine.training.stack import Stack

PARTS = "parts"

Block = tuple[int, int]  # the first member, and the one behind the last


@dataclass(frozen=True)
class Answers:
    """What T networks answer. `trained` and `right` bool [T, N] of the training images, `right_held_out` bool [T, H].

    `nonfinite` are the members that have become NaN or infinite; they are not among `members`, int64 [T].
    """

    members: np.ndarray
    trained: np.ndarray
    right: np.ndarray
    right_held_out: np.ndarray
    nonfinite: list[int]


class Study:
    """The networks, in a job's private folder."""

    def __init__(self, settings: MemoSettings, subject: Subject, private: Path, runtime: Runtime) -> None:
        self._settings, self._subject, self._runtime = settings, subject, runtime
        self._fit, self._held_out = subject.data.fit, subject.data.held_out
        self._parts = private / PARTS
        self._recipe = recipe_of(
            settings, epochs=settings.epochs, batch_size=settings.batch_size, seed=settings.seed
        )

    def train(self, *, wanted: bool) -> None:
        """Train the blocks that are not there, shared by all ranks; none where nothing is `wanted` of them.

        Raises Stopped after a signal; the blocks that are done are kept.
        """
        group = self._runtime.group
        lacking = group.lead(lambda: self._lacking() if wanted else [])
        mine = group.share([(begin, end) for begin, end in lacking])
        total = sum(end - begin for begin, end in mine)
        done = 0
        for begin, end in mine:
            of = self._members(range(begin, end))
            part = self._runtime.part(done, end - begin, total, networks=f"{begin}-{end - 1}")
            self._train(of, part)
            done += end - begin
            failpoint(f"memo.after_block.rank{group.rank}")
            self._runtime.progress(done, total, unit="network")
            group.beat()
        group.gather(done)

    def answers(self) -> Answers:
        """What all networks answer. Raises InputError where fewer than two have stayed finite."""
        found = [self._read(block) for block in self._blocks]
        parts = [part for part in found if part is not None]
        if len(parts) < len(found):
            files.check_guarded(self._parts)
            raise InputError(
                f"{len(found) - len(parts)} blocks of networks are missing: the ranks saw other files",
                "all ranks need the same --output-dir",
            )
        finite = np.concatenate([part["finite"] for part in parts])
        numbers = finite.nonzero()[0]
        if len(numbers) < 2:
            raise InputError(
                f"{len(finite) - len(numbers)} of {len(finite)} networks have become NaN or infinite",
                "use a smaller --lr",
            )
        trained = np.zeros((len(numbers), len(self._fit)), dtype=bool)
        for row, member in zip(trained, self._members(numbers.tolist()), strict=True):
            row[member.rows.numpy()] = True
        return Answers(
            numbers,
            trained,
            np.concatenate([part["right"] for part in parts])[finite],
            np.concatenate([part["right_held_out"] for part in parts])[finite],
            (~finite).nonzero()[0].tolist(),
        )

    def _members(self, numbers: Sequence[int]) -> list[Member]:
        settings = self._settings
        return members.members(numbers, self._fit.ids, settings.share, settings.seed, settings.data_seed)

    @cached_property
    def _blocks(self) -> list[Block]:
        count, size = self._settings.models, self._at_once
        return [(begin, min(begin + size, count)) for begin in range(0, count, size)]

    @cached_property
    def _at_once(self) -> int:
        """How many networks are trained at once; where they cannot be, the reason is said."""
        asked = self._settings.stack
        if asked == 1:
            return 1
        if isinstance(self._fit.images, ImageFiles) and self._fit.transform.augmentation:
            self._runtime.note(
                "the networks are trained one after the other: their images are read from files, and each has its own "
                f"{self._fit.transform.augmentation}"
            )
            return 1
        two = self._members(range(2))
        built = [self._built(each) for each in two]
        images, labels = next(members.batches(self._fit, two, self._settings.batch_size, 0))
        states = 2 if self._settings.optimizer != "sgd" else int(self._settings.momentum > 0)
        size = asked or stack.at_once(built[0], images[0], states)
        if size == 1:
            return 1
        why = stack.reason_not_to(built, images, labels)
        if why:
            self._runtime.note(f"the networks are trained one after the other, as they do not stack: {why}")
        return 1 if why else size

    def _built(self, member: Member) -> nn.Module:
        return models.build(self._subject.arch, member.seed).to(self._runtime.device)

    def _train(self, of: Sequence[Member], runtime: Runtime) -> None:
        """Train a block, and keep which answers are right."""
        networks: members.Trained
        if self._at_once == 1:
            networks = members.Alone(self._built(of[0]), self._settings.wd)
            networks.train(of[0], self._fit, self._recipe, runtime)
        else:
            networks = Stack(self._subject.model, [self._built(each) for each in of], self._settings.wd)
            members.train(networks, of, self._fit, self._recipe, runtime)
        size = self._settings.batch_size
        right, held_out = (
            members.correct(networks, samples, size).numpy()
            if len(samples)
            else np.zeros((len(of), 0), dtype=bool)
            for samples in (self._fit, self._held_out)
        )
        files.write_arrays(
            self._place((of[0].number, of[-1].number + 1)),
            {
                "finite": networks.finite.numpy(),
                "right": np.packbits(right, axis=1),
                "right_held_out": np.packbits(held_out, axis=1),
            },
        )

    def _place(self, block: Block) -> Path:
        return self._parts / f"members-{block[0]}-{block[1]}.npz"

    def _lacking(self) -> list[list[int]]:
        return [list(block) for block in self._blocks if self._read(block) is None]

    def _read(self, block: Block) -> dict[str, np.ndarray] | None:
        """A block's answers, [members, …]; None where there are none that can be read."""
        path, count = self._place(block), block[1] - block[0]
        if not path.exists():
            return None
        try:
            found = arrays.read_npz(path)
        except InputError:
            return None
        sizes = {"right": len(self._fit), "right_held_out": len(self._held_out)}
        shapes = {"finite": (count,), **{name: (count, -(-size // 8)) for name, size in sizes.items()}}
        if {name: array.shape for name, array in found.items()} != shapes:
            return None
        return {
            "finite": found["finite"].astype(bool),
            **{
                name: np.unpackbits(found[name], axis=1, count=size).astype(bool)
                if size
                else found[name].astype(bool)
                for name, size in sizes.items()
            },
        }
