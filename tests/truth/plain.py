"""What `mcx` computes of a network, in plain loops over single samples and float64, without anything of mcx."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode, resolve_name

State = Mapping[str, Tensor]


def load(model: nn.Module, state: State) -> nn.Module:
    """The network with these weights, and the version numbers that MNASNet asks for."""
    whole = model.state_dict()
    whole.update(state)
    model.load_state_dict(whole)
    return model


def randomise(model: nn.Module, seed: int) -> None:
    """Let no two units be alike: noise for weights, scales about 1 and statistics; scales of nearly 0 get a size."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in filter(Tensor.is_floating_point, model.state_dict().values()):
            noise, spread = torch.rand(tensor.shape, generator=draw), tensor.std(correction=0)
            if spread > 1e-5:
                tensor += 0.3 * spread * (noise - 0.5)
            else:
                tensor += 0.4 * (noise - (0.5 if tensor.mean() > 0.1 else 0.0))


def train(model: nn.Module, images: Tensor, labels: Tensor, steps: int) -> None:
    """Some steps of SGD; batch norms keep the statistics that belong to the weights well enough."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.5
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    model.eval()


def pair(image: Tensor) -> Tensor:
    """An image [1, …] twice: torch's batch norm has a wrong gradient for one image that lies channels last."""
    return image.expand(2, *image.shape[1:])


