"""A network that is trained among others is the one that the project's own loop makes of it alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from modeconn_cli.engine import keyed
from modeconn_cli.engine.datasets import Samples
from modeconn_cli.engine.datasets.transforms import named
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks.forward import logits
from modeconn_cli.engine.training import NetworkProblem, Recipe, fit, make_optimizer, stack
from modeconn_cli.engine.training.members import Alone, Member, batches, correct, members, size_of, train
from modeconn_cli.engine.training.stack import AT_ONCE, Stack, at_once, reason_not_to

RECIPE = Recipe(
    epochs=6, lr=0.05, momentum=0.9, weight_decay=1e-3, optimizer="sgd", schedule="linear", batch_size=8, seed=0,
    data_seed=0,
)  # fmt: skip


class Doubled(nn.Module):
    """A network in float64, whose weights those of float32 begin at."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.network(images.double())
        return found


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 9), nn.Tanh(), nn.Linear(9, 3))


def conv() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 3))
    )


def norms() -> nn.Module:
    """Batch norm over images and over features, of a kind that mcx does not register."""
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 6)),
        *(nn.BatchNorm1d(6, momentum=0.3), nn.Sigmoid(), nn.Linear(6, 3)),
    )


class Tied(nn.Module):
    """A layer that is used twice, and one that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.fixed, self.out = nn.Linear(48, 48), nn.Linear(48, 48), nn.Linear(48, 3)
        self.again = self.inner
        self.fixed.requires_grad_(requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.out(
            torch.tanh(self.again(self.fixed(torch.tanh(self.inner(images.flatten(1))))))
        )
        return found


def samples(count: int = 40, transform: str = "none") -> Samples:
    pixels = (255 * keyed.uniform(0, "test", torch.arange(count), width=48)).to(torch.uint8).view(-1, 3, 4, 4)
    return Samples(pixels, torch.arange(count) % 3, 5 + 2 * torch.arange(count), named(transform, 3))


def built(member: Member, make: Callable[[], nn.Module], kind: torch.dtype) -> nn.Module:
    torch.manual_seed(member.seed)
    return Doubled(make()) if kind == torch.float64 else make()


def by_the_loop(member: Member, model: nn.Module, of: Samples, recipe: Recipe) -> dict[str, Tensor]:
    """The member as `mcx train` would make it, on the samples of its share."""
    problem = NetworkProblem(model, recipe.weight_decay)
    own = replace(recipe, seed=member.seed, data_seed=member.data_seed)
    for _ in fit(problem, make_optimizer(problem, own), of.take(member.rows), own, Runtime()):
        pass
    return model.state_dict()


def stacked(
    of: list[Member], make: Callable[[], nn.Module], kind: torch.dtype, on: Samples, recipe: Recipe
) -> Stack:
    found = Stack(built(of[0], make, kind), [built(each, make, kind) for each in of], recipe.weight_decay)
    train(found, of, on, recipe, Runtime())
    return found


@pytest.mark.parametrize("make", [mlp, conv, norms, Tied])
@pytest.mark.parametrize(("kind", "epochs", "close"), [(torch.float64, 6, 1e-8), (torch.float32, 1, 1e-5)])
def test_a_member_of_a_stack_is_the_network_that_is_trained_alone(
    make: Callable[[], nn.Module], kind: torch.dtype, epochs: int, close: float
) -> None:
    recipe, on = replace(RECIPE, epochs=epochs), samples()
    of = members([0, 3, 4], on.ids, 0.7, seed=1)
    found = stacked(of, make, kind, on, recipe)
    for k, member in enumerate(of):
        alone = by_the_loop(member, built(member, make, kind), on, recipe)
        ours = found.state(k)
        assert ours.keys() <= alone.keys()
        moved = 0.0
        begun = built(member, make, kind).state_dict()
        for name, tensor in ours.items():
            assert tensor.dtype == alone[name].dtype
            torch.testing.assert_close(tensor, alone[name], rtol=0, atol=close)
            moved = max(moved, float((tensor.double() - begun[name].double()).abs().max()))
        assert moved > 1e-3, "it was trained"


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_every_optimizer_steps_element_by_element(optimizer: str) -> None:
    recipe, on = replace(RECIPE, optimizer=optimizer, lr=0.01, schedule="garipov"), samples()  # type: ignore[arg-type]
    of = members(range(2), on.ids, 0.5, seed=2)
    found = stacked(of, mlp, torch.float64, on, recipe)
    for k, member in enumerate(of):
        alone = by_the_loop(member, built(member, mlp, torch.float64), on, recipe)
        for name, tensor in found.state(k).items():
            torch.testing.assert_close(tensor, alone[name], rtol=0, atol=1e-8)


def test_each_member_has_its_own_augmentation() -> None:
    on, recipe = samples(transform="resnet"), replace(RECIPE, epochs=2)
    of = members(range(2), on.ids, 0.7, seed=1, data_seed=9)
    found = stacked(of, mlp, torch.float64, on, recipe)
    alone = by_the_loop(of[1], built(of[1], mlp, torch.float64), on, recipe)
    for name, tensor in found.state(1).items():
        torch.testing.assert_close(tensor, alone[name], rtol=0, atol=1e-8)


def test_a_member_is_the_same_in_any_company_and_its_shares_are_of_one_size() -> None:
    on = samples()
    every, some = members(range(20), on.ids, 0.7, seed=1), members([17], on.ids, 0.7, seed=1)
    assert torch.equal(every[17].rows, some[0].rows)
    assert (every[17].seed, every[17].data_seed) == (some[0].seed, some[0].data_seed)
    assert {len(each.rows) for each in every} == {28}
    assert len({each.seed for each in every}) == len({tuple(each.rows.tolist()) for each in every}) == 20
    within = torch.stack([torch.isin(torch.arange(40), each.rows) for each in every]).float().mean(0)
    assert 0.2 < within.min() < 0.7 < within.max() <= 1
    other = members([17], on.ids, 0.7, seed=1, data_seed=3)[0]
    assert torch.equal(other.rows, some[0].rows)
    assert (other.seed == some[0].seed, other.data_seed == some[0].data_seed) == (True, False)


def test_the_share_is_of_the_decimals_as_they_are_written() -> None:
    assert [size_of(100, share) for share in (0.29, 0.57, 0.7)] == [29, 57, 70]
    assert (size_of(1437, 0.7), size_of(1, 0.7)) == (1005, 0)


class Branching(nn.Linear):
    def forward(self, images: Tensor) -> Tensor:
        found = super().forward(images.flatten(1))
        return found if found.sum() > 0 else -found


class Unseen(nn.Linear):
    """Keeps a tensor that no state dict has, drawn with the weights."""

    def __init__(self) -> None:
        super().__init__(48, 3)
        self.mask = torch.rand(3)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.flatten(1)) * self.mask


def dropping() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, 3))


def cumulative() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48, momentum=None), nn.Linear(48, 3))


def _reason(make: Callable[[], nn.Module]) -> str:
    on = samples()
    of = members(range(2), on.ids, 0.7, seed=1)
    images, labels = next(batches(on, of, 8, 0))
    return reason_not_to([built(each, make, torch.float32) for each in of], images, labels)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        *((make, "") for make in (mlp, conv, norms, Tied)),
        (dropping, "they draw random numbers"),
        (lambda: Branching(48, 3), "data-dependent control flow"),
        (cumulative, "the networks cannot be run at once"),
        (Unseen, "at once they give other values than each alone"),
    ],
)
def test_networks_that_cannot_be_trained_at_once_are_found(make: Callable[[], nn.Module], why: str) -> None:
    found = _reason(make)
    assert (why in found) if why else (found == "")


def test_a_network_that_fails_alone_is_refused() -> None:
    with pytest.raises(InputError, match="forward fails"):
        _reason(lambda: nn.Sequential(nn.Flatten(), nn.Linear(47, 3)))


def test_one_that_becomes_nan_leaves_the_others_as_they_are() -> None:
    on, of = samples(), members(range(3), samples().ids, 0.7, seed=1)
    models = [built(each, norms, torch.float64) for each in of]
    with torch.no_grad():
        next(models[1].parameters()).mul_(float("nan"))
    found = Stack(built(of[0], norms, torch.float64), models, RECIPE.weight_decay)
    train(found, of, on, RECIPE, Runtime())
    assert found.finite.tolist() == [True, False, True]
    alone = by_the_loop(of[2], built(of[2], norms, torch.float64), on, RECIPE)
    for name, tensor in found.state(2).items():
        torch.testing.assert_close(tensor, alone[name], rtol=0, atol=1e-8)


@pytest.mark.parametrize("lr", [0.05, 1e9])
def test_answers_are_those_of_the_networks_alone(lr: float) -> None:
    on, recipe = samples(), replace(RECIPE, lr=lr)
    of = members(range(2), on.ids, 0.7, seed=1)
    found = stacked(of, conv, torch.float32, on, recipe)
    right = correct(found, on, 7)
    assert right.shape == (2, 40)
    for k, member in enumerate(of):
        alone = Alone(built(member, conv, torch.float32), recipe.weight_decay)
        alone.train(member, on, recipe, Runtime())
        assert alone.finite.tolist() == found.finite[k : k + 1].tolist() == [lr < 1]
        if lr < 1:
            assert torch.equal(correct(alone, on, 16)[0], right[k])
    model = built(of[0], conv, torch.float32).eval()
    model.load_state_dict(found.state(0))
    if lr < 1:
        images = next(iter(on.batches(40))).images
        assert torch.equal(logits(model, images).argmax(1) == on.labels, right[0])


def test_large_networks_are_trained_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = torch.zeros(8, 3, 4, 4), torch.zeros(800, 3, 4, 4)
    assert at_once(mlp(), few, 1) == at_once(mlp(), many, 2) == AT_ONCE
    weights, kept = (
        4 * (48 * 9 + 9 + 9 * 3 + 3),
        4 * 8 * (48 + 9),
    )  # what each layer is given, and the tanh has given
    monkeypatch.setattr(stack, "BYTES", 40 * (3 * weights + kept))
    assert 20 < at_once(mlp(), few, 1) <= 40
    assert at_once(mlp(), few, 2) < at_once(mlp(), few, 1)
    assert at_once(mlp(), many, 1) == 1
