"""`mcx lmc`: the branches cost what the algorithm says, the numbers are those of the line, nothing is done twice."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from modeconn_cli.engine import datasets
from modeconn_cli.engine.commands.lmc import pairs
from modeconn_cli.engine.commands.lmc import run as lmc_run
from modeconn_cli.engine.commands.lmc.line import alphas
from modeconn_cli.engine.networks import checkpoints, models
from modeconn_cli.engine.networks.models import Architecture
from modeconn_cli.engine.paths.opened import OpenedPath, line_between
from modeconn_cli.engine.settings.shared import DataSettings

RUN = (
    "lmc", "run", "--model", "mlp", "--model-arg", "width=8,depth=1", "--dataset", "digits", "--max-samples", "200",
    "--lr", "0.1", "--k1", "0,2", "--k2", "1,2", "--num-alphas", "5",
)  # fmt: skip


@pytest.fixture
def folder(mcx: Callable, tmp_path: Path) -> Path:
    done = mcx(*RUN, "--output-dir", tmp_path)
    assert done.code == 0, done.err
    return tmp_path


def pair(folder: Path, k1: int, k2: int) -> dict:
    return json.loads((folder / f"processed/digits_batch_128_k1_{k1}_k2_{k2}.json").read_text())


def test_the_experiment_costs_what_the_algorithm_says(mcx: Callable, folder: Path) -> None:
    assert json.loads(mcx(*RUN, "--output-dir", folder, "--json").out)["trained_epochs"] == 0
    main = {path.name for path in (folder / "checkpoints/main").glob("*.pt")}
    assert main == {f"checkpoint-{e}.pt" for e in range(5)}
    for k1 in (0, 2):
        branch = {path.name for path in (folder / f"checkpoints/k1_{k1}").glob("*.pt")}
        assert branch == {f"checkpoint-{e}.pt" for e in (k1 + 1, k1 + 2)}


def test_a_branch_has_another_order_of_the_data_from_the_same_start(folder: Path) -> None:
    states = {
        name: checkpoints.read(folder / f"checkpoints/{name}.pt").state
        for name in ("main/checkpoint-0", "main/checkpoint-1", "k1_0/checkpoint-1")
    }
    assert not torch.equal(
        states["main/checkpoint-1"]["fc1.weight"], states["k1_0/checkpoint-1"]["fc1.weight"]
    )
    optimizer = checkpoints.read(folder / "checkpoints/k1_2/checkpoint-3.pt").optimizer_state
    assert optimizer is not None
    assert "momentum_buffer" in optimizer["state"][0]


def test_a_pair_holds_the_documented_keys_and_the_numbers_of_its_line(folder: Path) -> None:
    found = pair(folder, 2, 1)
    assert {"dataset", "k1", "k2", "epoch", "distance", "alphas", "barriers", "branch_seed", "seed"} <= set(
        found
    )
    assert (found["epoch"], found["alphas"]) == (3, [0, 0.25, 0.5, 0.75, 1])
    data = datasets.load(DataSettings(dataset="digits", max_samples=200), torch.device("cpu"))
    a, b = (
        checkpoints.read(folder / f"checkpoints/{name}/checkpoint-3.pt").state for name in ("main", "k1_2")
    )
    model = models.build(Architecture("mlp", 10, (1, 8, 8), {"width": 8, "depth": 1})).double()
    assert isinstance(data.test.images, torch.Tensor)
    images = (data.test.images.double() / 255 - 0.5) / 0.5
    for alpha, loss, share in zip(
        found["alphas"], found["losses_test"], found["accuracy_lst_test"], strict=True
    ):
        model.load_state_dict({n: (1 - alpha) * a[n].double() + alpha * b[n].double() for n in a})
        logits = model(images).detach()
        assert loss == pytest.approx(float(F.cross_entropy(logits, data.test.labels)), rel=1e-5)
        assert share == pytest.approx(float((logits.argmax(1) == data.test.labels).double().mean()))
    distance = np.sqrt(sum(float(((a[n].double() - b[n].double()) ** 2).sum()) for n in a))
    assert found["distance"] == pytest.approx(distance, rel=1e-9)
    values, ts = np.array(found["losses_test"]), np.array(found["alphas"])
    gap = (values - ((1 - ts) * values[0] + ts * values[-1])).max()
    assert found["barriers"]["max_gap"]["loss_test"] == pytest.approx(max(gap, 0), abs=1e-12)


def test_two_runs_give_identical_files(mcx: Callable, folder: Path, tmp_path: Path) -> None:
    assert mcx(*RUN, "--output-dir", tmp_path / "again", "-q").code == 0
    for name in (
        "processed/digits_batch_128_k1_0_k2_2.json",
        "dataframes/digits.csv",
        "figures/digits_distance.png",
    ):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_more_branches_epochs_and_positions_cost_only_what_is_new(mcx: Callable, folder: Path) -> None:
    kept = {path: path.read_bytes() for path in folder.glob("checkpoints/*/*.pt")}
    words = [*RUN, "--k1", "0,1,2", "--k2", "1,2,3", "--num-alphas", "9", "--output-dir", folder, "--json"]
    done = json.loads(mcx(*words).out)
    # main 4 -> 5; k1=0 and k1=2 one more epoch each; k1=1 three epochs.
    assert done["trained_epochs"] == 1 + 1 + 1 + 3
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert pair(folder, 0, 1)["alphas"] == [k / 8 for k in range(9)]
    assert len(done["pairs"]) == 9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--branch-seed", "0"), "would reproduce it"),
        (("--k1", "9", "--max-epochs", "5"), "beyond the main branch"),
        (("--k1", "3", "--k2", "3", "--max-epochs", "5"), "beyond the main branch"),
        (("--num-alphas", "4"), "leaves out the middle"),
        (("--preset", "digit"), "did you mean 'digits'"),
    ],
)
def test_settings_without_a_meaning_are_refused(
    mcx: Callable, tmp_path: Path, words: tuple, message: str
) -> None:
    done = mcx(*RUN, *words, "--output-dir", tmp_path / "new")
    assert (done.code, done.out, message in done.err) == (2, "", True)


def test_a_preset_stands_below_every_other_source(mcx: Callable) -> None:
    done = mcx("lmc", "run", "--preset", "mnist", "--lr", "0.5", "--print-config")
    assert "optimizer: adam  # preset mnist" in done.out
    assert "lr: 0.5  # flag" in done.out


def test_positions_always_hold_the_ends_and_the_middle() -> None:
    assert alphas(25)[0] == 0
    assert alphas(25)[12] == 0.5
    assert alphas(25)[-1] == 1
    # A finer line holds every position of the coarser one, bit for bit.
    assert set(alphas(13)) < set(alphas(25))


def test_any_two_networks_can_be_interpolated(mcx: Callable, networks: Path, tmp_path: Path) -> None:
    a, b = (networks / f"seed{k}/checkpoint-4.pt" for k in (0, 1))
    done = mcx("lmc", "interpolate", a, b, "--num-alphas", "5", "--output-dir", tmp_path)
    assert done.code == 0, done.err
    assert "max_gap" in done.out
    same = json.loads(mcx("lmc", "interpolate", a, a, "--num-alphas", "3", "--json").out)
    assert all(value == 0 for row in same["barriers"].values() for value in row.values())
    with np.load(tmp_path / "line.npz") as file:
        assert file["losses_test"].shape == (5,)
        assert np.array_equal(file["te_nll"], file["losses_test"])
        assert {"ts", "dl", "tr_loss_int", "te_err_max", "l2_norm"} <= set(file.files)
    assert (tmp_path / "line.png").read_bytes().startswith(b"\x89PNG")


def test_the_line_is_that_of_curve_eval(mcx: Callable, networks: Path, tmp_path: Path) -> None:
    a, b = (networks / f"seed{k}/checkpoint-4.pt" for k in (0, 1))
    mcx("lmc", "interpolate", a, b, "--num-alphas", "5", "--output-dir", tmp_path / "line")
    words = ("--endpoint0", a, "--endpoint1", b, "--num-points", "5", "--output-dir", tmp_path / "curve")
    assert mcx("curve", "eval", *words).code == 0
    with np.load(tmp_path / "line/line.npz") as line, np.load(tmp_path / "curve/curve.npz") as curve:
        for name in curve.files:
            assert np.array_equal(line[name], curve[name]), name


@pytest.fixture
def shuffled(mcx: Callable, networks: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A network and the same function with every hidden layer permuted at random."""
    original, moved = networks / "seed0/checkpoint-4.pt", tmp_path / "moved.pt"
    assert mcx("swap", "--checkpoint", original, "--output", moved, "--random", "--seed", "5").code == 0
    return original, moved


