"""A model traced once."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch
from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks.flat import Runner
from modeconn_cli.engine.networks.graph import Graph, location, operation, shape_of, trace


class Net(nn.Module):
    """Batch norm, a buffer outside the state dict, a plain tensor, a tied weight, an unused layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, 8)
        self.bn = nn.BatchNorm1d(8)
        self.fc2 = nn.Linear(8, 8)
        self.again = self.fc2
        self.unused = nn.Linear(3, 3)
        self.register_buffer("shift", torch.randn(8), persistent=False)
        self.scale = torch.randn(8)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu_(self.bn(self.fc1(x))) * self.scale + self.shift
        return self.again(self.fc2(h)) + torch.arange(8)


def run(graph: Graph, model: nn.Module, x: Tensor) -> Tensor:
    """Run the graph with the tensors of `model`."""
    state = model.state_dict()
    inputs = []
    for node in graph.nodes:
        if node.op == "placeholder":
            name = graph.tensors.get(node.name)
            inputs.append(state[name] if name else graph.constants.get(node.name, x))
    (output,) = Runner(graph.module).run(*inputs)
    return output


def called(graph: Graph) -> list[str]:
    return [operation(node) for node in graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_graph_computes_what_the_model_computes_for_any_batch_size(batch):
    model = Net().eval()
    x = torch.randn(batch, 6)
    assert torch.equal(run(trace(model, (6,)), model, x), model(x))


def test_tracing_leaves_the_model_alone():
    model = Net().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept = dict(model.state_dict(keep_vars=True))
    trace(model, (6,))
    assert model.training
    assert model.bn.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(tensor is kept[name] for name, tensor in model.state_dict(keep_vars=True).items())


def test_parameters_and_buffers_have_their_state_dict_names():
    model = Net()
    graph = trace(model, (6,))
    assert set(graph.tensors.values()) == model.state_dict().keys()
    assert graph.tensors["p_fc1_weight"] == "fc1.weight"
    assert graph.tensors["b_bn_running_mean"] == "bn.running_mean"
    assert list(graph.shapes) == list(model.state_dict())
    assert graph.shapes["fc1.weight"] == (8, 6)


def test_a_shared_tensor_lists_all_its_names():
    graph = trace(Net(), (6,))
    assert graph.tied["fc2.weight"] == graph.tied["again.weight"] == ("fc2.weight", "again.weight")
    assert graph.tied["fc1.weight"] == ("fc1.weight",)


def test_tensors_outside_the_state_dict_keep_their_values():
    model = Net()
    graph = trace(model, (6,))
    assert torch.equal(graph.constants["b_shift"], model.shift)
    assert torch.equal(graph.constants["c_scale"], model.scale)


class Scaled(nn.Module):
    """A weight that is computed from two parameters, one of them detached, and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4, 1))
        self.mask = torch.ones(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.weight * self.mask * self.scale.detach()).t()


def test_what_does_not_depend_on_the_input_knows_what_it_is_made_of():
    graph = trace(Scaled(), (3,))
    (product,) = (node for node in graph.nodes if operation(node) == "matmul")
    data, weight = product.all_input_nodes
    assert data not in graph.made_of()
    assert product not in graph.made_of()
    assert graph.made_of()[weight] == ("weight", "scale")
    assert graph.made_of(gradients=True)[weight] == ("weight",)


def test_operations_are_named_without_overload_and_in_place_mark():
    assert called(trace(Net(), (6,)))[:4] == ["linear", "batch_norm", "relu", "mul"]


def test_shapes_are_those_of_the_example_batch():
    graph = trace(Net(), (6,))
    first = next(node for node in graph.nodes if node.op == "call_function")
    assert shape_of(first.meta["val"]) == (3, 8)
    assert shape_of(None) is None


def test_an_operation_knows_the_line_that_calls_it():
    graph = trace(Net(), (6,))
    multiply = next(node for node in graph.nodes if operation(node) == "mul")
    assert "test_graph.py" in location(multiply)
    assert "self.scale" in location(multiply)


def test_a_model_on_the_meta_device_is_traced():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    assert called(trace(model, (4,))) == ["linear", "relu"]


def test_the_input_has_the_kind_of_the_parameters():
    graph = trace(nn.Linear(4, 3).double(), (4,))
    placeholder = next(node for node in graph.nodes if node.name == "input")
    assert placeholder.meta["val"].dtype == torch.float64


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(3, -1)


class Locked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def test_a_branch_on_values_is_refused_with_its_line(capfd):
    with pytest.raises(InputError, match=r"test_graph\.py:\d+ `if x\.sum\(\) > 0:`") as caught:
        trace(Branch(), (4,))
    assert "torch.where" in caught.value.hint
    assert capfd.readouterr() == ("", "")


def test_a_wrong_input_shape_is_refused_with_the_shape():
    with pytest.raises(InputError, match=r"forward fails on images \(3, 5\)") as caught:
        trace(nn.Sequential(nn.Linear(4, 3)), (5,))
    assert "--input-shape" in caught.value.hint


def test_the_length_of_a_batch_may_be_asked_for():
    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.layer = nn.Parameter(torch.randn(1, 1, 4)), nn.Linear(4, 2)

        def forward(self, x):
            return self.layer(torch.cat([self.token.expand(len(x), -1, -1), x[:, None]], 1))[:, 0]

    assert {operation(node) for node in trace(Token(), (4,)).nodes} >= {"expand", "cat"}
    assert "len" not in globals()


def test_what_is_torchscript_is_named():
    class Scripted(nn.Module):
        def __init__(self):
            super().__init__()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.part = torch.jit.script(nn.Linear(4, 2))

        def forward(self, x):
            return self.part(x) * x.shape[0]

    with pytest.raises(InputError, match="its part 'part' is TorchScript"):
        trace(Scripted(), (4,))


def test_a_model_for_one_batch_size_is_refused():
    with pytest.raises(InputError, match="some batch sizes only"):
        trace(FixedBatch(), (4,))


def test_a_model_that_cannot_be_copied_is_refused():
    with pytest.raises(InputError, match="Locked cannot be copied"):
        trace(Locked(), (4,))
