"""Data sets in their real formats, on small files made here."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeconn_cli.engine import datasets
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import subject
from modeconn_cli.engine.networks.checkpoints import About
from modeconn_cli.engine.settings.curvature import CurvatureSettings
from modeconn_cli.engine.settings.shared import DataSettings

RNG = np.random.default_rng(0)


def load(**words: Any) -> datasets.Data:
    return datasets.load(DataSettings(workers=0, **words), torch.device("cpu"))


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """CIFAR-10 in its pickled batches, a few images each, with checksums of their own."""
    from torchvision.datasets import CIFAR10

    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    out = {}
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        data = RNG.integers(0, 256, (4, 3072), dtype=np.uint8)
        out[name] = data
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": [0, 9, 1, 2]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(i) for i in range(10)]}))
    for attribute in ("train_list", "test_list"):
        listed = [[name, None] for name, _ in getattr(CIFAR10, attribute)]
        monkeypatch.setattr(CIFAR10, attribute, listed)
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": None})
    return out


@pytest.mark.filterwarnings("ignore:dtype.*align:DeprecationWarning")
def test_cifar_images_keep_their_order_and_get_their_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = write_cifar(tmp_path / "cifar10", monkeypatch)
    data = load(dataset="CIFAR-10", data_path=tmp_path)
    assert (len(data.fit), len(data.test), data.num_classes, data.input_shape) == (20, 4, 10, (3, 32, 32))
    assert data.fit.ids.tolist() == list(range(20))
    assert isinstance(data.fit.images, torch.Tensor)
    third = batches["data_batch_1"][2].reshape(3, 32, 32)
    assert np.array_equal(data.fit.images[2].numpy(), third)
    assert data.fit.labels[:4].tolist() == [0, 9, 1, 2]
    assert data.fit.transform.name == "resnet"


def test_mnist_is_read_from_its_idx_files(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in (("train", 5), ("t10k", 3)):
        images = RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        head = struct.pack(">IIII", 2051, count, 28, 28)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        labels = np.arange(count, dtype=np.uint8)
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + labels.tobytes())
        (raw / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(b""))
    data = load(dataset="mnist", data_path=tmp_path)
    assert (len(data.fit), len(data.test), data.input_shape) == (5, 3, (1, 28, 28))
    assert data.fit.labels.tolist() == list(range(5))


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
def test_absent_data_names_the_folder_and_the_flag(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        load(dataset=name, data_path=tmp_path)
    assert str(tmp_path) in caught.value.message
    assert "--download" in caught.value.hint


def test_a_half_downloaded_cifar_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py/data_batch_3").unlink()
    with pytest.raises(InputError, match="not complete"):
        load(dataset="cifar10", data_path=tmp_path)


def write_images(folder: Path, classes: list[str], count: int, size: tuple[int, int] = (40, 30)) -> None:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:03}.png")


def images_of(data: datasets.Data, batch_size: int, **words: Any) -> torch.Tensor:
    return torch.cat([batch.images for batch in data.fit.batches(batch_size, **words)])


def test_class_folders_are_read_in_order_with_ids(tmp_path: Path) -> None:
    write_images(tmp_path / "train", ["cat", "ant"], 3)
    write_images(tmp_path / "val", ["ant", "cat"], 2)
    data = load(dataset=str(tmp_path), image_size=16)
    assert (len(data.fit), len(data.test), data.num_classes, data.input_shape) == (6, 4, 2, (3, 16, 16))
    assert data.fit.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.fit.ids.tolist() == list(range(6))
    assert data.fit.transform.name == "imagenet"
    # Evaluation takes the centre of the image, 224/256 of its shorter side.
    with Image.open(tmp_path / "train/ant/000.png") as file:
        side = 30 * 224 / 256
        box = ((40 - side) / 2, (30 - side) / 2, (40 + side) / 2, (30 + side) / 2)
        centre = np.asarray(file.resize((16, 16), Image.Resampling.BILINEAR, box=box))
    expected = data.fit.transform.normalise(torch.from_numpy(centre.copy()).permute(2, 0, 1)[None])
    assert torch.equal(images_of(data, 2)[:1], expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_e17_random_crops_do_not_depend_on_batches_or_workers(tmp_path: Path, workers: int) -> None:
    write_images(tmp_path, ["a", "b"], 4)
    words: dict[str, Any] = {"dataset": str(tmp_path), "val_size": 1, "use_test": False, "image_size": 12}
    plain = datasets.load(DataSettings(workers=0, **words), torch.device("cpu"))
    other = datasets.load(DataSettings(workers=workers, **words), torch.device("cpu"))
    whole = images_of(plain, 7, augment=(3, 1))
    assert torch.equal(images_of(other, 2, augment=(3, 1)), whole)
    assert not torch.equal(images_of(plain, 7, augment=(3, 2)), whole)
    order = torch.tensor([6, 0, 5, 1, 4, 2, 3])
    assert torch.equal(images_of(other, 3, augment=(3, 1), order=order), whole[order])


def test_tiny_imagenet_has_its_labels_in_a_text_file(tmp_path: Path) -> None:
    for name in ("n02", "n01"):
        write_images(tmp_path / "train" / name, ["images"], 2, (8, 8))
    write_images(tmp_path / "val", ["images"], 3, (8, 8))
    rows = ["000.png\tn02\t0\t0\t1\t1", "001.png\tn01\t0\t0\t1\t1", "002.png\tn02\t0\t0\t1\t1"]
    (tmp_path / "val/val_annotations.txt").write_text("\n".join(rows) + "\n")
    data = load(dataset="tiny-imagenet", data_path=tmp_path, image_size=8)
    assert data.fit.labels.tolist() == [0, 0, 1, 1]
    assert data.test.labels.tolist() == [0, 1, 1]


def test_unreadable_images_are_named_and_counted(tmp_path: Path) -> None:
    write_images(tmp_path, ["a", "b"], 3)
    (tmp_path / "a/001.png").write_bytes(b"not an image")
    whole = (tmp_path / "b/001.png").read_bytes()
    (tmp_path / "b/001.png").write_bytes(whole[: len(whole) // 2])
    data = load(dataset=str(tmp_path), val_size=1, use_test=False, image_size=8)
    with pytest.raises(InputError) as caught:
        images_of(data, 2)
    assert "2 of 5 images cannot be read" in caught.value.message
    assert "a/001.png" in caught.value.message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "does not exist"),
        (lambda root: (root / "train").mkdir(parents=True), "has no class folders"),
        (lambda root: write_images(root / "train", ["a"], 1), "neither val nor test"),
        (
            lambda root: [write_images(root / "train", ["a"], 1), write_images(root / "val", ["b"], 1)],
            "class 'b'",
        ),
        (lambda root: (root / "train/a").mkdir(parents=True), "val nor test"),
    ],
)
def test_folders_that_are_not_whole_are_refused(tmp_path: Path, make: Any, message: str) -> None:
    root = tmp_path / "data"
    make(root)
    with pytest.raises(InputError, match=message):
        load(dataset=f"{root}/")


def test_a_users_own_data_is_drawn_from_its_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mydata.py").write_text(
        "import numpy as np\n"
        "def make(split, count=4):\n"
        "    n = count if split == 'train' else 2\n"
        "    return [(np.full((1, 4, 4), i, dtype=np.uint8), [i % 2, 1 - i % 2], 100 - i) for i in range(n)]\n"
    )
    monkeypatch.chdir(tmp_path)
    data = load(dataset="mydata:make", data_arg=("count=6",))
    assert (len(data.fit), len(data.test), data.num_classes) == (6, 2, 2)
    assert data.fit.ids.tolist() == [95, 96, 97, 98, 99, 100]
    assert data.fit.labels.tolist() == [0, 1, 0, 1, 0, 1]
    about = About(data=datasets.Remembered(dataset="mydata:make", max_samples=3))
    with pytest.raises(SettingsError, match="would run code"):
        subject.load_data(about, CurvatureSettings(checked=True), Runtime(), "data")


def test_mean_and_std_replace_the_transforms_own() -> None:
    data = load(dataset="digits", mean=(0.25,), std=(0.5,))
    batch = next(iter(data.fit.batches(4)))
    assert isinstance(data.fit.images, torch.Tensor)
    expected = (data.fit.images[:4].float() / 255 - 0.25) / 0.5
    assert torch.allclose(batch.images, expected, atol=1e-6)
    with pytest.raises(SettingsError, match="--std needs 1"):
        load(dataset="digits", mean=(0.25,))