def test_a_line_can_be_taken_modulo_the_swap_that_made_one_end(
    mcx: Callable, shuffled: tuple[Path, Path], tmp_path: Path
) -> None:
    words = ("lmc", "interpolate", *shuffled, "--num-alphas", "3", "--json")
    plain = json.loads(mcx(*words).out)
    assert plain["barriers"]["max_gap"]["loss_train"] > 0.01
    found = json.loads(mcx(*words, "--permutation", tmp_path / "moved_metadata.json").out)
    assert found["distance"] == 0
    assert found["distance_unpermuted"] == plain["distance"] > 1
    assert all(value == 0 for row in found["barriers"].values() for value in row.values())


def test_a_line_can_be_taken_modulo_an_order_per_layer(mcx: Callable, networks: Path, tmp_path: Path) -> None:
    """Against permuting the tensors by hand: output channels of conv1 and input channels of what follows."""
    first = networks / "seed0/checkpoint-4.pt"
    state = dict(checkpoints.read(first).state)
    layer, after = [name for name in state if name.endswith("weight")][:2]
    order = np.random.default_rng(0).permutation(len(state[layer]))
    back = torch.from_numpy(np.argsort(order))
    bias = layer.replace("weight", "bias")
    moved = {**state, layer: state[layer][back], bias: state[bias][back], after: state[after][:, back]}
    content = dict(checkpoints.read(first).content)
    torch.save({**content, "model_state": moved}, tmp_path / "moved.pt")
    np.savez(tmp_path / "order.npz", **{layer.removesuffix(".weight"): order})
    words = ("lmc", "interpolate", first, tmp_path / "moved.pt", "--num-alphas", "3", "--json")
    done = mcx(*words, "--permutation", tmp_path / "order.npz")
    assert json.loads(done.out)["distance"] == 0
    assert json.loads(done.out)["distance_unpermuted"] > 0


