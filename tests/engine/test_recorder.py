"""The recorder in any loop: its columns, what it leaves after a kill, and every bad input by name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from faults.processes import Forked

from modeconn_cli.engine.commands.csl.naming import LABEL_NOISE, RunName
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.networks.cross_entropy import cross_entropy
from modeconn_cli.engine.results import listing
from modeconn_cli.engine.samples import scores
from modeconn_cli.engine.training import recorder
from modeconn_cli.engine.training.recorded import Epoch
from modeconn_cli.engine.training.recorder import MOST, TOGETHER, Recorder

N, C = 50, 4
IDS = np.random.default_rng(0).permutation(1000)[:N]


def table(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits float32 [N, C] and labels [N] of all samples, by their place in IDS."""
    generator = torch.Generator().manual_seed(seed)
    return 4 * torch.randn(N, C, generator=generator), torch.arange(N) % C


def go_over(rec: Recorder, z: Any, y: Any, order: Any = range(N), batch: int = 7) -> None:
    for begin in range(0, len(order), batch):
        rows = list(order[begin : begin + batch])
        rec.step(IDS[rows], z[rows], y[rows])


def columns(folder: Path, epoch: int = 1, name: str = "data") -> dict[str, np.ndarray]:
    """What an epoch has, the loss among it."""
    with np.load(folder / f"dynamics_{name}_epoch_{epoch}.npz") as file:
        return {**file, "loss": np.load(folder / f"loss_{name}_epoch_{epoch}.npy")}


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def quiet(folder: Path, **more: Any) -> Recorder:
    return Recorder(folder, IDS, warn=lambda _: None, **more)


FORMS: dict[str, Callable[[torch.Tensor, torch.Tensor], tuple[Any, Any]]] = {
    "float32 with gradients": lambda z, y: (z.clone().requires_grad_(), y),
    "float64": lambda z, y: (z.double(), y.int()),
    "half": lambda z, y: (z.half(), y),
    "bfloat16": lambda z, y: (z.bfloat16(), F.one_hot(y, C)),
    "numpy": lambda z, y: (z.numpy(), y.numpy()),
    "numpy float16, one-hot": lambda z, y: (z.half().numpy(), F.one_hot(y, C).float().numpy()),
    "a column of labels": lambda z, y: (z, y[:, None].byte()),
}


@pytest.mark.parametrize("form", FORMS)
def test_columns_are_those_of_the_scoring_in_float64(tmp_path: Path, form: str) -> None:
    z, y = table()
    given = FORMS[form](z, y)
    rec = Recorder(tmp_path, IDS)
    go_over(rec, *given, np.random.default_rng(1).permutation(N))
    assert rec.epoch_end() == Epoch(1, N, 0, 0, 0)
    exact = torch.as_tensor(given[0]).detach().double()
    expected = {**scores.of_logits(exact, y), "loss": cross_entropy(exact, y)}
    found = columns(tmp_path)
    for name, values in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], values.float().numpy(), err_msg=name)
    assert np.load(tmp_path / "sample_ids.npy").tolist() == IDS.tolist()


@pytest.mark.parametrize("batch", [1, 3, N])
def test_how_the_samples_are_batched_changes_no_byte(tmp_path: Path, batch: int) -> None:
    z, y = table()
    for name, size in (("one", 7), ("other", batch)):
        rec = Recorder(tmp_path / name, IDS)
        for _ in range(3):  # more steps than are reduced at a time
            go_over(rec, z, y, batch=size)
            rec.epoch_end()
    assert N > TOGETHER
    assert everything(tmp_path / "one") == everything(tmp_path / "other")


def test_what_is_passed_may_be_written_over_after_the_step(tmp_path: Path) -> None:
    z, y = table()
    rec, own = Recorder(tmp_path, IDS), [IDS.copy(), z.clone(), y.clone()]
    rec.step(*own)
    rec.step(*own)  # the first two are reduced at once
    rec.drop()
    for k in range(5):
        rows = slice(10 * k, 10 * k + 10)
        own = [torch.from_numpy(IDS[rows].copy()), z[rows].clone(), y[rows].clone()]
        rec.step(*own)
        for each in own:
            each.zero_()
    rec.epoch_end()
    np.testing.assert_array_equal(columns(tmp_path)["label_logit"], z.gather(1, y[:, None])[:, 0].numpy())


