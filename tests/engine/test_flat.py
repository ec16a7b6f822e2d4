"""Sub-graphs of a traced network: every reader meets what is in them, or says which operation it does not look into."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch._higher_order_ops as higher
from small_networks import Net, randomised
from torch import Tensor, nn
from torch._higher_order_ops.strict_mode import strict_mode
from torch._ops import _higher_order_ops as EVERY

from modeconn_cli.engine import symmetry
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import flat, graph
from modeconn_cli.engine.networks.activations import sites
from modeconn_cli.engine.networks.activations.observe import observer
from modeconn_cli.engine.networks.graph import Graph, operation, trace
from modeconn_cli.engine.networks.sample_axis import Inseparable
from modeconn_cli.engine.samples.per_sample import PerSample, uses
from modeconn_cli.engine.samples.per_sample.execution import Execution

L = nn.Linear


def under_no_grad(m: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        h = m.b(m.a(x).relu()).relu()
    return m.c(h)


def under_autocast(m: Net, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = m.b(m.a(x).relu()).relu()
    return m.c(h.float())


def autocast_without_gradients(m: Net, x: Tensor) -> Tensor:
    h = m.a(x).relu()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        h = m.b(h).relu()
    return m.c(h.float())


def no_gradients_inside_autocast(m: Net, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = m.a(x).relu()
        with torch.no_grad():
            h = m.b(h).relu()
    return m.c(h.float())


def exact_inside_autocast(m: Net, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = m.a(x).relu()
        with torch.autocast("cpu", enabled=False):
            h = m.b(h.float()).relu()
    return m.c(h)


def gradients_inside_no_grad(m: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        h = m.a(x).relu()
        with torch.enable_grad():
            h = m.b(h).relu()
        h = h + 0.0 * m.a(x).sum(1, keepdim=True)
    return m.c(h) + m.c(m.b(m.a(x).relu()).relu())


MODES = [
    under_no_grad, under_autocast, autocast_without_gradients, no_gradients_inside_autocast, exact_inside_autocast,
    gradients_inside_no_grad,
]  # fmt: skip


def network(forward: Callable[[Net, Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(0)
    return randomised(Net(forward, a=L(5, 8), b=L(8, 8), c=L(8, 3))).eval()


def found_by(model: nn.Module) -> Graph:
    return trace(model, (5,))


@pytest.mark.parametrize("forward", MODES)
def test_a_run_gives_the_networks_outputs_bit_for_bit(forward: Callable[[Net, Tensor], Tensor]) -> None:
    model, x = network(forward), torch.randn(4, 5)
    found = found_by(model)
    assert not any(flat.is_higher_order(node) for node in found.nodes)
    (logits,) = flat.Runner(found.module).run(*found.arguments(dict(model.state_dict()), x).values())
    assert torch.equal(logits, model(x))
    assert torch.equal(Execution(model, (5,))(x), model(x))


@pytest.mark.parametrize("forward", MODES[:5])
def test_units_under_any_mode_are_counted(forward: Callable[[Net, Tensor], Tensor]) -> None:
    model, x, notes, values = network(forward), torch.randn(9, 5), list[str](), list[Tensor]()
    observe = observer(model, x[:2], eps=1e-6, note=notes.append)
    assert [(layer.kind, layer.name, layer.units) for layer in observe.layers if layer.kind == "pre"] == [
        ("pre", "a", 8), ("pre", "b", 8), ("pre", "c", 3),
    ]  # fmt: skip
    seen = observe(x)
    handles = [
        m.register_forward_hook(lambda _m, _i, out: values.append(out.double()))
        for m in (model.a, model.b, model.c)
    ]
    model(x)
    for handle in handles:
        handle.remove()
    quiet = torch.cat([value <= 1e-6 for value in values], 1).double()
    torch.testing.assert_close(seen.pre, quiet.mean(1))
    torch.testing.assert_close(seen.post, quiet[:, :16].mean(1))
    torch.testing.assert_close(
        seen.total, torch.cat([value.relu().sum(0) for value in values[:2]]).detach(), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("forward", MODES)
def test_groups_are_those_of_the_network_without_modes(forward: Callable[[Net, Tensor], Tensor]) -> None:
    found = symmetry.find(found_by(network(forward)))
    assert [(group.layer, group.size) for group in found.groups] == [("a", 8), ("b", 8)]


@pytest.mark.parametrize("forward", MODES)
def test_norms_are_those_of_autograd(forward: Callable[[Net, Tensor], Tensor]) -> None:
    """What is under no_grad takes no gradient; under autocast the gradients are the casts'."""
    model, x, labels = network(forward), torch.randn(6, 5), torch.arange(6) % 3
    notes = list[str]()
    found = PerSample(model, (5,), "param", note=notes.append)
    exactly = forward in (under_no_grad, gradients_inside_no_grad, autocast_without_gradients)
    assert (found.method == "one backward pass") == exactly
    squares = found.score(x, labels).squares
    for row in range(6):
        loss = nn.functional.cross_entropy(model(x[row : row + 1]).double(), labels[row : row + 1])
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        exact = sum(float(g.double().square().sum()) for g in gradients if g is not None)
        assert float(squares[row]) == pytest.approx(exact, rel=1e-4 if exactly else 1e-2)
    assert exactly or "under autocast has no rule" in notes[0]


def control(m: Net, x: Tensor) -> Tensor:
    return m.c(torch.cond(m.b.bias.sum() > 0, lambda y: m.b(y).relu(), lambda y: m.b(y).tanh(), (m.a(x),)))