@pytest.mark.parametrize(
    ("orders", "message"),
    [
        ({"nowhere": np.arange(4)}, "no layer 'nowhere'"),
        ({"features.0": np.arange(4)}, "no layer"),
        ({}, "is not a readable .npz file"),
    ],
)
def test_a_permutation_that_does_not_fit_is_refused(
    mcx: Callable, shuffled: tuple[Path, Path], tmp_path: Path, orders: dict, message: str
) -> None:
    path = tmp_path / "order.npz"
    np.savez(path, **orders) if orders else path.write_bytes(b"PK\x03\x04 cut off")
    done = mcx("lmc", "interpolate", *shuffled, "--num-alphas", "3", "--permutation", path)
    assert (done.code, done.out, message in done.err) == (3, "", True), done.err


def test_f6_a_lost_checkpoint_is_named(mcx: Callable, folder: Path) -> None:
    (folder / "checkpoints/main/checkpoint-2.pt").unlink()
    (folder / "checkpoints/main/checkpoint-3.pt").unlink()
    kept = {path: path.read_bytes() for path in folder.glob("checkpoints/*/*.pt")}
    done = mcx(*RUN, "--k2", "1,2,3", "--output-dir", folder)
    assert done.code == 3
    assert "lacks checkpoint-2.pt, checkpoint-3.pt" in done.err
    assert all(path.read_bytes() == content for path, content in kept.items())


def test_epochs_that_early_stopping_left_out_are_named_and_the_rest_is_compared(
    mcx: Callable, tmp_path: Path
) -> None:
    words = (
        *RUN,
        "--lr",
        "5",
        "--patience",
        "1",
        "--val-size",
        "40",
        "--k2",
        "1,6",
        "--output-dir",
        tmp_path,
    )
    done = json.loads(mcx(*words, "--json").out)
    assert any(path.endswith("main/checkpoint-8.pt") for path in done["missing"])
    assert (0, 1) in {(pair["k1"], pair["k2"]) for pair in done["pairs"]}
    assert "still to do: 0 epochs and 0 positions" in mcx(*words, "--dry-run").err


