"""`mcx dormant`: the documented files, epochs that are there, missing or added."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from modeconn_cli.engine import datasets
from modeconn_cli.engine.networks import checkpoints, models
from modeconn_cli.engine.settings.shared import DataSettings, ModelSettings


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network of four epochs, every one kept: checkpoint-0.pt … checkpoint-4.pt."""
    from modeconn_cli.cli import app

    folder = tmp_path_factory.mktemp("run")
    words = ["train", "--model", "cnn", "--model-arg", "width=4", "--dataset", "digits", "--seeds", "0", "-q"]
    assert (
        app.main([*words, "--epochs", "4", "--save-freq", "1", "--lr", "0.1", "--output-dir", str(folder)])
        == 0
    )
    return folder / "seed0"


@pytest.fixture
def scored(mcx: Callable, run: Path, tmp_path: Path) -> Path:
    done = mcx("dormant", "--checkpoint-dir", run, "--start-epoch", "0", "--end-epoch", "4", "--step", "2",
               "--output-dir", tmp_path / "dm", "--batch-size", "64")  # fmt: skip
    assert done.code == 0, done.err
    return tmp_path / "dm"


def test_the_files_hold_what_the_seeds_function_gives(run: Path, scored: Path) -> None:
    assert sorted(path.name for path in scored.glob("*.npy")) == sorted(
        f"{kind}_epoch_{e}.npy"
        for e in (0, 2, 4)
        for kind in ("dormant_props", "dormant_post", "sample_ids", "labels")
    )
    found = checkpoints.read(run / "checkpoint-2.pt")
    model = models.build(models.architecture(ModelSettings(), found.about)).eval()
    model.load_state_dict(found.state)
    samples = datasets.load(DataSettings(dataset="digits"), torch.device("cpu")).split("all-train")
    counts, units = torch.zeros(len(samples)), 0

    def hook(_module: nn.Module, _inputs: object, out: torch.Tensor) -> None:
        nonlocal counts, units
        most = out.amax(dim=(2, 3)) if out.ndim == 4 else out
        counts, units = counts + (most <= 1e-6).sum(1), units + most.shape[1]

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(hook)
    with torch.no_grad():
        model(next(iter(samples.batches(len(samples)))).images)
    np.testing.assert_allclose(
        np.load(scored / "dormant_props_epoch_2.npy"), (counts / units).numpy(), rtol=1e-6
    )
    np.testing.assert_array_equal(np.load(scored / "sample_ids_epoch_2.npy"), samples.ids.numpy())
    np.testing.assert_array_equal(np.load(scored / "labels_epoch_2.npy"), samples.labels.numpy())


