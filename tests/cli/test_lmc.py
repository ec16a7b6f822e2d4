"""`mcx lmc`: the branches cost what the algorithm says, the numbers are those of the line, nothing is done twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modeconn_cli.engine import checkpoints, datasets, models
from modeconn_cli.engine.lmc.line import alphas
from modeconn_cli.engine.models import Architecture
from modeconn_cli.engine.settings.shared import DataSettings

RUN = (
    "lmc", "run", "--model", "mlp", "--model-arg", "width=8,depth=1", "--dataset", "digits", "--max-samples", "200",
    "--lr", "0.1", "--k1", "0,2", "--k2", "1,2", "--num-alphas", "5",
)  # fmt: skip


@pytest.fixture
def folder(mcx: Callable, tmp_path: Path) -> Path:
    done = mcx(*RUN, "--output-dir", tmp_path)
    assert done.code == 0, done.err
    return tmp_path


def pair(folder: Path, k1: int, k2: int) -> dict:
    return json.loads((folder / f"processed/digits_batch_128_k1_{k1}_k2_{k2}.json").read_text())


def test_the_experiment_costs_what_the_algorithm_says(mcx: Callable, folder: Path) -> None:
    assert json.loads(mcx(*RUN, "--output-dir", folder, "--json").out)["trained_epochs"] == 0
    main = {path.name for path in (folder / "checkpoints/main").glob("*.pt")}
    assert main == {f"checkpoint-{e}.pt" for e in range(5)}
    for k1 in (0, 2):
        branch = {path.name for path in (folder / f"checkpoints/k1_{k1}").glob("*.pt")}
        assert branch == {f"checkpoint-{e}.pt" for e in (k1 + 1, k1 + 2)}


def test_a_branch_has_another_order_of_the_data_from_the_same_start(folder: Path) -> None:
    states = {
        name: checkpoints.read(folder / f"checkpoints/{name}.pt").state
        for name in ("main/checkpoint-0", "main/checkpoint-1", "k1_0/checkpoint-1")
    }
    assert not torch.equal(
        states["main/checkpoint-1"]["fc1.weight"], states["k1_0/checkpoint-1"]["fc1.weight"]
    )
    optimizer = checkpoints.read(folder / "checkpoints/k1_2/checkpoint-3.pt").optimizer_state
    assert optimizer is not None
    assert "momentum_buffer" in optimizer["state"][0]


def test_a_pair_holds_the_documented_keys_and_the_numbers_of_its_line(folder: Path) -> None:
    found = pair(folder, 2, 1)
    assert {"dataset", "k1", "k2", "epoch", "distance", "alphas", "barriers", "branch_seed", "seed"} <= set(
        found
    )
    assert (found["epoch"], found["alphas"]) == (3, [0, 0.25, 0.5, 0.75, 1])
    data = datasets.load(DataSettings(dataset="digits", max_samples=200), torch.device("cpu"))
    a, b = (
        checkpoints.read(folder / f"checkpoints/{name}/checkpoint-3.pt").state for name in ("main", "k1_2")
    )
    model = models.build(Architecture("mlp", 10, (1, 8, 8), {"width": 8, "depth": 1})).double()
    assert isinstance(data.test.images, torch.Tensor)
    images = (data.test.images.double() / 255 - 0.5) / 0.5
    for alpha, loss, share in zip(
        found["alphas"], found["losses_test"], found["accuracy_lst_test"], strict=True
    ):
        model.load_state_dict({n: (1 - alpha) * a[n].double() + alpha * b[n].double() for n in a})
        logits = model(images).detach()
        assert loss == pytest.approx(float(F.cross_entropy(logits, data.test.labels)), rel=1e-5)
        assert share == pytest.approx(float((logits.argmax(1) == data.test.labels).double().mean()))
    distance = np.sqrt(sum(float(((a[n].double() - b[n].double()) ** 2).sum()) for n in a))
    assert found["distance"] == pytest.approx(distance, rel=1e-9)
    values, ts = np.array(found["losses_test"]), np.array(found["alphas"])
    gap = (values - ((1 - ts) * values[0] + ts * values[-1])).max()
    assert found["barriers"]["max_gap"]["loss_test"] == pytest.approx(max(gap, 0), abs=1e-12)


def test_two_runs_give_identical_files(mcx: Callable, folder: Path, tmp_path: Path) -> None:
    assert mcx(*RUN, "--output-dir", tmp_path / "again", "-q").code == 0
    for name in (
        "processed/digits_batch_128_k1_0_k2_2.json",
        "dataframes/digits.csv",
        "figures/digits_distance.png",
    ):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_more_branches_epochs_and_positions_cost_only_what_is_new(mcx: Callable, folder: Path) -> None:
    kept = {path: path.read_bytes() for path in folder.glob("checkpoints/*/*.pt")}
    words = [*RUN, "--k1", "0,1,2", "--k2", "1,2,3", "--num-alphas", "9", "--output-dir", folder, "--json"]
    done = json.loads(mcx(*words).out)
    # main 4 -> 5; k1=0 and k1=2 one more epoch each; k1=1 three epochs.
    assert done["trained_epochs"] == 1 + 1 + 1 + 3
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert pair(folder, 0, 1)["alphas"] == [k / 8 for k in range(9)]
    assert len(done["pairs"]) == 9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--branch-seed", "0"), "would reproduce it"),
        (("--k1", "9", "--max-epochs", "5"), "beyond the main branch"),
        (("--k1", "3", "--k2", "3", "--max-epochs", "5"), "beyond the main branch"),
        (("--num-alphas", "4"), "leaves out the middle"),
        (("--preset", "digit"), "did you mean 'digits'"),
    ],
)
def test_settings_without_a_meaning_are_refused(
    mcx: Callable, tmp_path: Path, words: tuple, message: str
) -> None:
    done = mcx(*RUN, *words, "--output-dir", tmp_path / "new")
    assert (done.code, done.out, message in done.err) == (2, "", True)


def test_a_preset_stands_below_every_other_source(mcx: Callable) -> None:
    done = mcx("lmc", "run", "--preset", "mnist", "--lr", "0.5", "--print-config")
    assert "optimizer: adam  # preset mnist" in done.out
    assert "lr: 0.5  # flag" in done.out


def test_positions_always_hold_the_ends_and_the_middle() -> None:
    assert alphas(25)[0] == 0
    assert alphas(25)[12] == 0.5
    assert alphas(25)[-1] == 1
    # A finer line holds every position of the coarser one, bit for bit.
    assert set(alphas(13)) < set(alphas(25))


def test_any_two_networks_can_be_interpolated(mcx: Callable, networks: Path, tmp_path: Path) -> None:
    a, b = (networks / f"seed{k}/checkpoint-4.pt" for k in (0, 1))
    done = mcx("lmc", "interpolate", a, b, "--num-alphas", "5", "--output-dir", tmp_path)
    assert done.code == 0, done.err
    assert "max_gap" in done.out
    same = json.loads(mcx("lmc", "interpolate", a, a, "--num-alphas", "3", "--json").out)
    assert all(value == 0 for row in same["barriers"].values() for value in row.values())
    with np.load(tmp_path / "line.npz") as file:
        assert file["losses_test"].shape == (5,)
    assert (tmp_path / "line.png").read_bytes().startswith(b"\x89PNG")