def test_the_plan_says_what_is_left_and_how_long_it_takes(mcx: Callable, folder: Path) -> None:
    before = sorted(path.name for path in folder.rglob("*"))
    again = mcx(*RUN, "--output-dir", folder, "--dry-run")
    assert "still to do: 0 epochs and 0 positions\n" in again.err
    more = mcx(*RUN, "--k2", "1,2,3", "--num-alphas", "9", "--output-dir", folder, "--dry-run")
    assert "still to do: 3 epochs and 34 positions, about " in more.err
    assert sorted(path.name for path in folder.rglob("*")) == before


def original(path: Path, target: Path) -> None:
    """The pair as the study's scripts would have written it: α = 0 at the branch, k2 absolute, float32 positions."""
    document = json.loads(path.read_text())
    lists = {
        name: document[name][::-1]
        for name in ("losses_train", "accuracy_lst_train", "losses_test", "accuracy_lst_test")
    }
    at = np.linspace(0, 1, len(document["alphas"]), dtype=np.float32).astype(float).tolist()
    k1, k2 = document["k1"], document["k1"] + document["k2"]
    head = {"dataset": "MNIST", "k1": k1, "k2": k2, "distance": document["distance"], "alphas": at}
    target.mkdir(exist_ok=True)
    (target / f"MNIST_batch_128_k1_{k1}_k2_{k2}.json").write_text(json.dumps({**head, **lists}))


def test_a_report_reads_the_original_files_as_what_they_are(
    mcx: Callable, folder: Path, tmp_path: Path
) -> None:
    for path in (folder / "processed").glob("*.json"):
        original(path, tmp_path / "study")
    words = ("lmc", "report", folder, tmp_path / "study", "--output-dir", tmp_path / "report")
    done = mcx(*words)
    assert done.code == 0, done.err
    assert "MNIST: files of the original study" in done.out
    found = json.loads(mcx(*words, "--json").out)
    ours, theirs = found["series"]
    assert (ours["name"], theirs["name"]) == ("digits", "MNIST")
    for one, other in zip(ours["pairs"], theirs["pairs"], strict=True):
        assert [one[key] for key in ("k1", "k2", "epoch", "distance", "barriers")] == [
            other[key] for key in ("k1", "k2", "epoch", "distance", "barriers")
        ]
    rows = (tmp_path / "report/lmc_report.csv").read_text().splitlines()
    assert rows[0].startswith("series,dataset,batch_size,k1,k2,epoch,distance,max_gap_loss_train,")
    assert len(rows) == 1 + 8
    for name in ("lmc_report.png", "lmc_across.png"):
        assert (tmp_path / "report" / name).read_bytes().startswith(b"\x89PNG")


def test_equal_experiments_are_told_apart_by_their_folders(
    mcx: Callable, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "processed", tmp_path / "other/processed")
    found = json.loads(mcx("lmc", "report", folder, tmp_path / "other", "--json").out)
    assert [series["name"] for series in found["series"]] == [folder.name, "other"]


LISTS = ("alphas", "losses_train", "accuracy_lst_train", "losses_test", "accuracy_lst_test")
STRAIGHT = {"dataset": "digits", "k1": 0, "k2": 1, "distance": 1.0} | {name: [0.0, 1.0] for name in LISTS}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no pairs"),
        ("{", "cannot be read"),
        ('{"k1": 0}', "it lacks 'alphas'"),
        ('{"alphas": [0, 1], "losses_train": [1]}', "it lacks 'accuracy_lst_train'"),
        (
            json.dumps({**STRAIGHT, "accuracy_lst_test": [91.0, 90.0]}),
            "accuracy_lst_test holds values that are not shares",
        ),
        (json.dumps({**STRAIGHT, "k1": 1.5}), "1.5 is no number of epochs"),
        (json.dumps({**STRAIGHT, "distance": 10**300 * 10**300}), "beyond every float"),
    ],
)
def test_a_report_names_what_it_cannot_read(
    mcx: Callable, tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "X_batch_1_k1_0_k2_1.json").write_text(content)
    done = mcx("lmc", "report", tmp_path)
    assert (done.code, done.out, message in done.err) == (3, "", True), done.err


