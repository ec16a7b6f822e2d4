"""`mcx demo`: two networks, a swap, the lines and curves between them, one network in the order of the other, and
pictures, on the built-in digits.

Every part is the command of that name with its own settings, so that each can be repeated by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from modeconn_cli.engine import names
from modeconn_cli.engine.commands import align, animate, l2, swap, train
from modeconn_cli.engine.commands.curve import analyze
from modeconn_cli.engine.commands.curve import eval as curve_eval
from modeconn_cli.engine.commands.curve import train as curve_train
from modeconn_cli.engine.commands.curve.analyze import CurveAnalyzeResult
from modeconn_cli.engine.commands.curve.eval import CurveEvalResult
from modeconn_cli.engine.errors import OutputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import files
from modeconn_cli.engine.results.figures import about
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.settings.align import AlignSettings
from modeconn_cli.engine.settings.animate import AnimateSettings
from modeconn_cli.engine.settings.curve import CurveAnalyzeSettings, CurveEvalSettings, CurveTrainSettings
from modeconn_cli.engine.settings.demo import DemoSettings
from modeconn_cli.engine.settings.l2 import L2Settings
from modeconn_cli.engine.settings.shared import FIGURES, BatchNorm
from modeconn_cli.engine.settings.swap import SwapSettings
from modeconn_cli.engine.settings.train import TrainSettings
from modeconn_cli.engine.stories.demo import figures
from modeconn_cli.engine.stories.demo import samples as demo_samples
from modeconn_cli.engine.stories.demo.parts import Parts
from modeconn_cli.engine.stories.demo.samples import Samples

FIGURE = "linear_against_curve.png"
PARTS = 15
SEEDS = "seed0-seed1"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What lies between seed0 and another network. Barriers in nats of test loss (max_gap)."""

    name: str
    total_l2: float
    normalized_l2: float
    line_barrier: float
    curve_barrier: float
    line_error_barrier: float  # percentage points
    curve_error_barrier: float
    length: float


@dataclass(frozen=True, kw_only=True)
class Straight:
    """The straight line from seed0 to seed1 as it is, aligned to seed0, and with the layers on the way repaired too.

    Barriers in nats of test loss (max_gap) and in percentage points of test error.
    """

    name: str
    total_l2: float
    barrier: float
    error_barrier: float


@dataclass(frozen=True, kw_only=True)
class DemoResult(Record):
    schema: ClassVar[str] = "mcx.demo/1"

    accuracies: list[float]  # percent, of seed0 and seed1 on the test images
    swapped_layer: str
    swapped_pair: tuple[int, int]
    max_output_diff: float
    pairs: tuple[Pair, ...]
    share_swapped: float
    share_neighbours: float
    share_elsewhere: float
    aligned: tuple[Straight, ...]
    folder: str
    figure: str
    animation: str
    samples: Samples | None  # with --full


def run(settings: DemoSettings, runtime: Runtime) -> DemoResult | None:
    """Tell the story; parts that an earlier run finished are read back."""
    if runtime.plan(
        [
            f"train two networks ({settings.epochs} epochs) and two curves ({settings.curve_epochs} epochs) on the "
            f"built-in digits and align the networks, on {runtime.device} with {runtime.threads} threads"
            + (", and score every sample of a third network" if settings.full else ""),
            f"results in {settings.output_dir}",
        ]
    ):
        return None
    count = PARTS + (demo_samples.PARTS if settings.full else 0)
    machine: dict[str, Any] = {"device": settings.device, "threads": settings.threads}
    look = {name: getattr(settings, name) for name in FIGURES}
    parts = Parts(settings.output_dir / "cnn" / "digits", runtime, count, machine, look)
    ends = parts.root / "endpoints" / "checkpoints"
    trained = parts.do(
        "trained seed0 and seed1",
        train.run,
        TrainSettings(
            model="cnn", dataset="digits", seeds=(0, 1), epochs=settings.epochs, lr=0.1, output_dir=ends, **machine
        ),
    )  # fmt: skip
    last = names.checkpoint(settings.epochs)
    seed0, seed1 = ends / "seed0" / last, ends / "seed1" / last
    swapped = parts.root / "endpoints_neuronswap" / "mid2" / last
    proof = parts.do(
        "swapped one pair of neurons of seed0 and proved the swap",
        swap.run,
        SwapSettings(checkpoint=seed0, output=swapped, layer_depth="mid", verify=True, **machine),
    )
    pairs, arrays = [], {}
    for name, other in {SEEDS: seed1, "seed0-mid2": swapped}.items():
        pair, arrays[name] = _connect(parts, settings, name, seed0, other)
        pairs.append(pair)
    aligned, lines = _align(parts, settings, seed0, seed1)
    arrays[f"{SEEDS}, aligned"] = {"line": arrays[SEEDS]["line"], **lines}
    straight = (
        Straight(
            name="as it is",
            total_l2=pairs[0].total_l2,
            barrier=pairs[0].line_barrier,
            error_barrier=pairs[0].line_error_barrier,
        ),
        *aligned,
    )
    analysis, animation = _analyze(parts, settings, "seed0-mid2", seed0, swapped)
    assert analysis.share_swapped is not None
    figure = parts.root / settings.named(FIGURE)
    title = f"{about('cnn', 'digits', [settings.epochs])}, curves of {settings.curve_epochs} epochs"
    picture = figures.lines_against_curves(arrays, title, settings)
    if not (figure.exists() and figure.read_bytes() == picture):
        if files.occupied(figure):
            raise OutputError(f"'{figure}' exists", "move it away, or use another --output-dir")
        files.atomic_write(figure, picture)
    return DemoResult(
        accuracies=[n.held_out_accuracy for n in trained.networks if n.held_out_accuracy is not None],
        swapped_layer=proof.layer_name or "",
        swapped_pair=proof.neuron_pairs[0],
        max_output_diff=proof.verification.max_output_diff or 0.0,
        pairs=tuple(pairs),
        share_swapped=analysis.share_swapped,
        share_neighbours=analysis.share_neighbours or 0.0,
        share_elsewhere=analysis.share_elsewhere or 0.0,
        aligned=straight,
        folder=str(parts.root),
        figure=str(figure),
        animation=str(animation),
        samples=demo_samples.tell(parts, settings.epochs) if settings.full else None,
    )


