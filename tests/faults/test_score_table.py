"""The table of scores of an own trained network, against a plain loop, and what becomes of arrays that lack parts."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from faults.commands import OWN
from modeconn_cli.engine import datasets
from modeconn_cli.engine.settings.shared import DataSettings

NAMES = "data_run1_noise_0"
TABLE, SAID = f"scores_{NAMES}.csv", f"scores_{NAMES}.json"
SCORE = ("csl", "score", "--checkpoint-dir", "runs/seed0", *OWN, "-q")
AGGREGATE = ("csl", "aggregate", "--input-dir")


def dynamics(folder: str, epoch: int) -> Path:
    return Path(folder, f"dynamics_data_run1_epoch_{epoch}_noise_0.npz")


def table(folder: str) -> pd.DataFrame:
    return pd.read_csv(Path(folder, TABLE), index_col="sample_id")


def said(folder: str) -> dict:
    document: dict = json.loads(Path(folder, SAID).read_text())
    return document


def looped(here: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    """Logits [E, N, C] in float64, one sample at a time, and labels [N]."""
    monkeypatch.syspath_prepend(here)
    model = importlib.import_module("mixnet").net().double().eval()
    data = datasets.load(DataSettings(dataset="data.npz"), torch.device("cpu")).split("all-train")
    logits = []
    for epoch in range(3):
        model.load_state_dict(
            torch.load(f"runs/seed0/checkpoint-{epoch}.pt", weights_only=True)["model_state"]
        )
        with torch.no_grad():
            logits.append([model(batch.images.double())[0].tolist() for batch in data.batches(1)])
    return np.array(logits), data.labels.numpy()


def test_every_score_is_that_of_a_plain_loop_in_float64(
    mcx: Callable, here: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, y = looped(here, monkeypatch)
    assert mcx(*SCORE, "--weight-decay", "0", "--grad", "input", "--output-dir", "own").code == 0
    done = mcx(*AGGREGATE, "own", "--output-dir", "out", "--el2n-epoch", "1")
    assert done.code == 0, done.err
    found, expected = table("out"), dict[str, list[float]]()
    for i in range(len(y)):
        z = torch.tensor(logits[:, i])
        p, label = z.softmax(1), int(y[i])
        margins = [float(row[label] - max(v for j, v in enumerate(row) if j != label)) for row in z]
        right = [int(row.argmax()) == label for row in z]
        el2n = [float((row - F.one_hot(torch.tensor(label), 3)).norm()) for row in p]
        own, losses = p[:, label].numpy(), [float(F.cross_entropy(row, torch.tensor(label))) for row in z]
        entropies = [-float((row * row.log()).sum()) for row in p]
        one = {
            "csl": sum(losses),
            "final_loss": losses[-1],
            "aum": np.mean(margins),
            "margin_last": margins[-1],
            "margin_min": min(margins),
            "confidence": own.mean(),
            "variability": own.std(),
            "correctness": np.mean(right),
            "share_wrong": 1 - np.mean(right),
            "el2n": el2n[1],
            "el2n_mean": np.mean(el2n),
            "el2n_squared_mean": np.mean(np.square(el2n)),
            "forgetting": sum(a and not b for a, b in pairwise(right)) if any(right) else np.inf,
            "first_learnt": right.index(True) if any(right) else np.inf,
            "entropy": entropies[-1],
            "entropy_mean": np.mean(entropies),
        }
        for name, value in one.items():
            expected.setdefault(name, []).append(float(value))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=2e-6, err_msg=name)
    norms = [np.load(f"own/loss_grad_data_run1_epoch_{e}_noise_0.npy").astype(np.float64) for e in range(3)]
    np.testing.assert_allclose(found["csg"], sum(np.square(each) for each in norms), rtol=1e-6)
    document = said("out")
    assert [each["name"] for each in document["scores"]] == list(found.columns)
    np.testing.assert_allclose(found["grand_input"], norms[1], rtol=1e-6)
    np.testing.assert_allclose(found["grand_input_mean"], np.mean(norms, 0), rtol=1e-6)
    of_parameters = {"grand", "grand_mean", "tracin_self", "vog", "vog_class"}
    assert {each["name"] for each in document["absent"]} == {
        "csl_ce", "csl_per_epoch", "dynamic_uncertainty", "second_split_forgetting", *of_parameters,
    }  # fmt: skip
    assert document["epochs"] == [0, 1, 2]
    assert len(np.unique(found["aum"])) > 50, "values in another order would be seen"


def test_gradient_scores_are_those_of_plain_autograd_without_the_decay_that_losses_carry(
    mcx: Callable, here: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(here)
    model = importlib.import_module("mixnet").net().double().eval()
    samples = datasets.load(DataSettings(dataset="data.npz"), torch.device("cpu")).split("all-train")
    squares, rates = [], []
    for epoch in range(3):
        file = torch.load(f"runs/seed0/checkpoint-{epoch}.pt", weights_only=True)
        model.load_state_dict(file["model_state"])
        rates.append(file["optimizer_state"]["param_groups"][0]["lr"])
        of_samples = []
        for batch in samples.batches(1):
            loss = F.cross_entropy(model(batch.images.double()), batch.labels)
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            of_samples.append(sum(float(g.square().sum()) for g in gradients))
        squares.append(of_samples)
    exact = np.array(squares)
    assert mcx(*SCORE, "--weight-decay", "0.01", "--output-dir", "own").code == 0
    assert mcx(*AGGREGATE, "own", "--output-dir", "out", "--el2n-epoch", "2").code == 0
    found = table("out")
    np.testing.assert_allclose(found["grand"], np.sqrt(exact[2]), rtol=1e-4)
    np.testing.assert_allclose(found["grand_mean"], np.sqrt(exact).mean(0), rtol=1e-4)
    np.testing.assert_allclose(found["tracin_self"], np.array(rates) @ exact, rtol=1e-4)
    assert mcx(*AGGREGATE, "own", "--output-dir", "other", "--lr", "2").code == 0
    np.testing.assert_allclose(table("other")["tracin_self"], 2 * exact.sum(0), rtol=1e-4)


def test_a_run_without_learning_rates_has_no_tracin_unless_it_is_told_one(
    mcx: Callable, here: Path, undrawn: None
) -> None:
    for path in Path("runs/seed0").glob("checkpoint-*.pt"):
        file = torch.load(path, weights_only=True)
        torch.save({name: value for name, value in file.items() if name != "optimizer_state"}, path)
    assert mcx(*SCORE, "--output-dir", "own").code == 0
    assert mcx(*AGGREGATE, "own", "--output-dir", "out").code == 0
    absent = {each["name"]: each["why"] for each in said("out")["absent"]}
    assert "says its learning rate (--lr says one)" in absent["tracin_self"]
    assert mcx(*AGGREGATE, "own", "--output-dir", "told", "--lr", "0.1").code == 0
    assert "tracin_self" in table("told")


@pytest.mark.parametrize("grad", ["param", "input", "none"])
def test_columns_come_from_the_pass_of_the_gradients_whatever_these_are_by(
    mcx: Callable, here: Path, grad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, y = looped(here, monkeypatch)
    assert mcx(*SCORE, "--grad", grad, "--batch-size", "16", "--output-dir", "own").code == 0
    for epoch in range(3):
        with np.load(dynamics("own", epoch)) as file:
            found = dict(file)
        assert {each.dtype for each in found.values()} == {np.dtype(np.float32)}
        np.testing.assert_allclose(
            found["label_logit"], logits[epoch][np.arange(len(y)), y], rtol=1e-4, atol=2e-6
        )
        assert np.array_equal(found["correct"], logits[epoch].argmax(1) == y)


def test_scores_of_older_folders_are_absent_and_say_why(mcx: Callable, here: Path, undrawn: None) -> None:
    shutil.rmtree("losses/.mcx")
    dynamics("losses", 1).unlink()
    assert mcx(*AGGREGATE, "losses", "--output-dir", "out").code == 0
    assert list(table("out").columns) == ["csl", "csl_ce", "final_loss", "lt", "lt_first_epoch", "lt_stays"]
    absent = {each["name"]: each["why"] for each in said("out")["absent"]}
    assert "dynamics_*.npz" in absent["aum"]
    assert "--grad input" in absent["csg"]


def test_a_lost_file_of_columns_is_missed_where_a_scoring_had_made_it(mcx: Callable, here: Path) -> None:
    dynamics("losses", 1).unlink()
    done = mcx(*AGGREGATE, "losses", "--output-dir", "out")
    assert (done.code, "is missing, which mcx csl score had made" in done.err) == (3, True)
    assert mcx(*AGGREGATE, "losses", "--output-dir", "out", "--allow-missing").code == 0


def test_an_older_job_folder_is_scored_anew_and_has_the_same_losses(mcx: Callable, here: Path) -> None:
    """As before there were columns: the log knows of three files an epoch."""
    (log,) = Path("losses/.mcx").glob("csl-score*/scored.jsonl")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    log.write_text("".join(json.dumps({**row, "sizes": row["sizes"][:-1]}) + "\n" for row in rows))
    before = {path.name: path.read_bytes() for path in Path("losses").glob("*.np[yz]")}
    for path in Path("losses").glob("dynamics_*"):
        path.unlink()
    done = mcx(*SCORE, "--output-dir", "losses", "--json")
    assert (done.code, json.loads(done.out)["scored"]) == (0, 3), done.err
    assert {path.name: path.read_bytes() for path in Path("losses").glob("*.np[yz]")} == before


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damaged, "dynamics_data_run1_epoch_1_noise_0.npz"),
        (lambda path: np.savez(path, correct=np.zeros(60, dtype=np.float32)), "has no column label_logit"),
        (lambda path: path.write_bytes(b"PK\3\4"), "is not a readable .npz file"),
    ],
)
def test_columns_that_are_broken_are_named_and_nothing_is_written(
    mcx: Callable, here: Path, undrawn: None, change: Callable[[Path], None], message: str
) -> None:
    shutil.rmtree("losses/.mcx")
    change(dynamics("losses", 1))
    done = mcx(*AGGREGATE, "losses", "--output-dir", "out")
    assert (done.code, done.out, message in done.err) == (3, "", True), done.err
    assert list(Path("out").glob("*.csv")) == []


def test_gaps_between_epochs_and_columns_that_are_no_numbers(
    mcx: Callable, here: Path, undrawn: None
) -> None:
    shutil.rmtree("losses/.mcx")
    for path in Path("losses").glob("*_epoch_1_*"):
        path.unlink()
    with np.load(dynamics("losses", 2)) as file:
        columns = dict(file)
    columns = {
        name: np.where(np.arange(60) == 7, np.nan, values).astype(np.float32)
        for name, values in columns.items()
    }
    np.savez(dynamics("losses", 2), **columns)
    done = mcx(*AGGREGATE, "losses", "--output-dir", "out", "--step", "2")
    assert done.code == 0, done.err
    found, document = table("out"), said("out")
    assert document["epochs"] == [0, 2]
    assert np.flatnonzero(found["aum"].isna()).tolist() == [7]
    assert {
        each["nan"] for each in document["scores"] if each["name"] in ("aum", "forgetting", "el2n_mean")
    } == {1}


def test_the_table_is_a_source_of_metrics(mcx: Callable, here: Path, undrawn: None) -> None:
    assert mcx(*AGGREGATE, "losses", "--output-dir", "out").code == 0
    words = (
        "correlate",
        "--with",
        f"out/{TABLE}",
        "--flags",
        "flags.csv",
        "--output-dir",
        "joined",
        "--json",
    )
    done = mcx(*words)
    assert done.code == 0, done.err
    named = {each["metric"] for each in json.loads(done.out)["auroc"]}
    assert {"aum", "forgetting", "el2n_mean"} <= named


def test_scores_begin_when_a_class_is_seen(mcx: Callable, here: Path, undrawn: None) -> None:
    """A class more every epoch, in the order 2, 0, 1: the columns are NaN before, and no score counts that epoch."""
    order = ("--class-order", "order.npy")
    words = (
        "--seen-classes",
        *order,
        "--classes-per-task",
        "1",
        "--epochs-per-task",
        "1",
        "--output-dir",
        "own",
    )
    done = mcx(*SCORE, *words)
    assert done.code == 0, done.err
    columns = []
    for epoch in range(3):
        with np.load(dynamics("own", epoch)) as file:
            columns.append(
                {name: file[name].astype(np.float64) for name in ("correct", "el2n", "label_prob")}
            )
    right = np.stack([each["correct"] for each in columns])
    there = ~np.isnan(right)
    assert len(np.unique(there.sum(0))) > 1, "classes begin at several epochs"
    for name in ("el2n", "label_prob"):
        assert np.array_equal(there, ~np.isnan(np.stack([each[name] for each in columns])))
    assert mcx(*AGGREGATE, "own", *order, "--output-dir", "out").code == 0
    found, any_ = table("out"), there.any(0)
    mean = np.nansum(right, 0)[any_] / there.sum(0)[any_]
    np.testing.assert_allclose(found["correctness"][any_], mean, rtol=1e-6)
    assert found["correctness"][~any_].isna().all()
    spread = np.nanstd(np.stack([each["label_prob"] for each in columns])[:, any_], axis=0)
    np.testing.assert_allclose(found["variability"][any_], spread, rtol=1e-4, atol=1e-7)
    first = np.where(np.nan_to_num(right[:, any_]).any(0), np.nan_to_num(right[:, any_]).argmax(0), np.inf)
    assert np.array_equal(found["first_learnt"][any_], first)


def flags_of(path: str, marked: list[int]) -> None:
    ids = np.load("losses/sample_ids.npy")
    pd.DataFrame({"sample_id": ids, "wrong": np.isin(ids, marked).astype(int)}).to_csv(path, index=False)


def test_scores_are_joined_by_their_hard_ends_and_the_hardest_are_listed_and_drawn(
    mcx: Callable, here: Path, undrawn: None
) -> None:
    assert mcx(*AGGREGATE, "losses", "--output-dir", "out").code == 0
    scores = table("out")
    hardest = scores["aum"].sort_values(kind="stable").index[:7].tolist()
    flags_of("flags.csv", hardest)
    words = ("correlate", "--scores", "out", "--flags", "flags.csv", "--output-dir", "joined")
    done = mcx(*words, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    rows = {row["metric"]: row for row in found["auroc"]}
    assert list(rows) == [name for name in rows if name in scores], "every score and nothing else"
    assert len(rows) == scores.shape[1]
    assert (rows["aum"]["end"], rows["aum"]["at_end"], rows["aum"]["auroc"]) == ("low", 1.0, 0.0)
    assert (found["hardest"], rows["aum"]["behind"], rows[found["best"]]["at_end"]) == (7, 0.0, 1.0)
    listed = pd.read_csv("joined/hardest.csv")
    assert len(listed) == 7
    assert listed.loc[0, "sample_id"] in hardest
    agreed = pd.read_csv("joined/agreement.csv", index_col="metric")
    assert agreed.shape == (len(rows), len(rows))
    assert agreed.loc["correctness", "share_wrong"] == pytest.approx(1.0, abs=1)
    assert {"scores.png", "hardest.png"} <= {path.name for path in Path("joined").iterdir()}
    again = mcx(*words)
    assert "already complete" in again.err
    assert "Best at finding wrong: " in again.out


def test_arrays_and_the_table_of_one_run_give_each_score_once(
    mcx: Callable, here: Path, undrawn: None
) -> None:
    assert mcx(*AGGREGATE, "losses", "--output-dir", "out").code == 0
    done = mcx("correlate", "--csl", "out", "--scores", "out", "--output-dir", "joined", "--json")
    assert done.code == 0, done.err
    names = [each["name"] for each in json.loads(done.out)["metrics"]]
    assert len(names) == len(set(names)) == table("out").shape[1]


def cut() -> None:
    """What is left of a table that was copied without the folder that knows it."""
    shutil.rmtree("out/.mcx")
    lines = Path("out", TABLE).read_text().splitlines(keepends=True)
    Path("out", TABLE).write_text("".join(lines[:4]))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda: Path("out", SAID).unlink(), "no table of scores with its .json beside it"),
        (lambda: Path("out", SAID).write_text('{"schema": "mcx.scores/1"}'), SAID),
        (lambda: Path("out", TABLE).write_text("a,b\n1,2\n"), TABLE),
        (lambda: Path("out", TABLE).unlink(), "holds no scores_*.csv"),
        (cut, f"'out/{TABLE}' holds 3 samples, '{SAID}' says "),
    ],
    ids=["no document", "another document", "another table", "no table", "a part of it, copied elsewhere"],
)
def test_a_table_of_scores_that_is_not_whole_is_refused(
    mcx: Callable, here: Path, undrawn: None, spoil: Callable, said: str
) -> None:
    assert mcx(*AGGREGATE, "losses", "--output-dir", "out").code == 0
    spoil()
    done = mcx("correlate", "--scores", "out", "--output-dir", "joined")
    assert (done.code, said in done.err) == (3, True), done.err


@pytest.mark.parametrize("compat", [(), ("--compat", "vog")], ids=["every element", "channels first"])
def test_the_variance_of_gradients_is_that_of_a_plain_loop_and_goes_on_after_a_kill(
    mcx: Callable, here: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch, compat: tuple[str, ...]
) -> None:
    monkeypatch.syspath_prepend(here)
    model = importlib.import_module("mixnet").net().double().eval()
    samples = datasets.load(DataSettings(dataset="data.npz"), torch.device("cpu")).split("all-train")
    epochs = []
    for epoch in range(3):
        file = torch.load(f"runs/seed0/checkpoint-{epoch}.pt", weights_only=True)
        model.load_state_dict(file["model_state"])
        of_samples = []
        for batch in samples.batches(1):
            image = batch.images.double().requires_grad_()
            (gradient,) = torch.autograd.grad(model(image)[0, batch.labels[0]], image)
            of_samples.append(gradient[0].mean(0).numpy() if compat else gradient[0].numpy())
        epochs.append(of_samples)
    exact = np.array(epochs).std(0)
    exact = exact.reshape(len(exact), -1).mean(1)
    words = (*SCORE, "--vog", *compat, "--output-dir", "own")
    assert mcx(*words, "--end-epoch", "1").code == 0
    assert mcx(*words).code == 0, "more epochs are taken up"
    assert mcx(*words, "--output-dir", "once").code == 0
    for name in ("vog", "vog_class"):
        files = [Path(folder, f"{name}_{NAMES}.npy").read_bytes() for folder in ("own", "once")]
        assert files[0] == files[1]
    np.testing.assert_allclose(np.load(f"own/vog_{NAMES}.npy"), exact, rtol=1e-4)
    assert mcx(*AGGREGATE, "own", "--output-dir", "out").code == 0
    found, labels = table("out"), samples.labels.numpy()
    np.testing.assert_allclose(found["vog"], exact, rtol=1e-4)
    of_class = exact[labels == 1]
    np.testing.assert_allclose(
        found["vog_class"][labels == 1], (of_class - of_class.mean()) / of_class.std(), rtol=1e-2, atol=1e-4
    )
    assert mcx(*AGGREGATE, "own", "--start-epoch", "1", "--output-dir", "later").code == 0
    absent = {each["name"]: each["why"] for each in said("later")["absent"]}
    assert "--vog" in absent["vog"]