def test_stability_is_that_of_frankle() -> None:
    def pair(k1: int, rise: float) -> pairs.PairResult:
        return pairs.PairResult(
            k1, 1, k1 + 1, 1.0, {"sup_minus_mean": {"error_train": 0.0, "error_test": rise}}, ""
        )

    assert pairs.stable_from([pair(0, 9.0), pair(1, 1.9), pair(2, 0.0)]) == 1
    assert pairs.stable_from([pair(0, 0.0), pair(1, 2.0), pair(2, 0.0)]) == 2
    assert pairs.stable_from([pair(0, 0.0), pair(2, 2.5)]) is None


def test_f9_results_are_strict_json(folder: Path) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    for path in folder.rglob("*.json"):
        json.loads(path.read_text(), parse_constant=refuse)


@pytest.mark.parametrize(("norm", "statistics"), [("none", 0), ("batch", 1)])
def test_evaluation_costs_a_pass_per_position_and_one_for_batch_norm(
    mcx: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, norm: str, statistics: int
) -> None:
    args = ("--model", "cnn", "--model-arg", f"width=4,norm={norm}")
    words = ("--dataset", "digits", "--max-samples", "100", "--k1", "0", "--k2", "1", "--num-alphas", "5")
    seen: list[int] = []

    def counted(*given: Any) -> OpenedPath:
        found = line_between(*given)
        found.subject.model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
        return found

    monkeypatch.setattr(lmc_run, "line_between", counted)
    done = mcx("lmc", "run", *args, *words, "--batch-size", "32", "--output-dir", tmp_path)
    assert done.code == 0, done.err
    data = datasets.load(DataSettings(dataset="digits", max_samples=100), torch.device("cpu"))
    assert sum(seen) == 5 * (len(data.fit) * (1 + statistics) + len(data.test))


COSINE = (*RUN, "--schedule", "cosine", "--k1", "0,1", "--k2", "1,2")


def test_a_schedule_spans_what_the_experiment_began_with(mcx: Callable, tmp_path: Path) -> None:
    """More branches must not change the learning rates of the epochs that are there."""
    assert mcx(*COSINE, "--output-dir", tmp_path / "grown").code == 0
    longer = ("--k1", "0,1,2", "--output-dir", tmp_path / "grown")
    done = mcx(*COSINE, *longer)
    assert (done.code, "spans 3 epochs, now 4" in done.err) == (3, True)
    assert mcx(*COSINE, *longer, "--schedule-epochs", "3").code == 0
    words = ("--k1", "0,1,2", "--schedule-epochs", "3", "--output-dir", tmp_path / "fresh")
    assert mcx(*COSINE, *words).code == 0
    for name in ("k1_2_k2_1", "k1_1_k2_2"):
        file = f"processed/digits_batch_128_{name}.json"
        assert (tmp_path / "grown" / file).read_bytes() == (tmp_path / "fresh" / file).read_bytes()


@pytest.mark.parametrize("content", [None, "{", '{"alphas": []}'])
def test_a_lost_or_broken_pair_is_measured_again(mcx: Callable, folder: Path, content: str | None) -> None:
    path = folder / "processed/digits_batch_128_k1_2_k2_1.json"
    before = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_text(content)
    done = json.loads(mcx(*RUN, "--output-dir", folder, "--json").out)
    assert (done["trained_epochs"], done["evaluated_positions"], path.read_bytes()) == (0, 5, before)


