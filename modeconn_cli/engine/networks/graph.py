"""A model traced once: its ATen operations in execution order, its tensors by state-dict name, all shapes.

`torch.export` opens every module, attention included, into some sixty ATen operations. What reads the graph
needs no rule per model and no module hook.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import flat, weights
from modeconn_cli.engine.networks.forward import forward
from modeconn_cli.engine.networks.inputs import Given, Images, Inputs, placed
from modeconn_cli.engine.networks.untouched import ask, copy_to_trace

# Rows of the example batch. Export specialises 0 and 1; an odd number keeps batch // 2 from looking exact.
EXAMPLE_BATCH = 3

CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
TRANSPOSED = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
_TORCH = str(Path(torch.__file__).parent) + os.sep


@dataclass(frozen=True)
class Graph:
    """One model in eval mode as ATen operations, for any batch size; `flat.Runner` runs its module.

    `tensors` maps the placeholders that are in the state dict to their names there. A tensor with several
    names (tied weights) may have several placeholders; `tied` lists all names of each. Whoever runs the graph
    brings their values.
    """

    module: fx.GraphModule
    tensors: dict[str, str]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of the whole state dict, in its order
    tied: dict[str, tuple[str, ...]] = field(default_factory=dict)  # name -> all names of that tensor
    constants: dict[str, Tensor] = field(default_factory=dict)  # placeholder -> tensor outside the state dict

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        """Placeholders, operations and the output, in execution order."""
        return tuple(self.module.graph.nodes)

    def canonical(self, name: str) -> str:
        """The first name of a tied tensor, which is the parameter's."""
        return self.tied[name][0] if name in self.tied else name

    def arguments(self, values: Mapping[str, Tensor], images: Tensor) -> dict[fx.Node, Tensor]:
        """What the placeholders stand for, in order: `values` by the names of the state dict, constants, images."""
        found = {}
        for node in self.nodes:
            if node.op == "placeholder" and node.name in self.tensors:
                found[node] = values[self.tensors[node.name]]
            elif node.op == "placeholder":
                constant = self.constants.get(node.name)
                found[node] = images if constant is None else constant.to(images.device)
        return found

    def made_of(self, *, gradients: bool = False) -> dict[fx.Node, tuple[str, ...]]:
        """node -> the tensors of the state dict that it is made of, for all nodes that do not depend on the input.

        With `gradients` only tensors that a gradient comes through to: none passes a detach, or `torch.no_grad()`.
        """
        found: dict[fx.Node, tuple[str, ...]] = {}
        for node in self.nodes:
            if node.op == "placeholder":
                if node.name in self.tensors:
                    found[node] = (self.canonical(self.tensors[node.name]),)
                elif node.name in self.constants:
                    found[node] = ()
            elif node.op == "call_function" and all(source in found for source in node.all_input_nodes):
                stops = operation(node) == "detach" or not flat.modes(node).gradients
                sources = [] if gradients and stops else node.all_input_nodes
                found[node] = tuple(dict.fromkeys(name for source in sources for name in found[source]))
        return found


def trace(model: nn.Module, inputs: Inputs | tuple[int, ...]) -> Graph:
    """Trace `model` in eval mode on `inputs`, floats among them of its parameters' type; a shape is one of images.

    The graph holds for any number of samples, but for a network's own example, whose number of samples it has.

    The trace works on a copy that shares nothing with `model` and costs no memory: its parameters are never
    written. They lie on the CPU and not on the meta device because a forward that calls `torch.arange(n)`
    would mix the two.

    Raises:
        InputError: the model cannot be copied, or export refused it; names the source line.
    """
    state = weights.tensors_of(model)
    inputs = Images(inputs) if isinstance(inputs, tuple) else inputs
    example = placed(inputs.blank(EXAMPLE_BATCH), torch.device("cpu"), _dtype(model))
    there = placed(example, next(iter(state.values()), example[0]).device, _dtype(model))
    ask(model, there)
    if not isinstance(inputs, Images):
        _check_runs(model, there)  # a trace does not see a place beyond a table's end
    hollow = _hollow_copy(model)
    free = None if inputs.fixed_samples else ({0: torch.export.Dim("batch")},)
    with _silence(), _symbolic_len(model):
        try:
            program = torch.export.export(hollow, example, strict=False, dynamic_shapes=free)
        except Exception as error:  # of the user's own forward, or export's of any kind
            _check_runs(model, there)
            raise _refusal(error, model) from error
    named = {
        **program.graph_signature.inputs_to_parameters,
        **program.graph_signature.inputs_to_buffers,
        **program.graph_signature.inputs_to_lifted_tensor_constants,
    }
    return Graph(
        module=flat.flat(program.graph_module),
        tensors={placeholder: name for placeholder, name in named.items() if name in state},
        shapes={name: tuple(tensor.shape) for name, tensor in state.items()},
        tied=_tied_names(state),
        constants={
            placeholder: program.constants[name]
            for placeholder, name in named.items()
            if name not in state and name in program.constants
        },
    )


def operation(node: fx.Node) -> str:
    """The ATen name without overload and in-place mark: `add` for `aten.add_.Tensor`.

    What another library has registered keeps the library's name before it: `mine::relu` is no ReLU.
    """
    if isinstance(node.target, torch._ops.OpOverload):
        name = schema(node).name.removeprefix("aten::")
    else:
        name = str(getattr(node.target, "__name__", node.target))
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def schema(node: fx.Node) -> torch.FunctionSchema:
    """The ATen signature of an operation."""
    assert isinstance(node.target, torch._ops.OpOverload)
    return node.target._schema


def argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    """An argument of an operation, which a call gives by place or by name."""
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def shape_of(value: object) -> tuple[int, ...] | None:
    """The shape of what a node computes for the example batch; None for what is no tensor."""
    return tuple(concrete(size) for size in value.shape) if isinstance(value, Tensor) else None


def concrete(size: Any) -> int:
    """A size as a number: the example batch stands for the symbol."""
    return int(cast("int", size.node.hint)) if isinstance(size, torch.SymInt) else int(size)


def module_of(node: fx.Node) -> tuple[str, str]:
    """Path and class of the innermost module that calls the operation; empty where none is known."""
    modules = list((node.meta.get("nn_module_stack") or {}).values())
    if not modules:
        return "", ""
    path, kind = modules[-1]
    return str(path), kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"


def location(node: fx.Node) -> str:
    """Where the model calls the operation: `block.1, model.py:12: return x.cumsum(1)`."""
    path, _ = module_of(node)
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines()]
    frames = [(line, code) for line, code in pairwise(lines) if line.startswith('File "')]
    # The innermost frame is often torch's own wrapper; the model's author knows the last one outside torch.
    own = [frame for frame in frames if _TORCH not in frame[0]] or frames
    if not own:
        return path
    file, _, rest = own[-1][0].removeprefix('File "').partition('", line ')
    source = f"{Path(file).name}:{rest.partition(',')[0]}: {own[-1][1]}"
    return f"{path}, {source}" if path else source


def _tied_names(state: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    names: dict[int, list[str]] = {}
    for name, tensor in state.items():
        names.setdefault(id(tensor), []).append(name)
    return {name: tuple(names[id(tensor)]) for name, tensor in state.items()}


def _hollow_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` in eval mode: parameters and saved buffers unwritten, other tensors by value."""
    saved = {id(tensor) for tensor in weights.tensors_of(model).values()}
    memo: dict[int, Any] = {}
    for module in model.modules():
        tensors = [*module._parameters.values(), *module._buffers.values(), *vars(module).values()]
        for tensor in tensors:
            if isinstance(tensor, Tensor) and id(tensor) not in memo:
                memo[id(tensor)] = _hollow(tensor, keep=id(tensor) not in saved)
    try:
        return copy_to_trace(model, memo).eval()
    except Exception as error:  # of the user's own module
        raise InputError(
            f"{type(model).__name__} cannot be copied for tracing: {_first_line(error)}",
            "remove handles, locks and non-leaf tensors from the model's attributes",
        ) from error


def _hollow(tensor: Tensor, *, keep: bool) -> Tensor:
    if keep and not tensor.is_meta:
        made = tensor.detach().to("cpu", copy=True)
    else:
        made = torch.empty(tensor.shape, dtype=tensor.dtype)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(made, requires_grad=tensor.requires_grad)
    return made


@contextlib.contextmanager
def _symbolic_len(model: nn.Module) -> Iterator[None]:
    """`len(images)` is a plain number to Python, and would fix the batch's size in the graph.

    Where the network's own classes are written it is a symbol meanwhile; elsewhere `len` stays what it is.
    """

    def symbolic(of: Any) -> Any:
        return of.shape[0] if isinstance(of, Tensor) and of.ndim else len(of)

    written_in = {kind.__module__ for module in model.modules() for kind in type(module).__mro__}
    names = [name for name in written_in if name.partition(".")[0] not in ("torch", "builtins")]
    places = [sys.modules[name] for name in names if name in sys.modules]
    free = [place for place in places if "len" not in vars(place)]
    for place in free:
        vars(place)["len"] = symbolic
    try:
        yield
    finally:
        for place in free:
            del vars(place)["len"]


def _check_runs(model: nn.Module, given: Given) -> None:
    """Raises InputError where not export but the network's own forward fails."""
    training = model.training
    with torch.no_grad():
        forward(model.eval(), given)
    model.train(training)


def _dtype(model: nn.Module) -> torch.dtype:
    """The type of the parameters, which images are taken in."""
    state = weights.tensors_of(model).values()
    return next((tensor.dtype for tensor in state if tensor.is_floating_point()), torch.float32)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep export's reports off the terminal: a refusal becomes one line of ours."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _refusal(error: Exception, model: nn.Module) -> InputError:
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_TORCH) and frame.filename not in (__file__, "<string>")
    ]
    where = f" at {frames[-1].filename}:{frames[-1].lineno} `{frames[-1].line}`" if frames else ""
    reason = _first_line(error)
    scripted = _scripted(model)
    if scripted:
        reason = f"its part '{scripted}' is TorchScript, whose operations do not show"
        hint = "leave out torch.jit.script: the weights are the same"
    elif "Constraints violated" in reason:
        reason = "its forward works for some batch sizes only"
        hint = "let forward hold for any number of samples: no loop over them, no number of them in a shape"
    elif "data-dependent" in reason:
        hint = "replace the branch on tensor values by torch.where, or the number by a constant"
    else:
        hint = "use torch operations only in forward"
    return InputError(f"torch.export refused the model{where}: {reason}", hint)


def _scripted(model: nn.Module) -> str:
    """The first part of a network that is TorchScript, empty where none is."""
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            return path or type(module).__name__
        for name, value in vars(module).items():
            if isinstance(value, torch.jit.ScriptFunction):
                return f"{path}.{name}".lstrip(".")
    return ""


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
