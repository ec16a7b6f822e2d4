"""A folder of images: which file a sample id is, what its classes are called, and what is done to its images."""

from __future__ import annotations

import csv
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from modeconn_cli.engine import datasets
from modeconn_cli.engine.machine.runtime import STOP_SIGNALS
from modeconn_cli.engine.settings.shared import DataSettings

CLASSES = ("circle", "square")
EACH = 6


def images(folder: Path, size: int = 8) -> Path:
    """Two classes of six images, whose names sort otherwise than they were made."""
    draw = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for k in range(EACH):
            pixels = draw.integers(0, 100, (size, size, 3)) + 120 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{name}-{EACH - k}.png")
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture
def scored(mcx: Callable, folder: Path, tmp_path: Path) -> Path:
    """A run on the folder with flipped labels and two validation images, scored."""
    out = tmp_path / "run"
    words = ["--dataset", folder, "--workers", "0", "-q"]
    assert mcx("train", *words, "--model", "mlp", "--epochs", "1", "--val-size", "2",
               "--label-noise", "0.3", "--output-dir", out).code == 0  # fmt: skip
    done = mcx(
        "csl",
        "score",
        "--checkpoint",
        out / "seed0/checkpoint-1.pt",
        "--workers",
        "0",
        "--output-dir",
        tmp_path / "scores",
    )
    assert done.code == 0, done.err
    assert "2 of the 12 samples were held out of training" in done.err
    assert (
        mcx(
            "csl", "aggregate", "--input-dir", tmp_path / "scores", "--output-dir", tmp_path / "csl", "-q"
        ).code
        == 0
    )
    return tmp_path


def test_the_table_names_the_file_the_class_and_the_part_of_every_id(scored: Path, folder: Path) -> None:
    found = rows(scored / "scores" / "samples_shapes_run1_noise_0.3.csv")
    assert [row["sample_id"] for row in found] == [str(k) for k in range(2 * EACH)]
    assert [row["file"] for row in found] == [
        f"{name}/{name}-{k + 1}.png" for name in CLASSES for k in range(EACH)
    ]
    flips = rows(scored / "scores" / "label_noise_shapes_run1_noise_0.3.csv")
    assert [row["label"] for row in found] == [row["trained"] for row in flips]
    assert any(row["flipped"] == "1" for row in flips)
    assert [row["class_name"] for row in found] == [CLASSES[int(row["label"])] for row in found]
    assert sum(row["split"] == "val" for row in found) == 2
    assert {row["split"] for row in found} == {"fit", "val"}
    copy = scored / "csl" / "samples_shapes_run1_noise_0.3.csv"
    assert rows(copy) == found


def test_correlate_takes_classes_names_and_files_from_the_scoring(mcx: Callable, scored: Path) -> None:
    (scored / "odd.csv").write_text(
        "file,odd\ncircle/circle-2.png,1\nsquare-1.png,1\ncircle-1.png,0\nsquare-2.png,0\n"
    )
    done = mcx("correlate", "--csl", scored / "csl", "--lt", scored / "csl", "--flags", scored / "odd.csv",
               "--how", "outer", "--output-dir", scored / "out")  # fmt: skip
    assert done.code == 0, done.err
    assert "no source says class_id" not in done.err
    found, listed = (
        rows(scored / "out" / "per_sample.csv"),
        rows(scored / "csl" / "samples_shapes_run1_noise_0.3.csv"),
    )
    assert [row["file"] for row in found] == [row["file"] for row in listed]
    assert [row["class_id"] for row in found] == [row["label"] for row in listed]
    assert {row["file"] for row in found if row["odd"] == "1"} == {
        "circle/circle-2.png",
        "square/square-1.png",
    }
    assert [row["class_name"] for row in rows(scored / "out" / "by_class.csv")] == list(CLASSES)


@pytest.mark.parametrize(
    ("line", "said"),
    [("circle/none.png,1", "'circle/none.png'"), ("triangle/circle-1.png,1", "'triangle/circle-1.png'")],
)
def test_flags_of_a_file_that_is_no_sample_are_refused(
    mcx: Callable, scored: Path, line: str, said: str
) -> None:
    (scored / "odd.csv").write_text(f"file,odd\ncircle-1.png,0\n{line}\n")
    done = mcx(
        "correlate", "--csl", scored / "csl", "--flags", scored / "odd.csv", "--output-dir", scored / "out"
    )
    assert done.code == 3
    assert "1 files are not among the samples" in done.err
    assert said in done.err


