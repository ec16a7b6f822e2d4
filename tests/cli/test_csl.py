"""`mcx csl`: the document's workflow on a run with flipped labels, and every way in which arrays can be wrong."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from modeconn_cli.cli import app
from modeconn_cli.engine import datasets, keyed
from modeconn_cli.engine.commands.csl import naming
from modeconn_cli.engine.datasets.noise import flip
from modeconn_cli.engine.networks import checkpoints, models
from modeconn_cli.engine.networks.cross_entropy import cross_entropy
from modeconn_cli.engine.networks.models import Architecture
from modeconn_cli.engine.results import arrays
from modeconn_cli.engine.samples import losses as metrics
from modeconn_cli.engine.samples import pictures
from modeconn_cli.engine.settings.shared import DataSettings
from modeconn_cli.engine.statistics import auroc
from modeconn_cli.engine.training.recorder import Recorder

GOLDEN = Path(__file__).parents[1] / "data/csl"
EPOCHS = 4
WIDTH = 4
NETWORK = ("--model", "cnn", "--model-arg", f"width={WIDTH}", "--dataset", "digits", "--max-samples", "150")


@pytest.fixture(autouse=True)
def _drawn_where_they_are_looked_at(request: pytest.FixtureRequest) -> None:
    """Figures are drawn by the tests that speak of them alone."""
    if "figure" not in request.node.name and "picture" not in request.node.name:
        request.getfixturevalue("undrawn")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four epochs with 5 % flipped labels: checkpoint-0.pt … checkpoint-4.pt."""
    folder = tmp_path_factory.mktemp("run")
    words = [
        "train",
        *NETWORK,
        "--epochs",
        str(EPOCHS),
        "--lr",
        "0.05",
        "--save-freq",
        "1",
        "--label-noise",
        "0.05",
        "--val-size",
        "300",
    ]
    assert app.main([*words, "--output-dir", str(folder), "-q"]) == 0
    return folder / "seed0"


@pytest.fixture
def scored(mcx: Callable, run: Path, tmp_path: Path) -> Path:
    done = mcx(
        "csl", "score", "--checkpoint-dir", run, "--output-dir", tmp_path / "scores", "--batch-size", "64"
    )
    assert done.code == 0, done.err
    return tmp_path / "scores"


def array(folder: Path, kind: str, epoch: int) -> np.ndarray:
    return np.load(folder / f"{kind}_digits_run1_epoch_{epoch}_noise_0.05.npy")


def expected(run: Path, epoch: int, decay: float = 1e-4) -> tuple[np.ndarray, np.ndarray, float]:
    """Cross-entropy, norm of the documented gradient, and decay term, in float64 and one sample at a time."""
    data = datasets.load(
        DataSettings(dataset="digits", max_samples=150, val_size=300, label_noise=0.05, label_seed=0),
        torch.device("cpu"),
    )
    model = models.build(Architecture("cnn", 10, (1, 8, 8), {"width": WIDTH})).double()
    model.load_state_dict(checkpoints.read(run / f"checkpoint-{epoch}.pt").state)
    parameters = list(model.parameters())
    losses, norms = [], []
    for batch in data.split("all-train").batches(1):
        loss = F.cross_entropy(model.eval()(batch.images.double()), batch.labels)
        total = loss + decay * sum((p**2).sum() for p in parameters)
        found = torch.autograd.grad(total, parameters)
        losses.append(float(loss.detach()))
        norms.append(float(sum((g**2).sum() for g in found)) ** 0.5)
    return np.array(losses), np.array(norms), decay * sum(float((p.detach() ** 2).sum()) for p in parameters)


def test_g12_scores_have_the_weight_decay_that_the_run_was_trained_with(run: Path, scored: Path) -> None:
    for epoch in (0, EPOCHS):
        losses, norms, shift = expected(run, epoch, 0.5 * 5e-4)  # as SGD minimises it
        np.testing.assert_allclose(array(scored, "loss_ce", epoch), losses, rtol=1e-5)
        np.testing.assert_allclose(array(scored, "loss", epoch), losses + shift, rtol=1e-5)
        np.testing.assert_allclose(array(scored, "loss_grad", epoch), norms, rtol=1e-5)
        assert array(scored, "loss", epoch).dtype == np.float32
    ids = np.load(scored / "sample_ids.npy")
    assert (len(ids), ids.dtype, bool((np.diff(ids) > 0).all())) == (300, np.int64, True)


def test_cross_entropy_in_closed_form() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, math.log(3.0)]], dtype=torch.float64)
    found = cross_entropy(logits, torch.tensor([0, 1]))
    assert found.tolist() == pytest.approx([math.log(4.0), math.log(4.0) - math.log(3.0)], rel=1e-15)


def test_without_a_word_of_the_run_or_with_a_flag_the_decay_is_the_documents(
    mcx: Callable, run: Path, tmp_path: Path
) -> None:
    flagged = mcx("csl", "score", "--checkpoint", run / "checkpoint-4.pt", "--weight-decay", "1e-4", "--json",
                  "--output-dir", tmp_path / "flag")  # fmt: skip
    torch.save(checkpoints.read(run / "checkpoint-4.pt").state, tmp_path / "checkpoint-4.pt")
    noise = ("--val-size", "300", "--label-noise", "0.05", "--label-seed", "0", "--noise-level", "0.05")
    words = (
        "--checkpoint",
        tmp_path / "checkpoint-4.pt",
        *NETWORK,
        *noise,
        "--output-dir",
        tmp_path / "bare",
    )
    bare = mcx("csl", "score", *words, "--json")
    losses, norms, shift = expected(run, 4)
    for done, folder, origin in ((flagged, "flag", "--weight-decay"), (bare, "bare", "the document's")):
        assert done.code == 0, done.err
        found = json.loads(done.out)
        assert (found["weight_decay"], found["wd_form"]) == (1e-4, "seed")
        assert origin in found["wd_origin"]
        np.testing.assert_allclose(array(tmp_path / folder, "loss", 4), losses + shift, rtol=1e-5)
        np.testing.assert_allclose(array(tmp_path / folder, "loss_grad", 4), norms, rtol=1e-5)


def test_the_decay_that_the_run_brings_is_in_the_settings_that_are_printed(
    mcx: Callable, run: Path, tmp_path: Path
) -> None:
    words = ("csl", "score", "--checkpoint", run / "checkpoint-4.pt", "--output-dir", tmp_path / "out")
    own = torch.load(run / "checkpoint-4.pt", weights_only=True)["mcx"]["wd"]
    printed = mcx(*words, "--print-config").out
    assert f"weight_decay: {own}  # checkpoint {run / 'checkpoint-4.pt'}\n" in printed
    assert "wd_form: half  # checkpoint " in printed
    assert "weight_decay: 0.001  # flag" in mcx(*words, "--weight-decay", "1e-3", "--print-config").out
    (tmp_path / "c.yaml").write_text(printed)
    assert mcx(*words).code == 0
    again = mcx("csl", "score", "--config", tmp_path / "c.yaml", "--json")
    assert (again.code, json.loads(again.out)["scored"]) == (0, 0), again.err


