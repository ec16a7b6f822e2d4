"""`mcx curve` as its user sees it: the neuron-swap story on two small networks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from modeconn_cli.engine.networks import checkpoints, models
from modeconn_cli.engine.networks.models import Architecture

SERIES = ("tr_loss", "tr_nll", "tr_err", "te_loss", "te_nll", "te_err")


@pytest.fixture(scope="module")
def story(networks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A swap of seed0, a curve to it and a curve to seed1, each trained for three epochs."""
    from modeconn_cli.cli import app

    folder = tmp_path_factory.mktemp("story")
    seed0, seed1 = (networks / f"seed{k}/checkpoint-4.pt" for k in (0, 1))
    swapped = folder / "mid2/checkpoint-4.pt"
    assert app.main(["swap", "--checkpoint", str(seed0), "--output", str(swapped), "-q"]) == 0
    for name, end in (("swap", swapped), ("seeds", seed1)):
        words = ["--endpoint0", str(seed0), "--endpoint1", str(end), "--output-dir", str(folder / name)]
        assert (
            app.main(["curve", "train", *words, "--epochs", "3", "--lr", "0.05", "--wd", "0.001", "-q"]) == 0
        )
    return folder


def curve(story: Path, name: str) -> Path:
    return story / name / "checkpoints/checkpoint-3.pt"


def test_training_writes_the_documented_distance_file(story: Path, networks: Path) -> None:
    text = (story / "swap/checkpoints/endpoint_l2_distance.txt").read_text()
    expected = (
        "L2 Distance Between Endpoints\n={50}\n\nEndpoint 0: (.*)\nEndpoint 1: (.*)\n\n"
        r"Total L2 distance:      \d+\.\d{6}\nNormalized L2 distance: \d+\.\d{6}\nTotal parameters:       [\d,]+\n"
    )
    found = re.fullmatch(expected, text)
    assert found is not None
    assert found.groups() == (str(networks / "seed0/checkpoint-4.pt"), str(story / "mid2/checkpoint-4.pt"))


def test_training_prints_the_documented_block(mcx, networks: Path, tmp_path: Path) -> None:
    ends = [networks / f"seed{k}/checkpoint-4.pt" for k in (0, 1)]
    folder = tmp_path / "checkpoints"
    done = mcx(
        "curve",
        "train",
        "--endpoint0",
        ends[0],
        "--endpoint1",
        ends[1],
        "--output-dir",
        folder,
        "--epochs",
        "0",
    )
    assert done.code == 0
    assert done.out.startswith((folder / "endpoint_l2_distance.txt").read_text())
    # A folder already named checkpoints is used as it is.
    assert (folder / "checkpoint-0.pt").exists()


def test_evaluation_writes_the_published_arrays(mcx, story: Path, tmp_path: Path) -> None:
    done = mcx(
        "curve",
        "eval",
        "--curve-checkpoint",
        curve(story, "seeds"),
        "--output-dir",
        tmp_path,
        "--num-points",
        "5",
    )
    assert done.code == 0
    with np.load(tmp_path / "curve.npz") as file:
        arrays = dict(file)
    assert np.array_equal(arrays["ts"], np.linspace(0, 1, 5))
    for name in SERIES:
        values = arrays[name]
        assert values.shape == (5,)
        assert arrays[f"{name}_min"] == values.min()
        assert arrays[f"{name}_max"] == values.max()
        assert arrays[f"{name}_avg"] == values.mean()
        dl = arrays["dl"]
        integral = (0.5 * (values[:-1] + values[1:]) * dl[1:]).sum() / dl.sum()
        assert arrays[f"{name}_int"] == pytest.approx(integral, rel=1e-12)
    # The weight decay of the loss is the curve's own.
    expected = arrays["te_nll"] + 0.5 * 0.001 * arrays["l2_norm"] ** 2
    assert np.allclose(arrays["te_loss"], expected, rtol=1e-12)
    assert np.allclose(arrays["te_acc"], 100 - arrays["te_err"])
    summary = json.loads((tmp_path / "curve_summary.json").read_text())
    assert set(summary["barriers"]) == {
        "max_gap", "sup_minus_mean", "midpoint", "max_minus_max_end", "max_minus_min_end",
    }  # fmt: skip
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_each_position_is_the_extracted_network_there(mcx, story: Path, tmp_path: Path) -> None:
    words = ("--curve-checkpoint", curve(story, "seeds"))
    mcx("curve", "eval", *words, "--output-dir", tmp_path, "--num-points", "5", "-q")
    with np.load(tmp_path / "curve.npz") as file:
        norms, losses = file["l2_norm"], file["te_nll"]
    assert mcx("curve", "extract", *words, "--t", "0.25", "--output", tmp_path / "point.pt").code == 0
    taken = checkpoints.read(tmp_path / "point.pt")
    model = models.build(Architecture("cnn", 10, (1, 8, 8), {"width": 4}))
    model.load_state_dict(taken.state)
    norm = float(parameters_to_vector(model.parameters()).detach().double().norm())
    assert norms[1] == pytest.approx(norm, rel=1e-6)
    line = ("--endpoint0", tmp_path / "point.pt", "--endpoint1", tmp_path / "point.pt")
    assert (
        mcx("curve", "eval", *line, "--output-dir", tmp_path / "again", "--num-points", "2", "-q").code == 0
    )
    with np.load(tmp_path / "again/curve.npz") as file:
        assert file["te_nll"][0] == pytest.approx(losses[1], rel=1e-6)