def test_without_a_run_nobody_knows_what_was_trained_on_nor_the_transform(
    mcx: Callable, folder: Path, tmp_path: Path
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, 2))\n"
    )
    torch.save(model.state_dict(), tmp_path / "a.pt")
    words = ["--checkpoint", tmp_path / "a.pt", "--model", "mine:net", "--dataset", folder, "--workers", "0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        done = mcx("csl", "score", *words, "--output-dir", tmp_path / "guessed")
        said = mcx("csl", "score", *words, "--output-dir", tmp_path / "said", "--transform", "none")
    assert done.code == said.code == 0, done.err
    assert "images go through transform vgg (mean 0.485,0.456,0.406, std" in done.err
    assert "as no checkpoint says its own: --transform, or --mean and --std, say another" in done.err
    assert "images go through" not in said.err
    (listed,) = (tmp_path / "guessed").glob("samples_*.csv")
    assert {row["split"] for row in rows(listed)} == {""}


def test_what_is_done_to_a_folder_in_training_is_said_and_small_images_are_shifted_not_cut(
    mcx: Callable, folder: Path, tmp_path: Path
) -> None:
    words = ["train", "--model", "mlp", "--workers", "0", "--dry-run", "--output-dir", tmp_path / "out"]
    small = mcx(*words, "--dataset", folder)
    large = mcx(*words, "--dataset", images(tmp_path / "large", size=65))
    assert "in training random shifts by up to 4 pixels and flips (default of 'shapes'" in small.err
    assert "in training random parts of the image, resized and flips (default of 'large'" in large.err
    digits = mcx(
        "train", "--model", "mlp", "--dry-run", "--output-dir", tmp_path / "out", "--dataset", "digits"
    )
    assert digits.code == 0
    assert "images go through" not in digits.err
    assert "images go through" not in mcx(*words, "--dataset", folder, "--transform", "half").err


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_to_the_process_group_leaves_the_readers_to_the_one_that_saves(
    folder: Path, number: int
) -> None:
    data = datasets.load(DataSettings(dataset=str(folder), workers=1), torch.device("cpu"), held_out=False)
    alone = datasets.load(DataSettings(dataset=str(folder), workers=0), torch.device("cpu"), held_out=False)
    seen = []
    for k, batch in enumerate(data.fit.batches(2)):
        if k == 0:
            readers = multiprocessing.active_children()
            assert readers
            for reader in readers:
                assert reader.pid is not None
                os.kill(reader.pid, number)
        seen.append(batch.images)
    assert torch.equal(torch.cat(seen), torch.cat([batch.images for batch in alone.fit.batches(2)]))


def test_all_images_of_a_folder_are_trained_on_where_nothing_is_measured(
    mcx: Callable, folder: Path, tmp_path: Path
) -> None:
    words = (
        "train",
        "--dataset",
        folder,
        "--model",
        "mlp",
        "--workers",
        "0",
        "--epochs",
        "1",
        "--val-size",
        "0",
    )
    refused = mcx(*words, "--output-dir", tmp_path / "a")
    assert refused.code == 2
    assert "mcx train --val-size 0 --eval-every 0 trains on all of them" in refused.err
    done = mcx(*words, "--eval-every", "0", "--output-dir", tmp_path / "b", "--label-noise", "0.5")
    assert done.code == 0, done.err
    assert "on shapes: 12 images" in done.err
    flipped = sum(row["flipped"] == "1" for row in rows(tmp_path / "b/seed0/label_noise.csv"))
    assert f"label noise 0.5, a probability per label: flipped are {flipped} of 12 in fit" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--dataset", "shapez", "--model", "mlp"), "did you mean 'shapes'?"),
        (
            ("--dataset", "./shapes", "--model", "toynet"),
            "pass --model toynet:FACTORY for a network in toynet.py",
        ),
        (
            ("--dataset", "./shapes", "--model", "TinyNet"),
            "pass --model toynet:TinyNet for the one in toynet.py",
        ),
        (("--dataset", "./shapes", "--model", "toynet.py:TinyNet"), "drop the ending: toynet:TinyNet"),
        (("--dataset", "./shapes"), "or pkg.mod:factory"),
        (
            ("--dataset", "./shapes", "--model", "toynet:TinyNet"),
            "the network takes 5 channels, the images have 3",
        ),
        (("--dataset", "digits", "--model", "mlp", "--label-noise", "5%"), "hint: write 0.05"),
    ],
)
def test_words_that_nearly_fit_are_led_to_what_lies_there(
    mcx: Callable,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    said: str,
) -> None:
    (tmp_path / "shapes").symlink_to(folder)
    (tmp_path / "toynet.py").write_text(
        "from torch import nn\n\n\nclass TinyNet(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Conv2d(5, 2, 3), nn.Flatten(), nn.Linear(72, 2))\n"
    )
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("toynet", None)
    monkeypatch.syspath_prepend(str(tmp_path))
    done = mcx("train", *words, "--epochs", "1", "--output-dir", "out", "--workers", "0")
    assert done.code in (2, 3)
    assert said in done.err


def test_a_run_that_is_not_there_is_said_whatever_flags_follow(mcx: Callable, tmp_path: Path) -> None:
    done = mcx("csl", "score", tmp_path / "runn/seed9", "--epoch-step", "2", "--output-dir", tmp_path / "out")
    assert done.code == 3
    assert f"'{tmp_path}/runn/seed9' does not exist" in done.err


def test_a_table_of_samples_that_was_edited_is_refused(mcx: Callable, scored: Path, tmp_path: Path) -> None:
    aggregate = ["csl", "aggregate", "--input-dir", scored / "scores", "--output-dir", tmp_path / "again"]
    correlate = ["correlate", "--csl", scored / "csl", "--output-dir", tmp_path / "found"]
    for place, words in ((scored / "scores", aggregate), (scored / "csl", correlate)):
        (table,) = place.glob("samples_*.csv")
        lines = table.read_text().splitlines(keepends=True)
        table.write_text("".join([lines[0], *reversed(lines[1:])]))
        done = mcx(*words)
        assert (done.code, f"'{table}' is not as" in done.err) == (3, True), done.err
