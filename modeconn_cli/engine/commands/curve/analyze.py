"""`mcx curve analyze`: which layers move along a curve, and whether the change is local."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from modeconn_cli.engine import names, symmetry
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import completing, graph, subject, weights
from modeconn_cli.engine.networks.subject import Subject
from modeconn_cli.engine.paths import file
from modeconn_cli.engine.paths.file import CurveFile
from modeconn_cli.engine.paths.layers import LayerDistances, layer_distances
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.results.records import Provenance, Record
from modeconn_cli.engine.settings.curve import CurveAnalyzeSettings
from modeconn_cli.engine.settings.shared import NETWORK
from modeconn_cli.engine.symmetry import files as permutations


@dataclass(frozen=True)
class Swap:
    """What a swap's metadata says, and endpoint 0 with that swap applied; without metadata there is no swap."""

    layer: str | None = None  # None, too, where every hidden layer is permuted
    block: int = -1
    index: int = -1
    pairs: list[list[int]] = field(default_factory=list)
    neighbours: frozenset[str] = frozenset()  # modules that the swap changes beside the layer itself
    together: frozenset[str] = frozenset()  # the layers whose units move, `layer` among them
    state: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class Layer:
    name: str
    type: str
    n_params: int
    normalized_l2_middle: float
    normalized_l2_end: float
    modulo_swap_end: float | None
    from_line_max: float


@dataclass(frozen=True, kw_only=True)
class CurveAnalyzeResult(Record):
    """Shares are of Σ‖Δ‖² over modules at t = ½; the participation ratio is (Σd²)²/Σd⁴ there."""

    schema: ClassVar[str] = "mcx.curve_analyze/1"

    layers: tuple[Layer, ...]
    layer_names: list[str]
    layer_types: list[str]
    layer_params: list[int]
    num_t_points: int
    swapped_layer: str | None
    swapped_block: int
    swapped_layer_idx: int
    neuron_pairs: list[list[int]]
    participation_ratio: float
    swapped_layers: list[str]  # those whose units move: `swapped_layer`, and what is added to it
    share_swapped: float | None
    share_swapped_layers: float | None
    share_neighbours: float | None
    share_elsewhere: float | None
    arrays: str
    provenance: Provenance | None


def run(settings: CurveAnalyzeSettings, runtime: Runtime) -> CurveAnalyzeResult | None:
    """Measure the layers of a curve at `num_points` positions."""
    folder = settings.output_dir
    curve = file.read(settings.curve_checkpoint, settings, runtime, allow_nonfinite=settings.allow_nonfinite)
    # A curve of ours holds its points under the names of its network.
    unread = () if curve.foreign or settings.swap_metadata is not None else NETWORK
    if not curve.foreign:
        _check_said(settings, curve)
    settings = completing.completed(settings, curve.about, curve.file)
    swap = Swap()
    if settings.swap_metadata is not None:
        curve, opened = file.open_curve(curve, settings, runtime, "no data")
        swap = _swap(settings.swap_metadata, curve, opened)
    if settings.original_checkpoint is not None:
        _compare_original(settings, settings.original_checkpoint, curve, runtime)
    if runtime.plan(
        [
            f"measure {len(weights.modules(curve.points[0]))} layers at {settings.num_points} positions",
            f"results in {folder}",
        ]
    ):
        return None
    owned = (names.LAYER_DISTANCES, names.ANALYSIS_SUMMARY)
    with jobs.opened(settings, folder, "curve analyze", runtime, owned=owned, unread=unread) as job:
        ts = np.linspace(0, 1, settings.num_points)
        found = layer_distances(curve.kind, curve.points, ts, swap.state)
        middle = layer_distances(curve.kind, curve.points, np.array([0.0, 0.5, 1.0]))
        result = _result(found, middle, swap, folder, job)
        if not job.complete:
            files.write_arrays(folder / names.LAYER_DISTANCES, _arrays(found, swap))
            files.write_json(folder / names.ANALYSIS_SUMMARY, result.document())
            job.finish([folder / name for name in owned])
    return result


def _check_said(settings: CurveAnalyzeSettings, curve: CurveFile) -> None:
    """Raises InputError where a flag says another network than the curve, whose word is enough otherwise."""
    own = {"model": curve.about.model, "num_classes": curve.about.num_classes}
    for name, value in own.items():
        wished = getattr(settings, name)
        if settings.was_given(name) and value not in (None, wished):
            raise InputError(
                f"'{curve.file}' says {name} {value}, not {wished}", f"leave out --{name.replace('_', '-')}"
            )
    settings.refuse("on this curve, which says its arguments", "model_arg")
    if settings.original_checkpoint is None:
        settings.refuse("on this curve, which says its tensors", "state_key")


