"""The arrays of a run that are aggregated: found, checked and counted before anything is computed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from modeconn_cli.engine import names
from modeconn_cli.engine.commands.csl import naming
from modeconn_cli.engine.commands.csl.naming import EPOCH_IDS, IDS, Found, RunName
from modeconn_cli.engine.datasets import TRAINING, name_of
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks.checkpoints.epochs import between, lacking
from modeconn_cli.engine.registry import is_import_path
from modeconn_cli.engine.results import arrays, jobs, listing, manifest, records
from modeconn_cli.engine.samples.pictures import Pictured
from modeconn_cli.engine.samples.scores import COLUMNS, NORMS
from modeconn_cli.engine.settings.csl import CslAggregateSettings
from modeconn_cli.engine.settings.shared import MeasuredDataSettings
from modeconn_cli.engine.training import halves, recorded
from modeconn_cli.engine.training.halves import Halves

if TYPE_CHECKING:
    import pandas as pd

JOBS = ("csl-score", "train")  # that make such arrays


@dataclass(frozen=True)
class RunArrays:
    """The arrays of a run for the kept epochs; `grads` None: no gradient norms at all.

    `ids` int64 [N] are places in the arrays where no file names the samples; `named_ids`: they may be taken for ids.
    `own_ids` are the files that name an array's own samples, where every epoch has one; the others are NaN there.
    `dynamics` are the files of the columns of `samples/scores.py`, None where an epoch has none.
    `named` is what its results are called after, `summary` what the scoring says of itself, where it has left one.
    """

    folder: Path
    run: RunName
    named: RunName
    epochs: list[int]
    missing: list[int]
    losses: list[Path]
    grads: list[Path] | None
    ce: list[Path] | None
    dynamics: list[Path] | None
    ids: np.ndarray
    named_ids: bool
    stand_ins: list[int]  # epochs whose losses stand for missing gradient norms
    summary: Mapping[str, Any]
    own_ids: Mapping[Path, Path]
    lr: float | None = None  # of every epoch, whatever the checkpoints say

    @property
    def count(self) -> int:
        """How many samples there are."""
        return len(self.ids)

    @property
    def holds(self) -> tuple[str, ...]:
        """The columns that every epoch has; the learning rate is one number for all samples."""
        if self.dynamics is None:
            return ()
        norms = [name for name in NORMS.values() if name in (self.summary.get("columns") or ())]
        rate = ["lr"] if len(self.rates) == len(self.epochs) else []
        phases = [] if self.halves is None or self.halves.epochs not in self.epochs else ["first_half"]
        return (*(column.name for column in COLUMNS), *norms, *rate, *phases)

    @property
    def half(self) -> int:
        """The epochs of each of two phases, 0 without."""
        return 0 if self.halves is None else self.halves.epochs

    @property
    def halves(self) -> Halves | None:
        """The two phases of the run."""
        return halves.said(self.summary.get("halves"))

    @property
    def lacks(self) -> str:
        """Why there are no columns."""
        return "not every epoch has a file dynamics_*.npz (csl score writes them)"

    @property
    def files(self) -> list[Path]:
        return [*self.vectors, *(self.dynamics or ()), *self.vog_files.values()]

    @property
    def vectors(self) -> list[Path]:
        """The arrays of one value per sample."""
        return [*self.losses, *(self.grads or ()), *(self.ce or ())]

    def values(self, paths: list[Path]) -> Iterator[np.ndarray]:
        """The values [N] of one epoch after the other; each is gone when the next one comes."""
        if not self.own_ids:
            yield from arrays.stream(paths, self.count)
            return
        whole = np.empty(self.count, dtype=np.float32)
        for path in paths:
            ids = arrays.read_ids(self.own_ids[path])
            whole[:] = np.nan
            whole[np.searchsorted(self.ids, ids)] = arrays.read(path, len(ids))
            yield whole

    def columns(self, names: Collection[str]) -> Iterator[dict[str, np.ndarray]]:
        """Columns [N] of one epoch after the other, each file read once.

        Raises InputError for a file that does not hold them, or not of these samples.
        """
        read = [name for name in names if name not in ("lr", "first_half")]
        for epoch, path in zip(self.epochs, self.dynamics or (), strict=False):
            with arrays.npz(path) as archive:
                if lacking := [name for name in read if name not in archive]:
                    raise InputError(f"'{path}' has no column {', '.join(lacking)}", "score its epoch again")
                found = {name: archive[name] for name in read}
            for name, values in found.items():
                if values.shape != (self.count,) or values.dtype.kind != "f":
                    raise InputError(
                        f"'{path}' holds {values.dtype} {values.shape} as {name}, expected float ({self.count},)"
                    )
            if "lr" in names:
                found["lr"] = np.asarray(self.rates[epoch])
            if "first_half" in names and self.halves is not None:
                found["first_half"] = self.halves.first(torch.from_numpy(self.ids)).numpy()
            yield found

    @property
    def rates(self) -> dict[int, float]:
        """epoch -> learning rate: the one that is said for all, else those of the checkpoints when they were scored."""
        if self.lr is not None:
            return dict.fromkeys(self.epochs, self.lr)
        rows = {row["epoch"]: row.get("lr") for row in self.summary.get("epochs") or ()}
        return {epoch: rows[epoch] for epoch in self.epochs if rows.get(epoch) is not None}

    @property
    def vog_files(self) -> dict[str, Path]:
        """The variance of gradients by kind, where it was scored over these epochs."""
        if self.summary.get("vog_epochs") != self.epochs:
            return {}
        return {kind: self.folder / self.run.aggregated(kind) for kind in naming.VOGS}

    def vogs(self) -> dict[str, np.ndarray]:
        """The variance of gradients [N] by kind."""
        return {kind: np.asarray(arrays.read(path, self.count)) for kind, path in self.vog_files.items()}

    def of_samples(self, paths: list[Path], places: np.ndarray) -> np.ndarray:
        """The values [E, samples] of a few samples; where all arrays have them in one order, nothing else is read."""
        if self.own_ids:
            return np.stack([whole[places] for whole in self.values(paths)])
        return np.stack([arrays.read(path, self.count)[places] for path in paths])

    def listing(self, data: MeasuredDataSettings) -> str:
        """What the results are made of, the images of `data` among them; the folder may have been moved."""
        beside = [self.folder / IDS, self.folder / self.run.aggregated(naming.LABEL_NOISE, ".csv")]
        read = (*self.files, *self.own_ids.values(), *(path for path in beside if path.exists()))
        made_of = jobs.listing({path.name: path for path in read})
        scored = " ".join(f"{name} {self.summary.get(name)}" for name in ("grad", "split"))
        return f"{made_of}{scored}\nimages of {data.dataset} {data.data_path or ''}\n"

    def listed_labels(self) -> pd.Series | None:
        """The labels that were scored, by sample id, as far as a table of the samples says them."""
        return listing.read([self.folder / self.run.aggregated(listing.STEM, ".csv")]).labels

    def labels(self) -> np.ndarray | None:
        """The labels that were scored, int64 [N], where a table of the samples says all of them."""
        said = self.listed_labels()
        found = np.array([]) if said is None else said.reindex(self.ids).to_numpy()
        return None if said is None or np.isnan(found).any() else found.astype(np.int64)

    def losses_of(self) -> str:
        """Losses that training has recorded are other numbers than those of an evaluation."""
        return recorded.kind_of(self.folder)

    def label_noise(self, runtime: Runtime) -> dict[int, tuple[int, int]]:
        """id -> clean and trained label, where the run says so; empty otherwise.

        Raises InputError for a table that cannot be read or does not name all samples.
        """
        path = self.folder / self.run.aggregated(naming.LABEL_NOISE, ".csv")
        manifest.check([path], JOBS)
        if not path.exists():
            return {}
        if not self.named_ids:
            runtime.note(f"'{path}' is not read, as it names samples by their ids")
            return {}
        if len(path.read_text("utf-8").splitlines()) < 2:
            raise InputError(f"'{path}' names no samples")
        try:
            rows = np.loadtxt(path, delimiter=",", skiprows=1, dtype=np.int64, usecols=(0, 1, 2), ndmin=2)
        except ValueError as error:
            raise InputError(f"'{path}' cannot be read: {error}") from error
        noise = {number: (clean, trained) for number, clean, trained in rows.tolist()}
        unknown = [number for number in self.ids.tolist() if number not in noise]
        if unknown:
            raise InputError(
                f"the label noise of the run does not name {len(unknown)} samples, such as id {unknown[0]}"
            )
        return noise


def find(settings: CslAggregateSettings, runtime: Runtime) -> RunArrays:
    """Find the run and check every array's header before anything is computed."""
    folder = settings.input_dir
    found = naming.find(
        folder,
        dataset=settings.dataset,
        run_idx=settings.run_idx,
        noise=settings.noise_level,
        scheme=settings.scheme,
    )
    recorded.check_alone(folder, (path for files in found.files.values() for path in files.values()))
    losses, ce, dynamics = (found.files[kind] for kind in ("loss", "loss_ce", naming.DYNAMICS))
    if not settings.allow_missing:
        _check_made(found, settings)
    epochs, missing = between(
        losses, settings.start_epoch, settings.end_epoch, settings.epoch_step, "losses",
        lenient=settings.allow_missing,
    )  # fmt: skip
    if missing:
        runtime.warn(f"{len(missing)} epochs of the range are missing and left out: {missing[:10]}")
    if gaps := [] if missing else lacking(epochs):
        runtime.note(
            f"{len(gaps)} epochs between {epochs[0]} and {epochs[-1]} are not there: {gaps[:10]}; scores are of those "
            "that are, changes between them"
        )
    _check_holes(found, epochs, settings)
    by_epoch = _ids_by_epoch(folder, epochs)
    known: np.ndarray | None
    if by_epoch:
        known = np.unique(np.concatenate([arrays.read_ids(path) for path in by_epoch.values()]))
        runtime.note(f"the samples of every epoch are those that its {EPOCH_IDS.format('<e>')} names")
    else:
        known = _ids(folder, losses[epochs[0]])
    named_ids = known is not None or settings.assume_index
    ids = np.arange(len(arrays.read(losses[epochs[0]]))) if known is None else known
    if known is None:
        runtime.note(
            f"position stands for the sample id: there is no '{IDS}' (--assume-index)"
            if named_ids
            else f"there is no '{IDS}': no ids are written and no sample is named (--assume-index, if the arrays "
            "hold sample 0, 1, 2 … in this order)"
        )
    grads, stand_ins = _gradients(found, epochs, settings, runtime)
    summary = folder / found.run.aggregated(naming.SUMMARY, ".json")
    run = RunArrays(
        folder=folder,
        run=found.run,
        named=found.named,
        epochs=epochs,
        missing=missing,
        losses=[losses[epoch] for epoch in epochs],
        grads=grads,
        ce=[ce[epoch] for epoch in epochs] if all(epoch in ce for epoch in epochs) else None,
        dynamics=None if by_epoch or set(epochs) - set(dynamics) else [dynamics[epoch] for epoch in epochs],
        ids=ids,
        named_ids=named_ids,
        stand_ins=stand_ins,
        summary=records.read_object(summary) if summary.exists() else {},
        own_ids={
            found.files[kind][epoch]: ids_file
            for epoch, ids_file in by_epoch.items()
            for kind in naming.KINDS
            if epoch in found.files[kind]
        },
        lr=settings.lr,
    )
    for path in run.vectors:
        own = run.own_ids.get(path)
        arrays.read(path, run.count if own is None else len(arrays.read_ids(own)))
    manifest.check([*run.files, folder / found.run.aggregated(listing.STEM, ".csv")], JOBS)
    return run


