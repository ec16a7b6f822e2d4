"""Folders of images: what their classes are, and images of every depth."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeconn_cli.engine import datasets
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.settings.shared import DataSettings


def load(root: Path | str, **words: Any) -> datasets.Data:
    settings = DataSettings(dataset=str(root), workers=0, **{"image_size": 4, **words})
    return datasets.load(settings, torch.device("cpu"), held_out=False)


def write(root: Path, *names: str) -> None:
    """A grey image of its own value under every name; other files where the ending is none of an image."""
    for value, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            Image.fromarray(np.full((4, 4), 10 * value % 250, np.uint8)).save(path)
        else:
            path.write_bytes(b"")


def pixels(data: datasets.Data) -> np.ndarray:
    """[N, 3, 4, 4], before normalisation, from 0 to 1."""
    mean, std = (np.array(each)[:, None, None] for each in (data.fit.transform.mean, data.fit.transform.std))
    images = torch.cat([batch.images for batch in data.fit.batches(2)]).double().numpy()
    return images * std + mean


@pytest.mark.parametrize("train", ["train", "training", "Train", "TRAINING"])
@pytest.mark.parametrize("test", ["val", "valid", "Validation", "test", "testing", "Test"])
def test_both_splits_are_known_by_many_names(tmp_path: Path, train: str, test: str) -> None:
    write(tmp_path, f"{train}/a/0.png", f"{train}/b/1.png", f"{train}/b/0.png", f"{test}/b/0.png")
    data = load(f"{tmp_path}/")
    assert (data.num_classes, data.fit.labels.tolist(), data.test.labels.tolist()) == (2, [0, 1, 1], [1])


def test_test_images_are_tested_on_where_they_have_labels(tmp_path: Path) -> None:
    write(
        tmp_path,
        "train/a/0.png",
        "train/b/0.png",
        "val/a/0.png",
        "val/b/0.png",
        "test/0.png",
        "test/odd/1.png",
    )
    data = load(tmp_path)
    assert ((len(data.test)), data.doubts) == (2, ())
    write(tmp_path / "test", "a/1.png")
    (tmp_path / "test/odd/1.png").rename(tmp_path / "test/1.png")
    (tmp_path / "test/odd").rmdir()
    data = load(tmp_path)
    assert (len(data.test), [str(tmp_path / "val") in doubt for doubt in data.doubts]) == (1, [True])


@pytest.mark.parametrize(
    ("names", "messages"),
    [
        (
            ("mnist/training/a/0.png", "mnist/testing/a/0.png"),
            ("mnist' holds no images", "'testing', 'training'"),
        ),
        (("one/a/0.png", "one/b/0.png", "two/a/0.png"), ("one' holds no images", "'a', 'b'")),
        (("train/set/a/0.png", "train/set/b/0.png", "test/a/0.png"), ("set' holds no images", "'a', 'b'")),
        (("train/a/0.png", "test/a/x/0.png"), ("a' holds no images", "'x'")),
        (("a/0.png", "b/more/0.png", "b/0.png"), ("b' holds 1 images and the folder 'more' with 1 more",)),
        (("a/0.png", "b/0.npy", "b/1.npy"), ("b' holds no images, found: 2 files .npy",)),
        (("a/0.png", "b/.hidden.png"), ("b' holds no images, found: nothing",)),
        (("a/0.png", "b/.ipynb_checkpoints/0.png"), ("b' holds no images, found: nothing",)),
        (
            ("train/a/0.png", "training/a/0.png", "test/a/0.png"),
            ("'train', 'training', which could be the same",),
        ),
        (("train/a/0.png", "val/a/0.png", "valid/a/0.png"), ("'val', 'valid', which could be the same",)),
        (("test/0.png", "val/0.png"), ("has 'test', 'val' and no train",)),
        (("train/0.png", "test/0.png"), ("train' has no class folders",)),
        (("train/a/0.png", "test/0.png"), ("test' has no class folders",)),
        (("train/a/0.png", "test/a/0.png", "test/b/0.png"), ("has the class 'b'",)),
    ],
)
def test_folders_that_are_no_data_set_are_refused_with_what_was_found(
    tmp_path: Path, names: tuple[str, ...], messages: tuple[str, ...]
) -> None:
    write(tmp_path, *names)
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    assert all(message in caught.value.message for message in messages), caught.value.message


def test_what_systems_leave_behind_is_no_sample(tmp_path: Path) -> None:
    write(tmp_path, "a/0.png", "b/0.png", "b/1.png")
    write(tmp_path, "a/.ipynb_checkpoints/0.png", "a/._0.png", "a/Thumbs.db", "b/.DS_Store", ".git/x/0.png")
    write(tmp_path, "__MACOSX/a/._0.png", "a/@eaDir/0.png", "a/notes/readme.txt")
    data = load(tmp_path)
    assert (data.num_classes, data.fit.labels.tolist()) == (2, [0, 1, 1])
    assert np.allclose(pixels(data)[:, 0, 0, 0] * 255, [0, 10, 20], atol=1e-3)


def test_linked_folders_and_images_are_read(tmp_path: Path) -> None:
    write(tmp_path, "store/x/0.png", "store/x/1.png", "data/b/0.png")
    (tmp_path / "data/a").symlink_to(tmp_path / "store/x")
    (tmp_path / "data/b/1.png").symlink_to(tmp_path / "store/x/1.png")
    assert load(tmp_path / "data").fit.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("name", ["tiny-imagenet", "tiny-imagenet-200", "Tiny_ImageNet_200"])
@pytest.mark.parametrize("place", ["tiny-imagenet-200", "tiny-imagenet", "."])
def test_tiny_imagenet_is_known_by_the_name_of_its_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str
) -> None:
    root = tmp_path / place
    write(root, "train/n01/images/0.png", "train/n01/n01_boxes.txt", "val/images/0.png", "test/images/0.png")
    (root / "val/val_annotations.txt").write_text("0.png\tn01\t0\n")
    monkeypatch.chdir(tmp_path)
    given = [load(name, data_path=tmp_path)] + ([load(name)] if place != "." else [])
    for data in given:
        assert (len(data.fit), len(data.test), data.remembered.dataset) == (1, 1, "tiny-imagenet")


def test_grey_images_in_one_channel_are_each_of_the_equal_three(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / name).mkdir()
    values = draw.integers(0, 256, (9, 9), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "a/grey.png")
    Image.fromarray(np.stack([values] * 3, axis=-1)).save(tmp_path / "a/stored in three.png")
    Image.fromarray(np.stack([values, 255 - values], axis=-1)).save(tmp_path / "a/with alpha.png")
    Image.fromarray(values > 99).save(tmp_path / "b/black and white.png")
    Image.fromarray(values).convert("P").save(tmp_path / "b/palette.png")
    Image.fromarray(draw.integers(0, 65536, (9, 9), dtype=np.uint16)).save(tmp_path / "b/deep.png")
    words: dict[str, Any] = {"use_test": False, "val_size": 1, "transform": "none"}
    three, one = load(tmp_path, **words), load(tmp_path, data_arg=("channels=1",), **words)
    assert (three.input_shape, one.input_shape) == ((3, 4, 4), (1, 4, 4))
    wide = torch.cat([batch.images for batch in three.split("all-train").batches(1)])
    narrow = torch.cat([batch.images for batch in one.split("all-train").batches(1)])
    assert torch.equal(narrow.expand(-1, 3, -1, -1), wide)
    assert load(tmp_path, data_arg=("channels=1",)).fit.transform.name == "none"
    assert (load(tmp_path).fit.transform.name, load(tmp_path).input_shape) == ("imagenet", (3, 4, 4))


def test_colours_are_no_one_channel(tmp_path: Path) -> None:
    write(tmp_path, "a/0.png", "b/0.png")
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(tmp_path / "b/1.png")
    data = load(tmp_path, data_arg=("channels=1",))
    with pytest.raises(
        InputError, match=r"1 of 3 images cannot be read in one channel: .*b/1.png' .in colour"
    ) as caught:
        list(data.fit.batches(8))
    assert "convert('L')" in caught.value.hint
    for word in ("channels=2", "channel=1"):
        with pytest.raises(SettingsError, match="channel"):
            load(tmp_path, data_arg=(word,))


DEEP = np.arange(0, 65536, 4112, dtype=np.uint16).reshape(4, 4)


def pgm(path: Path, values: np.ndarray, largest: int) -> None:
    path.write_bytes(f"P5 4 4 {largest}\n".encode() + values.astype(">u2").tobytes())


def tiff(path: Path, values: np.ndarray, **tags: Any) -> None:
    Image.fromarray(values).save(path, tiffinfo=tags.get("tags", {}))


def rgb48(path: Path, values: np.ndarray) -> None:
    """A PNG of 16 bits per channel, which Pillow cannot write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + np.repeat(row, 3).astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


