"""`mcx curve train`: a curve of low loss between two networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import completing, distances, subject, weights
from modeconn_cli.engine.networks.checkpoints import Checkpoint
from modeconn_cli.engine.networks.distances import Distance
from modeconn_cli.engine.networks.subject import Subject, check_watched
from modeconn_cli.engine.networks.weights import Weights
from modeconn_cli.engine.paths import file
from modeconn_cli.engine.paths.path import Kind, WeightPath
from modeconn_cli.engine.paths.problem import PathProblem
from modeconn_cli.engine.paths.simplex import SimplexProblem, new_vertex
from modeconn_cli.engine.paths.start import control_points, points_of_curve
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.results.records import Provenance, Record
from modeconn_cli.engine.settings.base import tilde
from modeconn_cli.engine.settings.curve import CurveTrainSettings
from modeconn_cli.engine.symmetry import files as permutations
from modeconn_cli.engine.training import evaluate, recipe_of, recompute_statistics, space
from modeconn_cli.engine.training.folder import OWNED, Keeping, train
from modeconn_cli.engine.training.metrics import MetricsLog


@dataclass(frozen=True, kw_only=True)
class CurveTrainResult(Record):
    """Losses in nats, accuracies in percent."""

    schema: ClassVar[str] = "mcx.curve_train/1"

    endpoint0: str
    endpoint1: str
    curve: str
    num_bends: int
    distance: Distance
    checkpoint: str
    epoch: int
    metrics: dict[str, Any]
    provenance: Provenance | None

    def fields(self) -> dict[str, Any]:
        fields = super().fields()
        del fields["distance"]
        return {**fields, "l2_distance": self.distance.summary()}


def run(settings: CurveTrainSettings, runtime: Runtime) -> CurveTrainResult | None:
    """Train the free points; the endpoints are copied from their checkpoints bit for bit."""
    if not settings.simplex:
        _check(settings)
    folder = checkpoints_folder(settings)
    found = subject.open_networks(_endpoints(settings, runtime), settings, runtime)
    if settings.permutation is not None:
        found = permutations.with_second_permuted(found, settings.permutation, runtime)
    settings = completing.completed(
        settings, found.about, settings.endpoint0
    )  # the record says what they were
    check_watched(found.data, watched=settings.patience is not None)
    first, last = (weights.parameters_of(found.model, end.state) for end in found.checkpoints)
    _check_precision(first, last, found.checkpoints)
    distance = distances.l2(first, last)
    if distance.total_l2 == 0:
        if settings.constraint != "none":
            raise InputError("the endpoints are the same network: no plane lies between them")
        if not settings.simplex:
            runtime.warn("the endpoints are the same network")
    begin = _vertices if settings.simplex else _control_points
    points = begin(settings, first, last, _frozen(found, first, last, runtime), runtime)
    trained = 1 if settings.simplex else len(points) - settings.fix_start - settings.fix_end
    what = (
        "a simplex with {} vertices"
        if settings.simplex
        else f"a {settings.curve} curve with {{}} control points"
    )
    if runtime.plan(
        [
            f"train {what.format(len(points))} of "
            f"{distance.total_params:,} parameters on {found.data.name}: {len(found.data.fit):,} images, "
            f"{settings.epochs} epochs on {runtime.device} with {runtime.threads} threads",
            f"endpoints at L2 distance {distance.total_l2:.6f} (normalized {distance.normalized_total_l2:.6f}); "
            f"results in {folder}",
            space.said(
                space.kept_epochs(settings.epochs, settings.save_freq),
                space.checkpoint_bytes(
                    found.model,
                    settings,
                    points=len(points),
                    trained=trained,
                ),
                folder,
                runtime,
            ),
        ]
    ):
        return None
    ends = [end.path for end in found.checkpoints]
    owned = (*OWNED, names.ENDPOINT_DISTANCE)
    with (
        runtime.catching_signals(),  # until the job has said how it ended
        jobs.opened(settings, folder, "curve train", runtime, owned=owned) as job,
    ):
        if not job.complete:
            files.write_text(
                folder / names.ENDPOINT_DISTANCE, distance_text(str(ends[0]), str(ends[1]), distance)
            )
            kind: Kind = "polychain" if settings.simplex else settings.curve
            path = WeightPath.through(kind, points, found.model)
            outcome = _fit(settings, folder, found, path, job, runtime)
            job.finish([outcome, folder / names.METRICS, folder / names.ENDPOINT_DISTANCE])
        return _finished(settings, folder, ends, distance, len(points), job)


def _check_precision(first: Weights, last: Weights, ends: Sequence[Checkpoint]) -> None:
    """Raise InputError for endpoints of two precisions: no point between them would be one of either."""
    differ = [name for name in first if first[name].dtype != last[name].dtype]
    if differ:
        said = " and ".join(
            f"{str(each[differ[0]].dtype).removeprefix('torch.')} in '{end.path}'"
            for each, end in zip((first, last), ends, strict=True)
        )
        raise InputError(f"the endpoints are of two precisions: '{differ[0]}' is {said}", "save both in one")


def checkpoints_folder(settings: CurveTrainSettings) -> Path:
    """`<output-dir>/checkpoints`, or the directory itself where that is its name."""
    if settings.output_dir.name == names.CHECKPOINTS:
        return settings.output_dir
    return settings.output_dir / names.CHECKPOINTS


def _endpoints(settings: CurveTrainSettings, runtime: Runtime) -> list[Checkpoint]:
    return [
        subject.read(path, settings, runtime, allow_nonfinite=settings.allow_nonfinite)
        for path in (settings.endpoint0, settings.endpoint1)
    ]


def _check(settings: CurveTrainSettings) -> None:
    free = settings.num_bends - settings.fix_start - settings.fix_end
    if free < 1:
        raise SettingsError(
            f"--num-bends {settings.num_bends} with fixed ends leaves nothing to train", "use 3 or more"
        )
    if settings.constraint != "none" and (settings.num_bends != 3 or free != 1):
        raise SettingsError(
            "the symmetry plane is for one free point between two fixed ends", "use --num-bends 3"
        )


def distance_text(first: str, last: str, distance: Distance) -> str:
    """The content of `endpoint_l2_distance.txt` for the endpoints' files, as documented."""
    return (
        f"L2 Distance Between Endpoints\n{'=' * 50}\n\nEndpoint 0: {first}\nEndpoint 1: {last}\n\n"
        f"Total L2 distance:      {distance.total_l2:.6f}\n"
        f"Normalized L2 distance: {distance.normalized_total_l2:.6f}\n"
        f"Total parameters:       {distance.total_params:,}\n"
    )


