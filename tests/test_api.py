"""The Python functions, as the document calls them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from modeconn_cli import api
from modeconn_cli.engine.errors import InputError, OutputError, SettingsError
from modeconn_cli.engine.per_sample.curvature import directions


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(216, 4)
    )


@pytest.fixture
def data() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(10, 1, 8, 8), torch.arange(10) % 4, torch.arange(10) + 50


curvature = api.compute_curvature_per_image


def loader(*tensors: Tensor, **how: object) -> DataLoader:
    return DataLoader(TensorDataset(*tensors), batch_size=4, **how)  # type: ignore[arg-type]


def by_hand(net: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, h: float, niter: int) -> tuple:
    """The document's formulas, one sample and one direction at a time, in float64."""
    model = nn.Sequential(*net).double().eval()
    norms, along = np.zeros((niter, len(images))), np.zeros((niter, len(images)))

    def gradient(x: Tensor, label: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(model(x[None]), label[None]), x)[0]

    for k in range(niter):
        v = h * directions(0, ids, k, images.shape).double()
        for i in range(len(images)):
            g = gradient(images[i].double() + v[i], labels[i]) - gradient(images[i].double(), labels[i])
            norms[k, i], along[k, i] = float(g.norm()), float((g * v[i]).sum())
    model.float()
    return norms.mean(0), along.mean(0)


def test_the_documents_call_gives_its_three_arrays(net: nn.Module, data: tuple, tmp_path: Path) -> None:
    images, labels, ids = data
    net.train()
    net[3].eval()
    result = api.compute_curvature_per_image(
        net=net, data_loader=loader(images, labels, ids), h=1e-2, niter=3, temp=1.0, save_dir=tmp_path / "cv"
    )
    curvature, directional_eig, found = result
    assert (net.training, net[0].training, net[3].training) == (True, True, False)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    expected = by_hand(net, images, labels, ids, 1e-2, 3)
    np.testing.assert_allclose(curvature, expected[0], rtol=2e-3)
    np.testing.assert_allclose(directional_eig, expected[1], rtol=2e-3, atol=1e-7)
    np.testing.assert_array_equal(found, labels.numpy())
    np.testing.assert_array_equal(result.ids, ids.numpy())
    assert not result.ids_are_positions
    for name, values in (("curvature", curvature), ("directional_eig", directional_eig), ("labels", found)):
        np.testing.assert_array_equal(
            np.load(tmp_path / f"cv/per_image_{name}.npy"),
            values.astype(np.load(tmp_path / f"cv/per_image_{name}.npy").dtype),
        )
    np.testing.assert_array_equal(np.load(tmp_path / "cv/sample_ids.npy"), ids.numpy())


def test_without_ids_positions_stand_for_them_and_the_result_says_so(
    net: nn.Module, data: tuple, tmp_path: Path
) -> None:
    images, labels, _ = data
    result = api.compute_curvature_per_image(net, loader(images, labels), niter=1, save_dir=tmp_path)
    assert result.ids_are_positions
    assert result.ids.tolist() == list(range(10))
    assert not (tmp_path / "sample_ids.npy").exists()
    with pytest.warns(UserWarning, match="shuffles and gives no ids"):
        api.compute_per_sample_dormant(net, loader(images, labels, shuffle=True))


def test_shuffling_with_ids_changes_no_value(net: nn.Module, data: tuple) -> None:
    plain, mixed = (
        api.compute_curvature_per_image(net, loader(*data, shuffle=shuffle), niter=2, h=1e-2)
        for shuffle in (False, True)
    )
    order = np.argsort(mixed.ids)
    np.testing.assert_allclose(mixed.curvature[order], plain.curvature, rtol=1e-3)