def data_of(found: RunArrays, settings: CslAggregateSettings) -> Pictured:
    """The data whose images are drawn: those that --dataset says, else those that the arrays were made from.

    The job that has made the arrays remembers them, and what changes an image; a name alone says no more than the file
    names do. A data factory has to be named by --dataset: a folder of arrays does not run code.
    """
    name = found.run.dataset
    made_by = (
        jobs.private_folder(found.folder, "csl score", found.run.key),
        jobs.private_folder(found.folder.parent, "train"),
    )
    documents = [records.peek_object(job / names.RECORD_FILE) for job in made_by]
    said: dict[str, Any] = next(
        (each for each in map(records.settings_of, documents) if isinstance(each.get("dataset"), str)), {}
    )
    of_scoring = documents[0].get("data")
    scored = of_scoring.get(TRAINING) if isinstance(of_scoring, dict) else None
    place = Path(said["data_path"]).expanduser() if isinstance(said.get("data_path"), str) else None
    if said and name_of(said["dataset"], place) != name:
        said, place, scored = {}, None, None
    other = settings.dataset
    if other == name and not is_import_path(name):
        other = None  # no more than the file names say
    if other is None and "dataset" not in said:
        said = {**said, "dataset": name}
    return Pictured.of({**said, "data_path": place and str(place)}, scored, other, settings.data_path)


