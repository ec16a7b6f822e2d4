"""`mcx convert`: the same tensors in the layouts of other programs, and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modeconn_cli.cli import complete
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import checkpoints
from modeconn_cli.engine.networks.checkpoints import garipov

DATA = Path(__file__).parents[1] / "data"


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return list(found) == list(wanted) and all(
        torch.equal(found[n], wanted[n]) and found[n].dtype == wanted[n].dtype for n in wanted
    )


def raw_bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


@pytest.mark.parametrize("layout", ["mcx", "garipov", "lmc", "bare"])
def test_a_network_comes_back_from_every_layout(mcx, tmp_path: Path, layout: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2).double())
    optimizer = torch.optim.SGD(model[:2].parameters(), 0.1, momentum=0.9)
    model[:2](torch.randn(5, 3)).sum().backward()
    optimizer.step()
    state = model.state_dict()
    content = {"epoch": 7, "state_dict": {f"module.{n}": t for n, t in state.items()}, "scaler": {"x": 1}}
    source, there, back = (tmp_path / f"{name}.pt" for name in ("source", "there", "back"))
    torch.save({**content, "optimizer": optimizer.state_dict()}, source)
    done = mcx("convert", source, "--layout", layout, "--output", there, "--json")
    assert done.code == 0, done.err
    left = json.loads(done.out)["left_out"]
    assert left == ["scaler", *(["epoch", "optimizer"] if layout == "bare" else [])]
    assert f"the layout '{layout}' has no place for: scaler" in done.err
    names = {"mcx": "model_state", "garipov": "model_state", "lmc": "model_state_dict"}
    raw = load(there)
    assert same(raw if layout == "bare" else raw[names[layout]], state)
    assert ("mcx" in raw) == (layout == "mcx")
    if layout != "bare":
        steps = raw["optimizer_state_dict" if layout == "lmc" else "optimizer_state"]
        assert raw["epoch"] == 7
        optimizer.load_state_dict(steps)
    assert mcx("convert", there, "--layout", "mcx", "--output", back).code == 0
    found = checkpoints.read(back)
    assert same(found.state, state)
    assert (found.epoch, found.optimizer_state is None) == ((None, True) if layout == "bare" else (7, False))


def test_a_curve_goes_to_dnn_mode_connectivity_and_back(mcx, tmp_path: Path) -> None:
    golden = load(DATA / "garipov_preresnet8_curve.pt")["model_state"]
    ours, theirs, bare = (tmp_path / f"{name}.pt" for name in ("ours", "theirs", "bare"))
    assert mcx("convert", DATA / "garipov_preresnet8_curve.pt", "--layout", "mcx", "--output", ours).code == 0
    assert mcx("convert", ours, "--layout", "garipov", "--output", theirs).code == 0
    found = load(theirs)["model_state"]
    assert same(found, golden)
    assert all(raw_bytes(found[n]) == raw_bytes(golden[n]) for n in golden)
    assert mcx("convert", theirs, "--layout", "bare", "--output", bare).code == 0
    for path in (ours, theirs, bare):
        words = ("--curve-checkpoint", path, "--t", "1", "--bn", "none", "--output", tmp_path / "x.pt")
        done = mcx("curve", "extract", *words, "--overwrite")
        assert done.code == 0, done.err
        end = load(DATA / "garipov_preresnet8_b.pt")["model_state"]
        parameters = checkpoints.read(tmp_path / "x.pt").parameters()
        assert all(torch.equal(tensor, end[name]) for name, tensor in parameters.items())
    done = mcx("convert", ours, "--layout", "lmc", "--output", tmp_path / "no.pt")
    assert (done.code, "is a curve" in done.err) == (3, True)


NET = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.downsample = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))
        self.alphas = nn.ParameterList([nn.Parameter(torch.full((3, 1, 1), 0.5)) for _ in range(2)])

    def forward(self, x):
        x = self.downsample(x)
        return x.relu() * self.alphas[0] + x * self.alphas[1]


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.token_1 = nn.Parameter(torch.zeros(1, 1, 36))
        self.register_buffer("scale_1", torch.ones(36))
        self.block = Block()
        self.attention = nn.MultiheadAttention(36, 2, batch_first=True)
        layers = nn.Linear(108, 10), nn.ReLU(), nn.Dropout(0.1), nn.Linear(10, num_classes)
        self.classifier = nn.Sequential(nn.Flatten(), *layers)

    def forward(self, x):
        x = self.block(x).flatten(2) * self.scale_1 + self.token_1
        return self.classifier(x + self.attention(x, x, x)[0])
"""


