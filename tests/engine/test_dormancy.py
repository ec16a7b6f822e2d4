"""Dormant units against the document's own code and against plain hooks, one sample at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks.activations import layers
from modeconn_cli.engine.networks.activations.observe import Activity, observer

EPS = 1e-6


def documented(model: nn.Module, images: Tensor) -> Tensor:
    """The seed's function: share of units of all Conv2d and Linear outputs that never exceed eps, [N]."""
    counts, units = torch.zeros(len(images)), 0

    def hook(_module: nn.Module, _inputs: object, features: Tensor) -> None:
        nonlocal counts, units
        most = features.amax(dim=(2, 3)) if features.ndim == 4 else features
        if features.ndim == 3:
            most = features.amax(dim=1)
        counts = counts + (most <= EPS).sum(dim=1).float()
        units += most.shape[1]

    handles = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        model.eval()(images)
    for handle in handles:
        handle.remove()
    return counts / units


class Block(nn.Module):
    """A residual block with one shared, in-place activation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.bn(self.conv2(self.act(self.conv1(x)))))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), Block(8), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 20),
        nn.Tanh(), nn.Linear(20, 5),
    )  # fmt: skip


class Hidden(nn.Module):
    """Functional activations of every kind of site, recorded by the model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 10), nn.Linear(10, 4)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.conv(x))  # [N, 6, 6, 6]
        last = F.gelu(self.up(first.permute(0, 2, 3, 1)))  # [N, 6, 6, 10]: channels last
        third = last.mean((1, 2)).clamp(min=0)  # [N, 10]
        return self.head(third)

    def hidden(self, x: Tensor) -> list[Tensor]:
        """|h| of every nonlinearity, [N, units, positions]."""
        first = F.relu(self.conv(x))
        last = F.gelu(self.up(first.permute(0, 2, 3, 1)))
        third = last.mean((1, 2)).clamp(min=0)
        return [first.flatten(2), last.flatten(1, 2).transpose(1, 2).abs(), third.unsqueeze(2)]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def images(count: int = 7, size: int = 8) -> Tensor:
    return torch.randn(count, 3, size, size)


def test_the_documented_sites_are_the_seeds_code() -> None:
    model, x = convolutional(), images()
    seen = observer(model, x[:2], eps=EPS)(x)
    np.testing.assert_allclose(seen.pre.numpy(), documented(model, x).numpy(), rtol=1e-6)
    assert 0 < float(seen.pre.mean()) < 1


