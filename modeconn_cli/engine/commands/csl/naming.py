"""The names of per-epoch and aggregated arrays, in both documented schemes.

long   loss_<dataset>_run<r>_epoch_<e>_noise_<n>.npy
short  loss_<dataset>_epoch_<e>.npy
Gradient norms are `loss_grad_…`, losses without weight decay `loss_ce_…`; the columns of an epoch's logits are all in
one `dynamics_….npz`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modeconn_cli.engine.datasets import name_of
from modeconn_cli.engine.errors import InputError, SettingsError, did_you_mean, must_exist

Scheme = Literal["long", "short"]
DYNAMICS = "dynamics"
KINDS = ("loss", "loss_grad", "loss_ce", DYNAMICS)

IDS = "sample_ids.npy"
EPOCH_IDS = "sample_ids_epoch_{}.npy"  # of an epoch's own samples, as the original's arrays have them
SUMMARY = "csl_score"  # of a scoring, .json
VOG, VOG_CLASS = "vog", "vog_class"  # variance of gradients, and standardised within classes
VOGS = (VOG, VOG_CLASS)
LABEL_NOISE = "label_noise"  # of the run that was scored, .csv

# Kinds in this order: `loss` would take the others for data sets.
_LONG = re.compile(
    r"(loss_grad|loss_ce|loss|dynamics)_(.+)_run(\d+)_epoch_(\d+)_noise_(\d+(?:\.\d+)?(?:e-?\d+)?)(\.np[yz])"
)
_SHORT = re.compile(r"(loss_grad|loss_ce|loss|dynamics)_(.+)_epoch_(\d+)(\.np[yz])")


@dataclass(frozen=True)
class RunName:
    """What tells the arrays of one run from another's; a short name says neither run nor noise."""

    dataset: str
    run_idx: int | None
    noise: float | None

    @property
    def scheme(self) -> Scheme:
        return "short" if self.run_idx is None else "long"

    def per_epoch(self, kind: str, epoch: int | Literal["*"]) -> str:
        """The array of an epoch; with `*` a glob for those of all epochs."""
        suffix = _suffix(kind)
        if self.run_idx is None:
            return f"{kind}_{self.dataset}_epoch_{epoch}{suffix}"
        return f"{kind}_{self.dataset}_run{self.run_idx}_epoch_{epoch}_noise_{self.noise:g}{suffix}"

    def aggregated(self, what: str, suffix: str = ".npy") -> str:
        """`csl_<dataset>_run<r>_noise_<n>.npy`; run 1 and noise 0 where the short names do not say."""
        number = 1 if self.run_idx is None else self.run_idx
        return f"{what}_{self.dataset}_run{number}_noise_{self.noise or 0:g}{suffix}"

    def patterns(self) -> list[str]:
        """Globs of the run's per-epoch files."""
        return [self.per_epoch(kind, "*") for kind in KINDS]

    @property
    def key(self) -> str:
        """What tells the run's job from others in the same folder."""
        if self.run_idx is None:
            return f"{self.dataset} short"
        return f"{self.dataset} run{self.run_idx} noise{self.noise:g}"

    def words(self) -> str:
        if self.run_idx is None:
            return f"{self.dataset} (short names)"
        return f"{self.dataset}, run {self.run_idx}, noise {self.noise:g}"


def _suffix(kind: str) -> str:
    return ".npz" if kind == DYNAMICS else ".npy"


def parse(name: str) -> tuple[RunName, str, int] | None:
    """Run, kind and epoch that a file name says; None for other files."""
    if found := _LONG.fullmatch(name):
        kind, dataset, run_idx, epoch, noise, suffix = found.groups()
        run = RunName(dataset, int(run_idx), float(noise))
    elif found := _SHORT.fullmatch(name):
        kind, dataset, epoch, suffix = found.groups()
        run = RunName(dataset, None, None)
    else:
        return None
    return (run, kind, int(epoch)) if suffix == _suffix(kind) else None


@dataclass(frozen=True)
class Found:
    """The arrays of one run in a folder: kind -> epoch -> file; `named` is what their results are called after."""

    run: RunName
    files: dict[str, dict[int, Path]]
    named: RunName


def find(
    folder: Path, *, dataset: str | None, run_idx: int | None, noise: float | None, scheme: Scheme | None
) -> Found:
    """The arrays of the run that is asked for, or of the only one; `dataset` is its name, or data of this name.

    Short names say neither run nor noise: there these are the user's word for the results.
    Raises InputError for a folder without any, SettingsError where several runs or both schemes fit.
    """
    must_exist(folder, "pass the --output-dir of mcx csl score", folder=True)
    runs: dict[RunName, dict[str, dict[int, Path]]] = {}
    for path in sorted(folder.iterdir()):
        said = parse(path.name)
        if said is not None:
            run, kind, epoch = said
            there = runs.setdefault(run, {name: {} for name in KINDS})[kind]
            if epoch in there:
                raise SettingsError(
                    f"'{there[epoch].name}' and '{path.name}' are the same epoch of the same run",
                    "move one of them away",
                )
            there[epoch] = path
    fits = [run for run in runs if runs[run]["loss"] and (scheme is None or run.scheme == scheme)]
    if not fits:
        raise InputError(
            f"'{folder}' holds no loss_<dataset>_…epoch_<e>…npy"
            + (f" in the {scheme} scheme" if scheme and runs else ""),
            "pass the --output-dir of mcx csl score",
        )
    if dataset is not None:
        dataset = dataset if any(run.dataset == dataset for run in fits) else name_of(dataset)
        fits = _only(fits, [run for run in fits if run.dataset == dataset], f"data set '{dataset}'", dataset)
    if len({run.scheme for run in fits}) > 1:
        raise SettingsError(
            f"'{folder}' holds both naming schemes", "choose with --scheme long or --scheme short"
        )
    short = fits[0].scheme == "short"
    if run_idx is not None and not short:
        fits = _only(fits, [run for run in fits if run.run_idx == run_idx], f"run {run_idx}")
    if noise is not None and not short:
        fits = _only(fits, [run for run in fits if run.noise == noise], f"noise {noise:g}")
    if len(fits) > 1:
        raise SettingsError(
            f"'{folder}' holds {len(fits)} runs: {'; '.join(run.words() for run in fits)}",
            "choose with --dataset, --run-idx and --noise-level",
        )
    run = fits[0]
    named = run
    if short and (run_idx, noise) != (None, None):
        named = RunName(run.dataset, 1 if run_idx is None else run_idx, noise or 0.0)
    return Found(run, runs[run], named)


def _only(all_runs: list[RunName], fits: list[RunName], what: str, name: str = "") -> list[RunName]:
    if fits:
        return fits
    there = "; ".join(run.words() for run in all_runs)
    guess = did_you_mean(name, [run.dataset for run in all_runs]) if name else ""
    raise InputError(f"there are no arrays of {what}", guess or f"found: {there}")
