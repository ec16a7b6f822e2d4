"""The commands as Python functions: what the command line gives, and what only Python has."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from modeconn_cli import api
from modeconn_cli.engine.errors import InputError, SettingsError


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trained networks on the digits, with batch norm."""
    folder = tmp_path_factory.mktemp("api") / "runs"
    api.train(
        model="cnn",
        dataset="digits",
        epochs=2,
        save_freq=1,
        seeds=(0, 1),
        threads=1,
        lr=0.1,
        output_dir=folder,
    )
    return folder


@pytest.fixture(scope="module")
def ends(runs: Path) -> tuple[Path, Path]:
    return runs / "seed0" / "checkpoint-2.pt", runs / "seed1" / "checkpoint-2.pt"


def without_time(document: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(document, default=str))
    plain.get("provenance", {}).pop("time", None)
    return plain


def test_a_function_gives_what_its_command_prints(
    mcx: Callable[..., Any], ends: tuple[Path, Path], tmp_path: Path
) -> None:
    found = api.distance(*ends, metric="l2,cosine", show_top_k=3)
    printed = mcx("l2", *ends, "--metric", "l2,cosine", "--show-top-k", "3", "--json")
    assert without_time(found.document()) == without_time(json.loads(printed.out))
    assert str(found) == mcx("l2", *ends, "--metric", "l2,cosine", "--show-top-k", "3").out
    assert (found.files, found.warnings) == ((), ())

    swapped = api.swap(ends[0], tmp_path / "s.pt", num_swaps=2)
    assert swapped.result.verification.is_equivalent
    assert {path.name for path in swapped.files} == {"s.pt", "s_metadata.json", "s_layer_distances.json"}
    assert any("exchanging" in note for note in swapped.notes)


