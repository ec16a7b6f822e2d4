"""Many forward passes under the same weights, as fast as they get without changing what is computed.

Batch norms in eval mode are folded into the convolutions before them (in float64), images and weights lie channels
last, and no parameter takes gradients. What cannot be traced runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import graph as graphs
from modeconn_cli.engine.networks import one_sample, weights
from modeconn_cli.engine.networks.flat import Runner, modes
from modeconn_cli.engine.networks.forward import forward, guard
from modeconn_cli.engine.networks.graph import CONVOLUTIONS, Graph, operation

AGREE = 1e-3  # of logits, relative to the largest
# Of input gradients, relative to their norm: rounding may move a unit across its kink, another backward is far off.
AGREE_GRADIENT = 1e-2
NO_GRADIENT = "no gradient by the input"


@contextmanager
def frozen(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Parameters take no gradients inside the block."""
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters.values():
            parameter.requires_grad_(True)


class Execution:
    """A model's forward, images [N, …] -> logits [N, classes]; to be refreshed when its weights have changed."""

    def __init__(
        self, model: nn.Module, input_shape: tuple[int, ...], note: Callable[[str], None] = lambda _: None
    ) -> None:
        self._model = model.eval()
        self._trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._note, self._tried = note, False
        self._folded: _Folded | None = None
        try:
            with torch.enable_grad():
                self._folded = _Folded(model, graphs.trace(model, input_shape))
        except InputError as error:
            self._run_as_it_is(error.message)
        self.refresh()

    def _run_as_it_is(self, reason: str) -> None:
        self._folded = None
        self._note(f"the network runs as it is, which is slower: {reason.splitlines()[0][:160]}")

    @property
    def layout(self) -> str:
        """What a record says of it, the same under any weights."""
        if self._folded is None:
            return "contiguous"
        return f"channels last, {self._folded.count} batch norms folded into convolutions"

    def refresh(self) -> None:
        """Take up the model's present weights."""
        if self._folded is not None:
            self._folded.refresh()

    def over(self, classes: Tensor | None, labels: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """The forward to the logits of some classes, ascending, and the labels' places among them."""
        if classes is None:
            return self, labels
        return lambda images: self(images)[:, classes], torch.searchsorted(classes, labels)

    def __call__(self, images: Tensor) -> Tensor:
        if self._folded is not None and not self._tried:
            self._try(images[:2])
        if self._folded is None:
            with frozen(self._trainable):
                return cast("Tensor", self._model(images))
        return self._folded.logits(images)

    def _try(self, images: Tensor) -> None:
        """Fall back where the folded network fails, or gives other logits or input gradients than the model.

        A trace keeps the forward of the user's own autograd functions alone, not their backward.
        """
        assert self._folded is not None
        self._tried = True
        if function := own_backward(self._model, images):
            self._run_as_it_is(f"{function} has a backward of its own")
            return
        with frozen(self._trainable):
            logits, gradient = _with_gradient(self._model, images)
            try:
                found, own = _with_gradient(self._folded.logits, images)
            except (InputError, torch.OutOfMemoryError) as error:
                self._run_as_it_is(str(error))
                return
        off = float((found - logits).abs().max() / logits.abs().max().clamp_min(1e-6))
        if off > AGREE:
            self._run_as_it_is(f"other logits (relative difference {off:.1e})")
        off = float(((own - gradient).norm(dim=1) / gradient.norm(dim=1).clamp_min(1e-12)).max())
        if off > AGREE_GRADIENT:
            self._run_as_it_is(f"another gradient by the input (relative difference {off:.1e})")


@torch.enable_grad()
def own_backward(model: nn.Module, images: Tensor) -> str:
    """The name of a function of the user's own among those that a model's gradient comes through; empty without any.

    A trace keeps its forward alone, and its backward may differ for few samples only.
    """
    outputs = forward(model, images.detach().requires_grad_(images.is_floating_point()).clone())
    left = [outputs.grad_fn] if isinstance(outputs, Tensor) else []
    seen = set()
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            return type(node).__name__.removesuffix("Backward")
        left += [following for following, _ in node.next_functions]
    return ""


@torch.enable_grad()
def _with_gradient(forward: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of N images, and the gradients by them of one sum of logits with unequal weights, [N, …]."""
    inputs = images.detach().requires_grad_()
    with guard(NO_GRADIENT):
        with one_sample.exact(inputs):
            logits = forward(inputs.clone())  # some networks write into their input
        weights = torch.linspace(1, 2, logits.shape[1], dtype=logits.dtype, device=logits.device)
        if not logits.requires_grad:
            return logits, torch.zeros_like(images).flatten(1)
        (found,) = torch.autograd.grad(
            (logits * weights).sum(), inputs, allow_unused=True, materialize_grads=True
        )
    return logits.detach(), found.flatten(1)


class _Folded(Runner):
    """The traced model; a folded batch norm hands its input on."""

    def __init__(self, model: nn.Module, graph: Graph) -> None:
        super().__init__(graph.module)
        self._model, self._graph = model, graph
        self._norm_of = dict(_foldable(graph))
        self._norms = set(self._norm_of.values())
        self._values: dict[str, Tensor] = {}
        self._kernels: dict[fx.Node, tuple[Tensor, Tensor]] = {}

    @property
    def count(self) -> int:
        return len(self._norms)

    @torch.no_grad()
    def refresh(self) -> None:
        state = weights.tensors_of(self._model)
        self._values = {name: _channels_last(state[name].detach()) for name in self._graph.tensors.values()}
        self._kernels = {conv: self._fold(conv, norm) for conv, norm in self._norm_of.items()}

    def _fold(self, conv: fx.Node, norm: fx.Node) -> tuple[Tensor, Tensor]:
        """Weight and bias of a convolution followed by its batch norm."""

        def exact(node: Any) -> Tensor | None:
            return None if node is None else self._values[self._graph.tensors[node.name]].double()

        weight, bias = exact(conv.args[1]), exact(conv.args[2] if len(conv.args) > 2 else None)
        gamma, beta, mean, variance = (exact(argument) for argument in norm.args[1:5])
        assert weight is not None
        assert mean is not None
        assert variance is not None
        eps = cast("float", norm.args[7])
        folded, shift = fuse_conv_bn_weights(weight, bias, mean, variance, eps, gamma, beta)
        kind = self._values[self._graph.tensors[cast("fx.Node", conv.args[1]).name]].dtype
        return _channels_last(folded.detach().to(kind)), shift.detach().to(kind)

    def logits(self, images: Tensor) -> Tensor:
        out = self.run(*self._graph.arguments(self._values, _channels_last(images)).values())
        return cast("Tensor", out[0] if isinstance(out, tuple | list) else out)

    def compute(self, n: fx.Node) -> Any:
        if n in self._norms:
            return self.env[cast("fx.Node", n.args[0])]
        if n.target is torch.ops.aten.view.default:  # as strided as the memory format makes it
            args, _ = self.fetch_args_kwargs_from_env(n)
            return args[0].reshape(args[1])
        if n in self._kernels:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            return cast("Callable[..., Any]", n.target)(args[0], *self._kernels[n], *args[3:], **kwargs)
        return super().compute(n)


def _are_own(graph: Graph, arguments: Sequence[Any]) -> bool:
    """Whether arguments of an operation are tensors of the model's state, or missing."""
    return all(a is None or (isinstance(a, fx.Node) and a.name in graph.tensors) for a in arguments)


def _channels_last(value: Tensor) -> Tensor:
    """Channels last where there are two spatial axes, contiguous otherwise."""
    return value.contiguous(memory_format=torch.channels_last if value.ndim == 4 else torch.contiguous_format)


def _foldable(graph: Graph) -> list[tuple[fx.Node, fx.Node]]:
    """Convolutions that nothing reads but a batch norm with fixed statistics, each with it; none under autocast."""
    out = []
    for norm in graph.nodes:
        if norm.op != "call_function" or operation(norm) != "batch_norm" or len(norm.args) < 8:
            continue
        conv, *tensors, training = norm.args[:6]
        if not isinstance(conv, fx.Node) or operation(conv) not in CONVOLUTIONS or len(conv.users) != 1:
            continue
        if modes(norm).autocast or modes(conv).autocast:  # which rounds between them
            continue
        known = _are_own(graph, [*tensors, *conv.args[1:3]])
        if known and not training and tensors[2] is not None and tensors[3] is not None:
            out.append((conv, norm))
    return out
