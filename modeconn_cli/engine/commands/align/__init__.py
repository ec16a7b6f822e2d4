"""`mcx align`: networks whose units are permuted so that their weights lie close together."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from modeconn_cli.engine import names, symmetry
from modeconn_cli.engine.commands.align.progress import Kept
from modeconn_cli.engine.commands.align.result import Alignment, AlignResult, Apart, groups_moved
from modeconn_cli.engine.errors import CONTINUE, AnswerIsNo, Stopped
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints, subject, weights
from modeconn_cli.engine.networks.checkpoints import Checkpoint
from modeconn_cli.engine.networks.subject import Subject
from modeconn_cli.engine.results import files, jobs, records
from modeconn_cli.engine.results.fingerprints import sha256
from modeconn_cli.engine.settings.align import AlignSettings
from modeconn_cli.engine.settings.base import tilde
from modeconn_cli.engine.symmetry import files as permutations
from modeconn_cli.engine.symmetry.align import NEEDED, Aligner
from modeconn_cli.engine.symmetry.match import Matched

__all__ = ["AlignResult", "Alignment", "run"]


def run(settings: AlignSettings, runtime: Runtime) -> AlignResult | None:
    """Align every network, prove that each computes what it did, and write it."""
    words = names.labelled(settings.checkpoints)
    outputs = _outputs(settings, list(words))
    files.refuse_inputs([file for path in outputs.values() for file in _written(path)], settings.sources)
    work = _opened(settings, words, outputs, runtime)
    due = settings.output is None or work.is_due(settings.output)
    if runtime.plan(work.plan()):
        return None
    aligned = work.alone(due=due) if settings.output_dir is None else work.in_folder(settings.output_dir)
    fixed = None if settings.to is None else tilde(settings.to)
    return AlignResult(
        fixed=fixed, method=settings.method, seed=settings.seed, restarts=settings.restarts, aligned=aligned
    )


def _outputs(settings: AlignSettings, labels: Sequence[str]) -> dict[str, Path]:
    """Where each aligned network goes, by its label."""
    if settings.output is not None:
        return {labels[0]: settings.output}
    assert settings.output_dir is not None
    return {label: settings.output_dir / f"{label}.pt" for label in labels}


def _written(output: Path) -> tuple[Path, Path, Path]:
    """The files of one aligned network; the checkpoint comes last and is the commit."""
    return names.permutation(output), names.alignment(output), output


def _opened(
    settings: AlignSettings, words: Mapping[str, Path], outputs: Mapping[str, Path], runtime: Runtime
) -> _Work:
    """Read all networks and derive the groups of their units. Raises InputError where there are none."""
    fixed = [] if settings.to is None else [settings.to]
    read = [subject.read(path, settings, runtime) for path in (*fixed, *words.values())]
    shaped = settings.method == "weights" and settings.dataset
    opened = subject.open_networks(
        read, settings, runtime, "the data's shape" if shaped else NEEDED[settings.method]
    )
    opened.model.cpu()
    aligner = Aligner.of(
        opened,
        settings.method,
        batch_size=settings.batch_size,
        seed=settings.seed,
        restarts=settings.restarts,
    )
    moving = dict(zip(words, opened.checkpoints[len(fixed) :], strict=True))
    return _Work(settings, runtime, opened, aligner, moving, outputs)


@dataclass(frozen=True)
class _Work:
    """Networks of one architecture, and where the aligned ones go, by label."""

    settings: AlignSettings
    runtime: Runtime
    opened: Subject
    aligner: Aligner
    moving: Mapping[str, Checkpoint]
    outputs: Mapping[str, Path]

    @property
    def fixed(self) -> Checkpoint | None:
        return None if self.settings.to is None else self.opened.checkpoints[0]

    def plan(self) -> list[str]:
        groups = self.aligner.symmetry.groups
        units = sum(group.size for group in groups)
        to = "each other" if self.fixed is None else str(self.fixed.path)
        return [
            f"match {units:,} units in {len(groups)} groups to {to}: {', '.join(self.moving)}",
            *(f"write {path}" for path in self.outputs.values()),
        ]

    def is_due(self, output: Path) -> bool:
        """Whether the file of the only network is still to be written. Raises OutputError for one of another origin."""
        self._progress(names.alignment_progress(output))
        permutation, alignment, _ = _written(output)
        made = records.provenance(self.settings, "align", self.runtime.opened)
        return jobs.file_output(output, made, self.settings, record=alignment, beside=[permutation])

    def alone(self, *, due: bool) -> dict[str, Alignment]:
        """Align the only network."""
        ((label, output),) = self.outputs.items()
        progress = self._progress(names.alignment_progress(output))
        if not due:
            if kept := self._kept(label):
                progress.remove()  # a kill may have come between
                self.runtime.note(f"already complete: {output}")
                return {label: kept}
            self.runtime.note(f"'{names.permutation(output)}' is missing or was changed: made again")
        by_weights = self.settings.method == "weights"
        with self.runtime.catching_signals() if by_weights else contextlib.nullcontext():
            return {label: self._aligned(label, progress)}

    def _progress(self, path: Path) -> Kept:
        """Where it is written down how far a network is. Raises OutputError for a file of any other origin."""
        made = records.provenance(self.settings, "align", self.runtime.opened)
        found = Kept(path, made, self.settings)
        found.check()
        return found

    def in_folder(self, folder: Path) -> dict[str, Alignment]:
        """Align all networks that the folder does not hold yet."""
        written = [file for path in self.outputs.values() for file in _written(path)]
        with (
            self.runtime.catching_signals(),
            jobs.opened(
                self.settings,
                folder,
                "align",
                self.runtime,
                owned=[file.name for file in written],
                mends=True,
            ) as job,
        ):
            done = {label: self._kept(label) for label in self.moving}
            if self.fixed is None:
                if not all(done.values()):
                    done = self._in_one_frame()
            else:
                for count, label in enumerate(self.moving, start=1):
                    if done[label] is None:
                        progress = self._progress(job.private / f"{label}.progress.json")
                        done[label] = self._aligned(label, progress)
                        self._tell(count, len(self.moving), "network", network=label)
            if not job.complete:
                job.finish(written)
        return {label: each for label, each in done.items() if each is not None}

    def _kept(self, label: str) -> Alignment | None:
        """What an earlier run has found of a network, whose files are all there as it left them."""
        permutation, alignment, output = _written(self.outputs[label])
        kept = records.kept(Alignment, alignment) if alignment.exists() else None
        if kept is None or not permutation.exists() or not output.exists():
            return None
        whole = kept.permutation_sha256 == sha256(permutation) and kept.checkpoint_sha256 == sha256(output)
        return kept if whole else None

    def _aligned(self, label: str, progress: Kept) -> Alignment:
        """Align one network to the fixed one, from where an earlier run was ended."""
        assert self.fixed is not None
        moving = self.moving[label]
        fixed, own = self._weights(self.fixed.state), self._weights(moving.state)
        if Apart.of(own, [fixed]).total_l2 == 0:
            self.runtime.warn(f"'{self.fixed.path}' and '{moving.path}' are the same network")
        begun = progress.read(self.aligner.symmetry)
        if begun is not None:
            self.runtime.note(f"'{moving.path}': the matching goes on where it was ended")
        found = self.aligner.pair(
            self.fixed.state,
            moving.state,
            functools.partial(self._tell, network=label),
            begun=begun,
            keep=progress.write,
        )
        result = self._publish(label, found, [fixed], [fixed])
        progress.remove()
        return result

    def _in_one_frame(self) -> dict[str, Alignment | None]:
        """Align all networks to each other."""
        own = [self._weights(each.state) for each in self.moving.values()]
        together = self.aligner.frame([each.state for each in self.moving.values()], self._tell)
        start = f"the frame of {list(self.moving)[together.reference]}"
        moved = [symmetry.permute(each, orders) for each, orders in zip(own, together.orders, strict=True)]
        done: dict[str, Alignment | None] = {}
        for k, label in enumerate(self.moving):
            found = Matched(together.orders[k], together.objective, start)
            others = [[*side[:k], *side[k + 1 :]] for side in (own, moved)]
            done[label] = self._publish(label, found, *others)
        return done

    def _publish(
        self,
        label: str,
        found: Matched,
        others: Sequence[Mapping[str, Tensor]],
        others_after: Sequence[Mapping[str, Tensor]],
    ) -> Alignment:
        """Prove the permutation of one network and write its files; the checkpoint comes last and is the commit.

        `others` are the weights that its distance is measured to before and after.
        """
        moving, output, model = self.moving[label], self.outputs[label], self.opened.model
        state = symmetry.permute(moving.state, found.orders)
        inputs = symmetry.random_inputs(self.opened.arch.inputs(model), self.settings.seed)
        difference = symmetry.output_difference(model, moving.state, state, inputs)
        if not difference.is_rounding:
            raise AnswerIsNo(
                f"'{moving.path}', aligned, is not equivalent: outputs differ by up to {difference.off:.3g}; it was "
                "not written",
                "a layer's consumers are not what the graph says; please report the network",
            )
        optimizer = symmetry.optimizer.moved(moving.optimizer_state, model, found.orders, self.runtime)
        about = self.opened.arch.about(moving.about, buffers=tuple(weights.not_parameters(model)))
        content = {checkpoints.STATE: {**state, **moving.extra}}
        data = files.tensor_bytes(checkpoints.content(moving.epoch, content, about, optimizer))
        orders = permutations.order_bytes(found.orders, self.aligner.symmetry)
        result = Alignment(
            moving=tilde(moving.path),
            fixed=None if self.fixed is None else tilde(self.fixed.path),
            output=tilde(output),
            permutation=tilde(names.permutation(output)),
            before=Apart.of(self._weights(moving.state), others),
            after=Apart.of(self._weights(state), others_after),
            objective=list(found.objective),
            start=found.start,
            groups=groups_moved(self.aligner.symmetry, found.orders),
            max_output_diff_float64=difference.off,
            permutation_sha256=hashlib.sha256(orders).hexdigest(),
            checkpoint_sha256=hashlib.sha256(data).hexdigest(),
        )
        made = records.provenance(self.settings, "align", self.runtime.opened)
        files.write_json(names.alignment(output), records.strict({**result.document(), "provenance": made}))
        files.atomic_write(names.permutation(output), orders)
        files.atomic_write(output, data)
        return result

    def _weights(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return weights.parameters_of(self.opened.model, state)

    def _tell(self, done: int, total: int, unit: str, **fields: object) -> None:
        """Say how far it is; in a folder a signal ends the work here."""
        self.runtime.progress(done, total, unit, **fields)
        if self.runtime.stopping():
            raise Stopped(f"stopped after {done} of {total} {unit}s", CONTINUE)
