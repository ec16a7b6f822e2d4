"""Losses of samples, and the arrays that hold them: whatever the batches, and whatever an array claims to be."""

from __future__ import annotations

import importlib
import pickle
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from faults.commands import OWN
from modeconn_cli.engine import datasets
from modeconn_cli.engine.settings.shared import DataSettings

LAST = "runs/seed0/checkpoint-2.pt"
KINDS = ("loss", "loss_ce", "loss_grad")


def scores(folder: str, kinds: Sequence[str] = KINDS) -> dict[str, np.ndarray]:
    return {kind: np.load(f"{folder}/{kind}_data_run1_epoch_2_noise_0.npy") for kind in kinds}


def test_g11_any_batch_size_gives_the_same_losses_in_the_same_order(mcx: Callable, here: Path) -> None:
    expected, ids = scores("losses"), Path("losses/sample_ids.npy").read_bytes()
    for size in ("1", "7", "64"):
        done = mcx("csl", "score", LAST, *OWN, "--batch-size", size, "--output-dir", size)
        assert done.code == 0, done.err
        assert Path(size, "sample_ids.npy").read_bytes() == ids
        for kind, values in scores(size).items():
            np.testing.assert_allclose(values, expected[kind], rtol=1e-5, atol=1e-6)
    assert len(np.unique(expected["loss"])) > 50, "values in another order would be seen"


def test_g12_losses_are_those_of_a_plain_loop_and_the_checkpoint_is_left_as_it_was(
    mcx: Callable, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Path(LAST).read_bytes()
    done = mcx("csl", "score", LAST, *OWN, "--weight-decay", "0", "--output-dir", "out")
    assert (done.code, Path(LAST).read_bytes()) == (0, before), done.err
    monkeypatch.syspath_prepend(here)
    model = importlib.import_module("mixnet").net().double().eval()
    model.load_state_dict(torch.load(LAST, weights_only=True)["model_state"])
    data = datasets.load(DataSettings(dataset="data.npz"), torch.device("cpu")).split("all-train")
    losses, norms = [], []
    for batch in data.batches(1):
        model.zero_grad()
        loss = F.cross_entropy(model(batch.images.double()), batch.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.item())
        norms.append(sum(float((p.grad**2).sum()) for p in model.parameters() if p.grad is not None) ** 0.5)
    found = scores("out", ("loss", "loss_grad"))
    np.testing.assert_allclose(found["loss"], losses, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["loss_grad"], norms, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_g6_a_loss_that_is_no_number_is_kept_and_counted(
    mcx: Callable, here: Path, undrawn: None, value: float
) -> None:
    shutil.rmtree("losses/.mcx")
    path = Path("losses/loss_data_run1_epoch_1_noise_0.npy")
    losses = np.load(path)
    losses[[7, 9]] = value
    np.save(path, losses)
    done = mcx("csl", "aggregate", "--input-dir", "losses", "--output-dir", "out")
    assert done.code == 0, done.err
    assert "2 samples have a NaN or an infinity among their losses" in done.err
    found, whole = (np.load(f"{folder}/csl_data_run1_noise_0.npy") for folder in ("out", "csl"))
    assert np.flatnonzero(~np.isfinite(found)).tolist() == [7, 9]
    assert np.array_equal(np.delete(found, [7, 9]), np.delete(whole, [7, 9]))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.r_[5, np.arange(1, 60)], "1 duplicate sample ids: the first is 5"),
        (np.arange(60) - 3, "negative sample ids: the first is -3"),
        (np.arange(60, dtype=np.uint64) + np.uint64(2**63), "sample ids that are not whole numbers"),
        (np.arange(60) + 0.5, "sample ids that are not whole numbers"),
        (np.random.default_rng(0).permutation(60), ""),
    ],
    ids=["repeated", "negative", "too large", "fractions", "shuffled"],
)
def test_g3_ids_of_data_are_each_there_once_and_their_losses_in_their_order(
    mcx: Callable, here: Path, ids: np.ndarray, message: str
) -> None:
    with np.load("data.npz") as file:
        images, labels = file["x_train"], file["y_train"]
    split = np.full(60, "train")
    split[ids % 10 == 9] = "test"
    np.savez("data.npz", images=images, labels=labels, sample_ids=ids, split=split)
    done = mcx("csl", "score", LAST, *OWN, "--output-dir", "out")
    if message:
        assert (done.code, done.out, message in done.err) == (3, "", True), done.err
        assert not Path("out").exists()
        return
    assert done.code == 0, done.err
    stored = np.load("out/sample_ids.npy")
    assert stored.tolist() == [k for k in range(60) if k % 10 != 9]
    place = {int(sample): row for row, sample in enumerate(ids)}
    rows = [place[sample] for sample in stored.tolist()]
    np.testing.assert_allclose(scores("out")["loss_ce"], scores("losses")["loss_ce"][rows], rtol=1e-5)


