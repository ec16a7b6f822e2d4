"""Rules for recurrent layers, which torch calls as one operation, and for their single steps.

A unit is a row of every gate, a column of what it is fed back by, and an entry of the states.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import fx

from modeconn_cli.engine.networks.graph import argument, operation
from modeconn_cli.engine.symmetry.elementwise import CONSTANTS
from modeconn_cli.engine.symmetry.labels import Unproven, Words, joined, marked, product
from modeconn_cli.engine.symmetry.registry import Step, rule
from modeconn_cli.engine.symmetry.tensors import Block, Labelled, from_axes

LAYERS = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}  # gates
CELLS = {f"{name}_cell": gates for name, gates in LAYERS.items()}
CASTS = frozenset({"to", "_to_copy", "clone", "contiguous", "detach"})
TIME = "it is a position in a sequence"


@rule(*CELLS)
def cell(
    step: Step,
    x: Labelled,
    hx: Labelled | Sequence[Labelled],
    w_ih: Labelled,
    w_hh: Labelled,
    b_ih: Labelled | None = None,
    b_hh: Labelled | None = None,
) -> Labelled | list[Labelled]:
    """(…, in), states (…, units) -> states (…, units)."""
    *batch, features = step.split(x)
    units = step.fresh(step.shape[-1])
    _gates(step, CELLS[step.operation], features, units, units, [w_ih, w_hh, b_ih, b_hh])
    step.produces("w_ih", step.split(w_ih)[0])
    for state in _given(step, hx):
        if state is not None:
            for words, others in zip(step.split(state), [*batch, units], strict=True):
                step.equate(words, others)
    state = from_axes([*batch, units])
    return state if isinstance(hx, Labelled) else [state for _ in hx]


@rule(*LAYERS)
def layers(
    step: Step,
    hx: Labelled | Sequence[Labelled],
    params: Sequence[Labelled],
    num_layers: int,
    bidirectional: bool,
    x: Labelled | None = None,
    batch_first: bool = False,
    **_: object,
) -> list[Labelled]:
    """(N, T, in), states (L, N, units) -> (N, T, directions · units), states; L = layers · directions.

    Every layer and direction has units of its own. With projections (LSTM) what is fed back and comes out are other
    units than those of the cells.
    """
    if x is None:
        raise Unproven(f"{step.name} reads a packed sequence")
    *batch, features = step.split(x)
    step.freeze(batch[1 if batch_first else 0], reason=TIME)
    samples = batch[0 if batch_first else 1]
    directions = 2 if bidirectional else 1
    each = len(params) // (num_layers * directions)
    outputs: list[Words] = []
    cells: list[Words] = []
    for k in range(num_layers * directions):
        weights = list(params[k * each : (k + 1) * each])
        projection = weights.pop() if each % 2 else None  # two weights, with or without two biases
        cells.append(step.fresh(step.shapes[-1][-1]))
        outputs.append(cells[-1] if projection is None else _projected(step, cells[-1], projection))
        _gates(step, LAYERS[step.operation], features, cells[-1], outputs[-1], weights)
        if (k + 1) % directions == 0:
            features = joined(outputs[-directions:])
    _produce(step, params, each, outputs)
    of_states = (outputs, cells)[: len(step.shapes) - 1]
    for state, units in zip(_given(step, hx), of_states, strict=True):
        if state is not None:
            _begins(step, state, samples, units)
    return [from_axes([*batch, features]), *(_ends(step, samples, units) for units in of_states)]


def _gates(
    step: Step, gates: int, features: Words, units: Words, out: Words, weights: Sequence[Labelled | None]
) -> None:
    """Weights (gates · units, in) and (gates · units, out), biases (gates · units,)."""
    rows = product(step.mark(gates), units)
    for weight, read in zip(weights, (features, out), strict=False):
        assert weight is not None
        own, columns = step.split(weight)
        step.equate(own, rows)
        step.equate(columns, read)
    step.carry(rows, *weights[2:])


def _projected(step: Step, units: Words, weight: Labelled) -> Words:
    """(out, units): what comes out of a layer whose hidden states are projected."""
    out, columns = step.split(weight)
    step.equate(columns, units)
    return out


def _produce(step: Step, params: Sequence[Labelled], each: int, outputs: Sequence[Words]) -> None:
    """Name the module that has the weights; the rows of what it makes are numbered through, layer after layer."""
    sources = argument(step.node, 2, "params", ())
    made: dict[str, list[Words]] = {}
    for k, out in enumerate(outputs):
        projected = [out] if each % 2 else []
        for layer in step.layers.get(sources[k * each], ()):
            made.setdefault(layer, []).extend([step.split(params[k * each])[0], *projected])
    for layer, rows in made.items():
        step.notes.producers.setdefault(layer, joined(rows))


def _given(step: Step, states: Labelled | Sequence[Labelled]) -> list[Labelled | None]:
    """The states that a sequence begins with; None for one number everywhere, which any order leaves as it is."""
    sources = argument(step.node, 1, "hx", None)
    pairs = [(states, sources)] if isinstance(states, Labelled) else zip(states, sources, strict=True)
    return [None if _one_number(source) else state for state, source in pairs]


def _one_number(node: fx.Node) -> bool:
    """Whether a tensor is filled with one number, and nothing can write another into it."""
    while operation(node) in CASTS:
        node = node.all_input_nodes[0]
    return operation(node) in CONSTANTS and _only_read(node)


def _only_read(node: fx.Node) -> bool:
    """Whether none but recurrent layers take a tensor, or a view of it."""
    return all(
        operation(user) in LAYERS | CELLS or (operation(user) in CASTS and _only_read(user))
        for user in node.users
    )


def _begins(step: Step, state: Labelled, samples: Words, units: Sequence[Words]) -> None:
    """A state (L, N, units) that is given has one order of units, which all layers and directions must take."""
    layer, batch, words = step.split(state)
    step.freeze(layer)
    step.equate(batch, samples)
    step.equate(words, *units)


def _ends(step: Step, samples: Words, units: Sequence[Words]) -> Labelled:
    """A state (L, N, units), whose entries know which layer's they are."""
    marks = step.mark(len(units))
    words = np.stack([marked(each, marks[k : k + 1]) for k, each in enumerate(units)])
    return Labelled((Block((0, 2), words), Block((1,), samples)))
