"""Curvature of every sample's own loss around its input, along random directions.

With s ∈ {±1}ᵈ keyed by (seed, sample id, draw), v = h·s and g = ∇_x ℓ_i(x + v) − ∇_x ℓ_i(x):
curvature = mean ‖g‖ and directional eigenvalue = mean v·g, in these raw units as documented (Garg et al. 2024,
arXiv:2307.05831); ‖g‖/h estimates ‖Hs‖ and v·g/h² estimates sᵀHs, whose mean over directions is Tr H. The mean of
‖g‖²/h² is Tr H², which the paper's text defines and its code takes the root of direction by direction. With `hvp` g is
the exact product h·Hs instead; in ReLU networks the two differ, as the difference sees the kinks in between.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from modeconn_cli.engine import keyed
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.networks import one_sample
from modeconn_cli.engine.networks.cross_entropy import cross_entropy
from modeconn_cli.engine.networks.forward import guard
from modeconn_cli.engine.samples.per_sample.execution import NO_GRADIENT, own_backward

Method = Literal["fd", "hvp"]
Forward = Callable[[Tensor], Tensor]  # images [N, …] -> logits [N, classes]

FEW, NEAR = 16, 1e-6  # samples, and a step, by which second derivatives are checked
ROUNDING = 8.0  # units of rounding of the two gradients below which their difference says nothing


@dataclass(frozen=True)
class Draws:
    """What D directions say of N samples, float64 [D, N] each: ‖g‖ and v·g in units of h, and whether the difference
    was within rounding of zero.
    """

    h: float
    norms: Tensor
    directional: Tensor
    rounded: Tensor

    def mean(self, draws: int | None = None) -> Curvature:
        """The mean over all directions, or the first `draws`."""
        norms, directional, rounded = (
            values[:draws] for values in (self.norms, self.directional, self.rounded)
        )
        traces = directional / self.h**2
        spread = (
            traces.std(0) / len(traces) ** 0.5 if len(traces) > 1 else torch.full_like(traces[0], torch.nan)
        )
        return Curvature(
            norms.mean(0),
            directional.mean(0),
            norms.mean(0) / self.h,
            traces.mean(0),
            spread,
            (norms / self.h).square().mean(0),
            rounded.any(0),
        )


@dataclass(frozen=True)
class Curvature:
    """The curvature of N samples, float64 [N] each; `rounded`: within rounding along some direction."""

    curvature: Tensor
    directional_eig: Tensor
    hvp_norm: Tensor
    trace: Tensor
    trace_stderr: Tensor  # over directions; NaN with one
    trace_of_square: Tensor
    rounded: Tensor


def directions(seed: int, ids: Tensor, draw: int, shape: torch.Size) -> Tensor:
    """s ∈ {±1} for ids [N], float32 [N, *shape[1:]]; the same for any batch."""
    entries = shape[1:].numel()
    words = keyed.bits(seed, "curvature", ids, draw, -(-entries // 64))
    signs = (words.unsqueeze(2) >> torch.arange(64, device=ids.device)) & 1
    return (2 * signs.flatten(1)[:, :entries] - 1).to(torch.float32).view(shape)


def measure(
    forward: Forward,
    images: Tensor,
    labels: Tensor,
    ids: Tensor,
    *,
    h: float,
    draws: int,
    temperature: float,
    seed: int,
    method: Method = "fd",
) -> Curvature:
    """Score N samples: images [N, …], labels and ids int64 [N]; `forward` gives logits, in eval mode.

    Costs draws + 1 passes of forward and input gradient (fd), or one and a double backward per draw (hvp).
    """
    (found,) = draw(
        forward,
        images,
        labels,
        ids,
        steps=(h,),
        draws=draws,
        temperature=temperature,
        seed=seed,
        method=method,
    )
    return found.mean()


def draw(
    forward: Forward,
    images: Tensor,
    labels: Tensor,
    ids: Tensor,
    *,
    steps: Sequence[float],
    draws: int,
    temperature: float,
    seed: int,
    method: Method = "fd",
) -> list[Draws]:
    """Measure direction by direction, for each step h; the unperturbed gradient is computed once.

    A difference of gradients shows the rounding of the kernels, which libraries choose by the number of samples: with
    h = 1e-3 in float32, batches of up to five samples were up to 7e-4 (median) and 9e-3 (most) of a curvature away from
    batches of forty, larger ones equal or 2e-4 away (five networks on a CPU).
    """
    # Fused attention has no second derivative.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH) if method == "hvp" else nullcontext():
        exact = images.detach().requires_grad_()
        first, height = _gradient(forward, exact, labels, temperature, create_graph=method == "hvp")
        base = first.detach().flatten(1)
        noise = ROUNDING * torch.finfo(images.dtype).eps * (1 + height) * base.double().norm(dim=1)
        rows: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in steps]
        for k in range(draws):
            s = directions(seed, ids, k, images.shape)
            for h, out in zip(steps, rows, strict=True):
                if method == "fd":
                    moved = (images + h * s).detach().requires_grad_()
                    there, _ = _gradient(forward, moved, labels, temperature)
                    g = (there.flatten(1) - base).double()
                    rounded = g.norm(dim=1) <= noise
                else:
                    g = h * _product(first, exact, s).detach().flatten(1).double()
                    rounded = torch.zeros(len(images), dtype=torch.bool, device=images.device)
                out.append((g.norm(dim=1), h * (g * s.flatten(1)).sum(1), rounded))
    return [
        Draws(h, *(torch.stack(values) for values in zip(*out, strict=True)))
        for h, out in zip(steps, rows, strict=True)
    ]


def check_products(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Raises SettingsError where the second derivatives of a network are not those of its gradient.

    A backward of its own may be cut off from what it depends on, as that of `torch.cond` is, or be another function's,
    as a straight-through one is. Only networks with one are looked at: a few samples, in float64, against differences
    of the gradient, where these are proportional to the step: neither kinks nor rounding lie between.
    """
    function = own_backward(model, images[:FEW])
    if not function:
        return
    precise, few, labels = copy.deepcopy(model).double().eval(), images[:FEW].double(), labels[:FEW]
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        s = directions(0, torch.arange(len(few), device=few.device), 0, few.shape).double()
        exact = few.clone().requires_grad_()
        gradient, _ = _gradient(precise, exact, labels, 1.0, create_graph=True)
        product = _product(gradient, exact, s).flatten(1)
        ends = [_gradient(precise, (few + h * s).requires_grad_(), labels, 1.0)[0] for h in (NEAR, 2 * NEAR)]
    once, twice = ((end - gradient.detach()).flatten(1) for end in ends)
    rounding = 1e-12 * gradient.detach().flatten(1).norm(dim=1)
    told = (twice - 2 * once).norm(dim=1) <= 0.1 * twice.norm(dim=1) + rounding
    off = (product * NEAR - once).norm(dim=1) > 0.1 * once.norm(dim=1) + rounding
    if bool(told.any()) and float(off[told].double().mean()) >= 0.5:
        raise SettingsError(
            f"--method hvp needs second derivatives, and the backward of {function} has none that are right",
            "use --method fd",
        )


