"""`mcx demo`: two networks, a swap, the lines and curves between them, and pictures, on the built-in digits.

Every part is the command of that name with its own settings, so that each can be repeated by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from modeconn_cli.engine import names
from modeconn_cli.engine.commands import animate, l2, swap, train
from modeconn_cli.engine.commands.curve import analyze
from modeconn_cli.engine.commands.curve import eval as curve_eval
from modeconn_cli.engine.commands.curve import train as curve_train
from modeconn_cli.engine.commands.curve.analyze import CurveAnalyzeResult
from modeconn_cli.engine.commands.curve.eval import CurveEvalResult
from modeconn_cli.engine.commands.l2 import L2Result
from modeconn_cli.engine.commands.swap import SwapResult
from modeconn_cli.engine.commands.train import TrainResult
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import files
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.settings.animate import AnimateSettings
from modeconn_cli.engine.settings.curve import CurveAnalyzeSettings, CurveEvalSettings, CurveTrainSettings
from modeconn_cli.engine.settings.demo import DemoSettings
from modeconn_cli.engine.settings.l2 import L2Settings
from modeconn_cli.engine.settings.swap import SwapSettings
from modeconn_cli.engine.settings.train import TrainSettings
from modeconn_cli.engine.stories.demo import figures
from modeconn_cli.engine.stories.demo import samples as demo_samples
from modeconn_cli.engine.stories.demo.samples import Command, Samples

FIGURE = "linear_against_curve.png"
PARTS = 12

S = TypeVar("S", contravariant=True)
R = TypeVar("R", covariant=True)


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
    folder: str
    figure: str
    animation: str
    samples: Samples | None  # with --full


class Story:
    """The parts of the demo, counted for the progress line."""

    def __init__(self, settings: DemoSettings, runtime: Runtime) -> None:
        self.runtime = runtime
        self.quiet = runtime.hushed()
        self.root = settings.output_dir / "cnn" / "digits"
        self.done, self.parts = 0, PARTS + (demo_samples.PARTS if settings.full else 0)

    def part(self, text: str, command: Command[S, R], settings: S) -> R:
        """Run one command and count it."""
        result = command(settings, self.quiet)
        self.done += 1
        self.runtime.progress(self.done, self.parts, unit="part", finished=text)
        assert result is not None
        return result


def run(settings: DemoSettings, runtime: Runtime) -> DemoResult | None:
    """Tell the story; parts that an earlier run finished are read back."""
    if runtime.plan(
        [
            f"train two networks ({settings.epochs} epochs) and two curves ({settings.curve_epochs} epochs) on the "
            f"built-in digits, on {runtime.device} with {runtime.threads} threads"
            + (", and score every sample of a third network" if settings.full else ""),
            f"results in {settings.output_dir}",
        ]
    ):
        return None
    story = Story(settings, runtime)
    machine: dict[str, Any] = {"device": settings.device, "threads": settings.threads}
    ends = story.root / "endpoints" / "checkpoints"
    trained: TrainResult = story.part(
        "trained seed0 and seed1",
        train.run,
        TrainSettings(
            model="cnn",
            dataset="digits",
            seeds=(0, 1),
            epochs=settings.epochs,
            lr=0.1,
            output_dir=ends,
            **machine,
        ),
    )
    last = names.checkpoint(settings.epochs)
    seed0, seed1 = ends / "seed0" / last, ends / "seed1" / last
    swapped = story.root / "endpoints_neuronswap" / "mid2" / last
    proof: SwapResult = story.part(
        "swapped one pair of neurons of seed0 and proved the swap",
        swap.run,
        SwapSettings(checkpoint=seed0, output=swapped, layer_depth="mid", verify=True, **machine),
    )
    pairs, arrays = [], {}
    analysis: CurveAnalyzeResult | None = None
    for name, other in {"seed0-seed1": seed1, "seed0-mid2": swapped}.items():
        distance, line, curve = _connect(story, settings, machine, name, seed0, other)
        pairs.append(_pair(name, distance, line, curve))
        arrays[name] = {"line": _arrays(line), "curve": _arrays(curve)}
        if other == swapped:
            analysis = _analyze(story, settings, name, seed0, swapped)
    assert analysis is not None
    assert analysis.share_swapped is not None
    figure = story.root / FIGURE
    picture = figures.lines_against_curves(arrays)
    if not (figure.exists() and figure.read_bytes() == picture):
        files.refuse_existing(figure, overwrite=False)
        files.atomic_write(figure, picture)
    samples = None
    if settings.full:
        samples = demo_samples.tell(story, story.root / "noisy", settings.epochs, machine)
    return DemoResult(
        accuracies=[n.held_out_accuracy for n in trained.networks if n.held_out_accuracy is not None],
        swapped_layer=proof.layer_name or "",
        swapped_pair=proof.neuron_pairs[0],
        max_output_diff=proof.verification.max_output_diff or 0.0,
        pairs=tuple(pairs),
        share_swapped=analysis.share_swapped,
        share_neighbours=analysis.share_neighbours or 0.0,
        share_elsewhere=analysis.share_elsewhere or 0.0,
        folder=str(story.root),
        figure=str(figure),
        animation=str(_curve_folder(story, "seed0-mid2") / "analysis" / "layer_distances_evolution.gif"),
        samples=samples,
    )


def _connect(
    story: Story, settings: DemoSettings, machine: dict[str, Any], name: str, seed0: Path, other: Path
) -> tuple[L2Result, CurveEvalResult, CurveEvalResult]:
    """Distance, straight line and curve between two networks."""
    distance = story.part(
        f"{name}: distance",
        l2.run,
        L2Settings(
            checkpoint1=seed0, checkpoint2=other, output=story.root / "endpoint_l2_distances" / f"{name}.json"
        ),
    )
    assert isinstance(distance, L2Result)
    folder = _curve_folder(story, name)
    line = story.part(
        f"{name}: straight line",
        curve_eval.run,
        CurveEvalSettings(
            endpoint0=seed0,
            endpoint1=other,
            output_dir=folder / "line",
            num_points=settings.num_points,
            **machine,
        ),
    )
    story.part(
        f"{name}: Bezier curve trained",
        curve_train.run,
        CurveTrainSettings(
            endpoint0=seed0,
            endpoint1=other,
            output_dir=folder,
            epochs=settings.curve_epochs,
            lr=0.05,
            **machine,
        ),
    )
    curve = story.part(
        f"{name}: Bezier curve evaluated",
        curve_eval.run,
        CurveEvalSettings(
            curve_checkpoint=folder / names.CHECKPOINTS / names.checkpoint(settings.curve_epochs),
            output_dir=folder / "evaluation",
            num_points=settings.num_points,
            **machine,
        ),
    )
    return distance, line, curve


def _curve_folder(story: Story, name: str) -> Path:
    """`curve_seed0-seed1_reg`, `curve_neuronswap_mid2_reg`."""
    return story.root / f"curve_{name.replace('seed0-mid', 'neuronswap_mid')}_reg"


def _analyze(
    story: Story, settings: DemoSettings, name: str, seed0: Path, swapped: Path
) -> CurveAnalyzeResult:
    """Layer distances along the swap's curve, as numbers and pictures."""
    folder = _curve_folder(story, name) / "analysis"
    curve = folder.parent / names.CHECKPOINTS / names.checkpoint(settings.curve_epochs)
    analysis = story.part(
        f"{name}: layers measured",
        analyze.run,
        CurveAnalyzeSettings(
            curve_checkpoint=curve,
            original_checkpoint=seed0,
            swap_metadata=names.swap_metadata(swapped),
            output_dir=folder,
            num_points=settings.num_points,
        ),
    )
    story.part(
        f"{name}: animation",
        animate.run,
        AnimateSettings(
            data=folder / names.LAYER_DISTANCES, output=folder / "layer_distances_evolution.gif", heatmap=True
        ),
    )
    return analysis


def _pair(name: str, distance: L2Result, line: CurveEvalResult, curve: CurveEvalResult) -> Pair:
    def barrier(result: CurveEvalResult, series: str) -> float:
        value = result.barriers["max_gap"][series]
        assert value is not None
        return value

    return Pair(
        name=name,
        total_l2=distance.distance.total_l2,
        normalized_l2=distance.distance.normalized_total_l2,
        line_barrier=barrier(line, "loss_test"),
        curve_barrier=barrier(curve, "loss_test"),
        line_error_barrier=barrier(line, "error_test"),
        curve_error_barrier=barrier(curve, "error_test"),
        length=curve.length,
    )


def _arrays(result: CurveEvalResult) -> dict[str, np.ndarray]:
    with np.load(result.arrays, allow_pickle=False) as file:
        return {name: file[name] for name in ("ts", "te_nll", "te_err")}
