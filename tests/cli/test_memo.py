"""`mcx memo`: its tables, what they are computed from, and how it goes on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from modeconn_cli.engine.commands import memo
from modeconn_cli.engine.commands.memo import study
from modeconn_cli.engine.commands.memo.estimate import memorisation
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import failpoints, memo_scores
from modeconn_cli.engine.training.members import Member

SMALL = (
    *("memo", "--model", "mlp", "--model-arg", "width=16", "--dataset", "digits", "--max-samples", "60"),
    *("--batch-size", "16", "--lr", "0.1", "--threads", "1"),
)
FEW = (*SMALL, "--epochs", "2", "--stack", "2")

OWN = """
import torch
from torch import nn


def dropping(num_classes=10):
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, num_classes))


def frozen(num_classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes)).requires_grad_(False)


class Wild(nn.Linear):
    def __init__(self, num_classes=10):
        super().__init__(64, num_classes)
        if torch.rand(()) < 0.4:
            nn.init.constant_(self.bias, 1e38)
            nn.init.constant_(self.weight, 1e38)

    def forward(self, images):
        return super().forward(images.flatten(1))
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module of the user's networks: memonets."""
    (tmp_path / "memonets.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("memonets", None)


def contents(folder: Path) -> dict[str, bytes]:
    """The results; the parts of a job that goes on with more are its own."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_scores_are_those_of_the_answers_beside_them_and_readers_take_them(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    words = (*SMALL, "--epochs", "20", "--wd", "0", "--label-noise", "0.2", "--models", "12")
    done = mcx(*words, "--influence-threshold", "0", "--output-dir", out, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found == json.loads((out / "memo_summary.json").read_text())
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(memo, "memorisation", None)
        again = mcx(*words, "--influence-threshold", "0", "--output-dir", out, "--json")
    assert json.loads(again.out) == found
    assert "already complete" in again.err
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == times
    table = pd.read_csv(out / "memo_scores.csv")
    with np.load(out / "memo_networks.npz") as arrays:
        kept = dict(arrays)
    assert kept["trained"].sum(1).tolist() == [42] * 12
    assert kept["trained"].shape == kept["right"].shape == (12, 60)
    again = memorisation(kept["trained"], kept["right"])
    np.testing.assert_array_equal(table["memo_score"], again.value)
    np.testing.assert_array_equal(table["standard_error"], again.error)
    np.testing.assert_array_equal(table["sample_id"], kept["sample_ids"])
    np.testing.assert_array_equal(
        table["right_in"] / table["n_in"] - table["right_out"] / table["n_out"], again.value
    )
    pairs = pd.read_csv(out / "influence.csv")
    assert len(pairs) == found["influences"] > 0
    row = pairs.iloc[len(pairs) // 2]
    inside = kept["trained"][:, kept["sample_ids"] == row["training_id"]][:, 0]
    answers = kept["right_held_out"][:, kept["held_out_ids"] == row["test_id"]][:, 0]
    assert row["influence"] == answers[inside].mean() - answers[~inside].mean() > 0
    flips = pd.read_csv(out / "memo_label_noise.csv").set_index("sample_id").loc[table["sample_id"]]
    np.testing.assert_array_equal(table["label"], flips["trained"])
    flipped = flips["flipped"].to_numpy().astype(bool)
    assert found["flipped"] == flipped.sum() > 0
    assert found["flipped_memo_score"] == pytest.approx(again.value[flipped].mean())
    others = np.nanmean(again.value[~flipped])  # one is in all of the sets
    assert again.value[flipped].mean() > others + 0.2, "what is flipped can only be memorised"
    scores, assumed = memo_scores.read(out / "memo_scores.csv", assume=False)
    np.testing.assert_array_equal(scores, table["memo_score"])
    assert not assumed
    train = ("train", *SMALL[1:], "--epochs", "1", "--track-samples")
    assert mcx(*train, "--memo-scores", out / "memo_scores.csv", "--output-dir", tmp_path / "run").code == 0
    done = mcx("correlate", "--memo", out / "memo_scores.csv", "--output-dir", tmp_path / "joined")
    assert done.code == 0, done.err


def test_blocks_that_are_done_are_kept_and_more_networks_add_to_them(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, out = tmp_path / "one", tmp_path / "out"
    assert mcx(*FEW, "--models", "7", "--output-dir", one).code == 0
    with monkeypatch.context() as patch:
        patch.setenv("MCX_TESTING", "1")
        patch.setenv("MCX_FAILPOINT", "memo.after_block.rank0:2=term")
        failpoints._counts.clear()
        done = mcx(*FEW, "--models", "5", "--output-dir", out)
    assert (done.code, done.out) == (75, "")
    assert "run the same command to continue" in done.err
    trained: list[list[int]] = []
    plain = study.Study._train

    def train(self: study.Study, of: list[Member], runtime: Runtime) -> None:
        trained.append([each.number for each in of])
        plain(self, of, runtime)

    monkeypatch.setattr(study.Study, "_train", train)
    part = next(iter(sorted(out.glob(".mcx/memo/parts/*.npz"))))
    part.write_bytes(part.read_bytes()[:-30])
    assert mcx(*FEW, "--models", "5", "--output-dir", out).code == 0
    assert trained == [[0, 1], [4]], "one was damaged, one had not been begun"
    trained.clear()
    done = mcx(*FEW, "--models", "5", "--output-dir", out)
    assert (done.code, trained) == (0, [])
    assert "already complete" in done.err
    assert mcx(*FEW, "--models", "7", "--output-dir", out).code == 0
    assert trained == [[4, 5], [6]]
    assert contents(out) == contents(one)
    trained.clear()
    assert mcx(*FEW, "--models", "7", "--influence-threshold", "0.5", "--output-dir", out).code == 0
    assert trained == [], "another threshold trains nothing"
    assert (out / "influence.csv").stat().st_size < (one / "influence.csv").stat().st_size
    done = mcx(*FEW, "--models", "7", "--lr", "0.2", "--output-dir", out)
    assert (done.code, "'lr' was 0.1, now 0.2" in done.err) == (3, True)


def test_who_is_trained_at_once_makes_no_difference(mcx: Callable, tmp_path: Path) -> None:
    tables = []
    for size in ("1", "4"):
        out = tmp_path / size
        assert mcx(*SMALL, "--epochs", "2", "--stack", size, "--models", "5", "--output-dir", out).code == 0
        tables.append(contents(out))
    assert {name: found == tables[1][name] for name, found in tables[0].items() if name.endswith(".npz")} == {
        "memo_networks.npz": True
    }


def test_networks_that_do_not_stack_are_trained_one_after_the_other(
    mcx: Callable, own: None, tmp_path: Path
) -> None:
    done = mcx(
        "memo", "--model", "memonets:dropping", *FEW[5:], "--models", "3", "--output-dir", tmp_path / "out"
    )
    assert done.code == 0, done.err
    assert "the networks are trained one after the other, as they do not stack: " in done.err
    assert "random" in done.err


def test_networks_that_become_nan_are_named_and_left_out(mcx: Callable, own: None, tmp_path: Path) -> None:
    words = ("memo", "--model", "memonets:Wild", *FEW[5:], "--models", "8")
    done = mcx(*words, "--output-dir", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    bad = found["left_out"]
    assert 0 < len(bad) < 7
    with np.load(tmp_path / "out/memo_networks.npz") as arrays:
        assert arrays["members"].tolist() == [k for k in range(8) if k not in bad]
    assert (
        f"{len(bad)} networks have become NaN or infinite and are left out: {', '.join(map(str, bad))}"
        in done.err
    )
    alone = json.loads(mcx(*words, "--stack", "1", "--output-dir", tmp_path / "alone", "--json").out)
    assert alone["left_out"] == bad
    done = mcx(*words, "--lr", "1e30", "--output-dir", tmp_path / "none")
    assert (done.code, done.out) == (3, "")
    assert "8 of 8 networks have become NaN or infinite\nhint: use a smaller --lr" in done.err


def test_images_in_all_or_in_none_of_the_sets_are_counted_and_have_empty_cells(
    mcx: Callable, tmp_path: Path
) -> None:
    done = mcx(*FEW, "--models", "2", "--output-dir", tmp_path / "out")
    assert done.code == 0
    table = pd.read_csv(tmp_path / "out/memo_scores.csv")
    undefined = (table["n_in"] == 0) | (table["n_out"] == 0)
    assert 0 < undefined.sum() < 60
    assert table["memo_score"].isna().equals(undefined)
    assert table["standard_error"].isna().equals(undefined)
    assert f"{undefined.sum()} of 60 images are in all or in none of the sets" in done.err
    assert f"Without a score: {undefined.sum()} images" in done.out
    assert len(memo_scores.as_text(tmp_path / "out/memo_scores.csv")) == 60 - undefined.sum()


def test_a_network_that_does_not_fit_its_data_is_warned_of(mcx: Callable, tmp_path: Path) -> None:
    done = mcx(*FEW, "--models", "2", "--lr", "1e-6", "--output-dir", tmp_path / "out")
    assert "scores of training, as CSL, track memorisation only where the data are fitted" in done.err
    noisy = (*FEW, "--models", "2", "--lr", "1e-6", "--label-noise", "0.3")
    assert "of the flipped labels" in mcx(*noisy, "--output-dir", tmp_path / "noisy").err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--models", "1"), 2, "--models must be at least 2, got 1"),
        (("--share", "0"), 2, "--share must be greater than 0, got 0.0"),
        (("--share", "1.5"), 2, "--share must be at most 1, got 1.5"),
        (("--share", "1"), 2, "--share 1 leaves no image out"),
        (("--share", "0.01"), 3, "--share 0.01 of 60 training images is none"),
        (("--influence-threshold", "-1"), 2, "--influence-threshold must be at least 0"),
        (("--epochs", "0"), 2, "--epochs must be at least 1"),
        (("--stack", "0"), 2, "--stack must be at least 1"),
        (("--max-samples", "1"), 3, "of 1 training images is none"),
        (("--model", "memonets:frozen"), 3, "every parameter of the network is frozen"),
    ],
)
def test_what_cannot_be_is_one_line(
    mcx: Callable, own: None, tmp_path: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    base = FEW if "--model" not in words else ("memo", *FEW[5:])
    done = mcx(*base, *words, "--output-dir", tmp_path / "out")
    assert (done.code, done.out) == (code, ""), done.err
    assert message in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


def test_the_plan_is_said_without_a_step(mcx: Callable, tmp_path: Path) -> None:
    done = mcx(*FEW, "--models", "8", "--output-dir", tmp_path / "out", "--dry-run")
    assert (done.code, done.out) == (0, "")
    assert "train 8 networks mlp (1,482 parameters), each on 42 of 60 images of digits, 2 epochs" in done.err
    assert not (tmp_path / "out").exists()


def test_images_in_files_are_read_for_all_networks_or_augmented_for_each(
    mcx: Callable, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    for number in range(24):
        file = tmp_path / f"pictures/{'val' if number < 8 else 'train'}/{number % 2}/{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (9, 8, 3), np.uint8)).save(file)
    words = ("memo", "--model", "mlp", "--dataset", tmp_path / "pictures", "--workers", "0", "--models", "4")
    words = (*words, "--epochs", "2", "--batch-size", "4", "--threads", "1")
    found = {}
    for transform in ("none", "vgg"):
        for size in ("1", "2"):
            out = tmp_path / f"{transform}{size}"
            done = mcx(*words, "--transform", transform, "--stack", size, "--output-dir", out)
            assert done.code == 0, done.err
            said = "one after the other: their images are read from files" in done.err
            assert said == ((transform, size) == ("vgg", "2"))
            found[transform, size] = contents(out)["memo_networks.npz"]
        assert found[transform, "1"] == found[transform, "2"]
    assert found["none", "1"] != found["vgg", "1"]


def test_without_held_out_images_there_are_scores_and_no_influence(mcx: Callable, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (20, 1, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", x_train=images, y_train=np.arange(20) % 2)
    words = ("memo", "--model", "mlp", "--dataset", tmp_path / "data.npz", "--models", "4", "--epochs", "2")
    done = mcx(*words, "--val-size", "0", "--threads", "1", "--output-dir", tmp_path / "out")
    assert done.code == 0, done.err
    assert "n/a held out" in done.out
    assert (tmp_path / "out/influence.csv").read_text() == "training_id,test_id,influence,standard_error\n"
    assert len(pd.read_csv(tmp_path / "out/memo_scores.csv")) == 20


# Means over runs of the correlation with memorisation, each ± 0.05; outside 256 networks gave .79-.83 of CSL.
PROXIES = {"csl": 0.81, "el2n_mean": 0.81, "share_wrong": 0.71, "forgetting": 0.55, "aum": -0.44}


@pytest.mark.slow
def test_scores_of_one_training_track_memorisation_in_their_known_order(
    mcx: Callable, tmp_path: Path
) -> None:
    """The MLP 64-64-64-10 on the digits, 64 networks in the place of 256."""
    recipe = (
        *("--model", "mlp", "--dataset", "digits", "--epochs", "40", "--batch-size", "63", "--lr", "0.05"),
        *("--schedule", "linear", "--wd", "0", "--threads", "1"),
    )
    assert mcx("memo", *recipe, "--models", "64", "--output-dir", tmp_path / "memo").code == 0
    scored, _ = memo_scores.read(tmp_path / "memo/memo_scores.csv", assume=False)
    summary = json.loads((tmp_path / "memo/memo_summary.json").read_text())
    assert (summary["trained_on"], summary["undefined"]) == (1005, 0)
    assert summary["right_in"] > 0.999
    assert 0.02 < summary["standard_error"]["median"] < summary["standard_error"]["largest"] < 0.16
    runs = (*recipe, "--seeds", "0,1", "--save-freq", "1", "--output-dir", tmp_path / "runs")
    assert mcx("train", *runs).code == 0
    found: dict[str, list[float]] = {name: [] for name in PROXIES}
    for seed in (0, 1):
        scores, sums = tmp_path / f"scores{seed}", tmp_path / f"sums{seed}"
        run = ("--checkpoint-dir", tmp_path / f"runs/seed{seed}", "--start-epoch", "1", "--split", "fit")
        assert mcx("csl", "score", *run, "--grad", "none", "--output-dir", scores, "--threads", "1").code == 0
        assert mcx("csl", "aggregate", "--input-dir", scores, "--output-dir", sums).code == 0
        table = pd.read_csv(next(sums.glob("scores_*.csv"))).set_index("sample_id")
        for name in PROXIES:
            values = table[name].loc[scored.index]
            kept = np.isfinite(values)
            found[name].append(float(np.corrcoef(values[kept], scored[kept])[0, 1]))
    means = {name: float(np.mean(values)) for name, values in found.items()}
    assert means == pytest.approx(PROXIES, abs=0.05), found
    order = ["el2n_mean", "share_wrong", "forgetting", "aum"]
    assert sorted(order, key=lambda name: -abs(means[name])) == order
