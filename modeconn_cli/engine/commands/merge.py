"""`mcx merge`: the average of several networks, evaluated beside its members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from modeconn_cli.engine import names, symmetry
from modeconn_cli.engine.datasets import Samples
from modeconn_cli.engine.errors import OutputError, SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints, subject, weights
from modeconn_cli.engine.networks.completing import completed
from modeconn_cli.engine.networks.subject import Subject
from modeconn_cli.engine.paths import repair
from modeconn_cli.engine.paths.repair import Repair
from modeconn_cli.engine.paths.statistics import StatisticsRecomputed, StatisticsRepaired, StatisticsUsed
from modeconn_cli.engine.results import files, jobs, records
from modeconn_cli.engine.results.records import Provenance, Record
from modeconn_cli.engine.settings.base import tilde
from modeconn_cli.engine.settings.merge import MergeSettings
from modeconn_cli.engine.symmetry.align import Aligner
from modeconn_cli.engine.symmetry.average import average
from modeconn_cli.engine.training import batch_norms, evaluate, recompute_statistics
from modeconn_cli.engine.training.evaluation import Score

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Evaluated:
    """A network on held-out images: loss in nats, accuracy in percent, and its share of the average (None for that)."""

    name: str
    share: float | None
    loss: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class MergeResult(Record):
    """The average, and its members as their files hold them."""

    schema: ClassVar[str] = "mcx.merge/1"

    output: str
    align: str
    bn: StatisticsUsed
    greedy: bool
    held_out: str
    images: int
    members: list[Evaluated]
    merged: Evaluated
    provenance: Provenance


def run(settings: MergeSettings, runtime: Runtime) -> MergeResult | None:
    """Average the networks, evaluate the average and each member, and write the average."""
    words = names.labelled(settings.checkpoints)
    files.refuse_inputs([settings.output], words.values())
    read = [subject.read(path, settings, runtime) for path in words.values()]
    opened = subject.open_networks(read, settings, runtime)
    settings = completed(settings, opened.about, next(iter(words.values())))
    if settings.greedy and not len(opened.data.val):
        raise SettingsError("--greedy chooses by validation images and there are none", "pass --val-size N")
    made = records.provenance(settings, "merge", runtime.opened)
    merging = _Merging(settings, runtime, opened)
    unread = () if merging.has_statistics else ("bn", *replace(settings, bn="average").idle())
    due = jobs.file_output(
        settings.output,
        made,
        settings,
        stored=checkpoints.provenance_in,
        unread=(*unread, *settings.unflipped),
    )
    if runtime.plan(merging.plan(list(words))):
        return None
    own = [each.whole for each in opened.checkpoints]
    scores = [merging.evaluated(each, opened.data.held_out) for each in own]
    aligned = merging.aligned()
    shares = merging.soup(aligned) if settings.greedy else _shares(settings)
    state = merging.averaged(aligned, shares)
    score = merging.evaluated(state, opened.data.held_out)
    if due:
        decays = {each.about.wd for each in opened.checkpoints}
        about = opened.arch.about(  # no training has made it: neither seed nor settings of one are its own
            data=opened.about.data,
            wd=decays.pop() if len(decays) == 1 else None,
            buffers=tuple(weights.not_parameters(opened.model)),
            merged_from=dict(zip(words, shares, strict=True)),
            provenance=records.strict(vars(made)),
        )
        files.write_tensors(settings.output, checkpoints.content(None, {checkpoints.STATE: state}, about))
    else:
        there = checkpoints.read(settings.output, allow_nonfinite=True).state
        if any(not torch.equal(there[name], state[name]) for name in there):
            raise OutputError(
                f"'{settings.output}' was changed after it had been made", "use --overwrite to replace it"
            )
        runtime.note(f"already complete: {settings.output}")
    members = [
        Evaluated(label, share, each.loss, each.accuracy)
        for label, share, each in zip(words, shares, scores, strict=True)
    ]
    return MergeResult(
        output=tilde(settings.output),
        align=settings.align,
        bn=merging.statistics(shares),
        greedy=settings.greedy,
        held_out="test" if opened.data.use_test else "val",
        images=len(opened.data.held_out),
        members=members,
        merged=Evaluated("merged", None, score.loss, score.accuracy),
        provenance=made,
    )


def _shares(settings: MergeSettings) -> list[float]:
    given = settings.weights or (1.0,) * len(settings.checkpoints)
    scaled = [each / max(given) for each in given]
    return [each / sum(scaled) for each in scaled]


@dataclass(frozen=True)
class _Merging:
    """Networks of one architecture, their data, and the one model that they are put into."""

    settings: MergeSettings
    runtime: Runtime
    opened: Subject

    @property
    def has_statistics(self) -> bool:
        """Whether --bn makes a difference to these networks."""
        return self.settings.bn == "repair" or bool(batch_norms(self.opened.model))

    def plan(self, labels: Sequence[str]) -> list[str]:
        """What is done, in words. Raises InputError where layers cannot be repaired in an ordinary checkpoint."""
        settings, fit = self.settings, self.opened.data.fit
        lines = [f"average {', '.join(labels)}, align: {settings.align}", f"write {settings.output}"]
        if settings.bn == "repair":
            self.repair.check_written("--bn recompute leaves the layers as they are")
            passes = len(labels) + repair.passes(self.repair.places)
            lines.insert(1, f"repair the layers: about {passes:g} passes over {len(fit):,} training images")
        return lines

    @cached_property
    def repair(self) -> Repair:
        """Repairs the layers of averages; its members are yet to be measured."""
        settings = self.settings
        return Repair(self.opened.model, self.opened.data.fit, settings.batch_size, settings.seed)

    def statistics(self, shares: Sequence[float]) -> StatisticsUsed:
        """What a record says of the statistics of an average."""
        settings, fit = self.settings, self.opened.data.fit
        if not self.has_statistics:
            return StatisticsUsed("no batch norm")
        if settings.bn == "average" or max(shares) == 1:
            return StatisticsUsed("average")
        used = (settings.bn, len(fit), settings.batch_size, settings.seed)
        if settings.bn == "recompute":
            return StatisticsRecomputed(*used)
        return StatisticsRepaired(*used, len(self.repair.places), self.repair.constant)

    def evaluated(self, state: Mapping[str, Any], samples: Samples) -> Score:
        weights.load_into(self.opened.model, state, "the average")
        return evaluate(self.opened.model, samples, self.settings.batch_size)

    def aligned(self) -> list[State]:
        """The state of every network, in one common frame where that is asked for."""
        opened, states = self.opened, [each.state for each in self.opened.checkpoints]
        settings, method = self.settings, self.settings.align
        if method == "none":
            return list(states)
        aligner = Aligner.of(
            opened, method, batch_size=settings.batch_size, seed=settings.seed, hint="--align none"
        )
        together = aligner.frame(states, self.runtime.progress)
        return [symmetry.permute(*each) for each in zip(states, together.orders, strict=True)]

    def averaged(self, states: Sequence[State], shares: Sequence[float]) -> dict[str, Any]:
        """The average's whole state dict, with the statistics that are asked for."""
        model, settings = self.opened.model, self.settings
        if max(shares) == 1:  # an average of one network is that network
            only = shares.index(1)
            return {**states[only], **self.opened.checkpoints[only].extra}
        mixed = {**average(states, shares), **self.opened.checkpoints[0].extra}
        for state in states[len(self.repair.members) :] if settings.bn == "repair" else ():
            weights.load_into(model, {**state, **self.opened.checkpoints[0].extra}, "a member")
            self.repair.take_member()
        weights.load_into(model, mixed, "the average")
        if settings.bn == "repair":
            self.repair.apply(shares)
        elif settings.bn == "recompute" and batch_norms(model):
            recompute_statistics(model, self.opened.data.fit, settings.batch_size, settings.seed)
        return {**weights.snapshot(model), **weights.extra_of(model)}

    def soup(self, states: Sequence[State]) -> list[float]:
        """The shares of a greedy soup (Wortsman et al. 2022): equal for those that are in it, 0 for the others."""
        val = self.opened.data.val
        alone = [self.evaluated(each.whole, val).correct for each in self.opened.checkpoints]
        ranked = sorted(range(len(states)), key=lambda k: -alone[k])
        inside, best = ranked[:1], alone[ranked[0]]
        for k in ranked[1:]:
            tried = [*inside, k]
            shares = [1 / len(tried) if j in tried else 0.0 for j in range(len(states))]
            correct = self.evaluated(self.averaged(states, shares), val).correct
            if correct >= best:
                inside, best = tried, correct
        return [1 / len(inside) if j in inside else 0.0 for j in range(len(states))]
