"""`mcx csl aggregate`: cumulative sample loss and learning time from per-epoch arrays, ours or the original's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from modeconn_cli.engine import files, jobs, names, records
from modeconn_cli.engine.csl import arrays, figures, metrics, naming
from modeconn_cli.engine.csl.naming import IDS, Found, Run
from modeconn_cli.engine.errors import InputError, OutputError, SettingsError
from modeconn_cli.engine.records import Record
from modeconn_cli.engine.runtime import Runtime
from modeconn_cli.engine.settings.csl import CslAggregateSettings

ARRAYS = ("csl", "csl_ce", "lt", "lt_first_epoch", "lt_first_epoch_sq", "epochs_seen")
INPUTS = "arrays.txt"  # names, sizes and times of what was aggregated


@dataclass(frozen=True, kw_only=True)
class CslAggregateResult(Record):
    """`lt_source` says per epoch what stood for the gradient norm; `auroc`: metric -> AUROC for the flipped labels."""

    schema: ClassVar[str] = "mcx.csl_aggregate/1"

    dataset: str
    run_idx: int | None
    noise_level: float | None
    scheme: str
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


@dataclass(frozen=True)
class _Input:
    """The arrays of a run for the kept epochs; `grads` None: no gradient norms at all."""

    found: Found
    epochs: list[int]
    missing: list[int]
    losses: list[Path]
    grads: list[Path] | None
    ce: list[Path] | None
    ids: np.ndarray
    stand_ins: list[int]  # epochs whose losses stand for missing gradient norms
    by_input: bool

    @property
    def count(self) -> int:
        return len(self.ids)

    @property
    def files(self) -> list[Path]:
        return [*self.losses, *(self.grads or ()), *(self.ce or ())]

    def listing(self) -> str:
        """A line per file: name, size and time."""
        stats = [(path.name, path.stat()) for path in self.files]
        return "".join(f"{name} {stat.st_size} {stat.st_mtime_ns}\n" for name, stat in stats)


def run(settings: CslAggregateSettings, runtime: Runtime) -> CslAggregateResult | None:
    """Stream the arrays; write metrics, ids and figures."""
    given = _open(settings, runtime)
    folder = settings.output_dir
    if folder is None:
        raise SettingsError("no folder for the results", "pass --output-dir DIR")
    if runtime.plan(
        [
            f"aggregate {len(given.epochs)} epochs x {given.count:,} samples of {given.found.run.words()}",
            f"results in {folder}",
        ]
    ):
        return None
    run, owned = given.found.run, _owned(given.found.run)
    with jobs.opened(settings, folder, "csl aggregate", runtime, owned=owned, mends=True, key=run.key) as job:
        _compare_inputs(given, job)
        values, learnt, squared = _measure(given, settings, runtime)
        noise = _noise(settings, run)
        flips = _flips(given, noise)
        drawn = [folder / run.aggregated("csl", f"_{name}.png") for name in figures.NAMES]
        result = _result(settings, given, values, learnt, squared, flips, drawn)
        if not job.complete:
            _write(folder, given, values, result)
            _draw(settings, given, values, noise, drawn, runtime)
            files.write_text(job.private / INPUTS, given.listing())
            job.finish(path for path in (folder / name for name in owned) if path.exists())
    return result


def _owned(run: Run) -> list[str]:
    """The job's files; the ids are shared by all runs in a folder."""
    made = [run.aggregated(name) for name in ARRAYS]
    drawn = [run.aggregated("csl", f"_{name}.png") for name in figures.NAMES]
    return [*made, *drawn, run.aggregated("metrics", ".json")]


def _compare_inputs(given: _Input, job: jobs.Job) -> None:
    """A finished job whose arrays have changed since has to be done again."""
    listing = job.private / INPUTS
    if job.complete and not (listing.exists() and listing.read_text("utf-8") == given.listing()):
        (job.private / names.MANIFEST_FILE).unlink(missing_ok=True)
        job.complete = False


