"""Curvature along random directions, against Hessians."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.samples.per_sample import curvature
from modeconn_cli.engine.samples.per_sample.curvature import Curvature, check_products, directions, measure
from modeconn_cli.engine.samples.per_sample.execution import Execution


def softmax_linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).double().eval()


def batch(count: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(count, 3, 2, 2).double(), torch.arange(count) % 4, torch.arange(count) + 100


def hessian(model: nn.Module, image: Tensor, label: Tensor, temperature: float) -> Tensor:
    """[12, 12]."""

    def loss(x: Tensor) -> Tensor:
        return F.cross_entropy(model(x.view(1, 3, 2, 2)) / temperature, label[None])

    found: Tensor = torch.autograd.functional.hessian(loss, image.flatten())  # type: ignore[no-untyped-call]
    return found


@pytest.mark.parametrize(("method", "tolerance"), [("fd", 1e-3), ("hvp", 1e-10)])
def test_h5_a_softmax_linear_model_gives_its_analytic_curvature(method: str, tolerance: float) -> None:
    model, (images, labels, ids) = softmax_linear(), batch()
    h, draws, temperature = 1e-4, 5, 1.5
    found = measure(
        model, images, labels, ids, h=h, draws=draws, temperature=temperature, seed=3,
        method="fd" if method == "fd" else "hvp",
    )  # fmt: skip
    s = torch.stack([directions(3, ids, k, images.shape).double().flatten(1) for k in range(draws)])
    for i in range(len(ids)):
        matrix = hessian(model, images[i], labels[i], temperature)
        products = s[:, i] @ matrix
        traces = (products * s[:, i]).sum(1)
        expected = {
            "curvature": h * products.norm(dim=1).mean(),
            "directional_eig": h**2 * traces.mean(),
            "hvp_norm": products.norm(dim=1).mean(),
            "trace": traces.mean(),
            "trace_stderr": traces.std() / draws**0.5,
        }
        for name, value in expected.items():
            assert float(getattr(found, name)[i]) == pytest.approx(float(value), rel=tolerance), name
    assert not found.rounded.any()


def test_h5_the_mean_over_directions_is_the_trace() -> None:
    model, (images, labels, ids) = softmax_linear(), batch(3)
    found = measure(model, images, labels, ids, h=1e-3, draws=400, temperature=1.0, seed=0, method="hvp")
    for i in range(3):
        trace = float(hessian(model, images[i], labels[i], 1.0).trace())
        assert abs(float(found.trace[i]) - trace) < 4 * float(found.trace_stderr[i])


def values(found: Curvature) -> Tensor:
    return torch.stack(
        [found.curvature, found.directional_eig, found.hvp_norm, found.trace, found.trace_stderr]
    )


def in_float32() -> tuple[Execution, tuple[Tensor, Tensor, Tensor]]:
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 6, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(54, 23),
        nn.ReLU(),
        nn.Linear(23, 10),
    )
    batch = torch.rand(40, 3, 8, 8), torch.arange(40) % 10, torch.arange(40)
    return Execution(nn.Sequential(*layers), (3, 8, 8)), batch


HOW: dict[str, Any] = {"h": 1e-3, "draws": 2, "temperature": 1.0, "seed": 5}


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    order=st.permutations(range(40)), cuts=st.lists(st.integers(1, 39), max_size=6, unique=True).map(sorted)
)
def test_h2_any_batches_in_any_order_change_last_digits_alone(order: list[int], cuts: list[int]) -> None:
    """In float32 a difference of gradients a thousandth apart shows the rounding of the kernels."""
    model, (images, labels, ids) = in_float32()
    whole = measure(model, images, labels, ids, **HOW).curvature
    batches = [order[a:b] for a, b in itertools.pairwise([0, *cuts, 40])]
    parts = [measure(model, images[rows], labels[rows], ids[rows], **HOW).curvature for rows in batches]
    off = (torch.cat(parts) / whole[order] - 1).abs()
    assert float(off.median()) < 1e-3
    assert float(off.max()) < 1e-2


def test_the_same_batches_give_the_same_bytes() -> None:
    model, batch = in_float32()
    parts = [[values[a : a + 16] for values in batch] for a in (0, 16, 32)]
    first = [values(measure(model, *part, **HOW)) for part in parts]
    for part, found in reversed(list(zip(parts, first, strict=True))):
        assert torch.equal(values(measure(model, *part, **HOW)), found)


def test_h2_directions_belong_to_the_sample() -> None:
    """Any batch, any order: the same values."""
    model, (images, labels, ids) = softmax_linear(), batch(7)
    how = {"h": 1e-3, "draws": 3, "temperature": 1.0, "seed": 5}
    whole = values(measure(model, images, labels, ids, **how))  # type: ignore[arg-type]
    order = torch.tensor([4, 0, 6, 2, 5, 1, 3])
    for rows in (order[:3], order[3:]):
        part = values(measure(model, images[rows], labels[rows], ids[rows], **how))  # type: ignore[arg-type]
        torch.testing.assert_close(part, whole[:, rows], rtol=1e-9, atol=1e-12)
    assert not torch.equal(directions(0, ids, 0, images.shape), directions(0, ids, 1, images.shape))
    assert set(directions(0, ids, 0, images.shape).unique().tolist()) == {-1.0, 1.0}


def test_a_step_too_small_for_float32_is_said() -> None:
    model, (images, labels, ids) = softmax_linear().float(), batch()
    found = measure(model, images.float(), labels, ids, h=1e-9, draws=2, temperature=1.0, seed=0)
    assert found.rounded.all()


def test_one_gradient_more_than_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (images, labels, ids) = softmax_linear(), batch()
    calls: list[int] = []
    plain = curvature._gradient
    monkeypatch.setattr(curvature, "_gradient", lambda *a, **k: (calls.append(1), plain(*a, **k))[1])
    measure(model, images, labels, ids, h=1e-3, draws=10, temperature=1.0, seed=0)
    assert len(calls) == 11
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_network_that_ignores_its_input_has_no_curvature() -> None:
    images, labels, ids = batch(3)

    def constant(images: Tensor) -> Tensor:
        return torch.ones(len(images), 4, dtype=images.dtype)

    for method in ("fd", "hvp"):
        found = measure(
            constant, images, labels, ids, h=1e-3, draws=2, temperature=1.0, seed=0, method=method
        )
        assert found.curvature.tolist() == [0.0] * 3


def test_exact_products_of_attention() -> None:
    """Fused attention has no second derivative; its plain form has."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True).double().eval()
    head = nn.Linear(4, 4).double()

    def model(images: Tensor) -> Tensor:
        return head(layer(images.flatten(1).view(len(images), 3, 4)).mean(1))

    images, labels, ids = batch(2)
    how = {"h": 1e-5, "draws": 3, "temperature": 1.0, "seed": 0}
    exact, near = (measure(model, images, labels, ids, **how, method=m) for m in ("hvp", "fd"))  # type: ignore[arg-type]
    torch.testing.assert_close(exact.hvp_norm, near.hvp_norm, rtol=1e-3, atol=1e-8)


