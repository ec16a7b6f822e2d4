"""`mcx train` with classes that are added task by task, and what is written down of every sample."""

from __future__ import annotations

import csv
import errno
import json
import os
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modeconn_cli.engine import datasets, keyed
from modeconn_cli.engine.results import failpoints
from modeconn_cli.engine.samples.per_sample.curvature import directions
from modeconn_cli.engine.settings.shared import DataSettings
from modeconn_cli.engine.training import loop, tracking
from modeconn_cli.engine.training.tasks import Curriculum

ORDER = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
WORDS = (
    "train", "--model", "mlp", "--model-arg", "width=16,depth=1", "--dataset", "digits", "--lr", "0.1",
    "--classes-per-task", "4", "--epochs-per-task", "3", "--schedule", "incremental", "--val-per-class", "14",
    "--save-freq", "2", "--track-samples", "--record-csl", "--threads", "1", "-q",
)  # fmt: skip


@pytest.fixture
def order(tmp_path: Path) -> Path:
    np.save(tmp_path / "order.npy", np.array(ORDER))
    return tmp_path / "order.npy"


@pytest.fixture
def run(mcx: Callable, tmp_path: Path, order: Path) -> Path:
    done = mcx(*WORDS, "--class-order", order, "--output-dir", tmp_path / "run")
    assert done.code == 0, done.err
    return tmp_path / "run/seed0"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def data() -> datasets.Data:
    return datasets.load(DataSettings(dataset="digits", val_per_class=14), torch.device("cpu"))


def test_validation_images_are_the_first_of_each_class() -> None:
    found = data()
    whole = datasets.load(DataSettings(dataset="digits"), torch.device("cpu")).fit
    for number in range(10):
        own = whole.ids[whole.labels == number].tolist()
        assert found.val.ids[found.val.labels == number].tolist() == own[:14]
        assert found.fit.ids[found.fit.labels == number].tolist() == own[14:]
    assert found.split("all-train").ids.tolist() == whole.ids.tolist()


