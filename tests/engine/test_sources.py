"""What `.npz` files and the user's own data sets give: exact, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeconn_cli.engine import datasets
from modeconn_cli.engine.datasets import user
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.settings.shared import DataSettings

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 1, 4, 4)).astype(np.uint8)
LABELS = np.array([0, 2, 1, 0, 1, 2])
SPLIT = np.array(["train"] * 4 + ["test"] * 2)


def npz(folder: Path, **arrays: Any) -> Callable[..., datasets.Data]:
    np.savez(folder / "d.npz", **arrays)

    def load(**words: Any) -> datasets.Data:
        settings = DataSettings(dataset=str(folder / "d.npz"), **words)
        return datasets.load(settings, torch.device("cpu"), held_out=False)

    return load


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> Callable[..., datasets.Data]:
    """The data set whose training samples are those given, and its test samples the first of them."""

    def load(*rows: Any) -> datasets.Data:
        monkeypatch.setattr(
            user, "imported", lambda _: lambda split: list(rows if split == "train" else rows[:1])
        )
        return datasets.load(DataSettings(dataset="mine:data"), torch.device("cpu"))

    return load


@pytest.mark.parametrize(
    "labels", [LABELS[:, None], np.eye(5)[LABELS], LABELS.astype(np.float32), np.eye(5, dtype=bool)[LABELS][..., None]]
)  # fmt: skip
def test_labels_of_columns_and_floats_are_the_plain_ones(tmp_path: Path, labels: np.ndarray) -> None:
    data = npz(tmp_path, images=IMAGES, labels=labels, split=SPLIT)()
    assert data.fit.labels.tolist() + data.test.labels.tolist() == LABELS.tolist()
    assert data.num_classes == (5 if labels.size == 30 else 3)


@pytest.mark.parametrize(
    ("names", "test_on"),
    [
        (("x_train", "y_train", "x_test", "y_test"), "x_test"),
        (("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"), "test_images"),
        (("train_images", "train_labels", "val_images", "val_labels"), "val_images"),
        (("x_train", "y_train"), None),
    ],
)  # fmt: skip
def test_arrays_of_each_split_are_read_as_keras_and_medmnist_name_them(
    tmp_path: Path, names: tuple[str, ...], test_on: str | None
) -> None:
    parts = [IMAGES[:3], LABELS[:3, None], IMAGES[3:5], LABELS[3:5, None], IMAGES[5:], LABELS[5:, None]]
    arrays = dict(zip(names, parts, strict=False))
    data = npz(tmp_path, **arrays)()
    assert isinstance(data.fit.images, torch.Tensor)
    assert isinstance(data.test.images, torch.Tensor)
    assert np.array_equal(data.fit.images.numpy(), IMAGES[:3])
    assert data.fit.labels.tolist() == LABELS[:3].tolist()
    assert np.array_equal(data.test.images.numpy(), arrays[test_on] if test_on else IMAGES[:0])
    assert bool(data.doubts) == (len(names) == 6)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES, "labels": LABELS, "x_train": IMAGES}, "two layouts"),
        ({"x_train": IMAGES}, "has no array 'y_train'"),
        ({"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES}, "has no array 'y_test'"),
        ({"x_train": IMAGES, "y_train": np.eye(3)[LABELS], "x_test": IMAGES, "y_test": np.eye(4)[LABELS]}, "3 and 4"),
        ({"x_train": IMAGES, "y_train": np.eye(3)[LABELS], "x_test": IMAGES, "y_test": LABELS + 1}, "label 3 is out"),
        ({"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[..., :3], "y_test": LABELS}, "test images"),
        ({"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES / 2, "y_test": LABELS}, "test images"),
        ({"images": IMAGES, "labels": LABELS, "sample_ids": np.arange(6) / 2}, "3 sample ids that are not whole"),
        ({"images": IMAGES, "labels": LABELS, "sample_ids": [f"i{k}" for k in range(6)]}, "the first is 'i0'"),
        ({"images": IMAGES, "labels": LABELS + 0.5}, "not whole numbers"),
        ({"images": IMAGES, "labels": [str(k) for k in LABELS]}, "not whole numbers"),
        ({"images": IMAGES, "labels": np.array([0, -1, 0, 0, 0, 0])}, "1 negative labels"),
        ({"images": IMAGES, "labels": 3}, "single value"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "no training images"),
        ({"images": IMAGES, "labels": LABELS, "split": ["test"] * 6}, "no training images"),
        ({"images": IMAGES, "labels": LABELS, "split": SPLIT[:, None]}, "split holds the shape"),
        ({"images": IMAGES.astype(np.int64), "labels": LABELS}, "images are int64"),
        ({"images": IMAGES * 1e300, "labels": LABELS}, "NaN or infinity"),
    ],
)  # fmt: skip
def test_files_that_a_cast_would_change_are_refused(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        npz(tmp_path, **arrays)()


def test_a_single_array_is_no_data_set(tmp_path: Path) -> None:
    with (tmp_path / "d.npz").open("wb") as stream:
        np.save(stream, IMAGES)
    with pytest.raises(InputError, match=r"is not a readable \.npz file"):
        datasets.load(DataSettings(dataset=str(tmp_path / "d.npz")), torch.device("cpu"))


@pytest.mark.parametrize("white", [255, 65535, 1])
def test_white_is_one_whatever_the_depth(tmp_path: Path, white: int) -> None:
    share = np.linspace(0, 1, 96).reshape(6, 1, 4, 4)
    kinds = {255: np.uint8, 65535: np.uint16, 1: bool}
    images = np.round(share * white).astype(kinds[white])
    stored = images.astype(images.dtype.newbyteorder(">"))
    data = npz(tmp_path, images=stored, labels=LABELS.astype(">u8"))(transform="half", val_size=0)
    (batch,) = data.fit.batches(6)
    assert np.allclose(batch.images.numpy(), (images / white - 0.5) / 0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "words", "doubted"),
    [
        (IMAGES.astype(np.float64), {"transform": "half"}, True),
        (IMAGES / 255.0 - 0.5, {"transform": "mnist"}, True),
        (IMAGES.astype(np.float64), {"mean": (0.5,), "std": (0.5,)}, True),
        (IMAGES.astype(np.float64), {"mean": (128.0,), "std": (60.0,)}, False),
        (IMAGES / 255.0 - 0.5, {"mean": (0.0,), "std": (0.3,)}, False),
        (IMAGES.astype(np.float64), {"transform": "none"}, False),
        (IMAGES / 255.0, {"transform": "half"}, False),
        (IMAGES, {"transform": "half"}, False),
    ],
)
def test_floats_of_another_range_than_the_transform_expects_are_doubted(
    tmp_path: Path, images: np.ndarray, words: dict[str, Any], doubted: bool
) -> None:
    assert bool(npz(tmp_path, images=images, labels=LABELS)(**words).doubts) == doubted


def test_floats_up_to_255_are_told_the_flags_that_make_them_what_the_transform_expects(
    tmp_path: Path,
) -> None:
    """Their statistics in the images' own range give the pixels that the bytes give."""
    floats = npz(tmp_path, images=IMAGES.astype(np.float64), labels=LABELS)
    (doubt,) = floats(transform="half").doubts
    channels = IMAGES.shape[1]
    said = ",".join(["127.5"] * channels)
    assert doubt.endswith(f"pass --mean {said} --std {said} where 255 is white, or --transform none to take them as "
                          "they are")  # fmt: skip
    data = floats(transform="half", mean=(127.5,) * channels, std=(127.5,) * channels)
    assert not data.doubts
    seen = next(iter(data.fit.batches(len(data.fit)))).images
    expected = (torch.from_numpy(IMAGES).float() / 255 - 0.5) / 0.5
    torch.testing.assert_close(seen, expected[: len(seen)])


