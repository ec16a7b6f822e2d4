"""Data sets: lengths, ids, normalisation, keyed augmentation."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from modeconn_cli.engine import datasets
from modeconn_cli.engine.datasets.remembered import of_same_data
from modeconn_cli.engine.datasets.samples import Samples, spans
from modeconn_cli.engine.datasets.transforms import TRANSFORMS, Transform
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.settings.shared import DataSettings

CPU = torch.device("cpu")


def load(**words: object) -> datasets.Data:
    return datasets.load(DataSettings(**words), CPU)  # type: ignore[arg-type]


def test_the_digits_are_1797_images_with_ids_of_their_source_file() -> None:
    data = load(dataset="digits")
    assert (len(data.fit), len(data.val), len(data.test)) == (1437, 0, 360)
    assert data.input_shape == (1, 8, 8)
    ids = torch.cat([data.fit.ids, data.test.ids])
    assert torch.equal(ids.sort().values, torch.arange(1797))
    # The first image of the source file is a zero, the second a one, and so on.
    labels = torch.cat([data.fit.labels, data.test.labels])[ids.argsort()]
    assert labels[:10].tolist() == list(range(10))


def test_validation_images_are_the_last_of_the_training_file() -> None:
    whole, cut = load(dataset="digits"), load(dataset="digits", val_size=100, use_test=False)
    assert torch.equal(torch.cat([cut.fit.ids, cut.val.ids]), whole.fit.ids)
    assert len(cut.val) == len(cut.held_out) == 100


def test_a_subset_is_drawn_by_seed_and_keeps_its_ids() -> None:
    a, b = load(dataset="digits", max_samples=50), load(dataset="digits", max_samples=50)
    whole = load(dataset="digits")
    assert torch.equal(a.fit.ids, b.fit.ids)
    assert len(a.fit) == len(a.test) == 50
    rows = torch.searchsorted(whole.fit.ids, a.fit.ids)
    assert torch.equal(whole.fit.images[rows], a.fit.images)


def test_normalisation_is_value_minus_mean_over_standard_deviation() -> None:
    images = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    transform = TRANSFORMS["resnet"]
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (transform.mean, transform.std))
    expected = (images.double() / 255 - mean) / std
    assert torch.allclose(transform.normalise(images).double(), expected, atol=1e-6)
    assert torch.equal(TRANSFORMS["none"].normalise(images), images.float() / 255)
    floats = torch.randn(2, 3, 4, 4)
    assert torch.equal(TRANSFORMS["none"].normalise(floats), floats)


def test_statistics_of_another_number_of_channels_are_refused() -> None:
    with pytest.raises(SettingsError, match="3 channels"):
        load(dataset="digits", transform="vgg")


@given(st.integers(1, 40), st.integers(0, 3), st.sampled_from(["vgg", "cifar100"]))
def test_augmentation_does_not_depend_on_the_batch(size: int, epoch: int, name: str) -> None:
    images = torch.randint(
        0, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    ids = torch.arange(100, 140)
    samples = Samples(images, torch.zeros(40, dtype=torch.int64), ids, TRANSFORMS[name])

    def whole(batch_size: int) -> Tensor:
        return torch.cat([b.images for b in samples.batches(batch_size, augment=(7, epoch))])

    assert torch.equal(whole(size), whole(40))


def test_a_crop_is_a_window_of_the_padded_image() -> None:
    images = torch.randint(1, 256, (64, 1, 6, 6), dtype=torch.uint8)
    crop = Transform("crop", crop_padding=2)
    found = crop.augment(images, torch.arange(64), 0, 0)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    windows = [padded[:, :, i : i + 6, j : j + 6] for i in range(5) for j in range(5)]
    matches = torch.stack([(found == window).flatten(1).all(1) for window in windows])
    assert matches.any(0).all()
    assert matches.float().argmax(0).unique().numel() > 15


def test_a_flip_mirrors_about_half_of_the_images() -> None:
    images = torch.arange(4, dtype=torch.uint8).expand(200, 1, 2, 4).contiguous()
    found = Transform("flip", flip=True).augment(images, torch.arange(200), 0, 0)
    mirrored = (found == images.flip(3)).flatten(1).all(1)
    assert (mirrored | (found == images).flatten(1).all(1)).all()
    assert 60 < int(mirrored.sum()) < 140


def test_rotation_stays_within_its_angle_and_keeps_the_centre() -> None:
    images = torch.zeros(50, 1, 9, 9, dtype=torch.uint8)
    images[:, :, 4, 4] = 200
    found = Transform("turn", rotation=15.0).augment(images, torch.arange(50), 0, 0)
    assert (found[:, :, 4, 4] == 200).all()


@pytest.mark.parametrize("whole", [True, False])
def test_what_rotation_uncovers_is_zero_once_normalised(whole: bool) -> None:
    turn = Transform("turn", (0.5, 0.2, 0.7), (0.2, 0.3, 0.1), rotation=15.0)
    images = torch.full((20, 3, 9, 9), 250, dtype=torch.uint8) if whole else torch.ones(20, 3, 9, 9)
    corners = turn.normalise(turn.augment(images, torch.arange(20), 0, 0))[:, :, 0, 0]
    uncovered = (corners.abs() < 0.02).all(1)
    inside = turn.normalise(images)[0, :, 0, 0]
    assert uncovered.any()
    assert torch.allclose(corners[~uncovered], inside.expand_as(corners[~uncovered]), atol=1e-5)


@given(st.integers(0, 50), st.integers(1, 60))
def test_spans_cover_everything_once_and_never_leave_a_single_sample(count: int, size: int) -> None:
    plain, merged = spans(count, size), spans(count, size, merge_single=True)
    for found in (plain, merged):
        assert [i for begin, end in found for i in range(begin, end)] == list(range(count))
    if size > 1 and count > 1:
        assert all(end - begin > 1 for begin, end in merged)


def write(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_an_npz_is_read_in_either_axis_order_and_sorted_by_id(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
    split = np.array(["train", "test"] * 3)
    ids = np.array([9, 8, 3, 2, 1, 0])
    path = write(tmp_path / "d.npz", images=images, labels=np.arange(6) % 3, sample_ids=ids, split=split)
    data = load(dataset=str(path))
    assert data.fit.ids.tolist() == [1, 3, 9]
    assert data.input_shape == (3, 5, 5)
    assert np.array_equal(data.fit.images[2].numpy(), np.moveaxis(images[0], 2, 0))
    assert data.num_classes == 3


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": np.zeros(2, int)}, "has no array 'images'"),
        ({"images": np.zeros((2, 1, 4, 4), np.uint8), "labels": np.zeros(3, int)}, "differ in length"),
        ({"images": np.zeros((2, 1, 4, 4), np.uint8), "labels": np.full(2, 0.7)}, "whole numbers"),
        ({"images": np.zeros((2, 1, 4, 4)) * np.nan, "labels": np.zeros(2, int)}, "NaN"),
        (
            {
                "images": np.zeros((2, 1, 4, 4), np.uint8),
                "labels": np.zeros(2, int),
                "sample_ids": np.zeros(2, int),
            },
            "1 duplicate sample ids: the first is 0",
        ),
        ({"images": np.zeros((2, 1, 4, 4), np.uint8), "labels": np.array([0, -1])}, "negative labels"),
    ],
)
def test_a_bad_npz_is_named(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    path = write(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=message):
        load(dataset=str(path), val_size=1, use_test=False)


def test_a_truncated_npz_is_an_input_error(tmp_path: Path) -> None:
    path = write(tmp_path / "d.npz", images=np.zeros((2, 1, 4, 4), np.uint8), labels=np.zeros(2, int))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"not a readable \.npz"):
        load(dataset=str(path))


def test_images_are_resized_in_their_own_type() -> None:
    data = load(dataset="digits", image_size=32)
    assert data.input_shape == (1, 32, 32)
    assert data.fit.images.dtype == torch.uint8


def test_the_synthetic_set_is_seeded_and_of_any_size() -> None:
    words = ("train=30", "test=10", "size=8", "channels=1", "classes=4")
    a, b = (load(dataset="synthetic", data_arg=words) for _ in range(2))
    other = load(dataset="synthetic", data_arg=(*words, "seed=1"))
    assert torch.equal(a.fit.images, b.fit.images)
    assert not torch.equal(a.fit.images, other.fit.images)
    assert (len(a.fit), len(a.test), a.input_shape, a.num_classes) == (30, 10, (1, 8, 8), 4)


def test_the_spelling_of_a_name_does_not_change_what_is_remembered() -> None:
    remembered = datasets.Remembered(dataset="synthetic", val_size=20, transform="none", max_samples=5)
    found = of_same_data(DataSettings(dataset="Synthetic"), remembered)
    assert (found["val_size"], found["transform"], found["max_samples"]) == (20, "none", 5)
    assert not of_same_data(DataSettings(dataset="digits"), remembered)
    assert load(dataset="Digits").remembered.dataset == "digits"


def test_large_resizes_are_those_of_one_piece() -> None:
    whole = load(dataset="digits", image_size=12).fit.images
    assert isinstance(whole, Tensor)
    plain = load(dataset="digits").fit.images
    assert isinstance(plain, Tensor)
    alone = torch.nn.functional.interpolate(
        plain[700:701].float(), (12, 12), mode="bilinear", antialias=True, align_corners=False
    )
    assert torch.equal(whole[700:701], alone.round().clamp(0, 255).to(torch.uint8))


@pytest.mark.parametrize("place", [60, 200, -150, -30])
def test_a_damaged_archive_is_refused_whatever_its_damage_breaks(tmp_path: Path, place: int) -> None:
    path = tmp_path / "data.npz"
    images = np.random.default_rng(0).integers(0, 255, (40, 1, 4, 4), dtype=np.uint8)
    np.savez_compressed(path, images=images, labels=np.arange(40) % 4)
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)
    with contextlib.suppress(InputError):  # a byte that nothing reads may change
        assert len(load(dataset=str(path)).fit) == 40
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"is not a readable \.npz file"):
        load(dataset=str(path))