def test_errors_are_those_of_the_command_with_their_hints(ends: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown setting 'num_swap'") as caught:
        api.swap(ends[0], tmp_path / "s.pt", num_swap=2)
    assert caught.value.hint == "did you mean 'num_swaps'?"
    assert caught.value.__notes__ == [caught.value.hint]
    with pytest.raises(InputError, match="does not exist"):
        api.distance(ends[0], tmp_path / "missing.pt")
    with pytest.raises(SettingsError, match="unknown command 'swpa'"):
        api.run("swpa")
    with pytest.raises(SettingsError, match="--num-swaps must be at least 1"):
        api.swap(ends[0], tmp_path / "s.pt", num_swaps=0)
    with pytest.raises(SettingsError, match="on the command line only"):
        api.run("completion", shell="bash")


def test_progress_is_heard(tmp_path: Path) -> None:
    heard: list[tuple[int, int, float]] = []

    def listen(done: int, total: int, fields: Mapping[str, Any], unit: str) -> None:
        if unit == "epoch":
            heard.append((done, total, fields["train_loss"]))

    api.train(model="mlp", dataset="digits", epochs=3, threads=1, output_dir=tmp_path / "r", progress=listen)
    assert [each[:2] for each in heard] == [(1, 3), (2, 3), (3, 3)]
    log = api.read(tmp_path / "r" / "seed0")["metrics"]
    assert np.allclose([each[2] for each in heard], log["train_loss"].dropna().tail(3))


def test_a_network_comes_with_its_data_ids_and_transform(ends: tuple[Path, Path]) -> None:
    network = api.load(ends[0], device="cpu")
    assert not network.model.training
    assert len(network.ids("test")) == 360
    assert (np.diff(network.ids()) > 0).all()
    assert len(network.ids()) == len(network.labels()) == 1437
    right = sum(
        int((network.model(batch.images).argmax(1) == batch.labels).sum())
        for batch in network.batches("test")
    )
    log = api.read(ends[0].parent)["metrics"]
    assert np.isclose(100 * right / 360, log["test_accuracy"].iloc[-1])
    assert network.transform == network.samples("test").transform


OWN = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A network of the user's own, with batch norm."""
    (tmp_path / "my_net_for_api.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "my_net_for_api:net"


def test_a_bare_network_has_no_data(own: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    network = api.load(tmp_path / "a.pt", model=own, input_shape=(1, 8, 8))
    assert network.data is None
    with pytest.raises(ValueError, match="names no data"):
        network.ids()
    assert torch.equal(network.model[4].weight, model[4].weight)


def test_a_line_is_the_mean_of_its_ends_with_statistics_of_its_own(own: str, tmp_path: Path) -> None:
    trained = api.train(
        model=own, dataset="digits", epochs=1, seeds=(0, 1), threads=1, output_dir=tmp_path / "r"
    )
    ends = [Path(network.checkpoint) for network in trained.result.networks]
    line = api.curve(*ends, model=own, batch_size=100)
    first, second, middle = line.at(0.0), line.at(1.0), line.at(0.5)
    for name, parameter in middle.named_parameters():
        mean = torch.lerp(dict(first.named_parameters())[name], dict(second.named_parameters())[name], 0.5)
        assert torch.allclose(parameter, mean, atol=1e-7)
    # Statistics of the training images under the weights there: one pass in train mode, weighted by batches.
    network = api.load(ends[0], model=own)
    plain = copy.deepcopy(middle).train()
    norms = [module for module in plain.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    for module in norms:
        module.reset_running_stats()
        module.momentum = None
    with torch.no_grad():
        plain(next(iter(network.batches("fit", batch_size=10_000))).images)
    for module, own in zip(
        norms, [m for m in middle.modules() if isinstance(m, nn.BatchNorm2d)], strict=True
    ):
        assert torch.allclose(module.running_mean, own.running_mean, atol=1e-5)
    assert line.kind == "line"


def test_every_result_folder_is_read(ends: tuple[Path, Path], runs: Path, tmp_path: Path) -> None:
    line = api.curve(*ends)
    heard = line.evaluate(tmp_path / "line", num_points=5)
    tables = api.read(tmp_path / "line")
    assert list(tables["curve"]["ts"]) == [0, 0.25, 0.5, 0.75, 1]
    assert tables["curve_summary"]["num_points"].item() == 5
    assert [path.name for path in heard.files] == ["curve.npz", "curve_summary.json", "curve.png"]
    api.train_curve(*ends, tmp_path / "c", epochs=1, save_freq=1)
    api.run(
        "curve analyze",
        curve_checkpoint=tmp_path / "c/checkpoints/checkpoint-1.pt",
        output_dir=tmp_path / "a",
    )
    layers = next(table for name, table in api.read(tmp_path / "a").items() if "normalized_l2" in name)
    assert 61 in layers.shape

    api.score(runs / "seed0", tmp_path / "scores")
    api.aggregate(tmp_path / "scores", tmp_path / "csl")
    samples = api.read(tmp_path / "csl")["samples"]
    assert (samples.index.name, len(samples)) == ("sample_id", 1437)
    losses = api.read(tmp_path / "scores")["samples"].filter(regex=r"^loss_(?!grad|ce)")
    summed = samples.filter(regex=r"^csl_(?!ce|per|input)").iloc[:, 0]
    assert np.allclose(losses.sum(axis=1), summed, rtol=1e-5)
    api.dormant(runs / "seed0", tmp_path / "dormant")
    api.correlate(tmp_path / "joined", csl=tmp_path / "csl", dormant=tmp_path / "dormant")
    joined = api.read(tmp_path / "joined")["per_sample"]
    assert isinstance(joined, pd.DataFrame)
    assert len(joined) == 1437


def test_a_notebook_shows_tables_and_figures(ends: tuple[Path, Path], tmp_path: Path) -> None:
    found = api.interpolate(*ends, num_alphas=5, output_dir=tmp_path / "o")
    shown = found._repr_html_()
    assert "<table>" in shown or "<pre>" in shown
    assert "data:image/png;base64," in shown
    assert "<img" not in api.distance(*ends)._repr_html_()


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no tables"):
        api.read(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        api.read(tmp_path / "missing")


def test_the_import_needs_neither_torch_nor_numpy() -> None:
    code = "import sys, modeconn_cli.api; print({'torch', 'numpy', 'pandas', 'typer'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_figures_are_drawn_into_axes_of_ones_own() -> None:
    from matplotlib.figure import Figure

    from modeconn_cli.api import draw

    with draw.looks():
        left, right = Figure().subplots(1, 2)
        draw.path(left, np.linspace(0, 1, 5), np.array([0.1, 0.5, 1.0, 0.5, 0.1]))
        draw.distances(right, ["a", "b"], np.array([[0.0, 1.0], [1.0, 0.0]]))
    assert left.lines
    assert len(right.images) == 1
    for name in draw.__all__:
        assert getattr(draw, name).__doc__, name


@pytest.mark.slow
def test_the_page_of_examples_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parent.parent / "docs" / "python.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.S):
        exec(block, names)
    assert "<svg" in Path("curve.svg").read_text("utf-8")
    assert Path("line.pdf").read_bytes().startswith(b"%PDF")
