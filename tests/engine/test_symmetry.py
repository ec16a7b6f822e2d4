"""Groups of exchangeable units: found in the graph, permuted, proven."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import SMALL, Net, cnn, encoder, mlp, randomised, residual, shared
from torch import Tensor, nn
from torch.nn import Linear as L
from torchvision import models as tv

from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.networks.graph import trace
from modeconn_cli.engine.symmetry import Group, Symmetry, find, group_of, output_difference, permute
from modeconn_cli.engine.symmetry.choose import Pair, order_of_pairs
from modeconn_cli.engine.symmetry.labels import Labels


def symmetry_of(model: nn.Module, shape: tuple[int, ...]) -> Symmetry:
    return find(trace(model, shape))


def swap(state: dict[str, Tensor], group: Group, *pairs: Pair) -> dict[str, Tensor]:
    """Exchange the two units of each pair."""
    return permute(state, {group: order_of_pairs(group, pairs)})


def shuffled(size: int, rng: np.random.Generator) -> list[int]:
    """A random permutation that is not the identity."""
    order = rng.permutation(size).tolist()
    return order if order != list(range(size)) else order[::-1]


def prove(model: nn.Module, shape: tuple[int, ...]) -> tuple[Symmetry, float]:
    """Permute all groups at random and check all that must hold; returns the relative output difference."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    symmetry = symmetry_of(model, shape)
    rng = np.random.default_rng(3)
    orders = {group: shuffled(group.size, rng) for group in symmetry.groups}
    changed = permute(state, orders)
    declared = {move.tensor for group in symmetry.groups for move in group.moves}
    assert list(changed) == list(state)
    assert {name for name in state if not torch.equal(changed[name], state[name])} == declared
    assert all(changed[name] is state[name] for name in state.keys() - declared)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    back = permute(changed, {group: np.argsort(order).tolist() for group, order in orders.items()})
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    difference, largest, _ = output_difference(model, state, changed, torch.rand(2, *shape))
    assert largest > 0
    return symmetry, difference / largest


@pytest.mark.parametrize("name", SMALL)
def test_permuting_every_group_at_random_leaves_the_outputs_unchanged(name):
    make, shape, expected = SMALL[name]
    torch.manual_seed(0)
    symmetry, difference = prove(randomised(make()), shape)
    assert [(group.layer, group.size) for group in symmetry.groups] == expected
    assert difference < 1e-9


FAMILIES = {  # name: (image size, groups)
    "resnet18": (64, 12), "squeezenet1_0": (64, 25), "mobilenet_v3_small": (64, 27),
}  # fmt: skip
SLOW_FAMILIES = {
    "vgg16": (64, 15), "vgg16_bn": (64, 15), "alexnet": (64, 7), "resnet50": (64, 37), "resnext50_32x4d": (64, 53),
    "regnet_y_400mf": (64, 69), "densenet121": (64, 120), "googlenet": (64, 57), "shufflenet_v2_x1_0": (64, 86),
    "efficientnet_b0": (64, 40), "convnext_tiny": (64, 22), "vit_b_16": (224, 49), "swin_t": (224, 52),
    "mnasnet1_0": (64, 25), "inception_v3": (299, 94),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "size", "groups"),
    [(name, *expected) for name, expected in FAMILIES.items()]
    + [pytest.param(name, *expected, marks=pytest.mark.slow) for name, expected in SLOW_FAMILIES.items()],
)
def test_torchvision_families_keep_their_outputs(name, size, groups):
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    torch.manual_seed(0)
    model = tv.get_model(name, weights=None, num_classes=10, **extra)
    symmetry, difference = prove(randomised(model), (3, size, size))
    assert len(symmetry.groups) == groups
    assert difference < 1e-9


def distance(one: dict[str, Tensor], other: dict[str, Tensor], parameters: list[str]) -> float:
    """The squared L2 distance over parameters."""
    return sum(float((one[name] - other[name]).double().square().sum()) for name in parameters)


def gap(tensor: Tensor, i: int, j: int) -> float:
    """Twice the squared distance between two rows."""
    return 2 * float((tensor[i] - tensor[j]).double().square().sum())


