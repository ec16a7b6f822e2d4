"""Small networks whose groups of exchangeable units are known by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Net(nn.Module):
    """A network written in one line: named layers and a forward function of (layers, x)."""

    def __init__(self, forward: Callable[[Net, Tensor], Tensor], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.function = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def randomised(model: nn.Module) -> nn.Module:
    """Random parameters and batch-norm statistics, so that no two units are alike by chance."""
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=draw)
                spread = tensor.std(correction=0)  # constants, such as scales of 1e-6, get noise of size one
                tensor += noise if "running_var" in name or spread < 1e-5 else 0.3 * spread * (noise - 0.2)
    return model


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))


def cnn() -> nn.Module:
    """3×6×6 -> conv 4, BN, conv 5, flatten 5·3·3, 3 outputs."""
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1)),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(45, 3)),
    )


def residual() -> nn.Module:
    return Net(
        lambda m, x: m.out((m.a(x).relu() + m.c(m.b(m.a(x).relu()).relu())).mean((2, 3))),
        a=nn.Conv2d(3, 6, 3), b=nn.Conv2d(6, 4, 1), c=nn.Conv2d(4, 6, 1), out=nn.Linear(6, 2),
    )  # fmt: skip


def shared() -> nn.Module:
    model = Net(
        lambda m, x: m.out(m.c(m.b(m.a(x)).relu()).relu()),
        a=nn.Linear(5, 7), b=nn.Linear(7, 7), c=nn.Linear(7, 7), out=nn.Linear(7, 2),
    )  # fmt: skip
    model.c = model.b
    return model


def heads(m: Net, x: Tensor) -> Tensor:
    """Attention with 3 heads of 4 (values: of 6), written with matmul."""
    x = m.inward(x)
    q, k = (layer(x).view(x.shape[0], -1, 3, 4).transpose(1, 2) for layer in (m.q, m.k))
    v = m.v(x).view(x.shape[0], -1, 3, 6).transpose(1, 2)
    mixed = (q @ k.transpose(2, 3) / 2).softmax(-1) @ v
    return m.out((x + m.o(mixed.transpose(1, 2).flatten(2))).mean(1))


def attention() -> nn.Module:
    return Net(
        heads, inward=nn.Linear(4, 8), q=nn.Linear(8, 12), k=nn.Linear(8, 12), v=nn.Linear(8, 18),
        o=nn.Linear(18, 8), out=nn.Linear(8, 2),
    )  # fmt: skip


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    return Net(
        lambda m, x: m.out(m.body(m.inward(x) + m.position).mean(1)), inward=nn.Linear(4, 8),
        body=layer, position=nn.Parameter(torch.randn(1, 5, 8)), out=nn.Linear(8, 2),
    )  # fmt: skip


def lstm_cell(m: Net, x: Tensor) -> Tensor:
    h = c = x.new_zeros(x.shape[0], 6)
    for t in range(2):
        i, f, g, o = (m.w(x[:, t]) + m.u(h)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    return m.out(h)


def with_no_grad(m: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        h = m.a(x).relu()
    return m.b(h)


def layers(
    forward: Callable[[Net, Tensor], Tensor], **made: nn.Module | nn.Parameter
) -> Callable[[], nn.Module]:
    """A factory of copies, so that every test has its own model."""
    model = Net(forward, **made)
    return lambda: copy.deepcopy(model)


L, C = nn.Linear, nn.Conv2d
OUT = (2, 3)  # the axes of space that a head sums over
# name: (model, input shape, [(layer, units) of every group in order])
SMALL = {
    "mlp": (mlp, (5,), [("0", 8), ("2", 6)]),
    "cnn": (cnn, (3, 6, 6), [("0", 4), ("3", 5)]),
    "residual stream": (residual, (3, 5, 5), [("a", 6), ("b", 4)]),
    "shared weight": (shared, (5,), [("a", 7)]),
    "attention": (attention, (5, 4), [("inward", 8), ("q", 3), ("q", 4), ("v", 6)]),
    "transformer": (encoder, (5, 4), [
        ("inward", 8), ("body.self_attn", 2), ("body.self_attn", 4), ("body.self_attn", 4), ("body.linear1", 12),
    ]),
    "attention that returns its weights": (layers(
        lambda m, x: m.out(m.mha(y := m.a(x), y, y)[0].mean(1)),
        a=L(4, 8), mha=nn.MultiheadAttention(8, 2, batch_first=True), out=L(8, 2),
    ), (5, 4), [("a", 8), ("mha", 2), ("mha", 4), ("mha", 4), ("mha.out_proj", 8)]),
    "depthwise": (layers(
        lambda m, x: m.out(m.d(m.a(x)).relu().amax(OUT)), a=C(3, 6, 1), d=C(6, 6, 3, groups=6), out=L(6, 2),
    ), (3, 5, 5), [("a", 6)]),
    "depthwise with two outputs per channel": (layers(
        lambda m, x: m.out(m.d(m.a(x)).relu().amax(OUT)), a=C(3, 5, 1), d=C(5, 10, 3, groups=5), out=L(10, 2),
    ), (3, 5, 5), [("a", 5), ("d", 2)]),
    "grouped": (layers(
        lambda m, x: m.out(m.g(m.a(x)).relu().amax(OUT)), a=C(3, 6, 1), g=C(6, 12, 3, groups=3), out=L(12, 2),
    ), (3, 5, 5), [("a", 3), ("a", 2), ("g", 4)]),
    "group norm": (layers(
        lambda m, x: m.b(m.n(m.a(x)).relu()), a=L(5, 8), n=nn.GroupNorm(4, 8), b=L(8, 2),
    ), (5,), [("a", 4), ("a", 2)]),
    "concatenation": (layers(
        lambda m, x: m.b(torch.cat([h := m.a(x).relu(), m.c(h)], 1)), a=L(5, 6), c=L(6, 4), b=L(10, 2),
    ), (5,), [("a", 6), ("c", 4)]),
    "concatenation of a stream with itself": (layers(
        lambda m, x: m.b(torch.cat([h := m.a(x).relu(), h + m.c(h)], 1)), a=L(5, 6), c=L(6, 6), b=L(12, 2),
    ), (5,), [("a", 6)]),
    "gate beside values": (layers(
        lambda m, x: m.b(torch.mul(*m.a(x).chunk(2, 1))), a=L(5, 12), b=L(6, 2),
    ), (5,), [("a", 6)]),
    "glu": (lambda: nn.Sequential(L(5, 12), nn.GLU(), L(6, 2)), (5,), [("0", 6)]),
    "lstm cell": (layers(lstm_cell, w=L(4, 24), u=L(6, 24), out=L(6, 2)), (2, 4), [("w", 6)]),
    "zero-padded shortcut": (layers(
        lambda m, x: m.out((F.pad(h := m.a(x), (0, 0, 0, 0, 1, 2)) + m.b(h)).relu().mean(OUT)),
        a=C(3, 4, 1), b=C(4, 7, 1), out=L(7, 2),
    ), (3, 4, 4), [("a", 4), ("b", 3)]),
    "transposed convolution": (
        lambda: nn.Sequential(C(3, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 4, 3), nn.PReLU(4), C(4, 2, 1)),
        (3, 5, 5), [("0", 6), ("2", 4)],
    ),
    "pixel shuffle": (
        lambda: nn.Sequential(C(3, 12, 3), nn.PixelShuffle(2), C(3, 2, 1)), (3, 4, 4), [("0", 3)],
    ),
    "channel shuffle": (
        lambda: nn.Sequential(C(3, 8, 1), nn.ChannelShuffle(2), C(8, 2, 1)), (3, 4, 4), [("0", 8)],
    ),
    "outer product": (layers(
        lambda m, x: m.b((h := m.a(x))[:, :, None].mul(h[:, None]).flatten(1)), a=L(5, 4), b=L(16, 2),
    ), (5,), [("a", 4)]),
    "einsum and weight norm": (layers(
        lambda m, x: torch.einsum("nc,kc->nk", m.a(x).relu(), m.w),
        a=nn.utils.parametrizations.weight_norm(L(5, 6)), w=nn.Parameter(torch.randn(2, 6)),
    ), (5,), [("a", 6)]),
    "layer under no_grad": (layers(with_no_grad, a=L(5, 6), b=L(6, 2)), (5,), [("a", 6)]),
}  # fmt: skip