@pytest.mark.parametrize("kind", ["bezier", pytest.param("polychain", marks=pytest.mark.slow)])
def test_a_curve_of_ones_own_network_goes_and_comes_back(
    mcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Trained, with parameters of every name: those of attention, of lists, of the network itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"{kind}net.py").write_text(NET)
    own = ("--model", f"{kind}net:Net")
    data = ("--dataset", "synthetic", "--data-arg", "train=60,test=20,size=8,channels=1,classes=3")
    assert mcx("train", *own, *data, "--seeds", "0,1", "--epochs", "1", "--output-dir", "runs").code == 0
    ends = [f"runs/seed{k}/checkpoint-1.pt" for k in (0, 1)]
    words = (*ends, *own, "--curve", kind, "--num-bends", "4", "--epochs", "1", "--output-dir", "curve")
    assert mcx("curve", "train", *words).code == 0
    source = "curve/checkpoints/checkpoint-1.pt"
    done = mcx("curve", "convert", source, "--layout", "garipov", "--output", "theirs.pt")
    assert (done.code, "no place for: optimizer, the buffers of endpoint 1, mcx" in done.err) == (0, True), (
        done.err
    )
    theirs = load(tmp_path / "theirs.pt")["model_state"]
    assert {
        "net.attention.in_proj_weight_3",
        "net.block.alphas.0_0",
        "net.token_1_2",
        "net.scale_1",
    } <= theirs.keys()
    done = mcx("convert", "--curve-checkpoint", "theirs.pt", *own, "--layout", "mcx", "--output", "back.pt")
    assert done.code == 0, done.err
    before, after = load(tmp_path / source), load(tmp_path / "back.pt")
    assert (after["curve"], after["num_bends"]) == (kind, 4)
    for one, other in zip(before["control_points"], after["control_points"], strict=True):
        assert same(other, one)
    assert same(after["buffers"], before["buffers"])
    assert mcx("convert", "back.pt", *own, "--layout", "garipov", "--output", "again.pt").code == 0
    assert same(load(tmp_path / "again.pt")["model_state"], theirs)
    losses = []
    for path in (source, "theirs.pt"):
        folder = tmp_path / f"eval-{Path(path).stem}"
        words = (path, *own, *data, "--num-points", "3", "--wd", "0", "--output-dir", folder)
        assert mcx("curve", "eval", *words, "-q").code == 0
        with np.load(folder / "curve.npz") as arrays:
            losses.append(arrays["te_loss"].tolist())
    assert losses[0] == losses[1]


def test_two_tensors_that_would_have_one_name_there_are_refused() -> None:
    point = {"classifier.1.weight": torch.zeros(1), "fc1.weight": torch.zeros(1)}
    with pytest.raises(InputError, match=r"2 tensors would be 'net.fc1.weight_0'"):
        garipov.joined("bezier", [point] * 3, {})


def test_the_other_name_of_the_command_is_helped_and_completed(mcx) -> None:
    page = mcx("convert", "--help").out
    assert page.startswith("Usage: mcx convert [CHECKPOINT]")
    assert mcx("curve", "convert", "--help").out == page
    assert mcx("help", "curve", "convert").out == mcx("help", "convert").out
    assert "convert" in mcx("curve", "--help").out
    assert list(complete.candidates(["curve"], "con")) == ["convert"]
    assert list(complete.candidates(["curve", "convert", "--layout"], "g")) == ["garipov"]


@pytest.mark.parametrize("key", ["VGG16", "VGG16BN", "VGG19"])
def test_curves_have_the_names_of_the_original(key: str) -> None:
    golden = json.loads((DATA / "garipov_vgg_keys.json").read_text())[key]
    base = {name: torch.zeros(1) for name in golden["base"]}
    buffers = {n: t for n, t in base.items() if n.rpartition(".")[2] not in ("weight", "bias")}
    point = {n: t for n, t in base.items() if n not in buffers}
    assert garipov.joined("bezier", [point] * 3, buffers).keys() == golden["curve"].keys()


def test_what_exists_is_kept_and_the_same_again_is_complete(mcx, networks: Path, tmp_path: Path) -> None:
    source, output = networks / "seed0/checkpoint-4.pt", tmp_path / "x.pt"
    for layout in ("mcx", "bare"):
        words = ("convert", source, "--layout", layout, "--output", output)
        if layout == "bare":
            assert mcx(*words).code == 5
        assert mcx(*words, "--overwrite").code == 0
        before = output.read_bytes()
        done = mcx(*words)
        assert (done.code, "already complete" in done.err, output.read_bytes() == before) == (0, True, True)
    assert same(load(output), load(source)["model_state"])
    assert mcx("convert", source, "--layout", "bare", "--output", source, "--overwrite").code == 5


def test_without_a_model_what_wrappers_have_added_is_left_out(mcx, tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Linear(3, 4), nn.ModuleDict({"module": nn.Linear(4, 4), "_module": nn.Linear(4, 2)})
    )
    state = model.state_dict()
    wrapped = {
        name.replace("0.", "0._fsdp_wrapped_module._orig_mod.").replace(
            "1.module.", "1.module._orig_mod."
        ): tensor
        for name, tensor in state.items()
    }
    torch.save(
        {"n_averaged": torch.tensor(3), **{f"module.{n}": t for n, t in wrapped.items()}}, tmp_path / "w.pt"
    )
    done = mcx("convert", tmp_path / "w.pt", "--layout", "bare", "--output", tmp_path / "b.pt")
    assert done.code == 0, done.err
    assert "as wrappers have added it: _fsdp_wrapped_module, _module, _orig_mod, n_averaged" in done.err
    assert same(load(tmp_path / "b.pt"), state)


def test_with_a_model_what_is_written_has_its_names(mcx, networks: Path, tmp_path: Path) -> None:
    state = load(networks / "seed0/checkpoint-4.pt")["model_state"]
    torch.save(
        {name.replace("conv1.", "conv1._orig_mod."): t for name, t in state.items()}, tmp_path / "w.pt"
    )
    words = ("--model", "cnn", "--model-arg", "width=4", "--input-shape", "1,8,8")
    done = mcx("convert", tmp_path / "w.pt", "--layout", "bare", "--output", tmp_path / "b.pt", *words)
    assert done.code == 0, done.err
    assert same(load(tmp_path / "b.pt"), state)
