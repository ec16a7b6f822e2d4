"""The pre-activations of a network, read off its graph: what its convolutions, linear layers and batch norms give.

A layer whose output goes to a batch norm and nowhere else has no pre-activation of its own: that is what the batch norm
makes of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks.graph import CONVOLUTIONS, TRANSPOSED, Graph, module_of, operation

LAYERS = {*CONVOLUTIONS, *TRANSPOSED, "convolution", "linear"}
_RUNNING_MEAN = 3  # place among the arguments of batch norm


@dataclass(frozen=True)
class Preactivation:
    """The output of `norm`, else that of the convolution or the linear layer `layer`.

    `layer` is also there where it stands directly before a batch norm without weight and bias. `own`: the names among
    `weight` and `bias` of layer and norm (`layer.weight`, …) that are parameters which nothing else in the network
    reads. `depth` is the number of pre-activations on the longest way from the input, this one included: those of one
    depth do not depend on each other. `node` is the node of the graph that gives it.
    """

    name: str
    layer: nn.Linear | _ConvNd | None
    norm: _BatchNorm | None
    own: frozenset[str]
    depth: int
    node: str

    @property
    def axis(self) -> int:
        """The axis of the channels."""
        return -1 if self.norm is None and isinstance(self.layer, nn.Linear) else 1

    @property
    def layer_is_own(self) -> bool:
        """Whether the layer can be scaled by its parameters."""
        biased = self.layer is not None and self.layer.bias is not None
        return self.own >= {"layer.weight", *(["layer.bias"] if biased else [])}

    @property
    def affine(self) -> bool:
        """Whether parameters of the network can scale and shift each channel."""
        if self.norm is None:
            return self.own >= {"layer.weight", "layer.bias"}
        return self.own >= {"norm.weight", "norm.bias"} or (self.norm.weight is None and self.layer_is_own)


def find(model: nn.Module, graph: Graph) -> list[Preactivation]:
    """The pre-activations in execution order: of every batch norm with running statistics, and of every convolution and
    linear layer but the last, behind which no other follows.

    Raises InputError, naming it, for a layer that is called more than once or that is no module of its own.
    """
    constant = graph.made_of()
    called = [node for node in graph.nodes if node.op == "call_function" and node not in constant]
    norms = {node: norm for node in called if (norm := _norm(node, model, graph)) is not None}
    layers = {node for node in called if operation(node) in LAYERS}
    hidden = _before(layers, graph)
    found, depths, modules = list[Preactivation](), dict[fx.Node, int](), dict[nn.Module, str]()
    for node in graph.nodes:
        depth = max((depths[source] for source in node.all_input_nodes), default=0)
        behind = next(iter(node.users), None) if len(node.users) == 1 else None
        place = None
        if node in norms:
            place = _of_norm(node, norms[node], model, graph, layers & hidden, depth + 1)
        elif node in layers and node in hidden and behind not in norms:
            own = _own("layer", node, graph)
            place = Preactivation(
                _path(node), _layer(node, model), None, frozenset(own), depth + 1, node.name
            )
        depths[node] = depth
        if place is not None:
            depths[node] = place.depth
            found.append(place)
            for module in filter(None, (place.layer, place.norm)):
                if module in modules:
                    raise InputError(f"the layer '{place.name}' is called more than once: {_ONCE}", _OTHERS)
                modules[module] = place.name
    return found


def _of_norm(
    node: fx.Node, norm: _BatchNorm, model: nn.Module, graph: Graph, layers: set[fx.Node], depth: int
) -> Preactivation:
    """The pre-activation that a batch norm gives; one without parameters goes by those of the layer before it."""
    before, own, layer = node.all_input_nodes[0], _own("norm", node, graph), None
    if norm.weight is None and before in layers and len(before.users) == 1:
        layer = _layer(before, model)
        own |= _own("layer", before, graph)
    found = Preactivation(_path(node), layer, norm, frozenset(own), depth, node.name)
    if not found.affine and _goes_on_inside(node):
        raise _no_module(node, norm)
    return found


_ONCE = "what repairs one call of it would change the other"
_OTHERS = "--bn recompute leaves the layers as they are"


def _before(layers: set[fx.Node], graph: Graph) -> set[fx.Node]:
    """The nodes behind which a layer follows."""
    found = set[fx.Node]()
    for node in reversed(graph.nodes):
        if any(user in layers or user in found for user in node.users):
            found.add(node)
    return found


def _path(node: fx.Node) -> str:
    """The innermost module that calls an operation; export writes `fc@1` for the second call of `fc`."""
    return module_of(node)[0].partition("@")[0]


def _norm(node: fx.Node, model: nn.Module, graph: Graph) -> _BatchNorm | None:
    """The module of a batch norm with running statistics."""
    if operation(node) != "batch_norm":
        return None
    mean = node.args[_RUNNING_MEAN]
    if not (isinstance(mean, fx.Node) and mean.name in graph.tensors):
        return None
    module = model.get_submodule(_path(node))
    return module if isinstance(module, _BatchNorm) and module.running_mean is not None else None


def _layer(node: fx.Node, model: nn.Module) -> nn.Linear | _ConvNd:
    """The module whose output a convolution or a linear layer is. Raises InputError, naming it, where there is none."""
    module = model.get_submodule(_path(node))
    if isinstance(module, nn.Linear | _ConvNd) and not _goes_on_inside(node):
        return module
    raise _no_module(node, module)


def _goes_on_inside(node: fx.Node) -> bool:
    """Whether the module that calls an operation does something with its output."""
    path = _path(node)
    return any(f"{_path(user)}.".startswith(f"{path}.") for user in node.users if user.op != "output")


def _no_module(node: fx.Node, module: nn.Module) -> InputError:
    kind = type(module).__name__
    return InputError(
        f"'{_path(node) or kind}' ({kind}) computes a {operation(node)} whose output is not that of a module of its "
        "own, and cannot be repaired",
        _OTHERS,
    )


def _own(role: str, node: fx.Node, graph: Graph) -> set[str]:
    """Which of weight and bias, the second and third argument, are parameters that only this operation reads."""
    found = set[str]()
    for place, leaf in ((1, "weight"), (2, "bias")):
        given = node.args[place] if len(node.args) > place else node.kwargs.get(leaf)
        if not isinstance(given, fx.Node) or given.name not in graph.tensors or len(given.users) > 1:
            continue
        name = graph.tensors[given.name]
        if name == f"{_path(node)}.{leaf}".removeprefix(".") and len(graph.tied.get(name, (name,))) == 1:
            found.add(f"{role}.{leaf}")
    return found
