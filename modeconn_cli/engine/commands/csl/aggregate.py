"""`mcx csl aggregate`: cumulative sample loss and learning time from per-epoch arrays, ours or the original's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from modeconn_cli.engine import datasets, names
from modeconn_cli.engine.commands.csl import export, figures, inputs, second_split, table
from modeconn_cli.engine.commands.csl.inputs import RunArrays
from modeconn_cli.engine.commands.csl.naming import IDS
from modeconn_cli.engine.errors import OutputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import arrays, files, jobs, listing
from modeconn_cli.engine.results.figures import about, said_beside
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.samples import pictures
from modeconn_cli.engine.samples.losses import LearningTime, cumulative_loss, learning_time
from modeconn_cli.engine.samples.pictures import Pictured
from modeconn_cli.engine.samples.scores import scores
from modeconn_cli.engine.settings.csl import CslAggregateSettings
from modeconn_cli.engine.settings.shared import in_every_format
from modeconn_cli.engine.statistics import auroc
from modeconn_cli.engine.training.tasks import read_order

ARRAYS = (
    *("csl", "csl_ce", "csl_per_epoch", "lt", "lt_first_epoch", "lt_first_epoch_sq", "lt_stays"),
    "epochs_seen",
)
AT_ONCE = 0.9  # share of samples that are below tau at the first epoch from which on the user is told


@dataclass(frozen=True, kw_only=True)
class CslAggregateResult(Record):
    """`lt_source` says per epoch what stood for the gradient norm; `auroc`: metric -> AUROC for the flipped labels, and
    beside it the standard error and how many samples have a value.
    """

    schema: ClassVar[str] = "mcx.csl_aggregate/1"

    dataset: str
    run_idx: int | None
    noise_level: float | None
    scheme: str
    losses: str  # of what they are
    kept_epochs: list[int]
    missing_epochs: list[int]
    num_epochs: int
    losses_shape: list[int]
    loss_grads_shape: list[int] | None
    csl_path: str
    lt_path: str | None
    tau: float | None
    tau_sq: float | None
    lt_source: dict[str, Any]
    mean_csl: float | None
    samples_with_nan: int
    excluded_from_tau: int
    hardest: list[dict[str, float | int]]
    easiest: list[dict[str, float | int]]
    auroc: dict[str, float | None]
    auroc_stderr: dict[str, float | None]
    auroc_n: dict[str, int]
    flipped: int | None
    figures: list[str]


@dataclass(frozen=True)
class _Metrics:
    """Per-sample `values`, float64 [N], by the name of their file, in the order of the run's ids; `further` are those
    that the same passes give and that have no file of their own.
    """

    values: dict[str, np.ndarray]
    further: dict[str, np.ndarray]
    learnt: LearningTime | None
    squared: LearningTime | None

    def score(self, name: str) -> np.ndarray:
        """A metric as a score: a sample that never falls below tau, or never stays there, comes after all that do."""
        values = self.values[name]
        if not name.startswith(names.NEVER):
            return values
        return np.where(np.isnan(values) & np.isfinite(self.values["lt"]), np.inf, values)

    @property
    def shown(self) -> np.ndarray:
        """What samples are ranked by: per epoch seen where classes came later."""
        return self.values.get("csl_per_epoch", self.values["csl"])

    def ranked(self) -> np.ndarray:
        """Places of the samples with a CSL, the smallest first; equal ones in the order of the arrays."""
        order = np.argsort(self.shown, kind="stable")
        ranked: np.ndarray = order[np.isfinite(self.shown[order])]
        return ranked


def run(settings: CslAggregateSettings, runtime: Runtime) -> CslAggregateResult | None:
    """Stream the arrays; write metrics, ids and figures."""
    found = inputs.find(settings, runtime)
    data = inputs.data_of(found, settings)
    datasets.refuse_unread(data.settings.dataset or found.run.dataset, settings)
    folder, name = settings.output_dir, found.named
    if runtime.plan(
        [
            f"aggregate {len(found.epochs)} epochs x {found.count:,} samples of {found.run.words()}",
            f"results in {folder}",
        ]
    ):
        return None
    documented = [name.aggregated("csl", f"_{each}.png") for each in figures.NAMES]
    shown = (
        documented if found.named_ids else documented[:-1]
    )  # of samples that nobody can name there are none
    drawn = [folder / settings.named(each) for each in shown]
    owned = [  # the ids are shared by all runs in a folder
        *(name.aggregated(array) for array in ARRAYS),
        *(each for figure in documented for each in in_every_format(figure)),
        name.aggregated("metrics", ".json"),
        *(name.aggregated(table.STEM, ending) for ending in (*table.ENDINGS, table.PARQUET)),
        *export.names(export.STEMS, name),
        name.aggregated(listing.STEM, ".csv"),
    ]
    how: dict[str, Any] = {
        "owned": owned,
        "mends": True,
        "key": name.key,
        "listing": found.listing(data.settings),
    }
    noise = found.label_noise(runtime)
    labels = found.labels() if settings.export else None
    export.check(settings.export, found, (), labels)
    with jobs.opened(settings, folder, "csl aggregate", runtime, **how) as job:
        if job.complete and not all((folder / each).exists() for each in _made(found, settings)):
            job.reopen()  # an earlier version has finished it without them
        metrics_file = folder / name.aggregated("metrics", ".json")
        kept = job.found(CslAggregateResult, metrics_file, settings, "num_samples")
        if kept is not None:
            learnt = None if kept.lt_path is None else str(folder / name.aggregated("lt"))
            paths = [str(path) for path in drawn]
            return replace(kept, figures=paths, csl_path=str(folder / name.aggregated("csl")), lt_path=learnt)
        metrics = _measured(found, settings, runtime)
        assert metrics.values.keys() == set(_arrays(found, settings)), "a finished job would lack the others"
        result = _result(settings, folder, found, metrics, noise, drawn)
        if not job.complete:
            known = {each: metrics.score(each) for each in metrics.values} | metrics.further
            begins = settings.class_order is not None
            if settings.swapped_dir is not None:
                known |= second_split.of_both(found, settings, runtime)
            scored = table.measured(found, scores(settings.el2n_epoch, found.half), known, begins=begins)
            export.check_scores(settings.export, scored.absent)
            _write(folder, found, metrics.values, result, anew=job.anew(settings))
            facts = {
                "split": found.summary.get("split"),
                "losses": result.losses,
                "images": data.document(),
            }
            table.write(folder, name, found, scored, noise, **facts)
            epochs = metrics.values.get("epochs_seen", np.full(found.count, len(found.epochs)))
            exported = export.Exported(found, labels, scored.values, epochs)
            export.write(settings.export, folder, name, exported, runtime.note)
            _draw(settings, data, found, metrics, noise, drawn, runtime)
            stale = {each for figure in documented for each in in_every_format(figure)}
            stale -= {path.name for path in drawn}
            job.finish(
                path for path in (folder / each for each in owned if each not in stale) if path.exists()
            )
    return result


def _arrays(found: RunArrays, settings: CslAggregateSettings) -> list[str]:
    """The metrics that a run has, by the names of their files."""
    norms = found.grads is not None
    conditions = {
        "csl": True,
        "csl_ce": found.ce is not None,
        "csl_per_epoch": settings.class_order is not None,
        "epochs_seen": settings.class_order is not None,
        **dict.fromkeys(("lt", "lt_first_epoch", "lt_stays"), norms),
        "lt_first_epoch_sq": norms and found.summary.get("grad") == "input",
    }
    return [name for name, there in conditions.items() if there]


def _made(found: RunArrays, settings: CslAggregateSettings) -> list[str]:
    """What a finished job has at least, by the names of its files."""
    tables = [found.named.aggregated(table.STEM, ending) for ending in table.ENDINGS]
    arrays_ = [found.named.aggregated(each) for each in _arrays(found, settings)]
    return [*arrays_, *tables, *export.certain(settings.export, found.named)]


def _measured(found: RunArrays, settings: CslAggregateSettings, runtime: Runtime) -> _Metrics:
    count, unseen = found.count, settings.class_order is not None
    if settings.class_order is not None:
        read_order(settings.class_order)
    grads, learnt, final = found.grads, None, table.Final(found)
    if grads is not None:
        learnt = learning_time(
            lambda: final.heard(grads) if grads == found.losses else found.values(grads),
            found.epochs,
            count,
            squares=found.summary.get("grad") == "input",  # the norms are the paper's, which squares them
            skip_unseen=unseen,
        )
    if learnt is not None and grads == found.losses:
        csl, epochs = learnt.total, learnt.epochs
    else:
        csl, epochs = cumulative_loss(final.heard(found.losses), count, skip_unseen=unseen)
    values: dict[str, np.ndarray] = {"csl": csl}
    never = epochs == 0
    if unseen:
        values["epochs_seen"] = epochs
        _check_begins(found, epochs, runtime)
    bad = int((~np.isfinite(csl) & ~never).sum())
    if bad:
        hint = "" if unseen else " (--class-order leaves out the epochs before a class was seen)"
        runtime.warn(
            f"{bad:,} samples have a NaN or an infinity among their losses, and so has their CSL{hint}"
        )
    if found.ce is not None:
        values["csl_ce"], _ = cumulative_loss(final.heard(found.ce), count, skip_unseen=unseen)
    if unseen:
        # Without the decay, which is another sum for other epochs.
        values["csl_per_epoch"] = values.get("csl_ce", csl) / np.where(never, 1, epochs)
    further = {"final_loss": final.values(), **found.vogs()}
    if learnt is None:
        return _Metrics(values, further, None, None)
    plain = learnt.plain
    values |= {"lt": plain.lt, "lt_first_epoch": plain.first, "lt_stays": plain.stays}
    if learnt.squared is not None:
        values["lt_first_epoch_sq"] = learnt.squared.first
    if learnt.squares is not None and not found.stand_ins:
        further["csg"] = learnt.squares
    _check_learnt(found, plain, int(never.sum()), runtime)
    return _Metrics(values, further, plain, learnt.squared)


def _check_learnt(found: RunArrays, plain: LearningTime, never: int, runtime: Runtime) -> None:
    """Say where learning times tell nothing apart, and of how many samples there are none."""
    at_once = float((plain.first[np.isfinite(plain.lt)] == found.epochs[0]).mean()) if plain.finite else 0.0
    if at_once > AT_ONCE and len(found.epochs) > 1:
        told = len(np.unique(plain.stays)) > 1  # NaN, never, counts as one value
        runtime.warn(
            f"lt_first_epoch is {found.epochs[0]} for {100 * at_once:.0f} % of the samples, as their gradients are "
            "small before they grow: "
            + (
                "lt_stays, the first epoch from which on they stay below tau, tells samples apart"
                if told
                else "neither it nor lt_stays, which is the same for all, tells samples apart at these epochs"
            )
        )
    excluded = found.count - plain.finite - never
    if excluded > 0:
        runtime.warn(f"{excluded:,} samples have a NaN among their gradient norms: not in tau")


def _check_begins(found: RunArrays, epochs: np.ndarray, runtime: Runtime) -> None:
    """Say what --class-order finds in losses that begin when a class is seen. `epochs` [N]: scored at so many."""
    never = int((epochs == 0).sum())
    if never:
        runtime.note(f"{never:,} samples were seen at none of these epochs, and have no CSL")
    if (epochs == len(found.epochs)).all() and len(found.epochs) > 1:
        runtime.warn(
            "every sample has a loss at every epoch, also before its class was seen: --class-order leaves out none "
            "(mcx csl score --seen-classes does)"
        )
    rows = [row for row in found.summary.get("epochs", []) if row.get("nonfinite")]
    if broken := [row["epoch"] for row in rows if row["epoch"] in found.epochs]:
        runtime.warn(
            f"losses were not finite when they were scored at epochs {broken[:10]}; those before the first finite one "
            "of a sample count as not seen"
        )


def _result(
    settings: CslAggregateSettings,
    folder: Path,
    found: RunArrays,
    metrics: _Metrics,
    noise: Mapping[int, tuple[int, int]],
    drawn: list[Path],
) -> CslAggregateResult:
    run, values, csl, learnt = found.named, metrics.values, metrics.values["csl"], metrics.learnt
    order, ids, finite = metrics.ranked(), found.ids.tolist(), csl[np.isfinite(csl)]
    number = min(settings.num_samples, len(order)) if found.named_ids else 0
    flips = np.array([noise[i][0] != noise[i][1] for i in ids]) if noise else None
    scored = [name for name in values if name != "epochs_seen"] if noise else []
    aurocs = {name: auroc(metrics.score(name), flips) for name in scored if flips is not None}

    def rows(places: np.ndarray) -> list[dict[str, float | int]]:
        return [
            {
                "sample_id": ids[i],
                **{name: float(v[i]) for name, v in values.items()},
                **({} if flips is None else {"flipped": int(flips[i])}),
            }
            for i in places
        ]

    return CslAggregateResult(
        dataset=run.dataset,
        run_idx=run.run_idx,
        noise_level=run.noise,
        scheme=found.run.scheme,
        losses=found.losses_of(),
        kept_epochs=found.epochs,
        missing_epochs=found.missing,
        num_epochs=len(found.epochs),
        losses_shape=[len(found.epochs), found.count],
        loss_grads_shape=None if learnt is None else [len(found.epochs), found.count],
        csl_path=str(folder / run.aggregated("csl")),
        lt_path=None if learnt is None else str(folder / run.aggregated("lt")),
        tau=None if learnt is None else learnt.tau,
        tau_sq=None if metrics.squared is None else metrics.squared.tau,
        lt_source=_source(found, settings),
        mean_csl=float(finite.mean()) if len(finite) else None,
        samples_with_nan=int(np.isnan(csl).sum()),
        excluded_from_tau=0 if learnt is None else found.count - learnt.finite,
        hardest=rows(order[::-1][:number]),
        easiest=rows(order[:number]),
        auroc={name: each.value for name, each in aurocs.items()},
        auroc_stderr={name: each.stderr for name, each in aurocs.items()},
        auroc_n={name: each.n for name, each in aurocs.items()},
        flipped=None if flips is None else int(flips.sum()),
        figures=[str(path) for path in drawn],
    )


def _source(found: RunArrays, settings: CslAggregateSettings) -> dict[str, Any]:
    """What the learning time was computed from."""
    if found.grads is None:
        return {"source": "none"}
    if settings.loss_as_grad:
        return {"source": "loss"}
    return {"source": "loss_grad", "loss_at_epochs": found.stand_ins}


def _write(
    folder: Path,
    found: RunArrays,
    values: Mapping[str, np.ndarray],
    result: CslAggregateResult,
    *,
    anew: bool,
) -> None:
    path, order = folder / IDS, np.argsort(found.ids)
    listed = found.run.aggregated(listing.STEM, ".csv")
    if (found.folder / listed).exists() and folder.resolve() != found.folder.resolve():
        files.write_text(
            folder / found.named.aggregated(listing.STEM, ".csv"), (found.folder / listed).read_text("utf-8")
        )
    ids = found.ids[order]
    if path.exists() and not anew and not (found.named_ids and np.array_equal(arrays.read_ids(path), ids)):
        raise OutputError(f"'{path}' names other samples, or in another order", "use another --output-dir")
    if found.named_ids:
        files.write_array(path, ids)
    for name, array in values.items():
        kind = np.int32 if name == "epochs_seen" else np.float32
        files.write_array(folder / found.named.aggregated(name), array[order].astype(kind))
    files.write_json(folder / found.named.aggregated("metrics", ".json"), result.document())


def _draw(
    settings: CslAggregateSettings,
    data: Pictured,
    found: RunArrays,
    metrics: _Metrics,
    noise: Mapping[int, tuple[int, int]],
    drawn: list[Path],
    runtime: Runtime,
) -> None:
    order = metrics.ranked()
    number = min(settings.num_samples, len(order) // 2)
    chosen = {"hardest": order[::-1][:number], "easiest": order[:number]}
    # Without the decay, which is the same for all samples and hides how small their losses get.
    shown, label = (
        (found.losses, "loss (nats)") if found.ce is None else (found.ce, "loss without weight decay (nats)")
    )
    curves = {name: found.of_samples(shown, places) for name, places in chosen.items()}
    said = said_beside(found.losses) or found.run.dataset
    title = about(None, said, [found.epochs[0], found.epochs[-1], None])
    ends = f"Hardest and easiest samples of {title}"
    drawings = [
        figures.histograms(metrics.values, f"Samples of {title}", settings),
        figures.curves(found.epochs, curves, label, ends, settings),
    ]
    if found.named_ids:
        ids = np.concatenate([found.ids[places] for places in chosen.values()])
        split = found.summary.get("split", "all-train")
        images = pictures.images_of(data, split, ids, runtime, found.listed_labels())
        score = "CSL", metrics.shown
        drawings.append(pictures.gallery(found.ids, chosen, score, images, noise, ends, settings))
    for path, picture in zip(drawn, drawings, strict=True):
        files.atomic_write(path, picture)
