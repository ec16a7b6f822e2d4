"""Per-sample gradient norms from one backward pass, against a loop of one in float64."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks.independent import check_independent
from modeconn_cli.engine.samples.per_sample import PerSample, convolution, fallback, rules
from modeconn_cli.engine.samples.per_sample.convolution import Geometry

CLASSES = 5
ONE_PASS = "one backward pass"


class Small(nn.Module):
    """Layers in a row; the output is averaged over positions and read by a linear layer."""

    def __init__(self, features: int, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(features, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(x)
        logits: Tensor = self.head(x.flatten(2).mean(2) if x.ndim > 2 else x)
        return logits


class Shared(nn.Module):
    """One convolution called three times, with an in-place ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(3):
            x = self.relu(self.again(x))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Tokens(nn.Module):
    """Class token, positions, attention in both layouts, layer norms, layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.place = nn.Parameter(torch.randn(1, 17, 8))
        self.rows = nn.MultiheadAttention(8, 2, batch_first=True)
        self.columns = nn.MultiheadAttention(8, 2)
        self.norms = nn.ModuleList([nn.LayerNorm(8), nn.LayerNorm(8, eps=1e-3)])
        self.scale = nn.Parameter(torch.rand(8) + 0.5)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(2).transpose(1, 2))
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        x = x + self.rows(*[self.norms[0](x)] * 3, need_weights=False)[0] * self.scale
        y = self.norms[1](x).transpose(0, 1)
        x = x + self.columns(y, y, y)[0].transpose(0, 1)
        logits: Tensor = self.head(x[:, 0])
        return logits


class Scaled(nn.Module):
    """A parameter without axes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.exp() / self.scale


class Detached(nn.Module):
    """The weight takes no gradient here, the bias does; and nothing before it does."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.layer = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().mean((2, 3))
        return F.linear(x, self.layer.weight.detach(), self.layer.bias)


class Written(nn.Module):
    """Writes into a part of the first layer's output."""

    def forward(self, x: Tensor) -> Tensor:
        x[:, :3] *= 2
        return x


class Reordered(nn.Module):
    """Samples change places and go back; the norms must not go to the neighbours."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.head, self.how = nn.Linear(48, CLASSES), how

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        if self.how == "flip":
            return self.head(x.flip(0)).flip(0)  # type: ignore[no-any-return]
        order = x[:, 0].argsort()
        return self.head(x[order])[order.argsort()]  # type: ignore[no-any-return]


class Cross(nn.Module):
    """Attention of a learnt query over the data: the projection is cut in three."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 2, 8))
        self.embed, self.attend = nn.Linear(3, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(2).transpose(1, 2))
        out: Tensor = self.attend(self.query.expand(x.shape[0], -1, -1), x, x, need_weights=False)[0]
        logits: Tensor = self.head(out.mean(1))
        return logits


class Windows(nn.Module):
    """Windows on the samples' axis, with a bias that is looked up in a table and scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)
        self.table = nn.Parameter(torch.randn(7, 1))
        self.register_buffer("index", torch.arange(4)[:, None] - torch.arange(4)[None] + 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(2).transpose(1, 2))
        windows = x.view(x.shape[0], 4, 4, 8).flatten(0, 1)
        bias = torch.sigmoid(self.table[self.index.flatten()].view(4, 4)).unsqueeze(0)
        mixed = torch.softmax(windows @ windows.transpose(1, 2) + bias, 2) @ self.mix(windows)
        logits: Tensor = self.head(mixed.view(x.shape[0], 16, 8).mean(1))
        return logits


class Normed(nn.Module):
    """A layer whose weight is computed from parameters, and one that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.utils.parametrizations.weight_norm(nn.Linear(48, 6))
        self.head, self.unused = nn.Linear(6, CLASSES), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.body(x.flatten(1))))
        return logits


