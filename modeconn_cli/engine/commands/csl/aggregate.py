"""`mcx csl aggregate`: cumulative sample loss and learning time from per-epoch arrays, ours or the original's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from modeconn_cli.engine.commands.csl import figures, inputs, naming
from modeconn_cli.engine.commands.csl.inputs import Input
from modeconn_cli.engine.commands.csl.naming import IDS, Run
from modeconn_cli.engine.errors import InputError, OutputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import arrays, files, jobs, records
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.samples import losses as metrics
from modeconn_cli.engine.settings.csl import CslAggregateSettings
from modeconn_cli.engine.statistics import auroc
from modeconn_cli.engine.training.incremental import read_order
from modeconn_cli.engine.training.watchers import ABOUT

ARRAYS = ("csl", "csl_ce", "csl_per_epoch", "lt", "lt_first_epoch", "lt_first_epoch_sq", "epochs_seen")


@dataclass(frozen=True, kw_only=True)
class CslAggregateResult(Record):
    """`lt_source` says per epoch what stood for the gradient norm; `auroc`: metric -> AUROC for the flipped labels."""

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
    flipped: int | None
    figures: list[str]


def run(settings: CslAggregateSettings, runtime: Runtime) -> CslAggregateResult | None:
    """Stream the arrays; write metrics, ids and figures."""
    given = inputs.open_run(settings, runtime)
    folder = settings.output_dir
    if runtime.plan(
        [
            f"aggregate {len(given.epochs)} epochs x {given.count:,} samples of {given.found.run.words()}",
            f"results in {folder}",
        ]
    ):
        return None
    run, owned = given.found.named, _owned(given.found.named)
    how: dict[str, Any] = {"owned": owned, "mends": True, "key": run.key, "listing": given.listing()}
    with jobs.opened(settings, folder, "csl aggregate", runtime, **how) as job:
        values, learnt, squared = _measure(given, settings, runtime)
        noise = _noise(settings, given.found.run)
        flips = _flips(given, noise)
        drawn = [folder / run.aggregated("csl", f"_{name}.png") for name in figures.NAMES]
        result = _result(settings, given, values, learnt, squared, flips, drawn)
        if not job.complete:
            _write(folder, given, values, result)
            _draw(settings, given, values, noise, drawn, runtime)
            job.finish(path for path in (folder / name for name in owned) if path.exists())
    return result


def _owned(run: Run) -> list[str]:
    """The job's files; the ids are shared by all runs in a folder."""
    made = [run.aggregated(name) for name in ARRAYS]
    drawn = [run.aggregated("csl", f"_{name}.png") for name in figures.NAMES]
    return [*made, *drawn, run.aggregated("metrics", ".json")]


def _measure(
    given: Input, settings: CslAggregateSettings, runtime: Runtime
) -> tuple[dict[str, np.ndarray], metrics.LearningTime | None, metrics.LearningTime | None]:
    """All per-sample values by the name of their file, float64 [N]."""
    unseen = settings.class_order is not None
    if settings.class_order is not None:
        read_order(settings.class_order)
    csl, epochs = metrics.cumulative_loss(
        arrays.stream(given.losses, given.count), given.count, skip_unseen=unseen
    )
    values: dict[str, np.ndarray] = {"csl": csl}
    never = epochs == 0
    if unseen:
        values["epochs_seen"] = epochs
        _check_begins(given, epochs, settings, runtime)
    bad = int((~np.isfinite(csl) & ~never).sum())
    if bad:
        hint = "" if unseen else " (--class-order leaves out the epochs before a class was seen)"
        runtime.warn(
            f"{bad:,} samples have a NaN or an infinity among their losses, and so has their CSL{hint}"
        )
    if given.ce is not None:
        values["csl_ce"], _ = metrics.cumulative_loss(
            arrays.stream(given.ce, given.count), given.count, skip_unseen=unseen
        )
    if unseen:
        # Without the decay, which is another sum for other epochs.
        values["csl_per_epoch"] = values.get("csl_ce", csl) / np.where(never, 1, epochs)
    if given.grads is None:
        return values, None, None
    grads = given.grads
    learnt = metrics.learning_time(
        lambda: arrays.stream(grads, given.count), given.epochs, given.count, skip_unseen=unseen
    )
    values |= {"lt": learnt.lt, "lt_first_epoch": learnt.first}
    squared = None
    if given.by_input:
        squared = metrics.learning_time(
            lambda: arrays.stream(grads, given.count),
            given.epochs,
            given.count,
            squared=True,
            skip_unseen=unseen,
        )
        values["lt_first_epoch_sq"] = squared.first
    excluded = given.count - learnt.finite - int(never.sum())
    if excluded > 0:
        runtime.warn(f"{excluded:,} samples have a NaN among their gradient norms: not in tau")
    return values, learnt, squared


