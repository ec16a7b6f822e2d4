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
    with pytest.raises(SettingsError, match=r"^num_swaps must be at least 1"):
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
    assert list(losses) == ["loss_epoch_0", "loss_epoch_1", "loss_epoch_2"]
    assert np.allclose(losses.sum(axis=1), samples["csl"], rtol=1e-5)
    api.dormant(runs / "seed0", tmp_path / "dormant")
    api.correlate(tmp_path / "joined", csl=tmp_path / "csl", dormant=tmp_path / "dormant")
    joined = api.read(tmp_path / "joined")["per_sample"]
    assert isinstance(joined, pd.DataFrame)
    assert len(joined) == 1437

    api.distance(runs / "seed0", output_dir=tmp_path / "way")
    draws_every_table(tmp_path)


def draws_every_table(folder: Path) -> None:
    """The figures of the tables above, each as its docstring says."""
    from matplotlib.figure import Figure

    draw, joined, dormant = api.draw, api.read(folder / "joined"), api.read(folder / "dormant")
    way = api.read(folder / "way")["trajectory"]
    shares = joined["evolution"][joined["evolution"]["metric"] == "dormant_prop"]
    layers = pd.DataFrame(
        {name: dormant[name].set_index("layer")["proportion"] for name in dormant if "_layers_epoch" in name}
    ).T
    ranks = pd.DataFrame(
        {
            name: dormant[name].set_index("layer")["srank"].dropna()
            for name in dormant
            if "_layers_epoch" in name
        }
    ).T
    losses = api.read(folder / "scores")["samples"].filter(regex="^loss_epoch").iloc[:5].T
    drawn = {
        draw.group: (joined["by_class"], "class_id", "csl"),
        draw.histogram: (joined["per_sample"]["csl"], "csl"),
        draw.dormant_by_group: (shares,),
        draw.dormant_shares: (shares["epoch"], shares),
        draw.dormant_layers: (shares["epoch"], layers),
        draw.dormant_ranks: (shares["epoch"], ranks),
        draw.losses: (shares["epoch"], {"five": losses}),
        draw.trajectory: (way,),
        draw.trajectory_steps: (way,),
        draw.trajectory_turns: (way,),
        draw.distances: (["a", "b"], pd.DataFrame([[0.0, 1.0], [1.0, 0.0]])),
    }
    for function, given in drawn.items():
        axis = Figure().subplots()
        function(axis, *given)  # type: ignore[operator]
        assert axis.has_data(), function
    curves = Figure().subplots()
    draw.losses(curves, shares["epoch"], {"five": losses})
    assert curves.lines[2].get_ydata().tolist() == pytest.approx(losses.iloc[:, 2].tolist())
    mesh = draw.layers_along_curve(
        Figure().subplots(), api.read(folder / "a")["layer_distances_along_curve/raw_l2"]
    )
    assert mesh.get_array().size == 61 * 5


def test_a_folder_is_read_with_the_folders_in_it(runs: Path, ends: tuple[Path, Path], tmp_path: Path) -> None:
    tables = api.read(runs)
    assert list(tables) == ["seed0/metrics", "seed1/metrics"]
    assert tables["seed1/metrics"].equals(api.read(runs / "seed1")["metrics"])
    with pytest.raises(KeyError, match="there are seed0/metrics, seed1/metrics"):
        tables["metrics"]
    api.train_curve(*ends, tmp_path / "c", epochs=1)
    assert list(api.read(tmp_path / "c")) == ["checkpoints/metrics"]


def draw_on_line(values: pd.Series, layers: pd.Series) -> None:
    """A column of lists over α, a layer each."""
    from matplotlib.figure import Figure

    mesh = api.draw.layers_on_line(Figure().subplots(), values.tolist(), [0, 0.5, 1], layers.tolist())
    assert mesh.get_array().size == 3 * len(layers)


