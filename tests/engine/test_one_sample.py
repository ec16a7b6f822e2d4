"""A batch of one image gives what the image gives among others, where torch's own batch norm does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from small_networks import Net
from torch import Tensor, nn

from modeconn_cli.engine.samples.per_sample import PerSample, fallback
from modeconn_cli.engine.samples.per_sample.curvature import measure
from modeconn_cli.engine.samples.per_sample.execution import Execution
from modeconn_cli.engine.samples.per_sample.gradients import CrossEntropy

NORMS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.BatchNorm2d(8),
    "instance norm": lambda: nn.InstanceNorm2d(8, affine=True),
    "instance norm with statistics": lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
}


def tokens(m: Net, x: Tensor) -> Tensor:
    """A convolution's channels become tokens with a residual layer: gradients come back channels last."""
    h = m.n(m.c(x)).flatten(2).transpose(1, 2)
    return m.g((h + m.f(h).tanh()).mean(1))


def network(norm: str) -> nn.Module:
    torch.manual_seed(0)
    layers = {"c": nn.Conv2d(3, 8, 3), "n": NORMS[norm](), "f": nn.Linear(8, 8), "g": nn.Linear(8, 3)}
    return Net(tokens, **layers).double().eval()


IMAGES = torch.randn(2, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
LABELS, IDS, SHAPE = torch.tensor([1, 0]), torch.tensor([3, 7]), (3, 9, 9)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("gradient", ["param", "input"])
def test_a_gradient_norm_of_one_image_is_that_among_two(norm: str, gradient: str) -> None:
    two, one = (PerSample(network(norm), SHAPE, gradient).score(IMAGES[:n], LABELS[:n]) for n in (2, 1))
    torch.testing.assert_close(one.squares, two.squares[:1])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("way", [fallback.one_by_one, fallback.gradients])
def test_gradients_of_one_image_are_those_of_a_mean_over_two_of_it(norm: str, way: Callable) -> None:
    model = network(norm)
    parameters = dict(model.named_parameters())
    more = () if way is fallback.one_by_one else (pytest.fail,)  # nothing is said
    found = list(way(model, parameters, IMAGES[:1], CrossEntropy(LABELS[:1]), *more))
    assert len(found) == 1
    nn.functional.cross_entropy(model(IMAGES[[0, 0]]), LABELS[[0, 0]]).backward()
    for name, parameter in parameters.items():
        torch.testing.assert_close(found[0][2][name][0], parameter.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", ["fd", "hvp"])
def test_a_curvature_of_one_image_is_that_among_two(norm: str, method: str) -> None:
    how = {"h": 1e-3, "draws": 1, "temperature": 1.0, "seed": 0, "method": method}
    for forward in (network(norm), Execution(network(norm), SHAPE)):
        two, one = (measure(forward, IMAGES[:n], LABELS[:n], IDS[:n], **how) for n in (2, 1))
        torch.testing.assert_close(one.curvature, two.curvature[:1], rtol=1e-6, atol=0)