class Odd(nn.Module):
    """Operations without a rule: transposed convolution, PReLU, a matrix, RMS norm, differences and quotients."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.act = nn.ConvTranspose2d(3, 4, 2, stride=2), nn.PReLU(4)
        self.matrix, self.shift, self.scale = (
            nn.Parameter(torch.randn(size)) for size in ((4, 6), (6,), (6,))
        )
        self.norm, self.head, self.unused = nn.RMSNorm(6, eps=1e-6), nn.Linear(6, CLASSES), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.act(self.up(x)).mean((2, 3)) @ self.matrix)
        logits: Tensor = self.head(torch.relu(self.shift - x) / self.scale)
        return logits


class Looked(nn.Module):
    """Rows of a table, by the values of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(9, 6, padding_idx=4), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.table((x.flatten(1) * 2).round().clamp(-4, 4).long() + 4).mean(1))
        return logits


class Undifferentiated(nn.Module):
    """A part through which no gradient goes, and which traces to a graph inside the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(48, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        with torch.no_grad():
            scale = x.abs().mean(1, keepdim=True)
        logits: Tensor = self.head(x / scale)
        return logits


def conv(features: int = 6, **how: Any) -> Callable[[], nn.Module]:
    return lambda: Small(features, nn.Conv2d(3, features, 3, **how), nn.ReLU(inplace=True))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: Small(7, nn.Flatten(), nn.Linear(48, 7), nn.ReLU()),
    "conv": conv(padding=1),
    "strided": conv(stride=2, padding=1, bias=False),
    "dilated": conv(dilation=(1, 2), padding=(0, 1)),
    "grouped": conv(groups=3, padding=1),
    "large": lambda: Small(3, nn.Conv2d(3, 3, 5, padding=4, stride=3)),
    "batch norm": lambda: Small(
        6,
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 6, 1),
    ),
    "detached": lambda: Small(6, nn.Conv2d(3, 6, 1), Detached(6)),
    "undifferentiated": Undifferentiated,
    "written": lambda: Small(6, nn.Conv2d(3, 6, 1), Written()),
    "later written": lambda: Small(6, nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 1), Written()),
    "shared": Shared,
    "tokens": Tokens,
    "cross": Cross,
    "windows": Windows,
    "normed": Normed,
}
# What no registered network and none of torchvision's classifiers needs.
WITHOUT_A_RULE: dict[str, Callable[[], nn.Module]] = {
    "group_norm": lambda: Small(6, nn.Conv2d(3, 6, 1), nn.GroupNorm(2, 6), nn.GELU()),
    "conv1d": lambda: Small(4, nn.Flatten(2), nn.Conv1d(3, 4, 5, padding=2, stride=2), nn.BatchNorm1d(4)),
    "conv3d": lambda: Small(2, nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 2, (2, 3, 3), padding=(0, 1, 1))),
    "conv2d": conv(groups=3, padding="same"),
    "div": lambda: Small(6, nn.Conv2d(3, 6, 1), Scaled()),
    "embedding": Looked,
    "conv_transpose2d": Odd,
}


def batch(count: int = 6, shape: tuple[int, ...] = (3, 4, 4)) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(count, *shape), torch.arange(count) % CLASSES


def made(build: Callable[[], nn.Module], images: Tensor) -> nn.Module:
    """A network with statistics of its own."""
    torch.manual_seed(0)
    model = build().train()
    with torch.no_grad():
        for _ in range(3):
            model(images + 0.1)
    return model.eval()


def loop_of_one(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, squared norms and ⟨θ, ∇ℓ⟩ in float64, one sample at a time."""
    exact = copy.deepcopy(model).double()
    parameters = [p for p in exact.parameters() if p.requires_grad]
    rows = []
    for image, label in zip(images.double(), labels, strict=True):
        loss = F.cross_entropy(exact(image[None]), label[None])
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        pairs = [(g, p) for g, p in zip(found, parameters, strict=True) if g is not None]
        squares = sum(float((g**2).sum()) for g, _ in pairs)
        rows.append((float(loss.detach()), squares, sum(float((g * p.detach()).sum()) for g, p in pairs)))
    return tuple(torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))  # type: ignore[return-value]


