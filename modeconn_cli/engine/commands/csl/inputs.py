"""The arrays of a run that are aggregated: found, checked and counted before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modeconn_cli.engine import names
from modeconn_cli.engine.commands.csl import naming
from modeconn_cli.engine.commands.csl.naming import IDS, Found
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks.checkpoints.epochs import between
from modeconn_cli.engine.results import arrays, jobs, records
from modeconn_cli.engine.results.fingerprints import sha256
from modeconn_cli.engine.settings.csl import CslAggregateSettings


@dataclass(frozen=True)
class Input:
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


def _check_manifest(found: Found, folder: Path, paths: list[Path]) -> None:
    """Raises InputError where an array is not what mcx wrote; other folders say nothing of their arrays."""
    known: dict[Path, tuple[str, str, str]] = {}
    for place, command, key, again in (
        (folder, "csl score", found.run.key, "score its epoch again"),
        (folder.parent, "train", "", "train again"),
    ):
        manifest = jobs.private_folder(place, command, key) / names.MANIFEST_FILE
        for entry in records.read_object(manifest).get("files", []) if manifest.exists() else ():
            known[place / entry["file"]] = (entry["sha256"], command, again)
    for path in paths:
        expected, command, again = known.get(path, ("", "", ""))
        if expected and sha256(path) != expected:
            raise InputError(f"'{path}' is not what mcx {command} wrote: it was changed or damaged", again)


def open_run(settings: CslAggregateSettings, runtime: Runtime) -> Input:
    """Find the run and check every array's header before anything is computed."""
    found = naming.find(
        settings.input_dir,
        dataset=settings.dataset,
        run_idx=settings.run_idx,
        noise=settings.noise_level,
        scheme=settings.scheme,
    )
    losses = found.files["loss"]
    epochs, missing = between(
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
    given = Input(found, epochs, missing, chosen, grads, kept_ce, ids, stand_ins, by_input)
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
    return summary.exists() and bool(records.read_object(summary).get("grad") == "input")