def test_a_swap_in_an_mlp_moves_by_the_closed_form():
    model = mlp()
    state = model.state_dict()
    symmetry = symmetry_of(model, (5,))
    swapped = swap(state, group_of(symmetry, "2"), (1, 4))
    rows = gap(state["2.weight"], 1, 4) + gap(state["2.bias"], 1, 4)
    expected = rows + gap(state["4.weight"].T, 1, 4)
    assert distance(swapped, state, list(state)) == pytest.approx(expected, rel=1e-12)


def test_a_swap_of_channels_moves_rows_norm_and_columns_by_the_closed_form():
    model = randomised(cnn())
    state = model.state_dict()
    symmetry = symmetry_of(model, (3, 6, 6))
    swapped = swap(state, group_of(symmetry, "0"), (0, 3))
    rows = sum(gap(state[name], 0, 3) for name in ("0.weight", "0.bias", "1.weight", "1.bias"))
    expected = rows + gap(state["3.weight"].transpose(0, 1), 0, 3)
    parameters = [name for name, _ in model.named_parameters()]
    assert distance(swapped, state, parameters) == pytest.approx(expected, rel=1e-12)
    assert torch.equal(swapped["1.running_var"][[3, 1, 2, 0]], state["1.running_var"])


def test_a_channel_before_flatten_is_a_block_of_columns():
    model = cnn()
    state = model.state_dict()
    symmetry = symmetry_of(model, (3, 6, 6))
    swapped = swap(state, group_of(symmetry, "3"), (1, 2))
    columns = torch.arange(45).reshape(5, 9)[[0, 2, 1, 3, 4]].flatten()
    assert torch.equal(swapped["6.weight"], state["6.weight"][:, columns])
    moves = group_of(symmetry, "3").moves
    assert [(move.tensor, move.axis) for move in moves] == [("3.weight", 0), ("3.bias", 0), ("6.weight", 1)]


def test_swapping_twice_restores_the_original_bit_for_bit():
    model = randomised(cnn())
    state = model.state_dict()
    symmetry = symmetry_of(model, (3, 6, 6))
    for group in symmetry.groups:
        once = swap(state, group, (0, 2), (1, 3))
        twice = swap(once, group, (0, 2), (1, 3))
        assert all(torch.equal(twice[name], state[name]) for name in state)


CNN = randomised(cnn())
CNN_SYMMETRY = symmetry_of(CNN, (3, 6, 6))


@settings(deadline=None, max_examples=30)
@given(first=st.permutations(range(4)), second=st.permutations(range(4)), other=st.permutations(range(5)))
def test_permutations_compose_and_keep_the_function(first, second, other):
    state = CNN.state_dict()
    one, two = CNN_SYMMETRY.groups
    both = permute(permute(state, {one: first}), {one: second, two: other})
    at_once = permute(state, {one: [first[k] for k in second], two: other})
    assert all(torch.equal(both[name], at_once[name]) for name in state)
    difference, largest, _ = output_difference(CNN, state, both, torch.rand(2, 3, 6, 6))
    assert difference <= 1e-9 * largest


def test_unit_k_of_the_result_is_unit_order_k_of_the_input():
    state = CNN.state_dict()
    changed = permute(state, {CNN_SYMMETRY.groups[0]: [2, 0, 3, 1]})
    assert torch.equal(changed["0.weight"], state["0.weight"][[2, 0, 3, 1]])


def test_momentum_is_permuted_like_its_parameters():
    momentum = {name: torch.randn_like(parameter) for name, parameter in CNN.named_parameters()}
    changed = permute(momentum, {CNN_SYMMETRY.groups[0]: [1, 0, 2, 3]})
    assert changed.keys() == momentum.keys()
    assert torch.equal(changed["3.weight"], momentum["3.weight"][:, [1, 0, 2, 3]])


def test_a_residual_stream_is_found_by_each_of_its_writers():
    symmetry = symmetry_of(residual(), (3, 5, 5))
    assert group_of(symmetry, "a") is group_of(symmetry, "c")
    assert list(group_of(symmetry, "a").rows_in) == ["a", "c"]


def test_shared_weights_end_up_alike_under_all_names():
    model = randomised(shared())
    symmetry = symmetry_of(model, (5,))
    assert group_of(symmetry, "b") is group_of(symmetry, "c")
    changed = permute(model.state_dict(), {symmetry.groups[0]: [6, 5, 4, 3, 2, 1, 0]})
    assert torch.equal(changed["b.weight"], changed["c.weight"])
    assert torch.equal(changed["b.weight"], model.b.weight.detach().flip(0, 1))