def same(found: Tensor | None, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("name", NETWORKS)
def test_norms_are_those_of_a_loop_of_one(name: str) -> None:
    images, labels = batch()
    model = made(NETWORKS[name], images)
    notes: list[str] = []
    engine = PerSample(model, tuple(images.shape[1:]), "param", inner=True, note=notes.append)
    found, (losses, squares, inner) = engine.score(images, labels), loop_of_one(model, images, labels)
    assert (engine.method, notes) == (ONE_PASS, [])
    same(found.losses, losses)
    same(found.squares, squares)
    same(found.inner, inner)
    same(found.logits, model(images).detach())


@pytest.mark.parametrize("largest", [0, 10**6], ids=["loop", "torch.func"])
@pytest.mark.parametrize("name", WITHOUT_A_RULE)
def test_what_has_no_rule_is_left_to_the_fallback_and_said(
    name: str, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fallback.LARGEST, "cpu", largest)
    images, labels = batch()
    model = made(WITHOUT_A_RULE[name], images)
    notes: list[str] = []
    engine = PerSample(model, (3, 4, 4), "param", inner=True, note=notes.append)
    found, (losses, squares, inner) = engine.score(images, labels), loop_of_one(model, images, labels)
    assert engine.method == ("torch.func in chunks" if largest else "one sample at a time")
    assert [note.split(": ")[-1] for note in notes] == [f"{name} has no rule"]
    assert notes[0].split(",")[0].endswith(engine.method)
    same(found.losses, losses)
    same(found.squares, squares)
    same(found.inner, inner)
    same(found.logits, model(images).detach())


def test_both_ways_of_the_fallback_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = batch()
    model, found = made(Odd, images), []
    for largest in (0, 10**6):
        monkeypatch.setitem(fallback.LARGEST, "cpu", largest)
        squares = PerSample(model, (3, 4, 4), "param").score(images, labels).squares
        assert squares is not None
        found.append(squares.sqrt())
    torch.testing.assert_close(*found, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("name", ["batch norm", "tokens", "shared"])
def test_g11_a_batch_of_any_size_gives_the_same_values(name: str) -> None:
    images, labels = batch(7)
    model = made(NETWORKS[name], images)
    engine = PerSample(model, (3, 4, 4), "param")
    whole = engine.score(images, labels).squares
    parts = [engine.score(images[k : k + 3], labels[k : k + 3]).squares for k in (0, 3, 6)]
    assert whole is not None
    same(torch.cat([part for part in parts if part is not None]), whole)


def test_new_weights_need_no_new_trace() -> None:
    images, labels = batch()
    model = made(Windows, images)
    engine = PerSample(model, (3, 4, 4), "param")
    engine.score(images, labels)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    engine.refresh()
    same(engine.score(images, labels).squares, loop_of_one(model, images, labels)[1])


def test_h3_parameters_that_are_not_trained_are_left_out() -> None:
    images, labels = batch()
    model = made(NETWORKS["batch norm"], images)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("0.weight" not in name and "head.bias" not in name)
    engine = PerSample(model, (3, 4, 4), "param", inner=True)
    found, expected = engine.score(images, labels), loop_of_one(model, images, labels)
    same(found.squares, expected[1])
    same(found.inner, expected[2])


def test_the_gradient_by_the_input() -> None:
    images, labels = batch()
    model = made(NETWORKS["conv"], images)
    found = PerSample(model, (3, 4, 4), "input").score(images, labels)
    exact = images.double().requires_grad_()
    loss = F.cross_entropy(copy.deepcopy(model).double()(exact), labels, reduction="sum")
    same(found.squares, torch.autograd.grad(loss, exact)[0].flatten(1).square().sum(1))
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_losses_over_some_classes() -> None:
    images, labels = batch(4)
    labels = torch.tensor([1, 3, 3, 1])
    model = made(NETWORKS["conv"], images)
    found = PerSample(model, (3, 4, 4), "none").score(images, labels, torch.tensor([1, 3]))
    expected = F.cross_entropy(model(images)[:, [1, 3]].double(), (labels == 3).long(), reduction="none")
    same(found.losses, expected.detach())


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(16, 6, batch_first=True), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.cell(x.flatten(2))[0][:, -1])
        return logits


def test_what_the_graph_cannot_do_is_done_sample_by_sample_and_said() -> None:
    images, labels = batch()
    model = made(Recurrent, images)
    notes: list[str] = []
    engine = PerSample(model, (3, 4, 4), "param", inner=True, note=notes.append)
    found, expected = engine.score(images, labels), loop_of_one(model, images, labels)
    assert "lstm" in notes[0]
    assert engine.method != ONE_PASS
    same(found.squares, expected[1])
    same(found.inner, expected[2])


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's own word on such layers
def test_a_convolution_that_pads_unevenly_is_done_sample_by_sample() -> None:
    images, labels = batch()
    model = made(lambda: Small(6, nn.Conv2d(3, 6, 2, padding="same")), images)
    found = PerSample(model, (3, 4, 4), "param").score(images, labels)
    same(found.squares, loop_of_one(model, images, labels)[1])


@pytest.mark.parametrize("name", ["batch norm", "tokens"])
def test_a_pass_leaves_nothing_behind(name: str) -> None:
    """A hook that holds its own graph would keep every activation alive."""
    images, labels = batch()
    model = made(NETWORKS[name], images)
    engine = PerSample(model, (3, 4, 4), "param", inner=True)
    gc.collect()
    gc.disable()
    try:
        counts = []
        for _ in range(3):
            engine.score(images, labels)
            counts.append(sum(issubclass(type(found), Tensor) for found in gc.get_objects()))
    finally:
        gc.enable()
    assert counts[1] == counts[2]
    assert all(p.grad is None for p in model.parameters())


@given(
    side=st.integers(3, 9), kernel=st.integers(1, 3), stride=st.integers(1, 3), padding=st.integers(0, 3),
    dilation=st.integers(1, 2), groups=st.sampled_from([1, 2]), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_all_ways_to_a_convolutions_norm_agree(
    side: int, kernel: int, stride: int, padding: int, dilation: int, groups: int, seed: int
) -> None:
    if side + 2 * padding < dilation * (kernel - 1) + 1:
        return
    torch.manual_seed(seed)
    x, weight = (
        torch.randn(3, 4, side, side + 1).double(),
        torch.randn(6, 4 // groups, kernel, kernel).double(),
    )
    how = Geometry((stride, stride), (padding, padding), (dilation, dilation), groups)
    out = F.conv2d(x, weight, None, stride, padding, dilation, groups)
    g = torch.randn_like(out)
    expected = convolution.weight_gradients(x, g, weight, how).flatten(1).square().sum(1)
    same(convolution._shift_norms(x, g, weight, how), expected, 1e-10)
    same(convolution.weight_norms(x, g, weight, how), expected, 1e-10)
    if groups == 1:
        same(convolution._patch_norms(x, g, weight, how), expected, 1e-10)


class Coupled(nn.Module):
    def __init__(self, noise: float) -> None:
        super().__init__()
        self.head, self.noise = nn.Linear(48, CLASSES), noise

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        if self.noise:
            return self.head(x) + self.noise * torch.randn(len(x), CLASSES)  # type: ignore[no-any-return]
        return self.head(x - x.mean(0))  # type: ignore[no-any-return]


def test_networks_that_mix_samples_or_draw_are_refused() -> None:
    images, _ = batch()
    check_independent(made(Tokens, images), images)
    with pytest.raises(InputError, match="depend on the rest of its batch"):
        check_independent(Coupled(0), images)
    with pytest.raises(InputError, match="other logits for the same batch"):
        check_independent(Coupled(0.1), images)


def test_a_forward_that_fails_is_named() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return x * mask

    with pytest.raises(InputError, match=r"forward fails on images .* 'mask'"):
        check_independent(Two(), batch()[0])


def test_a_rule_that_is_wrong_is_found_before_the_first_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = batch()
    model = made(NETWORKS["mlp"], images)
    right = rules.Linear.by_bias
    monkeypatch.setattr(rules.Linear, "by_bias", lambda self, call: 2 * right(self, call))
    notes: list[str] = []
    engine = PerSample(model, (3, 4, 4), "param", note=notes.append)
    same(engine.score(images, labels).squares, loop_of_one(model, images, labels)[1])
    assert "differ from" in notes[0]


@pytest.mark.parametrize("how", ["flip", "sort"])
def test_samples_that_change_places_are_not_confused(how: str) -> None:
    images, labels = batch()
    model = made(lambda: Reordered(how), images)
    notes: list[str] = []
    found = PerSample(model, (3, 4, 4), "param", note=notes.append).score(images, labels)
    same(found.squares, loop_of_one(model, images, labels)[1])
    assert "moves samples along their own axis" in notes[0]
