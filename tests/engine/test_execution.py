"""The fast forward pass against the model itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeconn_cli.engine.samples.per_sample.execution import Execution


class Shared(nn.Module):
    """A convolution read by its batch norm and by a shortcut, one whose statistics are the batch's, and one to fold."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(k, 4, 3, padding=1) for k in (3, 4, 4))
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False)
        self.up = nn.ConvTranspose2d(4, 4, 2)
        self.third = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        y = y + F.relu(self.first(y))
        y = F.relu(self.second(self.two(y)))
        y = F.relu(self.third(self.up(self.three(y))))
        return self.head(y.mean((2, 3)))


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5) if "running_var" in name else tensor.normal_(0, 0.5)
    return model


def networks() -> dict[str, nn.Module]:
    return {
        "folded": nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3, groups=2),
            nn.BatchNorm2d(6, eps=0.1), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5),
        ),
        "shared": Shared(),
        "plain": nn.Sequential(nn.Flatten(), nn.Linear(192, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, 5)),
    }  # fmt: skip


@pytest.mark.parametrize(("name", "folded"), [("folded", 2), ("shared", 1), ("plain", 0)])
def test_logits_and_input_gradients_are_the_models(name: str, folded: int) -> None:
    model = randomised(networks()[name]).double().eval()
    execution = Execution(model, (3, 8, 8))
    assert f"{folded} batch norms" in execution.layout
    for _ in range(2):
        images = torch.randn(4, 3, 8, 8, dtype=torch.float64, requires_grad=True)
        found, expected = execution(images), model(images)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        (a,) = torch.autograd.grad(found.square().sum(), images)
        (b,) = torch.autograd.grad(expected.square().sum(), images)
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.mul_(2)
        execution.refresh()


def test_no_parameter_takes_a_gradient() -> None:
    model = randomised(networks()["folded"]).eval()
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    Execution(model, (3, 8, 8))(images).sum().backward()
    assert images.grad is not None
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_what_cannot_be_traced_runs_as_it_is() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) if float(x.sum()) > 0 else -self.inner(x)

    notes: list[str] = []
    model = Branching().eval()
    execution = Execution(model, (3,), notes.append)
    assert "runs as it is" in notes[0]
    assert execution.layout == "contiguous"
    x = torch.randn(4, 3)
    assert torch.equal(execution(x), model(x))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_views_survive_another_memory_format() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(36, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = F.avg_pool2d(self.conv(x), 2)
            return self.head(x.contiguous().view(x.size(0), -1))

    notes: list[str] = []
    model, images = Head().eval(), torch.randn(3, 3, 8, 8)
    execution = Execution(model, (3, 8, 8), notes.append)
    torch.testing.assert_close(execution(images), model(images))
    assert notes == []


def test_a_program_that_fails_makes_way_for_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    model, images = randomised(networks()["folded"]).eval(), torch.randn(3, 3, 8, 8)
    execution = Execution(model, (3, 8, 8), notes.append)
    monkeypatch.setattr(execution._folded, "logits", lambda images: model(images) + 1)
    assert torch.equal(execution(images), model(images))
    assert "other logits" in notes[0]


class Backwards(torch.autograd.Function):
    """Hands its input on, and -½ of the gradient back."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return -0.5 * gradients[0]


class Step(torch.autograd.Function):
    """A sign whose gradient goes straight through."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0]


class Bound(torch.autograd.Function):
    """An upper bound whose gradient comes through: it is another one than clamp's for few samples only."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clamp(max=3.0)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0]


@pytest.mark.parametrize("function", [Backwards, Step, Bound])
@pytest.mark.parametrize("beside", [True, False])
def test_a_backward_of_the_users_own_is_kept(function: type[torch.autograd.Function], beside: bool) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.f = nn.Linear(192, 9), nn.Linear(9, 5)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.a(x.flatten(1)))
            other = function.apply(h)  # type: ignore[no-untyped-call]
            return self.f(h + other.sin() if beside else other)

    model, said = randomised(Own()).eval(), []
    execution = Execution(model, (3, 8, 8), said.append)
    images = torch.randn(4, 3, 8, 8, requires_grad=True)
    gradients = [torch.autograd.grad(run(images).sum(), images)[0] for run in (execution, model)]
    torch.testing.assert_close(*gradients)
    assert "has a backward of its own" in said[0]
    assert execution.layout == "contiguous"