def _check_manifest(found: Found, folder: Path, paths: list[Path]) -> None:
    """Raises InputError where an array is not what mcx csl score wrote; other folders say nothing of their arrays."""
    manifest = (
        folder / names.JOB_FOLDER / "-".join(["csl", "score", *found.run.key.split()]) / names.MANIFEST_FILE
    )
    if not manifest.exists():
        return
    known = {entry["file"]: entry["sha256"] for entry in _document(manifest).get("files", [])}
    for path in paths:
        if path.name in known and records.sha256(path) != known[path.name]:
            raise InputError(
                f"'{path}' is not what mcx csl score wrote: it was changed or damaged",
                "score its epoch again",
            )


def _open(settings: CslAggregateSettings, runtime: Runtime) -> _Input:
    """Find the run and check every array's header before anything is computed."""
    if settings.input_dir is None:
        raise SettingsError("no arrays", "pass --input-dir DIR")
    found = naming.find(
        settings.input_dir,
        dataset=settings.dataset,
        run_idx=settings.run_idx,
        noise=settings.noise_level,
        scheme=settings.scheme,
    )
    losses = found.files["loss"]
    epochs, missing = naming.epochs_between(
        losses, settings.start_epoch, settings.end_epoch, settings.epoch_step, "losses",
        lenient=settings.allow_missing,
    )  # fmt: skip
    if missing:
        runtime.warn(f"{len(missing)} epochs of the range are missing and left out: {missing[:10]}")
    _check_holes(found, epochs, settings)
    first = arrays.read(losses[epochs[0]])
    if len(first) == 0:
        raise InputError(f"'{losses[epochs[0]]}' holds no samples")
    ids_file = settings.input_dir / IDS
    ids = arrays.read_ids(ids_file) if ids_file.exists() else np.arange(len(first))
    if len(ids) != len(first):
        raise InputError(
            f"'{ids_file}' names {len(ids):,} samples, '{losses[epochs[0]]}' holds {len(first):,}"
        )
    grads, stand_ins = _gradients(found, epochs, settings, runtime)
    ce = found.files["loss_ce"]
    chosen = [losses[epoch] for epoch in epochs]
    kept_ce = [ce[epoch] for epoch in epochs] if all(epoch in ce for epoch in epochs) else None
    by_input = _by_input(settings.input_dir / found.run.aggregated(naming.SUMMARY, ".json"))
    given = _Input(found, epochs, missing, chosen, grads, kept_ce, ids, stand_ins, by_input)
    for path in given.files:
        arrays.read(path, len(ids))
    _check_manifest(found, settings.input_dir, given.files)
    return given


def _check_holes(found: Found, epochs: list[int], settings: CslAggregateSettings) -> None:
    """Raises InputError where gradient norms say that an epoch's losses were there; SettingsError for two wishes."""
    if settings.strict_grads and settings.loss_as_grad:
        raise SettingsError("--strict-grads and --loss-as-grad exclude each other")
    inside = [e for e in found.files["loss_grad"] if epochs[0] <= e <= epochs[-1]]
    lost = sorted(e for e in inside if e not in found.files["loss"])
    if lost and not settings.allow_missing:
        raise InputError(
            f"losses of {len(lost)} epochs are missing whose gradient norms are there: {lost[:10]}",
            "score them again, or pass --allow-missing",
        )


def _gradients(
    found: Found, epochs: list[int], settings: CslAggregateSettings, runtime: Runtime
) -> tuple[list[Path] | None, list[int]]:
    """The file that stands for every epoch's gradient norms, and the epochs whose losses do."""
    losses, grads = found.files["loss"], found.files["loss_grad"]
    if settings.loss_as_grad:
        return [losses[epoch] for epoch in epochs], list(epochs)
    absent = [epoch for epoch in epochs if epoch not in grads]
    if absent and settings.strict_grads:
        raise InputError(
            f"gradient norms of {len(absent)} epochs are missing: {absent[:10]}", "leave out --strict-grads"
        )
    if len(absent) == len(epochs):
        runtime.note("no gradient norms: cumulative loss only (--loss-as-grad takes the losses for them)")
        return None, []
    if absent:
        runtime.warn(f"the losses stand in for the missing gradient norms of epochs {absent[:10]}")
    return [grads.get(epoch, losses[epoch]) for epoch in epochs], absent