def test_a_run_without_decay_says_so_and_an_unknown_decay_names_the_flag(
    mcx: Callable, run: Path, tmp_path: Path
) -> None:
    content = torch.load(run / "checkpoint-4.pt", weights_only=True)
    content["mcx"]["wd"] = 0.0
    torch.save(content, tmp_path / "checkpoint-4.pt")
    done = mcx(
        "csl", "score", "--checkpoint", tmp_path / "checkpoint-4.pt", "--output-dir", tmp_path / "none"
    )
    assert "Weight decay: 0 (the run's own)\n" in done.out
    del content["mcx"]["wd"]
    torch.save(content, tmp_path / "checkpoint-4.pt")
    done = mcx(
        "csl", "score", "--checkpoint", tmp_path / "checkpoint-4.pt", "--output-dir", tmp_path / "unsaid"
    )
    assert "(the document's, as the run says none; --weight-decay says another)\n" in done.out


def test_sgds_form_of_the_decay_halves_its_gradient(mcx: Callable, run: Path, tmp_path: Path) -> None:
    words = ("csl", "score", "--checkpoint-dir", run, "--start-epoch", "4", "--wd-form", "half")
    assert mcx(*words, "--weight-decay", "2e-4", "--output-dir", tmp_path).code == 0
    losses, norms, shift = expected(run, 4)  # ½ · 2e-4 is the document's 1e-4
    np.testing.assert_allclose(array(tmp_path, "loss", 4), losses + shift, rtol=1e-5)
    np.testing.assert_allclose(array(tmp_path, "loss_grad", 4), norms, rtol=1e-5)


def test_finished_epochs_are_not_scored_again_and_later_ones_are_added(
    mcx: Callable, run: Path, scored: Path, tmp_path: Path
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in scored.glob("*.npy")}
    words = ("csl", "score", "--checkpoint-dir", run, "--output-dir", tmp_path / "part", "--batch-size", "64")
    assert mcx(*words, "--end-epoch", "2").code == 0
    done = json.loads(mcx(*words, "--json").out)
    assert (done["scored"], len(done["epochs"])) == (2, 5)
    again = json.loads(
        mcx("csl", "score", "--checkpoint-dir", run, *words[4:6], "--batch-size", "64", "--json").out
    )
    assert again["scored"] == 0
    for name in before:
        assert (tmp_path / "part" / name).read_bytes() == (scored / name).read_bytes()
    (tmp_path / "part/loss_digits_run1_epoch_1_noise_0.05.npy").unlink()
    assert json.loads(mcx(*words, "--json").out)["scored"] == 1
    assert {path.name: path.stat().st_mtime_ns for path in scored.glob("*.npy")} == before


def test_another_checkpoint_under_the_same_name_is_refused(mcx: Callable, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    words = ("csl", "score", "--checkpoint-dir", tmp_path / "run", "--output-dir", tmp_path / "scores")
    assert mcx(*words, "--grad", "none").code == 0
    shutil.copy(run / "checkpoint-3.pt", tmp_path / "run/checkpoint-2.pt")
    done = mcx(*words, "--grad", "none", "--start-epoch", "1")
    assert (done.code, "is not the checkpoint that epoch 2 was scored with" in done.err) == (3, True)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--start-epoch", "2", "--end-epoch", "9"), 3, "checkpoints of 5 epochs are missing: 5, 6, 7, 8, 9"),
        (("--start-epoch", "3", "--end-epoch", "2"), 2, "lies before"),
        (("--grad", "params"), 2, "did you mean 'param'"),
        (("--split", "test", "--seen-classes"), 2, "--class-order"),
        (("--checkpoint-dir", "nowhere"), 3, "does not exist"),
    ],
)
def test_what_cannot_be_scored_is_named(
    mcx: Callable, run: Path, tmp_path: Path, words: tuple, code: int, message: str
) -> None:
    done = mcx("csl", "score", "--checkpoint-dir", run, "--output-dir", tmp_path / "new", *words)
    assert (done.code, done.out, message in done.err) == (code, "", True), done.err


def test_a_folder_above_the_checkpoints_gets_a_hint(mcx: Callable, run: Path, tmp_path: Path) -> None:
    done = mcx("csl", "score", "--checkpoint-dir", run.parent, "--output-dir", tmp_path)
    assert (done.code, f"did you mean {run}?" in done.err) == (3, True)


def test_losses_over_the_classes_seen_so_far(mcx: Callable, run: Path, tmp_path: Path) -> None:
    """Two classes for each two epochs: at epoch 2 two are known, at epoch 3 four."""
    order = np.array([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])
    np.save(tmp_path / "order.npy", order)
    words = ("--seen-classes", "--class-order", tmp_path / "order.npy", "--classes-per-task", "2")
    where = (
        "--checkpoint-dir",
        run,
        "--output-dir",
        tmp_path / "scores",
        "--start-epoch",
        "2",
        "--end-epoch",
        "3",
    )
    done = mcx("csl", "score", *where, *words, "--epochs-per-task", "2", "--weight-decay", "0")
    assert done.code == 0, done.err
    data = datasets.load(
        DataSettings(dataset="digits", max_samples=150, val_size=300, label_noise=0.05, label_seed=0),
        torch.device("cpu"),
    ).split("all-train")
    model = models.build(Architecture("cnn", 10, (1, 8, 8), {"width": WIDTH})).double().eval()
    for epoch, known in ((2, [1, 3]), (3, [0, 1, 3, 4])):
        model.load_state_dict(checkpoints.read(run / f"checkpoint-{epoch}.pt").state)
        batch = next(iter(data.batches(len(data))))
        logits = model(batch.images.double())[:, known].detach()
        seen = torch.isin(batch.labels, torch.tensor(known))
        losses = array(tmp_path / "scores", "loss", epoch)
        assert np.array_equal(np.isnan(losses), ~seen.numpy())
        wanted = torch.tensor([known.index(int(label)) for label in batch.labels[seen]])
        found = F.cross_entropy(logits[seen], wanted, reduction="none")
        np.testing.assert_allclose(losses[seen.numpy()], found.numpy(), rtol=1e-5)
    np.save(tmp_path / "order.npy", order[:5])
    done = mcx("csl", "score", *where, *words)
    assert (done.code, "is no permutation of the 10 classes" in done.err) == (3, True)


def test_h9_a_killed_scoring_goes_on(mcx: Callable, run: Path, scored: Path, tmp_path: Path) -> None:
    """As after a kill between the arrays of an epoch: its line is missing, and so is one of its files."""
    words = ("csl", "score", "--checkpoint-dir", run, "--output-dir", tmp_path / "cut", "--batch-size", "64")
    assert mcx(*words).code == 0
    private = tmp_path / "cut/.mcx/csl-score-digits-run1-noise0.05"
    lines = (private / "scored.jsonl").read_text().splitlines(keepends=True)
    (private / "scored.jsonl").write_text("".join(lines[:-2]) + lines[-2][:20])
    (private / "manifest.json").unlink()
    (tmp_path / "cut/loss_digits_run1_epoch_4_noise_0.05.npy").unlink()
    assert json.loads(mcx(*words, "--json").out)["scored"] == 2
    for path in scored.glob("*.npy"):
        assert (tmp_path / "cut" / path.name).read_bytes() == path.read_bytes()


