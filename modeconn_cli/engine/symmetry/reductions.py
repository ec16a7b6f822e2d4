"""Rules for sums and the like over axes, and for operations that depend on the order along an axis."""

from __future__ import annotations

from collections.abc import Iterable

from modeconn_cli.engine.symmetry.elementwise import united
from modeconn_cli.engine.symmetry.labels import Unproven
from modeconn_cli.engine.symmetry.registry import Step, rule
from modeconn_cli.engine.symmetry.tensors import ALONE, Labelled, from_axes

Dims = int | Iterable[int] | None


@rule(
    *(
        "all",
        "amax",
        "amin",
        "aminmax",
        "any",
        "count_nonzero",
        "linalg_vector_norm",
        "logsumexp",
        "mean",
        "nanmean",
    ),
    *("nansum", "norm", "prod", "special_logsumexp", "std", "std_mean", "sum", "var", "var_mean"),
)
def reduction(step: Step, x: Labelled, dim: Dims = None, keepdim: bool = False, **_: object) -> Labelled:
    """A sum over some axes, none given: all, does not see the order of what it adds."""
    axes = step.split(x)
    dims = [dim] if isinstance(dim, int) else list(dim or range(len(axes)))
    gone = {axis % len(axes) for axis in dims}
    step.mixes(x, *gone)
    return from_axes(
        step.fixed(1, ALONE) if axis in gone else words
        for axis, words in enumerate(axes)
        if keepdim or axis not in gone
    )


@rule("max", "min")
def extreme(step: Step, x: Labelled, **arguments: object) -> Labelled:
    """Three operations by one name: of two tensors, of all elements, along an axis with positions."""
    other = arguments.get("other")
    if isinstance(other, Labelled):
        step.mixes(None)
        return united(step, [x, other])
    if "dim" in arguments:
        return in_order(step, x, **arguments)
    return reduction(step, x)


@rule("_log_softmax", "_softmax", "log_softmax", "softmax")
def softmax(step: Step, x: Labelled, dim: int, **_: object) -> Labelled:
    """A sum over one axis, then element by element."""
    step.mixes(x, dim)
    return step.apart(x, [dim])


@rule(
    *("argmax", "argmin", "argsort", "cummax", "cummin", "cumprod", "cumsum", "diff", "kthvalue"),
    *("logcumsumexp", "median", "mode", "nanmedian", "sort", "topk"),
)
def in_order(step: Step, x: Labelled, dim: object = None, **_: object) -> Labelled:
    """The axis is read in order, or its positions are the result: it stays."""
    if not isinstance(dim, int):
        raise Unproven(f"{step.name} runs over all axes in order")
    axes = step.split(x)
    dim %= len(axes)
    step.mixes(x, dim)
    step.freeze(axes[dim])
    still = [step.fixed(step.shape[dim])] if len(step.shape) == len(axes) else []
    return from_axes([*axes[:dim], *still, *axes[dim + 1 :]])


@rule("tril", "triu", placewise=True)
def triangle(step: Step, x: Labelled, **_: object) -> Labelled:
    axes = step.split(x)
    step.freeze(*axes[-2:])
    return from_axes(axes)
