"""What `mcx info --symmetries` says of a network, as its document has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class AxisMoved:
    """An axis along which units of a group lie: `length` elements, of which every unit has `per_unit`."""

    tensor: str
    axis: int
    length: int
    per_unit: int


@dataclass(frozen=True)
class GroupOfUnits:
    """Units that can be exchanged with each other. `layers` are the modules that make them, in execution order, with
    the number of rows of the module's output axis that are one unit.

    `within` names the group in each unit of which these can be exchanged apart, as the entries in each head; the layer,
    where these blocks themselves have to stay.
    """

    name: str
    units: int
    rows_per_unit: int  # of the first layer
    layers: Mapping[str, int]
    moves: tuple[AxisMoved, ...]
    within: str | None = None


@dataclass(frozen=True)
class Symmetries:
    """All groups of a network, in execution order, and why the units of the other layers have to stay.

    The graph is that of inputs of a shape or of a number of tokens; both are None of the network's own example.
    """

    model: str
    input_shape: list[int] | None
    input_tokens: int | None
    units: int
    groups: tuple[GroupOfUnits, ...]
    fixed: Mapping[str, str]