# --- aggregation


def aggregated(mcx: Callable, folder: Path, output: Path, *words: object) -> tuple[dict, str]:
    done = mcx("csl", "aggregate", "--input-dir", folder, "--output-dir", output, "--json", *words)
    assert done.code == 0, done.err
    return json.loads(done.out), done.err


@pytest.mark.parametrize("scheme", ["short", "long"])
def test_g7_the_originals_arrays_give_the_originals_metrics(
    mcx: Callable, tmp_path: Path, scheme: str
) -> None:
    found, err = aggregated(mcx, GOLDEN / scheme, tmp_path)
    with np.load(GOLDEN / "expected.npz") as file:
        golden = dict(file)
    name = "run1_noise_0.01" if scheme == "long" else "run1_noise_0"
    csl, lt = (np.load(tmp_path / f"{kind}_cifar100_{name}.npy") for kind in ("csl", "lt"))
    losses = np.stack([np.load(GOLDEN / f"short/loss_cifar100_epoch_{e}.npy") for e in golden["epochs"]])
    # The original adds in float32, which is off by up to 2 units in the last place; the exact sum, rounded once.
    assert np.array_equal(csl, losses.astype(np.float64).sum(0).astype(np.float32))
    assert (np.abs(csl - golden["csl"]) <= 2 * np.spacing(golden["csl"])).all()
    kind = "short" if scheme == "short" else "long_loss_fallback"
    assert np.array_equal(lt, golden[f"lt_{kind}"])
    assert found["tau"] == pytest.approx(float(golden[f"tau_{kind}"]), rel=1e-7)
    if scheme == "long":
        assert found["lt_source"] == {"source": "loss_grad", "loss_at_epochs": [15]}
        assert "the losses stand in for the missing gradient norms of epochs [15]" in err
        return
    first = np.load(tmp_path / f"lt_first_epoch_cifar100_{name}.npy")
    index = golden["first_epoch_index_below_tau_short"]
    assert np.array_equal(first, np.where(index < 0, np.nan, golden["epochs"][index]), equal_nan=True)


def test_flipped_labels_are_found_and_the_figures_drawn(
    mcx: Callable, run: Path, scored: Path, tmp_path: Path
) -> None:
    found, _ = aggregated(mcx, scored, tmp_path / "csl")
    table = np.loadtxt(run / "label_noise.csv", delimiter=",", skiprows=1, dtype=int)
    ids = np.load(tmp_path / "csl/sample_ids.npy")
    flipped = dict(zip(table[:, 0].tolist(), table[:, 3].tolist(), strict=True))
    assert found["flipped"] == sum(flipped[i] for i in ids.tolist())
    csl = np.load(found["csl_path"])
    positive = np.array([flipped[i] for i in ids.tolist()], dtype=bool)
    above = (csl[positive][:, None] > csl[~positive][None]).mean()
    assert found["auroc"]["csl"] == pytest.approx(above)
    assert found["hardest"][0]["sample_id"] == ids[csl.argmax()]
    for figure in found["figures"]:
        assert Path(figure).read_bytes().startswith(b"\x89PNG")


def copy_of(scheme: str, target: Path) -> Path:
    shutil.copytree(GOLDEN / scheme, target)
    return target


def test_g7_no_gradient_norms_leave_the_loss_alone(mcx: Callable, tmp_path: Path) -> None:
    folder = copy_of("short", tmp_path / "in")
    for path in folder.glob("loss_grad_*"):
        path.unlink()
    found, err = aggregated(mcx, folder, tmp_path / "out")
    assert (found["lt_path"], found["tau"], found["lt_source"]) == (None, None, {"source": "none"})
    assert "cumulative loss only" in err
    assert not list((tmp_path / "out").glob("lt_*"))
    proxy, _ = aggregated(mcx, folder, tmp_path / "proxy", "--loss-as-grad")
    assert proxy["lt_source"] == {"source": "loss"}


def test_g7_strict_gradients_refuse_a_missing_epoch(mcx: Callable, tmp_path: Path) -> None:
    done = mcx("csl", "aggregate", "--input-dir", GOLDEN / "long", "--output-dir", tmp_path, "--strict-grads")
    assert (done.code, "gradient norms of 1 epochs are missing: [15]" in done.err) == (3, True)


def test_g8_both_schemes_in_one_folder_have_to_be_chosen_from(mcx: Callable, tmp_path: Path) -> None:
    folder = copy_of("short", tmp_path / "in")
    for path in (GOLDEN / "long").iterdir():
        shutil.copy(path, folder)
    words = ("csl", "aggregate", "--input-dir", folder, "--output-dir", tmp_path / "out")
    done = mcx(*words)
    assert (done.code, done.out, "both naming schemes" in done.err, "--scheme" in done.err) == (
        2,
        "",
        True,
        True,
    )
    for scheme, name in (("short", "run1_noise_0"), ("long", "run1_noise_0.01")):
        chosen, _ = aggregated(mcx, folder, tmp_path / f"of {scheme}", "--scheme", scheme)
        alone, _ = aggregated(mcx, GOLDEN / scheme, tmp_path / f"{scheme} alone")
        for result in (chosen, alone):
            assert result["scheme"] == scheme
        lt = [tmp_path / of / f"lt_cifar100_{name}.npy" for of in (f"of {scheme}", f"{scheme} alone")]
        assert lt[0].read_bytes() == lt[1].read_bytes()


def test_run_and_noise_name_the_results_of_arrays_whose_names_say_neither(
    mcx: Callable, tmp_path: Path
) -> None:
    named = ("--run-idx", "3", "--noise-level", "0.05")
    found, _ = aggregated(mcx, GOLDEN / "short", tmp_path, *named)
    assert (found["run_idx"], found["noise_level"], found["scheme"]) == (3, 0.05, "short")
    for kind in ("csl", "lt", "lt_first_epoch"):
        assert (tmp_path / f"{kind}_cifar100_run3_noise_0.05.npy").exists()
    assert found == json.loads((tmp_path / "metrics_cifar100_run3_noise_0.05.json").read_text())
    plain, _ = aggregated(mcx, GOLDEN / "short", tmp_path)
    assert (plain["run_idx"], plain["noise_level"]) == (None, None)
    csl = [np.load(tmp_path / f"csl_cifar100_{name}.npy") for name in ("run3_noise_0.05", "run1_noise_0")]
    assert np.array_equal(*csl)
    assert "already complete" in aggregated(mcx, GOLDEN / "short", tmp_path, *named)[1]