def test_columns_behind_a_concatenation_are_offset():
    make, shape, _ = SMALL["concatenation"]
    model = make()
    symmetry = symmetry_of(model, shape)
    swapped = swap(model.state_dict(), group_of(symmetry, "c"), (0, 3))
    assert torch.equal(swapped["b.weight"], model.b.weight.detach()[:, [0, 1, 2, 3, 4, 5, 9, 7, 8, 6]])


def test_a_head_is_a_block_of_rows_in_queries_keys_and_values():
    symmetry = symmetry_of(encoder(), (5, 4))
    by_head, queries, values = (group for group in symmetry.groups if group.layer == "body.self_attn")
    assert by_head.rows_in[by_head.layer][1].tolist() == [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23]
    assert queries.rows_in[queries.layer][0].tolist() == [0, 4, 8, 12]
    assert values.rows_in[values.layer][0].tolist() == [16, 20]
    assert ("body.self_attn.out_proj.weight", 1) in {(move.tensor, move.axis) for move in values.moves}
    assert group_of(symmetry, "body.self_attn") is queries  # the first of the largest


def test_units_are_numbered_by_the_rows_of_the_layer_that_is_asked_for():
    model = Net(lambda m, x: m.out((m.a(x) + m.b(x).flip(1)).relu()), a=L(5, 6), b=L(5, 6), out=L(6, 2))
    state = model.state_dict()
    symmetry = symmetry_of(model, (5,))
    swapped = swap(state, group_of(symmetry, "b"), (0, 1))
    assert torch.equal(swapped["b.weight"], state["b.weight"][[1, 0, 2, 3, 4, 5]])
    assert torch.equal(swapped["a.weight"], state["a.weight"][[0, 1, 2, 3, 5, 4]])
    difference, largest, _ = output_difference(model, state, swapped, torch.rand(3, 5))
    assert difference <= 1e-9 * largest


def test_a_channel_that_forward_reads_alone_stays_and_the_others_move():
    model = Net(lambda m, x: m.out(m.a(x).relu()) + m.a(x)[:, 2:3], a=L(5, 6), out=L(6, 2))
    symmetry, difference = prove(model, (5,))
    assert group_of(symmetry, "a").rows_in["a"].tolist() == [[0], [1], [3], [4], [5]]
    assert difference < 1e-9


def test_units_that_are_read_in_order_stay_and_the_reason_is_named():
    model = Net(lambda m, x: m.b(m.a(x).cumsum(1).relu()), a=L(5, 6), b=L(6, 2))
    symmetry = symmetry_of(model, (5,))
    assert symmetry.groups == ()
    with pytest.raises(SettingsError, match=r"'a' cannot be exchanged: aten\.cumsum \(.*\.py:\d+: "):
        group_of(symmetry, "a")


def test_units_whose_order_is_mirrored_move_with_their_mirror_images():
    model = Net(
        lambda m, x: m.out(torch.fliplr(m.a(x)) + torch.flipud(m.b(x)).flip(0)),
        a=L(5, 6),
        b=L(5, 6),
        out=L(6, 2),
    )
    symmetry, difference = prove(model, (5,))
    assert [list(group.rows_in) for group in symmetry.groups] == [["a", "b"]]
    assert difference < 1e-9


def test_softmax_over_units_is_no_obstacle():
    symmetry, difference = prove(nn.Sequential(L(5, 6), nn.Softmax(1), L(6, 2)), (5,))
    assert group_of(symmetry, "0").size == 6
    assert difference < 1e-9


def test_a_tensor_outside_the_state_dict_keeps_its_units_in_place():
    model = Net(lambda m, x: m.b(m.a(x).relu() * m.scale), a=L(5, 6), b=L(6, 2))
    model.register_buffer("scale", torch.rand(6), persistent=False)
    with pytest.raises(SettingsError, match="outside the state dict"):
        group_of(symmetry_of(model, (5,)), "a")


def test_an_operation_without_a_rule_keeps_what_it_reads_in_place():
    model = Net(
        lambda m, x: m.c(torch.special.bessel_j0(m.b(m.a(x).relu()))), a=L(5, 6), b=L(6, 4), c=L(4, 2)
    )
    symmetry, difference = prove(model, (5,))
    assert [(group.layer, group.size) for group in symmetry.groups] == [("a", 6)]
    assert difference < 1e-9
    with pytest.raises(SettingsError, match=r"special_bessel_j0 .* has no symmetry rule"):
        group_of(symmetry, "b")


