"""`mcx animate`: how far each layer is from endpoint 0 along a curve, as a GIF and a heat map."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from modeconn_cli.engine import names
from modeconn_cli.engine.commands.animate import heatmap, layers, style
from modeconn_cli.engine.commands.animate.layers import LayerDistances
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import files, jobs, records, strict_json
from modeconn_cli.engine.results.figures import about, inputs_beside, plain_matplotlib, said_beside
from modeconn_cli.engine.results.records import Provenance, Record
from modeconn_cli.engine.settings.animate import AnimateSettings
from modeconn_cli.engine.settings.base import tilde

FASTEST = 50  # frames per second; many viewers show faster ones at ten
SLOWEST = 65535  # hundredths of a second per frame: the format has 16 bits for them
MANY = 500  # frames from which on a shorter animation is suggested


@dataclass(frozen=True, kw_only=True)
class Written:
    """One file of the result."""

    file: str
    size: int


@dataclass(frozen=True, kw_only=True)
class AnimateResult(Record):
    schema: ClassVar[str] = "mcx.animate/1"

    frames: int
    fps: float  # as the file holds it
    seconds: float
    layers: int
    metric: str
    swapped_layer: str | None
    missing_values: int
    output: str
    heatmap: str | None
    files: tuple[Written, ...]
    provenance: Provenance


def run(settings: AnimateSettings, runtime: Runtime) -> AnimateResult | None:
    """Write the animation and, where it is asked for, the heat map."""
    source, output = settings.data, settings.output
    hundredths = _delay(settings.fps, runtime)
    data = layers.read(source, settings.array)
    shown = spread(len(data.t), settings.max_frames)
    still = output.with_name(settings.named(names.heatmap(output))) if settings.heatmap else None
    outputs = [output] if still is None else [output, still]
    files.refuse_inputs(outputs, [source])
    if runtime.dry_run:
        size = f"{len(shown)} frames of {len(data.names)} layers"
        runtime.plan([f"draw {size} from {source}", *(f"write {path}" for path in outputs)])
        return None
    _remark(data, shown, runtime)
    provenance = records.provenance(settings, "animate", runtime.opened)
    due = [path for path in outputs if jobs.file_output(path, provenance, settings, stored=_stored)]
    if still is not None and still not in due and _drawn_otherwise(still, settings):
        due.append(still)
    comment = json.dumps(records.strict(vars(provenance)))
    if output in due:
        with plain_matplotlib():
            from modeconn_cli.engine.commands.animate import bars  # which imports matplotlib

            files.atomic_write(output, lambda stream: bars.write(stream, data, shown, hundredths, comment))
    if still is not None and still in due:
        files.atomic_write(still, heatmap.draw(data, comment, _title(data, source), settings))
    for path in outputs:
        if path not in due:
            runtime.note(f"already complete: {path}")
    return AnimateResult(
        frames=len(shown),
        fps=100 / hundredths,
        seconds=len(shown) * hundredths / 100,
        layers=len(data.names),
        metric=data.metric,
        swapped_layer=None if data.swapped is None else data.names[data.swapped],
        missing_values=data.nonfinite,
        output=tilde(output),
        heatmap=None if still is None else tilde(still),
        files=tuple(Written(file=tilde(path), size=path.stat().st_size) for path in outputs),
        provenance=provenance,
    )


def _drawn_otherwise(still: Path, settings: AnimateSettings) -> bool:
    """Whether a heat map that this command has made is wanted with other pixels."""
    return bool(jobs.drawn_otherwise(records.settings_of(_stored(still)), settings))


def _title(data: LayerDistances, source: Path) -> str:
    """What is shown, and of which curve, as far as its folder and the record of its analysis say."""
    said, inputs = said_beside([source]) or source.resolve().parent.name, inputs_beside([source])
    return f"{layers.METRICS[data.metric][0]}: {about(None, said, [*map(names.epoch_of, inputs[:1])])}"


def _delay(fps: float, runtime: Runtime) -> int:
    """Hundredths of a second per frame, the nearest that a GIF can hold, with what the user should know of it."""
    hundredths = min(max(math.floor(100 / fps + 0.5), 1), SLOWEST)
    if abs(hundredths * fps - 100) > 1e-6 * 100:
        runtime.note(f"a GIF cannot hold {fps:g} frames per second; it has {100 / hundredths:.4g}")
    if fps > FASTEST:
        runtime.warn(f"many viewers slow down a GIF of more than {FASTEST} frames per second")
    return hundredths


def spread(count: int, most: int | None) -> list[int]:
    """`most` positions of `count`, evenly spaced with both ends; all of them where there are no more."""
    if most is None or most >= count:
        return list(range(count))
    return [int(k) for k in np.rint(np.linspace(0, count - 1, most))]


def _remark(data: LayerDistances, shown: list[int], runtime: Runtime) -> None:
    if data.nonfinite:
        runtime.note(
            f"{data.nonfinite} of {data.values.size} values are not finite; no bar is drawn for them"
        )
    elif not data.values.any():
        runtime.note(f"every {data.metric} in the file is zero")
    if data.lost:
        runtime.note(f"the swapped layer '{style.label(data.lost)}' is not among the layers; none is marked")
    if len(shown) > MANY:
        runtime.note(f"{len(shown)} frames make a large file; --max-frames 200 draws fewer")


def _stored(path: Path) -> Any:
    """The provenance in a GIF's comment, a PNG's text or another figure; None in a file of any other origin."""
    if path.suffix.casefold() in (".pdf", ".svg"):
        return strict_json.parsed(heatmap.comment_in(path.read_bytes()) or "null", path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(path, formats=("GIF", "PNG")) as picture:
                text = picture.info.get("mcx") or picture.info.get("comment") or "null"
                return strict_json.parsed(text, path)
        except (InputError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None