def test_g9_runs_are_told_apart_and_noise_compares_as_a_number(mcx: Callable, tmp_path: Path) -> None:
    folder = copy_of("long", tmp_path / "in")
    for path in list(folder.iterdir()):
        shutil.copy(path, folder / path.name.replace("noise_0.01", "noise_0.1"))
    words = ("csl", "aggregate", "--input-dir", folder, "--output-dir")
    done = mcx(*words, tmp_path / "out")
    assert (done.code, "holds 2 runs" in done.err) == (2, True)
    assert mcx(*words, tmp_path / "out", "--noise-level", "0.10").code == 0
    assert (tmp_path / "out/csl_cifar100_run1_noise_0.1.npy").exists()


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[:-10])
    elif how == "trailing":
        path.write_bytes(content + b"x")
    elif how == "objects":
        np.save(path, np.array([{}] * 40, dtype=object), allow_pickle=True)
    elif how == "length":
        np.save(path, np.zeros(39, dtype=np.float32))
    elif how == "matrix":
        np.save(path, np.zeros((40, 2), dtype=np.float32))
    elif how == "integers":
        np.save(path, np.zeros(40, dtype=np.int64))
    elif how == "header":
        path.write_bytes(b"\x93NUMPY\x02\x00" + (1 << 31).to_bytes(4, "little") + b"{")
    elif how == "text":
        path.write_bytes(b"not an array")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "it is damaged"),
        ("trailing", "it is damaged"),
        ("objects", "Python objects"),
        ("length", "holds 39 samples, the others 40"),
        ("matrix", "expected float [N]"),
        ("integers", "expected float [N]"),
        ("header", "not a readable .npy"),
        ("text", "not a readable .npy"),
    ],
)
@pytest.mark.parametrize("kind", ["loss", "loss_grad"])
def test_g4_g5_a_damaged_array_is_named(
    mcx: Callable, tmp_path: Path, kind: str, how: str, message: str
) -> None:
    folder = copy_of("short", tmp_path / "in")
    path = folder / f"{kind}_cifar100_epoch_10.npy"
    damage(path, how)
    done = mcx("csl", "aggregate", "--input-dir", folder, "--output-dir", tmp_path / "out")
    assert (done.code, done.out, path.name in done.err, message in done.err) == (3, "", True, True), done.err


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.arange(39), "names 39 samples"),
        (np.r_[np.arange(39), 5], "1 duplicate sample ids: the first is 5"),
        (np.arange(40) - 1, "1 negative sample ids: the first is -1"),
        (np.arange(40) / 2, "20 sample ids that are not whole numbers: the first is '0.5'"),
        (np.arange(40) + 2.0**53, "40 sample ids that are not whole numbers"),
        (np.arange(40, dtype=np.uint64) + np.uint64(2**63), "40 sample ids that are not whole numbers"),
    ],
)
def test_g3_ids_must_name_every_sample_once(
    mcx: Callable, tmp_path: Path, ids: np.ndarray, message: str
) -> None:
    folder = copy_of("short", tmp_path / "in")
    np.save(folder / "sample_ids.npy", ids)
    done = mcx("csl", "aggregate", "--input-dir", folder, "--output-dir", tmp_path / "out")
    assert (done.code, message in done.err) == (3, True), done.err


def test_g4_missing_epochs_of_a_range(mcx: Callable, tmp_path: Path) -> None:
    folder = copy_of("short", tmp_path / "in")
    (folder / "loss_cifar100_epoch_15.npy").unlink()
    words = ("--start-epoch", "0", "--end-epoch", "25", "--epoch-step", "5")
    done = mcx("csl", "aggregate", "--input-dir", folder, "--output-dir", tmp_path / "out", *words)
    assert (done.code, "losses of 1 epochs are missing: 15" in done.err) == (3, True)
    found, _ = aggregated(mcx, folder, tmp_path / "out", *words, "--allow-missing")
    assert (found["missing_epochs"], found["kept_epochs"]) == ([15], [0, 5, 10, 20, 25])


def test_g6_a_nan_stays_with_its_sample(mcx: Callable, tmp_path: Path) -> None:
    folder = copy_of("short", tmp_path / "in")
    for kind in ("loss", "loss_grad"):
        path = folder / f"{kind}_cifar100_epoch_10.npy"
        values = np.load(path)
        values[7] = np.nan
        np.save(path, values)
    found, err = aggregated(mcx, folder, tmp_path / "out")
    assert (found["samples_with_nan"], found["excluded_from_tau"]) == (1, 1)
    assert "1 samples have a NaN or an infinity among their losses" in err
    csl, lt = (np.load(tmp_path / f"out/{kind}_cifar100_run1_noise_0.npy") for kind in ("csl", "lt"))
    assert np.flatnonzero(np.isnan(csl)).tolist() == [7]
    assert np.flatnonzero(np.isnan(lt)).tolist() == [7]


