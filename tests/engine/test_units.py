"""Which units are exchanged: the original's draw, pairs by hand, whole permutations."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from modeconn_cli.engine import symmetry
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.networks import graph
from modeconn_cli.engine.symmetry import Symmetry, files
from modeconn_cli.engine.symmetry import choose as units

GOLDEN = json.loads((Path(__file__).parents[1] / "data/swap_pairs.json").read_text())
WIDTHS = {"fc1": 8, "fc2": 6, "fc3": 5}


class Deep(nn.Module):
    """Three hidden layers of 8, 6 and 5 units."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3, self.output = (
            nn.Linear(a, b) for a, b in ((4, 8), (8, 6), (6, 5), (5, 3))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.output(self.fc3(self.fc2(self.fc1(x).relu()).relu()).relu())
        return out


@pytest.fixture(scope="module")
def found() -> Symmetry:
    return symmetry.find(graph.trace(Deep(), (4,)))


@pytest.mark.parametrize("key", GOLDEN)
def test_pairs_are_drawn_as_the_original_draws_them(key: str) -> None:
    size, seed, count = (int(text) for text in re.findall(r"=(\d+)", key))
    assert units.draw_pairs(size, count, seed, "conv") == [tuple(pair) for pair in GOLDEN[key]]


def test_drawn_pairs_are_disjoint_up_to_half_the_units() -> None:
    for size in (2, 3, 9):
        pairs = units.draw_pairs(size, size // 2, 0, "conv")
        assert len({unit for pair in pairs for unit in pair}) == 2 * (size // 2)


def test_too_many_pairs_are_refused_with_the_range() -> None:
    with pytest.raises(SettingsError) as caught:
        units.draw_pairs(9, 5, 0, "conv")
    assert caught.value.message == "--num-swaps 5 is too many for 'conv' with 9 exchangeable units"
    assert caught.value.hint == "choose 1 to 4"


def test_a_layer_of_one_unit_has_nothing_to_exchange() -> None:
    with pytest.raises(SettingsError) as caught:
        units.draw_pairs(1, 1, 0, "conv")
    assert caught.value.hint == "this layer has nothing to exchange"


def test_pairs_by_hand_are_read_with_their_spaces() -> None:
    assert units.parse_pairs(["228:6", " 3:9 "]) == [(228, 6), (3, 9)]


@pytest.mark.parametrize("word", ["5", "5-6", "a:b", "1:2:3", "-1:2", "1:", "1.0:2"])
def test_what_is_no_pair_is_refused(word: str) -> None:
    with pytest.raises(SettingsError, match=f"--pairs: '{re.escape(word)}' is not two unit numbers"):
        units.parse_pairs(["3:9", word])


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([(0, 8)], "'fc1' has no unit 8"),
        ([(-1, 0)], "'fc1' has no unit -1"),
        ([(3, 3)], "unit 3 of 'fc1' is named twice"),
        ([(0, 1), (2, 1)], "unit 1 of 'fc1' is named twice"),
    ],
)
def test_units_that_cannot_be_exchanged_are_refused_with_the_range(
    found: Symmetry, pairs: list[units.Pair], words: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        units.order_of_pairs(symmetry.group_of(found, "fc1"), pairs)
    assert caught.value.message == words
    assert caught.value.hint == "units of 'fc1' are 0 … 7, each may be named once"


def test_a_pair_changes_places_and_nothing_else_moves(found: Symmetry) -> None:
    order = units.order_of_pairs(symmetry.group_of(found, "fc1"), [(0, 7), (2, 3)])
    assert order == [7, 1, 3, 2, 4, 5, 6, 0]


def test_depths_are_the_first_the_middle_and_the_last_group(found: Symmetry) -> None:
    layers = [units.layer_at_depth(Deep(), found, depth) for depth in ("early", "mid", "late")]
    assert layers == ["fc1", "fc2", "fc3"]


def test_a_models_own_depths_come_first(found: Symmetry) -> None:
    model = Deep()
    model.depths = {"mid": "fc3"}  # type: ignore[assignment]
    assert [units.layer_at_depth(model, found, depth) for depth in ("early", "mid")] == ["fc1", "fc3"]


def test_a_network_without_groups_has_no_depth() -> None:
    with pytest.raises(InputError, match="no units that can be exchanged"):
        units.layer_at_depth(nn.Linear(2, 2), Symmetry((), (), {}), "mid")


def test_a_mirror_reverses_every_hidden_layer(found: Symmetry) -> None:
    orders = units.orders_of_all(found, "mirror", seed=0)
    assert {group.layer: order for group, order in orders.items()} == {
        name: list(range(size))[::-1] for name, size in WIDTHS.items()
    }


def test_random_orders_are_permutations_that_the_seed_decides(found: Symmetry) -> None:
    drawn = [units.orders_of_all(found, "random", seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(sorted(order) == list(range(group.size)) for group, order in drawn[0].items())


def test_the_orders_of_a_swaps_metadata_are_those_that_were_applied(found: Symmetry) -> None:
    def orders(**said: object) -> dict[symmetry.Group, list[int]]:
        read = files.orders_of_swap({"seed": 1, "neuron_pairs": [], **said}, Path("swap.json"), found)
        return {group: order.tolist() for group, order in read.items()}

    group = symmetry.group_of(found, "fc2")
    assert orders(layer_name="fc2", neuron_pairs=[[0, 5]]) == {group: [5, 1, 2, 3, 4, 0]}
    assert orders(mode="random", layer_name=None) == units.orders_of_all(found, "random", 1)
    with pytest.raises(InputError, match="names pairs but no layer"):
        orders(layer_name=None, neuron_pairs=[[0, 1]])
    with pytest.raises(InputError, match=r"'swap\.json' does not fit the network: 'fc2' has no unit 6"):
        orders(layer_name="fc2", neuron_pairs=[[0, 6]])
    with pytest.raises(InputError, match=r"1 neurons that are not whole numbers: the first is '0\.5'"):
        orders(layer_name="fc2", neuron_pairs=[[0, 0.5]])


@pytest.mark.parametrize(
    ("layer", "place"),
    [("layer_blocks.2.1", (2, 1)), ("0.1", (0, 1)), ("conv3", (-1, -1)), ("a.3", (-1, -1)), (None, (-1, -1))],
)
def test_the_place_in_blocks_is_read_off_the_name(layer: str | None, place: tuple[int, int]) -> None:
    assert units.place_in_blocks(layer) == place
