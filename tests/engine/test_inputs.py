"""What networks are called with where there are no data: tokens below the rows of their tables, and own examples."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from small_networks import Net
from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks.graph import trace
from modeconn_cli.engine.networks.inputs import SAMPLES, Images, Own, Tokens, has_example, rows_looked_up
from modeconn_cli.engine.symmetry import find, output_difference, permute, random_inputs

E, L = nn.Embedding, nn.Linear


def table(rows: int, width: int = 3) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, width))


def bag(m: Net, x: Tensor) -> Tensor:
    return m.bag(x)


LOOKUPS: dict[str, tuple[Callable[[Net, Tensor], Tensor], dict[str, nn.Module | nn.Parameter], int | None]] = {
    "an embedding": (lambda m, x: m.e(x), {"e": E(7, 3)}, 7),
    "the smaller of two": (lambda m, x: m.e(x) + m.f(x), {"e": E(7, 3), "f": E(5, 3)}, 5),
    "beside fewer positions": (
        lambda m, x: m.e(x) + m.p(torch.arange(x.shape[1])), {"e": E(9, 3), "p": E(4, 3)}, 9,
    ),
    "numbers that begin behind others": (lambda m, x: m.e(x + 2), {"e": E(9, 3)}, 7),
    "some of the numbers": (lambda m, x: m.e(x[:, :1]), {"e": E(6, 3)}, 6),
    "a start of the network's own": (
        lambda m, x: m.e(torch.cat([torch.full_like(x[:, :1], 7), x], 1)), {"e": E(8, 3)}, 8,
    ),
    "a parameter read by place": (lambda m, x: m.w[x], {"w": table(6)}, 6),
    "columns read by place": (lambda m, x: m.w[:, x[:, 0]].T, {"w": table(3, 8)}, 8),
    "a bag": (bag, {"bag": nn.EmbeddingBag(6, 3)}, 6),
    "rows that are selected": (lambda m, x: m.w.index_select(0, x.flatten()), {"w": table(6)}, 6),
    "twice the number": (lambda m, x: m.e(2 * x), {"e": E(9, 3)}, None),
    "no table": (lambda m, x: m.a(x.to(m.a.weight.dtype)), {"a": L(4, 3)}, None),
    "a one among zeros": (lambda m, x: F.one_hot(x, 5).to(m.w.dtype) @ m.w, {"w": table(5)}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOKUPS)
def test_tokens_are_below_the_rows_of_the_tables_that_they_reach(name: str) -> None:
    function, layers, rows = LOOKUPS[name]
    model = Net(function, **layers)
    assert rows_looked_up(model, (torch.zeros(2, 4, dtype=torch.int64),), 0) == rows
    if rows is None:
        with pytest.raises(InputError, match="looked up in no embedding") as caught:
            Tokens(model, 4).drawn(0)
        assert "example_input()" in caught.value.hint
        return
    (drawn,) = Tokens(model, 4).drawn(0)
    assert (drawn.shape, drawn.dtype, int(drawn.min())) == ((SAMPLES, 4), torch.int64, 0)
    assert int(drawn.max()) == rows - 1  # 64 draws of at most nine tokens
    model(drawn)
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((2, 4), rows))


def test_images_are_normal_numbers_and_a_seed_draws_the_same_ones() -> None:
    (one,), (again,), (other,) = (random_inputs((3, 4, 4), seed) for seed in (1, 1, 2))
    assert (one.shape, one.dtype) == ((SAMPLES, 3, 4, 4), torch.float64)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(random_inputs(Images((3, 4, 4)), 1)[0], one)


class Own3(nn.Module):
    """Three inputs: floats, a number of a table with four rows, and a mask; two outputs."""

    def __init__(self, **example: Tensor) -> None:
        super().__init__()
        self.a, self.e, self.out = L(5, 7), E(4, 7), L(7, 2)
        self.example = example

    def example_input(self) -> tuple[Tensor, ...]:
        return (
            self.example.get("x", torch.zeros(3, 5)),
            self.example.get("t", torch.zeros(3, dtype=torch.int64)),
            self.example.get("keep", torch.tensor([True, False, True])),
        )

    def forward(self, x: Tensor, t: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        h = (self.a(x) + self.e(t)).relu() * keep[:, None]
        return self.out(h), h.sum(1)


def test_an_example_that_only_shows_a_shape_is_filled_at_random() -> None:
    x, t, keep = Own(Own3()).drawn(3)
    assert x.dtype == torch.float64
    assert x.std() > 0.3
    assert t.dtype == torch.int64
    assert 0 <= t.min() <= t.max() < 4
    assert keep.tolist() == [True, False, True]


def test_an_example_with_values_is_taken_as_it_is() -> None:
    given = {"x": torch.tensor([[1.0, 0, 0, 0, 2]] * 3), "t": torch.tensor([0, 3, 1])}
    x, t, _ = Own(Own3(**given)).drawn(3)
    assert torch.equal(x, given["x"].double())
    assert torch.equal(t, given["t"])


def test_an_example_drawn_by_the_network_is_the_same_for_a_seed_and_leaves_the_generator_alone() -> None:
    model = Own3()
    model.example_input = lambda: (torch.randn(3, 5), torch.tensor([0, 1, 3]), torch.ones(3) > 0)
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    one, again, other = (Own(model).drawn(seed)[0] for seed in (1, 1, 2))
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_groups_of_a_network_of_three_inputs_are_found_and_proven() -> None:
    torch.manual_seed(0)
    model = Own3()
    state = model.state_dict()
    found = find(trace(model, Own(model)))
    assert [(group.layer, list(group.rows_in), group.size) for group in found.groups] == [
        ("a", ["a", "e"], 7)
    ]
    inputs = random_inputs(Own(model), 0)
    changed = permute(state, {found.groups[0]: [1, 2, 3, 4, 5, 6, 0]})
    assert output_difference(model, state, changed, inputs).is_rounding
    wrong = {**changed, "e.weight": state["e.weight"]}
    assert not output_difference(model, state, wrong, inputs).is_rounding


def test_inputs_whose_first_axes_are_no_samples_are_traced_as_they_are() -> None:
    """Nodes of a graph and its edges."""

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = L(4, 6), L(6, 3)

        def example_input(self) -> tuple[Tensor, Tensor]:
            return torch.zeros(5, 4), torch.tensor([[0, 1, 2, 4, 4, 3, 0], [1, 2, 3, 0, 1, 4, 4]])

        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            h = self.a(x).relu()
            return self.b(torch.zeros_like(h).index_add(0, edges[1], h[edges[0]]))

    model = Graph()
    assert has_example(model)
    _, edges = Own(model).drawn(0)
    assert torch.equal(edges, model.example_input()[1])
    trace(model, Own(model))


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (lambda: None, "example_input\\(\\) gives a NoneType"),
        (lambda: (), "example_input\\(\\) gives a tuple"),
        (lambda: (torch.zeros(2), 3), "example_input\\(\\) gives a tuple"),
        (lambda: 1 / 0, "example_input\\(\\) fails: ZeroDivisionError"),
    ],
)
def test_an_example_that_is_no_input_is_refused(example: Callable[[], object], message: str) -> None:
    model = Own3()
    model.example_input = example
    with pytest.raises(InputError, match=message):
        trace(model, Own(model))


def test_positions_that_shorter_inputs_do_not_read_stay_in_place() -> None:
    model = Net(
        lambda m, x: m.out((m.a(x) + m.p[:, : x.shape[1]]).relu().flatten(1)[:, :4]),
        a=L(3, 4), p=nn.Parameter(torch.randn(1, 8, 4)), out=L(4, 2),
    )  # fmt: skip
    found = find(trace(model, (5, 3)))
    assert [list(group.rows_in) for group in found.groups] == [["a"]]
    assert [(move.tensor, move.axis) for move in found.groups[0].moves if "p" in move.tensor] == [("p", 2)]