def _check_begins(given: Input, epochs: np.ndarray, settings: CslAggregateSettings, runtime: Runtime) -> None:
    """Say what --class-order finds in losses that begin when a class is seen. `epochs` [N]: scored at so many."""
    never = int((epochs == 0).sum())
    if never:
        runtime.note(f"{never:,} samples were seen at none of these epochs, and have no CSL")
    if (epochs == len(given.epochs)).all() and len(given.epochs) > 1:
        runtime.warn(
            "every sample has a loss at every epoch, also before its class was seen: --class-order leaves out none "
            "(mcx csl score --seen-classes does)"
        )
    summary = records.peek_object(settings.input_dir / given.found.run.aggregated(naming.SUMMARY, ".json"))
    rows = [row for row in summary.get("epochs", []) if row.get("nonfinite") and row["epoch"] in given.epochs]
    if rows:
        runtime.warn(
            f"losses were not finite when they were scored at epochs {[row['epoch'] for row in rows][:10]}; those "
            "before the first finite one of a sample count as not seen"
        )


def _losses_of(settings: CslAggregateSettings) -> str:
    """Losses that training has recorded are other numbers than those of an evaluation."""
    said = records.peek_object(settings.input_dir / ABOUT).get("losses")
    return said if isinstance(said, str) else "of evaluation"


def _noise(settings: CslAggregateSettings, run: Run) -> dict[int, tuple[int, int]]:
    """id -> clean and trained label, where the run says so; empty otherwise."""
    path = settings.input_dir / run.aggregated(naming.LABEL_NOISE, ".csv")
    if not path.exists():
        return {}
    if len(path.read_text("utf-8").splitlines()) < 2:
        raise InputError(f"'{path}' names no samples")
    try:
        rows = np.loadtxt(path, delimiter=",", skiprows=1, dtype=np.int64, usecols=(0, 1, 2), ndmin=2)
    except ValueError as error:
        raise InputError(f"'{path}' cannot be read: {error}") from error
    return {number: (clean, trained) for number, clean, trained in rows.tolist()}


def _flips(given: Input, noise: Mapping[int, tuple[int, int]]) -> np.ndarray | None:
    """Which samples' labels were flipped, [N]. Raises InputError for samples that the run does not know."""
    if not noise:
        return None
    unknown = [number for number in given.ids.tolist() if number not in noise]
    if unknown:
        raise InputError(
            f"the label noise of the run does not name {len(unknown)} samples, such as id {unknown[0]}"
        )
    return np.array([noise[number][0] != noise[number][1] for number in given.ids.tolist()])