def test_the_run_is_that_of_a_plain_loop(run: Path) -> None:
    """Masked losses, restarted learning rates, the best weights at every change of task."""
    start = torch.load(run / "checkpoint-0.pt", weights_only=True)["model_state"]
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    model.load_state_dict(dict(zip(model.state_dict(), start.values(), strict=True)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    split = data()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best: tuple[float, dict] = (-1.0, {})
    for epoch in range(9):
        seen = torch.tensor(sorted(ORDER[: 4 * (epoch // 3 + 1)]))
        if epoch and epoch % 3 == 0:
            model.load_state_dict(best[1])
            best = (-1.0, {})
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1.0, 0.2, 0.04)[epoch % 3]
        assert lines[epoch]["lr"] == pytest.approx(optimizer.param_groups[0]["lr"])
        rows = torch.isin(split.fit.labels, seen).nonzero()[:, 0]
        permuted = rows[keyed.permutation(0, "order", len(rows), draw=epoch)]
        for batch in split.fit.batches(128, order=permuted):
            loss = F.cross_entropy(model(batch.images)[:, seen], torch.searchsorted(seen, batch.labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        chosen = torch.isin(split.val.labels, seen)
        images = split.val.transform.normalise(split.val.images[chosen])  # type: ignore[index]
        answers = seen[model(images)[:, seen].argmax(1)]
        accuracy = 100 * float((answers == split.val.labels[chosen]).double().mean())
        assert lines[epoch]["val_accuracy"] == pytest.approx(accuracy)
        if accuracy > best[0]:
            best = (accuracy, {name: tensor.clone() for name, tensor in model.state_dict().items()})
    end = torch.load(run / "checkpoint-9.pt", weights_only=True)["model_state"]
    for mine, theirs in zip(end.values(), best[1].values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)
    for task in range(3):
        one, other = (
            torch.load(run / name, weights_only=True)
            for name in (f"task-{task}.pt", f"checkpoint-{3 * task + 3}.pt")
        )
        assert all(
            torch.equal(one["model_state"][name], other["model_state"][name]) for name in one["model_state"]
        )
        assert other["mcx"]["weights_of_epoch"] == one["epoch"]
        assert lines[3 * task + 2]["weights_of_epoch"] == one["epoch"]
    kept = torch.load(run / "task-2.pt", weights_only=True)["model_state"]
    for mine, theirs in zip(kept.values(), best[1].values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def test_every_task_is_measured_on_the_classes_seen(run: Path) -> None:
    found = rows_of(run / "tasks.csv")
    assert [row["classes"] for row in found] == ["3 1 4 0", "5 9 2 6", "8 7"]
    assert [row["seen"] for row in found] == ["4", "8", "10"]
    assert np.load(run / "class_order.npy").tolist() == ORDER
    split = data()
    state = torch.load(run / "task-1.pt", weights_only=True)["model_state"]
    seen = torch.tensor(sorted(ORDER[:8]))
    x = split.test.transform.normalise(split.test.images).flatten(1)  # type: ignore[arg-type]
    weights = list(state.values())
    logits = F.linear(F.relu(F.linear(x, *weights[:2])), *weights[2:])
    right = seen[logits[:, seen].argmax(1)] == split.test.labels
    for name, classes in (
        ("accuracy", ORDER[:8]),
        ("accuracy_task_0", ORDER[:4]),
        ("accuracy_task_1", ORDER[4:8]),
    ):
        own = torch.isin(split.test.labels, torch.tensor(classes))
        assert float(found[1][name]) == pytest.approx(100 * float(right[own].double().mean()))
    assert found[1]["accuracy_task_2"] == ""
    assert (run / "tasks.png").read_bytes().startswith(b"\x89PNG")


def test_tracking_has_a_row_per_sample_and_step(run: Path) -> None:
    rows = rows_of(run / "sample_tracking_data_final.csv")
    assert list(rows[0]) == [
        "sample_id", "memo_score", "true_label", "class_id", "epoch_num", "batch_num", "task_num",
    ]  # fmt: skip
    split = data().fit
    labels = dict(zip(split.ids.tolist(), split.labels.tolist(), strict=True))
    assert all(
        int(row["class_id"]) == int(row["true_label"]) == labels[int(row["sample_id"])] for row in rows
    )
    for epoch in range(9):
        own = [row for row in rows if int(row["epoch_num"]) == epoch]
        assert {int(row["task_num"]) for row in own} == {epoch // 3}
        expected = [i for i, label in labels.items() if label in ORDER[: 4 * (epoch // 3 + 1)]]
        assert sorted(int(row["sample_id"]) for row in own) == expected
        batches = [int(row["batch_num"]) for row in own]
        assert batches == sorted(batches)
        assert batches[0] == 0


def test_recorded_losses_are_those_of_the_steps(mcx: Callable, run: Path, tmp_path: Path) -> None:
    rows = rows_of(run / "sample_tracking_data_final.csv")
    first = [int(row["sample_id"]) for row in rows if (row["epoch_num"], row["batch_num"]) == ("0", "0")]
    split = data().fit
    state = list(torch.load(run / "checkpoint-0.pt", weights_only=True)["model_state"].values())
    seen = torch.tensor(sorted(ORDER[:4]))
    ids = np.load(run / "recorded_losses/sample_ids.npy")
    losses = np.load(run / "recorded_losses/loss_digits_epoch_1.npy")
    x = split.transform.normalise(split.images).flatten(1)  # type: ignore[arg-type]
    logits = F.linear(F.relu(F.linear(x, *state[:2])), *state[2:])[:, seen]
    for sample in first[:20]:
        row = int(np.flatnonzero(ids == sample)[0])
        expected = F.cross_entropy(logits[row], torch.searchsorted(seen, split.labels[row]))
        assert losses[row] == pytest.approx(float(expected), rel=1e-5)
    unseen = ~np.isin(split.labels.numpy(), ORDER[:4])
    assert np.isnan(losses[unseen]).all()
    assert np.isfinite(losses[~unseen]).all()
    words = ("--class-order", run / "class_order.npy", "--output-dir", tmp_path / "csl")
    done = mcx("csl", "aggregate", "--input-dir", run / "recorded_losses", *words)
    assert (done.code, "of training: augmented images" in done.out) == (0, True)
    words = ("--csl", tmp_path / "csl", "--tracking", run / "sample_tracking_data_final.csv")
    done = mcx("correlate", *words, "--how", "inner", "--output-dir", tmp_path / "joined", "--json")
    assert done.code == 0, done.err
    for row in rows_of(tmp_path / "joined/per_sample.csv"):
        epochs = int(row["times_seen"])  # every epoch once
        assert float(row["csl_per_epoch"]) == pytest.approx(float(row["csl"]) / epochs, rel=1e-6)


def test_memo_scores_are_written_as_they_are_and_missing_ones_stay_empty(
    mcx: Callable, tmp_path: Path, order: Path
) -> None:
    split = data().fit
    scored = split.ids.tolist()[:50]
    text = "".join(f"{sample},{0.1 * k!r}\n" for k, sample in enumerate(scored))
    (tmp_path / "memo.csv").write_text(f"sample_id,memo_score\n{text}999999,0.5\n")
    words = [word for word in WORDS if word != "--record-csl"]
    done = mcx(
        *words, "--epochs", "1", "--class-order", order, "--memo-scores", tmp_path / "memo.csv",
        "--output-dir", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 0, done.err
    known = {sample: 0.1 * k for k, sample in enumerate(scored)}
    for row in rows_of(tmp_path / "out/seed0/sample_tracking_data_final.csv"):
        value = known.get(int(row["sample_id"]))
        assert row["memo_score"] == "" if value is None else float(row["memo_score"]) == value


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (("--class-order", "short.npy"), "is no permutation of the 10 classes", 3),
        (("--class-order", "order.npy"), "--class-order has no effect without --classes-per-task", 2),
        (("--memo-scores", "x.csv"), "--memo-scores has no effect without --track-samples", 2),
        (
            ("--classes-per-task", "2", "--patience", "3"),
            "--patience would end the run within its first task",
            2,
        ),
        (("--val-per-class", "500"), "leaves nothing of class 0", 2),
        (("--val-per-class", "5", "--val-size", "10"), "both choose validation images", 2),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(
    mcx: Callable,
    tmp_path: Path,
    order: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple,
    message: str,
    code: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("short.npy", np.array([0, 1, 2, 3, 3, 4, 5, 6, 7, 8]))
    more = ("--classes-per-task", "2") if "short.npy" in words else ()
    done = mcx("train", "--model", "mlp", "--dataset", "digits", *more, *words, "--output-dir", "out")
    assert (done.code, message in done.err) == (code, True), done.err
    assert not Path("out/seed0/checkpoint-0.pt").exists()


def test_the_columns_of_32_bits_say_the_same(mcx: Callable, run: Path, tmp_path: Path, order: Path) -> None:
    done = mcx(*WORDS, "--track-format", "npz", "--class-order", order, "--output-dir", tmp_path / "npz")
    assert done.code == 0, done.err
    rows = rows_of(run / "sample_tracking_data_final.csv")
    with np.load(tmp_path / "npz/seed0/sample_tracking_data_final.npz") as found:
        for name in ("sample_id", "true_label", "class_id", "epoch_num", "batch_num", "task_num"):
            assert found[name].dtype == np.int32
            assert found[name].tolist() == [int(row[name]) for row in rows]
        assert np.isnan(found["memo_score"]).all()
    assert not list((tmp_path / "npz").rglob("*.rows"))
    losses = run / "recorded_losses"
    words = ("--class-order", order, "--json", "--output-dir")
    assert mcx("csl", "aggregate", "--input-dir", losses, *words, tmp_path / "csl").code == 0
    both = []
    for name, tracked in (("a", run / "sample_tracking_data_final.csv"),
                           ("b", tmp_path / "npz/seed0/sample_tracking_data_final.npz")):  # fmt: skip
        words = ("--tracking", tracked, "--csl", tmp_path / "csl", "--output-dir", tmp_path / name)
        assert mcx("correlate", *words).code == 0
        both.append((tmp_path / name / "per_sample.csv").read_bytes())
    assert both[0] == both[1]
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04")
    done = mcx("correlate", "--tracking", tmp_path / "bad.npz", "--output-dir", tmp_path / "c")
    assert (done.code, "bad.npz' is not a" in done.err) == (3, True), done.err


def scored(mcx: Callable, command: str, run: Path, out: Path, *more: str) -> Path:
    words = (
        "--checkpoint-dir",
        run,
        "--start-epoch",
        "2",
        "--end-epoch",
        "8",
        "--step",
        "2",
        "--seen-classes",
    )
    done = mcx(*command.split(), *words, *more, "--output-dir", out)
    assert done.code == 0, done.err
    return out


def test_every_score_leaves_out_classes_not_seen_yet(mcx: Callable, run: Path, tmp_path: Path) -> None:
    """The checkpoints say their own order: epochs 2, 4, 6, 8 are of tasks 0, 1, 1, 2."""
    losses = scored(mcx, "csl score", run, tmp_path / "losses", "--grad", "none")
    curved = scored(mcx, "curvature", run, tmp_path / "curved", "--niter", "2")
    dormant = scored(mcx, "dormant", run, tmp_path / "dormant")
    labels = np.load(curved / "epoch_2/per_image_labels.npy")
    for epoch, count in ((2, 4), (4, 8), (6, 8), (8, 10)):
        seen = np.isin(labels, ORDER[:count])
        for values in (
            np.load(losses / f"loss_digits_run1_epoch_{epoch}_noise_0.npy"),
            np.load(curved / f"epoch_{epoch}/per_image_curvature.npy"),
            np.load(dormant / f"dormant_props_epoch_{epoch}.npy"),
        ):
            assert (np.isfinite(values) == seen).all()
    each = np.stack([np.load(curved / f"epoch_{epoch}/per_image_curvature.npy") for epoch in (2, 4, 6, 8)])
    np.testing.assert_allclose(np.load(curved / "per_image_curvature.npy"), np.nanmean(each, 0), rtol=1e-5)
    table = rows_of(dormant / "dormant_layers_epoch_2.csv")
    assert all(0 <= float(row["proportion"]) <= 1 for row in table)
    props = np.load(dormant / "dormant_props_epoch_2.npy")
    units = sum(int(row["units"]) for row in table if row["site"] == "pre")
    total = sum(float(row["proportion"]) * int(row["units"]) for row in table if row["site"] == "pre")
    assert total / units == pytest.approx(np.nanmean(props), rel=1e-5)
    tasks = json.loads((dormant / "dormant_summary_digits.json").read_text())["tasks"]
    assert [(each["task"], each["epoch"], each["classes_seen"]) for each in tasks] == [
        (0, 2, 4),
        (1, 6, 8),
        (2, 8, 10),
    ]
    sranks = [
        row["srank"] for row in rows_of(dormant / "dormant_layers_epoch_6.csv") if row["site"] == "post"
    ]
    assert [str(layer["srank"]) for layer in tasks[1]["layers"]] == sranks


def test_curvature_is_of_the_loss_over_the_classes_seen(mcx: Callable, run: Path, tmp_path: Path) -> None:
    words = ("--checkpoint", run / "checkpoint-2.pt", "--seen-classes", "--method", "hvp", "--niter", "3")
    assert mcx("curvature", *words, "--max-samples", "60", "--save-dir", tmp_path / "out").code == 0
    found = np.load(tmp_path / "out/per_image_curvature.npy")
    ids, labels = (np.load(tmp_path / f"out/{name}.npy") for name in ("sample_ids", "per_image_labels"))
    state = list(torch.load(run / "checkpoint-2.pt", weights_only=True)["model_state"].values())
    state = [tensor.double() for tensor in state]
    seen = torch.tensor(sorted(ORDER[:4]))
    whole = datasets.load(DataSettings(dataset="digits"), torch.device("cpu")).fit
    images = whole.transform.normalise(whole.images).double()  # type: ignore[arg-type]
    checked = 0
    for sample, label, value in zip(ids, labels, found, strict=True):
        if label not in ORDER[:4]:
            assert np.isnan(value)
            continue
        row = int(np.flatnonzero(whole.ids.numpy() == sample)[0])
        target = torch.searchsorted(seen, torch.tensor(label))

        def loss(x: torch.Tensor, target: torch.Tensor = target) -> torch.Tensor:
            logits = F.linear(F.relu(F.linear(x, *state[:2])), *state[2:])
            return F.cross_entropy(logits[seen], target)

        hessian = torch.autograd.functional.hessian(loss, images[row].flatten())
        signs = [directions(0, torch.tensor([sample]), k, torch.Size([1, 64]))[0].double() for k in range(3)]
        expected = 1e-3 * float(torch.stack([(hessian @ s).norm() for s in signs]).mean())
        assert value == pytest.approx(expected, rel=1e-4, abs=1e-12)
        checked += 1
    assert checked > 10


def test_an_order_that_nobody_gives_is_asked_for(
    mcx: Callable, networks: Path, run: Path, tmp_path: Path
) -> None:
    words = ("--checkpoint", networks / "seed0/checkpoint-4.pt", "--output-dir", tmp_path / "out")
    done = mcx("dormant", *words, "--seen-classes")
    assert (done.code, "--seen-classes needs the order of the classes" in done.err) == (2, True)
    done = mcx("dormant", "--checkpoint", run / "checkpoint-2.pt", "--output-dir", tmp_path / "all")
    assert (done.code, "--seen-classes leaves out those not seen yet" in done.err) == (0, True)


@pytest.mark.parametrize("form", ["csv", "npz"])
def test_a_run_of_no_epochs_tracks_nothing(mcx: Callable, tmp_path: Path, form: str) -> None:
    words = ("--epochs", "0", "--track-samples", "--track-format", form, "--output-dir", tmp_path / "out")
    done = mcx("train", "--model", "mlp", "--dataset", "digits", *words)
    assert done.code == 0, done.err
    path = tmp_path / f"out/seed0/sample_tracking_data_final.{form}"
    if form == "csv":
        assert rows_of(path) == []
    else:
        with np.load(path) as found:
            assert {len(found[name]) for name in found.files} == {0}


def test_a_disk_that_is_full_is_one_line(
    mcx: Callable, tmp_path: Path, order: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tracking, "os", SimpleNamespace(**{**vars(os), "write": full}))
    done = mcx(*WORDS, "--class-order", order, "--output-dir", tmp_path / "out")
    assert (done.code, "sample_tracking_data_final.csv" in done.err) == (5, True), done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("flag", ["--class-order", "--classes-per-task", "--epochs-per-task"])
def test_flags_of_tasks_need_the_classes_seen(
    mcx: Callable, run: Path, tmp_path: Path, order: Path, flag: str
) -> None:
    value = order if flag == "--class-order" else "3"
    done = mcx("dormant", "--checkpoint-dir", run, flag, value, "--output-dir", tmp_path / "out")
    assert (done.code, f"{flag} has no effect without --seen-classes" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("command", "where", "array"),
    [
        (("csl", "score", "--weight-decay", "1e-4"), "--output-dir", "loss_digits_run?_epoch_{}_noise_*.npy"),
        (("curvature", "--niter", "2"), "--save-dir", "epoch_{}/per_image_curvature.npy"),
        (("dormant",), "--output-dir", "dormant_post_epoch_{}.npy"),
    ],
)
def test_checkpoints_of_the_original_runs_are_scored_over_the_classes_seen(
    mcx: Callable, run: Path, tmp_path: Path, order: Path, command: tuple, where: str, array: str
) -> None:
    """index-<i>_epoch-<e>.pt is a bare state_dict, and the order of the classes lies in a folder of its own."""
    original = tmp_path / "model_parameters"
    original.mkdir()
    for epoch in (2, 4, 8):
        state = torch.load(run / f"checkpoint-{epoch}.pt", weights_only=True)["model_state"]
        torch.save(state, original / f"index-0_epoch-{epoch}.pt")
    words = ("--seen-classes", "--start-epoch", "2", "--end-epoch", "8", "--threads", "1")
    step = ("--epoch-step" if command[0] == "csl" else "--step", "2")
    named = (
        "--model", "mlp", "--model-arg", "width=16,depth=1", "--dataset", "digits", "--class-order", order,
        "--classes-per-task", "4", "--epochs-per-task", "3", "--allow-missing",
    )  # fmt: skip
    theirs = mcx(*command, "--checkpoint-dir", original, *words, *step, *named, where, tmp_path / "theirs")
    ours = mcx(*command, "--checkpoint-dir", run, *words, *step, where, tmp_path / "ours")
    assert (theirs.code, ours.code) == (0, 0), theirs.err + ours.err
    labels = (
        datasets.load(DataSettings(dataset="digits"), torch.device("cpu")).split("all-train").labels.numpy()
    )
    for epoch, seen in ((2, ORDER[:4]), (4, ORDER[:8]), (8, ORDER)):
        found, expected = (
            np.load(next((tmp_path / side).glob(array.format(epoch)))) for side in ("theirs", "ours")
        )
        np.testing.assert_array_equal(found, expected)
        assert np.array_equal(np.isfinite(found), np.isin(labels, seen))


def test_a_tracking_that_ends_within_a_line_is_refused(mcx: Callable, run: Path, tmp_path: Path) -> None:
    """12 of 1234 is another sample's id."""
    csl = tmp_path / "csl"
    words = ("--class-order", run / "class_order.npy", "--output-dir", csl)
    assert mcx("csl", "aggregate", "--input-dir", run / "recorded_losses", *words).code == 0
    whole = (run / "sample_tracking_data_final.csv").read_bytes()
    cut = tmp_path / "tracking.csv"
    joined = (
        "correlate",
        "--csl",
        csl,
        "--how",
        "inner",
        "--output-dir",
        tmp_path / "out",
        "--tracking",
        cut,
    )
    for size in (1, 4, 12):
        cut.write_bytes(whole[:-size])
        done = mcx(*joined)
        assert (done.code, f"'{cut}' ends within a line" in done.err) == (3, True), done.err
    cut.write_bytes(whole)
    assert mcx(*joined).code == 0


def test_what_a_training_has_not_finished_or_not_written_is_refused(
    mcx: Callable, run: Path, tmp_path: Path
) -> None:
    tracking = run / "sample_tracking_data_final.csv"
    words = ("correlate", "--tracking", tracking, "--curvature", tmp_path, "--output-dir", tmp_path / "out")
    tracking.write_bytes(tracking.read_bytes().replace(b",0,0,0\n", b",1,0,0\n", 1))
    done = mcx(*words)
    assert (done.code, "is not as 'train' left it" in done.err) == (3, True), done.err
    (run / ".mcx/train/manifest.json").rename(tmp_path / "manifest.json")
    done = mcx(*words)
    assert (done.code, "'train' in" in done.err, "is not complete" in done.err) == (3, True, True), done.err
    (tmp_path / "manifest.json").rename(run / ".mcx/train/manifest.json")
    losses = run / "recorded_losses/loss_digits_epoch_5.npy"
    np.save(losses, 2 * np.load(losses))
    done = mcx("csl", "aggregate", "--input-dir", run / "recorded_losses", "--output-dir", tmp_path / "csl")
    assert (done.code, "is not as 'train' left it: it was changed or damaged" in done.err) == (3, True), (
        done.err
    )


def test_e6_e7_a_stop_and_a_damaged_checkpoint_cost_no_row(
    mcx: Callable, run: Path, tmp_path: Path, order: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal within an epoch of the second task; then the newest states are cut: the one before goes on."""
    words = (*WORDS, "--class-order", order, "--output-dir", tmp_path / "stopped")
    monkeypatch.setattr(failpoints, "_counts", {})
    monkeypatch.setenv("MCX_TESTING", "1")
    monkeypatch.setenv("MCX_FAILPOINT", "train.after_step:27=usr2")
    assert mcx(*words).code == 75
    monkeypatch.delenv("MCX_FAILPOINT")
    stopped = tmp_path / "stopped/seed0"
    bad = [stopped / "last.pt", stopped / "checkpoint-4.pt"]
    for path in bad:
        path.write_bytes(path.read_bytes()[:-100])
    good = [path for path in stopped.glob("checkpoint-*.pt") if path not in bad]
    kept = {path: path.read_bytes() for path in good}
    for path in good:
        path.write_bytes(b"PK\x03\x04")
    done = mcx(*words)
    assert (done.code, "and so is every state before it" in done.err) == (3, True), done.err
    assert all(path.exists() for path in (*bad, *good)), "not started anew, nothing set aside"
    for path, content in kept.items():
        path.write_bytes(content)
    done = mcx(*words)
    assert (done.code, "kept as 'checkpoint-4.pt.corrupt'" in done.err) == (0, True), done.err
    assert (stopped / "last.pt.corrupt").exists()
    for name in ("sample_tracking_data_final.csv", "tasks.csv", "tasks.png", "checkpoint-9.pt", "task-1.pt"):
        assert (stopped / name).read_bytes() == (run / name).read_bytes(), name
    for path in (run / "recorded_losses").iterdir():
        assert (stopped / "recorded_losses" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("words", "was"),
    [
        (("--classes-per-task", "5"), "'classes_per_task' was 4, now 5"),
        (("--epochs-per-task", "4"), "'epochs_per_task' was 3, now 4"),
        (("--val-per-class", "20"), "'val_per_class' was 14, now 20"),
        (("--track-every", "2"), "'track_every' was 1, now 2"),
    ],
)
def test_other_tasks_are_another_run(
    mcx: Callable, run: Path, tmp_path: Path, order: Path, words: tuple, was: str
) -> None:
    done = mcx(*WORDS, *words, "--class-order", order, "--output-dir", tmp_path / "run")
    assert (done.code, was in done.err) == (3, True), done.err
    assert mcx(*WORDS, "--class-order", order, "--output-dir", tmp_path / "run").code == 0


@pytest.mark.filterwarnings("ignore:dtype.*align:DeprecationWarning")
def test_the_documented_protocol_runs_on_cifar100(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files in the real format, 4 images of each class: the first of each is for validation, which takes long."""
    from torchvision.datasets import CIFAR100

    folder = tmp_path / "data/cifar-100-python"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, each in (("train", 4), ("test", 1)):
        labels = np.repeat(np.arange(100), each)
        images = generator.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": images, "fine_labels": labels.tolist()}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [str(i) for i in range(100)]}))
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR100, attribute, [[name, None] for name, _ in getattr(CIFAR100, attribute)])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": None})
    words = ("train", "--preset", "incremental-cifar100", "--data-path", tmp_path / "data")
    less = ("--epochs-per-task", "1", "--epochs", "2", "--val-per-class", "1", "--track-samples", "--json")
    done = mcx(*words, *less, "--output-dir", tmp_path / "run")
    assert done.code == 0, done.err
    first, second = json.loads(done.out)["networks"][0]["tasks"]
    assert (len(first["classes"]), first["seen"], second["seen"]) == (5, 5, 10)
    rows = rows_of(tmp_path / "run/seed0/sample_tracking_data_final.csv")
    assert [sum(row["epoch_num"] == epoch for row in rows) for epoch in "01"] == [5 * 3, 10 * 3]
    assert all(int(row["sample_id"]) % 4 >= 1 for row in rows)
    done = mcx(*words, "--val-per-class", "1", "--dry-run", "--output-dir", tmp_path / "new")
    assert "20 tasks of 5 classes and 200 epochs each" in done.err
    assert "incremental-resnet18" in done.err


def test_tracking_is_one_write_per_batch_and_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[int] = []

    def counted(handle: int, data: bytes) -> int:
        writes.append(len(data))
        return real(handle, data)

    real = os.write
    monkeypatch.setattr(tracking.os, "write", counted)
    batch = datasets.Batch(torch.zeros(128, 0), torch.arange(128) % 10, torch.arange(128))
    done = loop.Step(torch.zeros(()), 0.0, torch.zeros(128, 10), batch.labels)
    peaks = []
    for count in (20, 400):
        tracked = tracking.TrackedCsv(tmp_path / f"{count}.csv", {}, Curriculum(data().fit), 128)
        tracked.begin(0, 0, {})
        writes.clear()
        tracemalloc.start()
        for number in range(count):
            tracked.step(0, number, batch, done)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        tracked.close()
        assert len(writes) == count
    assert max(peaks) < 2**16


@pytest.mark.parametrize("form", ["csv", "npz"])
@pytest.mark.parametrize("harm", ["removed", "cut", "recorded"])
def test_rows_that_vanish_while_a_run_is_stopped_are_missed(
    mcx: Callable, tmp_path: Path, order: Path, monkeypatch: pytest.MonkeyPatch, form: str, harm: str
) -> None:
    words = (*WORDS, "--track-format", form, "--class-order", order, "--output-dir", tmp_path)
    monkeypatch.setattr(failpoints, "_counts", {})
    monkeypatch.setenv("MCX_TESTING", "1")
    monkeypatch.setenv("MCX_FAILPOINT", "train.after_step:27=usr2")
    assert mcx(*words).code == 75
    monkeypatch.delenv("MCX_FAILPOINT")
    place = ".mcx/train/tracking.rows" if form == "npz" else "sample_tracking_data_final.csv"
    path = tmp_path / "seed0" / ("recorded_losses/loss_digits_epoch_2.npy" if harm == "recorded" else place)
    content = path.read_bytes()
    if harm == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    done = mcx(*words)
    said = "is missing" if harm == "recorded" else "from which the training goes on"
    assert (done.code, said in done.err, str(path) in done.err) == (3, True, True), done.err
    path.write_bytes(content)
    assert mcx(*words).code == 0


def test_what_a_run_reads_must_be_what_it_began_with(
    mcx: Callable, tmp_path: Path, order: Path, run: Path
) -> None:
    """A changed order of the classes, under its old name."""
    np.save(order, np.array(ORDER[::-1]))
    done = mcx(*WORDS, "--class-order", order, "--output-dir", tmp_path / "run")
    assert (done.code, "order.npy" in done.err) == (3, True), done.err
    assert np.load(run / "class_order.npy").tolist() == ORDER


def test_the_seed_of_label_noise_is_part_of_the_run(mcx: Callable, tmp_path: Path) -> None:
    """--seeds has one data set for all its runs, that of --seed."""
    words = ("train", "--model", "mlp", "--dataset", "digits", "--epochs", "1", "--label-noise", "0.3")
    assert mcx(*words, "--seeds", "3", "--output-dir", tmp_path).code == 0
    done = mcx(*words, "--seed", "3", "--output-dir", tmp_path)
    assert (done.code, "'label_seed' was 0, now 3" in done.err) == (3, True), done.err


@pytest.mark.parametrize(
    "words", [("--track-every", "2"), ("--track-format", "npz"), ("--epochs-per-task", "3")]
)
def test_flags_without_effect_are_refused(mcx: Callable, tmp_path: Path, words: tuple) -> None:
    done = mcx("train", "--model", "mlp", "--dataset", "digits", *words, "--output-dir", tmp_path)
    assert (done.code, f"{words[0]} has no effect without" in done.err) == (2, True), done.err


def test_tasks_with_classes_that_have_no_image(mcx: Callable, tmp_path: Path) -> None:
    """Of four classes the third has none: no validation and no test image in the first task that is of it alone."""
    generator = np.random.default_rng(0)
    labels = np.tile([0, 1, 3], 20)
    images = generator.integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    split = np.where(np.arange(60) < 45, "train", "test")
    np.savez(tmp_path / "data.npz", images=images, labels=labels, split=split)
    words = (
        "train", "--model", "mlp", "--dataset", tmp_path / "data.npz", "--classes-per-task", "1",
        "--epochs-per-task", "1", "--num-classes", "4", "--class-order", tmp_path / "order.npy", "--json",
    )  # fmt: skip
    np.save(tmp_path / "order.npy", np.array([2, 0, 1, 3]))
    done = mcx(*words, "--output-dir", tmp_path / "first")
    assert (done.code, "no training image is of a class of the first task: [2]" in done.err) == (2, True), (
        done.err
    )
    np.save(tmp_path / "order.npy", np.array([0, 2, 1, 3]))
    done = mcx(*words, "--output-dir", tmp_path / "second")
    assert done.code == 0, done.err
    tasks = json.loads(done.out)["networks"][0]["tasks"]
    assert tasks[1]["of_tasks"][1] is None
    assert rows_of(tmp_path / "second/seed0/tasks.csv")[1]["accuracy_task_1"] == ""


def test_epochs_after_the_last_task_are_refused(mcx: Callable, tmp_path: Path, order: Path) -> None:
    done = mcx(*WORDS, "--epochs", "10", "--class-order", order, "--output-dir", tmp_path / "out")
    assert (done.code, "the 3 tasks are over after 9" in done.err) == (2, True), done.err


def test_the_loss_per_epoch_leaves_out_the_decay_and_tells_high_from_low(
    mcx: Callable, run: Path, tmp_path: Path
) -> None:
    """Samples of different tasks have different epochs, and the decay of each epoch is another."""
    scores, csl, out = tmp_path / "scores", tmp_path / "csl", tmp_path / "out"
    assert mcx("csl", "score", "--checkpoint-dir", run, "--seen-classes", "--output-dir", scores).code == 0
    words = ("csl", "aggregate", "--input-dir", scores, "--output-dir", csl, "--json", "--class-order")
    done = mcx(*words, run / "class_order.npy")
    assert done.code == 0, done.err
    epochs = (0, 2, 3, 4, 6, 8, 9)
    losses = np.stack([np.load(scores / f"loss_ce_digits_run1_epoch_{e}_noise_0.npy") for e in epochs])
    expected = np.nanmean(losses.astype(float), axis=0)
    found = np.load(csl / "csl_per_epoch_digits_run1_noise_0.npy")
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    hardest = [row["sample_id"] for row in json.loads(done.out)["hardest"]]
    ids = np.load(csl / "sample_ids.npy")
    assert hardest == ids[np.argsort(found, kind="stable")[::-1][: len(hardest)]].tolist()
    done = mcx(
        "correlate", "--csl", csl, "--tracking", run / "sample_tracking_data_final.csv", "--how", "inner",
        "--output-dir", out,
    )  # fmt: skip
    assert (done.code, "csl_per_epoch tells high from low csl" in done.err) == (0, True), done.err
    rows = rows_of(out / "per_sample.csv")
    median = np.median([float(row["csl_per_epoch"]) for row in rows])
    assert all((row["category"] == "high csl") == (float(row["csl_per_epoch"]) > median) for row in rows)
    for content, said in ((np.array([0, 0, 2]), "1 is missing"), (None, "does not exist")):
        path = tmp_path / "wrong.npy"
        if content is not None:
            np.save(path, content)
        else:
            path.unlink()
        done = mcx(*words, path, "--overwrite", "--no-resume")
        assert (done.code, said in done.err) == (3, True), done.err


def test_losses_of_classes_not_seen_are_warned_about(mcx: Callable, tmp_path: Path, order: Path) -> None:
    """As the original scripts have them: every sample at every epoch. Runs count from 0 there."""
    for epoch in (0, 200):
        np.save(tmp_path / f"loss_digits_run0_epoch_{epoch}_noise_0.npy", np.ones(5, np.float32))
    words = (
        "csl",
        "aggregate",
        "--input-dir",
        tmp_path,
        "--epoch-step",
        "200",
        "--output-dir",
        tmp_path / "out",
    )
    done = mcx(*words, "--class-order", order)
    assert (done.code, "--class-order leaves out none" in done.err) == (0, True), done.err
    assert (tmp_path / "out/csl_digits_run0_noise_0.npy").exists()


def test_a_row_without_its_cells_is_refused(mcx: Callable, tmp_path: Path, run: Path) -> None:
    text = (run / "sample_tracking_data_final.csv").read_text().splitlines(keepends=True)
    text.insert(7, "12,,3\n")
    (tmp_path / "tracking.csv").write_text("".join(text))
    done = mcx("correlate", "--tracking", tmp_path / "tracking.csv", "--output-dir", tmp_path / "out")
    assert (done.code, "has 1 rows without" in done.err) == (3, True), done.err


def test_epochs_that_were_not_tracked_are_said(mcx: Callable, tmp_path: Path, order: Path) -> None:
    done = mcx(*WORDS, "--track-every", "2", "--class-order", order, "--output-dir", tmp_path / "run")
    assert done.code == 0, done.err
    run = tmp_path / "run/seed0"
    words = ("--input-dir", run / "recorded_losses", "--class-order", order, "--output-dir", tmp_path / "csl")
    assert mcx("csl", "aggregate", *words).code == 0
    tracking = run / "sample_tracking_data_final.csv"
    words = (
        "--csl",
        tmp_path / "csl",
        "--tracking",
        tracking,
        "--how",
        "inner",
        "--output-dir",
        tmp_path / "out",
    )
    done = mcx("correlate", *words)
    assert (done.code, "only one epoch of 2 was tracked" in done.err) == (0, True), done.err


def test_a_head_larger_than_the_data_is_scored(mcx: Callable, tmp_path: Path, order: Path) -> None:
    words = (*WORDS, "--num-classes", "20", "--class-order", order, "--output-dir", tmp_path / "run")
    assert mcx(*words).code == 0
    words = (
        "dormant",
        "--checkpoint",
        tmp_path / "run/seed0/checkpoint-4.pt",
        "--seen-classes",
        "--output-dir",
    )
    for more in ((), ("--class-order", order)):
        done = mcx(*words, tmp_path / f"out{len(more)}", *more)
        assert done.code == 0, done.err
    labels = np.load(tmp_path / "out0/labels_epoch_4.npy")
    found = np.load(tmp_path / "out0/dormant_post_epoch_4.npy")
    assert np.array_equal(np.isfinite(found), np.isin(labels, ORDER[:8]))


def test_the_evolution_is_of_the_samples_that_were_joined(mcx: Callable, run: Path, tmp_path: Path) -> None:
    """Scores are of the whole training file, the tracking of what was trained on."""
    words = ("dormant", "--checkpoint-dir", run, "--seen-classes", "--start-epoch", "6", "--end-epoch", "9")
    assert mcx(*words, "--step", "3", "--output-dir", tmp_path / "dormant").code == 0
    tracking = run / "sample_tracking_data_final.csv"
    words = ("--dormant", tmp_path / "dormant", "--tracking", tracking, "--how", "inner", "--json")
    done = mcx("correlate", *words, "--output-dir", tmp_path / "out")
    assert done.code == 0, done.err
    found = {(row["epoch"], row["metric"], row["task"]): row for row in json.loads(done.out)["evolution"]}
    split = data().fit
    for epoch, classes in ((6, ORDER[:8]), (9, ORDER)):
        row = found[epoch, "dormant_post", None]
        assert row["samples"] == int(torch.isin(split.labels, torch.tensor(classes)).sum())
        ids = np.load(tmp_path / f"dormant/sample_ids_epoch_{epoch}.npy")
        values = np.load(tmp_path / f"dormant/dormant_post_epoch_{epoch}.npy").astype(float)
        inside = np.isin(ids, split.ids.numpy()) & np.isfinite(values)
        assert row["statistics"]["mean"] == pytest.approx(values[inside].mean())
        parts = [found[epoch, "dormant_post", task]["samples"] for task in range(len(classes) // 4)]
        assert sum(parts) <= row["samples"]


def test_the_figure_of_tasks_is_drawn_again_without_training(
    mcx: Callable, order: Path, tmp_path: Path
) -> None:
    words = (*WORDS, "--class-order", order, "--track-format", "npz", "--output-dir", tmp_path)
    assert mcx(*words).code == 0
    folder = tmp_path / "seed0"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    done = mcx(*words, "--figure-format", "svg")
    assert done.code == 0
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert after.pop("tasks.svg").startswith(b"<?xml")
    assert after == before
    manifest = json.loads((folder / ".mcx/train/manifest.json").read_text())
    assert "tasks.svg" in {entry["file"] for entry in manifest["files"]}
