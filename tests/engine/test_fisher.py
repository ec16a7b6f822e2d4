"""The diagonal Fisher information, against closed forms and a loop of one in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeconn_cli.engine.samples.per_sample import fisher as information
from modeconn_cli.engine.samples.per_sample.fisher import DiagonalFisher, Kind


class Tied(nn.Module):
    """A weight used twice, one used transposed, a parameter that is added, and one that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(12, 12)
        self.moved = nn.Parameter(torch.randn(12, 4) / 3)
        self.shift = nn.Parameter(torch.randn(4))
        self.unread = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.twice(torch.tanh(self.twice(x.flatten(1)))))
        return F.linear(x, self.moved.t()) + self.shift


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x.flatten(2)).mean(1))


class Branching(nn.Module):
    """Cannot be traced: its path depends on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1)) * (2.0 if bool(x.sum() > 0) else 1.0)


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, groups=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 2, groups=2),
        nn.GroupNorm(2, 4),
        nn.Flatten(),
        nn.Linear(4, 4),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "convolutional": convolutional,
    "tied": Tied,
    "attention": Attention,
    "branching": Branching,
}


def batch(count: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(count, 3, 2, 2), torch.arange(count) % 4, torch.arange(count) + 50


def loop(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Mean squared gradients of single samples, in float64."""
    model = copy.deepcopy(model).double().eval()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for image, label in zip(images.double(), labels, strict=True):
        model.zero_grad()
        F.cross_entropy(model(image[None]), label[None]).backward()  # type: ignore[no-untyped-call]
        for name, p in model.named_parameters():
            if p.grad is not None:
                total[name] += p.grad.square()
    return {name: value / len(images) for name, value in total.items()}


def fisher(model: nn.Module, kind: Kind, *batches: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    found = DiagonalFisher(model, (3, 2, 2), kind)
    for each in batches:
        found.add(*each)
    return found.information()


@pytest.mark.parametrize("name", NETWORKS)
def test_squares_are_those_of_a_loop_of_one(name: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    images, labels, ids = batch()
    found, exact = fisher(model, "empirical", (images, labels, ids)), loop(model, images, labels)
    assert list(found) == list(exact)
    for key in exact:
        torch.testing.assert_close(found[key], exact[key], rtol=1e-3, atol=1e-6 * float(exact[key].max()))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", ["convolutional", "tied"])
def test_batches_do_not_matter(name: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    whole = batch()
    parts = [tuple(values[rows] for values in whole) for rows in (slice(0, 1), slice(1, 4), slice(4, 7))]
    for kind in ("true", "empirical"):
        one, many = fisher(model, kind, whole), fisher(model, kind, *parts)  # type: ignore[arg-type]
        for key in one:
            torch.testing.assert_close(one[key], many[key], rtol=1e-4, atol=1e-5 * float(one[key].max()))


def test_a_logistic_regression_has_its_closed_form() -> None:
    """F of a weight is E[x_j² p_k (1 − p_k)], exactly, whatever the seed."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).double().eval()
    images, labels, ids = batch(9)
    found = fisher(model, "true", (images.double(), labels, ids))
    p, x = model(images.double()).softmax(1).detach(), images.double().flatten(1)
    exact = torch.einsum("nk,nj->kj", p * (1 - p), x.square()) / 9
    torch.testing.assert_close(found["1.weight"], exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(found["1.bias"], (p * (1 - p)).mean(0), rtol=1e-6, atol=0)


def over_classes(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """E_x Σ_y p(y|x) (∂ log p(y|x)/∂θ)², sample by sample and class by class in float64."""
    model = copy.deepcopy(model).double().eval()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for image in images.double():
        for k in range(4):
            model.zero_grad()
            log_p = model(image[None]).log_softmax(1)[0]
            log_p[k].backward()
            for name, p in model.named_parameters():
                if p.grad is not None:
                    total[name] += float(log_p[k].detach().exp()) * p.grad.square()
    return {name: value / len(images) for name, value in total.items()}


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "branching"])
@pytest.mark.parametrize("sure", [1.0, 12.0])
def test_the_expectation_over_classes_is_their_sum(name: str, sure: float) -> None:
    """Of networks that are sure of their answers too, where hardly any other class has a share."""
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    with torch.no_grad():
        list(model.parameters())[-1 if name != "tied" else 2].mul_(sure)
        for module in model.modules():
            if isinstance(module, nn.Linear) and module.out_features == 4:
                module.weight.mul_(sure)
    images, labels, ids = batch()
    found, exact = fisher(model, "true", (images, labels, ids)), over_classes(model, images)
    for key in exact:
        torch.testing.assert_close(found[key], exact[key], rtol=2e-3, atol=1e-6 * float(exact[key].max()))


def test_parameters_of_whole_numbers_have_no_information() -> None:
    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = nn.Linear(12, 4)
            self.scale = nn.Parameter(torch.ones(1, dtype=torch.int64), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.f(x.flatten(1)) * self.scale

    assert list(fisher(Quantised().eval(), "true", batch())) == ["f.weight", "f.bias"]


def test_a_bias_without_any_gradient_raises_no_alarm() -> None:
    """Batch norm behind a layer, were it in training mode, or a softmax over equal shifts: rounding is all there is."""

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.shift = nn.Linear(12, 4), nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.f(x.flatten(1)) + self.shift

    said: list[str] = []
    found = DiagonalFisher(Shifted().eval(), (3, 2, 2), "true", note=said.append)
    found.add(*batch())
    assert said == []
    assert float(found.information()["shift"]) < 1e-12


def test_draws_belong_to_the_sample_and_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more classes than are summed over."""
    monkeypatch.setattr(information, "SUMMED", 3)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).eval()
    images, labels, ids = batch()
    order = torch.randperm(7)
    one = fisher(model, "true", (images, labels, ids))
    other = fisher(model, "true", (images[order], labels[order], ids[order]))
    torch.testing.assert_close(one["1.weight"], other["1.weight"])
    again = DiagonalFisher(model, (3, 2, 2), "true", seed=3)
    again.add(images, labels, ids)
    assert not torch.allclose(one["1.weight"], again.information()["1.weight"])


def test_what_cannot_be_traced_says_so() -> None:
    notes: list[str] = []
    DiagonalFisher(Branching(), (3, 2, 2), "true", note=notes.append)
    assert "torch.func" in notes[0]


class SecondName(nn.Module):
    """Two linear layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 4)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.b(torch.tanh(self.a(x.flatten(1))))))


def test_a_weight_with_two_names_has_one_information() -> None:
    torch.manual_seed(0)
    model, (images, labels, ids) = SecondName().eval(), batch()
    notes: list[str] = []
    found = DiagonalFisher(model, (3, 2, 2), "empirical", note=notes.append)
    found.add(images, labels, ids)
    exact = loop(model, images, labels)
    assert notes == []
    for key, value in found.information().items():
        torch.testing.assert_close(value, exact[key], rtol=1e-3, atol=1e-6 * float(exact[key].max()))
