"""Operations whose units are blocks of others: heads with their entries, experts with their hidden units."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundness.layers import Network, Step


def seen(value: Tensor, b: int) -> Tensor:
    """Values of heads, to which others' may be added."""
    if b == 6:
        return value + value.mean(1, keepdim=True)
    return value + value.flip(1) if b == 11 else value


def scored(scores: Tensor, b: int, talk: nn.Module | None) -> Tensor:
    """Scores of heads, which may be mixed, or have a slope of their own."""
    if talk is not None:
        return scores + talk(scores.transpose(1, 3)).transpose(1, 3)
    heads = scores.shape[1]
    return scores - torch.arange(heads)[:, None, None] / heads if b == 10 else scores


def attention(net: Network, values: Sequence[Tensor], at: int, b: int, c: int) -> Step | None:
    """Heads over (N, T, D): separate or fused projections, causal or not, keys and values shared by heads.

    Some heads share a scale of their entries, some see a mean of all heads or one other, some mix what they attend to,
    and some have slopes of their own, so that they stay.
    """
    x = values[at]
    if x.ndim != 3:
        return None
    width, heads = x.shape[2], 1 + b % 4
    if c % 4 == 0 and width % heads == 0:
        name = net.add(nn.MultiheadAttention(width, heads, batch_first=True, bias=b % 2 == 0))
        return (lambda m, x: getattr(m, name)(x, x, x, need_weights=False)[0]), (at,)
    shared = heads // 2 if c % 4 == 3 and heads % 2 == 0 else heads  # heads of keys and values
    inner = 2 + c % 2
    q, k, v, o = (
        net.add(nn.Linear(*sizes), suffix)
        for sizes, suffix in (
            ((width, heads * 2), "q"), ((width, shared * 2), "k"), ((width, shared * inner), "v"),
            ((heads * inner, width), "o"),
        )
    )  # fmt: skip

    if b in (5, 9):
        net.weight(2, suffix="scale")
    if b == 7:
        net.add(nn.Linear(heads, heads), "talk")
    prefix = net.prefix

    def attend(m: Network, x: Tensor) -> Tensor:
        query, key, value = (
            getattr(m, name)(x).unflatten(2, (count, -1)).transpose(1, 2)
            for name, count in ((q, heads), (k, shared), (v, shared))
        )
        if b in (5, 9):
            query, key = (each * getattr(m, f"{prefix}scale") for each in (query, key))
        value = seen(value, b)
        if shared < heads and b % 3 == 0:
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=b == 3, enable_gqa=True)
            return getattr(m, o)(mixed.transpose(1, 2).flatten(2))
        if shared < heads:
            key, value = (each.repeat_interleave(heads // shared, 1) for each in (key, value))
        if b % 3 == 0:
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=c % 2 == 0)
        else:
            talk = getattr(m, f"{prefix}talk") if b == 7 else None
            mixed = scored(query @ key.transpose(2, 3) / 2, b, talk).softmax(-1) @ value
        return getattr(m, o)(mixed.transpose(1, 2).flatten(2))

    return attend, (at,)


def experts(net: Network, values: Sequence[Tensor], at: int, b: int, c: int) -> Step | None:
    """Experts of a mixture, all of them or the best of each sample; weights in one tensor, with biases or none."""
    x = values[at]
    count, hidden, width = 2 + b % 3, 2 + c % 3, x.shape[-1]
    up, down = net.weight(count, width, hidden, suffix="up"), net.weight(count, hidden, width, suffix="down")
    bias = net.weight(count, 1, hidden, suffix="bias") if c % 2 else ""
    router = net.add(nn.Linear(width, count), "router")

    def mix(m: Network, x: Tensor) -> Tensor:
        flat = x.reshape(1, -1, width)
        inside = flat @ getattr(m, up)
        inside = (inside + getattr(m, bias) if bias else inside).tanh()
        if b == 5:
            inside = inside + inside.mean(0, keepdim=True)
        weight = getattr(m, router)(flat[0]).softmax(-1)
        if b > 8:
            weight = weight * F.one_hot(weight.argmax(-1), count)
        return torch.einsum("eth,ehd,te->td", inside, getattr(m, down), weight).view(x.shape)

    return mix, (at,)