def scores(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropies and norms of their gradients by the trainable parameters, [N] each, one sample at a time."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    losses, norms = [], []
    for image, label in zip(images.split(1), labels.split(1), strict=True):
        loss = F.cross_entropy(model(pair(image))[:1].double(), label)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        losses.append(loss.detach())
        norms.append(sum(g.double().square().sum() for g in gradients if g is not None) ** 0.5)
    return torch.stack(losses), torch.stack(norms)


def curvature(
    model: nn.Module, images: Tensor, labels: Tensor, directions: Sequence[Tensor], h: float, *, exact: bool
) -> tuple[Tensor, Tensor]:
    """Mean ‖g‖ and mean v·g over directions s [N, …], v = h·s, g = ∇ℓ(x + v) − ∇ℓ(x) or, exactly, the product h·Hs."""
    norms, along = [], []
    for k, (image, label) in enumerate(zip(images.split(1), labels.split(1), strict=True)):

        def gradient(x: Tensor, label: Tensor = label, *, again: bool = False) -> Tensor:
            loss = F.cross_entropy(model(pair(x).clone())[:1], label)
            return torch.autograd.grad(loss, x, create_graph=again)[0]

        found = []
        for s in (direction[k : k + 1].to(image.dtype) for direction in directions):
            if exact:
                x = image.clone().requires_grad_()
                with sdpa_kernel(SDPBackend.MATH):
                    first = gradient(x, again=True)
                    product = torch.autograd.grad((first * s).sum(), x, allow_unused=True)[0]
                g = torch.zeros_like(x) if product is None else h * product
            else:
                ends = ((image + step * s).requires_grad_() for step in (h, 0.0))
                g = torch.stack([gradient(x) for x in ends]).diff(dim=0)[0].neg()
            found.append((g.norm(), h * (g * s).sum()))
        norms.append(torch.stack([norm for norm, _ in found]).mean())
        along.append(torch.stack([inner for _, inner in found]).mean())
    return torch.stack(norms), torch.stack(along)


LAYERS = {
    "linear",
    "bilinear",
    *(f"conv{k}d" for k in (1, 2, 3)),
    *(f"conv_transpose{k}d" for k in (1, 2, 3)),
}
NONLINEAR = {
    "celu", "elu", "gelu", "glu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid", "mish", "prelu",
    "relu", "relu6", "selu", "sigmoid", "silu", "softplus", "tanh",
}  # fmt: skip
ACTIVATIONS = ("torch.nn.modules.activation", "timm.layers.activations", "timm.layers.activations_me")
NOT = ("Softmax", "MultiheadAttention")


class Sites(TorchFunctionMode):
    """Hears of every layer and nonlinearity that runs: [units, positions] of what it gives for one sample.

    A nonlinearity that is a module is looked at where the module ends, whatever it calls. Units are on axis 1 behind
    convolutions and on the last behind all other layers, also after nonlinearities.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.pre, self.post = list[Tensor](), list[Tensor]()
        self._axis, self._inside, self._model = 1, 0, model

    def of(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The sites before and after nonlinearities, in order."""
        self.pre, self.post = [], []
        handles = []
        for part in self._model.modules():
            if type(part).__module__ in ACTIVATIONS and not type(part).__name__.startswith(NOT):
                handles.append(part.register_forward_pre_hook(self._enter))
                handles.append(part.register_forward_hook(self._leave))
        try:
            with self:
                self._model(image)
        finally:
            for handle in handles:
                handle.remove()
        return self.pre, self.post

    def _enter(self, *_: Any) -> None:
        self._inside += 1

    def _leave(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self._inside -= 1
        self._nonlinear(output)

    def _nonlinear(self, output: Tensor) -> None:
        if not self._inside:
            self.post.append(_units(output, self._axis).abs())

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = (resolve_name(func) or "").rpartition(".")[2].rstrip("_")
        if name == "multi_head_attention_forward":
            self._axis = -1
            self.pre.append(_units(out[0], -1).abs())
        elif name in LAYERS:
            self._axis = -1 if name.endswith("linear") else 1
            self.pre.append(_units(out, self._axis))
        elif name in NONLINEAR:
            self._nonlinear(out)
        return out


def _units(output: Tensor, axis: int) -> Tensor:
    return output.detach().movedim(axis, 0).flatten(1).clone()


def dormant(model: nn.Module, images: Tensor, eps: float) -> tuple[list[int], Tensor, list[int], Tensor]:
    """Units of every site before nonlinearities, the dormant share [N] of them all; the same behind nonlinearities.

    What does not grow with the batch, such as a layer that reads a table of positions, is no site.
    """
    sites = Sites(model)
    with torch.no_grad():
        found, both = [sites.of(image) for image in images.split(1)], sites.of(images[:2])
    out: list[Any] = []
    for kind in (0, 1):
        calls = list(zip(*(each[kind] for each in found), strict=True))
        own = [each for each, two in zip(calls, both[kind], strict=True) if each[0].numel() < two.numel()]
        quiet = [torch.stack([one.amax(1) <= eps for one in each]) for each in own]
        none = torch.full((len(images),), torch.nan, dtype=torch.float64)
        out += [[len(each[0]) for each in own], torch.cat(quiet, 1).double().mean(1) if quiet else none]
    return tuple(out)  # type: ignore[return-value]


def line(
    model: nn.Module, ends: tuple[State, State], t: float, images: Tensor, batches: Sequence[Tensor]
) -> nn.Module:
    """A network put where parameters are (1 − t)·a + t·b: buffers interpolated alike, counters from the nearer end,
    and batch norms with the statistics of the images in these batches, mean and size-weighted variance.
    """
    a, b = ends
    state = {
        name: a[name] + t * (b[name] - a[name]) if a[name].is_floating_point() else (a, b)[t >= 0.5][name]
        for name in a
    }
    load(model, state)
    model.eval()
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    seen: dict[nn.Module, list[tuple[int, Tensor, Tensor]]] = {norm: [] for norm in norms}

    def look(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].movedim(1, 0).flatten(1)
        seen[norm].append((x.shape[1], x.mean(1), x.var(1)))

    handles = [norm.register_forward_pre_hook(look) for norm in norms]
    with torch.no_grad():
        for norm in norms:
            norm.train()
        for rows in batches if norms else ():
            model(images[rows])
        for norm in norms:
            count = sum(n for n, _, _ in seen[norm])
            norm.running_mean.copy_(sum(n * mean for n, mean, _ in seen[norm]) / count)
            norm.running_var.copy_(sum(n * variance for n, _, variance in seen[norm]) / count)
    for handle in handles:
        handle.remove()
    return model.eval()


def mean_loss(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The mean cross-entropy, one sample at a time."""
    with torch.no_grad():
        return float(
            torch.stack(
                [F.cross_entropy(model(x), y) for x, y in zip(images.split(1), labels.split(1), strict=True)]
            ).mean()
        )