def test_a_line_that_a_signal_cut_off_is_gone_on_with(
    mcx: Callable, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "processed/digits_batch_128_k1_0_k2_2.json"
    before = path.read_bytes()
    path.unlink()
    monkeypatch.setenv("MCX_TESTING", "1")
    monkeypatch.setenv("MCX_FAILPOINT", "evaluate.after_position.rank0:2=usr2")
    stopped = mcx(*RUN, "--output-dir", folder)
    assert (
        stopped.code,
        "mcx lmc run: stopped on the line k1 = 0, k2 = 2; run the same command to continue" in stopped.err,
    ) == (75, True)
    (log,) = folder.rglob("k1_0_k2_2.jsonl")
    assert [json.loads(line)["t"] for line in log.read_text().splitlines()] == [0, 0.25]
    assert mcx(*RUN, "--output-dir", folder).code == 0
    assert (path.read_bytes(), log.exists()) == (before, False)


ALIGNED = [*RUN[:-2], "--num-alphas", "3"]


# Learning rates with which branches get into another order within two epochs.
@pytest.mark.parametrize(("method", "k1", "lr"), [("weights", "0", "4"), ("activations", "2", "1")])
def test_aligned_lines_stand_beside_the_others_and_are_those_of_aligned_branches(
    mcx: Callable, tmp_path: Path, method: str, k1: str, lr: str
) -> None:
    words = [*ALIGNED, "--k1", k1, "--lr", lr]
    folder = tmp_path / "lmc"
    assert mcx(*words, "--output-dir", folder).code == 0
    before = {
        path: path.read_bytes() for path in folder.rglob("*") if ".mcx" not in path.parts and path.is_file()
    }
    done = mcx(*words, "--output-dir", folder, "--align", method, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["trained_epochs"], found["evaluated_positions"]) == (0, 2 * 3)
    assert {path: path.read_bytes() for path in before} == before
    moved = 0
    for pair, aligned in zip(found["pairs"], found["aligned"]["pairs"], strict=True):
        epoch = pair["epoch"]
        main, branch = (folder / f"checkpoints/{name}/checkpoint-{epoch}.pt" for name in ("main", f"k1_{k1}"))
        out = tmp_path / f"{k1}_{epoch}.pt"
        assert mcx("align", branch, "--to", main, "--method", method, "--output", out).code == 0
        line = json.loads(mcx("lmc", "interpolate", main, out, "--num-alphas", "3", "--json").out)
        wrote = json.loads(Path(aligned["file"]).read_text())
        assert wrote["align"] == method
        assert json.loads(Path(pair["file"]).read_text())["align"] == "none"
        for name in ("losses_train", "losses_test", "accuracy_lst_test"):
            assert wrote[name] == pytest.approx(line[name], rel=1e-5)
        assert aligned["distance"] == pytest.approx(line["distance"], rel=1e-6)
        moved += aligned["distance"] != pair["distance"]
    assert moved
    assert str(folder / f"aligned_by_{method}") in found["aligned"]["table"]
    assert "already complete" in mcx(*words, "--output-dir", folder, "--align", method).err
    report = mcx("lmc", "report", folder, folder / f"aligned_by_{method}", "--json")
    assert len(json.loads(report.out)["series"]) == 2


@pytest.mark.slow
def test_aligned_lines_of_several_seeds_have_a_folder_of_the_same_form(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs, real = [], lmc_run.evaluate_path

    def noted(opened: Any, ts: Any, runtime: Any, log: Path, *rest: Any) -> Any:
        logs.append(log)
        return real(opened, ts, runtime, log, *rest)

    monkeypatch.setattr(lmc_run, "evaluate_path", noted)
    words = [*ALIGNED, "--k1", "0", "--k2", "1", "--branch-seed", "1,2", "--align", "weights"]
    done = mcx(*words, "--output-dir", tmp_path)
    assert done.code == 0, done.err
    assert "The same lines, each branch aligned by weights" in done.out
    place = "processed/digits_batch_128_k1_0_k2_1.json"
    for folder in ("branch1", "branch2", "aligned_by_weights/branch1", "aligned_by_weights/branch2"):
        assert json.loads((tmp_path / folder / place).read_text())["branch_seed"] == int(folder[-1])
    assert (tmp_path / "aligned_by_weights/dataframes/digits_mean.csv").exists()
    assert len({*logs}) == len(logs) == 4, "what is left of an interrupted line is no other's"


def test_lines_of_a_network_without_units_are_not_aligned(mcx: Callable, tmp_path: Path) -> None:
    words = [word.replace("depth=1", "depth=0") for word in RUN]
    done = mcx(*words, "--align", "weights", "--output-dir", tmp_path, "--dry-run")
    assert (done.code, "hint: --align none" in done.err) == (3, True)
    assert "mlp has no units that can be exchanged" in done.err


def test_values_that_are_no_numbers_are_named_and_never_stable(
    mcx: Callable, folder: Path, tmp_path: Path
) -> None:
    original(folder / "processed/digits_batch_128_k1_2_k2_1.json", tmp_path / "study")
    (path,) = (tmp_path / "study").glob("*.json")
    document = json.loads(path.read_text())
    document["accuracy_lst_test"][0] = float("nan")
    path.write_text(json.dumps(document))
    done = mcx("lmc", "report", tmp_path / "study", "--output-dir", tmp_path / "report")
    assert "holds values that are no numbers" in done.err
    assert "from: no k1 here" in done.out
    assert "nan" not in (tmp_path / "report/lmc_report.csv").read_text()


def test_a_report_reads_the_tables_of_the_study_where_files_are_empty(
    mcx: Callable, folder: Path, tmp_path: Path
) -> None:
    """A table's lists are JSON's, or as NumPy prints arrays; a pair that has a file is not taken twice."""
    for path in (folder / "processed").glob("*.json"):
        original(path, tmp_path / "study")
    paths = sorted((tmp_path / "study").glob("*.json"))
    words = ("lmc", "report", tmp_path / "study", "--json")
    right = json.loads(mcx(*words).out)["series"][0]["pairs"]
    documents = [json.loads(path.read_text()) for path in paths]
    rows = []
    for number, document in enumerate(documents):
        printed = {
            k: str(np.array(v)) if number % 2 else json.dumps(v)
            for k, v in document.items()
            if isinstance(v, list)
        }
        rows.append(["", *(printed.get(name, value) for name, value in document.items())])
    (tmp_path / "study/dataframes").mkdir()
    with (tmp_path / "study/dataframes/MNIST_df.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["", *documents[0]], *rows])
    paths[0].write_text("")
    paths[1].write_text("")
    done = mcx(*words)
    assert done.code == 0, done.err
    assert "2 of 4 pairs" in done.err
    assert "MNIST_df.csv" in done.err
    read = sorted(
        (pair for each in json.loads(done.out)["series"] for pair in each["pairs"]),
        key=lambda p: (p["k1"], p["k2"]),
    )
    assert [(pair["k1"], pair["k2"]) for pair in read] == [(pair["k1"], pair["k2"]) for pair in right]
    for pair, other in zip(read, right, strict=True):
        assert pair["barriers"]["max_gap"] == pytest.approx(other["barriers"]["max_gap"], abs=1e-6)
    (tmp_path / "study/dataframes/MNIST_df.csv").write_text("dataset,k1,k2\nMNIST,0,1\n")
    assert mcx(*words).code == 3


def test_an_original_file_whose_epochs_go_backwards_is_refused(
    mcx: Callable, folder: Path, tmp_path: Path
) -> None:
    original(folder / "processed/digits_batch_128_k1_2_k2_1.json", tmp_path / "study")
    (path,) = (tmp_path / "study").glob("*.json")
    path.write_text(path.read_text().replace('"k2": 3', '"k2": 1'))
    done = mcx("lmc", "report", tmp_path / "study")
    assert (done.code, "epoch 1 does not come after k1 = 2" in done.err) == (3, True)


def test_several_seeds_give_a_mean_and_its_spread(mcx: Callable, folder: Path, tmp_path: Path) -> None:
    """Every seed's files are those of an experiment with that seed alone; the main branch is trained once."""
    many = tmp_path / "many"
    done = json.loads(mcx(*RUN, "--branch-seed", "1,7", "--output-dir", many, "--json").out)
    assert done["trained_epochs"] == 4 + 2 * (2 + 2)
    assert (done["branch_seed"], len(done["pairs"]), len(done["means"])) == ([1, 7], 8, 4)
    for own in ("processed/digits_batch_128_k1_0_k2_2.json", "checkpoints/k1_2/checkpoint-4.pt"):
        alone = (folder / own).read_bytes()
        assert own.endswith(".pt") or json.loads((many / "branch1" / own).read_text()) == json.loads(alone)
    states = [
        checkpoints.read(place / "checkpoints/k1_2/checkpoint-4.pt").state
        for place in (folder, many / "branch1")
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    for mean in done["means"]:
        own = [pair for pair in done["pairs"] if (pair["k1"], pair["k2"]) == (mean["k1"], mean["k2"])]
        values = [pair["barriers"]["sup_minus_mean"]["error_test"] for pair in own]
        found = mean["barriers"]["sup_minus_mean"]["error_test"]
        assert (found["mean"], found["sd"]) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
        assert mean["distance"]["mean"] == pytest.approx(np.mean([pair["distance"] for pair in own]))
    rows = pd.read_csv(many / "dataframes/digits.csv")
    assert rows["branch_seed"].tolist() == [1] * 4 + [7] * 4
    more = mcx(*RUN, "--branch-seed", "1,7,9", "--output-dir", many)
    assert more.code == 0, more.err
    assert "In this run: 4 epochs trained" in more.out
    assert "mean ± standard deviation" in more.out
    means = pd.read_csv(many / "dataframes/digits_mean.csv")
    pairs_ = pd.read_csv(many / "dataframes/digits.csv")
    grouped = pairs_.groupby(["k1", "k2"])["sup_minus_mean_error_test"]
    assert means["seeds"].tolist() == [3] * 4
    assert means["sup_minus_mean_error_test_mean"].tolist() == pytest.approx(grouped.mean().tolist())
    assert means["sup_minus_mean_error_test_sd"].tolist() == pytest.approx(grouped.std().tolist())
    for name in ("barriers", "barrier_loss_test", "barrier_error_test", "distance"):
        assert (many / f"figures/digits_{name}.png").read_bytes().startswith(b"\x89PNG")

    # A report takes the branches of an experiment as one series.
    report = ("lmc", "report", many, "--series", "error_test", "--output-dir", tmp_path / "report")
    told = mcx(*report)
    assert "mean ± standard deviation of 3 branch seeds" in told.out
    assert " ± " in told.out.splitlines()[2]
    (series,) = json.loads(mcx(*report, "--json").out)["series"]
    assert (series["name"], len(series["pairs"]), len(series["means"])) == ("digits", 12, 4)
    listed = pd.read_csv(tmp_path / "report/lmc_report.csv")
    assert sorted(listed["branch_seed"].unique()) == [1, 7, 9]


def test_the_steps_of_all_seeds_are_counted_together(tmp_path: Path) -> None:
    from modeconn_cli import api

    heard: list[tuple[str, int, int]] = []

    def listen(done: int, total: int, fields: Mapping[str, Any], unit: str) -> None:
        heard.append((unit, done, total))

    api.run(
        "lmc run",
        model="mlp",
        dataset="digits",
        k1=(0, 1),
        k2=(1,),
        branch_seed=(1, 2, 3),
        num_alphas=3,
        max_samples=300,
        threads=1,
        output_dir=tmp_path / "many",
        progress=listen,
    )
    counts = [(done, total) for unit, done, total in heard if unit == "step"]
    steps = 3 * (2 + 3 * 2) + 3 * 2 * 3  # of training, then positions of two lines per seed
    assert counts == [(done, steps) for done in range(1, steps + 1)]


def test_stability_is_judged_by_the_mean() -> None:
    def pair(k1: int, rise: float) -> pairs.PairResult:
        barriers = {"sup_minus_mean": {"error_train": rise, "error_test": 0.0}}
        return pairs.PairResult(k1, 1, k1 + 1, 1.0, barriers, "file")

    noisy = [pair(0, 9.0), pair(0, 1.0), pair(1, 2.5), pair(1, 1.0)]
    assert pairs.stable_from(noisy) is None
    assert pairs.stable_from(pairs.means(noisy)) == 1


def test_one_seed_does_not_take_up_the_branches_of_another(mcx: Callable, folder: Path) -> None:
    done = mcx(*RUN, "--branch-seed", "5", "--output-dir", folder)
    assert done.code == 3
    assert "have the seed 1, now 5" in done.err