def test_a_layer_is_dormant_only_where_it_never_exceeds_eps() -> None:
    """One unit at exactly eps, one just above it, one below zero."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 3, bias=True), nn.ReLU(), nn.Linear(3, 3))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([1e-6, 2e-6, -1.0]))
        model[3].weight.zero_()
        model[3].bias.fill_(1.0)
    seen = observer(model, torch.zeros(2, 3), eps=EPS)(torch.randn(4, 3))
    assert seen.pre.tolist() == [2 / 6] * 4
    assert seen.post.tolist() == pytest.approx([2 / 3] * 4)


def test_after_the_nonlinearity_sums_and_counts_are_those_of_plain_tensors() -> None:
    model, x = Hidden(), images(5)
    observe = observer(model, x[:2], eps=EPS)
    seen, hidden = observe(x), model.hidden(x)
    kinds = [(layer.kind, layer.units, layer.positions) for layer in observe.layers]
    assert kinds == [
        ("pre", 6, 36),
        ("post", 6, 36),
        ("pre", 10, 36),
        ("post", 10, 36),
        ("post", 10, 1),
        ("pre", 4, 1),
    ]
    dormant = torch.cat([(h.amax(2) <= EPS) for h in hidden], 1)
    np.testing.assert_allclose(seen.post.numpy(), dormant.double().mean(1).numpy())
    np.testing.assert_allclose(
        seen.total.numpy(), torch.cat([h.double().sum((0, 2)) for h in hidden]).detach(), rtol=1e-5
    )
    np.testing.assert_array_equal(seen.active.numpy(), torch.cat([(h > EPS).sum((0, 2)) for h in hidden]))


def test_tables_follow_the_literatures_definitions() -> None:
    model, x = Hidden(), images(50)
    observe = observer(model, x[:2], eps=EPS)
    parts, hidden = [observe(x[:20]), observe(x[20:])], model.hidden(x)
    sums = {
        name: sum(getattr(part, name) for part in parts).numpy() for name in ("dormant", "total", "active")
    }
    rows = layers.dormancies(observe.layers, sums, len(x), tau=0.6, threshold=0.3)
    after = [row for row in rows if row.site == "post"]
    for row, h in zip(after, hidden, strict=True):
        means = h.double().mean((0, 2))
        assert row.tau_dormant == pytest.approx(float((means / means.mean() <= 0.6).double().mean()))
        assert row.proportion == pytest.approx(float((h.amax(2) <= EPS).double().mean()))
        assert row.never == pytest.approx(float((h.amax(2) <= EPS).all(0).double().mean()))
    frequencies = [float(((h > EPS).double().mean((0, 2)) < 0.3).double().mean()) for h in hidden]
    assert [row.frequency_dormant for row in after] == [
        pytest.approx(frequencies[0]),
        None,
        pytest.approx(frequencies[2]),
    ]
    assert layers.parse(layers.table(rows, ranked=True)) == rows
    shares = [(row.tau_dormant, row.units) for row in after]
    assert layers.share(rows, "tau_dormant") == pytest.approx(
        sum(a * n for a, n in shares) / sum(n for _, n in shares)
    )


def test_a_layer_that_is_silent_throughout_is_tau_dormant_throughout() -> None:
    found = layers.dormancies(
        observer(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)), torch.zeros(2, 2), eps=EPS).layers,
        {"dormant": np.array([4.0] * 8), "total": np.zeros(3), "active": np.zeros(3)},
        4, tau=0.0, threshold=0.01,
    )  # fmt: skip
    assert [row.tau_dormant for row in found if row.site == "post"] == [1.0]


@settings(max_examples=15, deadline=None)
@given(cut=st.integers(1, 10), order=st.permutations(range(11)))
def test_h2_any_batch_and_any_order_give_the_same_values(cut: int, order: list[int]) -> None:
    torch.manual_seed(0)
    model, x = convolutional(), images(11)
    observe = observer(model, x[:2], eps=EPS)
    whole, shuffled = observe(x), x[order]
    parts = [observe(shuffled[:cut]), observe(shuffled[cut:])]
    for name in ("pre", "post"):
        joined = torch.cat([getattr(part, name) for part in parts])
        np.testing.assert_allclose(joined.numpy(), getattr(whole, name)[order].numpy(), atol=1e-12)
    for name in ("dormant", "active", "total"):
        np.testing.assert_allclose(
            sum(getattr(p, name) for p in parts).numpy(), getattr(whole, name).numpy(), rtol=1e-5
        )


def test_new_weights_are_seen() -> None:
    model, x = convolutional(), images()
    observe = observer(model, x[:2], eps=EPS)
    before = observe(x).pre
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.neg_()
    after = observe(x).pre
    assert not torch.equal(before, after)
    np.testing.assert_allclose(after.numpy(), documented(model, x).numpy(), rtol=1e-6)


def test_the_model_and_its_mode_stay_and_no_hook_is_left() -> None:
    model, x = convolutional(), images()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    observer(model, x[:2], eps=EPS)(x)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


class Attentive(nn.Module):
    """A transformer layer with samples first or second."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.up, self.head = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:  # [N, T, 8]
        x = x if self.batch_first else x.transpose(0, 1)
        x, _ = self.attention(x, x, x, need_weights=False)
        x = self.head(F.gelu(self.up(x)))
        return x.mean(1 if self.batch_first else 0)


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_counts_absolute_outputs_over_tokens(batch_first: bool) -> None:
    model, x = Attentive(batch_first=batch_first).eval(), torch.randn(5, 4, 8)
    with torch.no_grad():
        model.attention.out_proj.weight[3].zero_()
        model.attention.out_proj.bias[3].zero_()
        model.attention.out_proj.bias[4] = -9.0  # far below zero: counts as active
    observe = observer(model, x[:2], eps=EPS)
    attention = next(layer for layer in observe.layers if layer.name == "attention")
    assert (attention.units, attention.positions) == (8, 4)
    seen = observe(x)
    assert seen.dormant[:8].tolist() == [0, 0, 0, 5, 0, 0, 0, 0]
    with torch.no_grad():
        y = model.attention(x, x, x, need_weights=False)[0] if batch_first else None
    if y is not None:
        values = model.up(y).amax(1)
        np.testing.assert_array_equal(seen.dormant[8:20].numpy(), (values <= EPS).sum(0).numpy())


def test_h7_modules_that_are_called_twice_count_twice_and_a_note_says_so() -> None:
    notes: list[str] = []
    model = convolutional()
    observe = observer(model, images(2), eps=EPS, note=notes.append)
    names = [layer.name for layer in observe.layers if layer.kind == "post"]
    assert names == ["1", "2.act", "2.act#2", "6"]
    assert any("counted once per call: 2.act" in note for note in notes)


def test_the_output_layer_has_no_hidden_units() -> None:
    """SqueezeNet's classifier: a convolution, a ReLU and a pool give the logits."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    kinds = [(layer.kind, layer.name) for layer in observer(model, images(2), eps=EPS).layers]
    assert kinds == [("pre", "0"), ("post", "1"), ("pre", "2")]


def test_h4_a_sample_with_nan_has_no_proportion_and_disturbs_no_other() -> None:
    model, x = convolutional(), images()
    observe = observer(model, x[:2], eps=EPS)
    clean, x[3] = observe(x), torch.nan
    seen = observe(x)
    assert torch.isnan(seen.pre[3])
    assert torch.isnan(seen.post[3])
    others = [0, 1, 2, 4, 5, 6]
    assert torch.equal(seen.pre[others], clean.pre[others])


def refused(make: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        make()
    return caught.value.message


def test_h7_networks_without_sites_are_refused_or_said() -> None:
    plain, notes = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), []
    seen = observer(plain, images(2), eps=EPS, note=notes.append)(images())
    assert seen.post is None
    assert "no nonlinearity is known" in notes[0]
    assert "no nonlinearity is known" in refused(lambda: observer(plain, images(2), eps=EPS, wanted="post"))
    bare = nn.Sequential(nn.ReLU(), nn.Flatten())
    assert "no convolution" in refused(lambda: observer(bare, images(2), eps=EPS))


class Untraceable(nn.Module):
    """Its forward depends on values, which no trace can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.fails = convolutional(), False

    def forward(self, x: Tensor) -> Tensor:
        if self.fails and float(x.sum()) != 0:
            raise RuntimeError("no")
        return self.inner(x if float(x.sum()) > -1e9 else -x)