ROW = (IMAGES[0], 0, 5)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, (IMAGES[1], 0.7, 6)], "1 labels that are not whole numbers: the first is '0.7'"),
        ([(IMAGES[0], [1, 1, 0])], "one-hot"),
        ([(IMAGES[0], torch.tensor([0.2, 0.8]))], "one-hot"),
        ([ROW, (IMAGES[1], [0, 1], 6)], "labels have several shapes"),
        ([ROW, (IMAGES[1], True, 6)], "labels are of several types: bool, int64"),
        ([ROW, (IMAGES[1], "cat", 6)], "labels are of several types"),
        ([(IMAGES[0], "cat")], "the first is 'cat'"),
        ([(IMAGES[0], None)], "the first is 'None'"),
        ([(IMAGES[0], {"a": 1})], "not whole numbers"),
        ([(IMAGES[0], [[1], [2, 3]])], "labels are no array"),
        ([ROW, (IMAGES[1], 0, 5.5)], "1 sample ids that are not whole numbers: the first is '5.5'"),
        ([ROW, (IMAGES[1], 0, 5.0)], "1 duplicate sample ids: the first is 5"),
        ([(IMAGES[0], 0, "a.png")], "the first is 'a.png'"),
        ([ROW, (IMAGES[1], 0)], "samples have 2 or 3 entries"),
        ([ROW, (IMAGES[1] / 255, 0, 6)], "images are of several types: float64, uint8"),
        ([ROW, (IMAGES[1, :, :3], 0, 6)], "images have several shapes"),
        ([(IMAGES[0].astype(np.int32), 0)], "images are int32"),
        ([(Image.fromarray(IMAGES[0, 0].astype(np.int32)), 0)], "images are int32"),
        ([{"image": IMAGES[0], "label": 0}], "samples have dict entries"),
        ([], "no training images"),
    ],
)  # fmt: skip
def test_a_users_samples_are_never_coerced(
    factory: Callable[..., datasets.Data], rows: list[Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        factory(*rows)


def test_a_users_labels_and_ids_may_be_of_any_exact_kind(factory: Callable[..., datasets.Data]) -> None:
    ones = [torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 0.0])]
    data = factory(*((IMAGES[k], ones[k], np.float64(9 - k)) for k in range(2)))
    assert (data.fit.ids.tolist(), data.fit.labels.tolist(), data.num_classes) == ([8, 9], [0, 1], 3)
    data = factory((IMAGES[0], 1, torch.tensor([3])), (IMAGES[1], np.uint8(0), torch.tensor([2])))
    assert (data.fit.ids.tolist(), data.fit.labels.tolist()) == ([2, 3], [0, 1])


def test_a_users_pictures_are_seen_as_they_look(factory: Callable[..., datasets.Data]) -> None:
    grey = np.arange(0, 65536, 4096, dtype=np.uint16).reshape(4, 4)
    (batch,) = factory((Image.fromarray(grey), 0)).fit.batches(1)
    assert np.allclose(batch.images[0, 0].numpy(), grey / 65535, atol=1e-6)
    colours = RNG.integers(0, 4, (4, 4, 3)).astype(np.uint8) * 80
    (batch,) = factory((Image.fromarray(colours).quantize(64), 0)).fit.batches(1)
    assert np.allclose(batch.images[0].numpy(), np.moveaxis(colours, 2, 0) / 255, atol=1e-6)
    black_and_white = (grey > 30000).astype(np.uint8) * 255
    (batch,) = factory((Image.fromarray(black_and_white).convert("1"), 0)).fit.batches(1)
    assert np.array_equal(batch.images[0, 0].numpy() * 255, black_and_white)