def test_layers_and_summary_are_the_means_over_samples(scored: Path) -> None:
    with (scored / "dormant_layers_epoch_4.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    summary = json.loads((scored / "dormant_summary_digits.json").read_text())
    assert list(summary["epochs"]) == ["0", "2", "4"]
    for site, name in (("pre", "props"), ("post", "post")):
        values = np.load(scored / f"dormant_{name}_epoch_4.npy")
        own = [row for row in rows if row["site"] == site]
        units = [int(row["units"]) for row in own]
        assert summary["units"][site] == sum(units)
        mean = sum(float(row["proportion"]) * n for row, n in zip(own, units, strict=True)) / sum(units)
        assert values.mean(dtype=np.float64) == pytest.approx(mean, rel=1e-5)
        assert summary["epochs"]["4"][site]["mean"] == pytest.approx(mean, rel=1e-5)
        assert summary["epochs"]["4"][site]["q50"] == pytest.approx(float(np.median(values)), rel=1e-5)
    assert {row["tau_dormant"] for row in rows if row["site"] == "pre"} == {""}
    assert summary["epochs"]["4"]["tau_dormant"] > 0
    assert (scored / "dormant_evolution.png").stat().st_size > 10_000


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_ranks_stand_behind_the_columns_that_were_there(
    mcx: Callable, run: Path, scored: Path, tmp_path: Path
) -> None:
    done = mcx(
        "dormant", run, "--step", "2", "--batch-size", "64", "--no-ranks", "--output-dir", tmp_path / "plain"
    )
    assert done.code == 0, done.err
    assert "Ranks" not in done.out
    assert not (tmp_path / "plain/dormant_ranks.png").exists()
    for epoch in (0, 2, 4):
        name = f"dormant_layers_epoch_{epoch}.csv"
        before, now = ((folder / name).read_text().splitlines() for folder in (tmp_path / "plain", scored))
        assert [line.split(",")[:8] for line in now] == [line.split(",") for line in before]
    first, last = (rows_of(scored / f"dormant_layers_epoch_{epoch}.csv") for epoch in (0, 4))
    assert list(last[0])[8:] == [
        "entropy_rank", "srank", "stable_rank", "approximate_rank", "feature_norm", "dead", "weight_norm",
        "distance_from_init",
    ]  # fmt: skip
    start, end = (checkpoints.read(run / f"checkpoint-{epoch}.pt").state for epoch in (0, 4))
    for row in last:
        assert (row["entropy_rank"] != "") == (row["site"] == "post")
    moved = [end[f"fc1.{part}"].double() - start[f"fc1.{part}"].double() for part in ("weight", "bias")]
    norm = float(torch.cat([part.flatten() for part in moved]).norm())
    assert float(last[-2]["distance_from_init"]) == pytest.approx(norm, rel=1e-12)
    assert {float(row["distance_from_init"]) for row in first} == {0.0}
    assert (scored / "dormant_ranks.png").stat().st_size > 10_000
    summary = json.loads((scored / "dormant_summary_digits.json").read_text())
    assert summary["epochs"]["4"]["ranks"]["srank"] == int(last[-2]["srank"])
    assert summary["tasks"] == []


def test_without_epoch_0_there_is_no_distance_and_a_note_says_so(
    mcx: Callable, run: Path, tmp_path: Path
) -> None:
    shutil.copy(run / "checkpoint-4.pt", tmp_path / "checkpoint-4.pt")
    done = mcx("dormant", "--checkpoint", tmp_path / "checkpoint-4.pt", "--output-dir", tmp_path / "out")
    assert (done.code, "no distance from initialisation" in done.err) == (0, True), done.err
    alone = rows_of(tmp_path / "out/dormant_layers_epoch_4.csv")
    assert {row["distance_from_init"] for row in alone} == {""}
    assert all(row["weight_norm"] for row in alone)
    done = mcx("dormant", "--checkpoint", run / "checkpoint-4.pt", "--output-dir", tmp_path / "beside")
    assert (done.code, "no distance" in done.err) == (0, False)
    assert all(row["distance_from_init"] for row in rows_of(tmp_path / "beside/dormant_layers_epoch_4.csv"))


def test_a_folder_of_before_ranks_goes_on(mcx: Callable, run: Path, scored: Path) -> None:
    """Its tables have fewer columns, and its settings say nothing of ranks."""
    for epoch in (0, 2, 4):
        path = scored / f"dormant_layers_epoch_{epoch}.csv"
        path.write_text(
            "".join(",".join(line.split(",")[:8]) + "\n" for line in path.read_text().splitlines())
        )
    log = scored / ".mcx/dormant/scored.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    for row in rows:
        del row["ranks"]
        made = [f"dormant_props_epoch_{row['epoch']}.npy", f"dormant_post_epoch_{row['epoch']}.npy"]
        made += [f"{name}_epoch_{row['epoch']}.npy" for name in ("sample_ids", "labels")]
        row["sizes"] = [
            (scored / name).stat().st_size for name in [*made, f"dormant_layers_epoch_{row['epoch']}.csv"]
        ]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = scored / ".mcx/dormant/record.json"
    told = json.loads(record.read_text())
    del told["settings"]["ranks"]
    record.write_text(json.dumps(told))
    done = mcx("dormant", "--checkpoint-dir", run, "--output-dir", scored, "--batch-size", "64", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["scored"] == 2
    assert rows_of(scored / "dormant_layers_epoch_3.csv")[1]["srank"]


@pytest.mark.parametrize("words", [("--batch-size", "7"), ("--batch-size", "1437"), ("--threads", "2")])
def test_h2_any_batch_size_gives_the_same_values(
    mcx: Callable, run: Path, scored: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    where = ("--checkpoint", run / "checkpoint-4.pt", "--output-dir", tmp_path / "other")
    assert mcx("dormant", *where, *words).code == 0
    torch.set_num_threads(1)
    for name in ("dormant_props_epoch_4.npy", "dormant_post_epoch_4.npy"):
        np.testing.assert_allclose(np.load(tmp_path / "other" / name), np.load(scored / name), atol=1e-6)


def test_one_kind_of_site_alone(mcx: Callable, run: Path, scored: Path, tmp_path: Path) -> None:
    for site, there, absent in (("pre", "props", "post"), ("post", "post", "props")):
        folder = tmp_path / site
        done = mcx("dormant", "--checkpoint", run / "checkpoint-4.pt", "--site", site, "--output-dir", folder)
        assert done.code == 0, done.err
        assert not (folder / f"dormant_{absent}_epoch_4.npy").exists()
        name = f"dormant_{there}_epoch_4.npy"
        np.testing.assert_allclose(np.load(folder / name), np.load(scored / name), atol=1e-6)


def test_h6_missing_epochs_are_named_or_left_out(
    mcx: Callable, run: Path, scored: Path, tmp_path: Path
) -> None:
    holed = tmp_path / "holed"
    shutil.copytree(run, holed, ignore=shutil.ignore_patterns("checkpoint-2.pt", ".mcx"))
    words = ("dormant", "--checkpoint-dir", holed, "--start-epoch", "0", "--end-epoch", "4", "--step", "2")
    done = mcx(*words, "--output-dir", tmp_path / "out")
    assert (done.code, "checkpoints of 1 epochs are missing: 2" in done.err) == (3, True)
    done = mcx(*words, "--output-dir", tmp_path / "out", "--allow-missing", "--batch-size", "64")
    assert (done.code, "missing: [2]" in done.err) == (0, True)
    for e in (0, 4):
        name = f"dormant_props_epoch_{e}.npy"
        assert (tmp_path / "out" / name).read_bytes() == (scored / name).read_bytes()


def test_more_epochs_are_added_and_lost_files_made_again(
    mcx: Callable, run: Path, scored: Path, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in scored.glob("*_*")}
    words = ("dormant", "--checkpoint-dir", run, "--output-dir", scored, "--batch-size", "64", "--json")
    assert json.loads(mcx(*words).out)["scored"] == 2
    assert json.loads(mcx(*words).out)["scored"] == 0
    (scored / "dormant_props_epoch_2.npy").unlink()
    assert json.loads(mcx(*words).out)["scored"] == 1
    for name, content in before.items():
        if name.endswith((".npy", ".csv")):
            assert (scored / name).read_bytes() == content
    done = mcx(*words, "--eps", "0.1")
    assert (done.code, "'eps' was 1e-06, now 0.1" in done.err) == (3, True)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--eps", "-1"), 2, "--eps must be at least 0"),
        (("--tau", "nan"), 2, "--tau"),
        (("--dormant-unit-threshold", "2"), 2, "must be at most 1"),
        (("--checkpoint", "x.pt"), 2, "give either one checkpoint or a folder"),
        (("--start-epoch", "9", "--end-epoch", "12"), 3, "epochs are missing"),
    ],
)
def test_bad_input_is_one_line(
    mcx: Callable, run: Path, tmp_path: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    done = mcx("dormant", "--checkpoint-dir", run, "--output-dir", tmp_path / "out", *words)
    assert (done.code, done.out, message in done.err) == (code, "", True)
    assert not (tmp_path / "out").exists()


def test_other_samples_or_another_network_are_not_mixed_into_a_job(
    mcx: Callable, run: Path, networks: Path, tmp_path: Path
) -> None:
    """Data that were replaced between a stop and the next run, and a checkpoint of another network."""
    generator = np.random.default_rng(0)

    def write(path: Path) -> None:
        images = generator.integers(0, 255, (60, 1, 8, 8), dtype=np.uint8)
        labels = np.arange(60) % 10
        np.savez(path, images=images, labels=labels, test_images=images[:20], test_labels=labels[:20])

    write(tmp_path / "own.npz")
    words = ("dormant", "--dataset", tmp_path / "own.npz", "--output-dir", tmp_path / "out")
    first = mcx(*words, "--checkpoint", run / "checkpoint-4.pt")
    assert first.code == 0, first.err
    write(tmp_path / "own.npz")
    done = mcx(*words, "--checkpoint", run / "checkpoint-3.pt")
    assert (done.code, "the set of training samples in 'own' is not what it was" in done.err) == (3, True)
    train = ("train", "--model", "mlp", "--dataset", "digits", "--seeds", "0", "--epochs", "1", "-q")
    assert mcx(*train, "--output-dir", tmp_path / "mlp").code == 0
    where = ("--output-dir", tmp_path / "digits", "--checkpoint")
    assert mcx("dormant", *where, run / "checkpoint-4.pt").code == 0
    done = mcx("dormant", *where, tmp_path / "mlp/seed0/checkpoint-1.pt")
    assert (done.code, "'model' was cnn, now mlp" in done.err) == (3, True)