# Arrays that are none ---------------------------------------------------------------------------------------

BEGIN = b"\x93NUMPY\x01\x00"


def header(text: str) -> bytes:
    return BEGIN + (118).to_bytes(2, "little") + text.ljust(117).encode() + b"\n"


def claims(shape: str) -> str:
    return f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"


CODE = "(open('ran', 'w').close() or 60,)"
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "half a header": lambda data: data[:20],
    "cut off": lambda data: data[:-10],
    "bytes too many": lambda data: data + b"xx",
    "a pickle": lambda data: pickle.dumps([1]),
    "text": lambda data: b"not an array",
    "a header of 2 GB": lambda data: BEGIN[:6] + b"\x02\x00" + (1 << 31).to_bytes(4, "little") + b"{",
    "10¹² values": lambda data: header(claims("(1000000000000,)")) + data[128:],
    "more values than a number holds": lambda data: header(claims("(99999999999, 99999999999)")) + data[128:],
    "fewer than none": lambda data: header(claims("(-60,)")) + data[128:],
    "code": lambda data: header(claims(CODE)) + data[128:],
    "not closed": lambda data: header(claims("(60,)")[:-4]) + data[128:],
    "version 9": lambda data: data[:6] + b"\x09\x00" + data[8:],
}

# Who reads arrays: the file, and the command.
AGGREGATE = ("csl", "aggregate", "--input-dir", "losses")
READERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "losses": ("losses/loss_data_run1_epoch_1_noise_0.npy", AGGREGATE),
    "norms": ("losses/loss_grad_data_run1_epoch_1_noise_0.npy", AGGREGATE),
    "ids": ("losses/sample_ids.npy", AGGREGATE),
    "csl": ("csl/csl_data_run1_noise_0.npy", ("correlate", "--csl", "csl")),
    "lt": ("csl/lt_data_run1_noise_0.npy", ("correlate", "--csl", "csl")),
    "ids of csl": ("csl/sample_ids.npy", ("correlate", "--csl", "csl")),
    "further": ("memo.npy", ("correlate", "--csl", "csl", "--with", "memo.npy", "--assume-index")),
    "order": (
        "order.npy",
        ("train", "--model", "mixnet:net", "--dataset", "data.npz", "--epochs", "1", "--classes-per-task", "1",
         "--class-order", "order.npy"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "reader",
    [each if each == "losses" else pytest.param(each, marks=pytest.mark.slow) for each in READERS],
)
def test_g5_an_array_that_is_none_is_named_by_who_reads_it(
    mcx: Callable, here: Path, undrawn: None, reader: str
) -> None:
    name, words = READERS[reader]
    for folder in ("losses", "csl"):
        shutil.rmtree(f"{folder}/.mcx")  # as those of a stranger, for whom no manifest speaks
    np.save("memo.npy", np.zeros(60, np.float32))
    path = Path(name)
    whole = path.read_bytes()
    for how, change in DAMAGE.items():
        path.write_bytes(change(whole))
        done = mcx(*words, "--output-dir", "out")
        assert (done.code, done.out, path.name in done.err) == (3, "", True), (how, done.err)
        assert "Traceback" not in done.err
        assert not list(Path().glob("out/*.*")), how
    assert not Path("ran").exists(), "nothing of a header is run"
    path.write_bytes(whole)
    assert mcx(*words, "--output-dir", "out", "-q").code == 0


@pytest.mark.parametrize("name", ["loss", "loss_ce", "loss_grad", "sample_ids"])
def test_g5_a_flipped_bit_of_what_the_scoring_wrote_is_found(mcx: Callable, here: Path, name: str) -> None:
    path = next(Path("losses").glob(f"{name}_data_run1_epoch_1_*" if name != "sample_ids" else f"{name}.npy"))
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    done = mcx(*AGGREGATE, "--output-dir", "out")
    assert (done.code, done.out, f"'{path}'" in done.err) == (3, "", True), done.err
