"""What the units of each layer did over all samples, as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine.networks.activations.ranks import Ranks, entries, ranks
from modeconn_cli.engine.networks.activations.sites import Layer
from modeconn_cli.engine.results import files


@dataclass(frozen=True)
class LayerDormancy:
    """One site. Shares of its units: `proportion` dormant on a sample, in the mean over samples; `never` dormant on
    every sample; `tau_dormant` and `frequency_dormant` after nonlinearities only, the latter where they have a region
    of zeros.

    Where ranks are taken, after nonlinearities: those of `ranks.Ranks`, and how many units are `dead`, dormant on every
    sample. `weight_norm` ‖w‖₂ is of the parameters of the layer, of a nonlinearity's of the layer behind it;
    `distance_from_init` ‖w − w₀‖₂ of the same.
    """

    layer: str
    site: str
    operation: str
    units: int
    proportion: float
    never: float
    tau_dormant: float | None
    frequency_dormant: float | None
    entropy_rank: float | None = None
    srank: int | None = None
    stable_rank: float | None = None
    approximate_rank: int | None = None
    feature_norm: float | None = None
    dead: int | None = None
    weight_norm: float | None = None
    distance_from_init: float | None = None


_NAMES = [field.name for field in fields(LayerDormancy)]
_WITHOUT_RANKS = _NAMES[: _NAMES.index("entropy_rank")]
_WHOLE = {"units", "srank", "approximate_rank", "dead"}
_WORDS = {"layer", "site", "operation"}


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


def with_ranks(
    rows: Sequence[LayerDormancy],
    layers: Sequence[Layer],
    ranked: Collection[Layer],
    sums: Mapping[str, np.ndarray],
    samples: int,
) -> list[LayerDormancy]:
    """The rows of `dormancies` with the ranks of the layers that have some, of the sums of `observe.Activity`."""
    out, at, number = [], 0, 0
    for row, layer in zip(rows, layers, strict=True):
        found = Ranks()
        if layer in ranked:
            size = entries(layer.units)
            strips, norms = sums["grams"][at : at + size], float(sums["norms"][number])
            found = ranks(strips, norms, layer, samples)
            at, number = at + size, number + 1
        dead = round(row.never * row.units) if layer.kind == "post" and np.isfinite(row.never) else None
        out.append(replace(row, **asdict(found), dead=dead))
    return out


def with_weights(
    rows: Sequence[LayerDormancy],
    layers: Sequence[Layer],
    now: Mapping[str, Tensor],
    initial: Mapping[str, Tensor] | None,
) -> list[LayerDormancy]:
    """The rows with the norms of parameters by name, and of their difference from `initial` ones, where known."""
    out = []
    for row, layer in zip(rows, layers, strict=True):
        names = parameters_of(layer, now)
        of_layer = [now[name].detach().double().cpu() for name in names]
        moved = None if initial is None else [w - initial[n] for w, n in zip(of_layer, names, strict=True)]
        out.append(replace(row, weight_norm=_norm(of_layer), distance_from_init=_norm(moved or [])))
    return out


def parameters_of(layer: Layer, names: Collection[str]) -> list[str]:
    """The names of the parameters of a layer, of a nonlinearity's of the layer behind it; none where it has no name."""
    module = layer.behind if layer.kind == "post" else layer.name.partition("#")[0]
    return [name for name in names if module and name.startswith(module + ".")]


def _norm(tensors: Sequence[Tensor]) -> float | None:
    if not tensors:
        return None
    return float(torch.stack([torch.linalg.vector_norm(each) for each in tensors]).norm())


def share(rows: Sequence[LayerDormancy], what: str) -> float | None:
    """A share of the units of all layers that have one; None where none has."""
    known = [(getattr(row, what), row.units) for row in rows if getattr(row, what) is not None]
    units = sum(count for _, count in known)
    return sum(value * count for value, count in known) / units if units else None


def table(rows: Sequence[LayerDormancy], *, ranked: bool) -> str:
    """CSV, a row per site; empty where a quantity has no meaning."""
    names = _NAMES if ranked else _WITHOUT_RANKS
    return files.csv_text(names, (astuple(row)[: len(names)] for row in rows))


def parse(text: str) -> list[LayerDormancy]:
    """The rows of such a table, of any version."""

    def value(name: str, cell: str) -> str | float | None:
        if name in _WORDS:
            return cell
        return (int(cell) if name in _WHOLE else float(cell)) if cell else None

    rows = csv.DictReader(io.StringIO(text, newline=""))
    return [LayerDormancy(**{name: value(name, cell) for name, cell in row.items()}) for row in rows]  # type: ignore[arg-type]
