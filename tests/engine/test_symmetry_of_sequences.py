"""Groups of exchangeable units in networks of sequences: rotary positions, grouped queries, recurrence; and of weights
that are normalised."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import Net, randomised
from torch import Tensor, nn
from torch.nn import Linear as L
from torch.nn.utils import parametrizations

from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.networks.graph import trace
from modeconn_cli.engine.symmetry import Group, Symmetry, find, group_of, match, output_difference, permute
from modeconn_cli.engine.symmetry.labels import Labels
from modeconn_cli.engine.symmetry.permutation import identity, random_order

SHAPE = (6, 5)
WIDTH, HEADS, SIZE = 16, 4, 4


def angles(x: Tensor) -> Tensor:
    """(T, size / 2) for (…, T, size)."""
    frequencies = 10.0 ** -torch.arange(x.shape[-1] // 2)
    return torch.arange(x.shape[-2])[:, None] * frequencies


def halves(x: Tensor) -> Tensor:
    angle = torch.cat([angles(x), angles(x)], -1)
    middle = x.shape[-1] // 2
    turned = torch.cat([-x[..., middle:], x[..., :middle]], -1)
    return x * angle.cos() + turned * angle.sin()


def chunks(x: Tensor) -> Tensor:
    (a, b), angle = x.chunk(2, -1), angles(x)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def neighbours(x: Tensor) -> Tensor:
    turned = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
    angle = angles(x).repeat_interleave(2, -1)
    return x * angle.cos() + turned * angle.sin()


def parts_of_pairs(x: Tensor) -> Tensor:
    (a, b), angle = x.unflatten(-1, (-1, 2)).unbind(-1), angles(x)
    return torch.stack([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1).flatten(-2)


def complex_pairs(x: Tensor) -> Tensor:
    angle = angles(x)
    turns = torch.polar(torch.ones_like(angle), angle)
    return (
        torch.view_as_real(torch.view_as_complex(x.float().unflatten(-1, (-1, 2))) * turns)
        .flatten(-2)
        .type_as(x)
    )


def first_half_only(x: Tensor) -> Tensor:
    middle = x.shape[-1] // 2
    return torch.cat([halves(x[..., :middle]), x[..., middle:]], -1)


ROTARY = [halves, chunks, neighbours, parts_of_pairs, complex_pairs]
Attention = Callable[
    [Tensor, Tensor, Tensor], Tensor
]  # (N, heads, T, size), twice with fewer heads -> (N, heads, T, size)


def alone(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    ahead = torch.full((q.shape[2], q.shape[2]), -torch.inf).triu(1)
    return (q @ k.transpose(2, 3) / q.shape[3] ** 0.5 + ahead).softmax(-1) @ v


def expanded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    shape = (q.shape[0], k.shape[1], q.shape[1] // k.shape[1], *k.shape[2:])
    return alone(q, *(each[:, :, None].expand(shape).reshape(q.shape) for each in (k, v)))


def interleaved(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return by_hand(q, *(torch.repeat_interleave(each, q.shape[1] // k.shape[1], dim=1) for each in (k, v)))


def enabled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def of_blocks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    blocks = q.unflatten(1, (k.shape[1], -1))
    return by_hand_of_blocks(blocks, k[:, :, None], v[:, :, None]).flatten(1, 2)


def by_hand_of_blocks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(3, 4)).softmax(-1) @ v


SHARING: list[Attention] = [expanded, interleaved, enabled, of_blocks]


class Decoder(nn.Module):
    """A block as Llama has it: RMS norms, attention with rotary positions, a gated hidden layer."""

    def __init__(
        self,
        rotary: Callable[[Tensor], Tensor],
        attention: Attention = alone,
        shared: int = HEADS,
        *,
        fused: bool = False,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rotary, self.attention, self.sizes = (
            rotary,
            attention,
            [HEADS * SIZE, shared * SIZE, shared * SIZE],
        )
        self.inward, self.head = L(5, WIDTH), L(WIDTH, 3)
        names = ("qkv",) if fused else ("q", "k", "v")
        for name, size in zip(names, [sum(self.sizes)] if fused else self.sizes, strict=True):
            setattr(self, name, L(WIDTH, size, bias=fused))
        self.fused, self.o = fused, L(WIDTH, WIDTH, bias=False)
        self.first, self.second = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.gate, self.up, self.down = L(WIDTH, 24), L(WIDTH, 24), L(24, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inward(x)
        y = self.first(x)
        found = self.qkv(y).split(self.sizes, -1) if self.fused else (self.q(y), self.k(y), self.v(y))
        q, k, v = (each.unflatten(-1, (-1, SIZE)).transpose(1, 2) for each in found)
        mixed = self.attention(self.rotary(q), self.rotary(k), v)
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        y = self.second(x)
        return self.head(x + self.down(F.silu(self.gate(y)) * self.up(y)))


def proven(model: nn.Module, shape: tuple[int, ...] = SHAPE) -> Symmetry:
    """The groups; a random permutation of all, head by head within heads, has left the outputs as they were, and
    matching has undone it.
    """
    randomised(model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    symmetry = find(trace(model, shape))
    generator = np.random.default_rng(1)
    orders = {group: random_order(group, generator) for group in symmetry.groups}
    orders = {
        group: order if (order != identity(group)).any() else order[..., ::-1]
        for group, order in orders.items()
    }
    changed = permute(state, orders)
    difference = output_difference(model, state, changed, torch.randn(4, *shape))
    assert difference.off <= 1e-9 * difference.scale
    matched = match.by_weights(symmetry, state, changed)
    back = permute(changed, matched.orders)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    return symmetry


def sizes(symmetry: Symmetry) -> list[tuple[str, int]]:
    return [(group.layer, group.size) for group in symmetry.groups]


def places(group: Group, tensor: str, axis: int) -> list[list[int]]:
    """Where every unit of a group is along an axis."""
    (found,) = (move.places for move in group.moves if (move.tensor, move.axis) == (tensor, axis))
    return np.sort(found, axis=1).tolist()


def changes(
    model: nn.Module, name: str, axis: int, order: list[int], *more: tuple[str, int, list[int]]
) -> bool:
    """Whether the outputs change where tensors are permuted by hand."""
    state = model.state_dict()
    changed = dict(state)
    for each, along, by in ((name, axis, order), *more):
        changed[each] = changed[each].index_select(along, torch.tensor(by))
    difference = output_difference(model, state, changed, torch.randn(4, *SHAPE))
    return difference.off > 1e-6 * difference.scale


@pytest.mark.parametrize("rotary", ROTARY)
def test_heads_under_rotary_positions_move_as_blocks_and_their_queries_stay(rotary):
    model = Decoder(rotary)
    symmetry = proven(model)
    assert sizes(symmetry) == [("inward", 16), ("q", 4), ("v", 4), ("gate", 24)]
    _, heads, values, _ = symmetry.groups
    rows = np.arange(16).reshape(4, 4).tolist()
    for tensor, axis in (("q.weight", 0), ("k.weight", 0), ("v.weight", 0), ("o.weight", 1)):
        assert places(heads, tensor, axis) == rows
    for tensor, axis in (("v.weight", 0), ("o.weight", 1)):
        assert places(values, tensor, axis) == np.array(rows).T.tolist()
    assert [(move.tensor, move.axis) for move in values.moves] == [("v.weight", 0), ("o.weight", 1)]
    within = [1, 0, *range(2, 16)]
    assert changes(model, "q.weight", 0, within, ("k.weight", 0, within))


def test_entries_of_queries_that_are_not_rotated_move():
    symmetry = proven(Decoder(first_half_only))
    assert sizes(symmetry) == [("inward", 16), ("q", 4), ("q", 2), ("v", 4), ("gate", 24)]
    assert places(symmetry.groups[2], "k.weight", 0) == [[2, 6, 10, 14], [3, 7, 11, 15]]


@pytest.mark.parametrize("shared", SHARING)
def test_key_and_value_heads_move_with_their_block_of_query_heads(shared):
    model = Decoder(halves, shared, 2)
    symmetry = proven(model)
    assert sizes(symmetry) == [("inward", 16), ("q", 2), ("q", 2), ("v", 4), ("gate", 24)]
    _, blocks, within, values, _ = symmetry.groups
    halves_of = np.arange(16).reshape(2, 8).tolist()
    assert places(blocks, "q.weight", 0) == places(blocks, "o.weight", 1) == halves_of
    assert (
        places(blocks, "k.weight", 0) == places(blocks, "v.weight", 0) == np.arange(8).reshape(2, 4).tolist()
    )
    assert [(move.tensor, move.axis) for move in within.moves] == [("q.weight", 0), ("o.weight", 1)]
    assert places(within, "q.weight", 0) == [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]]
    assert places(values, "o.weight", 1) == np.arange(16).reshape(4, 4).T.tolist()
    across = [*range(4), *range(8, 12), *range(4, 8), *range(12, 16)]  # heads 1 and 2, of two blocks
    assert changes(model, "q.weight", 0, across, ("o.weight", 1, across))


def test_one_key_head_leaves_the_query_heads_free():
    symmetry = proven(Decoder(chunks, enabled, 1))
    assert sizes(symmetry) == [("inward", 16), ("q", 4), ("v", 4), ("gate", 24)]
    assert "k.weight" not in {move.tensor for move in symmetry.groups[1].moves}


def test_without_positions_the_entries_of_all_heads_that_share_move_alike():
    symmetry = proven(Decoder(lambda x: x, interleaved, 2))
    assert sizes(symmetry) == [("inward", 16), ("q", 2), ("q", 2), ("q", 4), ("v", 4), ("gate", 24)]
    assert places(symmetry.groups[3], "q.weight", 0) == np.arange(16).reshape(4, 4).T.tolist()
    assert places(symmetry.groups[3], "k.weight", 0) == np.arange(8).reshape(2, 4).T.tolist()


def test_queries_keys_and_values_of_one_weight_are_told_apart():
    symmetry = proven(Decoder(neighbours, expanded, 2, fused=True))
    assert sorted(sizes(symmetry)) == [("gate", 24), ("inward", 16), ("qkv", 2), ("qkv", 2), ("qkv", 4)]
    assert places(symmetry.groups[1], "qkv.bias", 0)[0] == [*range(8), *range(16, 20), *range(24, 28)]


def test_copies_whose_number_differs_keep_what_they_copy_in_place():
    def forward(m: Net, x: Tensor) -> Tensor:
        copies = torch.repeat_interleave(m.b(m.a(x)), torch.tensor([1, 2, 1]), dim=1, output_size=4)
        return m.out(copies)

    symmetry = find(trace(Net(forward, a=L(5, 4), b=L(4, 3), out=L(4, 2)), (5,)))
    assert sizes(symmetry) == [("a", 4)]
    with pytest.raises(SettingsError, match=r"aten\.repeat_interleave .* several numbers of copies"):
        group_of(symmetry, "b")


def sequence(layer: nn.RNNBase, width: int = 6) -> nn.Module:
    return Net(lambda m, x: m.out(m.r(m.a(x))[0].mean(1)), a=L(5, 3), r=layer, out=L(width, 3))


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_a_unit_of_a_recurrent_layer_is_a_row_of_every_gate(kind, gates):
    model = sequence(kind(3, 6, batch_first=True))
    symmetry = proven(model)
    assert sizes(symmetry) == [("a", 3), ("r", 6)]
    rows = np.arange(6 * gates).reshape(gates, 6).T.tolist()
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        assert places(symmetry.groups[1], f"r.{name}", 0) == rows
    assert places(symmetry.groups[1], "r.weight_hh_l0", 1) == np.arange(6)[:, None].tolist()
    assert places(symmetry.groups[1], "out.weight", 1) == np.arange(6)[:, None].tolist()
    assert symmetry.groups[1].rows_in["r"].tolist() == rows


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_every_layer_and_direction_has_units_of_its_own(kind):
    symmetry = proven(sequence(kind(3, 6, 2, batch_first=True, bidirectional=True, bias=False), 12))
    assert sizes(symmetry) == [("a", 3), ("r", 6), ("r", 6), ("r", 6), ("r", 6)]
    assert places(symmetry.groups[2], "r.weight_ih_l1", 1) == np.arange(6, 12)[:, None].tolist()
    assert set(symmetry.ids) == {"a", "r", "r#1", "r#2", "r#3"}


def test_projected_outputs_are_other_units_than_the_cells():
    symmetry = proven(sequence(nn.LSTM(3, 6, 2, batch_first=True, proj_size=4), 4))
    assert sorted(sizes(symmetry)) == [("a", 3), ("r", 4), ("r", 4), ("r", 6), ("r", 6)]


def test_the_last_state_of_one_layer_leaves_the_other_layers_free():
    layer = nn.LSTM(5, 6, 2, batch_first=True)
    symmetry = proven(Net(lambda m, x: m.out(m.r(x)[1][0][-1]), r=layer, out=L(6, 3)))
    assert sizes(symmetry) == [("r", 6), ("r", 6)]
    assert [m.tensor for m in symmetry.groups[0].moves if m.tensor.startswith("out")] == []
    symmetry = proven(Net(lambda m, x: m.out(m.r(x)[1][1].sum(0)), r=layer, out=L(6, 3)))
    assert sizes(symmetry) == [("r", 6)]


def test_a_state_that_is_given_moves_with_the_units():
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.out(m.r(x, m.begin.expand(-1, x.shape[0], -1))[0][:, -1])

    begin = nn.Parameter(torch.zeros(2, 1, 6))
    model = Net(forward, r=nn.GRU(5, 6, 2, batch_first=True), begin=begin, out=L(6, 3))
    symmetry = proven(model)
    assert sizes(symmetry) == [("r", 6)]  # both layers: the parameter has one axis of units
    assert places(symmetry.groups[0], "begin", 2) == np.arange(6)[:, None].tolist()


def test_a_state_of_zeros_in_which_something_is_written_is_no_constant():
    def forward(m: Net, x: Tensor) -> Tensor:
        begin = x.new_zeros(1, x.shape[0], 6)
        begin.to(x.device)[:, :, 2:3].copy_(x[None, :, 0, :1])
        return m.out(m.r(x, begin)[0][:, -1])

    symmetry = proven(Net(forward, r=nn.GRU(5, 6, 1, batch_first=True), out=L(6, 3)))
    assert symmetry.groups[0].rows_in["r"][:, 0].tolist() == [0, 1, 3, 4, 5]


def test_single_steps_of_recurrent_layers():
    def forward(m: Net, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[0], 6)
        g = x.new_zeros(x.shape[0], 4)
        for t in range(2):
            h, c = m.lstm(x[:, t], (h, c))
            g = m.gru(h, g)
        return m.out(m.rnn(g))

    made = {"lstm": nn.LSTMCell(5, 6), "gru": nn.GRUCell(6, 4), "rnn": nn.RNNCell(4, 5), "out": L(5, 3)}
    assert sizes(proven(Net(forward, **made))) == [("lstm", 6), ("gru", 4), ("rnn", 5)]


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_rows_and_columns_of_a_normalised_weight_move(norm):
    model = nn.Sequential(
        norm(nn.Conv2d(3, 6, 3)),
        nn.ReLU(),
        norm(nn.Conv2d(6, 4, 3)),
        nn.Flatten(),
        norm(L(16, 7)),
        nn.ReLU(),
        L(7, 2),
    )
    symmetry = proven(model, (3, 6, 6))
    assert sizes(symmetry) == [("0", 6), ("2", 4), ("4", 7)]


def test_the_vectors_of_a_spectral_norm_move_with_rows_and_columns():
    model = nn.Sequential(
        L(5, 6), nn.ReLU(), parametrizations.spectral_norm(nn.Linear(6, 4)), nn.ReLU(), L(4, 2)
    )
    symmetry = proven(model, (5,))
    moved = {(group.layer, move.tensor, move.axis) for group in symmetry.groups for move in group.moves}
    assert ("2", "2.parametrizations.weight.0._u", 0) in moved
    assert ("0", "2.parametrizations.weight.0._v", 0) in moved


def test_frozen_labels_in_equal_places_remain_two_where_they_are_renamed_one_to_one():
    labels = Labels()
    heads, here, there = labels.fresh(2), labels.fixed(2, "one"), labels.fixed(2, "other")
    left = np.concatenate([np.repeat(heads, 2, 0), np.tile(here, (2, 1))], 1)
    right = np.concatenate([np.repeat(heads, 2, 0), np.tile(there, (2, 1))], 1)
    labels.equate(left, right)
    labels.settle()
    assert len(np.unique(labels.expand(np.concatenate([here, there])))) == 4
    assert not labels.frozen(labels.expand(heads)).any()


def test_what_moves_beside_renamed_labels_stays_once_these_have_become_one_on_one_side():
    labels = Labels()
    heads, here, there = labels.fresh(2), labels.fixed(2, "one"), labels.fixed(2, "other")
    left = np.concatenate([np.repeat(heads, 2, 0), np.tile(here, (2, 1))], 1)
    right = np.concatenate([np.repeat(heads, 2, 0), np.tile(there, (2, 1))], 1)
    labels.equate(left, right)
    labels.equate(np.concatenate([heads, here[[0, 0]]], 1), np.concatenate([heads, there], 1))
    assert not labels.frozen(labels.expand(heads)).any()
    labels.settle()
    assert labels.frozen(labels.expand(heads)).all()


def test_words_whose_frozen_labels_are_crossed_do_not_move_apart():
    labels = Labels()
    heads, here, there = labels.fresh(2), labels.fixed(2, "one"), labels.fixed(2, "other")
    left = np.concatenate([np.repeat(heads, 2, 0), np.tile(here, (2, 1))], 1)
    right = np.concatenate([np.repeat(heads, 2, 0), there[[0, 1, 1, 0]]], 1)
    labels.equate(left, right)
    assert len(np.unique(labels.expand(np.concatenate([here, there])))) == 1


def in_heads(x: Tensor, number: int) -> Tensor:
    return x.unflatten(1, (number, -1))


def turned(x: Tensor) -> Tensor:
    return torch.cat([-x.chunk(2, -1)[1], x.chunk(2, -1)[0]], -1)


def turned_pairs(x: Tensor) -> Tensor:
    return torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)


# Steps of random programs on (N, 8) in which orders that stay meet orders that move.
STEPS: list[Callable[[Net, Tensor, Tensor], Tensor]] = [
    lambda m, h, g: m.w(h).tanh(),
    lambda m, h, g: h * g.flip(1),
    lambda m, h, g: torch.cat([h[:, 4:], m.w(g)[:, :4]], 1),
    lambda m, h, g: (in_heads(h, 2) * m.four + turned(in_heads(g, 2)) * m.other).flatten(1),
    lambda m, h, g: (in_heads(h, 2) * m.four + turned_pairs(in_heads(g, 2)) * m.four).flatten(1),
    lambda m, h, g: (in_heads(h, 4) * m.four[:2] + turned(in_heads(h, 4)) * m.four[2:]).flatten(1),
    lambda m, h, g: (in_heads(h, 4) + m.four[:2]).flatten(1) + g,
    lambda m, h, g: in_heads(h, 4)[:, :2].repeat_interleave(2, 1).flatten(1) + g,
    lambda m, h, g: torch.cat([h[:, :4], (in_heads(g, 4) * m.four[:2])[:, 2:].flatten(1)], 1),
    lambda m, h, g: torch.stack([h[:, :4] * m.four, g[:, 4:] * m.other], 2).flatten(1),
    lambda m, h, g: torch.view_as_real(
        torch.view_as_complex(in_heads(h, 4)) * torch.polar(m.four, m.other)
    ).flatten(1),
    lambda m, h, g: (in_heads(h, 2) @ turned(in_heads(g, 2) * m.four).mT @ in_heads(m.w(g), 2)).flatten(1),
    lambda m, h, g: m.lstm(in_heads(h, 2))[0].flatten(1) + g,
    lambda m, h, g: m.gru(in_heads(h, 2), in_heads(g, 2).transpose(0, 1))[1].transpose(0, 1).flatten(1),
]


@pytest.mark.slow
@settings(deadline=None, max_examples=60, derandomize=True)
@given(program=st.lists(st.tuples(st.integers(0, len(STEPS) - 1), st.integers(0, 3)), min_size=1, max_size=5))
def test_no_group_of_a_random_program_of_both_orders_changes_its_function(program):
    def forward(m: Net, x: Tensor) -> Tensor:
        made = [m.a(x).sin(), m.b(x).tanh()]
        for step, back in program:
            made.append(STEPS[step](m, made[-1], made[-1 - back % len(made)]))
        return m.out(made[-1].relu()) + m.out(made[-2])

    torch.manual_seed(len(program))
    lstm = nn.LSTM(4, 2, bidirectional=True, batch_first=True)
    made = {"lstm": lstm, "gru": nn.GRU(4, 4, 2, batch_first=True)}
    model = Net(forward, a=L(5, 8), b=L(5, 8), w=L(8, 8), out=L(8, 2), **made)
    for name in ("four", "other"):
        model.register_buffer(name, torch.rand(4), persistent=False)
    randomised(model)
    state = model.state_dict()
    symmetry = find(trace(model, (5,)))
    generator = np.random.default_rng(len(program))
    changed = permute(state, {group: random_order(group, generator) for group in symmetry.groups})
    difference = output_difference(model, state, changed, torch.randn(4, 5))
    assert difference.off <= 1e-9 * difference.scale