def test_dormant_proportions_are_the_documents(net: nn.Module, data: tuple) -> None:
    images, labels, ids = data
    with torch.no_grad():
        net[0].bias[:3] = -50.0
    result = api.compute_per_sample_dormant(
        net, loader(images, F.one_hot(labels, 4), ids), "cpu", dormant_unit_threshold=0.01
    )
    props, found_ids, found_labels = result
    net.eval()
    with torch.no_grad():
        conv = net[0](images)
        hidden, logits = net[:3](images), net(images)
    counts = (conv.amax((2, 3)) <= 1e-6).sum(1) + (logits <= 1e-6).sum(1)
    np.testing.assert_allclose(props, counts.numpy() / 10)
    np.testing.assert_allclose(result.dormant_post, (hidden.amax((2, 3)) <= 1e-6).float().mean(1).numpy())
    np.testing.assert_array_equal(found_ids, ids.numpy())
    np.testing.assert_array_equal(found_labels, labels.numpy())
    assert [(layer.layer, layer.site) for layer in result.layers] == [
        ("0", "pre"),
        ("2", "post"),
        ("5", "pre"),
    ]
    frequency = float(((hidden > 1e-6).float().mean((0, 2, 3)) < 0.01).float().mean())
    assert result.layers[1].frequency_dormant == pytest.approx(frequency)


def test_csl_and_learning_time_are_the_documents_code() -> None:
    generator = np.random.default_rng(0)
    losses, grads = generator.gamma(2.0, size=(2, 7, 30)).astype(np.float32)
    np.testing.assert_allclose(api.compute_csl(losses), losses.astype(np.float64).sum(axis=0), rtol=1e-12)
    e_count = np.arange(1, 8)[:, None]
    condition = np.cumsum(grads, axis=0, dtype=np.float64) / e_count
    lt, tau = api.compute_learning_time_from_grads(grads)
    assert tau == pytest.approx(condition.mean(), rel=1e-12)
    np.testing.assert_allclose(lt, 1.0 - (condition < tau).mean(axis=0))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda net, d: curvature(net, loader(*d), h=0), SettingsError, "--h must be greater"),
        (lambda net, d: curvature(net, loader(*d), niter=0), SettingsError, "--niter"),
        (lambda net, d: curvature(net, []), InputError, "no samples"),
        (lambda net, d: curvature(net, [d[0]]), InputError, "must give"),
        (lambda net, d: curvature(net, [(d[0], d[0])]), InputError, "not the classes"),
        (lambda net, d: curvature(net, [d, d], niter=1), InputError, "sample 50 more than once"),
        (lambda net, d: api.compute_per_sample_dormant(nn.Flatten(), loader(*d)), InputError, "no convolution"),
        (lambda net, d: curvature(net, loader(*d), method="x"), SettingsError, "--method must be one of"),
        (lambda net, d: curvature(net, loader(d[0], d[1] - 100)), InputError, "label -100 is none of"),
        (lambda net, d: curvature(net, loader(d[0], torch.full((10, 4), 0.25))), InputError, "one-hot"),
        (lambda net, d: curvature(net, loader(d[0].byte(), d[1])), InputError, "images are torch.uint8"),
        (lambda net, d: curvature(net, loader(*d[:2], d[2] / 2)), InputError, "not whole numbers"),
        (lambda net, d: api.compute_per_sample_dormant(nn.Sequential(net[0]), loader(*d)), InputError, "not logits"),
        (lambda net, d: api.compute_csl(np.zeros(3)), InputError, "expected numbers"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(net: nn.Module, data: tuple, call: Callable, error: type, message: str) -> None:
    with pytest.raises(error) as caught:
        call(net, data)
    assert message in str(caught.value)


def test_importing_it_is_instant() -> None:
    code = "import sys, modeconn_cli.api; print({'torch', 'numpy', 'modeconn_cli.engine'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_arrays_never_lie_beside_the_ids_of_others(net: nn.Module, data: tuple, tmp_path: Path) -> None:
    api.compute_curvature_per_image(net, loader(*data), niter=1, save_dir=tmp_path)
    with torch.no_grad():  # the caller's own mode changes nothing
        api.compute_curvature_per_image(net, loader(*data), niter=1, save_dir=tmp_path)
    with pytest.raises(OutputError, match="names other samples than the loader"):
        api.compute_curvature_per_image(net, loader(*data[:2]), niter=1, save_dir=tmp_path)