def test_the_ends_of_a_curve_measure_like_its_endpoints(
    mcx, story: Path, networks: Path, tmp_path: Path
) -> None:
    mcx(
        "curve",
        "eval",
        "--curve-checkpoint",
        curve(story, "seeds"),
        "--output-dir",
        tmp_path,
        "--num-points",
        "3",
        "-q",
    )
    with np.load(tmp_path / "curve.npz") as file:
        errors = file["te_err"][[0, -1]]
    for k, error in enumerate(errors):
        rows = (networks / f"seed{k}/metrics.jsonl").read_text().splitlines()
        assert 100 - error == pytest.approx(json.loads(rows[-1])["test_accuracy"], abs=1e-9)


def test_f8_a_network_and_itself_have_no_barrier_and_no_length(mcx, networks: Path, tmp_path: Path) -> None:
    end = networks / "seed0/checkpoint-4.pt"
    words = ("--endpoint0", end, "--endpoint1", end, "--output-dir", tmp_path, "--num-points", "5")
    done = json.loads(mcx("curve", "eval", *words, "--json").out)
    assert all(value == 0 for row in done["barriers"].values() for value in row.values())
    assert done["length"] == 0
    assert "nonfinite" not in done


def test_analysis_writes_the_documented_arrays_and_summary(
    mcx, story: Path, networks: Path, tmp_path: Path
) -> None:
    done = mcx(
        "curve", "analyze", "--curve-checkpoint", curve(story, "swap"),
        "--original-checkpoint", networks / "seed0/checkpoint-4.pt",
        "--swap-metadata", story / "mid2/checkpoint-4_metadata.json",
        "--output-dir", tmp_path, "--num-points", "7",
    )  # fmt: skip
    assert (done.code, "warning" in done.err) == (0, False)
    with np.load(tmp_path / "layer_distances_along_curve.npz") as file:
        arrays = dict(file)
    assert arrays["layer_names"].tolist() == ["conv1", "conv2", "conv3", "fc1", "output"]
    assert arrays["layer_types"].tolist() == ["conv", "conv", "conv", "fc", "fc"]
    for name in ("normalized_l2", "relative", "raw_l2", "modulo_swap_l2", "from_line_l2", "norm_difference"):
        assert arrays[name].shape == (7, 5)
    assert (arrays["raw_l2"][0] == 0).all()
    assert (arrays["modulo_swap_l2"][-1] == 0).all()
    assert (arrays["raw_l2"][-1] > 0).tolist() == [False, False, True, True, False]
    assert np.allclose(
        arrays["normalized_l2"] * np.sqrt(arrays["layer_params"]), arrays["raw_l2"], rtol=1e-12
    )
    assert str(arrays["swapped_layer_name"]) == "conv3"
    summary = json.loads((tmp_path / "analysis_summary.json").read_text())
    metadata = json.loads((story / "mid2/checkpoint-4_metadata.json").read_text())
    assert summary["neuron_pairs"] == metadata["neuron_pairs"]
    assert (summary["num_t_points"], summary["swapped_layer"]) == (7, "conv3")
    shares = [summary[f"share_{name}"] for name in ("swapped", "neighbours", "elsewhere")]
    assert sum(shares) == pytest.approx(1)
    squares = arrays["raw_l2"][3] ** 2
    assert shares[0] == pytest.approx(squares[2] / squares.sum())
    assert summary["participation_ratio"] == pytest.approx(squares.sum() ** 2 / (squares**2).sum())