def test_what_a_document_lists_are_tables_of_their_own(ends: tuple[Path, Path], tmp_path: Path) -> None:
    api.distance(*ends, output_dir=tmp_path / "l2")
    (name,) = [name for name in api.read(tmp_path / "l2") if name.endswith("/all_layer_distances")]
    layers = api.read(tmp_path / "l2")[name]
    assert "output.weight" in layers.index
    assert {"raw_l2", "normalized_l2"} <= set(layers)
    assert len(api.read(tmp_path / "l2")[name.partition("/")[0]].columns) < 15

    found = api.interpolate(
        *ends, num_alphas=3, by_layer=True, layers=("fc1", "output"), dpi=30, output_dir=tmp_path / "o"
    )
    tables = api.read(tmp_path / "o")
    (line,) = [name for name in tables if name.endswith("/line")]
    assert tables[line]["losses_test"].tolist() == found.result.line.losses_test.tolist()
    assert list(tables[line]["alphas"]) == [0, 0.5, 1]
    moved = tables["line_summary/layers"].query("moves == 'alone' and rest == 0")
    assert moved["max_gap.loss_test"].tolist() == [
        each.max_gap["loss_test"] for each in found.result.layers if (each.moves, each.rest) == ("alone", 0)
    ]
    features = tables["line_summary/features"]
    assert features["baseline"].tolist() == [each.baseline for each in found.result.features]
    draw_on_line(moved["gap.loss_test"], moved["layer"])
    draw_on_line(features["cosine"], features["layer"])


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (
            ["csl_my_set_run1_noise_0", "csl_ce_my_set_run1_noise_0", "lt_stays_my_set_run1_noise_0"],
            ["csl", "csl_ce", "lt_stays"],
        ),
        (["loss_a_run2_epoch_10_noise_0.2", "error_a_run2_epoch_10_noise_0.2"], ["loss_epoch_10", "error_epoch_10"]),
        (["loss_a_epoch_1", "loss_grad_a_epoch_1"], ["loss_epoch_1", "loss_grad_epoch_1"]),
        (["csl_a_run1_noise_0", "csl_a_run2_noise_0"], ["csl_a_run1_noise_0", "csl_a_run2_noise_0"]),
        (["csl_a_run1_noise_0", "csl"], ["csl_a_run1_noise_0", "csl"]),
        (["dormant_props_epoch_1", "labels_epoch_1"], ["dormant_props_epoch_1", "labels_epoch_1"]),
    ],
)  # fmt: skip
def test_names_of_samples_are_short_where_no_two_become_alike(names: list[str], short: list[str]) -> None:
    from modeconn_cli.api.results import _short

    renamed = _short(names)
    assert [renamed.get(name, name) for name in names] == short


def test_as_many_positions_as_layers_are_not_mixed_up(tmp_path: Path) -> None:
    names, ts, values = ["one", "two"], np.array([0.0, 1.0]), np.array([[0.0, 1.0], [2.0, 3.0]])
    np.savez(tmp_path / "a.npz", layer_names=names, t_values=ts, raw_l2=values)
    table = api.read(tmp_path)["a/raw_l2"]
    assert (list(table.columns), list(table.index)) == (names, [0.0, 1.0])
    assert table.loc[1.0, "one"] == 2


def test_epochs_are_in_their_own_order(tmp_path: Path) -> None:
    np.save(tmp_path / "sample_ids.npy", np.arange(3))
    for epoch in (0, 10, 2, 1):
        np.save(tmp_path / f"loss_a_epoch_{epoch}.npy", np.zeros(3, dtype=np.float32))
    assert list(api.read(tmp_path)["samples"]) == [f"loss_epoch_{epoch}" for epoch in (0, 1, 2, 10)]


@pytest.fixture(scope="module")
def branches(tmp_path_factory: pytest.TempPathFactory) -> api.Answer[Any]:
    """An experiment with branches of three seeds."""
    return api.run(
        "lmc run",
        model="mlp",
        dataset="digits",
        k1=(0, 1),
        k2=(1, 2),
        branch_seed=(1, 2, 3),
        num_alphas=3,
        lr=0.5,
        max_samples=300,
        threads=1,
        output_dir=tmp_path_factory.mktemp("branches") / "lmc",
    )


