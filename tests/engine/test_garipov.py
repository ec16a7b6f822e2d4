"""Files of dnn-mode-connectivity, against numbers that its own code computed (tests/data/garipov_*)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints, distances, weights
from modeconn_cli.engine.networks.checkpoints import Checkpoint, garipov
from modeconn_cli.engine.networks.models import Architecture, build
from modeconn_cli.engine.networks.models.recognise import matches, recognised
from modeconn_cli.engine.paths import file as files
from modeconn_cli.engine.paths.carrier import Carrier
from modeconn_cli.engine.settings.shared import ModelSettings

DATA = Path(__file__).parent.parent / "data"
RUNTIME = Runtime(threads=1)


def expected() -> dict[str, np.ndarray]:
    with np.load(DATA / "garipov_preresnet8_expected.npz") as file:
        return dict(file)


def curve() -> files.CurveFile:
    return files.read(DATA / "garipov_preresnet8_curve.pt", ModelSettings(), RUNTIME)


def test_points_of_an_imported_curve_compute_what_the_original_computes() -> None:
    golden, found = expected(), curve()
    assert found.about.model == "preresnet8"
    model = files.open_curve(found, ModelSettings(), RUNTIME, "no data")[1].model
    carrier = Carrier(model.eval(), found.path_of(model))
    for t, logits in zip(golden["ts"], golden["logits_on_curve"], strict=True):
        carrier.move_to(float(t))
        with torch.no_grad():
            ours = model(torch.from_numpy(golden["inputs"])).numpy()
        assert np.abs(ours - logits).max() < 1e-4


def test_lengths_and_norms_of_an_imported_curve_are_the_originals() -> None:
    golden, found = expected(), curve()
    model = files.open_curve(found, ModelSettings(), RUNTIME, "no data")[1].model
    steps, norms = found.path_of(model).lengths(golden["ts"])
    assert np.allclose(steps, golden["dl"], rtol=1e-4)
    assert np.allclose(norms, golden["norm_at_t"], rtol=1e-4)


def test_distances_of_the_golden_pair_are_the_originals() -> None:
    golden = expected()
    a, b = (
        weights.parameters_in(checkpoints.read(DATA / f"garipov_preresnet8_{name}.pt").state) for name in "ab"
    )
    found = distances.l2(a, b)
    assert found.total_l2 == pytest.approx(float(golden["total_l2"]), rel=1e-4)
    ours = {layer.layer_name: layer for layer in found.layers}
    for name, raw, count in zip(
        golden["layer_names"], golden["layer_raw_l2"], golden["layer_n_params"], strict=True
    ):
        assert ours[str(name)].raw_l2 == pytest.approx(float(raw), rel=1e-4)
        assert ours[str(name)].n_params == int(count)


def test_the_ends_of_the_imported_curve_are_the_golden_networks() -> None:
    found = curve()
    for k, name in ((0, "a"), (2, "b")):
        state = checkpoints.read(DATA / f"garipov_preresnet8_{name}.pt").state
        assert all(torch.equal(found.points[k][n], state[n]) for n in found.points[k])


@pytest.mark.parametrize(("name", "key"), [("vgg16", "VGG16"), ("vgg16_bn", "VGG16BN"), ("vgg19", "VGG19")])
def test_curve_tensors_get_the_names_of_the_network(name: str, key: str) -> None:
    golden = json.loads((DATA / "garipov_vgg_keys.json").read_text())[key]
    state = {n: torch.empty(shape, device="meta") for n, shape in golden["curve"].items()}
    with torch.device("meta"):
        model = build(Architecture(name, 10, (3, 32, 32), {}))
    points, buffers = garipov.split(state)
    parameters = [n for n, _ in model.named_parameters()]
    points, buffers = garipov.renamed(points, buffers, model.state_dict(), parameters)
    assert {**points[1], **buffers}.keys() == model.state_dict().keys()
    assert points[1]["classifier.1.weight"] is state["net.fc1.weight_1"]


def test_a_curve_tensor_without_a_place_is_an_error_never_a_zero() -> None:
    content = torch.load(DATA / "garipov_preresnet8_curve.pt", weights_only=True)
    state = content["model_state"]
    points, buffers = garipov.split(state)
    with torch.device("meta"):
        model = build(Architecture("preresnet8", 100, (3, 32, 32), {}))
    parameters = [name for name, _ in model.named_parameters()]
    with pytest.raises(InputError, match=r"fc.weight .* in the place of the network's fc.weight \(100, 64\)"):
        garipov.renamed(points, buffers, model.state_dict(), parameters)
    ten = build(Architecture("preresnet8", 10, (3, 32, 32), {}))
    with pytest.raises(InputError, match="no place in the network"):
        garipov.renamed(points, {"bn.odd": torch.zeros(1)}, ten.state_dict(), parameters)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("vgg16", {}), ("vgg16", {"width": 8}), ("vgg19", {"width": 8}), ("convfc", {}), ("preresnet26", {}),
        ("preresnet47", {}), ("wrn16-2", {}), ("resnet18", {"width": 8}), ("resnet34", {"width": 8}),
        ("incremental-resnet18", {"width": 8}), ("simple-cifar10-cnn", {}), ("cnn", {"width": 4}),
        ("cnn", {"width": 64}),
    ],
)  # fmt: skip
def test_a_network_is_recognised_by_its_keys(name: str, args: dict[str, int]) -> None:
    shape = (1, 8, 8) if name == "cnn" else (3, 32, 32)
    with torch.device("meta"):
        state = build(Architecture(name, 7, shape, args)).state_dict()
    (found,) = matches(state)
    assert (found.model, found.num_classes, found.args) == (name, 7, args)


def test_a_network_of_dnn_mode_connectivity_implies_its_data() -> None:
    file = checkpoints.read(DATA / "garipov_preresnet8_a.pt")
    about = recognised(file, ModelSettings(), RUNTIME).about
    assert about.data is not None
    assert (about.model, about.data.dataset, about.data.transform) == ("preresnet8", "cifar10", "resnet")


@pytest.mark.parametrize(
    ("arch", "names"),
    [
        (Architecture("garipov-vgg16bn", 10, (3, 32, 32), {"width": 4}), "vgg16_bn and garipov-vgg16bn"),
        (Architecture("lenet5-max", 10, (1, 28, 28), {}), "lenet5 and lenet5-max"),
    ],
)
def test_two_networks_with_the_same_keys_are_both_named(arch: Architecture, names: str) -> None:
    with torch.device("meta"):
        state = build(arch).state_dict()
    file = Checkpoint(Path("f.pt"), "model_state", dict(state))
    with pytest.raises(SettingsError, match=names):
        recognised(file, ModelSettings(), RUNTIME)


def test_what_fits_nothing_asks_for_a_model() -> None:
    file = Checkpoint(Path("f.pt"), "bare", {"a": torch.zeros(3, 3), "b": torch.zeros(2, 3)})
    with pytest.raises(SettingsError, match="no registered one fits"):
        recognised(file, ModelSettings(), RUNTIME)


def test_the_default_width_spelled_out_is_the_same_network() -> None:
    with torch.device("meta"):
        state = build(Architecture("cnn", 10, (1, 8, 8), {})).state_dict()
    assert [arch.model for arch in matches(state)] == ["cnn"]


def test_a_named_network_gets_its_classes_and_width_from_the_shapes() -> None:
    with torch.device("meta"):
        state = build(Architecture("garipov-vgg16bn", 100, (3, 32, 32), {"width": 8})).state_dict()
    file = Checkpoint(Path("f.pt"), "model_state", dict(state))
    about = recognised(file, ModelSettings(model="garipov-vgg16bn"), RUNTIME).about
    assert about.data is not None
    assert (about.num_classes, about.model_args, about.data.dataset) == (100, {"width": 8}, "cifar100")


@pytest.mark.parametrize(
    ("name", "epoch"),
    [
        ("checkpoint-200.pt", 200),
        ("index-0_epoch-199.pt", 199),
        ("checkpoint_index-3_epoch-17.pt", 17),
        ("model_checkpoint_pre_trained_MNIST_batch_1024_epoch_5.pt", 5),
        ("cifar100_resnet18_noisy_idx_1_epoch_12_noise_0.01.ckpt", 12),
        ("model_ep20_it0.pth", 20),
        ("epoch_7.safetensors", 7),
        ("weights.pt", None),
    ],
)
def test_the_epoch_is_read_off_every_pattern_of_names(name: str, epoch: int | None) -> None:
    assert names.epoch_of(Path(name)) == epoch


def test_an_imported_curves_ends_have_no_statistics_of_their_own(mcx: Callable, tmp_path: Path) -> None:
    """Its one set of statistics is that of the last position it was trained at."""
    data = ("--dataset", "synthetic", "--data-arg", "train=40,test=20")
    words = ("--curve-checkpoint", DATA / "garipov_preresnet8_curve.pt", *data, "--num-points", "2")
    done = mcx("curve", "eval", *words, "--output-dir", tmp_path, "--json")
    assert json.loads(done.out)["endpoints"] == [{}, {}]