def fitted(margin: float) -> tuple[nn.Module, tuple[Tensor, Tensor, Tensor]]:
    """A network trained until it is sure of its samples, whose logits are then spread: losses from 1e-3 to 1e-30."""
    torch.manual_seed(3)
    images, labels = torch.randn(60, 3, 2, 2), torch.arange(60) % 4
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 40), nn.Tanh(), nn.Linear(40, 4))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        for parameter in model[3].parameters():
            parameter *= margin
    return model.eval(), (images, labels, torch.arange(60))


def exact_norms(model: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, draws: int) -> Tensor:
    """‖Hs‖ of each direction in float64, [draws, N], from the Hessian written out: no cross-entropy is taken."""
    model, images = copy.deepcopy(model).double(), images.double()
    found = torch.zeros(draws, len(ids), dtype=torch.float64)
    for i in range(len(ids)):

        def odds(x: Tensor, i: int = i) -> Tensor:
            z = model(x.view(1, 3, 2, 2))[0]
            return torch.cat([z[: labels[i]], z[labels[i] + 1 :]]) - z[labels[i]]

        x = images[i].flatten()
        rises = torch.autograd.functional.jacobian(odds, x)  # type: ignore[no-untyped-call]
        bends = torch.stack([
            torch.autograd.functional.hessian(lambda x, k=k, odds=odds: odds(x)[k], x)  # type: ignore[no-untyped-call]
            for k in range(3)
        ])  # fmt: skip
        weights = odds(x).detach().exp()  # of ℓ = log(1 + Σ exp m): p_j = w_j / (1 + Σ w)
        p = weights / (1 + weights.sum())
        matrix = torch.einsum("k,kab->ab", p, bends) + rises.T @ (torch.diag(p) - p[:, None] * p) @ rises
        for k in range(draws):
            s = directions(0, ids[i : i + 1], k, images[i : i + 1].shape).double().flatten()
            found[k, i] = (matrix @ s).norm()
    return found