def test_analysis_warns_where_the_curve_begins_elsewhere(
    mcx, story: Path, networks: Path, tmp_path: Path
) -> None:
    words = (
        "--curve-checkpoint",
        curve(story, "swap"),
        "--original-checkpoint",
        networks / "seed1/checkpoint-4.pt",
    )
    done = mcx("curve", "analyze", *words, "--output-dir", tmp_path)
    assert (done.code, "endpoint 0 of the curve is not" in done.err) == (0, True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("{}", "lacks layer_name"),
        ('{"layer_name": "conv9", "neuron_pairs": [[0, 1]]}', "conv9"),
    ],
)
def test_f5_broken_swap_metadata_is_named(
    mcx, story: Path, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "m.json").write_text(content)
    words = ("--curve-checkpoint", curve(story, "swap"), "--swap-metadata", tmp_path / "m.json")
    done = mcx("curve", "analyze", *words, "--output-dir", tmp_path / "out")
    assert (done.code, done.out, message in done.err) == (3, "", True)


def test_f4_a_network_is_no_curve_and_a_curve_no_network(
    mcx, story: Path, networks: Path, tmp_path: Path
) -> None:
    network = networks / "seed0/checkpoint-4.pt"
    done = mcx("curve", "eval", "--curve-checkpoint", network, "--output-dir", tmp_path)
    assert (done.code, "has no curve points" in done.err) == (3, True)
    ends = ("--endpoint0", network, "--endpoint1", curve(story, "seeds"))
    assert mcx("curve", "train", *ends, "--output-dir", tmp_path).code == 3
    assert mcx("l2", network, curve(story, "seeds")).code == 3


