"""Rules for operations that treat elements alike: equal places of all operands move together."""

from __future__ import annotations

from collections.abc import Sequence

from modeconn_cli.engine.symmetry.labels import Unproven, Words, product
from modeconn_cli.engine.symmetry.registry import Step, rule
from modeconn_cli.engine.symmetry.tensors import Labelled, from_axes

# fmt: off
ALIKE = (
    # one operand, or one operand and numbers
    "abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "bitwise_not", "ceil", "cos", "cosh", "deg2rad",
    "digamma", "erf", "erfc", "erfinv", "exp", "exp2", "expm1", "fill", "fix", "floor", "frac", "isfinite",
    "isinf", "isnan", "lgamma", "log", "log10", "log1p", "log2", "logical_not", "logit", "nan_to_num", "neg",
    "negative", "positive", "rad2deg", "reciprocal", "round", "rsqrt", "sgn", "sigmoid", "sign", "signbit", "sin",
    "sinc", "sinh", "sqrt", "square", "tan", "tanh", "trunc", "zero",
    # activations
    "celu", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "log_sigmoid",
    "mish", "relu", "relu6", "rrelu", "selu", "silu", "softplus", "softshrink", "threshold",
    # copies, casts, and dropout, which does nothing in eval mode
    "_to_copy", "alias", "alias_copy", "alpha_dropout", "clone", "contiguous", "detach", "detach_copy", "dropout",
    "feature_alpha_dropout", "feature_dropout", "lift_fresh", "lift_fresh_copy",
    # several operands, broadcast
    "add", "addcdiv", "addcmul", "atan2", "bitwise_and", "bitwise_or", "bitwise_xor", "clamp", "clamp_max",
    "clamp_min", "clip", "copy", "div", "divide", "eq", "float_power", "floor_divide", "fmax", "fmin", "fmod",
    "ge", "greater", "gt", "hypot", "le", "lerp", "less", "logaddexp", "logaddexp2", "logical_and", "logical_or",
    "logical_xor", "lt", "masked_fill", "maximum", "minimum", "mul", "multiply", "ne", "not_equal", "pow",
    "remainder", "rsub", "sub", "subtract", "true_divide", "where", "xlogy", "__and__", "__or__", "__xor__",
    # complex numbers
    "complex", "conj", "conj_physical", "imag", "polar", "real", "resolve_conj", "resolve_neg",
)

CONSTANTS = (
    "empty", "empty_like", "full", "full_like", "new_empty", "new_full", "new_ones", "new_zeros", "ones",
    "ones_like", "scalar_tensor", "zeros", "zeros_like",
)
# fmt: on


@rule(*ALIKE, placewise=True)
def elementwise(step: Step, **operands: object) -> Labelled:
    return united(step, [operand for operand in operands.values() if isinstance(operand, Labelled)])


@rule("_weight_norm")
def weight_norm(step: Step, v: Labelled, g: Labelled, dim: int = 0) -> Labelled:
    """A direction times a length per element of `dim`."""
    step.mixes(v, *(axis for axis in range(len(v.shape)) if axis != dim % len(v.shape)))
    return united(step, [v, g])


@rule("to", "type_as", placewise=True)
def cast(_step: Step, x: Labelled, **_: object) -> Labelled:
    """Only `x` has values here; the other operand lends its type."""
    return x


@rule("arange", "linspace", "logspace", placewise=True)
def numbers(at: Step, /, **_: object) -> Labelled:
    """Of which one argument is called `step`."""
    return from_axes([at.fixed(size) for size in at.shape])


@rule("prelu", placewise=True)
def prelu(step: Step, x: Labelled, weight: Labelled, **_: object) -> Labelled:
    """One slope per channel (axis 1), or one for all."""
    (slopes,) = step.split(weight)
    if len(slopes) > 1:
        x = step.apart(x, [1])
        step.equate(x.block(1).words, slopes)
    return x


@rule("glu", placewise=True)
def glu(step: Step, x: Labelled, dim: int = -1, **_: object) -> Labelled:
    """First half times the gate of the second: unit k is elements k and n + k."""
    axes = step.split(x)
    units = step.fresh(len(axes[dim]) // 2)
    step.equate(axes[dim], product(step.mark(2), units))
    axes[dim] = units
    return from_axes(axes)


@rule(*CONSTANTS, placewise=True)
def constant(step: Step, **_: object) -> Labelled:
    """Equal numbers everywhere: any permutation leaves them as they are."""
    return from_axes([step.fresh(size) for size in step.shape])


def united(step: Step, operands: Sequence[Labelled]) -> Labelled:
    """Equate the axes of broadcast operands and return those of the result."""
    first, *others = operands
    if all(_layout(other) == _layout(first) for other in others):
        for blocks in zip(*(operand.blocks for operand in operands), strict=True):
            step.equate(*(block.flat for block in blocks))
        return first
    return from_axes(broadcast(step, [step.split(operand) for operand in operands]))


def broadcast(step: Step, operands: Sequence[list[Words]]) -> list[Words]:
    """Equate axes from the last one backwards; those of one element are repeated, which permutes freely."""
    out: list[Words] = []
    for back in range(1, max(len(axes) for axes in operands) + 1):
        along = [axes[-back] for axes in operands if len(axes) >= back]
        size = max(len(words) for words in along)
        if any(len(words) not in (1, size) for words in along):
            raise Unproven(f"{step.name} shares one head among several")
        long = [words for words in along if len(words) == size]
        if size > 1:
            step.equate(*long)
        out.insert(0, long[0])
    return out


def _layout(x: Labelled) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [(block.axes, block.sizes) for block in x.blocks]
