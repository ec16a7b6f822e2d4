"""Units that have an order of their own in every block: entries head by head, query heads block by block."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_networks import Net, randomised
from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.networks.graph import trace
from modeconn_cli.engine.symmetry import (
    Group,
    Symmetry,
    activity,
    files,
    find,
    frame,
    group_of,
    match,
    output_difference,
    permute,
)
from modeconn_cli.engine.symmetry.permutation import composed, identity, inverse, random_order

Made = tuple[nn.Module, tuple[int, ...]]
HEADS, SIZE, WIDTH = 4, 4, 16


def in_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def over_stream(mixed: Callable[[Net, Tensor], Tensor], **layers: nn.Module | nn.Parameter) -> Made:
    """A block on a stream between two linear layers, of sequences of five with six features."""
    made = Net(
        lambda m, x: m.last((m.first(x) + mixed(m, m.first(x))).mean(1)),
        first=nn.Linear(6, WIDTH), last=nn.Linear(WIDTH, 3), **layers,
    )  # fmt: skip
    return randomised(made), (5, 6)


def multihead() -> Made:
    return over_stream(
        lambda m, x: m.a(x, x, x, need_weights=False)[0],
        a=nn.MultiheadAttention(WIDTH, HEADS, batch_first=True),
    )


def fused() -> Made:
    """As GPT-2: one weight [in, 3 · width] of queries, keys and values, multiplied from the right."""

    def mixed(m: Net, x: Tensor) -> Tensor:
        flat = torch.addmm(m.bias, x.reshape(-1, WIDTH), m.c_attn).view(*x.shape[:2], -1)
        q, k, v = (in_heads(each, HEADS) for each in flat.split(WIDTH, 2))
        return m.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))

    c_attn, bias = nn.Parameter(torch.randn(WIDTH, 3 * WIDTH)), nn.Parameter(torch.randn(3 * WIDTH))
    return over_stream(mixed, c_attn=c_attn, bias=bias, o=nn.Linear(WIDTH, WIDTH))


def attend(m: Net, x: Tensor, turned: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    """Four heads of queries, and two of keys and values."""
    q, k, v = in_heads(m.q(x), HEADS), in_heads(m.k(x), 2), in_heads(m.v(x), 2)
    k, v = (each.repeat_interleave(2, 1) for each in (turned(k), v))
    return m.o(((turned(q) @ k.transpose(2, 3)).softmax(-1) @ v).transpose(1, 2).flatten(2))


def projections() -> dict[str, nn.Module]:
    return {
        "q": nn.Linear(WIDTH, WIDTH), "k": nn.Linear(WIDTH, 2 * SIZE), "v": nn.Linear(WIDTH, 2 * SIZE),
        "o": nn.Linear(WIDTH, WIDTH),
    }  # fmt: skip


def grouped() -> Made:
    return over_stream(attend, **projections())


def grouped_in_order() -> Made:
    """Entries of queries and keys are told apart by a table, as rotary positions do."""
    table = torch.randn(SIZE)
    return over_stream(lambda m, x: attend(m, x, lambda y: y * table.to(y)), **projections())


def normed() -> Made:
    """One norm for all heads of queries, one for all of keys, as Qwen3 has them."""

    def mixed(m: Net, x: Tensor) -> Tensor:
        q, k, v = (in_heads(each(x), HEADS) for each in (m.q, m.k, m.v))
        return m.o(F.scaled_dot_product_attention(m.nq(q), m.nk(k), v).transpose(1, 2).flatten(2))

    layers = {name: nn.Linear(WIDTH, WIDTH) for name in "qkvo"}
    return over_stream(mixed, nq=nn.RMSNorm(SIZE), nk=nn.RMSNorm(SIZE), **layers)


def experts() -> Made:
    """Three experts of five hidden units, all of them weighted by a router, their weights in tensors of three axes."""

    def mixed(m: Net, x: Tensor) -> Tensor:
        hidden = F.silu(torch.einsum("btd,edf->btef", x, m.up))
        return torch.einsum("btef,efd,bte->btd", hidden, m.down, m.router(x).softmax(-1))

    up, down = nn.Parameter(torch.randn(3, WIDTH, 5)), nn.Parameter(torch.randn(3, 5, WIDTH))
    return over_stream(mixed, up=up, down=down, router=nn.Linear(WIDTH, 3))


def chosen() -> Made:
    """Two of three experts of each sample by their rank: no proof would see equal ranks, and experts stay."""

    def mixed(m: Net, x: Tensor) -> Tensor:
        best, which = m.router(x).softmax(-1).topk(2, -1)
        weight = (F.one_hot(which, 3) * best[..., None]).sum(-2)
        hidden = F.silu(torch.einsum("btd,edf->btef", x, m.gate)) * torch.einsum("btd,edf->btef", x, m.up)
        return torch.einsum("btef,efd,bte->btd", hidden, m.down, weight)

    up, gate, down = (nn.Parameter(torch.randn(3, *shape)) for shape in ((WIDTH, 5), (WIDTH, 5), (5, WIDTH)))
    return over_stream(mixed, up=up, gate=gate, down=down, router=nn.Linear(WIDTH, 3))


def sloped() -> Made:
    """Every head has a slope of its own, as ALiBi has them, and stays."""

    def mixed(m: Net, x: Tensor) -> Tensor:
        q, k, v = (in_heads(each(x), HEADS) for each in (m.q, m.k, m.v))
        far = (torch.arange(x.shape[1]) - torch.arange(x.shape[1])[:, None]).abs()
        slopes = 2.0 ** -torch.arange(1, HEADS + 1)
        scores = q @ k.transpose(2, 3) - far * slopes[:, None, None]
        return m.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    return over_stream(mixed, **{name: nn.Linear(WIDTH, WIDTH) for name in "qkvo"})


def convolutions() -> Made:
    """Three groups of four channels, read by channels of three groups and normalised in them."""
    made = nn.Sequential(
        *(nn.Conv2d(2, 12, 1), nn.Tanh(), nn.Conv2d(12, 12, 3, groups=3), nn.GroupNorm(3, 12), nn.Tanh()),
        *(nn.Conv2d(12, 9, 1, groups=3), nn.Flatten(), nn.Linear(36, 3)),
    )
    return randomised(made), (2, 4, 4)


def transposed() -> Made:
    made = nn.Sequential(
        *(nn.Conv1d(2, 6, 1), nn.Tanh(), nn.ConvTranspose1d(6, 8, 2, groups=2), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(40, 3)),
    )
    return randomised(made), (2, 4)


def within(symmetry: Symmetry) -> dict[str, str | None]:
    """Group -> the group whose units hold units of it in an order of their own."""
    names = {group: name for name, group in symmetry.ids.items()}
    return {
        name: None if group.within is None else names.get(group.within, f"{group.within.layer}, still")
        for name, group in symmetry.ids.items()
    }


NETWORKS: dict[Callable[[], Made], dict[str, str | None]] = {
    multihead: {"first": None, "a": None, "a#1": "a", "a#2": "a"},
    fused: {"first": None, "c_attn": None, "c_attn#1": "c_attn", "c_attn#2": "c_attn"},
    grouped: {"first": None, "q#0": None, "q#1": "q#0", "q": "q#0", "v": "q#0"},
    grouped_in_order: {"first": None, "q": None, "q#1": "q", "v": "q"},
    normed: {"first": None, "q": None, "q#1": None, "v#1": "q"},
    experts: {"first": None, "up": "router", "router": None},
    chosen: {"first": None, "up": "up, still"},
    sloped: {"first": None, "q": "q, still", "v": "v, still"},
    convolutions: {"0#0": None, "0": "0#0", "2": "0#0", "5#1": "0#0"},
    transposed: {"0#0": None, "0": "0#0", "2": "0#0"},
}


def shuffled(symmetry: Symmetry, seed: int) -> dict[Group, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {group: random_order(group, generator) for group in symmetry.groups}


def difference(model: nn.Module, shape: tuple[int, ...], orders: dict[Group, np.ndarray]) -> float:
    found = output_difference(
        model, model.state_dict(), permute(model.state_dict(), orders), torch.randn(4, *shape)
    )
    return found.off / found.scale


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], tensor) for name, tensor in other.items())


@pytest.mark.parametrize("make", NETWORKS)
def test_units_within_blocks_are_permuted_block_by_block_and_come_back(make: Callable[[], Made]) -> None:
    model, shape = make()
    symmetry = find(trace(model, shape))
    state = dict(model.state_dict())
    assert within(symmetry) == NETWORKS[make]
    orders = shuffled(symmetry, 1)
    assert all(order.shape == group.shape for group, order in orders.items())
    assert any((order != order[0]).any() for order in orders.values() if order.ndim == 2)
    assert difference(model, shape, orders) < 1e-9
    changed = permute(state, orders)
    assert not same(changed, state)
    assert same(permute(changed, match.by_weights(symmetry, state, changed).orders), state)


@pytest.mark.parametrize("make", NETWORKS)
def test_units_within_blocks_come_back_by_activations(make: Callable[[], Made]) -> None:
    model, shape = make()
    traced = trace(model, shape)
    symmetry, state = find(traced), dict(model.state_dict())
    changed = permute(state, shuffled(symmetry, 2))
    batches = [torch.randn(40, *shape) for _ in range(2)]
    orders, alike = activity.by_activations(symmetry, traced, state, changed, lambda: batches)
    assert same(permute(changed, orders), state)
    assert alike == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("make", NETWORKS)
def test_orders_within_blocks_are_undone_and_composed(make: Callable[[], Made]) -> None:
    """Exchanging blocks and exchanging within them do not commute."""
    model, shape = make()
    symmetry, state = find(trace(model, shape)), dict(model.state_dict())
    first, second = shuffled(symmetry, 3), shuffled(symmetry, 4)
    changed = permute(state, first)
    assert same(permute(changed, inverse(first)), state)
    assert same(permute(state, composed(first, second)), permute(changed, second))
    assert same(permute(state, dict(reversed(first.items()))), changed), (
        "the order of the groups says nothing"
    )


@pytest.mark.parametrize("make", [multihead, grouped, experts, sloped])
def test_copies_of_one_network_have_one_frame(make: Callable[[], Made]) -> None:
    model, shape = make()
    symmetry, state = find(trace(model, shape)), dict(model.state_dict())
    copies = [state, *(permute(state, shuffled(symmetry, seed)) for seed in (5, 6))]
    together = frame.common_frame(symmetry, copies)
    assert all(same(permute(*each), state) for each in zip(copies, together.orders, strict=True))


@pytest.mark.parametrize("make", NETWORKS)
def test_copies_of_one_network_have_one_frame_by_activations(make: Callable[[], Made]) -> None:
    model, shape = make()
    traced = trace(model, shape)
    symmetry, state = find(traced), dict(model.state_dict())
    copies = [permute(state, shuffled(symmetry, seed)) for seed in (5, 6, 7)]
    batches = [torch.randn(40, *shape) for _ in range(2)]
    together = frame.common_frame_by_activations(symmetry, traced, copies, lambda: batches)
    assert all(same(permute(*each), copies[0]) for each in zip(copies, together.orders, strict=True))
    assert together.objective[-1] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("make", [multihead, grouped, experts, sloped])
def test_a_matching_that_goes_on_after_any_sweep_ends_with_the_same_orders(
    make: Callable[[], Made],
) -> None:
    (model, shape), (other, _) = make(), make()
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for each in other.parameters():
            each.copy_(torch.randn(each.shape, generator=generator))
    symmetry, states = find(trace(model, shape)), (model.state_dict(), other.state_dict())
    kept: list[match.Progress] = []
    whole = match.by_weights(symmetry, *states, restarts=2, keep=kept.append)
    for how_far in kept:
        begun = match.Progress(**json.loads(json.dumps(dataclasses.asdict(how_far))))
        begun.check(symmetry)
        again = match.by_weights(symmetry, *states, restarts=2, begun=begun)
        assert (again.objective, again.start) == (whole.objective, whole.start)
        assert files.order_bytes(again.orders, symmetry) == files.order_bytes(whole.orders, symmetry)


def test_progress_of_other_groups_is_told() -> None:
    model, shape = multihead()
    symmetry = find(trace(model, shape))
    kept: list[match.Progress] = []
    match.by_weights(symmetry, model.state_dict(), model.state_dict(), keep=kept.append)
    orders, attempt = kept[-1].orders, kept[-1].best
    assert attempt is not None
    nested = next(k for k, order in enumerate(orders) if np.ndim(order) == 2)
    shared = [*orders[:nested], orders[nested][0], *orders[nested + 1 :]]
    twice = [*orders[:nested], [[0] * SIZE] * HEADS, *orders[nested + 1 :]]
    for wrong in (
        {"orders": orders[1:]},
        {"orders": shared},
        {"orders": twice},
        {"best": (twice, *attempt[1:])},
        {"due": [99]},
    ):
        with pytest.raises(ValueError):
            dataclasses.replace(kept[-1], **wrong).check(symmetry)


@pytest.mark.parametrize("make", [multihead, grouped, experts, sloped, convolutions])
def test_no_exchange_makes_networks_more_alike_in_a_frame_by_activations(make: Callable[[], Made]) -> None:
    """Of two blocks, whose units go along, or of two units in one block of any of three networks."""
    model, shape = make()
    traced, generator = trace(model, shape), torch.Generator().manual_seed(9)
    symmetry, networks = find(traced), [dict(model.state_dict())]
    for _ in range(2):
        networks.append(
            {name: torch.randn(each.shape, generator=generator) for name, each in networks[0].items()}
        )
    batches = [torch.randn(40, *shape, generator=generator)]
    orders: list[dict[Group, np.ndarray]] = [{}, {}, {}]
    for phase in activity.phases(symmetry, traced, networks, orders, lambda: batches):

        def alike(found: list[dict[Group, np.ndarray]], phase: activity.Phase = phase) -> float:
            pairs = itertools.combinations(range(3), 2)
            return sum(
                group.size * phase.paired(group, i, j, (found[i], found[j]))
                for i, j in pairs
                for group in phase.due
            )

        own = [phase.as_they_are, phase.matched(0, 1), phase.matched(0, 2)]
        before, gains = alike(own), [phase.improve(own)]
        while gains[-1] > 0:
            gains.append(phase.improve(own))
        best = alike(own)
        assert best - before == pytest.approx(sum(gains), abs=1e-9)
        for k, group in itertools.product(range(3), phase.due):
            for row in range(group.within.size if group.within else 1):
                for i, j in itertools.combinations(range(group.size), 2):
                    swapped = identity(group)
                    line = swapped[row] if group.within else swapped
                    line[[i, j]] = line[[j, i]]
                    moved = composed(own[k], {**phase.as_they_are, group: swapped})
                    assert alike([*own[:k], moved, *own[k + 1 :]]) <= best + 1e-9
        for each, found in zip(orders, own, strict=True):
            each |= found


@pytest.mark.parametrize("make", [multihead, grouped, convolutions])
def test_no_match_of_two_networks_gains_by_an_exchange(make: Callable[[], Made]) -> None:
    """Of two blocks, or of two units in one block: matched together they are at least at a local maximum."""
    (model, shape), (other, _) = make(), make()
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for each in other.parameters():
            each.copy_(torch.randn(each.shape, generator=generator))
    symmetry, fixed, moving = find(trace(model, shape)), model.state_dict(), other.state_dict()
    found = match.by_weights(symmetry, fixed, moving)

    names = {move.tensor for group in symmetry.groups for move in group.moves}

    def reached(orders: dict[Group, np.ndarray]) -> float:
        moved = permute(moving, orders)
        return sum(float((fixed[name].double() * moved[name].double()).sum()) for name in names)

    best = reached(found.orders)
    assert best == pytest.approx(found.objective[-1], rel=1e-10)
    for group, order in found.orders.items():
        for row in range(len(order) if order.ndim == 2 else 1):
            for i, j in itertools.combinations(range(group.size), 2):
                swapped = identity(group)
                line = swapped[row] if order.ndim == 2 else swapped
                line[[i, j]] = line[[j, i]]
                unmoved = {each: identity(each) for each in symmetry.groups}
                assert reached(composed(found.orders, {**unmoved, group: swapped})) <= best + 1e-9 * abs(best)


def test_groups_of_queries_change_places_and_their_values_inside() -> None:
    """Hidden 16, four heads of four, two of keys and values: the groups swapped, the entries of values permuted."""
    model, shape = grouped()
    symmetry, state = find(trace(model, shape)), dict(model.state_dict())
    rows = np.arange(16).reshape(4, 4)
    swapped, of_values = rows[[2, 3, 0, 1]].ravel(), np.array([[2, 0, 3, 1], [1, 3, 0, 2]])
    inside = np.arange(8).reshape(2, 4)[[1, 0]]
    v = np.take_along_axis(inside, of_values, axis=1).ravel()
    o = np.take_along_axis(rows[[2, 3, 0, 1]], of_values[[0, 0, 1, 1]], axis=1).ravel()
    by_hand = dict(state)
    for name, axis, order in (
        *((f"q.{kind}", 0, swapped) for kind in ("weight", "bias")),
        *((f"k.{kind}", 0, inside.ravel()) for kind in ("weight", "bias")),
        *((f"v.{kind}", 0, v) for kind in ("weight", "bias")),
        ("o.weight", 1, o),
    ):
        by_hand[name] = by_hand[name].index_select(axis, torch.from_numpy(order))
    back = permute(by_hand, match.by_weights(symmetry, state, by_hand).orders)
    for name in ("q.weight", "k.weight", "v.weight", "o.weight"):
        assert not torch.equal(by_hand[name], state[name])
        cosine = torch.cosine_similarity(back[name].flatten(), state[name].flatten(), dim=0)
        assert cosine.item() == pytest.approx(1, abs=1e-6)


def heads_first(m: Net, x: Tensor) -> Tensor:
    """(N, heads, T, entries)."""
    return in_heads(m.v(x), HEADS).tanh()


MIXED: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "the mean of all heads is added": lambda m, v: v + v.mean(1, keepdim=True),
    "heads are multiplied with a matrix": lambda m, v: v + m.heads(v.transpose(1, 3)).transpose(1, 3),
    "a softmax runs over heads": lambda m, v: v * v.softmax(1),
    "heads are normalised by each other": lambda m, v: m.norm(v.transpose(1, 3)).transpose(1, 3),
    "heads attend to heads": lambda m, v: F.scaled_dot_product_attention(*[v.transpose(1, 2)] * 3).transpose(
        1, 2
    ),
    "products of entries of one head with those of another": lambda m, v: (
        v * torch.einsum("nhti,ngti->nhgt", v, v).mean((1, 2))[:, None, :, None]
    ),
    "a head is multiplied with its mirror image": lambda m, v: v * v.flip(1),
    "a head that stays is multiplied with the one before": lambda m, v: (
        (v + torch.arange(HEADS)[:, None, None]) * v.roll(1, 1)
    ),
    "all heads share a scale": lambda m, v: v * m.scale,
    "an entry is scaled by the largest of all heads": lambda m, v: v / (1 + v.amax(1, keepdim=True).exp()),
}


@pytest.mark.parametrize("what", MIXED)
def test_where_heads_meet_entry_by_entry_all_have_one_order(what: str) -> None:
    """The entries can be permuted in all heads alike; each head by itself would change the function."""
    model, shape = over_stream(
        lambda m, x: m.o(MIXED[what](m, heads_first(m, x)).transpose(1, 2).flatten(2)),
        v=nn.Linear(WIDTH, WIDTH), o=nn.Linear(WIDTH, WIDTH), heads=nn.Linear(HEADS, HEADS),
        norm=nn.LayerNorm(HEADS, elementwise_affine=False), scale=nn.Parameter(torch.randn(SIZE)),
    )  # fmt: skip
    symmetry = find(trace(model, shape))
    rows = np.arange(16).reshape(4, 4)
    entries = [group for group in symmetry.groups if np.array_equal(group.rows_in.get("v"), rows.T)]
    for group in entries:
        assert difference(model, shape, {group: np.array([2, 0, 3, 1])}) < 1e-9
    rows[0] = rows[0][[2, 0, 3, 1]]
    state, order = dict(model.state_dict()), torch.from_numpy(rows.ravel())
    state |= {
        "v.weight": state["v.weight"][order],
        "v.bias": state["v.bias"][order],
        "o.weight": state["o.weight"][:, order],
    }
    apart = output_difference(model, model.state_dict(), state, torch.randn(4, *shape))
    assert apart.off > 1e-6 * apart.scale
    assert not any(group.within is not None for group in entries)


def test_a_rule_that_says_nothing_of_what_it_mixes_nests_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from modeconn_cli.engine.symmetry.registry import Step

    monkeypatch.setattr(Step, "mixes", lambda *_, **__: None)
    model, shape = grouped()
    assert set(within(find(trace(model, shape))).values()) == {None}


def test_one_order_for_all_blocks_is_taken_too() -> None:
    model, shape = multihead()
    symmetry = find(trace(model, shape))
    entries = symmetry.ids["a#1"]
    order = [2, 0, 3, 1]
    common, apart = (permute(model.state_dict(), {entries: each}) for each in (order, [order] * HEADS))
    assert same(common, apart)
    for wrong in ([order] * 3, [[0, 0, 1, 2]] * HEADS, [[order] * HEADS]):
        with pytest.raises((SettingsError, InputError)):
            permute(model.state_dict(), {entries: wrong})


def test_the_file_of_a_permutation_holds_one_order_for_each_head(tmp_path: Path) -> None:
    model, shape = multihead()
    symmetry = find(trace(model, shape))
    orders = shuffled(symmetry, 7)
    path = tmp_path / "orders.npz"
    path.write_bytes(files.order_bytes(orders, symmetry))
    assert {name: order.shape for name, order in np.load(path).items()} == {
        "first": (16,), "a": (4,), "a#1": (4, 4), "a#2": (4, 4),
    }  # fmt: skip
    read = files.orders_to_first(path, symmetry)
    assert same(permute(model.state_dict(), read), permute(model.state_dict(), orders))
    np.savez(path, **{"a#1": np.arange(4)[::-1]})
    (order,) = files.orders_to_first(path, symmetry).values()
    assert order.tolist() == [3, 2, 1, 0]
    for wrong in (np.tile(np.arange(4), (3, 1)), np.zeros((4, 4), dtype=int), np.arange(3)):
        np.savez(path, **{"a#1": wrong})
        with pytest.raises(InputError, match="'a#1' is no"):
            files.orders_to_first(path, symmetry)


def test_units_of_experts_lie_along_another_axis_than_the_experts() -> None:
    model, shape = experts()
    symmetry = find(trace(model, shape))
    units = symmetry.ids["up"]
    assert units.shape == (3, 5)
    assert {(move.tensor, move.axis, move.across) for move in units.moves} == {("up", 2, 0), ("down", 1, 0)}
    assert group_of(symmetry, "router") is units.within