@pytest.mark.parametrize(
    "words",
    [
        ("eval", "--num-points", "1"),
        ("eval", "--bn", "lerp"),
        ("extract", "--t", "1.5", "--output", "x.pt"),
        ("extract", "--output", "x.pt"),
    ],
)
def test_settings_without_a_meaning_are_refused(
    mcx, story: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    where = ("--output-dir", tmp_path) if words[0] == "eval" else ()
    done = mcx("curve", *words, "--curve-checkpoint", curve(story, "seeds"), *where)
    assert (done.code, done.out) == (2, "")


def test_e12_a_checkpoint_of_another_size_is_refused_with_all_mismatches(
    mcx, networks: Path, tmp_path: Path
) -> None:
    first = networks / "seed0/checkpoint-4.pt"
    content = torch.load(first, weights_only=True)
    content["model_state"]["output.weight"] = torch.zeros(7, 16)
    content["model_state"]["output.bias"] = torch.zeros(7)
    with (tmp_path / "other.pt").open("wb") as stream:
        torch.save(content, stream)
    done = mcx(
        "curve", "train", "--endpoint0", first, "--endpoint1", tmp_path / "other.pt", "--output-dir", tmp_path
    )
    assert done.code == 3
    assert "2 of 10 tensors differ in shape" in done.err
    assert "output.weight (10, 16) and (7, 16)" in done.err


def test_f3_batch_norm_policies_are_recorded_and_decide_the_result(mcx, tmp_path: Path) -> None:
    words = (
        "train",
        "--model",
        "cnn",
        "--model-arg",
        "width=4,norm=batch",
        "--dataset",
        "digits",
        "--seeds",
        "0,1",
    )
    mcx(*words, "--epochs", "3", "--lr", "0.1", "--output-dir", tmp_path, "-q")
    ends = [tmp_path / f"seed{k}/checkpoint-3.pt" for k in (0, 1)]
    found = {}
    for policy in ("recompute", "keep", "lerp", "none"):
        words = ("--endpoint0", ends[0], "--endpoint1", ends[1], "--bn", policy, "--num-points", "3")
        done = mcx("curve", "eval", *words, "--output-dir", tmp_path / policy, "--json")
        found[policy] = json.loads(done.out)
        assert found[policy]["bn"]["policy"] == policy
        assert found[policy]["barriers"]["max_gap"]["loss_test"] >= 0
    values = {policy: row["statistics"]["te_nll"]["max"] for policy, row in found.items()}
    assert len(set(values.values())) == 4
    # With statistics of their own weights the ends are (nearly) their plain evaluation, which stands beside.
    plain = found["lerp"]["endpoints"][0]["te_nll"]
    assert found["lerp"]["statistics"]["te_nll"]["start"] == pytest.approx(plain, abs=1e-9)
    assert found["recompute"]["passes"]["statistics"] == 3 * 12


def test_half_way_is_one_half_whatever_positions_are_asked_for(mcx, story: Path, tmp_path: Path) -> None:
    words = ("curve", "analyze", "--curve-checkpoint", curve(story, "seeds"), "--json")
    found = [
        json.loads(mcx(*words, "--num-points", str(n), "--output-dir", tmp_path / str(n)).out)
        for n in (2, 4, 61)
    ]
    for other in found[:2]:
        assert other["participation_ratio"] == pytest.approx(found[2]["participation_ratio"], rel=1e-9)
        for a, b in zip(other["layers"], found[2]["layers"], strict=True):
            assert a["normalized_l2_middle"] == pytest.approx(b["normalized_l2_middle"], rel=1e-9)


def test_a_line_has_the_weight_decay_of_its_endpoints(mcx, networks: Path, tmp_path: Path) -> None:
    ends = (
        "--endpoint0",
        networks / "seed0/checkpoint-4.pt",
        "--endpoint1",
        networks / "seed1/checkpoint-4.pt",
    )
    done = json.loads(
        mcx("curve", "eval", *ends, "--num-points", "3", "--output-dir", tmp_path, "--json").out
    )
    assert done["wd"] == 5e-4


@pytest.mark.parametrize("damage", ["kind", "shape", "buffers"])
def test_f4_a_curve_that_is_none_is_refused(mcx, story: Path, tmp_path: Path, damage: str) -> None:
    content = torch.load(curve(story, "seeds"), weights_only=True)
    if damage == "kind":
        content["curve"] = "spline"
    elif damage == "shape":
        content["control_points"][1]["conv1.bias"] = torch.zeros(7)
    else:
        content["buffers"] = 5
    with (tmp_path / "c.pt").open("wb") as stream:
        torch.save(content, stream)
    done = mcx("curve", "eval", "--curve-checkpoint", tmp_path / "c.pt", "--output-dir", tmp_path / "out")
    assert (done.code, done.out) == (3, "")


def test_a_point_taken_twice_is_already_complete(mcx, story: Path, tmp_path: Path) -> None:
    words = ("curve", "extract", "--curve-checkpoint", curve(story, "seeds"), "--output", tmp_path / "p.pt")
    assert mcx(*words, "--t", "0.5").code == 0
    before = (tmp_path / "p.pt").read_bytes()
    again = mcx(*words, "--t", "0.5")
    assert (again.code, "already complete" in again.err, (tmp_path / "p.pt").read_bytes()) == (
        0,
        True,
        before,
    )
    assert mcx(*words, "--t", "0.25").code == 5


def test_print_config_shows_what_the_checkpoint_says(mcx, networks: Path) -> None:
    end = networks / "seed0/checkpoint-4.pt"
    out = mcx("swap", "--checkpoint", end, "--verify", "--print-config").out
    assert f"model: cnn  # checkpoint {end}" in out
    assert f"dataset: digits  # checkpoint {end}" in out
    assert "layer_depth: mid  # default" in out
    quick = mcx("swap", "--checkpoint", end, "--print-config").out  # looks at no data
    assert f"model: cnn  # checkpoint {end}" in quick
    assert "# dataset:  # default" in quick


def test_a_curve_stops_early_by_its_validation_loss(mcx, networks: Path, tmp_path: Path) -> None:
    ends = [networks / f"seed{k}/checkpoint-4.pt" for k in (0, 1)]
    words = (
        "curve",
        "train",
        "--endpoint0",
        ends[0],
        "--endpoint1",
        ends[1],
        "--epochs",
        "9",
        "--patience",
        "1",
    )
    refused = mcx(*words, "--output-dir", tmp_path / "none")
    assert (refused.code, "validation images" in refused.err) == (2, True)
    done = json.loads(
        mcx(*words, "--min-delta", "100", "--val-size", "100", "--output-dir", tmp_path, "--json").out
    )
    assert done["epoch"] == 2
    assert (tmp_path / "checkpoints/checkpoint-2.pt").exists()


def test_a_network_that_is_not_finite_is_extracted_once(mcx, networks: Path, tmp_path: Path) -> None:
    ends = [networks / "seed0/checkpoint-4.pt", tmp_path / "b.pt"]
    broken = torch.load(ends[0], weights_only=True)
    next(iter(broken["model_state"].values())).fill_(torch.nan)
    torch.save(broken, ends[1])
    words = (
        "curve",
        "extract",
        "--endpoint0",
        ends[0],
        "--endpoint1",
        ends[1],
        "--t",
        "0.5",
        "--output",
        tmp_path / "p.pt",
    )
    assert mcx(*words).code == 3
    assert mcx(*words, "--allow-nonfinite").code == 0
    again = mcx(*words, "--allow-nonfinite")
    assert (again.code, "already complete" in again.err) == (0, True), again.err


def test_figures_are_written_in_the_format_asked_for_and_again_in_another(
    mcx, ends: list[Path], tmp_path: Path
) -> None:
    words = ("curve", "eval", "--endpoint0", ends[0], "--endpoint1", ends[1], "--num-points", "3")
    words += ("--max-samples", "50", "--output-dir", tmp_path)

    def listed() -> set[str]:
        manifest = json.loads((tmp_path / ".mcx/curve-eval/manifest.json").read_text())
        return {entry["file"] for entry in manifest["files"]}

    done = mcx(*words, "--figure-format", "pdf", "--json")
    assert (done.code, json.loads(done.out)["figure"]) == (0, str(tmp_path / "curve.pdf"))
    assert (tmp_path / "curve.pdf").read_bytes().startswith(b"%PDF-")
    assert not (tmp_path / "curve.png").exists()
    assert listed() == {"curve.npz", "curve_summary.json", "curve.pdf"}
    again = mcx(*words, "--figure-format", "pdf")
    assert "already complete" in again.err
    other = mcx(*words, "--dpi", "60")
    assert (other.code, "drawn again (figure_format was pdf, now png" in other.err) == (0, True)
    assert int.from_bytes((tmp_path / "curve.png").read_bytes()[16:20], "big") == 204  # 3.4 inches
    assert "curve.png" in listed()
    assert "already complete" in mcx(*words, "--dpi", "60").err
    (tmp_path / "curve.png").write_bytes(b"cut off by a kill")
    assert mcx(*words, "--dpi", "50").code == 0
    assert int.from_bytes((tmp_path / "curve.png").read_bytes()[16:20], "big") == 170
    assert mcx(*words, "--no-resume", "--overwrite").code == 0
    assert not (tmp_path / "curve.pdf").exists()


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (("l2", "a.pt", "b.pt"), "without --output-dir"),
        (
            ("train", "--model", "mlp", "--dataset", "digits", "--output-dir", "x"),
            "without --classes-per-task",
        ),
        (("curvature", "--checkpoint", "a.pt"), "without --sweep-h or --sweep-niter"),
        (("animate", "--data", "a.npz", "--output", "a.gif"), "without --heatmap"),
        (("lmc", "interpolate", "a.pt", "b.pt"), "without --output-dir"),
    ],
)
def test_a_format_is_refused_where_no_figure_is_drawn(mcx, words: tuple[str, ...], where: str) -> None:
    done = mcx(*words, "--figure-format", "svg")
    assert (done.code, f"--figure-format has no effect {where}" in done.err) == (2, True)
