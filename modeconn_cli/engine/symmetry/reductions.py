"""Rules for sums and the like over axes, and for operations that depend on the order along an axis."""

from __future__ import annotations

from collections.abc import Iterable

from modeconn_cli.engine.symmetry.elementwise import united
from modeconn_cli.engine.symmetry.labels import Unproven, Words
from modeconn_cli.engine.symmetry.registry import Step, rule
from modeconn_cli.engine.symmetry.values import ALONE, Value, from_axes

Dims = int | Iterable[int] | None


@rule(
    *("all", "amax", "amin", "any", "count_nonzero", "linalg_vector_norm", "logsumexp", "mean", "nanmean"),
    *("nansum", "norm", "prod", "special_logsumexp", "std", "sum", "var"),
)
def reduction(step: Step, x: Value, dim: Dims = None, keepdim: bool = False, **_: object) -> Value:
    """A sum does not see the order of what it adds."""
    return from_axes(_without(step, step.split(x), dim, keepdim))


@rule("var_mean", "std_mean", "aminmax")
def two_reductions(step: Step, x: Value, dim: Dims = None, keepdim: bool = False, **_: object) -> list[Value]:
    return [reduction(step, x, dim, keepdim)] * 2


@rule("max", "min")
def extreme(step: Step, x: Value, **arguments: object) -> Value | list[Value]:
    """Three operations by one name: of two tensors, of all elements, along an axis with positions."""
    other = arguments.get("other")
    if isinstance(other, Value):
        return united(step, [x, other])
    if "dim" in arguments:
        return in_order(step, x, **arguments)
    return reduction(step, x)


@rule("_log_softmax", "_softmax", "log_softmax", "softmax")
def softmax(step: Step, x: Value, dim: int, **_: object) -> Value:
    """A sum over one axis, then element by element."""
    return step.apart(x, [dim])


@rule(
    *(
        "argmax",
        "argmin",
        "argsort",
        "cummax",
        "cummin",
        "cumprod",
        "cumsum",
        "diff",
        "kthvalue",
        "logcumsumexp",
    ),
    *("median", "mode", "nanmedian", "sort", "topk"),
)
def in_order(step: Step, x: Value, dim: object = None, **_: object) -> Value | list[Value]:
    """The axis is read in order, or its positions are the result: it stays."""
    if not isinstance(dim, int):
        raise Unproven(f"{step.name} runs over all axes in order")
    axes = step.split(x)
    dim %= len(axes)
    step.freeze(axes[dim])
    outputs = []
    for shape in step.shapes:
        rest = axes[:dim] + ([step.fixed(shape[dim])] if len(shape) == len(axes) else []) + axes[dim + 1 :]
        outputs.append(from_axes(rest))
    return outputs if len(outputs) > 1 else outputs[0]


@rule("tril", "triu")
def triangle(step: Step, x: Value, **_: object) -> Value:
    axes = step.split(x)
    step.freeze(*axes[-2:])
    return from_axes(axes)


def _without(step: Step, axes: list[Words], dim: Dims, keepdim: bool) -> list[Words]:
    """The axes that a reduction over `dim` (none given: all) leaves."""
    dims = [dim] if isinstance(dim, int) else list(dim or range(len(axes)))
    gone = {axis % len(axes) for axis in dims}
    return [
        step.fixed(1, ALONE) if axis in gone else words
        for axis, words in enumerate(axes)
        if keepdim or axis not in gone
    ]