def test_a_model_without_any_provable_unit_is_refused_with_the_operation():
    model = Net(lambda m, x: m.b(torch.special.bessel_j0(m.a(x))), a=L(5, 6), b=L(6, 2))
    with pytest.raises(InputError, match=r"aten\.special_bessel_j0 \(.*\.py:\d+: "):
        symmetry_of(model, (5,))


def test_the_output_layer_cannot_be_permuted():
    with pytest.raises(
        SettingsError, match="'6' cannot be exchanged: its units are the model's outputs"
    ) as caught:
        group_of(CNN_SYMMETRY, "6")
    assert caught.value.hint == "choose from: 0, 3"


def test_a_layer_of_one_unit_says_so():
    with pytest.raises(SettingsError, match="it has one unit"):
        group_of(symmetry_of(nn.Sequential(L(5, 1), nn.Tanh(), L(1, 3)), (5,)), "0")


def test_an_unknown_layer_is_answered_with_the_closest():
    with pytest.raises(SettingsError, match=r"no layer 'body\.sel_attn'") as caught:
        group_of(symmetry_of(encoder(), (5, 4)), "body.sel_attn")
    assert caught.value.hint == "did you mean 'body.self_attn'?"


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 0, 1, 2], [1, 2, 3, 4]])
def test_an_order_must_be_a_permutation(order):
    with pytest.raises(SettingsError, match="no permutation of its 4 units"):
        permute(CNN.state_dict(), {CNN_SYMMETRY.groups[0]: order})


def test_a_state_of_another_model_is_refused():
    group = symmetry_of(mlp(), (5,)).groups[0]
    with pytest.raises(InputError, match=r"0.weight is \(9, 5\); the traced model has 8 along axis 0"):
        permute(nn.Sequential(L(5, 9)).state_dict(), {group: range(7, -1, -1)})


def test_the_proof_sees_a_change_of_function_and_leaves_the_model_alone():
    model = randomised(cnn()).train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wrong = {**state, "0.weight": state["0.weight"].flip(0)}
    difference, largest, _ = output_difference(model, state, wrong, torch.rand(2, 3, 6, 6))
    assert difference > 1e-3 * largest
    assert output_difference(model, state, state, torch.rand(2, 3, 6, 6))[0] == 0
    assert model.training
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_the_proof_does_not_hide_nan():
    model = mlp()
    broken = {**model.state_dict(), "0.bias": torch.full((8,), torch.nan)}
    difference, *_ = output_difference(model, model.state_dict(), broken, torch.rand(2, 5))
    assert np.isnan(difference)


def test_elements_alone_in_their_axes_are_not_exchanged_once_they_are_joined():
    def forward(m: Net, x: Tensor) -> Tensor:
        left, right = m.a(x).view(-1, 3, 2).chunk(2, 2)
        return m.out(torch.cat([left, right.sin()], 2).flatten(1))

    symmetry, difference = prove(Net(forward, a=L(5, 6), out=L(6, 2)), (5,))
    assert [group.rows_in["a"].tolist() for group in symmetry.groups] == [[[0, 1], [2, 3], [4, 5]]]
    assert difference < 1e-9


def test_one_frozen_label_freezes_a_whole_chain():
    labels = Labels()
    chain = labels.fresh(5)
    labels.freeze(chain[4:], "the last")
    labels.equate(chain[:4], chain[1:])
    roots = labels.expand(chain)
    assert labels.frozen(roots).all()
    assert {labels.reason(int(root)) for root in roots[:, 0]} == {"the last"}


def test_a_label_that_would_contain_itself_is_frozen():
    labels = Labels()
    one, other = labels.fresh(3), labels.fresh(3)
    labels.equate(one, np.concatenate([one, other], axis=1))
    assert labels.frozen(labels.expand(np.concatenate([one, other], axis=1))).all()


