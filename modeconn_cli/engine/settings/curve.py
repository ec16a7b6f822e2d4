"""Settings of the `mcx curve` commands."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.settings.base import like, setting, without_effect
from modeconn_cli.engine.settings.path import MOST_POSITIONS, ChainSettings, PathSettings
from modeconn_cli.engine.settings.scoring import RunFolderSettings
from modeconn_cli.engine.settings.shared import (
    DATA,
    ON_IMAGES,
    ComputeSettings,
    DataSettings,
    DistributedSettings,
    FigureSettings,
    FolderSettings,
    MeasuredDataSettings,
    ModelSettings,
    OptionalFolderSettings,
    OverwriteSettings,
    PermutationSettings,
)
from modeconn_cli.engine.settings.train import OptimizationSettings, TrainSettings

_NOISY = "init_method", "perturbed", "sphere"
_OF_CURVES = (
    "curve", "num_bends", "init_method", "init_alpha", "init_noise", "init_inside_sphere", "fix_start", "fix_end",
    "constraint",
)  # fmt: skip
_TWO = "a curve needs two endpoints", "pass --endpoint0 FILE --endpoint1 FILE"


@dataclass(frozen=True, kw_only=True)
class CurveTrainSettings(
    PermutationSettings, ModelSettings, DataSettings, OptimizationSettings, ComputeSettings, FolderSettings
):
    """Train a curve of low loss between two networks."""

    places = (("endpoint0", "endpoint1"),)

    endpoint0: Path = setting(
        None, "checkpoint of the network at t = 0", flags=("--init-start",), missing=_TWO
    )
    endpoint1: Path = setting(None, "checkpoint of the network at t = 1", flags=("--init-end",), missing=_TWO)
    curve: Literal["bezier", "polychain"] = setting("bezier", "kind of curve")
    num_bends: int = setting(3, "control points, endpoints included", low=2)
    init_method: Literal["linear", "biased", "perturbed", "sphere", "curve"] = setting(
        "linear",
        "where the free points begin; linear puts them on the straight line, which averages swapped units: their "
        "rows are identical there and only the noise of SGD separates them",
    )
    init_curve: Path | None = setting(
        None,
        "curve checkpoint to begin from (--init-method curve), of as many control points or fewer: a Bezier curve's "
        "degree is raised, a chain's segments are divided, and the curve stays the same; ends that are trained begin "
        "where it has left them; with --simplex, the simplex whose vertices stay",
    )
    init_alpha: float = setting(0.5, "position of the free point (biased)", low=0, high=1)
    init_noise: float = setting(
        0.01, "norm of the noise relative to the endpoints' distance, per tensor", low=0, needs=_NOISY
    )
    init_inside_sphere: bool = setting(
        False, "sphere: 0.9 instead of 1.1 times the endpoints' mean norm", needs=("init_method", "sphere")
    )
    fix_start: bool = setting(True, "keep endpoint 0")
    fix_end: bool = setting(True, "keep endpoint 1")
    constraint: Literal["none", "symmetry-plane", "symmetry-plane-per-tensor"] = setting(
        "none",
        "keep the free point at equal distance from both ends, as a whole or tensor by tensor as the original "
        "experiments do",
    )
    simplex: bool = setting(
        False,
        "add a vertex to simplexes of low loss in the place of a curve: endpoint 0 and endpoint 1 have one each (one "
        "in all where they are the same), which share what is added; older vertices stay, the new one begins near "
        "their mean",
    )
    volume_weight: float = setting(
        1e-3,
        "weight of the logarithm of the volume, which is subtracted from the loss",
        low=0,
        needs=("simplex",),
    )
    simplex_samples: int = setting(
        5, "points of the simplexes that a step takes the mean loss over", low=1, needs=("simplex",)
    )
    compat: Literal["elementwise-noise", "benton"] | None = setting(
        None,
        "reproduce an old number: elementwise-noise, of that size in every element; benton, of a simplex the squared "
        "volume and the sum of the losses",
        shown="off",
    )
    lr: float = like(OptimizationSettings, "lr", default=0.015)
    eval_every: int = like(
        OptimizationSettings,
        "eval_every",
        default=0,
        help="epochs between two evaluations at t = 0.5 on held-out images; 0: never",
    )
    patience: int | None = like(
        TrainSettings,
        "patience",
        help="stop after so many epochs without a better validation loss at t = 0.5",
    )
    min_delta: float = like(TrainSettings, "min_delta")
    allow_nonfinite: bool = setting(False, "accept NaN and infinity in the endpoints", rare=True)

    @property
    def sources(self) -> tuple[Path, ...]:
        return () if self.endpoint0 is None else (self.endpoint0,)

    def idle(self) -> dict[str, str]:
        placed = self.num_bends == 3 and self.init_method in ("biased", "perturbed", "sphere")
        where = f"with --init-method {self.init_method} and --num-bends {self.num_bends}"
        started = f"with --init-method {self.init_method}"
        return (
            super().idle()
            | without_effect(not placed, where, "init_alpha")
            | without_effect(self.init_method != "curve" and not self.simplex, started, "init_curve")
            | without_effect(self.compat == "benton" and not self.simplex, "without --simplex", "compat")
            | without_effect(
                self.compat == "elementwise-noise" and self.init_method not in _NOISY[1:], started, "compat"
            )
            | without_effect(self.simplex, "with --simplex", *_OF_CURVES)
            | without_effect(self.simplex and self.compat == "elementwise-noise", "with --simplex", "compat")
        )


@dataclass(frozen=True, kw_only=True)
class CurveEvalSettings(
    ChainSettings, MeasuredDataSettings, DistributedSettings, FigureSettings, FolderSettings
):
    """Evaluate a path at equally spaced positions."""

    num_points: int = setting(61, "positions t from 0 to 1", low=2, high=MOST_POSITIONS)
    wd: float | None = setting(None, "weight decay in the loss", low=0, shown="the curve's own, else 0")
    save_predictions: bool = setting(
        False,
        "also write the class and confidence of every held-out image at every position, and which change class",
        change="grow",
    )
    ensemble: tuple[float, ...] = setting(
        (),
        "also measure the ensemble of the networks at these positions, comma-listed, and their weight average",
        low=0,
        high=1,
        change="grow",
    )
    hessian_top: int = setting(
        0,
        "also find so many largest eigenvalues of the training loss's Hessian at every position; 0: none",
        low=0,
        high=1000,
        change="grow",
    )
    hessian_trace: int = setting(
        0,
        "also estimate the trace of that Hessian at every position, from so many random vectors; 0: not",
        low=0,
        change="grow",
    )
    hessian_samples: int | None = setting(
        None, "training images for the Hessian, a seeded subset", low=1, shown="all", change="grow"
    )

    @property
    def sharpness(self) -> bool:
        """Whether the Hessian is looked at."""
        return bool(self.hessian_top or self.hessian_trace)

    def idle(self) -> dict[str, str]:
        found = super().idle()
        if self.sharpness:
            found.pop("seed", None)  # of the random vectors
            return found
        return found | {"hessian_samples": "without --hessian-top or --hessian-trace"}

    def check(self) -> None:
        super().check()
        self.check_path()
        segments = len(self.chain) - 1
        if self.chain and (self.num_points - 1) % segments:
            each = max(round((self.num_points - 1) / segments), 1)
            raise SettingsError(
                f"--num-points {self.num_points} has no position at each of the {len(self.chain)} networks of a chain",
                f"use {each * segments + 1}: {each} a segment, and one",
            )
        if len(self.ensemble) == 1:
            raise SettingsError("an ensemble has two members or more", "--ensemble 0,0.5,1")


@dataclass(frozen=True, kw_only=True)
class CurveCompareSettings(FigureSettings, OptionalFolderSettings):
    """Compare evaluations of curves and straight lines."""

    folders: tuple[Path, ...] = setting(
        (),
        "output folders of mcx curve eval and mcx lmc interpolate, each as path or label=path, or a folder of such "
        "folders seed0, seed1 …",
        positional=True,
        labelled=True,
        missing=("no folder to read", "mcx curve compare DIR…"),
    )
    group: bool = setting(
        True,
        "take folders that differ in seed<k> alone, or have one label, as seeds of one path; --no-group: each alone",
    )
    barrier: Literal["max_gap", "sup_minus_mean", "midpoint", "max_minus_max_end", "max_minus_min_end"] = (
        setting("max_gap", "definition that the table shows; the CSV holds all")
    )


@dataclass(frozen=True, kw_only=True)
class CurveAnalyzeSettings(ModelSettings, FolderSettings):
    """Measure how far each layer moves along a curve."""

    places = (("curve_checkpoint",),)

    curve_checkpoint: Path = setting(
        None, "checkpoint of a trained curve", missing=("no curve", "pass --curve-checkpoint FILE")
    )
    original_checkpoint: Path | None = setting(None, "the network the curve should begin at, to compare")
    swap_metadata: Path | None = setting(None, "the <stem>_metadata.json that mcx swap wrote")
    num_points: int = setting(61, "positions t from 0 to 1", low=2, high=MOST_POSITIONS)
    allow_nonfinite: bool = setting(False, "accept NaN and infinity in the weights", rare=True)

    @property
    def sources(self) -> tuple[Path, ...]:
        return () if self.curve_checkpoint is None else (self.curve_checkpoint,)

    @property
    def from_checkpoint(self) -> frozenset[str]:
        # The network itself is only opened to apply a swap to it.
        return frozenset() if self.swap_metadata is None else super().from_checkpoint


@dataclass(frozen=True, kw_only=True)
class CurveExtractSettings(ChainSettings, OverwriteSettings):
    """Write the network at one position of a curve as an ordinary checkpoint."""

    t: float = setting(
        None,
        "position, 0 to 1",
        low=0,
        high=1,
        unless="shares",
        missing=("no position", "pass --t between 0 and 1"),
    )
    shares: tuple[float, ...] = setting(
        (),
        "on a simplex: share of each vertex, comma-listed, which are made to add up to 1",
        low=0,
        repeats=True,
    )
    output: Path = setting(
        None,
        "file of the network",
        change="free",
        absent=True,
        tensors=True,
        missing=("no file for the network", "pass --output FILE.pt"),
    )

    def check(self) -> None:
        super().check()
        self.check_path()
        if self.shares and (sum(self.shares) <= 0 or self.curve_checkpoint is None):
            raise SettingsError(
                "--shares takes a number for each vertex of a simplex, not all 0",
                "pass --curve-checkpoint FILE",
            )
        if self.shares and self.bn == "repair":
            raise SettingsError("--bn repair is between two networks, not in a simplex", "use --bn recompute")

    def idle(self) -> dict[str, str]:
        settled = self.bn not in ON_IMAGES
        unread = [name for name in DATA if name != "labels"]  # statistics are of images
        return super().idle() | without_effect(settled, f"with --bn {self.bn}", *unread, "batch_size", "seed")


@dataclass(frozen=True, kw_only=True)
class CurvePlaneSettings(
    ModelSettings,
    MeasuredDataSettings,
    ComputeSettings,
    DistributedSettings,
    FigureSettings,
    FolderSettings,
):
    """Evaluate a plane in weight space, cell by cell."""

    drawn = ("levels",)

    checkpoints: tuple[Path, ...] = setting(
        (),
        "three networks; one curve of three control points; with --random-directions one network",
        positional=True,
        repeats=True,
    )
    curve_checkpoint: Path | None = setting(None, "checkpoint of a curve with three control points")
    run: Path | None = setting(
        None, "folder of a training's checkpoints: the plane of its two leading principal directions"
    )
    start_epoch: int | None = like(RunFolderSettings, "start_epoch", change="same", needs=("run",))
    end_epoch: int | None = like(RunFolderSettings, "end_epoch", change="same", needs=("run",))
    epoch_step: int = like(RunFolderSettings, "epoch_step", change="same", needs=("run",))
    pattern: str | None = like(RunFolderSettings, "pattern", needs=("run",), rare=True)
    random_directions: int | None = setting(
        None,
        "seed of two random directions around one network, each filter of them as long as the network's; biases and "
        "parameters of normalisation stay",
        low=0,
        shown="off",
    )
    grid_points: int = setting(21, "cells along each of the two axes", low=2, high=1001)
    margin: float = setting(
        0.2, "how far the plane goes beyond the points on every side, as a share of their extent", low=0
    )
    reach: float = setting(
        1.0, "how far the plane goes to every side, in lengths of the random directions", above=0
    )
    levels: Literal["log", "linear"] = setting(
        "log", "how the contours of the figure are spaced", change="free"
    )
    bn: Literal["recompute", "keep", "none"] = setting(
        "recompute",
        "statistics of batch norm at every cell: of the training data, the first network's, or none (mean 0, "
        "variance 1)",
    )
    bn_samples: int | None = like(PathSettings, "bn_samples")
    wd: float | None = like(CurveEvalSettings, "wd", shown="the checkpoint's own, else 0")

    @property
    def curve(self) -> Path | None:
        """The curve whose control points span the plane, where one does."""
        alone = len(self.checkpoints) == 1 and self.random_directions is None
        return self.checkpoints[0] if alone else self.curve_checkpoint

    @property
    def sources(self) -> tuple[Path, ...]:
        return self.checkpoints[:1] or (() if self.curve is None else (self.curve,))

    @property
    def epochs(self) -> RunFolderSettings:
        """Which checkpoints of the run are meant."""
        return RunFolderSettings(
            start_epoch=self.start_epoch,
            end_epoch=self.end_epoch,
            epoch_step=self.epoch_step,
            pattern=self.pattern,
        )

    def check(self) -> None:
        super().check()
        named = len(self.checkpoints)
        if sum(map(bool, (self.checkpoints, self.curve_checkpoint, self.run))) != 1:
            raise SettingsError(
                "give either three networks, a curve, or a run",
                "mcx curve plane A.pt B.pt C.pt, --curve-checkpoint FILE or --run DIR",
            )
        if self.random_directions is not None and named != 1:
            what = f"{named} networks" if named else "a curve" if self.run is None else "a run"
            raise SettingsError(
                f"--random-directions go out from one network, got {what}",
                "name one checkpoint, or leave it out",
            )
        if named not in (0, 1, 3):
            raise SettingsError(
                f"a plane goes through three networks, got {named}", "mcx curve plane A.pt B.pt C.pt"
            )
        if self.run is not None:
            self.epochs.check()

    def unread(self, has_batch_norm: bool) -> tuple[str, ...]:
        """The settings that make no difference to the network and the data at hand."""
        idle = () if has_batch_norm else ("bn", *replace(self, bn="none").idle())
        return (*idle, *self.unflipped)

    def idle(self) -> dict[str, str]:
        ordered = self.bn in ON_IMAGES or self.flips_by_seed
        random = self.random_directions is not None
        return (
            super().idle()
            | without_effect(not ordered, f"with --bn {self.bn}", "seed")
            | without_effect(random, "with --random-directions", "margin")
            | without_effect(not random, "without --random-directions", "reach")
        )
