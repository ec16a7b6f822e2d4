"""The cross-entropy of single samples, in float64 and to its full relative accuracy however small it is.

-log softmax(z)_y = log(1 + Σ_{j≠y} exp(z_j - z_y)). Written so, nothing cancels: neither the loss of a sample that is
fitted well, nor its gradient at the label's logit, -Σ_{j≠y} p_j, where p_y - 1 would keep no digit below 1e-16 (and
none below 1e-7 in float32).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EXACT = 40.0  # from here on softplus(x) is x in float64


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy in nats, float64 [N], of logits [N, C] and labels int64 [N]; NaN where the label's logit is ∞.

    >>> [round(float(x), 6) for x in cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))]  # ln 2
    [0.693147]
    >>> round(float(cross_entropy(torch.tensor([[80.0, 0.0]]), torch.tensor([0]))[0]) * 1e35, 6)  # exp(-80)
    1.804851
    """
    z, own = logits.double(), labels[:, None]
    # Finite, so that one class alone has gradients of 0 and not NaN.
    of_label = z.gather(1, own)
    margins = (z - of_label).scatter(1, own, torch.finfo(torch.float64).min)
    # A logit that has overflowed is no certainty: without this its loss were 0.
    return F.softplus(margins.logsumexp(1), threshold=EXACT).masked_fill(of_label[:, 0].isposinf(), torch.nan)