def _compare_original(settings: CurveAnalyzeSettings, path: Path, curve: CurveFile, runtime: Runtime) -> None:
    """Warn where the curve does not begin at the network it should begin at (free ends move)."""
    state = subject.read(path, settings, runtime, allow_nonfinite=settings.allow_nonfinite).state
    state = weights.named_as(state, curve.points[0])
    original = {name: state[name] for name in curve.points[0] if name in state}
    weights.check_alike(original, curve.points[0], str(path), f"endpoint 0 of {curve.file}")
    if not all(original[name].equal(curve.points[0][name]) for name in original):
        runtime.warn(f"endpoint 0 of the curve is not '{path}': its ends were free, or it began elsewhere")


def _swap(path: Path, curve: CurveFile, opened: Subject) -> Swap:
    """The swap that a metadata file describes, applied to endpoint 0."""
    metadata = permutations.read_metadata(path)
    found = symmetry.find(graph.trace(opened.model.cpu(), opened.arch.inputs(opened.model)))
    orders = permutations.orders_of_swap(metadata, path, found)
    swapped = symmetry.permute(curve.points[0], orders)
    state = {name: swapped[name] for name in curve.points[0]}
    touched = {name.rpartition(".")[0] for name in state if state[name] is not curve.points[0][name]}
    layer = permutations.layer_of(metadata, found)
    return Swap(
        layer=layer,
        block=int(metadata.get("block_idx", -1)),
        index=int(metadata.get("layer_idx", -1)),
        pairs=[[int(i), int(j)] for i, j in metadata["neuron_pairs"]],
        neighbours=frozenset(touched - {layer}),
        together=frozenset(each for group in orders if layer for each in group.rows_in),
        state=state,
    )


def _arrays(found: LayerDistances, swap: Swap) -> dict[str, Any]:
    """The content of `layer_distances_along_curve.npz`."""
    out = {
        "layer_names": np.array(found.names),
        "layer_types": np.array(found.types),
        "layer_params": found.sizes,
        "t_values": found.ts,
        "normalized_l2": found.normalized,
        "relative": found.relative,
        "raw_l2": found.raw,
        "from_line_l2": found.from_line,
        "norm_difference": found.norm_difference,
        "swapped_block": swap.block,
        "swapped_layer": swap.index,
        "swapped_layer_name": swap.layer or "",
    }
    return out if found.modulo_swap is None else {**out, "modulo_swap_l2": found.modulo_swap}


def _result(
    found: LayerDistances, middle: LayerDistances, swap: Swap, folder: Path, job: jobs.Job
) -> CurveAnalyzeResult:
    """The record; `middle` holds the distances at 0, ½ and 1, whatever positions were asked for."""
    squares = middle.raw[1] ** 2
    total, fourth = float(squares.sum()), float((squares**2).sum())
    places = [
        "swapped" if name == swap.layer else "neighbours" if name in swap.neighbours else "elsewhere"
        for name in found.names
    ]

    def share(wanted: str) -> float | None:
        if swap.layer is None or total == 0:
            return None
        return float(sum(s for place, s in zip(places, squares, strict=True) if place == wanted)) / total

    layers = tuple(
        Layer(
            name=name,
            type=found.types[i],
            n_params=int(found.sizes[i]),
            normalized_l2_middle=float(middle.normalized[1, i]),
            normalized_l2_end=float(found.normalized[-1, i]),
            modulo_swap_end=None if found.modulo_swap is None else float(found.modulo_swap[-1, i]),
            from_line_max=float(max(found.from_line[:, i].max(), middle.from_line[1, i])),
        )
        for i, name in enumerate(found.names)
    )
    return CurveAnalyzeResult(
        layers=layers,
        layer_names=found.names,
        layer_types=found.types,
        layer_params=found.sizes.tolist(),
        num_t_points=len(found.ts),
        swapped_layer=swap.layer,
        swapped_block=swap.block,
        swapped_layer_idx=swap.index,
        neuron_pairs=swap.pairs,
        participation_ratio=total**2 / fourth if fourth > 0 else 0.0,
        swapped_layers=[name for name in found.names if name in swap.together],
        share_swapped=share("swapped"),
        share_swapped_layers=None
        if swap.layer is None or total == 0
        else float(sum(s for name, s in zip(found.names, squares, strict=True) if name in swap.together))
        / total,
        share_neighbours=share("neighbours"),
        share_elsewhere=share("elsewhere"),
        arrays=str(folder / names.LAYER_DISTANCES),
        provenance=job.record,
    )
