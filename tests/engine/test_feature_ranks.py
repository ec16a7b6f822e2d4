"""Ranks of features against closed forms and numpy's singular values in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modeconn_cli.engine.networks.activations import layers, ranks
from modeconn_cli.engine.networks.activations.observe import observer
from modeconn_cli.engine.networks.activations.sites import Layer

NAMES = ("entropy_rank", "srank", "stable_rank", "approximate_rank")


def layer(units: int, positions: int = 1, name: str = "relu") -> Layer:
    return Layer("post", name, "relu", units, positions, zero=True)


def four(features: np.ndarray, positions: int = 1) -> tuple[float, ...]:
    """The ranks of features [N, d · positions], float64 as they are."""
    a = torch.from_numpy(features).reshape(len(features), -1, positions)
    gram, norms = ranks.gram_and_norms(a)
    found = ranks.ranks(gram.numpy(), float(norms), layer(a.shape[1], positions), len(a))
    return tuple(float(getattr(found, name)) for name in NAMES)


def by_definition(a: np.ndarray) -> tuple[float, ...]:
    """By the singular values of A [N, d] in float64, written down anew."""
    s = np.linalg.svd(a.astype(np.float64), compute_uv=False)
    p = s[s > 1e-12 * s[0]] / s.sum()

    def least(values: np.ndarray) -> float:
        return next(k for k in range(1, len(s) + 1) if values[:k].sum() >= 0.99 * values.sum() * (1 - 1e-9))

    return float(np.exp(-(p * np.log(p)).sum())), least(s), float((s**2).sum() / s[0] ** 2), least(s**2)


def test_a_spectrum_of_halves() -> None:
    sigma = 2.0 ** -np.arange(8)
    assert ranks.of_spectrum(sigma) == pytest.approx((3.8987, 7, 1.3333, 4), abs=5e-5)
    rotated = np.linalg.qr(np.random.default_rng(0).standard_normal((50, 8)))[0] * sigma
    assert four(rotated) == pytest.approx((3.8987, 7, 1.3333, 4), abs=5e-5)


@pytest.mark.parametrize("units", [64, 100, 130])
def test_orthonormal_features_have_all_ranks(units: int) -> None:
    """At 100 the sums reach their thresholds at 99 exactly, however they are rounded."""
    a = np.linalg.qr(np.random.default_rng(1).standard_normal((300, units)))[0]
    least = int(np.ceil(0.99 * units - 1e-6))
    assert four(a) == pytest.approx((units, least, units, least), rel=1e-9)
    if units == 64:
        assert least == 64


def test_a_scale_changes_no_rank_and_one_direction_has_rank_one() -> None:
    a = np.random.default_rng(2).standard_normal((200, 7))
    assert four(1e-150 * a) == pytest.approx(four(a), rel=1e-9)
    assert four(np.outer(np.arange(1.0, 9.0), np.ones(70))) == pytest.approx((1, 1, 1, 1), abs=1e-6)
    assert four(np.zeros((5, 3))) == (0, 0, 0, 0)


def test_what_is_not_finite_has_no_ranks() -> None:
    gram, norms = ranks.gram_and_norms(torch.tensor([[1.0, torch.nan]])[..., None])
    assert ranks.ranks(gram.numpy(), float(norms), layer(2), 1) == ranks.Ranks()
    assert ranks.ranks(np.zeros(4), 0.0, layer(2), 0) == ranks.Ranks()


@pytest.mark.parametrize(("units", "positions"), [(5, 1), (200, 1), (16, 40), (30, 3), (150, 4)])
def test_strips_make_the_whole_product(units: int, positions: int) -> None:
    x = torch.randn(70, units, positions, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gram, norms = ranks.gram_and_norms(x)
    rows = x.transpose(1, 2).reshape(-1, units)
    assert len(gram) == ranks.entries(units)
    upper = np.triu(ranks.whole(gram.numpy(), units))
    np.testing.assert_allclose(upper, np.triu((rows.T @ rows).numpy()), rtol=1e-10, atol=1e-9)
    assert float(norms) == pytest.approx(float(x.flatten(1).norm(dim=1).sum()))


def test_wide_layers_are_left_out_first() -> None:
    found = [layer(8), layer(ranks.WIDEST + 1, name="wide"), layer(100, name="middle")]
    assert ranks.chosen(found, 1 << 40) == ([found[0], found[2]], [found[1]])
    assert ranks.chosen(found, ranks.entries(8)) == ([found[0]], found[1:])


class Tokens(nn.Module):
    """Attention over positions, then units along the last axis: nothing that mcx registers."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.mix, self.head = (
            nn.Linear(6, 24),
            nn.MultiheadAttention(24, 2, batch_first=True),
            nn.Linear(24, 4),
        )

    def hidden(self, x: Tensor) -> list[Tensor]:
        first = nn.functional.gelu(self.up(x))
        mixed = first + self.mix(first, first, first, need_weights=False)[0]
        return [first, nn.functional.silu(mixed)]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x)[-1].mean(1))


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = (
            nn.Conv2d(1, 12, 3),
            nn.Conv2d(12, 80, 3, stride=2),
            nn.Linear(80, 4),
        )

    def hidden(self, x: Tensor) -> list[Tensor]:
        first = torch.relu(self.first(x))
        second = torch.relu(self.second(first))
        return [each.flatten(2).transpose(1, 2) for each in (first, second)]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x)[-1].mean(1))


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 96), nn.Linear(96, 40), nn.Linear(40, 4)

    def hidden(self, x: Tensor) -> list[Tensor]:
        first = torch.relu(self.first(x.flatten(1)))
        return [first.unsqueeze(1), torch.relu(self.second(first)).unsqueeze(1)]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x)[-1][:, 0])