GREY = (DEEP // 257).astype(np.uint8)
WRITERS: dict[str, tuple[str, Callable[[Path], object], np.ndarray]] = {
    "16 bits": ("x.png", lambda p: Image.fromarray(DEEP).save(p), DEEP / 65535),
    "16 bits in TIFF": ("x.tif", lambda p: tiff(p, DEEP), DEEP / 65535),
    "16 bits, big end first": ("x.tif", lambda p: tiff(p, DEEP.astype(">u2")), DEEP / 65535),
    "16 bits in PGM": ("x.pgm", lambda p: pgm(p, DEEP, 65535), DEEP / 65535),
    "12 bits in PGM": ("x.pgm", lambda p: pgm(p, DEEP // 16, 4095), (DEEP // 16) / 4095),
    "floats": ("x.tif", lambda p: tiff(p, (DEEP / 65535).astype(np.float32)), DEEP / 65535),
    "1 bit": ("x.png", lambda p: Image.fromarray(DEEP > 30000).save(p), DEEP > 30000),
    "a palette": ("x.png", lambda p: Image.fromarray(GREY).convert("P").save(p), GREY / 255),
    "alpha": ("x.png", lambda p: Image.fromarray(GREY).convert("RGBA").save(p), GREY / 255),
    "grey and alpha": ("x.png", lambda p: Image.fromarray(GREY).convert("LA").save(p), GREY / 255),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRITERS)
def test_white_is_one_and_black_is_zero_at_every_depth(tmp_path: Path, kind: str) -> None:
    name, save, expected = WRITERS[kind]
    write(tmp_path, "a/0.png", "b/0.png")
    save(tmp_path / "b" / name)
    found = pixels(load(tmp_path, transform="resnet"))
    assert np.allclose(found[2], expected[None], atol=2e-5 if "12" in kind else 1e-6)
    assert np.allclose(found[1] * 255, 10, atol=1e-4)  # beside eight bits in one batch


@pytest.mark.parametrize(
    ("name", "save", "reason"),
    [
        ("x.tif", lambda p: tiff(p, DEEP.astype(np.int32)), "none is known to be white"),
        ("x.tif", lambda p: tiff(p, DEEP.astype(np.float32)), "not all between 0 and 1"),
        ("x.tif", lambda p: tiff(p, np.full((4, 4), np.nan, np.float32)), "not all between 0 and 1"),
        ("x.tif", lambda p: tiff(p, DEEP, tags={262: 0}), "zero is white"),
        ("x.png", lambda p: rgb48(p, DEEP), "more than 8 bits per channel in colour"),
    ],
)
def test_images_whose_white_is_not_known_are_refused(
    tmp_path: Path, name: str, save: Callable[[Path], object], reason: str
) -> None:
    write(tmp_path, "a/0.png", "b/0.png")
    save(tmp_path / "b" / name)
    with pytest.raises(InputError) as caught:
        pixels(load(tmp_path))
    assert f"1 of 3 images cannot be read: '{tmp_path / 'b' / name}' (" in caught.value.message
    assert reason in caught.value.message
    assert "npz" in caught.value.hint


def test_values_do_not_depend_on_what_else_is_in_the_batch(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / label).mkdir()
        Image.fromarray(rng.integers(0, 256, (9, 7, 3)).astype(np.uint8)).save(tmp_path / label / "0.png")
        Image.fromarray(rng.integers(0, 65536, (9, 7)).astype(np.uint16)).save(tmp_path / label / "1.png")
    for transform in ("imagenet", "cifar100"):
        data = load(tmp_path, transform=transform, image_size=8)
        alone, together = (
            torch.cat([batch.images for batch in data.fit.batches(size, augment=(1, 2))]) for size in (1, 4)
        )
        assert torch.equal(alone, together)


def test_images_keep_the_size_that_all_of_them_have(tmp_path: Path) -> None:
    for number in range(4):
        path = tmp_path / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((5, 7), number, np.uint8)).save(path)
    data = load(tmp_path, image_size=None)
    assert data.input_shape == (3, 5, 7)
    assert [tuple(batch.images.shape) for batch in data.fit.batches(4)] == [(4, 3, 5, 7)]
    assert data.remarks == (f"images of '{tmp_path.name}' keep the 7 x 5 pixels of their files",)
    assert load(tmp_path, image_size=6).input_shape == (3, 6, 6)

    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "b" / "9.png")
    data = load(tmp_path, image_size=None)
    assert data.input_shape == (3, 224, 224)
    assert "differ in size and become 224 x 224 (--image-size N" in data.remarks[0]


def test_a_later_image_of_another_size_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a/0.png", "a/1.png", "b/0.png")
    Image.fromarray(np.zeros((9, 3), np.uint8)).save(tmp_path / "a" / "1.png")
    monkeypatch.setattr("modeconn_cli.engine.datasets.images.LOOKED_AT", 1)
    with pytest.raises(InputError) as caught:
        pixels(load(tmp_path, image_size=None))
    assert caught.value.message.endswith("1.png' (of another size: 3 x 9, others 4 x 4)")
    assert "--image-size N" in caught.value.hint


def test_without_test_images_some_of_every_class_are_held_out(tmp_path: Path) -> None:
    write(tmp_path, *(f"{label}/{number}.png" for label in "abcd" for number in range(20)))
    settings = DataSettings(dataset=str(tmp_path), workers=0)
    data = datasets.load(settings, torch.device("cpu"))
    assert not data.use_test
    assert data.remarks[1] == f"'{tmp_path.name}' has no test images: 8 of its 80 images are held out for it"
    assert data.held_out.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert not set(data.held_out.ids.tolist()) & set(data.fit.ids.tolist())
    for words in ({"val_size": 8}, {"use_test": False}):
        again = datasets.load(DataSettings(dataset=str(tmp_path), workers=0, **words), torch.device("cpu"))
        assert torch.equal(again.held_out.ids, data.held_out.ids)
    with pytest.raises(SettingsError, match="has no test images"):
        datasets.load(
            DataSettings(dataset=str(tmp_path), explicit=frozenset({"use_test"})), torch.device("cpu")
        )


def test_arrays_that_lie_class_by_class_in_any_order_are_cut_across_all_classes(tmp_path: Path) -> None:
    labels = np.repeat([2, 0, 1], 10)
    images = np.zeros((30, 4, 4), np.uint8)
    held = {}
    for name, order in (("blocks", np.arange(30)), ("mixed", np.random.default_rng(0).permutation(30))):
        np.savez(tmp_path / f"{name}.npz", images=images, labels=labels[order])
        settings = DataSettings(dataset=str(tmp_path / f"{name}.npz"), val_size=6)
        held[name] = datasets.load(settings, torch.device("cpu"), held_out=False).val
    assert held["blocks"].labels.tolist() == [2, 2, 0, 0, 1, 1]
    assert held["mixed"].ids.tolist() == [24, 25, 26, 27, 28, 29]
