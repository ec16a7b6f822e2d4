"""`mcx l2`: how far apart two checkpoints are in weight space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from modeconn_cli.engine import checkpoints, distances, files, jobs, labels, records, weights
from modeconn_cli.engine.distances import Distance
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.records import Record
from modeconn_cli.engine.runtime import Runtime
from modeconn_cli.engine.settings.base import tilde
from modeconn_cli.engine.settings.l2 import L2Settings


@dataclass(frozen=True, kw_only=True)
class L2Result(Record):
    schema: ClassVar[str] = "mcx.l2/1"

    checkpoint1: str
    checkpoint2: str
    distance: Distance
    top_k: int
    order: str
    include_buffers: bool
    provenance: dict[str, Any]

    def fields(self) -> dict[str, Any]:
        d = self.distance
        top = [
            {"rank": rank, "layer_name": layer.layer_name, **layer.figures()}
            for rank, layer in enumerate(d.top(self.top_k, self.order), start=1)
        ]
        return {
            "checkpoint1": self.checkpoint1,
            "checkpoint2": self.checkpoint2,
            "total_l2": d.total_l2,
            "normalized_total_l2": d.normalized_total_l2,
            "relative_total": d.relative_total,
            "total_params": d.total_params,
            "num_layers": len(d.layers),
            "sorted_by": self.order,
            "include_buffers": self.include_buffers,
            f"top_{self.top_k}_layers": top,
            "all_layer_distances": {layer.layer_name: layer.figures() for layer in d.layers},
            "modules": {layer.layer_name: layer.figures() for layer in d.modules},
            "provenance": self.provenance,
        }


def run(settings: L2Settings, runtime: Runtime) -> L2Result | None:
    """Measure a pair and write `--output` where one is asked for."""
    first, second = given(settings).values()
    if runtime.dry_run:
        runtime.plan([f"measure the distance from {first} to {second}"])
        return None
    if settings.output is not None:
        files.refuse_inputs([settings.output], [first, second])
        files.check_writable(settings.output.parent)
    left, right = (read_weights(path, settings, runtime) for path in (first, second))
    weights.check_alike(left, right, str(first), str(second))
    provenance = records.provenance(settings, "l2", [first, second])
    write = settings.output is not None and jobs.file_output(settings.output, provenance, settings.overwrite)
    if first.samefile(second) or provenance["inputs"][0]["sha256"] == provenance["inputs"][1]["sha256"]:
        runtime.warn("the two checkpoints are the same file")
    if any(left[name].dtype != right[name].dtype for name in left):
        runtime.note("the checkpoints differ in precision; both are taken to float64")
    distance = distances.l2(left, right)
    result = L2Result(
        checkpoint1=tilde(first),
        checkpoint2=tilde(second),
        distance=distance,
        top_k=settings.show_top_k,
        order=settings.order,
        include_buffers=settings.include_buffers,
        provenance=provenance,
    )
    if settings.output is not None:
        if write:
            files.write_json(settings.output, result.document())
        else:
            runtime.note(f"already complete: {settings.output}")
    runtime.note(size_note(distance))
    return result


def given(settings: L2Settings) -> dict[str, Path]:
    """label -> checkpoint, given by position or by flag. Raises SettingsError for both at once or fewer than two."""
    by_flag = settings.checkpoint1, settings.checkpoint2
    if settings.checkpoints and any(by_flag):
        raise SettingsError(
            "checkpoints are given by position and by --checkpoint1/--checkpoint2", "use one of them"
        )
    words = settings.checkpoints or tuple(path for path in by_flag if path is not None)
    if len(words) < 2:
        raise SettingsError(f"two checkpoints are needed, got {len(words)}", "mcx l2 FIRST.pt SECOND.pt")
    if len(words) == 2 and settings.output_dir is None:
        return dict(zip(("first", "second"), labels.paths(words), strict=True))
    return labels.labelled(words)


def read_weights(path: Path, settings: L2Settings, runtime: Runtime) -> dict[str, Tensor]:
    """What is compared of a checkpoint: its parameters, and its buffers where they are asked for."""
    checkpoint = checkpoints.read(
        path, state_key=settings.state_key, allow_nonfinite=settings.allow_nonfinite
    )
    if checkpoint.is_curve:
        raise InputError(f"'{path}' is a curve, not a network", "take a point of it with mcx curve extract")
    runtime.detail(checkpoint.found())
    found = checkpoint.parameters()
    whole = [n for n, t in found.items() if not t.is_floating_point() and t.ndim > 0]
    found = {name: tensor for name, tensor in found.items() if tensor.is_floating_point()}
    if whole or not found:
        what = f"{whole[0]} holds whole numbers" if whole else "it holds no parameters"
        raise InputError(f"'{path}' cannot be compared: {what}", "distances are between real weights")
    if settings.include_buffers:
        return {name: tensor for name, tensor in checkpoint.state.items() if tensor.is_floating_point()}
    return found


def size_note(distance: Distance) -> str:
    """The document's word for a distance, with what it leaves out."""
    value = distance.normalized_total_l2
    word = "small" if value < 0.1 else "medium" if value <= 1 else "large"
    relative = "n/a" if distance.relative_total is None else f"{100 * distance.relative_total:.2f}%"
    return (
        f"in the document's words a {word} distance (by normalized L2: small < 0.1, medium up to 1; large networks "
        f"are always small by it); relative to the first network: {relative}"
    )