@pytest.mark.parametrize(("method", "tolerance"), [("fd", 0.1), ("hvp", 1e-4)])
@pytest.mark.parametrize("margin", [1.0, 2.0, 8.0])
def test_samples_that_a_trained_network_is_sure_of_have_their_curvature(
    margin: float, method: str, tolerance: float
) -> None:
    model, (images, labels, ids) = fitted(margin)
    exact = exact_norms(model, images, labels, ids, 4)
    found = measure(
        model, images, labels, ids, h=1e-3, draws=4, temperature=1.0, seed=0, method=method,  # type: ignore[arg-type]
    )  # fmt: skip
    off = (found.hvp_norm / exact.mean(0) - 1).abs()
    assert float(off.max()) < tolerance
    torch.testing.assert_close(found.trace_of_square, exact.square().mean(0), rtol=2.5 * tolerance, atol=0)
    assert not found.rounded.any()


def test_differences_that_are_rounding_of_the_logits_are_counted() -> None:
    """With a small step the logits hardly move: what float32 then makes of their difference is said to be rounding."""
    model, (images, labels, ids) = fitted(8.0)
    exact = exact_norms(model, images, labels, ids, 1)[0]
    for h in (1e-6, 3e-6, 1e-5, 1e-3):
        found = measure(model, images, labels, ids, h=h, draws=1, temperature=1.0, seed=0)
        wrong = (found.hvp_norm / exact - 1).abs() > 0.5
        assert bool(found.rounded[wrong].all()), h
    assert not found.rounded.any()


def test_a_network_without_second_derivatives_has_no_exact_products() -> None:
    images, labels, ids = batch(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Hardsigmoid(), nn.Linear(8, 4)).double()
    how = {"h": 1e-3, "draws": 2, "temperature": 1.0, "seed": 0}
    with pytest.raises(SettingsError, match="hardsigmoid_backward has none"):
        measure(model, images, labels, ids, **how, method="hvp")  # type: ignore[arg-type]
    assert measure(model, images, labels, ids, **how).curvature.isfinite().all()  # type: ignore[arg-type]


class _Detached(torch.autograd.Function):
    """tanh with a backward that is right and has no derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.tanh()
        ctx.kept = y.detach()
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.detach() * (1 - ctx.kept**2)


class _Attached(_Detached):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * (1 - ctx.saved_tensors[0].tanh() ** 2)


class _Ends(nn.Module):
    """Two layers of ReLU and, before the head, a function with a backward of its own."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 8))
        self.head, self.function = nn.Linear(8, 4), function

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.function(self.body(x)))
        return out


def _conditional(x: Tensor) -> Tensor:
    found: Tensor = torch.cond(x.sum() > 1e9, lambda y: y.relu(), lambda y: y.tanh(), (x,))
    return found


@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize(
    ("function", "cut"),
    [(_Detached.apply, True), (_conditional, True), (_Attached.apply, False), (torch.tanh, False)],
)
def test_a_backward_that_is_cut_off_has_no_exact_products(function: Any, cut: bool) -> None:
    images, labels, _ = batch(20)
    model = _Ends(function)
    if not cut:
        check_products(model, images.float(), labels)
        return
    with pytest.raises(SettingsError, match="second derivatives") as error:
        check_products(model, images.float(), labels)
    assert error.value.hint == "use --method fd"