def _connect(
    parts: Parts, settings: DemoSettings, name: str, seed0: Path, other: Path
) -> tuple[Pair, dict[str, dict[str, np.ndarray]]]:
    """Distance, straight line and curve between two networks, and the values along line and curve."""
    distances = parts.root / "endpoint_l2_distances" / f"{name}.json"
    of_pair = parts.do(
        f"{name}: distance", l2.run, L2Settings(checkpoint1=seed0, checkpoint2=other, output=distances)
    )
    assert isinstance(of_pair, l2.L2Result)
    distance = of_pair.distance
    folder = _curve_folder(parts, name)
    line = parts.do(
        f"{name}: straight line",
        curve_eval.run,
        CurveEvalSettings(
            endpoint0=seed0, endpoint1=other, output_dir=folder / "line", num_points=settings.num_points,
            **parts.machine, **parts.look,
        ),
    )  # fmt: skip
    parts.do(
        f"{name}: Bezier curve trained",
        curve_train.run,
        CurveTrainSettings(
            endpoint0=seed0, endpoint1=other, output_dir=folder, epochs=settings.curve_epochs, lr=0.05,
            **parts.machine,
        ),
    )  # fmt: skip
    curve = parts.do(
        f"{name}: Bezier curve evaluated",
        curve_eval.run,
        CurveEvalSettings(
            curve_checkpoint=_curve(settings, folder), output_dir=folder / "evaluation",
            num_points=settings.num_points, **parts.machine, **parts.look,
        ),
    )  # fmt: skip
    pair = Pair(
        name=name,
        total_l2=distance.total_l2,
        normalized_l2=distance.normalized_total_l2,
        line_barrier=_barrier(line, "loss_test"),
        curve_barrier=_barrier(curve, "loss_test"),
        line_error_barrier=_barrier(line, "error_test"),
        curve_error_barrier=_barrier(curve, "error_test"),
        length=curve.length,
    )
    return pair, {"line": _arrays(line), "curve": _arrays(curve)}


def _align(
    parts: Parts, settings: DemoSettings, seed0: Path, seed1: Path
) -> tuple[list[Straight], dict[str, dict[str, np.ndarray]]]:
    """seed1 in the order of seed0, the straight lines there, as they are and repaired, and the values along them."""
    folder = parts.root / "aligned"
    output = folder / "seed1.pt"
    found = parts.do(
        "aligned seed1 to seed0", align.run,
        AlignSettings(checkpoints=(seed1,), to=seed0, output=output, **parts.machine),
    )  # fmt: skip
    (moved,) = found.aligned.values()
    lines, arrays = [], {}
    ways: dict[str, BatchNorm] = {"aligned": "recompute", "repaired": "repair"}
    for name, bn in ways.items():
        line = parts.do(
            f"{SEEDS}, {name}: straight line",
            curve_eval.run,
            CurveEvalSettings(
                endpoint0=seed0, endpoint1=output, output_dir=folder / f"line_{name}", num_points=settings.num_points,
                bn=bn, **parts.machine, **parts.look,
            ),
        )  # fmt: skip
        lines.append(
            Straight(
                name="aligned" if name == "aligned" else "aligned and repaired",
                total_l2=moved.after.total_l2,
                barrier=_barrier(line, "loss_test"),
                error_barrier=_barrier(line, "error_test"),
            )
        )
        arrays[name] = _arrays(line)
    return lines, arrays


def _curve_folder(parts: Parts, name: str) -> Path:
    """`curve_seed0-seed1_reg`, `curve_neuronswap_mid2_reg`."""
    return parts.root / f"curve_{name.replace('seed0-mid', 'neuronswap_mid')}_reg"


def _curve(settings: DemoSettings, folder: Path) -> Path:
    return folder / names.CHECKPOINTS / names.checkpoint(settings.curve_epochs)


def _analyze(
    parts: Parts, settings: DemoSettings, name: str, seed0: Path, swapped: Path
) -> tuple[CurveAnalyzeResult, Path]:
    """Layer distances along the swap's curve, as numbers and as an animation."""
    folder = _curve_folder(parts, name) / "analysis"
    animation = folder / "layer_distances_evolution.gif"
    analysis = parts.do(
        f"{name}: layers measured",
        analyze.run,
        CurveAnalyzeSettings(
            curve_checkpoint=_curve(settings, folder.parent), original_checkpoint=seed0,
            swap_metadata=names.swap_metadata(swapped), output_dir=folder, num_points=settings.num_points,
        ),
    )  # fmt: skip
    parts.do(
        f"{name}: animation",
        animate.run,
        AnimateSettings(data=folder / names.LAYER_DISTANCES, output=animation, heatmap=True, **parts.look),
    )
    return analysis, animation


def _barrier(result: CurveEvalResult, series: str) -> float:
    value = result.barriers["max_gap"][series]
    assert value is not None
    return value


def _arrays(result: CurveEvalResult) -> dict[str, np.ndarray]:
    with np.load(result.arrays, allow_pickle=False) as file:
        return {name: file[name] for name in ("ts", "te_nll", "te_err")}