def _ids_by_epoch(folder: Path, epochs: list[int]) -> dict[int, Path]:
    """epoch -> the file that names its samples, where every epoch has one and none names those of all."""
    found = {epoch: folder / EPOCH_IDS.format(epoch) for epoch in epochs}
    alone = not (folder / IDS).exists()
    return found if alone and all(path.exists() for path in found.values()) else {}


def _ids(folder: Path, losses: Path) -> np.ndarray | None:
    """The ids of the samples, int64 [N]; None where no file says.

    Raises InputError where a job of our own had said it, and the file is not what it was.
    """
    count = len(arrays.read(losses))
    if count == 0:
        raise InputError(f"'{losses}' holds no samples")
    path = folder / IDS
    manifest.check([path], JOBS)
    if not path.exists():
        return None
    ids = arrays.read_ids(path)
    if len(ids) != count:
        raise InputError(f"'{path}' names {len(ids):,} samples, '{losses}' holds {count:,}")
    return ids


def _check_made(found: Found, settings: CslAggregateSettings) -> None:
    """Raises InputError for arrays of asked epochs that our own scoring has made and that are gone."""
    first, last = settings.start_epoch or 0, settings.end_epoch
    any_loss = next(iter(found.files["loss"].values()))
    for path in sorted(manifest.made_beside(any_loss, JOBS)):
        said = naming.parse(path.name)
        if said is None or said[0] != found.run or said[1] not in naming.KINDS or path.exists():
            continue
        if first <= said[2] and (last is None or said[2] <= last):
            raise InputError(
                f"'{path}' is missing, which mcx csl score had made",
                "score it again, or pass --allow-missing",
            )


def _check_holes(found: Found, epochs: list[int], settings: CslAggregateSettings) -> None:
    """Raises InputError where gradient norms say that an epoch's losses were there; SettingsError for two wishes."""
    if settings.strict_grads and settings.loss_as_grad:
        raise SettingsError("--strict-grads and --loss-as-grad exclude each other")
    inside = [epoch for epoch in found.files["loss_grad"] if epochs[0] <= epoch <= epochs[-1]]
    lost = sorted(epoch for epoch in inside if epoch not in found.files["loss"])
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
