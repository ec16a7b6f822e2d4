"""How sharply the training loss is curved along a path: the largest eigenvalues of its Hessian, and the trace.

H is the Hessian of the mean cross-entropy over training images, un-augmented and in eval mode, with respect to the P
parameters that are trained. Weight decay, which would add itself to every eigenvalue, is left out, and statistics of
batch norm are constants. Products Hv are exact: the gradient of ⟨∇L, v⟩ (Pearlmutter 1994). Eigenvalues are ARPACK's
(scipy's eigsh), the trace is Hutchinson's: the mean of vᵀHv over vectors of random signs (1990).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from modeconn_cli.engine import keyed
from modeconn_cli.engine.datasets import Samples
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.networks import one_sample
from modeconn_cli.engine.networks.cross_entropy import cross_entropy
from modeconn_cli.engine.networks.forward import guard, logits
from modeconn_cli.engine.results.figures import VERMILION, draw_band, page, shades
from modeconn_cli.engine.settings.shared import FigureSettings

BASIS = 20  # vectors of P numbers, at least, that ARPACK holds
RESTARTS = 300
FEW, NEAR = 8, 1e-6  # images and step with which second derivatives are checked
NAMED = 10  # eigenvalues that a legend names
_NONE = "the network has no second derivatives"
_HINT = "leave out --hessian-top and --hessian-trace"


@dataclass(frozen=True)
class Sharpness:
    """The `top` eigenvalues, largest first, None where they have not converged; the trace with its standard error, None
    where it was not asked for, of one draw, or no number; `products` with the Hessian is what it has cost.
    """

    top: list[float | None]
    trace: float | None
    trace_stderr: float | None
    products: int


@dataclass(frozen=True)
class Along:
    """The sharpness at every position `t`: `images` and `draws` say of how many training images, and of how many random
    vectors the trace is a mean.
    """

    images: int
    draws: int
    products: int
    t: list[float]
    top: list[list[float | None]]
    trace: list[float | None]
    trace_stderr: list[float | None]

    @classmethod
    def of(cls, found: Sequence[tuple[float, Sharpness | None]], draws: int, images: int) -> Along:
        known = [(t, each) for t, each in found if each is not None]
        return cls(
            images,
            draws,
            sum(each.products for _, each in known),
            [t for t, _ in known],
            [each.top for _, each in known],
            [each.trace for _, each in known],
            [each.trace_stderr for _, each in known],
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """The columns of `curve.npz`: `hessian_top` [T, k], `hessian_trace`, `hessian_trace_stderr` [T]."""
        columns = {
            "hessian_top": np.array(self.top, dtype=float),
            "hessian_trace": np.array(self.trace, dtype=float),
            "hessian_trace_stderr": np.array(self.trace_stderr, dtype=float),
        }
        asked_for = {"hessian_top": bool(self.top[0]), "hessian_trace": self.draws > 0}
        asked_for["hessian_trace_stderr"] = self.draws > 1
        return {name: values for name, values in columns.items() if asked_for[name]}

    def figure(self, title: str, look: FigureSettings) -> bytes:
        """Eigenvalues and trace along the path, as far as they were asked for."""
        held = self.arrays()
        panels = [name for name in ("hessian_top", "hessian_trace") if name in held]
        with page(look, title, rows=len(panels), sharex=True) as drawn:
            for axis, name in zip(drawn.panels, panels, strict=True):
                if name == "hessian_top":
                    for k, (values, shade) in enumerate(
                        zip(held[name].T, shades(held[name].shape[1]), strict=True)
                    ):
                        axis.plot(self.t, values, color=shade, label=f"λ{k + 1}" if k < NAMED else None)
                else:
                    axis.plot(self.t, held[name], color=VERMILION)
                    draw_band(axis, self.t, held[name], held.get("hessian_trace_stderr", np.nan), VERMILION)
                axis.set_ylabel("eigenvalues of H" if name == "hessian_top" else "trace of H")
                axis.set(xlim=(0, 1), xlabel="t")
                axis.tick_params(labelbottom=True)
        return drawn.content


@dataclass(frozen=True)
class Asked:
    """What is asked for at `positions`: `top` eigenvalues, the trace from so many `draws`, over training images."""

    top: int
    draws: int
    samples: Samples
    batch_size: int
    seed: int
    positions: frozenset[float]
    stopping: Callable[[], None]  # raises where the process is to stop

    @property
    def identity(self) -> str:
        """What tells a result from one that was asked for otherwise."""
        return f"top {self.top}, draws {self.draws}, images {len(self.samples)}"

    def measure(self, model: nn.Module) -> Sharpness:
        """The sharpness of a network as it is."""
        products = Products(model, self.samples, self.batch_size, self.stopping)
        check_products(model, self.samples)
        if self.top >= products.size:
            raise SettingsError(
                f"--hessian-top {self.top}: the network has {products.size:,} trained parameters"
            )
        top = largest(products, self.top, self.seed) if self.top else []
        values = [float(v @ products(v)) for v in (self._signs(products, k) for k in range(self.draws))]
        finite = bool(values) and bool(np.isfinite(values).all())
        return Sharpness(
            top,
            float(np.mean(values)) if finite else None,
            float(np.std(values, ddof=1) / np.sqrt(len(values))) if finite and len(values) > 1 else None,
            products.count,
        )

    def _signs(self, products: Products, draw: int) -> Tensor:
        """A vector of random signs, float64 [P]."""
        return 1.0 - 2.0 * (keyed.bits(self.seed, "hessian trace", products.ids, draw)[:, 0] < 0).double()


def asked(
    top: int, draws: int, count: int | None, samples: Samples, batch_size: int, seed: int,
    positions: frozenset[float], stopping: Callable[[], None],
) -> Asked:  # fmt: skip
    """What settings ask for, over all of the samples or `count` of them at random."""
    if count is not None and count < len(samples):
        chosen = keyed.permutation(seed, "hessian subset", len(samples))[:count]
        samples = samples.take(chosen.sort().values.to(samples.device))
    return Asked(top, draws, samples, batch_size, seed, positions, stopping)


class Products:
    """Products of the Hessian with vectors, one pass of forward and double backward over the samples each."""

    def __init__(
        self, model: nn.Module, samples: Samples, batch_size: int, stopping: Callable[[], None] = lambda: None
    ) -> None:
        self._model, self._samples, self._batch_size = model, samples, batch_size
        self._stopping = stopping
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        if any(p.is_complex() for p in self._parameters):
            raise InputError(f"{_NONE} by real numbers: it has complex parameters", _HINT)
        self.size = sum(p.numel() for p in self._parameters)
        self.count = 0
        if self.size == 0:
            raise InputError("every parameter of the network is frozen: the loss has no Hessian", _HINT)

    @property
    def dtype(self) -> torch.dtype:
        """The type that the network computes in."""
        return self._parameters[0].dtype

    @property
    def ids(self) -> Tensor:
        """The numbers of the parameters, int64 [P]."""
        return torch.arange(self.size, device=self._parameters[0].device)

    def __call__(self, vector: Tensor) -> Tensor:
        """Hv, float64 [P], of v [P], added up over batches in float64."""
        self._stopping()
        self._model.eval()
        parts = torch.split(vector, [p.numel() for p in self._parameters])
        along = [part.view_as(p).to(p) for part, p in zip(parts, self._parameters, strict=True)]
        total = torch.zeros(self.size, dtype=torch.float64, device=vector.device)
        for batch in self._samples.batches(self._batch_size):
            total += _second(self._model, self._parameters, batch.images, batch.labels, along)
        self.count += 1
        return total / len(self._samples)


Tensors = Sequence[Tensor]


def _gradient(
    model: nn.Module, parameters: Tensors, images: Tensor, labels: Tensor, *, again: bool
) -> tuple[Tensor, ...]:
    """The gradient of the loss of some images, a tensor per parameter; to be differentiated `again` or not."""
    # Fused attention has no second derivative.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), one_sample.exact(images):
        loss = cross_entropy(logits(model, images), labels).sum()
        with guard(_NONE, _HINT):
            return torch.autograd.grad(
                loss, parameters, create_graph=again, allow_unused=True, materialize_grads=True
            )


def _second(model: nn.Module, parameters: Tensors, images: Tensor, labels: Tensor, along: Tensors) -> Tensor:
    """The derivative of that gradient along a direction, float64 [P]."""
    first = _gradient(model, parameters, images, labels, again=True)
    moving = [(g, v) for g, v in zip(first, along, strict=True) if g.requires_grad]
    if not moving:
        return torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64, device=images.device)
    with torch.enable_grad(), guard(_NONE, _HINT):
        slope = torch.stack([(g * v).sum().double() for g, v in moving]).sum()
        second = torch.autograd.grad(slope, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([g.detach().reshape(-1).double() for g in second])


def check_products(model: nn.Module, samples: Samples) -> None:
    """Raises InputError where the second derivatives of a network are not those of its gradient: a backward of its own
    may be cut off from what it depends on, or be another function's, as a straight-through one is.

    A few images in float64, against differences of the gradient where these are proportional to the step: neither kinks
    nor rounding lie between. A network that does not run in float64 is not looked at.
    """
    batch = next(
        iter(samples.take(torch.arange(min(FEW, len(samples)), device=samples.ids.device)).batches(FEW))
    )
    precise, images, labels = copy.deepcopy(model).double().eval(), batch.images.double(), batch.labels
    try:
        logits(precise, images)
    except InputError:
        return
    parameters = [p for p in precise.parameters() if p.requires_grad]
    size = sum(p.numel() for p in parameters)
    direction = keyed.uniform(0, "hessian check", torch.arange(size, device=images.device))[:, 0] - 0.5
    parts = torch.split(direction, [p.numel() for p in parameters])
    along = [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]

    def there(step: float) -> Tensor:
        with torch.no_grad():
            for p, v in zip(parameters, along, strict=True):
                p.add_(v, alpha=step)
        found = _gradient(precise, parameters, images, labels, again=False)
        with torch.no_grad():
            for p, v in zip(parameters, along, strict=True):
                p.sub_(v, alpha=step)
        return torch.cat([g.detach().reshape(-1) for g in found])

    product = _second(precise, parameters, images, labels, along)
    here = there(0.0)
    once, twice = there(NEAR) - here, there(2 * NEAR) - here
    rounding = 1e-11 * here.norm()
    steady = bool((twice - 2 * once).norm() <= 0.1 * twice.norm() + rounding)
    if steady and bool((product * NEAR - once).norm() > 0.1 * once.norm() + rounding):
        raise InputError(f"{_NONE} that are right: a backward of its own hides or replaces them", _HINT)


def largest(products: Products, count: int, seed: int) -> list[float | None]:
    """The largest eigenvalues, descending; None for those that did not converge, and for all where H is not finite."""
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    device = products.ids.device
    start = keyed.uniform(seed, "hessian start", products.ids)[:, 0] - 0.5
    image = products(start)
    if not bool(image.isfinite().all()):
        return [None] * count
    if not bool(image.any()):
        return [0.0] * count

    def product(v: np.ndarray) -> np.ndarray:
        found: np.ndarray = products(torch.from_numpy(v.reshape(-1).copy()).to(device)).cpu().numpy()
        return found

    operator = LinearOperator((products.size, products.size), matvec=product, dtype=np.float64)
    # An eigenvalue is off by the square of its residual, which the tolerance bounds relative to it.
    eps = torch.finfo(products.dtype).eps
    how = {"ncv": min(products.size, max(2 * count + 1, BASIS)), "maxiter": RESTARTS, "tol": eps**0.5}
    try:
        found: np.ndarray = eigsh(
            operator, count, which="LA", v0=start.cpu().numpy(), return_eigenvectors=False, **how
        )
    except ArpackNoConvergence as error:
        found = error.eigenvalues
    values = sorted(map(float, found), reverse=True)
    return [*values, *[None] * (count - len(values))]