# Steps of random programs on (N, 8): what moves, cuts, glues, freezes and ties.
STEPS: list[Callable[[Tensor, Tensor, nn.Linear], Tensor]] = [
    lambda h, g, w: w(h).tanh(),
    lambda h, g, w: h + g,
    lambda h, g, w: h * g.flip(1),
    lambda h, g, w: torch.cat([h[:, 4:], w(g)[:, :4]], 1),
    lambda h, g, w: torch.cat([*h.chunk(4, 1)[:3], g[:, ::4]], 1),
    lambda h, g, w: h.view(-1, 2, 4).transpose(1, 2).flatten(1),
    lambda h, g, w: w(h * g[:, 3:4]),
    lambda h, g, w: F.group_norm(w(h), 2),
    lambda h, g, w: (h.view(-1, 4, 2).softmax(1) @ g.view(-1, 2, 4)).flatten(1)[:, :8],
    lambda h, g, w: F.pad(h[:, 2:6], (1, 3)) + F.linear(g, w.weight.T),
    lambda h, g, w: (h.view(-1, 2, 4) * g.view(-1, 4, 2).transpose(1, 2)).mean(1).repeat(1, 2),
    lambda h, g, w: h.roll(3, 1) - h.cumsum(1) / 8,
]


@settings(deadline=None, max_examples=25, derandomize=True)
@given(program=st.lists(st.tuples(st.integers(0, len(STEPS) - 1), st.integers(0, 3)), min_size=1, max_size=5))
def test_no_group_of_a_random_program_changes_its_function(program):
    def forward(m: Net, x: Tensor) -> Tensor:
        made = [m.a(x).sin(), m.b(x).tanh()]
        for step, back in program:
            made.append(STEPS[step](made[-1], made[-1 - back % len(made)], m.w))
        return m.out(made[-1].relu()) + m.out(made[-2])

    torch.manual_seed(len(program))
    _, difference = prove(Net(forward, a=L(5, 8), b=L(5, 8), w=L(8, 8), out=L(8, 2)), (5,))
    assert difference < 1e-9


class _Casting(nn.Module):
    """A network that computes a part of itself in another type; `inside` is that part."""

    def __init__(self, inside: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.gain = nn.Parameter(torch.rand(16) + 0.5)
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.second(self.inside(self, self.first(x))).relu())
        return out


def _norm(kind: torch.dtype) -> Callable[[nn.Module, Tensor], Tensor]:
    def inside(m: nn.Module, h: Tensor) -> Tensor:
        n = h.to(kind)
        return m.gain * (n * torch.rsqrt(n.pow(2).mean(-1, keepdim=True) + 1e-6)).to(h.dtype)

    return inside


def _autocast(m: nn.Module, h: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return F.linear(h, torch.diag(m.gain)).to(h.dtype).relu()


def _weights_too(m: nn.Module, h: Tensor) -> Tensor:
    return (h.half() * m.gain.half()).softmax(-1, dtype=torch.float32).to(h.dtype)


def _refusing(m: nn.Module, h: Tensor) -> Tensor:
    if h.dtype == torch.float64:
        raise TypeError("float32 alone")
    return m.gain * h.tanh()


@pytest.mark.parametrize(
    ("inside", "kind"),
    [
        (_norm(torch.float32), torch.float64),
        (_norm(torch.float16), torch.float64),
        (_norm(torch.bfloat16), torch.float64),
        (_autocast, torch.float64),
        (_weights_too, torch.float64),
        (_refusing, torch.float32),
    ],
)
def test_the_proof_of_a_swap_goes_past_casts(
    inside: Callable[[nn.Module, Tensor], Tensor], kind: torch.dtype
) -> None:
    model = _Casting(inside)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    right = dict(state)
    for name in ("first.weight", "first.bias", "gain"):
        right[name] = state[name][order]
    right["second.weight"] = state["second.weight"][:, order]
    wrong = {**right, "gain": state["gain"]}
    inputs = torch.randn(8, 6)
    found = output_difference(model, state, right, inputs)
    assert found.is_rounding
    assert found.kind == kind
    assert not output_difference(model, state, wrong, inputs).is_rounding
    assert model.first.weight.dtype == torch.float32


def test_a_table_of_numbers_with_a_step_is_no_obstacle() -> None:
    class Stepped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 6), nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.relu(self.first(x.flatten(1)))) + torch.arange(0, 8, 2)

    (group,) = find(trace(Stepped(), (1, 2, 4))).groups
    assert (group.layer, group.size) == ("first", 6)