def loops(m: Net, x: Tensor) -> Tensor:
    return m.c(
        higher.while_loop(lambda k, _: k < 2, lambda k, y: (k + 1, m.b(y).relu()), (torch.tensor(0), m.a(x)))[
            1
        ]
    )


def maps(m: Net, x: Tensor) -> Tensor:
    return m.c(higher.map(lambda row: m.b(row).relu(), m.a(x)))


def strict(m: Net, x: Tensor) -> Tensor:
    return m.c(strict_mode(lambda y: (m.b(y).relu(),), (m.a(x),))[0])


def mapped(m: Net, x: Tensor) -> Tensor:
    return m.c(torch.vmap(lambda row: m.b(row).relu().sum())(m.a(x))[:, None].expand(-1, 8))


KEPT = {
    "cond": control,
    "while_loop": loops,
    "map_impl": maps,
    "strict_mode": strict,
    "_add_batch_dim": mapped,
}
QUICK = ("cond", "_add_batch_dim")


@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize(
    "name", ["cond", *(pytest.param(name, marks=pytest.mark.slow) for name in KEPT if name != "cond")]
)
def test_operations_with_sub_graphs_of_their_own_are_named(name: str) -> None:
    """Hooks on layers inside of them fail, norms fall back, symmetries leave them alone, a run is the network's."""
    model, x = network(KEPT[name]), torch.randn(4, 5)
    assert any(flat.is_opaque(node) for node in found_by(model).nodes)
    for wanted in ("both", "post"):
        with pytest.raises(InputError, match=f"{name} is not looked into"):
            observer(model, x[:2], eps=1e-6, wanted=wanted)
    if name != "_add_batch_dim":  # what is mapped may be permuted outside and inside
        with pytest.raises(InputError, match=name):
            symmetry.find(found_by(model))
    with pytest.raises(Inseparable, match=name):
        uses.find(found := found_by(model), {"a.weight"}, found.made_of(gradients=True))
    torch.testing.assert_close(Execution(model, (5,))(x), model(x))


@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize(
    "forward", [mapped, control, *(pytest.param(each, marks=pytest.mark.slow) for each in (loops, maps))]
)
def test_gradient_norms_of_operations_with_sub_graphs_are_those_of_plain_autograd(
    forward: Callable[[Net, Tensor], Tensor],
) -> None:
    """torch.func refuses some of them by errors of their own, of any class."""
    model, x, labels = network(forward), torch.randn(4, 5), torch.arange(4) % 3
    notes = list[str]()
    found = PerSample(model, (5,), "param", note=notes.append).score(x, labels).squares
    assert "is not looked into" in notes[0]
    for row in range(4):
        loss = nn.functional.cross_entropy(model(x[row : row + 1]).double(), labels[row : row + 1])
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        exact = sum(float(g.double().square().sum()) for g in gradients if g is not None)
        assert float(found[row]) == pytest.approx(exact, rel=1e-4)


def test_what_is_mapped_over_samples_reads_its_input_in_order() -> None:
    """What `torch.vmap` leaves in the graph is no operation of ATen: it reads in order what it is given.

    The units of the layer inside may be exchanged, as they are added up.
    """
    names = {group.layer for group in symmetry.find(found_by(network(mapped))).groups}
    assert "b" in names
    assert "a" not in names
    with pytest.raises(Inseparable, match="_add_batch_dim is not looked into"):
        sites.find(found_by(network(mapped)))


@torch.library.custom_op("mcx_test::relu", mutates_args=())
def relu_of_another(x: Tensor) -> Tensor:
    return x.flip(-1) + 1


@relu_of_another.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def test_an_operation_of_another_library_is_not_taken_for_one_of_torch_by_its_name() -> None:
    found = found_by(network(lambda m, x: m.c(relu_of_another(m.a(x)))))
    assert "mcx_test::relu" in {operation(node) for node in found.nodes}
    assert [site.layer.name for site in sites.find(found)[0] if site.layer.kind == "post"] == []
    with pytest.raises(InputError, match=r"mcx_test::relu .* has no symmetry rule"):
        symmetry.find(found)


PLAIN = trace(nn.Sequential(L(5, 8), nn.ReLU(), L(8, 3)), (5,))


@pytest.mark.parametrize("name", sorted(EVERY))
def test_every_operation_of_higher_order_is_walked_or_refused_by_name(name: str) -> None:
    """All that torch has: in the place of an activation, as export would put it there."""
    if name in flat.WRAPS:
        return  # taken apart: see above
    found = Graph(copy.deepcopy(PLAIN.module), PLAIN.tensors, PLAIN.shapes, PLAIN.tied, PLAIN.constants)
    node = next(node for node in found.nodes if node.op == "call_function" and operation(node) == "relu")
    node.target, node.args = EVERY[name], (node.args[0], [node.args[0]])
    flattened = Graph(flat.flat(found.module), found.tensors, found.shapes, found.tied, found.constants)
    for refused in (
        lambda: sites.find(flattened),
        lambda: uses.find(flattened, {"0.weight"}, flattened.made_of(gradients=True)),
        lambda: symmetry.find(flattened),
    ):
        with pytest.raises((Inseparable, InputError), match=name):
            refused()


def test_what_export_makes_of_modes_is_known() -> None:
    """A new torch may wrap more: then this list, and what takes it apart, want a look."""
    assert {name for name in EVERY if name.startswith("wrap_with_")} == flat.WRAPS
    assert graph.trace(network(under_no_grad), (5,)).module is not None
