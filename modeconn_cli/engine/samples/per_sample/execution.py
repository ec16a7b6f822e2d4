"""Many forward passes under the same weights, as fast as they get without changing what is computed.

Batch norms in eval mode are folded into the convolutions before them (in float64), images and weights lie channels
last, wide convolutions of 3 x 3 run by Winograd's algorithm on the CPU where its rounding can decide nothing, and no
parameter takes gradients. What cannot be traced runs as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import graph as graphs
from modeconn_cli.engine.networks.graph import CONVOLUTIONS, Graph, operation
from modeconn_cli.engine.samples.per_sample import winograd
from modeconn_cli.engine.samples.per_sample.gradients import Frozen

AGREE = 1e-3  # relative to the largest logit
DEFAULTS = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}  # of conv2d
# Operations that take one of several values, or compare them.
COMPARISON = re.compile(
    r"(?<!soft)(max|min)|sort|topk|median|kth|mode|where|sign|round|floor|ceil|^(eq|ne|lt|le|gt|ge)$"
)
LINE = 16  # float32 values of a cache line


class Execution:
    """A model's forward, images [N, …] -> logits [N, classes]; to be refreshed when its weights have changed."""

    def __init__(
        self, model: nn.Module, input_shape: tuple[int, ...], note: Callable[[str], None] = lambda _: None
    ) -> None:
        self._model = model.eval()
        self._trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._note, self._tried = note, False
        self._program: _Program | None = None
        try:
            with torch.enable_grad():
                self._program = _Program(model, graphs.trace(model, input_shape))
        except InputError as error:
            note(f"the network runs as it is, which is slower: {error.message.splitlines()[0][:160]}")
        self.refresh()

    @property
    def layout(self) -> str:
        """What a record says of it, the same under any weights."""
        if self._program is None:
            return "contiguous"
        return (
            f"channels last, {self._program.folded} batch norms folded into convolutions,"
            f" up to {self._program.tileable} convolutions by Winograd's algorithm"
        )

    def refresh(self) -> None:
        """Take up the model's present weights."""
        if self._program is not None:
            self._program.refresh()

    def over(self, classes: Tensor | None, labels: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """The forward to the logits of some classes, ascending, and the labels' places among them."""
        if classes is None:
            return self, labels
        return lambda images: self(images)[:, classes], torch.searchsorted(classes, labels)

    def __call__(self, images: Tensor) -> Tensor:
        if self._program is not None and not self._tried:
            self._try(images[:2])
        if self._program is None:
            with Frozen(self._trainable):
                return cast("Tensor", self._model(images))
        return self._program.logits(images)

    def _try(self, images: Tensor) -> None:
        """Fall back where the program fails, or gives other logits than the model."""
        assert self._program is not None
        self._tried = True
        with torch.no_grad():
            expected = self._model(images)
            try:
                found = self._program.logits(images)
                off = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
                reason = f"other logits (relative difference {off:.1e})" if off > AGREE else ""
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[0]
        if reason:
            self._program = None
            self._note(f"the network runs as it is, which is slower: {reason[:160]}")


class _Program(fx.Interpreter):
    """The traced model; a folded batch norm hands its input on."""

    def __init__(self, model: nn.Module, graph: Graph) -> None:
        super().__init__(graph.program.graph_module)
        self._model, self._graph = model, graph
        self._norms = {norm.name: conv.name for conv, norm in _foldable(graph)}
        self._pairs = {conv.name: (conv, norm) for conv, norm in _foldable(graph)}
        self._values: dict[str, Tensor] = {}
        self._folded: dict[str, tuple[Tensor, Tensor]] = {}
        decided = _read_by_comparisons(graph)
        self._tileable = [node for node in graph.nodes if _is_tileable(node, graph) and node not in decided]
        self._kernels: dict[str, winograd.Kernel] = {}
        self._linear = [node for node in graph.nodes if _is_ragged(node, graph)]
        self._widened: dict[str, tuple[Tensor, Tensor | None]] = {}

    @property
    def folded(self) -> int:
        return len(self._pairs)

    @property
    def tileable(self) -> int:
        return sum(self._takes_tiles(self._own(node)[0]) for node in self._tileable)

    @torch.no_grad()
    def refresh(self) -> None:
        state = self._model.state_dict()
        self._values = {name: _last(state[name]) for name in self._graph.tensors.values()}
        self._folded = {name: self._fold(*pair) for name, pair in self._pairs.items()}
        self._widened = {node.name: self._widen(node) for node in self._linear}
        self._kernels = {}
        for node in self._tileable:
            weight, bias = self._folded.get(node.name) or self._own(node)
            if self._takes_tiles(weight) and _is_shifted(weight, bias):
                self._kernels[node.name] = winograd.Kernel.of(weight, bias)
                self._folded.pop(node.name, None)

    @staticmethod
    def _takes_tiles(weight: Tensor) -> bool:
        return weight.dtype == torch.float32 and weight.device.type == "cpu"

    def _own(self, node: fx.Node) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of a layer as the model has them."""
        weight, *bias = (
            self._values[self._graph.tensors[cast("fx.Node", a).name]] for a in node.args[1:3] if a
        )
        return weight, bias[0] if bias else None

    def _fold(self, conv: fx.Node, norm: fx.Node) -> tuple[Tensor, Tensor]:
        """Weight and bias of a convolution followed by its batch norm."""

        def value(node: Any) -> Tensor | None:
            return None if node is None else self._values[self._graph.tensors[node.name]].double()

        weight, bias = value(conv.args[1]), value(conv.args[2] if len(conv.args) > 2 else None)
        gamma, beta, mean, variance = (value(argument) for argument in norm.args[1:5])
        assert weight is not None
        assert mean is not None
        assert variance is not None
        scale = (variance + cast("float", norm.args[7])).rsqrt()
        scale = scale if gamma is None else scale * gamma
        shift = (0.0 if beta is None else beta) + scale * ((0.0 if bias is None else bias) - mean)
        kind = self._values[self._graph.tensors[cast("fx.Node", conv.args[1]).name]].dtype
        return _last((weight * scale.view(-1, *[1] * (weight.ndim - 1))).to(kind)), shift.to(kind)

    def _widen(self, node: fx.Node) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of a linear layer with zeros up to whole cache lines."""
        weight, bias = self._own(node)
        outputs, inputs = (-size % LINE for size in weight.shape)
        return F.pad(weight, (0, inputs, 0, outputs)), None if bias is None else F.pad(bias, (0, outputs))

    def logits(self, images: Tensor) -> Tensor:
        out = self.run(*self._graph.arguments(self._values, _last(images)))
        return cast("Tensor", out[0] if isinstance(out, tuple | list) else out)

    def run_node(self, n: fx.Node) -> Any:
        if n.name in self._norms:
            return self.env[cast("fx.Node", n.args[0])]
        if n.target is torch.ops.aten.view.default:  # as strided as the memory format makes it
            args, _ = self.fetch_args_kwargs_from_env(n)
            return args[0].reshape(args[1])
        if n.name in self._kernels:
            return winograd.convolve(self.env[cast("fx.Node", n.args[0])], self._kernels[n.name])
        if n.name in self._folded:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            weight, bias = self._folded[n.name]
            return cast("Callable[..., Any]", n.target)(args[0], weight, bias, *args[3:], **kwargs)
        if n.name in self._widened:
            wide_weight, wide_bias = self._widened[n.name]
            x = self.env[cast("fx.Node", n.args[0])]
            wide = F.linear(F.pad(x, (0, wide_weight.shape[1] - x.shape[-1])), wide_weight, wide_bias)
            return wide[..., : n.meta["val"].shape[-1]]
        return super().run_node(n)


def _are_own(graph: Graph, arguments: Sequence[Any]) -> bool:
    """Whether arguments of an operation are tensors of the model's state, or missing."""
    return all(a is None or (isinstance(a, fx.Node) and a.name in graph.tensors) for a in arguments)


def _is_ragged(node: fx.Node, graph: Graph) -> bool:
    """Whether a linear layer's rows begin at different places of a cache line.

    Kernels treat them differently then: a sample's last bits would depend on its place in the batch.
    """
    if node.op != "call_function" or operation(node) != "linear":
        return False
    return _are_own(graph, node.args[1:]) and any(size % LINE for size in node.args[1].meta["val"].shape)  # type: ignore[union-attr]


def _is_tileable(node: fx.Node, graph: Graph) -> bool:
    """Whether a convolution has weights of its own and a shape for which Winograd's algorithm is faster."""
    if node.op != "call_function" or operation(node) != "conv2d":
        return False
    given = dict(zip(("stride", "padding", "dilation", "groups"), node.args[3:], strict=False))
    if not _are_own(graph, node.args[1:3]) or DEFAULTS | given | dict(node.kwargs) != DEFAULTS | {
        "padding": [1, 1]
    }:
        return False
    weight, out = (cast("fx.Node", n).meta["val"].shape for n in (node.args[1], node))
    return tuple(weight[2:]) == (3, 3) and winograd.suits(tuple(weight[:2]), tuple(out[2:]))


def _read_by_comparisons(graph: Graph) -> set[fx.Node]:
    """Nodes on whose value a comparison depends.

    Tiles round each of their outputs differently. A maximum takes the first of equal values (pooling over a plain
    background), and would take any of them: its gradient would belong to another pixel.
    """
    out: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node in out or (node.op == "call_function" and COMPARISON.search(operation(node))):
            out.update(node.all_input_nodes)
    return out


def _is_shifted(weight: Tensor, bias: Tensor | None) -> bool:
    """Whether no output is exactly zero where the images are, which rounding would turn into a sign for a ReLU."""
    silent = weight.flatten(1).count_nonzero(1) == 0
    return bias is not None and bool((silent | (bias != 0)).all())


def _last(value: Tensor) -> Tensor:
    """Channels last where there are two spatial axes, contiguous otherwise."""
    return value.contiguous(memory_format=torch.channels_last if value.ndim == 4 else torch.contiguous_format)


def _foldable(graph: Graph) -> list[tuple[fx.Node, fx.Node]]:
    """Convolutions that nothing reads but a batch norm with fixed statistics."""
    out = []
    for norm in graph.nodes:
        if norm.op != "call_function" or operation(norm) != "batch_norm" or len(norm.args) < 8:
            continue
        conv, *tensors, training = norm.args[:6]
        if not isinstance(conv, fx.Node) or operation(conv) not in CONVOLUTIONS or len(conv.users) != 1:
            continue
        known = _are_own(graph, [*tensors, *conv.args[1:3]])
        if known and not training and tensors[2] is not None and tensors[3] is not None:
            out.append((conv, norm))
    return out