def test_h8_what_cannot_be_traced_is_seen_at_its_modules() -> None:
    model, x, notes = Untraceable(), images(), []
    observe = observer(model, x[:2], eps=EPS, note=notes.append)
    assert "only the outputs of layers" in notes[0]
    seen = observe(x)
    assert seen.post is None
    np.testing.assert_allclose(seen.pre.numpy(), documented(model, x).numpy(), rtol=1e-6)
    model.fails = True
    with pytest.raises(RuntimeError, match="no"):
        observe(x)
    assert not any(module._forward_hooks for module in model.modules())
    model.fails = False
    assert torch.equal(observe(x).pre, seen.pre)
    assert "nonlinearities cannot be found" in refused(lambda: observer(model, x[:2], eps=EPS, wanted="post"))


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "swin_t"])
def test_torchvision_families_agree_with_hooks_on_their_modules(name: str) -> None:
    """Every activation module, its channels where its layers say, on single samples."""
    torchvision = pytest.importorskip("torchvision")
    model = getattr(torchvision.models, name)(weights=None).eval()
    x = torch.randn(2, 3, 64, 64)
    counts, units = torch.zeros(2), 0

    def hook(_module: nn.Module, _inputs: object, out: Tensor) -> None:
        nonlocal counts, units
        flat = out.flatten(2) if name == "resnet18" else out.flatten(1, -2).transpose(1, 2)
        counts = counts + (flat.abs().amax(2) <= 0.3).sum(1)
        units += flat.shape[1]

    handles = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, nn.ReLU | nn.GELU)]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    seen: Activity = observer(model, x, eps=0.3)(x)
    np.testing.assert_allclose(seen.post.numpy(), (counts / units).numpy(), rtol=1e-6)
    assert 0 < float(seen.post[0]) < 1


def test_relus_in_other_words() -> None:
    """`maximum` with a constant and `where` are looked at; what is not is named."""

    class Spelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
            self.register_buffer("zero", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            x = self.two(torch.maximum(self.one(x), self.zero))
            return self.three(torch.sin(torch.where(x > 0, x, 0.0)))

    model, x, notes = Spelled(), torch.randn(5, 6), []
    observe = observer(model, x[:2], eps=EPS, note=notes.append)
    assert [(layer.name, layer.zero) for layer in observe.layers if layer.kind == "post"] == [
        ("maximum", True),
        ("where", True),
    ]
    with torch.no_grad():
        first = model.one(x).relu()
        hidden = torch.cat([first, model.two(first).relu()], 1)
    np.testing.assert_allclose(observe(x).post.numpy(), (hidden <= EPS).double().mean(1).numpy())
    assert any("may act as nonlinearities: sin" in note for note in notes)


def test_a_scale_of_the_logits_does_not_make_them_hidden() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.scale = (
                nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)),
                nn.Parameter(torch.ones(1)),
            )

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.body(x)) * self.scale

    kinds = [(layer.kind, layer.name) for layer in observer(Scaled(), torch.zeros(2, 4), eps=EPS).layers]
    assert kinds == [("pre", "body.0"), ("post", "body.1"), ("pre", "body.2")]


class Windowed(nn.Module):
    """Its branch on values keeps it from being traced; one layer sees windows on the samples' axis."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.after = nn.Linear(12, 6), nn.Linear(96, 4)

    def forward(self, x: Tensor) -> Tensor:
        if float(x.sum()) < -1e9:
            return x
        windows = x.view(-1, 3, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, 12)
        return self.after(self.inside(windows).view(len(x), 96))


def test_a_module_that_sees_windows_is_left_out_alone() -> None:
    model, x, notes = Windowed(), images(), []
    observe = observer(model, x[:2], eps=EPS, note=notes.append)
    assert notes[1] == "left out, as they give no row per sample: inside"
    assert [layer.name for layer in observe.layers] == ["after"]
    with torch.no_grad():
        quiet = (model(x) <= EPS).double()
    np.testing.assert_allclose(observe(x).pre.numpy(), quiet.mean(1).numpy())
    np.testing.assert_array_equal(observe(x).dormant.numpy(), quiet.sum(0).numpy())


@pytest.mark.filterwarnings("ignore:.torch.jit.script")
def test_a_part_that_is_a_script_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), torch.jit.script(nn.Linear(192, 8)), nn.ReLU(), nn.Linear(8, 3))
    assert "'1' is a script" in refused(lambda: observer(model, images(2), eps=EPS))