def _control_points(
    settings: CurveTrainSettings, first: Weights, last: Weights, frozen: list[str], runtime: Runtime
) -> list[Weights]:
    """Where training begins: the ends, and free points between them as the settings ask for."""
    if settings.init_method != "curve":
        return control_points(
            first,
            last,
            settings.num_bends,
            settings.init_method,
            alpha=settings.init_alpha,
            noise=settings.init_noise,
            elementwise=settings.compat == "elementwise-noise",
            inside_sphere=settings.init_inside_sphere,
            seed=settings.seed,
            frozen=frozen,
        )
    if settings.init_curve is None:
        raise SettingsError("--init-method curve needs a curve", "pass --init-curve FILE")
    curve = file.read(settings.init_curve, settings, runtime, allow_nonfinite=settings.allow_nonfinite)
    curve = curve.named_as(first)
    # An end that is trained begins where that curve has left it.
    first = first if settings.fix_start else curve.points[0]
    last = last if settings.fix_end else curve.points[-1]
    points = points_of_curve(curve, first, last, settings.curve, settings.num_bends, frozen)
    for k, (end, own) in enumerate(((first, curve.points[0]), (last, curve.points[-1]))):
        if not all(end[name].equal(own[name]) for name in own):
            runtime.warn(
                f"endpoint {k} is not that of '{curve.file}', of which the free points alone are taken"
            )
    if curve.kind != settings.curve and len(curve.points) > 2:
        runtime.note(
            f"'{curve.file}' is a {curve.kind}: a {settings.curve} through its points is another curve"
        )
    return points