def _by_input(summary: Path) -> bool:
    """Whether the gradient norms are the paper's, by the input; the summary of the scoring says so."""
    return summary.exists() and bool(_document(summary).get("grad") == "input")


def _document(path: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' cannot be read: {error}") from error
    return document if isinstance(document, dict) else {}


def _measure(
    given: _Input, settings: CslAggregateSettings, runtime: Runtime
) -> tuple[dict[str, np.ndarray], metrics.LearningTime | None, metrics.LearningTime | None]:
    """All per-sample values by the name of their file, float64 [N]."""
    unseen = settings.class_order is not None
    csl, epochs = metrics.cumulative_loss(
        arrays.stream(given.losses, given.count), given.count, skip_unseen=unseen
    )
    values: dict[str, np.ndarray] = {"csl": csl}
    if unseen:
        values["epochs_seen"] = epochs
    bad = int((~np.isfinite(csl)).sum())
    if bad:
        runtime.warn(f"{bad:,} samples have a NaN or an infinity among their losses, and so has their CSL")
    if given.ce is not None:
        values["csl_ce"], _ = metrics.cumulative_loss(
            arrays.stream(given.ce, given.count), given.count, skip_unseen=unseen
        )
    if given.grads is None:
        return values, None, None
    grads = given.grads
    learnt = metrics.learning_time(lambda: arrays.stream(grads, given.count), given.epochs, given.count)
    values |= {"lt": learnt.lt, "lt_first_epoch": learnt.first}
    squared = None
    if given.by_input:
        squared = metrics.learning_time(
            lambda: arrays.stream(grads, given.count), given.epochs, given.count, squared=True
        )
        values["lt_first_epoch_sq"] = squared.first
    if learnt.finite < given.count:
        runtime.warn(
            f"{given.count - learnt.finite:,} samples have a NaN among their gradient norms: not in tau"
        )
    return values, learnt, squared


def _noise(settings: CslAggregateSettings, run: Run) -> dict[int, tuple[int, int]]:
    """id -> clean and trained label, where the run says so; empty otherwise."""
    assert settings.input_dir is not None
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


def _flips(given: _Input, noise: Mapping[int, tuple[int, int]]) -> np.ndarray | None:
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
    given: _Input,
    values: Mapping[str, np.ndarray],
    learnt: metrics.LearningTime | None,
    squared: metrics.LearningTime | None,
    flips: np.ndarray | None,
    drawn: list[Path],
) -> CslAggregateResult:
    run, folder, csl = given.found.run, settings.output_dir, values["csl"]
    assert folder is not None
    order = _ranked(csl)
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
        {name: metrics.auroc(_score(values, name), flips) for name in values if name != "epochs_seen"}
        if flips is not None
        else {}
    )
    return CslAggregateResult(
        dataset=run.dataset,
        run_idx=run.run_idx,
        noise_level=run.noise,
        scheme=run.scheme,
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


def _source(given: _Input, settings: CslAggregateSettings) -> dict[str, Any]:
    """What the learning time was computed from."""
    if given.grads is None:
        return {"source": "none"}
    if settings.loss_as_grad:
        return {"source": "loss"}
    return {"source": "loss_grad", "loss_at_epochs": given.stand_ins}


def _ranked(csl: np.ndarray) -> np.ndarray:
    """Places of the samples with a CSL, the smallest first; equal ones in id order."""
    order = np.argsort(csl, kind="stable")
    return (
        order[: int(np.isfinite(csl[order]).sum())]
        if np.isfinite(csl).all()
        else order[np.isfinite(csl[order])]
    )


def _write(folder: Path, given: _Input, values: Mapping[str, np.ndarray], result: CslAggregateResult) -> None:
    run: Run = given.found.run
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
    given: _Input,
    values: Mapping[str, np.ndarray],
    noise: Mapping[int, tuple[int, int]],
    drawn: list[Path],
    runtime: Runtime,
) -> None:
    order = _ranked(values["csl"])
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
        figures.gallery(given.ids, chosen, values["csl"], images, noise),
    )
    for path, content in zip(drawn, contents, strict=True):
        files.atomic_write(path, content)