def _product(gradient: Tensor, images: Tensor, s: Tensor) -> Tensor:
    """Hs of every sample, [N, …]. Raises SettingsError for a network without a second derivative."""
    try:
        with guard("no second derivatives", "use --method fd"):
            (found,) = torch.autograd.grad(
                gradient, images, s, retain_graph=True, allow_unused=True, materialize_grads=True
            )
    except InputError as error:
        if "is not implemented" not in str(error):
            raise
        operation = str(error).split(" is not implemented")[0].partition("derivative for ")[2]
        raise SettingsError(
            f"--method hvp needs second derivatives, and {operation} has none", "use --method fd"
        ) from error
    return found


def _gradient(
    forward: Forward, images: Tensor, labels: Tensor, temperature: float, *, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """∇_x ℓ_i of every sample's own loss, [N, …], and its largest logit by magnitude, float64 [N].

    Logits of magnitude z are rounded by eps·z, and the gradient at them, which is about p, by that share of itself.
    """
    with guard(NO_GRADIENT), one_sample.exact(images):
        logits = forward(images.clone()).double() / temperature  # some networks write into their input
    height = logits.detach().abs().amax(1)
    losses = cross_entropy(logits, labels).sum()
    if not losses.requires_grad:  # a network that ignores its input
        return torch.zeros_like(images, requires_grad=create_graph), height
    with guard(NO_GRADIENT):
        (found,) = torch.autograd.grad(
            losses, images, create_graph=create_graph, allow_unused=True, materialize_grads=True
        )
    return found, height
