"""The Python functions, as the document calls them."""

from __future__ import annotations

import copy
import math
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
from modeconn_cli.engine.samples.per_sample.curvature import directions


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
        (lambda net, d: curvature(net, loader(*d), h=0), SettingsError, "h must be greater"),
        (lambda net, d: curvature(net, loader(*d), niter=0), SettingsError, "niter must be at least"),
        (lambda net, d: curvature(net, []), InputError, "no samples"),
        (lambda net, d: curvature(net, [d[0]]), InputError, "must give"),
        (lambda net, d: curvature(net, [(d[0], d[0])]), InputError, "labels have the shape"),
        (lambda net, d: curvature(net, [d, d], niter=1), InputError, "sample 50 more than once"),
        (lambda net, d: api.compute_per_sample_dormant(nn.Flatten(), loader(*d)), InputError, "no convolution"),
        (lambda net, d: curvature(net, loader(*d), method="x"), SettingsError, "method: 'x' is not one of"),
        (lambda net, d: curvature(net, loader(d[0], d[1] - 100)), InputError, "4 negative labels"),
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
    code = "import sys, modeconn_cli.api; print({'torch', 'numpy', 'typer'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_arrays_never_lie_beside_the_ids_of_others(net: nn.Module, data: tuple, tmp_path: Path) -> None:
    api.compute_curvature_per_image(net, loader(*data), niter=1, save_dir=tmp_path)
    with torch.no_grad():  # the caller's own mode changes nothing
        api.compute_curvature_per_image(net, loader(*data), niter=1, save_dir=tmp_path)
    with pytest.raises(OutputError, match="names other samples than the loader"):
        api.compute_curvature_per_image(net, loader(*data[:2]), niter=1, save_dir=tmp_path)


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(3)
    one, other = nn.Linear(10, 2), nn.Linear(10, 2)
    return one, other