def test_branches_of_several_seeds_are_drawn_as_mean_and_spread(branches: api.Answer[Any]) -> None:
    from matplotlib.figure import Figure

    draw = api.draw
    tables = api.read(Path(branches.result.table).parent.parent)
    pairs = tables["dataframes/digits"]
    lines = pd.concat([table for name, table in tables.items() if name.endswith("processed/lines")])
    assert len(lines) == 3 * 4 * 3
    column = "sup_minus_mean_error_test"
    for found in (pairs, branches.result.pairs):
        axis = Figure().subplots()
        draw.barriers_by_k1(axis, found, column)
        curves = [line for line in axis.lines if str(line.get_label()).startswith("k2")]
        means = pairs.groupby(["k2", "k1"])[column].mean()
        assert [line.get_ydata().tolist() for line in curves] == [
            pytest.approx(means[k2].tolist()) for k2 in (1, 2)
        ]
        assert len(axis.collections) == 2  # the bands
    axis = Figure().subplots()
    draw.barriers_by_distance(axis, pairs)
    assert sum(len(points.get_offsets()) for points in axis.collections) == 12
    assert draw.barrier_map(Figure().subplots(), pairs, "distance").get_array()[0, 0] == pytest.approx(
        pairs[(pairs.k1 == 0) & (pairs.k2 == 1)]["distance"].mean()
    )
    axis = Figure().subplots()
    draw.branch_lines(axis, lines)
    drawn = next(line for line in axis.lines if str(line.get_label()).startswith("k1 = 1"))
    own = lines[(lines.k1 == 1) & (lines.k2 == 2)]
    assert drawn.get_ydata().tolist() == pytest.approx(own.groupby("alpha")["loss_test"].mean().tolist())
    assert " ± " in str(drawn.get_label())
    with pytest.raises(InputError, match="no column 'max_gap_test'"):
        draw.barriers_by_k1(axis, pairs, "max_gap_test")


def test_a_path_takes_columns_and_several_seeds() -> None:
    from matplotlib.figure import Figure

    ts = pd.Series([0.0, 0.5, 1.0])
    values = np.array([[1.0, 2.0, 1.0], [1.0, 4.0, 1.0]])
    axis = Figure().subplots()
    api.draw.path(axis, ts, values, label="line", colour="#123456")
    assert axis.lines[0].get_ydata().tolist() == [1, 3, 1]
    assert axis.get_legend_handles_labels()[1] == ["line"]
    (band,) = axis.collections
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(3 + 2**0.5)
    api.draw.path(axis, ts, 10 * pd.Series(values[1]), label="higher")
    assert axis.get_ylim()[1] > 40
    api.draw.path(axis, ts, pd.Series(values[0]), label="lower")
    assert axis.get_ylim()[1] > 40


def test_a_complete_job_shows_its_figures_again(ends: tuple[Path, Path], tmp_path: Path) -> None:
    words = {"num_alphas": 3, "output_dir": tmp_path / "o"}
    first = api.interpolate(*ends, **words)
    again = api.interpolate(*ends, **words)
    assert (len(first.figures), again.files) == (1, ())
    assert again.figures == first.figures
    assert "data:image/png;base64," in again._repr_html_()
    pdf = api.interpolate(*ends, **words, figure_format="pdf")
    assert pdf.figures[0].suffix == ".pdf"
    assert f"1 figure: {pdf.figures[0]}" in pdf._repr_html_()


def test_of_many_figures_the_others_are_named(branches: api.Answer[Any]) -> None:
    assert len(branches.figures) == 16
    page = branches._repr_html_()
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert len(set(captions)) == 6
    assert f"10 more figures: {branches.figures[6]}, " in page


