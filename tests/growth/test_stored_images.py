"""Images of an .npz file are chosen before they are read: counted in bytes and in memory, never timed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch

from modeconn_cli.engine import datasets
from modeconn_cli.engine.datasets import npz, stored
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import arrays
from modeconn_cli.engine.settings.shared import DataSettings

RNG = np.random.default_rng(0)
COUNT = 700
BYTES = RNG.integers(0, 256, (COUNT, 3, 20, 20)).astype(np.uint8)
LABELS = RNG.integers(0, 4, COUNT)
IDS = RNG.permutation(5000)[:COUNT]
SPLIT = np.where(RNG.random(COUNT) < 0.7, "train", "test")
CPU = torch.device("cpu")
MIB = 1 << 20


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces that no number of images divides."""
    monkeypatch.setattr(arrays, "PIECE", 40_000)


def load(path: Path, *, seen: bool = True, **words: Any) -> datasets.Data:
    settings = DataSettings(dataset=str(path), **words)
    return datasets.load(settings, CPU, held_out=False, seen=seen)


TYPES: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
    "bytes": lambda: (BYTES, BYTES),
    "booleans": lambda: (BYTES > 90, np.uint8(255) * (BYTES > 90)),
    "16 bits": lambda: (BYTES.astype(">u2") * 257, BYTES.astype(np.float32) * 257 / np.float32(65535)),
    "floats": lambda: (BYTES / 255.0, (BYTES / 255.0).astype(np.float32)),
}
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "channels first": np.asarray,
    "channels last": lambda images: np.ascontiguousarray(np.moveaxis(images, 1, 3)),
    "columns first": np.asfortranarray,
    "grey": lambda images: images[:, 0].copy(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", TYPES)
def test_what_is_used_is_what_the_whole_file_has_at_these_rows(
    tmp_path: Path, kind: str, layout: str
) -> None:
    given, kept = TYPES[kind]()
    save = np.savez_compressed if layout == "grey" else np.savez
    save(tmp_path / "d.npz", images=LAYOUTS[layout](given), labels=LABELS, sample_ids=IDS, split=SPLIT)
    data = load(tmp_path / "d.npz", val_per_class=7, max_samples=40)
    of_id = dict(zip(IDS.tolist(), kept[:, :1] if layout == "grey" else kept, strict=True))
    label_of = dict(zip(IDS.tolist(), LABELS.tolist(), strict=True))
    everything = data.split("all-train")
    assert sorted([*data.fit.ids.tolist(), *data.val.ids.tolist()]) == everything.ids.tolist()
    for samples in (data.fit, data.val, data.test, everything):
        ids = samples.ids.tolist()
        assert ids == sorted(ids)
        assert samples.labels.tolist() == [label_of[i] for i in ids]
        assert isinstance(samples.images, torch.Tensor)
        assert np.array_equal(samples.images.numpy(), np.stack([of_id[i] for i in ids]))
    assert {SPLIT[list(IDS).index(i)] for i in data.test.ids.tolist()} == {"test"}


def test_images_that_are_resized_as_they_are_read_are_those_of_one_piece(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=LAYOUTS["channels last"](BYTES), labels=LABELS)
    found = load(tmp_path / "d.npz", use_test=False, val_size=0, image_size=9).fit.images
    assert isinstance(found, torch.Tensor)
    assert torch.equal(found, datasets.transforms.resized(torch.from_numpy(BYTES), 9))


def test_a_fingerprint_is_that_of_all_bytes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modeconn_cli.engine.datasets.samples.HASHED", 5000)
    np.savez(tmp_path / "d.npz", images=BYTES, labels=LABELS)
    fit = load(tmp_path / "d.npz", use_test=False, val_size=0).fit
    whole = hashlib.sha256(repr(fit.transform).encode() + fit.ids.numpy().tobytes() + BYTES.tobytes())
    assert fit.fingerprint == whole.hexdigest()


@contextlib.contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The bytes that are read of archives, a number per read."""
    read: list[int] = []

    class Counting:
        def __init__(self, stream: IO[bytes]) -> None:
            self._stream = stream

        def __enter__(self) -> Counting:
            return self

        def __exit__(self, *_: object) -> None:
            self._stream.close()

        def read(self, size: int = -1) -> bytes:
            data = self._stream.read(size)
            read.append(len(data))
            return data

        def __getattr__(self, name: str) -> Any:
            return getattr(self._stream, name)

    with monkeypatch.context() as patch:
        patch.setattr(arrays, "opened", lambda path, real=arrays.opened: Counting(real(path)))
        yield read


FIXED = 64 << 10  # bytes of directories, headers and labels


@pytest.mark.parametrize("words", [{}, {"max_samples": 10}, {"val_per_class": 2}])
def test_images_are_gone_through_once_and_a_plan_reads_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: dict[str, Any]
) -> None:
    for size in (COUNT, 2 * COUNT, 4 * COUNT):
        images, split = np.resize(BYTES, (size, *BYTES.shape[1:])), np.resize(SPLIT, size)
        np.savez(tmp_path / "d.npz", images=images, labels=np.resize(LABELS, size), split=split)
        rest = images.nbytes + size * (8 + split.itemsize)
        with counted(monkeypatch) as read:
            load(tmp_path / "d.npz", **words)
        assert rest <= sum(read) <= rest + FIXED
        with counted(monkeypatch) as read:
            data = load(tmp_path / "d.npz", seen=False, **words)
        assert sum(read) <= rest - images.nbytes + FIXED
        assert data.identity() == {}


@pytest.mark.parametrize("row", [0, COUNT // 2, COUNT - 1])
@pytest.mark.parametrize("words", [{}, {"max_samples": 10}])
def test_damage_of_any_image_is_seen_whether_it_is_used_or_not(
    tmp_path: Path, row: int, words: dict[str, Any]
) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, images=BYTES, labels=LABELS)
    content = bytearray(path.read_bytes())
    content[content.index(BYTES[row].tobytes()) + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="it is damaged: its checksum is another one"):
        load(path, use_test=False, **words)


@pytest.mark.parametrize("place", ["train", "test"])
def test_a_value_that_is_no_number_is_refused_whether_it_is_used_or_not(tmp_path: Path, place: str) -> None:
    images = BYTES / 255.0
    images[np.flatnonzero(place == SPLIT)[-1], 0, 0, 0] = np.nan
    np.savez(tmp_path / "d.npz", images=images, labels=LABELS, split=SPLIT)
    with pytest.raises(InputError, match=rf"\({place}\): images hold NaN or infinity"):
        load(tmp_path / "d.npz", max_samples=1)


def test_dark_images_of_16_bits_are_told_with_how_bright_they_get(tmp_path: Path) -> None:
    images = BYTES.astype(np.uint16)
    images[0, 0, 0, 0] = 4000
    np.savez(tmp_path / "d.npz", x_train=images, y_train=LABELS, x_test=images[1:], y_test=LABELS[1:])
    train, test = load(tmp_path / "d.npz", max_samples=10).doubts
    assert "(train): images of 16 bits reach 4000 of 65535" in train
    assert "(test): images of 16 bits reach 255 of 65535" in test


def test_a_file_that_is_exchanged_between_its_labels_and_its_images_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, images=BYTES, labels=LABELS)
    source = npz.read(path)
    np.savez(path, images=BYTES, labels=LABELS[::-1])
    assert isinstance(source.train.images, stored.Stored)
    with pytest.raises(InputError, match="has changed while it was read"):
        stored.read([source.train.images])


def test_images_that_stand_in_take_the_memory_of_one_and_differ() -> None:
    for dtype in (torch.uint8, torch.float32):
        images = stored.stand_in((1 << 20, 3, 32, 32), dtype, CPU)
        assert (images.shape, images.dtype) == ((1 << 20, 3, 32, 32), dtype)
        assert images.untyped_storage().nbytes() <= 4 * ((1 << 20) + 3 * 32 * 32)
        assert not torch.equal(images[-1], images[-2])


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--model", "mlp", "--epochs", "1"),
        ("lmc", "run", "--model", "mlp", "--k1", "0", "--k2", "1"),
        ("csl", "score", "--checkpoint"),
        ("curvature", "--checkpoint"),
        ("dormant", "--checkpoint"),
        ("curve", "train", "--endpoint0", "--endpoint1"),
        ("curve", "eval", "--endpoint0", "--endpoint1"),
        ("swap", "--verify", "--random", "--checkpoint"),
    ],
    ids=" ".join,
)
def test_a_dry_run_says_its_plan_of_a_file_whose_pixels_are_damaged_and_the_run_refuses_it(
    mcx: Callable, networks: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """What cannot be told from a file that is whole has not been read."""
    path = tmp_path / "d.npz"
    images = RNG.integers(0, 256, (COUNT, 1, 8, 8)).astype(np.uint8)
    np.savez(path, images=images, labels=RNG.integers(0, 10, COUNT), split=SPLIT)
    with zipfile.ZipFile(path) as archive:
        begin = archive.getinfo("images.npy").header_offset
    content = bytearray(path.read_bytes())
    content[begin + 20_000] ^= 1
    path.write_bytes(content)
    given: list[Any] = []
    for word in words:
        given += [word]
        if word in ("--checkpoint", "--endpoint0"):
            given.append(networks / "seed0/checkpoint-4.pt")
        if word == "--endpoint1":
            given.append(networks / "seed1/checkpoint-4.pt")
    place = "--output" if words[0] == "swap" else "--output-dir"
    given += ["--dataset", path, "--batch-size", "64", place, tmp_path / "out/x.pt"]
    planned = mcx(*given, "--dry-run")
    assert planned.code == 0, planned.err
    assert not (tmp_path / "out").exists()
    refused = mcx(*given)
    assert (refused.code, refused.out) == (3, "")
    assert "it is damaged: its checksum is another one" in refused.err


PEAK = """
import json, re, sys, torch
from pathlib import Path
from modeconn_cli.engine import datasets
from modeconn_cli.engine.settings.shared import DataSettings

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10

def used(path, words, seen):
    data = datasets.load(DataSettings(dataset=path, use_test=False, **words), torch.device("cpu"), seen=seen)
    data.identity()
    return sum(samples.images.nbytes for samples in (data.fit, data.val, data.test))

small, large, cases = json.loads(sys.argv[1])
used(small, {}, True)
before = peak()
print(json.dumps([[used(large, words, seen), peak() - before] for words, seen in cases]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")
def test_memory_is_that_of_what_is_used(tmp_path: Path) -> None:
    """48 MiB of images; whatever is copied twice shows. The labels, ids and rows of 16,384 samples are below 1 MiB.

    A peak is that of all cases so far, so that they come in the order of what they use.
    """
    paths = [str(tmp_path / f"{count}.npz") for count in (500, 1 << 14)]
    for path, count in zip(paths, (500, 1 << 14), strict=True):
        images = RNG.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        np.savez(path, images=images, labels=np.arange(count) * 7919 % 5)
    cases = [({}, False), ({"max_samples": 1000}, True), ({}, True), ({"val_per_class": 50}, True)]
    asked = [sys.executable, "-c", PEAK, json.dumps([*paths, cases])]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [used for used, _ in found[1:]] == [
        2 * 1000 * 32 * 32 * 3,  # of those that are trained on and of those that are held out
        (1 << 14) * 32 * 32 * 3,
        (1 << 14) * 32 * 32 * 3,
    ]
    for (used, grown), (_, seen) in zip(found, cases, strict=True):
        assert grown <= (1.2 * used if seen else 0) + 8 * MIB