def test_what_a_gpu_would_keep_comes_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    z, y = table()
    for name in ("here", "there"):
        rec = Recorder(tmp_path / name, IDS)
        go_over(rec, z, y, batch=1)
        there = sum(len(block.steps) for block in rec._blocks)
        assert there == (0 if name == "here" else TOGETHER - 1), "all but the first step"
        rec.epoch_end()
        monkeypatch.setattr(recorder, "_at_hand", lambda _: False)
    assert everything(tmp_path / "here") == everything(tmp_path / "there")
    monkeypatch.setattr(recorder, "MOVED", 8)
    rec = Recorder(tmp_path / "moved", IDS)
    for k in range(N):
        rec.step(IDS[[k]], z[[k]], y[[k]])
        assert sum(len(block.steps) for block in rec._blocks) < 8
    rec.epoch_end()
    assert everything(tmp_path / "here") == everything(tmp_path / "moved")


def test_many_logits_are_not_kept(tmp_path: Path) -> None:
    rec = Recorder(tmp_path, [0, 1, 2, 3])
    for k in range(4):
        rec.step([k], torch.zeros(1, MOST // 2), [0])
        assert rec._waiting < MOST
    rec.epoch_end()
    np.testing.assert_allclose(columns(tmp_path)["loss"], np.log(MOST // 2), rtol=1e-6)


def test_the_files_are_called_as_the_aggregation_finds_them(tmp_path: Path) -> None:
    run = RunName("my data_1", None, None)
    rec = Recorder(tmp_path, IDS, name=run.dataset)
    go_over(rec, *table())
    rec.epoch_end(7)
    wanted = {run.per_epoch(kind, 7) for kind in ("loss", "dynamics")}
    wanted |= {run.aggregated(listing.STEM, ".csv"), "sample_ids.npy", "recorded.json"}
    assert set(everything(tmp_path)) == wanted
    assert rec.folder.table(LABEL_NOISE).name == run.aggregated(LABEL_NOISE, ".csv")


def test_the_aggregation_reads_a_folder_as_it_is(tmp_path: Path, mcx: Callable, undrawn: None) -> None:
    rec, margins = Recorder(tmp_path / "dynamics", IDS), []
    for seed in range(3):
        z, y = table(seed)
        go_over(rec, z, y)
        rec.epoch_end()
        own = z.double().gather(1, y[:, None])[:, 0]
        margins.append(own - z.double().scatter(1, y[:, None], -torch.inf).amax(1))
    done = mcx("csl", "aggregate", "--input-dir", tmp_path / "dynamics", "--output-dir", tmp_path / "out")
    assert (done.code, "of training: augmented images" in done.out) == (0, True), done.err
    rows = np.genfromtxt(tmp_path / "out/scores_data_run1_noise_0.csv", delimiter=",", names=True)
    assert rows["sample_id"].tolist() == sorted(IDS)
    np.testing.assert_allclose(rows["aum"], torch.stack(margins).mean(0).numpy()[np.argsort(IDS)], rtol=1e-5)
    said = json.loads((tmp_path / "out/scores_data_run1_noise_0.json").read_text())
    assert said["losses"].startswith("of training")
    known = (tmp_path / "out/samples_data_run1_noise_0.csv").read_text().splitlines()
    assert known[1:] == [f"{i},{k % C},,," for k, i in enumerate(IDS)]


def test_a_recorder_goes_on_after_the_last_epoch(tmp_path: Path) -> None:
    z, y = table()
    for epoch in (1, 2):
        rec = Recorder(tmp_path, IDS[::-1])
        assert rec.last == (None if epoch == 1 else 1)
        go_over(rec, z, y)
        assert rec.epoch_end().epoch == epoch
    one, two = columns(tmp_path, 1), columns(tmp_path, 2)
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name])


def test_an_epoch_that_is_there_is_not_written_over_unasked(tmp_path: Path) -> None:
    (z, y), (other, _) = table(), table(1)
    rec = Recorder(tmp_path, IDS)
    go_over(rec, z, y)
    rec.epoch_end(3)
    before = everything(tmp_path)
    go_over(rec, other, y)
    with pytest.raises(InputError, match="holds epoch 3 already") as caught:
        rec.epoch_end(3)
    assert "overwrite=True" in caught.value.hint
    assert everything(tmp_path) == before
    go_over(rec, z, y)
    assert rec.epoch_end().epoch == 4, "the recorder goes on after an error"
    rec = Recorder(tmp_path, IDS, overwrite=True)
    go_over(rec, other, y)
    rec.epoch_end(3)
    assert everything(tmp_path)["loss_data_epoch_3.npy"] != before["loss_data_epoch_3.npy"]


def test_gaps_between_epochs_are_said_and_stay(tmp_path: Path, mcx: Callable, undrawn: None) -> None:
    said: list[str] = []
    rec = Recorder(tmp_path / "dynamics", IDS, warn=said.append)
    for epoch in (2, 5, None):
        go_over(rec, *table())
        rec.epoch_end(epoch)
    assert said == ["epochs 3 to 4 were not recorded"]
    done = mcx(
        "csl", "aggregate", "--input-dir", tmp_path / "dynamics", "--output-dir", tmp_path / "o", "--json"
    )
    assert json.loads(done.out)["kept_epochs"] == [2, 5, 6]
    assert "2 epochs between 2 and 6 are not there: [3, 4]; scores are of those that are" in done.err


def test_a_recorder_says_that_another_one_records_into_its_folder(tmp_path: Path) -> None:
    """Their epochs would be of two networks, one after the other, and the scores of none."""
    z, y = table()
    one, two = Recorder(tmp_path, IDS), Recorder(tmp_path, IDS)
    go_over(one, z, y)
    one.epoch_end()
    before = everything(tmp_path)
    for _ in range(2):
        go_over(two, -z, y)
        with pytest.raises(InputError, match=f"another recorder has written epoch 1 into '{tmp_path}'"):
            two.epoch_end()
    assert everything(tmp_path) == before
    go_over(one, z, y)
    assert one.epoch_end().epoch == 2


def test_missing_ids_are_nan_counted_and_said_or_refused(tmp_path: Path) -> None:
    z, y = table()
    said: list[str] = []
    rec = Recorder(tmp_path / "nan", IDS, warn=said.append)
    go_over(rec, z, y, range(3, N))
    assert rec.epoch_end() == Epoch(1, N - 3, 3, 0, 0)
    assert f"epoch 1: 3 of {N} ids were in no step, such as {IDS[0]}" in said[0]
    for values in (values for name, values in columns(tmp_path / "nan").items() if name != "recorded"):
        assert np.isnan(values).tolist() == [True] * 3 + [False] * (N - 3)
    labels = (tmp_path / "nan/samples_data_run1_noise_0.csv").read_text().splitlines()[1:]
    assert labels[:4] == [*(f"{i},,,," for i in IDS[:3]), f"{IDS[3]},3,,,"]
    rec = Recorder(tmp_path / "strict", IDS, strict=True)
    go_over(rec, z, y, range(3, N))
    with pytest.raises(InputError, match="3 of 50 ids were in no step"):
        rec.epoch_end()
    assert rec.last is None


def test_of_a_sample_that_comes_twice_the_first_counts(tmp_path: Path) -> None:
    z, y = table()
    said: list[str] = []
    rec = Recorder(tmp_path, IDS, warn=said.append)
    go_over(rec, z, y, [*range(N), 0, 1])
    again = torch.zeros(3, C)
    rec.step(IDS[[5, 6, 6]], again, y[[5, 6, 6]])
    assert rec.epoch_end() == Epoch(1, N, 0, 5, 0)
    assert said == ["epoch 1: 5 rows were of samples that had been in an earlier one, which counts"]
    np.testing.assert_array_equal(columns(tmp_path)["loss"], cross_entropy(z, y).float().numpy())


def test_logits_that_are_no_numbers_are_kept_and_counted(tmp_path: Path) -> None:
    z, y = table()
    z[3, 1], z[4], z[5, 1] = torch.nan, torch.inf, torch.inf  # 5 is of class 1, and far from being certain
    said: list[str] = []
    rec = Recorder(tmp_path, IDS, warn=said.append)
    go_over(rec, z, y)
    assert rec.epoch_end() == Epoch(1, N, 0, 0, 3)
    assert said == ["epoch 1: the losses of 3 samples are NaN or infinite; they are kept so"]
    expected = scores.of_logits(z, y)
    for name, values in columns(tmp_path).items():
        if name in expected:
            np.testing.assert_array_equal(values, expected[name].float().numpy())
    assert np.flatnonzero(np.isnan(columns(tmp_path)["loss"])).tolist() == [3, 4, 5]


def test_without_ids_they_are_those_of_the_first_epoch(tmp_path: Path) -> None:
    z, y = table()
    rec = Recorder(tmp_path)
    go_over(rec, z, y)
    rec.epoch_end()
    assert np.load(tmp_path / "sample_ids.npy").tolist() == sorted(IDS)
    order = np.argsort(IDS)
    np.testing.assert_array_equal(columns(tmp_path)["loss"], cross_entropy(z, y).float().numpy()[order])
    unknown = int(max(IDS)) + 1
    with pytest.raises(InputError, match=f"id {unknown} is none of the 50 of the recorder"):
        rec.step([unknown], z[:1], y[:1])
    with pytest.raises(InputError, match=f"id {unknown} is none"):
        Recorder(tmp_path).step([unknown], z[:1], y[:1])


def test_a_trainer_that_goes_on_before_the_last_epoch_is_stopped_at_once(tmp_path: Path) -> None:
    for _ in range(2):
        rec = Recorder(tmp_path, IDS)
        go_over(rec, *table())
        rec.epoch_end()
    rec.go_on(2)
    with pytest.raises(InputError, match="holds epochs up to 2, and the trainer is at 1"):
        rec.go_on(1)
    Recorder(tmp_path, IDS, overwrite=True).go_on(0)


z1, y1 = torch.zeros(2, C), [0, 1]
TWO = IDS[:2]
SOFT = torch.tensor([[0.5, 0.5, 0, 0], [1, 0, 0, 0]])
BAD: dict[str, tuple[tuple[Any, ...], str]] = {
    "an unknown id": (([IDS[0], 5000], z1, y1), "id 5000 is none of the 50"),
    "ids that are no numbers": ((["a", "b"], z1, y1), "sample ids that are not whole numbers"),
    "half ids": (([0.5, 1.0], z1, y1), "the first is '0.5'"),
    "fewer ids": ((IDS[:1], z1, y1), "step: 1 ids for 2 rows of logits"),
    "fewer labels": ((TWO, z1, [0]), "step: 1 labels for 2 rows of logits"),
    "a negative label": (
        (TWO, z1, [0, -100]),
        f"label -100 of sample {IDS[1]}, expected a number or a one-hot row of 4",
    ),
    "a label of minus one": ((TWO, z1, [0, -1]), f"label -1 of sample {IDS[1]}"),
    "classes that descend": ((TWO, z1, y1, [3, 2, 1, 0]), r"classes \[3, 2, 1, 0\] are not ascending"),
    "a large label": ((TWO, z1, [4, 0]), f"label 4 of sample {IDS[0]}"),
    "soft labels": ((TWO, z1, SOFT), f"a row of labels that is not one-hot of sample {IDS[0]}"),
    "float labels": ((TWO, z1, [0.0, 1.0]), r"labels are float64 \(2,\), expected whole numbers"),
    "labels of other classes": ((TWO, z1, torch.eye(3)[:2]), r"labels are float32 \(2, 3\)"),
    "texts as labels": ((TWO, z1, ["cat", "dog"]), "labels are no numbers"),
    "logits of a sequence": (
        (TWO, torch.zeros(2, 3, C), y1),
        r"logits are float32 \(2, 3, 4\), expected floats",
    ),
    "whole logits": ((TWO, torch.zeros(2, C, dtype=torch.long), y1), r"logits are int64 \(2, 4\)"),
    "whole numpy logits": ((TWO, np.zeros((2, C), dtype=int), y1), r"logits are int64 \(2, 4\)"),
    "other classes": ((TWO, torch.zeros(2, 7), y1), "logits of 7 classes, and of 4 before"),
    "classes of another number": ((TWO, z1, y1, [0, 1]), r"\(2,\) classes for logits of 4"),
    "a label of no class": ((TWO, z1, [0, 2], [0, 1, 3, 5]), f"label 2 of sample {IDS[1]}"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_and_nothing_is_lost(tmp_path: Path, case: str) -> None:
    words, said = BAD[case]
    z, y = table()
    rec = Recorder(tmp_path, IDS)
    go_over(rec, z, y)
    rec.epoch_end()
    rec.step(IDS[:3], z[:3], y[:3])
    before = everything(tmp_path)
    with pytest.raises(InputError, match=said):
        rec.step(*words)
    assert everything(tmp_path) == before
    rec.drop()
    go_over(rec, z, y)
    assert rec.epoch_end() == Epoch(2, N, 0, 0, 0)


def test_bad_input_among_steps_that_are_reduced_at_once_is_named(tmp_path: Path) -> None:
    z, y = table()
    rec = Recorder(tmp_path, IDS)
    go_over(rec, z, y, batch=10)
    rec.step([77777], z[:1], y[:1])
    rec.step([77778], z[:1], y[:1])
    with pytest.raises(InputError, match="id 77777 is none"):
        rec.epoch_end()
    assert rec.last is None


def test_another_number_of_classes_is_refused_in_a_later_run_too(tmp_path: Path) -> None:
    rec = Recorder(tmp_path, IDS)
    go_over(rec, *table())
    rec.epoch_end()
    rec = Recorder(tmp_path, IDS)
    go_over(rec, torch.zeros(N, C + 1), table()[1])
    with pytest.raises(InputError, match="logits of 5 classes, and of 4 before") as caught:
        rec.epoch_end()
    assert "classes=" in caught.value.hint


@pytest.mark.parametrize("reopened", [False, True])
def test_a_label_that_changes_is_named(tmp_path: Path, reopened: bool) -> None:
    z, y = table()
    rec = Recorder(tmp_path, IDS)
    go_over(rec, z, y)
    rec.epoch_end()
    before = everything(tmp_path)
    other = y.clone()
    other[8] = 3
    rec = Recorder(tmp_path, IDS) if reopened else rec
    go_over(rec, z, other)
    with pytest.raises(InputError, match=f"the label of sample {IDS[8]} was 0, now 3"):
        rec.epoch_end()
    assert everything(tmp_path) == before


def test_a_label_that_changes_within_an_epoch_is_named(tmp_path: Path) -> None:
    rec = Recorder(tmp_path)
    rec.step([4, 4], torch.zeros(2, C), [1, 2])
    with pytest.raises(InputError, match="the label of sample 4 was 1, now 2"):
        rec.epoch_end()


def test_classes_may_come_one_after_the_other(tmp_path: Path) -> None:
    """Class 7 is at place 0 of {7}, and at place 1 of {2, 7}."""
    rec = Recorder(tmp_path, [0, 1], warn=lambda _: None)
    rec.step([0], torch.tensor([[3.0]]), [7], classes=[7])
    rec.epoch_end()
    rec = Recorder(tmp_path, [0, 1], warn=lambda _: None)
    rec.step([1, 0], torch.tensor([[3.0, 1.0], [2.0, 5.0]]), [2, 7], classes=torch.tensor([2, 7]))
    rec.epoch_end()
    np.testing.assert_array_equal(columns(tmp_path, 1)["label_logit"], [3.0, np.nan])
    np.testing.assert_array_equal(columns(tmp_path, 2)["label_logit"], [5.0, 3.0])
    np.testing.assert_array_equal(columns(tmp_path, 2)["other_logit"], [2.0, 1.0])
    assert (tmp_path / "samples_data_run1_noise_0.csv").read_text().splitlines()[1:] == ["0,7,,,", "1,2,,,"]


def test_an_epoch_without_a_step_is_refused(tmp_path: Path) -> None:
    rec = Recorder(tmp_path, IDS)
    with pytest.raises(InputError, match="no step since the last epoch"):
        rec.epoch_end()
    go_over(rec, *table())
    with pytest.raises(InputError, match="epoch -1 is no whole number"):
        rec.epoch_end(-1)


OPENED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "ids twice": ({"ids": [1, 2, 1]}, InputError, "ids holds 1 duplicate sample ids: the first is 1"),
    "no ids": ({"ids": []}, InputError, "ids: there are none"),
    "names": ({"ids": ["a"]}, InputError, "are not whole numbers"),
    "negative": ({"ids": [-1, 0]}, InputError, "negative sample ids"),
    "other ids": ({"ids": [1, 2]}, InputError, "names other samples than the recorder"),
    "another mode": ({"mode": "eval"}, InputError, "holds recorded values whose mode is 'train', not 'eval'"),
    "no mode": ({"mode": "test"}, SettingsError, "mode is 'test'"),
    "another name": ({"name": "cifar"}, InputError, "whose dataset is 'data', not 'cifar'"),
    "a path": ({"name": "a/b"}, SettingsError, "cannot be part of the names"),
}


@pytest.mark.parametrize("case", OPENED)
def test_a_recorder_that_does_not_fit_its_folder_is_refused(tmp_path: Path, case: str) -> None:
    rec = Recorder(tmp_path, IDS)
    go_over(rec, *table())
    rec.epoch_end()
    before = everything(tmp_path)
    words, kind, said = OPENED[case]
    with pytest.raises(kind, match=said):
        Recorder(tmp_path, **words)
    assert everything(tmp_path) == before


def test_recorded_and_evaluated_values_are_never_mixed(tmp_path: Path, mcx: Callable, networks: Path) -> None:
    scored, folder = tmp_path / "scored", tmp_path / "dynamics"
    words = ("csl", "score", "--checkpoint-dir", networks / "seed0", "--start-epoch", "4", "--grad", "none")
    assert mcx(*words, "--scheme", "short", "--output-dir", scored).code == 0
    with pytest.raises(InputError, match="holds values that no recorder has written"):
        Recorder(scored, IDS)
    rec = Recorder(folder, IDS, name="digits")
    go_over(rec, *table())
    rec.epoch_end()
    done = mcx(*words, "--output-dir", folder)
    assert (done.code, "holds values that were recorded" in done.err) == (3, True), done.err
    aggregate = ("csl", "aggregate", "--input-dir", folder, "--output-dir", tmp_path / "out")
    for name in ("loss_digits_epoch_4.npy", "dynamics_digits_epoch_4.npz"):
        (folder / name).write_bytes((scored / name).read_bytes())
    done = mcx(*aggregate)
    assert (done.code, "holds values that were recorded" in done.err) == (3, True), done.err
    assert "dynamics_digits_epoch_4.npz" in done.err
    with pytest.raises(InputError, match=r"and others, such as 'dynamics_digits_epoch_4\.npz'"):
        Recorder(folder, IDS, name="digits")
    for name in ("loss_digits_epoch_4.npy", "dynamics_digits_epoch_4.npz"):
        (folder / name).unlink()
    (folder / "loss_grad_digits_epoch_1.npy").write_bytes((folder / "loss_digits_epoch_1.npy").read_bytes())
    done = mcx(*aggregate)
    assert (done.code, "loss_grad_digits_epoch_1.npy" in done.err) == (3, True), done.err
    (folder / "loss_grad_digits_epoch_1.npy").unlink()
    (folder / "loss_digits_epoch_4.npy").write_bytes((scored / "loss_digits_epoch_4.npy").read_bytes())
    done = mcx(*aggregate)
    assert (done.code, "such as 'loss_digits_epoch_4.npy'" in done.err) == (3, True), done.err
    (folder / "loss_digits_epoch_4.npy").unlink()
    (folder / ".mcx/csl-score-digits-short").mkdir(parents=True)
    done = mcx(*aggregate)
    assert (done.code, "and those of 'csl-score-digits-short'" in done.err) == (3, True), done.err


def test_losses_that_an_earlier_version_has_recorded_are_gone_on_from(
    tmp_path: Path, mcx: Callable, undrawn: None
) -> None:
    folder = tmp_path / "recorded"
    rec = Recorder(folder, IDS)
    go_over(rec, *table())
    rec.epoch_end()
    said = json.loads((folder / "recorded.json").read_text())
    (folder / "dynamics_data_epoch_1.npz").unlink()
    (folder / "recorded.json").write_text(
        json.dumps({"schema": "mcx.recorded_losses/1", "losses": said["losses"]})
    )
    aggregate = ("csl", "aggregate", "--input-dir", folder, "--json", "--output-dir")
    assert mcx(*aggregate, tmp_path / "a").code == 0
    for epoch in (2, 3):
        rec = Recorder(folder, IDS)
        go_over(rec, *table())
        assert rec.epoch_end().epoch == epoch
    done = mcx(*aggregate, tmp_path / "b")
    assert (done.code, json.loads(done.out)["kept_epochs"]) == (0, [1, 2, 3]), done.err


def test_values_of_eval_mode_are_labelled_so(tmp_path: Path, mcx: Callable, undrawn: None) -> None:
    rec = Recorder(tmp_path / "dynamics", IDS, mode="eval")
    go_over(rec, *table())
    rec.epoch_end()
    done = mcx(
        "csl", "aggregate", "--input-dir", tmp_path / "dynamics", "--output-dir", tmp_path / "o", "--json"
    )
    assert json.loads(done.out)["losses"].startswith("recorded in eval mode")


def test_a_state_within_an_epoch_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    z, y = table()
    whole = Recorder(tmp_path / "whole", IDS)
    go_over(whole, z, y, batch=1)
    whole.epoch_end()
    for cut in (0, 1, 2, TOGETHER - 1, TOGETHER, TOGETHER + 5):
        folder = tmp_path / f"cut{cut}"
        rec = Recorder(folder, IDS)
        go_over(rec, z, y, range(cut), batch=1)
        torch.save(rec.state_dict(), tmp_path / "state.pt")
        go_over(rec, z + 1, y, range(cut, N), batch=1)  # lost
        rec = Recorder(folder, IDS)
        rec.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        go_over(rec, z, y, range(cut, N), batch=1)
        rec.epoch_end()
        assert everything(folder) == everything(tmp_path / "whole"), cut


def loop(folder: Path, dies_at: tuple[int, int] | None = None) -> None:
    """A loop of three epochs, which goes on after the last that is there; it may kill itself within one."""
    logits = np.random.default_rng(0).normal(size=(3, 40, 4))
    rec = Recorder(folder, ids=range(40))
    for epoch in range(rec.last or 0, 3):
        for begin in range(0, 40, 5):
            rec.step(range(begin, begin + 5), logits[epoch, begin : begin + 5], np.arange(5) % 4)
            if dies_at == (epoch, begin):
                os.kill(os.getpid(), signal.SIGKILL)
        rec.epoch_end()


def killed(folder: Path, body: Callable[[], None], **environment: str) -> int:
    """The exit code of the loop in a process of its own, whose leftovers are not this one's."""
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 dislikes forks of threads
        return Forked(body, folder.parent, environment).wait().code


def test_a_kill_costs_the_epoch_in_progress(tmp_path: Path) -> None:
    loop(tmp_path / "whole")
    folder = tmp_path / "killed"
    assert killed(folder, lambda: loop(folder, dies_at=(1, 20))) == -signal.SIGKILL
    assert sorted(path.name for path in folder.glob("*_epoch_*")) == [
        "dynamics_data_epoch_1.npz",
        "loss_data_epoch_1.npy",
    ]
    loop(folder)
    assert everything(folder) == everything(tmp_path / "whole")


@pytest.mark.slow
def test_a_kill_at_any_step_of_a_write_changes_no_byte(tmp_path: Path, mcx: Callable, undrawn: None) -> None:
    loop(tmp_path / "whole")
    ends = []
    for turn in range(1, 200):
        folder = tmp_path / f"killed{turn}"
        armed = {"MCX_TESTING": "1", "MCX_FAILPOINT": f"any:{turn}=kill"}
        ends.append(killed(folder, lambda: loop(folder), **armed))  # noqa: B023
        if ends[-1] == 0:
            break
        if list(folder.glob("loss_*")):
            done = mcx("csl", "aggregate", "--input-dir", folder, "--output-dir", tmp_path / f"out{turn}")
            assert done.code == 0, done.err
        loop(folder)
        assert everything(folder) == everything(tmp_path / "whole"), turn
    assert len(ends) > 20
    assert ends[-1] == 0


def test_the_package_imports_no_torch_and_the_recorder_nothing_heavy_beside_it() -> None:
    code = (
        "import sys, modeconn_cli; assert 'torch' not in sys.modules and 'numpy' not in sys.modules; "
        "modeconn_cli.Recorder; "
        "print(*{'transformers', 'lightning', 'pandas', 'matplotlib', 'scipy', 'torchvision', 'typer', 'rich'} "
        "& set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    with pytest.raises(AttributeError, match="no attribute 'Recorders'"):
        exec("import modeconn_cli; modeconn_cli.Recorders")