def _vertices(
    settings: CurveTrainSettings, first: Weights, last: Weights, frozen: list[str], runtime: Runtime
) -> list[Weights]:
    """The endpoints, what an earlier simplex has added to them, and a new vertex.

    Raises InputError for a simplex at other endpoints.
    """
    del runtime  # nothing to say
    old: list[Weights] = [first, last]
    if settings.init_curve is not None:
        simplex = file.read_simplex(settings.init_curve, settings, allow_nonfinite=settings.allow_nonfinite)
        old = simplex.named_as(first).points
        for k, end in enumerate((first, last)):
            weights.check_alike(end, old[k], f"endpoint {k}", str(simplex.file))
            if not all(end[name].equal(old[k][name]) for name in end):
                raise InputError(
                    f"endpoint {k} is not that of the simplex '{simplex.file}'", "pass its own endpoints"
                )
    return [*old, new_vertex(old, settings.seed, frozen)]


def _frozen(found: Subject, first: Weights, last: Weights, runtime: Runtime) -> list[str]:
    """The parameters that are not trained, which is said. Raises InputError where nothing else is left."""
    frozen = weights.frozen_in(found.model)
    if len(frozen) == len(first):
        raise InputError("every parameter of the network is frozen: there is nothing to train")
    differ = [name for name in frozen if not torch.equal(first[name], last[name])]
    if frozen:
        runtime.note(f"frozen parameters are not trained: {weights.shortened(frozen)}")
    if differ:
        runtime.note(
            f"of those the endpoints differ, and the curve interpolates: {weights.shortened(differ)}"
        )
    return frozen


def _fit(
    settings: CurveTrainSettings,
    folder: Path,
    found: Subject,
    path: WeightPath,
    job: jobs.Job,
    runtime: Runtime,
) -> Path:
    """Train into the folder; the last checkpoint is returned."""
    model, data = found.model, found.data
    problem = _problem(settings, found, path)

    if problem.carrier.note:
        runtime.note(problem.carrier.note, once=True)

    def measure(epoch: int) -> dict[str, float]:
        """The network half-way, where early stopping or the user looks at it."""
        due = bool(settings.eval_every) and epoch % settings.eval_every == 0
        volume = {"log_volume": problem.log_volume()[0]} if isinstance(problem, SimplexProblem) else {}
        if not due and settings.patience is None:
            return volume
        problem.move_to(0.5)
        recompute_statistics(model, data.fit, settings.batch_size, settings.seed)
        out: dict[str, float] = volume
        if settings.patience is not None:
            out["val_loss"] = evaluate(model, data.val, settings.batch_size).loss
        if due:
            score = evaluate(model, data.held_out, settings.batch_size)
            name = "test" if data.use_test else "val"
            out |= {f"{name}_loss_middle": score.loss, f"{name}_accuracy_middle": score.accuracy}
        return out

    about = found.trained(settings, seed=settings.seed, wd=settings.wd)
    recipe = recipe_of(settings, epochs=settings.epochs, batch_size=settings.batch_size, seed=settings.seed)
    keeping = Keeping(folder, settings.save_freq, about, settings.patience, settings.min_delta)
    return train(problem, data.fit, recipe, runtime, job, keeping, measure).checkpoint


def _problem(settings: CurveTrainSettings, found: Subject, path: WeightPath) -> PathProblem | SimplexProblem:
    """What is trained: the free points of a curve, or the new vertex of a simplex."""
    buffers = [weights.buffers_of(found.model, end.state) for end in found.checkpoints]
    if settings.simplex:
        return SimplexProblem(
            found.model,
            path,
            weight_decay=settings.wd,
            seed=settings.seed,
            volume_weight=settings.volume_weight,
            draws=settings.simplex_samples,
            compat=settings.compat == "benton",
            buffers=buffers,
        )
    return PathProblem(
        found.model,
        path,
        weight_decay=settings.wd,
        seed=settings.seed,
        fix_start=settings.fix_start,
        fix_end=settings.fix_end,
        plane=settings.constraint,
        buffers=buffers,
    )


def _finished(
    settings: CurveTrainSettings,
    folder: Path,
    ends: list[Path],
    distance: Distance,
    count: int,
    job: jobs.Job,
) -> CurveTrainResult:
    """Read a finished run back."""
    log = MetricsLog(folder)
    return CurveTrainResult(
        endpoint0=tilde(ends[0]),
        endpoint1=tilde(ends[1]),
        curve=file.SIMPLEX if settings.simplex else settings.curve,
        num_bends=count,
        distance=distance,
        checkpoint=tilde(folder / names.checkpoint(log.epoch)),
        epoch=log.epoch,
        metrics=log.rows[-1].known() if log.rows else {},
        provenance=job.record,
    )