def _result(
    settings: CslAggregateSettings,
    given: Input,
    values: Mapping[str, np.ndarray],
    learnt: metrics.LearningTime | None,
    squared: metrics.LearningTime | None,
    flips: np.ndarray | None,
    drawn: list[Path],
) -> CslAggregateResult:
    run, folder, csl = given.found.named, settings.output_dir, values["csl"]
    order = _ranked(values.get("csl_per_epoch", csl))
    finite = csl[np.isfinite(csl)]
    number = min(settings.num_samples, len(order))

    def rows(places: np.ndarray) -> list[dict[str, float | int]]:
        return [
            {
                "sample_id": int(given.ids[i]),
                **{name: float(v[i]) for name, v in values.items()},
                **({} if flips is None else {"flipped": int(flips[i])}),
            }
            for i in places
        ]

    found = (
        {name: auroc(_score(values, name), flips) for name in values if name != "epochs_seen"}
        if flips is not None
        else {}
    )
    return CslAggregateResult(
        dataset=run.dataset,
        run_idx=run.run_idx,
        noise_level=run.noise,
        scheme=given.found.run.scheme,
        losses=_losses_of(settings),
        kept_epochs=given.epochs,
        missing_epochs=given.missing,
        num_epochs=len(given.epochs),
        losses_shape=[len(given.epochs), given.count],
        loss_grads_shape=None if given.grads is None else [len(given.epochs), given.count],
        csl_path=str(folder / run.aggregated("csl")),
        lt_path=None if learnt is None else str(folder / run.aggregated("lt")),
        tau=None if learnt is None else learnt.tau,
        tau_sq=None if squared is None else squared.tau,
        lt_source=_source(given, settings),
        mean_csl=float(finite.mean()) if len(finite) else None,
        samples_with_nan=int(np.isnan(csl).sum()),
        excluded_from_tau=0 if learnt is None else given.count - learnt.finite,
        hardest=rows(order[::-1][:number]),
        easiest=rows(order[:number]),
        auroc=found,
        flipped=None if flips is None else int(flips.sum()),
        figures=[str(path) for path in drawn],
    )


def _score(values: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """A metric as a score: a sample that never falls below tau comes after all that do."""
    if not name.startswith("lt_first_epoch"):
        return values[name]
    return np.where(np.isnan(values[name]) & np.isfinite(values["lt"]), np.inf, values[name])


def _source(given: Input, settings: CslAggregateSettings) -> dict[str, Any]:
    """What the learning time was computed from."""
    if given.grads is None:
        return {"source": "none"}
    if settings.loss_as_grad:
        return {"source": "loss"}
    return {"source": "loss_grad", "loss_at_epochs": given.stand_ins}


def _ranked(csl: np.ndarray) -> np.ndarray:
    """Places of the samples with a CSL, the smallest first; equal ones in the order of the arrays."""
    order = np.argsort(csl, kind="stable")
    ranked: np.ndarray = order[np.isfinite(csl[order])]
    return ranked


def _write(folder: Path, given: Input, values: Mapping[str, np.ndarray], result: CslAggregateResult) -> None:
    run = given.found.named
    path, order = folder / IDS, np.argsort(given.ids)
    ids = given.ids[order]
    if path.exists() and not np.array_equal(arrays.read_ids(path), ids):
        raise OutputError(f"'{path}' names other samples, or in another order", "use another --output-dir")
    files.write_array(path, ids)
    for name, array in values.items():
        kind = np.int32 if name == "epochs_seen" else np.float32
        files.write_array(folder / run.aggregated(name), array[order].astype(kind))
    files.write_json(folder / run.aggregated("metrics", ".json"), result.document())


def _draw(
    settings: CslAggregateSettings,
    given: Input,
    values: Mapping[str, np.ndarray],
    noise: Mapping[int, tuple[int, int]],
    drawn: list[Path],
    runtime: Runtime,
) -> None:
    shown = values.get("csl_per_epoch", values["csl"])
    order = _ranked(shown)
    number = min(settings.num_samples, len(order) // 2)
    chosen = {"hardest": order[::-1][:number], "easiest": order[:number]}
    curves = {
        name: np.stack([values_[places] for values_ in arrays.stream(given.losses, given.count)])
        for name, places in chosen.items()
    }
    images = figures.images_of(
        settings, given.found.run.dataset, {k: given.ids[v] for k, v in chosen.items()}, runtime
    )
    contents = (
        figures.histograms(values),
        figures.curves(given.epochs, curves),
        figures.gallery(given.ids, chosen, shown, images, noise),
    )
    for path, content in zip(drawn, contents, strict=True):
        files.atomic_write(path, content)
