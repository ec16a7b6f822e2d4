"""What the units of each layer did over all samples, as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np

from modeconn_cli.engine.networks.activations.sites import Layer
from modeconn_cli.engine.results import files


@dataclass(frozen=True)
class LayerDormancy:
    """One site. Shares of its units: `proportion` dormant on a sample, in the mean over samples; `never` dormant on
    every sample; `tau_dormant` and `frequency_dormant` after nonlinearities only, the latter where they have a region
    of zeros.
    """

    layer: str
    site: str
    operation: str
    units: int
    proportion: float
    never: float
    tau_dormant: float | None
    frequency_dormant: float | None


def dormancies(
    layers: Sequence[Layer], sums: Mapping[str, np.ndarray], samples: int, *, tau: float, threshold: float
) -> list[LayerDormancy]:
    """One row per site of the sums of `observe.Activity` over all samples.

    tau-dormant: mean |h| of a unit at most `tau` times the mean over the layer's units (Sokar et al. 2023); a layer
    that is zero throughout is dormant throughout. Frequency-dormant: |h| > ε on less than `threshold` of all samples
    and positions (Dohare et al. 2024).
    """
    out, at, behind = [], 0, 0
    for layer in layers:
        dormant = sums["dormant"][at : at + layer.units]
        at += layer.units
        still = frequent = None
        if layer.kind == "post":
            total = sums["total"][behind : behind + layer.units]
            active = sums["active"][behind : behind + layer.units] / (samples * layer.positions)
            behind += layer.units
            if np.isfinite(total).all():
                still = float((total <= tau * total.mean()).mean())
                frequent = float((active < threshold).mean()) if layer.zero else None
        proportion, never = float(dormant.mean() / samples), float((dormant == samples).mean())
        out.append(
            LayerDormancy(
                layer.name, layer.kind, layer.operation, layer.units, proportion, never, still, frequent
            )
        )
    return out


def share(rows: Sequence[LayerDormancy], what: str) -> float | None:
    """A share of the units of all layers that have one; None where none has."""
    known = [(getattr(row, what), row.units) for row in rows if getattr(row, what) is not None]
    units = sum(count for _, count in known)
    return sum(value * count for value, count in known) / units if units else None


def table(rows: Sequence[LayerDormancy]) -> str:
    """CSV, a row per site; empty where a quantity has no meaning."""
    return files.csv_text([field.name for field in fields(LayerDormancy)], map(astuple, rows))


def parse(text: str) -> list[LayerDormancy]:
    """The rows of such a table."""

    def number(cell: str) -> float | None:
        return float(cell) if cell else None

    return [
        LayerDormancy(
            row["layer"], row["site"], row["operation"], int(row["units"]), float(row["proportion"]),
            float(row["never"]), number(row["tau_dormant"]), number(row["frequency_dormant"]),
        )
        for row in csv.DictReader(io.StringIO(text, newline=""))
    ]  # fmt: skip
