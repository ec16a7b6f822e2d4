"""Batches of one image, whose gradients torch's batch norm gets wrong.

On a CPU the kernel of its backward pass takes a gradient for contiguous that lies channels last, as every gradient does
that comes out of tokens behind a convolution, where there is one image: strides along an axis of size one decide
nothing, and two checks of torch read them differently. The gradient is then in another order, and off by its own length
(torch 2.14). `exact` keeps what goes into batch norms, and the gradients that come back, contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_ATEN = torch.ops.aten
_NORMS = frozenset(
    {
        *(F.batch_norm, torch.batch_norm, _ATEN.batch_norm.default),
        *(F.instance_norm, torch.instance_norm, _ATEN.instance_norm.default),  # which is made of it
    }
)


def exact(images: Tensor) -> AbstractContextManager[Any]:
    """Around a forward pass over images [N, …] whose gradients are asked for."""
    return _Contiguous() if len(images) == 1 else nullcontext()


class _Contiguous(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func not in _NORMS:
            return func(*args, **kwargs)
        data: Tensor = kwargs.pop("input", None) if not args else args[0]
        out: Tensor = func(data.contiguous(), *args[1:], **kwargs)
        if out.requires_grad:
            out.register_hook(torch.Tensor.contiguous)  # type: ignore[no-untyped-call]
        return out
