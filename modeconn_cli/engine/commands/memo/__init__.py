"""`mcx memo`: what each training image adds to its own answer, from many networks on random shares of the data.

Feldman and Zhang 2020, arXiv:2008.03703.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from modeconn_cli.engine.commands.memo import tables
from modeconn_cli.engine.commands.memo.estimate import Estimate, Influences, influences, memorisation
from modeconn_cli.engine.commands.memo.study import Answers, Study
from modeconn_cli.engine.datasets import Data
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import weights
from modeconn_cli.engine.networks.subject import open_untrained
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.settings.memo import MemoSettings
from modeconn_cli.engine.statistics import statistics
from modeconn_cli.engine.training.members import size_of
from modeconn_cli.engine.training.network import check_takes_images

SHOWN = 10  # images with the highest scores in the result
FITTED = 0.98  # share of right answers to what a network was trained on, below which its data are not fitted


@dataclass(frozen=True)
class Memorised:
    """A training image. `flipped` is None where no labels are."""

    sample_id: int
    label: int
    memo_score: float
    standard_error: float
    flipped: bool | None


@dataclass(frozen=True, kw_only=True)
class MemoResult(Record):
    """`right_*` are shares of right answers: to images that a network was trained on, that it was not, and held out.

    Of the images whose labels were flipped, None without any: how many, their mean score, and the right answers, by the
    flipped labels, of the networks that were trained on them.
    """

    schema: ClassVar[str] = "mcx.memo/1"

    model: str
    num_params: int
    dataset: str
    samples: int
    held_out: str
    held_out_samples: int
    models: int
    share: float
    trained_on: int  # images of each network
    seed: int
    epochs: int
    left_out: list[int]  # networks that have become NaN or infinite
    undefined: int  # images in all or in none of the sets
    right_in: float
    right_out: float
    right_held_out: float | None
    memorisation: dict[str, float | None]
    standard_error: dict[str, float | None]  # median and largest
    flipped: int | None
    flipped_memo_score: float | None
    flipped_right_in: float | None
    influence_threshold: float
    influences: int
    most_memorised: list[Memorised]


def run(settings: MemoSettings, runtime: Runtime) -> MemoResult | None:
    """Train the networks that are not there yet, and estimate from all of them."""
    if settings.label_noise and settings.label_seed is None:
        settings = replace(settings, label_seed=settings.seed)
    found = open_untrained(settings, runtime, watched=False, measured=settings.val_size != 0)
    data, model = found.data, found.model
    size = size_of(len(data.fit), settings.share)
    if size == 0:
        raise InputError(
            f"--share {settings.share:g} of {len(data.fit)} training images is none",
            "pass a larger --share, or more images",
        )
    if not any(each.requires_grad for each in model.parameters()):
        raise InputError("every parameter of the network is frozen: there is nothing to train")
    check_takes_images(model, found.arch)
    count = weights.count(dict(model.named_parameters()))
    if runtime.plan(
        [
            f"train {settings.models} networks {found.arch.model} ({count:,} parameters), each on {size:,} of "
            f"{len(data.fit):,} images of {data.name}, {settings.epochs} epochs on {runtime.device}, "
            f"{runtime.threads} threads",
            *data.flips_said(),
            f"influences on {len(data.held_out):,} held-out images; results in {settings.output_dir}",
        ]
    ):
        return None
    with (
        runtime.catching_signals(),  # until the job has said how it ended
        jobs.opened(settings, settings.output_dir, "memo", runtime, owned=tables.OWNED, mends=True) as job,
    ):
        kept = None
        if runtime.group.leader:
            kept = job.found(MemoResult, settings.output_dir / tables.SUMMARY, settings)
        study = Study(settings, found, job.private, runtime)
        study.train(wanted=kept is None)
        if not runtime.group.leader:
            return None
        if kept is None:
            estimated = _Estimated.of(settings, data, study.answers())
            kept = estimated.result(found.arch.model, count)
            if not job.complete:
                folder = settings.output_dir
                estimated.write(folder, kept)
                job.finish(path for path in (folder / name for name in tables.OWNED) if path.exists())
        _say(kept, runtime)
    return kept


@dataclass(frozen=True)
class _Estimated:
    """What the networks' answers say of every image, and of every pair above the threshold."""

    settings: MemoSettings
    data: Data
    answers: Answers
    memo: Estimate
    pairs: Influences
    flipped: np.ndarray | None  # bool [N]

    @classmethod
    def of(cls, settings: MemoSettings, data: Data, answers: Answers) -> _Estimated:
        trained, flips = answers.trained, data.flips
        return cls(
            settings,
            data,
            answers,
            memorisation(trained, answers.right),
            tables.joined(influences(trained, answers.right_held_out, settings.influence_threshold)),
            None if flips is None else np.isin(data.fit.ids.cpu(), flips.ids[flips.flipped].cpu()),
        )

    def result(self, model: str, count: int) -> MemoResult:
        settings, data, answers, memo = self.settings, self.data, self.answers, self.memo
        trained, right = answers.trained, answers.right
        return MemoResult(
            model=model,
            num_params=count,
            dataset=data.name,
            samples=len(data.fit),
            held_out="test" if data.use_test else "val",
            held_out_samples=len(data.held_out),
            models=settings.models,
            share=settings.share,
            trained_on=int(trained.sum(1)[0]),
            seed=settings.seed,
            epochs=settings.epochs,
            left_out=answers.nonfinite,
            undefined=int(np.isnan(memo.value).sum()),
            right_in=float(right[trained].mean()),
            right_out=float(right[~trained].mean()),
            right_held_out=float(answers.right_held_out.mean()) if answers.right_held_out.size else None,
            memorisation=statistics(memo.value),
            standard_error=_errors(memo.error),
            influence_threshold=settings.influence_threshold,
            influences=len(self.pairs.of),
            most_memorised=self._most(),
            **self._of_flipped(),
        )

    def _most(self) -> list[Memorised]:
        """The images with the highest scores, the first ids first."""
        order: Any = np.argsort(-self.memo.value, kind="stable")[:SHOWN]
        return [
            Memorised(
                sample_id=int(self.data.fit.ids[k]),
                label=int(self.data.fit.labels[k]),
                memo_score=float(self.memo.value[k]),
                standard_error=float(self.memo.error[k]),
                flipped=None if self.flipped is None else bool(self.flipped[k]),
            )
            for k in order.tolist()
            if not np.isnan(self.memo.value[k])
        ]

    def _of_flipped(self) -> dict[str, Any]:
        if self.flipped is None:
            return dict.fromkeys(("flipped", "flipped_memo_score", "flipped_right_in"))
        values = self.memo.value[self.flipped]
        known, inside = values[~np.isnan(values)], int(self.answers.trained[:, self.flipped].sum())
        return {
            "flipped": int(self.flipped.sum()),
            "flipped_memo_score": float(known.mean()) if len(known) else None,
            "flipped_right_in": float(self.memo.right_in[self.flipped].sum() / inside) if inside else None,
        }

    def write(self, folder: Path, result: MemoResult) -> None:
        tables.write(folder, self.data, self.answers, self.memo, self.pairs)
        if self.data.flips is not None:
            files.write_text(folder / tables.LABEL_NOISE, self.data.flips.table())
        files.write_json(folder / tables.SUMMARY, result.document())