def test_objects_show_themselves_on_a_line(ends: tuple[Path, Path]) -> None:
    for each in (api.distance(*ends), api.load(ends[0]), api.curve(*ends)):
        assert len(repr(each)) < 300
        assert " at 0x" not in repr(each)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 1.5}, "epochs must be a whole number, got 1.5"),
        ({"epochs": True}, "epochs must be a whole number, got True"),
        ({"lr": "high"}, "lr: 'high' is not a number"),
        ({"lr": [0.1]}, r"lr must be a number, got \[0.1\]"),
        ({"seed": (0, 1)}, "seed must be a single value"),
        ({"seeds": 1.5}, "seeds must be a whole number"),
        ({"resume": 1}, "resume must be true or false, got 1"),
        ({"schedule": 3}, "schedule must be one of"),
        ({"dry_run": True}, "'dry_run' is for the command line"),
        ({"save_dir": "x"}, "'save_dir' is another name of 'output_dir'"),
        ({"val_per_class": 0}, "val_per_class must be at least 1, got 0"),
    ],
)
def test_every_setting_is_checked_and_named_as_in_python(
    given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    words: dict[str, Any] = {"model": "mlp", "dataset": "digits", "output_dir": tmp_path / "r", **given}
    with pytest.raises(SettingsError, match=f"^{message}"):
        api.train(**words)
    assert not (tmp_path / "r").exists()


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    found = api.run(
        "train",
        model="mlp",
        dataset="digits",
        epochs=np.int64(1),
        lr=np.float64(0.1),
        seeds=np.arange(1),
        max_samples=50,
        save_dir=tmp_path / "r",
    )
    assert (tmp_path / "r/seed0/checkpoint-1.pt").exists()
    assert len(found.result.networks) == 1


@pytest.mark.parametrize(
    ("command", "text", "python"),
    [
        ("curve eval", "--num-points must be at least 2, got 1", "num_points must be at least 2, got 1"),
        ("train", "use --no-resume --overwrite to start anew", "use resume=False, overwrite=True to start anew"),
        ("lmc run", "pass --k1 0,1 --k2 1,4", "pass k1=(0, 1), k2=(1, 4)"),
        ("curve eval", "use --bn recompute", "use bn='recompute'"),
        ("l2", "pass --model my_nets:net if you trust it", "pass model='my_nets:net' if you trust it"),
        ("animate", "pass --data FILE.npz, a file of mcx", "pass data=FILE.npz, a file of mcx"),
        ("train", "pass --save-dir DIR", "pass output_dir=DIR"),
    ],
)  # fmt: skip
def test_errors_speak_of_keywords(command: str, text: str, python: str) -> None:
    from modeconn_cli.api.words import in_python
    from modeconn_cli.cli.complete import settings_of

    assert in_python(text, settings_of(command), advice="use" in text or "pass" in text) == python


def test_every_function_notes_its_hint(ends: tuple[Path, Path], tmp_path: Path) -> None:
    for call in (
        lambda: api.load(ends[0], mdoel="mlp"),
        lambda: api.read(tmp_path / "missing"),
        lambda: api.run("lmc-run"),
        lambda: api.load(ends[0]).ids("tset"),
        lambda: api.curve(*ends, mdoel="mlp"),
    ):
        with pytest.raises((SettingsError, InputError)) as caught:
            call()
        assert caught.value.__notes__ == [caught.value.hint]
    with pytest.raises(SettingsError, match="between 0 and 1"):
        api.curve(*ends).at(1.5)


class Net(nn.Module):
    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)  # type: ignore[no-any-return]


def test_a_network_may_be_a_class(tmp_path: Path) -> None:
    answer = api.train(
        model=Net, dataset="digits", epochs=1, max_samples=50, threads=1, output_dir=tmp_path / "r"
    )
    network = api.load(answer.result.networks[0].checkpoint, model=Net)
    assert isinstance(network.model, Net)
    assert network.about.model == f"{__name__}:Net"
    for wrong in (Net(), lambda: Net()):
        with pytest.raises(SettingsError, match=r"^model (must be a name|is <lambda>|is .*lambda)"):
            api.train(model=wrong, dataset="digits", output_dir=tmp_path / "q")
    with pytest.raises(SettingsError, match="a network in memory") as caught:
        api.distance(Net(), Net())
    assert "api.calculate_l2_distance(first, second)" in caught.value.hint


def test_a_network_of_a_notebook_is_in_main(tmp_path: Path) -> None:
    code = (
        "from torch import nn\nfrom modeconn_cli import api\n"
        "class Net(nn.Sequential):\n    def __init__(self): super().__init__(nn.Flatten(), nn.Linear(64, 10))\n"
        "a = api.train(model=Net, dataset='digits', epochs=1, max_samples=50, threads=1, output_dir='r')\n"
        "print(type(api.load(a.result.networks[0].checkpoint, model='__main__:Net').model) is Net)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr


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


def page_of_examples() -> list[str]:
    """The blocks of code of the page on Python."""
    page = (Path(__file__).parent.parent / "docs" / "python.md").read_text("utf-8")
    return re.findall(r"```python\n(.*?)```", page, flags=re.S)


@pytest.mark.slow
def test_the_page_of_examples_has_types(tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text("\n".join(page_of_examples()))
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file",
        "pyproject.toml",
        str(tmp_path / "page.py"),
    ]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_page_of_examples_runs(tmp_path: Path) -> None:
    """As a script, whose own network is in `__main__`."""
    (tmp_path / "page.py").write_text("\n".join(page_of_examples()))
    done = subprocess.run([sys.executable, "page.py"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "<svg" in (tmp_path / "branches.svg").read_text("utf-8")
    assert (tmp_path / "line.pdf").read_bytes().startswith(b"%PDF")
