"""Values that no file of ours and no command line can mean: refused before anything is made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeconn_cli.engine.datasets import npz
from modeconn_cli.engine.datasets.images import _living
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.networks import checkpoints
from modeconn_cli.engine.networks.checkpoints import About
from modeconn_cli.engine.settings.lmc import LmcInterpolateSettings
from modeconn_cli.engine.settings.shared import ComputeSettings
from modeconn_cli.engine.symmetry import files

IMPLAUSIBLE: dict[str, Any] = {
    "num_classes": True,
    "input_shape": [1, -2, 2],
    "model_args": {"width": [object]},
    "seed": -1,
    "wd": float("inf"),
    "buffers": [1],
    "schedule_epochs": -3,
    "task": 1 << 40,
    "mean": ["a"],
    "label_noise": 2.0,
    "val_size": True,
    "transform": "melt",
    "settings": {1: 2},
}


@pytest.mark.parametrize("name", IMPLAUSIBLE)
def test_l5_what_a_checkpoint_cannot_say_of_itself_is_named(name: str) -> None:
    with pytest.raises(InputError, match=rf"'a.pt': what it says about itself is damaged \('{name}' is "):
        About.read({name: IMPLAUSIBLE[name]}, Path("a.pt"))


@pytest.mark.parametrize("epoch", [True, -1, 1 << 40, "3", 2.5])
def test_l5_an_epoch_of_a_file_of_ours_is_a_count(tmp_path: Path, epoch: object) -> None:
    path, weights = tmp_path / "checkpoint-2.pt", {"w": torch.ones(2)}
    torch.save({"epoch": epoch, "model_state": weights, "mcx": {}}, path)
    with pytest.raises(InputError, match="'epoch' is"):
        checkpoints.read(path)
    torch.save({"epoch": epoch, "model_state": weights}, path)  # anyone's, whose name says one
    assert checkpoints.read(path).epoch == 2


@pytest.mark.parametrize(
    "change",
    [{"mode": 5}, {"mode": "sideways"}, {"seed": "x"}, {"seed": 1 << 40}, {"neuron_pairs": 3}, {"neuron_pairs": [[1]]},
     {"layer_name": 7}, {"block_idx": True}],
)  # fmt: skip
def test_l5_metadata_of_a_swap_that_cannot_be_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"layer_name": "0", "neuron_pairs": [[0, 1]], **change}))
    with pytest.raises(InputError, match=f"its '{next(iter(change))}' is"):
        files.read_metadata(path)


@pytest.mark.parametrize("seed", [2**63, 10**400, -1])
def test_a_seed_fits_into_64_bits(seed: int) -> None:
    with pytest.raises(SettingsError):
        ComputeSettings(seed=seed)
    assert ComputeSettings(seed=2**63 - 1).seed == 2**63 - 1


def test_positions_that_nobody_waits_for_are_refused() -> None:
    with pytest.raises(SettingsError, match="--num-alphas must be at most"):
        LmcInterpolateSettings(num_alphas=10**12 + 1, checked=True)


@pytest.mark.parametrize(
    ("labels", "taken"),
    [
        (np.arange(4)[:, None] % 2, True),
        (np.eye(2)[np.arange(4) % 2], True),
        (np.full((4, 2), 0.5), False),
        (np.ones((4, 2)), False),
        (np.arange(4) / 2, False),
        (np.array(["a", "b"] * 2), False),
    ],
)
def test_l7_labels_are_one_class_per_sample(tmp_path: Path, labels: np.ndarray, taken: bool) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=np.zeros((4, 1, 2, 2), np.uint8), labels=labels)
    if taken:
        assert npz.read(path).train.labels.tolist() == [0, 1, 0, 1]
    else:
        with pytest.raises(InputError, match="labels"):
            npz.read(path)


def test_e14_a_process_that_the_system_ends_is_told_from_a_fault() -> None:
    def dying(words: str) -> Any:
        yield 1
        raise RuntimeError(words)

    with pytest.raises(InputError, match="ended by the system") as caught:
        list(_living(dying("DataLoader worker (pid 7) is killed by signal: Killed.")))
    assert "--workers" in caught.value.hint
    with pytest.raises(RuntimeError, match="shapes"):
        list(_living(dying("shapes")))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--threads 1000000", 2, "--threads"),
        ("--image-size 1000000000", 2, "--image-size"),
        ("--model-arg width=-1", 2, "--model-arg"),
        ("--model-arg width=abc", 2, "--model-arg"),
        ("--model-arg depth=1.5", 2, "--model-arg"),
        ("--image-size 16384", 3, "memory has run out"),
    ],
)
def test_numbers_that_no_machine_or_network_has_are_refused(
    mcx: Callable, tmp_path: Path, words: str, code: int, said: str
) -> None:
    out = tmp_path / "out"
    done = mcx(*f"train --model mlp --dataset digits --epochs 1 {words}".split(), "--output-dir", out)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert not list(out.rglob("*.pt"))