def _errors(errors: np.ndarray) -> dict[str, float | None]:
    known = errors[~np.isnan(errors)]
    if len(known) == 0:
        return {"median": None, "largest": None}
    return {"median": float(np.median(known)), "largest": float(known.max())}


def _say(result: MemoResult, runtime: Runtime) -> None:
    bad = result.left_out
    if bad:
        shown = ", ".join(map(str, bad[:10])) + (", …" if len(bad) > 10 else "")
        runtime.warn(
            f"{len(bad)} networks have become NaN or infinite and are left out: {shown} (a smaller --lr may help)"
        )
    if result.undefined:
        runtime.warn(
            f"{result.undefined:,} of {result.samples:,} images are in all or in none of the sets that networks were "
            "trained on, and have no score: train more --models"
        )
    _warn(result, runtime)


def _warn(result: MemoResult, runtime: Runtime) -> None:
    """Where the data are not fitted, CSL and its kin are no stand-in for memorisation."""
    if result.flipped_right_in is not None and result.flipped_right_in < 0.5:
        what = f"{100 * result.flipped_right_in:.0f} % of the flipped labels that they were trained on"
    elif result.right_in < FITTED:
        what = f"{100 * result.right_in:.1f} % of the images that they were trained on"
    else:
        return
    runtime.warn(
        f"the networks give the right answer to {what}: scores of training, as CSL, track memorisation only where the "
        "data are fitted (--epochs, --wd 0, a larger network)"
    )