def vector(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().double()


def test_the_documents_distances_are_its_formulas(pair: tuple[nn.Module, nn.Module]) -> None:
    a, b = map(vector, pair)
    assert api.euclidean_distance(*pair).item() == pytest.approx(float((a - b).norm()), rel=1e-12)
    cosine = 1 - float(F.cosine_similarity(a, b, dim=0))
    assert api.cosine_similarity_distance(*pair).item() == pytest.approx(cosine, rel=1e-9)
    found = api.calculate_l2_distance(*pair)
    assert float(found["total_l2"]) == pytest.approx(float((a - b).norm()), rel=1e-12)
    assert float(found["normalized_total_l2"]) == pytest.approx(float((a - b).norm()) / 22**0.5, rel=1e-12)
    squares = sum(layer["raw_l2"] ** 2 for layer in found["layer_distances"].values())
    assert squares == pytest.approx(float((a - b).square().sum()), rel=1e-12)


def test_the_fisher_distance_of_a_logistic_regression_has_its_closed_form(
    pair: tuple[nn.Module, nn.Module],
) -> None:
    """With labels: F_kj = mean (p_k − 1[y = k])² x_j², of both networks."""
    inputs = torch.randn(64, 10)
    labels = torch.arange(64) % 2
    batches = [(inputs[:40], labels[:40]), (inputs[40:], labels[40:])]
    found = api.weighted_euclidean_distance(*pair, batches, kind="empirical")
    total = 0.0
    x, one_hot = inputs.double(), F.one_hot(labels, 2)
    for model in pair:
        error = (model.double()(x).softmax(1) - one_hot).detach().square()
        weight, bias = error.T @ x.square() / 64, error.mean(0)
        model.float()
        delta = [
            p.detach().double() - q.detach().double()
            for p, q in zip(*(m.parameters() for m in pair), strict=True)
        ]
        total += float((weight * delta[0].square()).sum() + (bias * delta[1].square()).sum()) / 2
    assert found.item() == pytest.approx(total**0.5, rel=1e-5)
    assert found > 0, "the document's own weights are zero"


@pytest.mark.parametrize("batches", ["one", "few", "many"])
def test_the_fisher_distance_knows_how_sure_it_is(pair: tuple[nn.Module, nn.Module], batches: str) -> None:
    """Against the spread of the samples' own terms, which are in closed form."""
    torch.manual_seed(1)
    inputs, count = torch.randn(600, 10), {"one": 1, "few": 7, "many": 60}[batches]
    terms = torch.zeros(600, dtype=torch.float64)
    gaps = [(p - q).detach().double().square() for p, q in zip(*(m.parameters() for m in pair), strict=True)]
    for model in pair:
        x, p = inputs.double(), model(inputs).detach().double().softmax(1)
        for label in range(2):
            error = (p - F.one_hot(torch.tensor(label), 2)).square() * p[:, [label]]
            terms += ((error[:, :, None] * x.square()[:, None] * gaps[0]).sum((1, 2)) + error @ gaps[1]) / 2
    data = [(x, torch.zeros(len(x), dtype=torch.long)) for x in inputs.tensor_split(count)]
    distance, stderr = api.weighted_euclidean_distance(*pair, data, with_stderr=True)
    assert distance == pytest.approx(float(terms.mean().sqrt()), rel=1e-5)
    exact = float(terms.std()) / 600**0.5 / (2 * distance)
    assert 0.6 < stderr / exact < 1.6
    assert distance == api.weighted_euclidean_distance(*pair, data)


def test_errors_that_samples_do_not_tell_are_not_zero(pair: tuple[nn.Module, nn.Module]) -> None:
    """A network beside itself, and one that answers otherwise everywhere."""
    one, inputs = pair[0], torch.randn(49, 10)
    same = api.functional_distance(one, one, inputs)
    assert (same.disagreement, same.disagreement_stderr) == (0, 1 / 50)
    assert math.isnan(same.kl_stderr)
    assert math.isnan(same.logit_distance_stderr)
    opposed = copy.deepcopy(one)
    with torch.no_grad():
        opposed.weight.neg_()  # type: ignore[union-attr, operator]
        opposed.bias.neg_()  # type: ignore[union-attr, operator]
    other = api.functional_distance(one, opposed, inputs)
    assert (other.disagreement, other.disagreement_stderr) == (1, 1 / 50)
    assert other.kl_stderr > 0
    assert math.isnan(api.weighted_euclidean_distance(one, pair[1], inputs[:1], with_stderr=True)[1])
    zero, unknown = api.weighted_euclidean_distance(one, copy.deepcopy(one), inputs, with_stderr=True)
    assert zero == 0
    assert math.isnan(unknown)


def test_distances_leave_networks_as_they_are(pair: tuple[nn.Module, nn.Module]) -> None:
    pair[0].weight.requires_grad_(False)  # type: ignore[union-attr]
    api.weighted_euclidean_distance(*pair, torch.randn(8, 10))
    api.functional_distance(*pair, torch.randn(8, 10))
    assert all(p.grad is None for model in pair for p in model.parameters())
    assert [p.requires_grad for p in pair[0].parameters()] == [False, True]
    assert all(model.training for model in pair)


def test_functional_distance_is_that_of_the_answers(pair: tuple[nn.Module, nn.Module]) -> None:
    inputs = torch.randn(50, 10)
    x, y = (model(inputs).detach().double() for model in pair)
    found = api.functional_distance(*pair, inputs)
    assert found.disagreement == float((x.argmax(1) != y.argmax(1)).double().mean())
    kl = F.kl_div(y.log_softmax(1), x.log_softmax(1), log_target=True, reduction="batchmean")
    assert found.kl == pytest.approx(float(kl), rel=1e-6)
    assert found.logit_distance == pytest.approx(float((x - y).norm(dim=1).mean()), rel=1e-6)


def test_distances_take_paths_and_state_dicts(networks: Path) -> None:
    paths = [networks / f"seed{k}/checkpoint-4.pt" for k in (0, 1)]
    states = [torch.load(path, weights_only=True)["model_state"] for path in paths]
    by_path = api.euclidean_distance(*paths)
    assert api.euclidean_distance(str(paths[0]), states[1]) == by_path
    inputs = torch.rand(20, 1, 8, 8)
    assert api.functional_distance(paths[0], states[1], inputs) == api.functional_distance(*paths, inputs)
    with pytest.raises(InputError, match="do not say what they compute"):
        api.functional_distance(states[0], states[1], inputs)
    with pytest.raises(InputError, match="different networks"):
        api.euclidean_distance(nn.Linear(3, 2), states[0])
    with pytest.raises(InputError, match="NaN or infinity"):
        api.euclidean_distance({"w": torch.tensor([1.0])}, {"w": torch.tensor([float("nan")])})


def test_both_networks_see_the_same_samples(pair: tuple[nn.Module, nn.Module]) -> None:
    torch.manual_seed(0)
    batches = loader(torch.randn(40, 10), torch.arange(40) % 2, shuffle=True)
    with pytest.warns(UserWarning, match="shuffles"):
        assert api.functional_distance(pair[0], pair[0], batches).logit_distance == 0.0
    inputs = torch.randn(12, 10)
    generated = api.weighted_euclidean_distance(*pair, ((x[None], torch.tensor([0])) for x in inputs))
    listed = api.weighted_euclidean_distance(*pair, inputs)
    assert generated.item() == pytest.approx(listed.item(), rel=1e-6)


def test_a_module_says_what_the_parameters_of_a_state_dict_are() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
            self.two.weight = self.one.weight
            self.register_buffer("scale", torch.randn(3))

    a, b = Net(), Net()
    expected = api.euclidean_distance(a, b)
    assert api.euclidean_distance(a, b.state_dict()) == expected
    assert api.euclidean_distance(a.state_dict(), b) == expected
    assert api.calculate_l2_distance(a, b.state_dict())["total_params"] == 24


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(0, 10), "there are no inputs"),
        (torch.zeros(3, 7), "forward fails on images"),
        ([(torch.zeros(3, 10), torch.tensor([0, 1, 9]))], "is none of the network's 2 classes"),
    ],
)
def test_inputs_that_do_not_fit_are_named(
    pair: tuple[nn.Module, nn.Module], data: object, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        api.weighted_euclidean_distance(*pair, data)  # type: ignore[arg-type]