def trained(model: nn.Module, x: Tensor) -> nn.Module:
    labels = torch.arange(len(x)) % 4
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize(
    ("made", "shape", "entropy"),
    [(Plain, (1, 8, 8), 1e-9), (Convolutions, (1, 8, 8), 3e-4), (Tokens, (5, 6), 3e-4)],
)
def test_a_trained_network_agrees_with_singular_values_in_float64(
    made: Callable[[], nn.Module], shape: tuple[int, ...], entropy: float
) -> None:
    torch.manual_seed(0)
    x = torch.randn(300, *shape)
    model = trained(made(), x)
    observe = observer(model, x[:2], eps=1e-6, ranked=lambda found: ranks.chosen(found, 1 << 40)[0])
    with torch.no_grad():
        parts = [observe(x[:100]), observe(x[100:])]
        hidden = model.hidden(x)
    sums = {
        name: sum(getattr(part, name) for part in parts).numpy()
        for name in ("dormant", "total", "active", "grams", "norms")
    }
    rows = layers.dormancies(observe.layers, sums, len(x), tau=0.1, threshold=0.01)
    rows = layers.with_ranks(rows, observe.layers, observe.ranked, sums, len(x))
    after = [row for row in rows if row.site == "post"]
    assert len(after) == len(hidden) == 2
    for row, h in zip(after, hidden, strict=True):
        expected = by_definition(h.flatten(0, 1).numpy())
        assert row.entropy_rank == pytest.approx(expected[0], rel=entropy)
        assert (row.srank, row.approximate_rank) == (expected[1], expected[3])
        assert row.stable_rank == pytest.approx(expected[2], rel=1e-6)
        assert row.feature_norm == pytest.approx(float(h.double().flatten(1).norm(dim=1).mean()), rel=1e-6)
        assert row.dead == int((h.abs().amax((0, 1)) <= 1e-6).sum())
    assert [row.entropy_rank for row in rows if row.site == "pre"] == [None] * (len(rows) - 2)


def test_weight_norms_are_those_of_the_layer_behind() -> None:
    torch.manual_seed(0)
    model = Plain()
    before = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    trained(model, x := torch.randn(8, 1, 8, 8))
    observe = observer(model, x[:2], eps=1e-6)
    with torch.no_grad():
        seen = vars(observe(x))
    rows = layers.dormancies(
        observe.layers, {k: v.numpy() for k, v in seen.items()}, 8, tau=0.1, threshold=0.01
    )
    now = dict(model.named_parameters())
    found = layers.with_weights(rows, observe.layers, now, before)
    for row, module in zip(found, ("first", "first", "second", "second", "head"), strict=True):
        names = [f"{module}.weight", f"{module}.bias"]
        w = torch.cat([now[name].detach().double().flatten() for name in names])
        w0 = torch.cat([before[name].flatten() for name in names])
        assert row.weight_norm == pytest.approx(float(w.norm()), rel=1e-12)
        assert row.distance_from_init == pytest.approx(float((w - w0).norm()), rel=1e-12)
    assert {row.distance_from_init for row in layers.with_weights(rows, observe.layers, now, None)} == {None}
    assert layers.parse(layers.table(found, ranked=True)) == found
    assert layers.parse(layers.table(found, ranked=False)) == rows