@given(st.integers(1, 6), st.integers(1, 9), st.booleans(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_learning_time_is_the_documents(epochs: int, count: int, squared: bool, seed: int) -> None:
    """Against the document's formula on whole matrices."""
    norms = np.random.default_rng(seed).gamma(1.0, size=(epochs, count))
    if seed % 3 == 0:
        norms[0, 0] = np.nan
    both = metrics.learning_time(lambda: list(norms), list(range(10, 10 + epochs)), count, squares=True)
    found = both.squared if squared else both.plain
    np.testing.assert_array_equal(both.total, metrics.cumulative_loss(list(norms), count)[0])
    used = norms**2 if squared else norms
    condition = np.cumsum(used, axis=0) / np.arange(1, epochs + 1)[:, None]
    finite = np.isfinite(condition).all(0)
    if not finite.any():
        assert np.isnan(found.tau)
        return
    tau = condition[:, finite].mean()
    assert found.tau == pytest.approx(tau)
    below = condition < found.tau
    np.testing.assert_allclose(found.lt[finite], 1 - below.mean(0)[finite])
    reached = condition <= found.tau
    first = np.where(reached.any(0), 10 + reached.argmax(0), np.nan)
    np.testing.assert_array_equal(found.first[finite], first[finite])
    beyond = np.where(reached.all(0), 0, epochs - (~reached)[::-1].argmax(0))  # behind the last epoch above
    stays = np.where(beyond < epochs, 10.0 + beyond, np.nan)
    np.testing.assert_array_equal(found.stays[finite], stays[finite])


@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_learning_time_begins_with_the_first_epoch_of_a_sample(epochs: int, count: int, seed: int) -> None:
    """Against a loop over the samples, each with the epochs from its first on."""
    generator = np.random.default_rng(seed)
    norms = generator.gamma(1.0, size=(epochs, count))
    begins = generator.integers(0, epochs + 1, count)
    for sample, begin in enumerate(begins):
        norms[:begin, sample] = np.nan
    if seed % 4 == 0:
        norms[-1, 0] = np.nan  # a fault, or a sample that was never scored
    both = metrics.learning_time(lambda: list(norms), range(10, 10 + epochs), count, skip_unseen=True)
    found, summed = both.plain, metrics.cumulative_loss(list(norms), count, skip_unseen=True)
    np.testing.assert_array_equal([both.total, both.epochs], summed)
    conditions = {}
    for sample, begin in enumerate(begins):
        own = norms[begin:, sample]
        if len(own) and np.isfinite(own).all():
            conditions[sample] = np.cumsum(own) / np.arange(1, len(own) + 1)
    assert found.finite == len(conditions)
    assert set(np.flatnonzero(np.isfinite(found.lt))) == set(conditions)
    if conditions:
        assert found.tau == pytest.approx(np.concatenate(list(conditions.values())).mean())
    for sample, condition in conditions.items():
        assert found.lt[sample] == pytest.approx(1 - (condition < found.tau).mean())
        below = np.flatnonzero(condition <= found.tau)
        first = 10 + begins[sample] + below[0] if len(below) else np.nan
        assert found.first[sample] == pytest.approx(first, nan_ok=True)
        above = np.flatnonzero(~(condition <= found.tau))
        last = above[-1] + 1 if len(above) else 0
        stays = 10 + begins[sample] + last if last < len(condition) else np.nan
        assert found.stays[sample] == pytest.approx(stays, nan_ok=True)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_auroc_counts_pairs(rows: list[tuple[int, bool]]) -> None:
    values, positive = np.array([float(v) for v, _ in rows]), np.array([p for _, p in rows])
    found = auroc(values, positive)
    if positive.all() or not positive.any():
        assert found.value is found.stderr is None
        return
    assert (found.n, found.positive) == (len(rows), positive.sum())
    wins = np.where(
        values[positive][:, None] == values[~positive], 0.5, values[positive][:, None] > values[~positive]
    )
    assert found.value == pytest.approx(wins.mean())
    if found.value in (0, 1):  # the upper end of Wilson's interval of so many successes lies so far away
        assert found.stderr == 1 / (min(wins.shape) + 1)
    elif (values == values[0]).all():
        assert (found.value, found.stderr) == (0.5, None)
    elif (
        min(wins.shape) > 1
    ):  # DeLong et al. 1988: the variances of the means over the samples of either kind
        variance = wins.mean(1).var(ddof=1) / len(wins) + wins.mean(0).var(ddof=1) / wins.shape[1]
        assert found.stderr == pytest.approx(variance**0.5)


def test_a_column_of_one_value_says_nothing_of_how_sure_its_auroc_is() -> None:
    assert auroc(np.full(9, 0.3), np.arange(9) < 4).stderr is None


def test_delongs_error_is_how_much_an_auroc_varies() -> None:
    draw = np.random.default_rng(0)
    marks = np.arange(120) < 40
    found = [auroc(draw.normal(0.8 * marks), marks) for _ in range(400)]
    spread = np.std([each.value for each in found])
    assert np.mean([each.stderr for each in found]) == pytest.approx(spread, rel=0.1)


def test_file_names_are_read_as_they_are_written() -> None:
    for run in (
        naming.RunName("my_set", 3, 0.01),
        naming.RunName("my_set", None, None),
        naming.RunName("x", 1, 1e-05),
    ):
        for kind in naming.KINDS:
            assert naming.parse(run.per_epoch(kind, 12)) == (run, kind, 12)
    assert naming.parse("loss_a_run1_epoch_2_noise_0.10.npy") == naming.parse(
        "loss_a_run1_epoch_2_noise_0.1.npy"
    )
    assert naming.parse("csl_a_run1_noise_0.1.npy") is None


def test_flips_depend_on_seed_and_id_alone() -> None:
    ids, labels = torch.arange(20_000), torch.arange(20_000) % 10
    noisy = flip(labels, ids, 10, 0.1, seed=3)
    order = keyed.permutation(0, "test", 20_000)[:500]
    assert torch.equal(flip(labels[order], ids[order], 10, 0.1, seed=3), noisy[order])
    assert 0.09 < float((noisy != labels).double().mean()) < 0.11
    steps = ((noisy - labels) % 10)[noisy != labels]
    assert set(steps.tolist()) == set(range(1, 10))
    assert not torch.equal(flip(labels, ids, 10, 0.1, seed=4), noisy)


def test_clean_labels_can_be_asked_for(mcx: Callable, run: Path, tmp_path: Path) -> None:
    words = ("csl", "score", "--checkpoint-dir", run, "--start-epoch", "4", "--grad", "none", "--output-dir")
    assert mcx(*words, tmp_path / "trained").code == 0
    assert mcx(*words, tmp_path / "clean", "--labels", "clean").code == 0
    differ = array(tmp_path / "trained", "loss", 4) != array(tmp_path / "clean", "loss", 4)
    table = np.loadtxt(run / "label_noise.csv", delimiter=",", skiprows=1, dtype=int)
    flipped = np.isin(np.load(tmp_path / "clean/sample_ids.npy"), table[table[:, 3] == 1, 0])
    assert np.array_equal(differ, flipped)


def test_g9_runs_share_a_folder_as_in_the_documents(
    mcx: Callable, run: Path, scored: Path, tmp_path: Path
) -> None:
    words = ("csl", "score", "--checkpoint-dir", run, "--output-dir", scored, "--batch-size", "64")
    before = {path.name: path.read_bytes() for path in scored.glob("*.npy")}
    assert mcx(*words, "--run-idx", "2", "--start-epoch", "3").code == 0
    assert {name: (scored / name).read_bytes() for name in before} == before
    both = ("csl", "aggregate", "--input-dir", scored, "--output-dir", tmp_path / "csl")
    for number in (1, 2):
        assert mcx(*both, "--run-idx", number).code == 0
        assert (tmp_path / f"csl/csl_digits_run{number}_noise_0.05.npy").exists()
    done = mcx(*words, "--run-idx", "3", "--split", "test", "--grad", "none")
    assert (done.code, "names other samples than these" in done.err) == (5, True)


def test_g5_a_flipped_byte_in_an_array_of_ours_is_found(mcx: Callable, scored: Path, tmp_path: Path) -> None:
    path = scored / "loss_digits_run1_epoch_2_noise_0.05.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    done = mcx("csl", "aggregate", "--input-dir", scored, "--output-dir", tmp_path / "out")
    assert (done.code, path.name in done.err, "changed or damaged" in done.err) == (3, True, True)


@pytest.mark.parametrize("split", ["all-train", "test"])
def test_the_pictures_are_those_of_the_data_that_were_scored(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    draw = np.random.default_rng(0)
    images = {name: draw.integers(0, 256, (30, 8, 8), dtype=np.uint8) for name in ("train", "test")}
    (tmp_path / "data").mkdir()
    arrays_ = {f"x_{name}": each for name, each in images.items()}
    labels = {f"y_{name}": np.arange(30) % 3 for name in images}
    np.savez(tmp_path / "data/mine.npz", **arrays_, **labels)
    monkeypatch.chdir(tmp_path)
    words = ("--model", "cnn", "--model-arg", "width=2", "--dataset", "mine.npz", "--data-path", "data")
    assert mcx("train", *words, "--epochs", "1", "--output-dir", "run").code == 0
    where = ("--checkpoint-dir", "run/seed0", "--data-path", "data", "--split", split)
    assert mcx("csl", "score", *where, "--output-dir", "scores").code == 0
    drawn: list[dict[int, pictures.Picture]] = []
    monkeypatch.setattr(pictures, "gallery", lambda *parts: drawn.append(parts[3]) or b"")

    found, err = aggregated(mcx, Path("scores"), Path("out"))
    assert "no pictures" not in err
    both = [row["sample_id"] for row in (*found["hardest"], *found["easiest"])]
    assert sorted(drawn[0]) == sorted(both)
    source = images["train" if split == "all-train" else "test"].astype(np.float64)
    for number, picture in drawn[0].items():
        low, high = source[number].min(), source[number].max()
        assert np.allclose(picture.pixels, (source[number] - low) / (high - low), atol=1e-5)

    (tmp_path / "data/mine.npz").rename(tmp_path / "elsewhere")
    assert "already complete" in aggregated(mcx, Path("scores"), Path("out"))[1]
    _, err = aggregated(mcx, Path("scores"), Path("bare"))
    assert ("no pictures" in err, "--dataset" in err, drawn[1]) == (True, True, {})
    Path("there").mkdir()
    (tmp_path / "elsewhere").rename("there/mine.npz")
    _, err = aggregated(mcx, Path("scores"), Path("bare"), "--dataset", "there/mine.npz")
    assert ("no pictures" not in err, drawn[2].keys()) == (True, drawn[0].keys())
    done = mcx("csl", "aggregate", "--input-dir", "scores", "--dataset", "other.npz", "--output-dir", "x")
    assert (done.code, "no arrays of data set 'other'" in done.err) == (3, True)


def test_the_pictures_of_generated_data_are_made_with_the_same_arguments(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--model", "mlp", "--dataset", "synthetic", "--data-arg", "noise=0.25", "--record-csl")
    assert mcx("train", *words, "--epochs", "1", "--output-dir", tmp_path).code == 0
    asked: list[DataSettings] = []
    monkeypatch.setattr(pictures, "images_of", lambda data, *_: asked.append(data.settings) or {})
    aggregated(mcx, tmp_path / "seed0/recorded_losses", tmp_path / "out")
    assert (asked[0].dataset, asked[0].data_arg) == ("synthetic", ("noise=0.25",))


def test_flips_are_found_among_what_a_training_has_recorded(
    mcx: Callable, tmp_path: Path, undrawn: None
) -> None:
    words = ("--model", "mlp", "--dataset", "digits", "--label-noise", "0.2", "--lr", "0.1", "--record-csl")
    assert mcx("train", *words, "--epochs", "4", "--output-dir", tmp_path).code == 0
    found, _ = aggregated(mcx, tmp_path / "seed0/recorded_losses", tmp_path / "out")
    assert found["losses"].startswith("of training")
    assert found["auroc"]["csl"] > 0.9
    said = json.loads((tmp_path / "out/scores_digits_run1_noise_0.json").read_text())
    finds = {row["name"]: row["finds_flips"]["auroc"] for row in said["scores"]}
    assert min(finds["aum"], finds["el2n_mean"]) > 0.9
    with (tmp_path / "out/samples_digits_run1_noise_0.csv").open() as stream:
        labels = {int(row["sample_id"]): int(row["label"]) for row in csv.DictReader(stream)}
    with (tmp_path / "seed0/label_noise.csv").open() as stream:
        trained = {int(row["sample_id"]): int(row["trained"]) for row in csv.DictReader(stream)}
    assert labels == {number: trained[number] for number in labels}


def test_no_pictures_are_made_by_code_that_a_folder_of_arrays_names(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("drawn_data.py").write_text(
        "open('ran', 'a').close()\n\ndef data(split):\n    return [([[0.0]], 0)] * 40\n"
    )
    folder = copy_of("short", tmp_path / "in")
    for path in folder.glob("*cifar100*"):
        path.rename(folder / path.name.replace("cifar100", "drawn_data:data"))
    _, err = aggregated(mcx, folder, tmp_path / "out", "--assume-index")
    assert ("--dataset pkg.mod:factory" in err, Path("ran").exists()) == (True, False)
    _, err = aggregated(mcx, folder, tmp_path / "out", "--assume-index", "--dataset", "drawn_data:data")
    assert Path("ran").exists()


def test_arrays_that_changed_since_are_aggregated_again(mcx: Callable, tmp_path: Path) -> None:
    folder = copy_of("short", tmp_path / "in")
    first, _ = aggregated(mcx, folder, tmp_path / "out")
    again, err = aggregated(mcx, folder, tmp_path / "out")
    assert (again, "already complete" in err) == (first, True)
    np.save(folder / "loss_cifar100_epoch_25.npy", np.full(40, 9.0, dtype=np.float32))
    changed, _ = aggregated(mcx, folder, tmp_path / "out")
    assert changed["mean_csl"] > first["mean_csl"]
    csl = np.load(tmp_path / "out/csl_cifar100_run1_noise_0.npy")
    assert csl.mean() == pytest.approx(changed["mean_csl"])


def test_g10_memory_does_not_grow_with_the_epochs(tmp_path: Path) -> None:
    count, peaks = 20_000, []
    for epochs in (4, 40):
        paths = [tmp_path / f"{e}.npy" for e in range(epochs)]
        for path in paths:
            np.save(path, np.zeros(count, dtype=np.float32))
        tracemalloc.start()
        metrics.cumulative_loss(arrays.stream(paths, count), count)
        metrics.learning_time(lambda paths=paths: arrays.stream(paths, count), range(epochs), count)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0]
    assert peaks[1] < 75 * count  # bytes: a few vectors in float64


@pytest.mark.slow
def test_g10_four_thousand_epochs_are_streamed(mcx: Callable, tmp_path: Path) -> None:
    """Losses of 80 MB, which are never in memory together."""
    epochs, count = 4000, 5000
    losses = np.random.default_rng(0).random(count, dtype=np.float32)
    np.save(tmp_path / "losses.npy", losses)
    (tmp_path / "in").mkdir()
    for epoch in range(epochs):
        for kind in ("loss", "loss_grad"):
            os.link(tmp_path / "losses.npy", tmp_path / f"in/{kind}_own_epoch_{epoch}.npy")
    tracemalloc.start()
    found, _ = aggregated(mcx, tmp_path / "in", tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["num_epochs"] == epochs
    assert peak < epochs * count * losses.itemsize / 4
    np.testing.assert_allclose(np.load(found["csl_path"]), epochs * losses.astype(np.float64), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "run_idx", "noise"),
    [("index-3_epoch-5.pt", 3, 0.01), ("cifar100_resnet18_noisy_idx_2_epoch_5_noise_0.1.ckpt", 2, 0.1)],
)
def test_names_of_other_code_bases_say_run_and_noise(
    mcx: Callable, run: Path, tmp_path: Path, name: str, run_idx: int, noise: float
) -> None:
    """A raw state dict under the name that the original gives it."""
    (tmp_path / "run").mkdir()
    torch.save(checkpoints.read(run / "checkpoint-4.pt").state, tmp_path / "run" / name)
    words = ("--model", "cnn", "--model-arg", f"width={WIDTH}", "--dataset", "digits", "--max-samples", "150")
    where = ("--checkpoint-dir", tmp_path / "run", "--output-dir", tmp_path / "out", "--val-size", "300")
    done = mcx(
        "csl", "score", *where, *words, "--label-noise", "0.05", "--grad", "none", "--labels", "trained"
    )
    assert done.code == 0, done.err
    path = tmp_path / f"out/loss_digits_run{run_idx}_epoch_5_noise_{noise:g}.npy"
    np.testing.assert_allclose(np.load(path), expected(run, 4)[0] + expected(run, 4)[2], rtol=1e-5)


def test_g3_shuffled_ids_are_stored_in_their_order(mcx: Callable, tmp_path: Path) -> None:
    folder = copy_of("short", tmp_path / "in")
    plain, _ = aggregated(mcx, folder, tmp_path / "plain", "--assume-index")
    order = np.random.default_rng(0).permutation(40)
    for path in list(folder.glob("*.npy")):
        np.save(path, np.load(path)[order])
    np.save(folder / "sample_ids.npy", order)
    found, _ = aggregated(mcx, folder, tmp_path / "out")
    for kind in ("csl", "lt", "lt_first_epoch"):
        name = f"{kind}_cifar100_run1_noise_0.npy"
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    assert np.array_equal(np.load(tmp_path / "out/sample_ids.npy"), np.arange(40))
    assert [row["sample_id"] for row in found["hardest"]] == [row["sample_id"] for row in plain["hardest"]]


def test_a_truncated_file_of_a_finished_epoch_is_made_again(mcx: Callable, run: Path, scored: Path) -> None:
    path = scored / "loss_digits_run1_epoch_2_noise_0.05.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    words = ("csl", "score", "--checkpoint-dir", run, "--output-dir", scored, "--batch-size", "64", "--json")
    assert json.loads(mcx(*words).out)["scored"] == 1
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("loss_cifar100_epoch_05.npy", 2, "are the same epoch of the same run"),
        ("loss_grad_cifar100_epoch_7.npy", 3, "whose gradient norms are there: [7]"),
    ],
)
def test_g9_names_that_do_not_fit_together_are_refused(
    mcx: Callable, tmp_path: Path, name: str, code: int, message: str
) -> None:
    folder = copy_of("short", tmp_path / "in")
    shutil.copy(folder / "loss_grad_cifar100_epoch_5.npy", folder / name)
    done = mcx("csl", "aggregate", "--input-dir", folder, "--output-dir", tmp_path / "out")
    assert (done.code, message in done.err) == (code, True), done.err


def test_files_that_only_look_like_arrays_are_left_alone(mcx: Callable, tmp_path: Path) -> None:
    folder = copy_of("short", tmp_path / "in")
    (folder / "loss_d_run1_epoch_2_noise_..npy").write_bytes(b"")
    (folder / "loss_d_run1_epoch_2_noise_1.2.3.npy").write_bytes(b"")
    assert aggregated(mcx, folder, tmp_path / "out", "--dataset", "cifar100")[0]["num_epochs"] == 6


def test_g9_checkpoints_of_two_runs_are_not_mixed(mcx: Callable, run: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for index, epoch in ((0, 1), (1, 2)):
        shutil.copy(run / f"checkpoint-{epoch}.pt", tmp_path / f"run/index-{index}_epoch-{epoch}.pt")
    words = (
        "csl",
        "score",
        "--checkpoint-dir",
        tmp_path / "run",
        "--output-dir",
        tmp_path / "out",
        "--grad",
        "none",
    )
    done = mcx(*words)
    assert (done.code, "holds checkpoints of 2 runs: 0, 1" in done.err) == (2, True)
    assert len(json.loads(mcx(*words, "--run-idx", "1", "--json").out)["epochs"]) == 1


def test_a_sample_that_is_never_learnt_comes_last(mcx: Callable, tmp_path: Path) -> None:
    folder = copy_of("short", tmp_path / "in")
    plain, _ = aggregated(mcx, folder, tmp_path / "plain")
    first = np.load(tmp_path / "plain/lt_first_epoch_cifar100_run1_noise_0.npy")
    never = np.isnan(first)
    rows = [f"{i},0,{int(flag)}" for i, flag in enumerate(never)]
    (folder / "label_noise_cifar100_run1_noise_0.csv").write_text(
        "\n".join(["sample_id,clean,trained", *rows])
    )
    unnamed, err = aggregated(mcx, folder, tmp_path / "unnamed")
    assert (unnamed["auroc"], "is not read, as it names samples by their ids" in err) == ({}, True)
    found, _ = aggregated(mcx, folder, tmp_path / "out", "--assume-index")
    assert found["auroc"]["lt_first_epoch"] == 1.0
    assert plain["auroc"] == {}


def test_arrays_of_growing_length_are_joined_by_the_ids_of_their_epochs(
    mcx: Callable, tmp_path: Path
) -> None:
    """As the original's of classes that come later: every epoch has its own samples, in its own order."""
    ids = {0: [7, 3], 1: [3, 9, 7], 2: [9, 3, 7, 4]}
    losses = {0: [1.0, 2.0], 1: [3.0, 4.0, 5.0], 2: [6.0, 7.0, 8.0, 9.0]}
    for epoch in ids:
        for kind in ("loss", "loss_grad"):
            np.save(tmp_path / f"{kind}_own_epoch_{epoch}.npy", np.array(losses[epoch], dtype=np.float32))
        np.save(tmp_path / f"sample_ids_epoch_{epoch}.npy", np.array(ids[epoch]))
    np.save(tmp_path / "order.npy", np.arange(4))
    words = ("csl", "aggregate", "--input-dir", tmp_path, "--class-order", tmp_path / "order.npy")
    done = mcx(*words, "--output-dir", tmp_path / "out")
    assert done.code == 0, done.err
    assert np.load(tmp_path / "out/sample_ids.npy").tolist() == [3, 4, 7, 9]
    assert np.load(tmp_path / "out/csl_own_run1_noise_0.npy").tolist() == [2 + 3 + 7, 9, 1 + 5 + 8, 4 + 6]
    assert np.load(tmp_path / "out/epochs_seen_own_run1_noise_0.npy").tolist() == [3, 1, 3, 2]
    np.save(tmp_path / "sample_ids_epoch_1.npy", np.array([3, 9]))
    done = mcx(*words, "--output-dir", tmp_path / "other")
    assert (done.code, "loss_own_epoch_1.npy" in done.err) == (3, True)


def test_a_job_that_is_begun_anew_replaces_its_old_ids(mcx: Callable, run: Path, tmp_path: Path) -> None:
    words = ("csl", "score", "--checkpoint-dir", run, "--grad", "none", "--end-epoch", "1", "--output-dir")
    anew = ("--split", "test", "--overwrite", "--no-resume")
    assert mcx(*words, tmp_path / "out").code == 0
    before = np.load(tmp_path / "out/sample_ids.npy")
    assert mcx(*words, tmp_path / "out", "--run-idx", "2").code == 0
    done = mcx(*words, tmp_path / "out", *anew)
    assert (done.code, "names other samples" in done.err) == (5, True)  # they are those of the other run too
    shutil.rmtree(tmp_path / "out")
    assert mcx(*words, tmp_path / "out").code == 0
    done = mcx(*words, tmp_path / "out", *anew)
    assert done.code == 0, done.err
    assert np.load(tmp_path / "out/sample_ids.npy").tolist() != before.tolist()


# Whose ids ------------------------------------------------------------------------------------------------


@pytest.fixture
def scored_noisy(mcx, noisy: Path, tmp_path: Path, undrawn: None) -> Path:
    folder = tmp_path / "scored"
    assert mcx("csl", "score", "--checkpoint-dir", noisy, "--output-dir", folder).code == 0
    return folder


def _without(path: Path) -> None:
    path.unlink()


def _shortened(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


def _exchanged(path: Path) -> None:
    ids = np.load(path)
    ids[[3, 4]] = ids[[4, 3]]
    np.save(path, ids)


@pytest.mark.parametrize("damage", [_without, _shortened, _exchanged])
@pytest.mark.parametrize("name", ["sample_ids.npy", "label_noise_*.csv"])
def test_k4_ids_and_labels_that_the_scoring_wrote_are_part_of_it(
    mcx, scored_noisy: Path, tmp_path: Path, damage, name
) -> None:
    (path,) = scored_noisy.glob(name)
    if path.suffix == ".csv":
        path.write_text(path.read_text().replace("1", "2")) if damage is not _without else path.unlink()
    else:
        damage(path)
    for more in ([], ["--assume-index"]):
        done = mcx("csl", "aggregate", "--input-dir", scored_noisy, "--output-dir", tmp_path / "csl", *more)
        assert (done.code, f"'{path}' is" in done.err) == (3, True)
        assert not list((tmp_path / "csl").glob("*.npy"))


def test_g4_an_array_that_the_scoring_wrote_and_that_is_gone_is_said(
    mcx, scored_noisy: Path, tmp_path: Path
) -> None:
    last = max(scored_noisy.glob("loss_digits_*epoch_1_*"))
    last.unlink()
    words = ["csl", "aggregate", "--input-dir", scored_noisy, "--output-dir", tmp_path / "csl"]
    done = mcx(*words)
    assert (done.code, f"'{last}' is missing" in done.err) == (3, True)
    assert mcx(*words, "--end-epoch", "0").code == 0
    assert mcx(*words, "--allow-missing", "--no-resume", "--overwrite").code == 0


def test_k4_without_ids_no_sample_is_named(mcx, tmp_path: Path, undrawn: None) -> None:
    folder, out = tmp_path / "foreign", tmp_path / "csl"
    folder.mkdir()
    for epoch in range(3):
        np.save(folder / f"loss_mnist_epoch_{epoch}.npy", np.arange(6, dtype=np.float32) + epoch)
    words = ["csl", "aggregate", "--input-dir", folder, "--output-dir", out]
    done = mcx(*words)
    assert (done.code, "no sample is named" in done.err) == (0, True)
    assert np.load(out / "csl_mnist_run1_noise_0.npy").tolist() == [3.0 + 3 * k for k in range(6)]
    assert not (out / "sample_ids.npy").exists()
    assert not (out / "csl_mnist_run1_noise_0_samples.png").exists()
    metrics = json.loads((out / "metrics_mnist_run1_noise_0.json").read_text())
    assert (metrics["hardest"], metrics["easiest"]) == ([], [])
    joined = ["correlate", "--csl", out, "--output-dir", tmp_path / "found"]
    assert mcx(*joined).code == 3
    assert mcx(*joined, "--assume-index").code == 0
    done = mcx(*words, "--assume-index", "--no-resume", "--overwrite")
    assert (done.code, "position stands for the sample id" in done.err) == (0, True)
    assert np.load(out / "sample_ids.npy").tolist() == list(range(6))
    assert json.loads((out / "metrics_mnist_run1_noise_0.json").read_text())["hardest"][0]["sample_id"] == 5


def test_pictures_are_those_of_the_samples_that_were_scored(mcx, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    arrays = {"images": random.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8), "labels": np.arange(40) % 2}
    np.savez("data.npz", **arrays)
    words = ["train", "--model", "mlp", "--model-arg", "width=4", "--dataset", "data.npz", "--epochs", "1"]
    assert mcx(*words, "--save-freq", "1", "--output-dir", "run").code == 0
    assert mcx("csl", "score", "--checkpoint-dir", "run/seed0", "--output-dir", "losses").code == 0
    aggregate = ["csl", "aggregate", "--input-dir", "losses", "--output-dir"]
    done = mcx(*aggregate, "csl")
    assert (done.code, "no pictures" in done.err) == (0, False)
    arrays["images"][0] ^= 1
    np.savez("data.npz", **arrays)
    done = mcx(*aggregate, "again")
    assert (done.code, "does not hold the samples that were scored" in done.err) == (0, True)


def test_pictures_of_a_loop_of_ones_own_show_the_labels_that_it_trained_on(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data say others where the loop has flipped some; where most differ, the ids may be of other samples."""
    monkeypatch.chdir(tmp_path)
    draw, labels = np.random.default_rng(0), np.arange(40) % 4
    np.savez("data.npz", images=draw.integers(0, 256, (40, 8, 8), dtype=np.uint8), labels=labels)
    flipped = np.where(np.arange(40) < 5, (labels + 1) % 4, labels)
    logits = 3 * np.eye(4)[labels] + draw.normal(size=(40, 4))
    for folder, ids in (("right", np.arange(40)), ("shifted", np.arange(40) + 3)):
        rec = Recorder(folder, ids, name="data")
        rec.step(ids, logits, flipped)
        rec.epoch_end()
    drawn: list[dict[int, pictures.Picture]] = []
    monkeypatch.setattr(pictures, "gallery", lambda *parts: drawn.append(parts[3]) or b"")
    words = ("--dataset", "data.npz", "--num-samples", "20")
    _, err = aggregated(mcx, Path("right"), Path("csl"), *words)
    assert ("others than those" in err, "none of these ids" in err) == (False, False)
    done = mcx(
        "correlate", "--scores", "csl", "--num-samples", "8", "--hardest", "8", "--output-dir", "found"
    )
    assert done.code == 0, done.err
    for images in drawn:
        assert {each: one.labels for each, one in images.items()} == {
            each: (labels[each], flipped[each]) for each in images
        }
    assert [len(images) for images in drawn] == [40, 8]

    _, err = aggregated(mcx, Path("shifted"), Path("other"), *words)
    assert "37 of 37 labels are others than those of 'data'" in err
    assert "no pictures of 3 of 40 samples: 'data' has none of these ids, such as 40" in err
