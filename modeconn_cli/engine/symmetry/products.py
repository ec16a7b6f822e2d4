"""Rules for products of activations: matrix products, einsum and attention."""

from __future__ import annotations

from collections.abc import Sequence

from modeconn_cli.engine.symmetry.elementwise import broadcast, united
from modeconn_cli.engine.symmetry.labels import Unproven, Words, product
from modeconn_cli.engine.symmetry.registry import Step, rule
from modeconn_cli.engine.symmetry.tensors import Labelled, from_axes


@rule("matmul", "mm", "bmm", "mv", "dot", "vdot")
def matmul(step: Step, x: Labelled, **arguments: object) -> Labelled:
    """(…, n, k), (…, k, m) -> (…, n, m); vectors as torch.matmul reads them."""
    name, other = next((name, value) for name, value in arguments.items() if isinstance(value, Labelled))
    left, right = step.split(x), step.split(other)
    _mixes(step, x, other)
    if len(right) > 1:
        step.produces(name, right[-1])
    if len(left) > 1:
        step.produces("self", left[-2])
    return from_axes(_product(step, left, right))


@rule("addmm", "baddbmm", "addmv")
def add_product(step: Step, x: Labelled, **arguments: object) -> Labelled:
    """x + left @ right, x broadcast."""
    left, right = (value for value in arguments.values() if isinstance(value, Labelled))
    _mixes(step, left, right)
    return united(step, [from_axes(_product(step, step.split(left), step.split(right))), x])


@rule("einsum")
def einsum(step: Step, equation: str, tensors: Sequence[Labelled], **_: object) -> Labelled:
    """Axes with one letter move alike; a letter that the output lacks is summed over."""
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if not arrow or "." in equation or any(len(set(term)) < len(term) for term in terms):
        raise Unproven(f"{step.name}: only plain letters with an output are read")
    axes: dict[str, Words] = {}
    for term, tensor in zip(terms, tensors, strict=True):
        step.mixes(tensor, *(axis for axis, letter in enumerate(term) if letter not in output))
        for letter, words in zip(term, step.split(tensor), strict=True):
            known = axes.setdefault(letter, words)
            if len(known) == 1:
                axes[letter] = words
            elif len(words) > 1:
                step.equate(known, words)
    return from_axes([axes[letter] for letter in output])


@rule("scaled_dot_product_attention")
def attention(
    step: Step,
    query: Labelled,
    key: Labelled,
    value: Labelled,
    attn_mask: Labelled | None = None,
    is_causal: bool = False,
    enable_gqa: bool = False,
    **_: object,
) -> Labelled:
    """(…, h, t, d), (…, h, s, d), (…, h, s, v) -> (…, h, t, v), softmax over s in between."""
    queries, keys, values = step.split(query), step.split(key), step.split(value)
    if not len(queries) == len(keys) == len(values):
        raise Unproven(f"{step.name} with inputs of several ranks")
    for read, axes in ((query, [-1]), (key, [-2, -1]), (value, [-2]), (attn_mask, [-1])):
        step.mixes(read, *axes)
    if is_causal:
        step.freeze(queries[-2], keys[-2])
    if enable_gqa:
        keys, values = (_repeated(step, queries, each) for each in (keys, values))
    step.equate(queries[-1], keys[-1])
    step.equate(keys[-2], values[-2])
    batch = broadcast(
        step, [values[:-2], keys[:-2], queries[:-2]]
    )  # labels of heads that stay may be two: as values'
    if attn_mask is not None:
        broadcast(step, [[*batch, queries[-2], keys[-2]], step.split(attn_mask)])
    return from_axes([*batch, queries[-2], values[-1]])


def _repeated(step: Step, queries: list[Words], shared: list[Words]) -> list[Words]:
    """Heads that blocks of query heads read: head k beside itself as often as its block has heads."""
    copies = len(queries[-3]) // len(shared[-3])
    heads = product(shared[-3], step.fresh(copies)) if copies > 1 else shared[-3]
    return [*shared[:-3], heads, *shared[-2:]]


def _mixes(step: Step, left: Labelled, right: Labelled) -> None:
    step.mixes(left, -1)
    step.mixes(right, -2 if len(right.shape) > 1 else -1)


def _product(step: Step, left: list[Words], right: list[Words]) -> list[Words]:
    """The axes of a matrix product."""
    step.equate(left[-1], right[-2] if len(right) > 1 else right[-1])
    batch = broadcast(step, [right[:-2], left[:-2]])
    return [*batch, *left[-2:-1], *right[-1:] * (len(right) > 1)]
