"""`mcx swap`: a network that computes the same function at another place in weight space, and the proof of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from modeconn_cli.engine import names, symmetry
from modeconn_cli.engine.datasets import Data
from modeconn_cli.engine.errors import AnswerIsNo, NoDataSet, SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints, completing, distances, graph, models, subject, weights
from modeconn_cli.engine.networks.checkpoints import About, Checkpoint
from modeconn_cli.engine.networks.distances import Distance
from modeconn_cli.engine.networks.models.recognise import recognised
from modeconn_cli.engine.networks.subject import Needed, Subject
from modeconn_cli.engine.results import files, jobs, records
from modeconn_cli.engine.results.fingerprints import sha256
from modeconn_cli.engine.results.records import Provenance, Record
from modeconn_cli.engine.settings.base import tilde
from modeconn_cli.engine.settings.swap import SwapSettings
from modeconn_cli.engine.symmetry import Symmetry
from modeconn_cli.engine.symmetry import choose as units
from modeconn_cli.engine.training import predict

MARGIN = 1e-4  # relative gap of the two largest logits below which float32 may decide otherwise


@dataclass(frozen=True)
class Verification:
    """What was compared. Entries that a level does not measure are None. Accuracies and the rate of equal predictions
    are in percent; `max_output_diff` is in the network's own type, float32 as a rule.
    """

    level: str
    is_equivalent: bool | None
    acc_original: float | None = None
    acc_swapped: float | None = None
    pred_match_rate: float | None = None
    max_output_diff: float | None = None
    max_output_diff_float64: float | None = None


@dataclass(frozen=True, kw_only=True)
class SwapResult(Record):
    schema: ClassVar[str] = "mcx.swap/1"

    original_checkpoint: str
    output: str
    mode: str
    layer_depth: str | None
    layer_name: str | None
    layers_swapped: list[str]  # all whose units change places: those that are added to `layer_name` too
    num_filters: int
    num_swaps: int
    neuron_pairs: list[tuple[int, int]]
    seed: int
    distance: Distance
    verification: Verification
    provenance: Provenance
    checkpoint_sha256: str | None = None  # of the output; the metadata comes before it

    def fields(self) -> dict[str, Any]:
        """The documented metadata."""
        block, layer = units.place_in_blocks(self.layer_name)
        what = f"{self.num_filters} units of {self.layer_name}" if self.layer_name else "every hidden layer"
        return {
            "swapped": True,
            "original_checkpoint": self.original_checkpoint,
            "mode": self.mode,
            "layer_depth": self.layer_depth,
            "block_idx": block,
            "layer_idx": layer,
            "layer_name": self.layer_name,
            "layer_description": what,
            "layers_swapped": self.layers_swapped,
            "num_filters": self.num_filters,
            "num_swaps": self.num_swaps,
            "neuron_pairs": self.neuron_pairs,
            "seed": self.seed,
            "l2_distance": self.distance.summary(),
            "verification": asdict(self.verification),
            "checkpoint_sha256": self.checkpoint_sha256,
            "provenance": self.provenance,
        }


@dataclass(frozen=True)
class Choice:
    """Which units change places: the permutation of each group, and how it came about."""

    mode: units.Mode
    layer: str | None
    depth: str | None
    size: int
    pairs: list[units.Pair]
    orders: dict[symmetry.Group, list[int]]

    @property
    def layers(self) -> list[str]:
        """The layers whose units change places: what is added together moves together."""
        return list(dict.fromkeys(layer for group in self.orders for layer in group.rows_in))


def run(settings: SwapSettings, runtime: Runtime) -> SwapResult | None:
    """Swap, prove, and publish: the metadata first, the checkpoint last."""
    source, output = _paths(settings)
    original = subject.read(source, settings, runtime, allow_nonfinite=settings.allow_nonfinite)
    original = recognised(original, settings, runtime)
    settings = completing.completed(settings, original.about, source)
    metadata, beside = names.swap_metadata(output), names.swap_distances(output)
    how: dict[str, Any] = {"record": metadata, "beside": [beside], "unread": settings.unflipped}
    write = jobs.file_output(output, records.provenance(settings, "swap", runtime.opened), settings, **how)
    opened = _opened(settings, original, runtime)
    provenance = records.provenance(settings, "swap", runtime.opened)
    write = write or jobs.file_output(output, provenance, settings, **how)  # the same on other data
    arch, model, data = opened.arch, opened.model.cpu(), opened.loaded
    (original,) = opened.checkpoints
    found = symmetry.find(graph.trace(model, arch.inputs(model)))
    choice = choose(settings, model, found)
    runtime.note(_describe(choice))
    if runtime.dry_run:
        return None
    swapped = symmetry.permute(original.state, choice.orders)
    verification = verify(settings, model, original, swapped, arch, data, runtime)
    distance = distances.l2(
        weights.parameters_of(model, original.state), weights.parameters_of(model, swapped)
    )
    result = SwapResult(
        original_checkpoint=tilde(source),
        output=tilde(output),
        mode=choice.mode,
        layer_depth=choice.depth,
        layer_name=choice.layer,
        layers_swapped=choice.layers,
        num_filters=choice.size,
        num_swaps=len(choice.pairs),
        neuron_pairs=choice.pairs,
        seed=settings.seed,
        distance=distance,
        verification=verification,
        provenance=provenance,
    )
    if verification.is_equivalent is False:
        raise AnswerIsNo(
            f"the swapped network is not equivalent: outputs differ by up to {verification.max_output_diff:.3g}; "
            "nothing was written",
            "the layer's consumers are not what the graph says; please report the network",
            result,
        )
    if not write:
        runtime.note(f"already complete: {output}")
        return replace(result, checkpoint_sha256=sha256(output))
    optimizer = symmetry.optimizer.moved(original.optimizer_state, model, choice.orders, runtime)
    about = arch.about(opened.about, buffers=tuple(weights.not_parameters(model)))
    return _publish(output, result, original, about, swapped, optimizer)


def _paths(settings: SwapSettings) -> tuple[Path, Path]:
    written = [settings.output, names.swap_metadata(settings.output), names.swap_distances(settings.output)]
    files.refuse_inputs(written, [settings.checkpoint])
    files.check_writable(settings.output.parent)
    return settings.checkpoint, settings.output


def _opened(settings: SwapSettings, original: Checkpoint, runtime: Runtime) -> Subject:
    """The network, and the data where they are asked for: the quick check needs none."""
    if not settings.verify:
        needed: Needed = "the data's shape" if settings.dataset else "no data"
        return subject.open_networks([original], settings, runtime, needed)
    try:
        return subject.open_networks([original], settings, runtime)
    except NoDataSet as error:
        raise SettingsError(
            f"--verify needs a data set, and '{original.path}' names none",
            "pass --dataset NAME; the quick check without --verify needs no data",
        ) from error


def choose(settings: SwapSettings, model: nn.Module, found: Symmetry) -> Choice:
    """The units that the settings name."""
    if settings.mirror or settings.random:
        mode: units.Mode = "mirror" if settings.mirror else "random"
        orders = units.orders_of_all(found, mode, settings.seed)
        return Choice(mode, None, None, sum(group.size for group in found.groups), [], orders)
    by_depth = settings.layer_name is None
    layer = settings.layer_name or units.layer_at_depth(model, found, settings.layer_depth)
    group = symmetry.group_of(found, layer)
    pairs = units.parse_pairs(settings.pairs) or units.draw_pairs(
        group.size, settings.num_swaps, settings.seed, layer
    )
    orders = {group: units.order_of_pairs(group, pairs)}
    return Choice("pairs", layer, settings.layer_depth if by_depth else None, group.size, pairs, orders)


def _describe(choice: Choice) -> str:
    if choice.layer is None:
        return f"{choice.mode}: permuting {choice.size:,} units in {len(choice.orders)} groups"
    pairs = ", ".join(f"{i}:{j}" for i, j in choice.pairs[:10]) + (", …" if len(choice.pairs) > 10 else "")
    others = [layer for layer in choice.layers if layer != choice.layer]
    along = f", and with them those of {', '.join(others)}, which are added to them" if others else ""
    return f"exchanging {pairs} of the {choice.size} units of {choice.layer}{along}"


def verify(
    settings: SwapSettings,
    model: nn.Module,
    original: Checkpoint,
    swapped: Mapping[str, Tensor],
    arch: models.Architecture,
    data: Data | None,
    runtime: Runtime,
) -> Verification:
    """Compare both networks at the level asked for; the check in float64 decides at every level."""
    if settings.verify is False:
        runtime.warn("not verified (--no-verify)")
        return Verification("none", None)
    inputs = symmetry.random_inputs(arch.inputs(model), settings.seed)
    found = symmetry.output_difference(model, original.state, swapped, inputs)
    difference, equivalent = found.off, found.is_rounding
    if found.kind != torch.float64:
        runtime.note(f"verified in {str(found.kind).removeprefix('torch.')}, to which the network rounds")
    if data is None or not settings.verify or not equivalent:
        own = symmetry.output_difference(model, original.state, swapped, inputs, in_float64=False).off
        return Verification("quick", equivalent, max_output_diff=own, max_output_diff_float64=difference)
    return _verify_fully(settings, model, original, swapped, data, difference, runtime)


def _verify_fully(
    settings: SwapSettings,
    model: nn.Module,
    original: Checkpoint,
    swapped: Mapping[str, Tensor],
    data: Data,
    difference: float,
    runtime: Runtime,
) -> Verification:
    """Both networks on every held-out image in float32: clear predictions must be the same."""
    model.to(runtime.device)
    logits = []
    for state in (original.state, swapped):
        weights.load_into(model, {**state, **original.extra}, str(original.path))
        logits.append(predict(model, data.held_out, settings.batch_size))
    before, after = logits
    top = before.topk(2, dim=1).values
    clear = (top[:, 0] - top[:, 1]) > MARGIN * before.abs().amax(dim=1)
    same = before.argmax(1) == after.argmax(1)
    labels = data.held_out.labels
    return Verification(
        level="full",
        is_equivalent=bool(same[clear].all()),
        acc_original=100 * int((before.argmax(1) == labels).sum()) / len(labels),
        acc_swapped=100 * int((after.argmax(1) == labels).sum()) / len(labels),
        pred_match_rate=100 * int(same.sum()) / len(labels),
        max_output_diff=float((before - after).abs().max()),
        max_output_diff_float64=difference,
    )


def _publish(
    output: Path,
    result: SwapResult,
    original: Checkpoint,
    about: About,
    swapped: Mapping[str, Tensor],
    optimizer: Mapping[str, Any] | None,
) -> SwapResult:
    """Write the three files; the checkpoint comes last and is the commit."""
    said = {k: v for k, v in result.document().items() if k not in ("checkpoint_sha256", "provenance")}
    content = {
        checkpoints.STATE: {**swapped, **original.extra},
        "metadata": said,
    }  # where the original script has it
    data = files.tensor_bytes(checkpoints.content(original.epoch, content, about, optimizer))
    result = replace(result, checkpoint_sha256=hashlib.sha256(data).hexdigest())
    layers = {layer.layer_name: layer.figures() for layer in result.distance.layers}
    files.write_json(names.swap_metadata(output), result.document())
    files.write_json(names.swap_distances(output), records.strict(layers))
    files.atomic_write(output, data)
    return result
