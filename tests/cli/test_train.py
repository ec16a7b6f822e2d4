"""`mcx train` as its user sees it."""

from __future__ import annotations

import json
from pathlib import Path

import torch

WORDS = ("train", "--model", "mlp", "--model-arg", "width=8,depth=1", "--dataset", "digits", "--epochs", "2")


def test_one_folder_per_seed_with_checkpoints_and_metrics(mcx, tmp_path: Path) -> None:
    done = mcx(*WORDS, "--seeds", "3,5", "--output-dir", tmp_path, "--save-freq", "1")
    assert done.code == 0
    for seed in (3, 5):
        folder = tmp_path / f"seed{seed}"
        assert sorted(p.name for p in folder.glob("*.pt")) == [f"checkpoint-{e}.pt" for e in (0, 1, 2)]
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [row["epoch"] for row in rows] == [1, 2]
        assert {"lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds"} < set(rows[0])
    assert "mlp on digits (610 parameters)" in done.out
    assert "epoch 2/2" in done.err


def test_a_checkpoint_has_the_original_layout_and_says_what_it_is(mcx, tmp_path: Path) -> None:
    mcx(*WORDS, "--output-dir", tmp_path, "-q")
    content = torch.load(tmp_path / "seed0/checkpoint-2.pt", weights_only=True)
    assert list(content) == ["epoch", "model_state", "optimizer_state", "mcx"]
    assert content["epoch"] == 2
    about = content["mcx"]
    assert (about["model"], about["num_classes"], about["input_shape"]) == ("mlp", 10, [1, 8, 8])
    assert (about["dataset"], about["transform"], about["seed"]) == ("digits", "half", 0)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.load_state_dict(content["optimizer_state"])
    assert len(optimizer.state) == 4


def test_json_has_one_entry_per_network(mcx, tmp_path: Path) -> None:
    done = json.loads(mcx(*WORDS, "--seeds", "0,1", "--output-dir", tmp_path, "--json").out)
    assert done["schema"] == "mcx.train/1"
    assert [network["seed"] for network in done["networks"]] == [0, 1]
    assert done["num_params"] == 610


def test_a_dry_run_says_what_would_be_done_and_does_nothing(mcx, tmp_path: Path) -> None:
    done = mcx(*WORDS, "--output-dir", tmp_path / "new", "--dry-run")
    assert (done.code, done.out) == (0, "")
    assert "1,437 images, 1 x 2 epochs" in done.err
    assert not (tmp_path / "new").exists()


def test_quiet_means_the_result_only(mcx, tmp_path: Path) -> None:
    done = mcx(*WORDS, "--output-dir", tmp_path, "-q")
    assert done.err == ""
    assert done.out


def test_what_is_missing_is_named(mcx, tmp_path: Path) -> None:
    assert "pass --output-dir" in mcx(*WORDS).err
    done = mcx("train", "--dataset", "digits", "--output-dir", tmp_path)
    assert (done.code, "pass --model" in done.err) == (2, True)
    done = mcx("train", "--model", "cnn", "--output-dir", tmp_path)
    assert (done.code, "pass --dataset" in done.err) == (2, True)
    done = mcx(*WORDS, "--dataset", "digit", "--output-dir", tmp_path)
    assert (done.code, "did you mean 'digits'?" in done.err) == (2, True)


def test_an_output_folder_that_is_a_file_is_refused_before_any_work(mcx, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("mine")
    done = mcx(*WORDS, "--output-dir", blocked)
    assert (done.code, done.out, blocked.read_text()) == (5, "", "mine")
    assert "epoch" not in done.err.split("error:")[1]


def test_a_users_own_network_is_trained_from_its_factory(mcx, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\n"
        "def tiny(num_classes, hidden=4):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.Tanh(), nn.Linear(hidden, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    words = (
        "train",
        "--model",
        "mynets:tiny",
        "--model-arg",
        "hidden=5",
        "--dataset",
        "digits",
        "--epochs",
        "1",
    )
    done = mcx(*words, "--output-dir", tmp_path / "out")
    assert done.code == 0
    assert "mynets:tiny on digits (385 parameters)" in done.out


def test_the_original_experiments_configuration_loads_as_it_is(mcx, tmp_path: Path) -> None:
    """Keys, values and switches as the original endpoint experiments write them."""
    (tmp_path / "original.yaml").write_text(
        "defaults: []\n"
        'experiment_name: "digits_endpoints"\n'
        f'output_root: "{tmp_path}/checkpoints"\n'
        'dataset: "Digits"\nmodel: "MLP"\nnum_workers: 4\n'
        "epochs: 2\nsave_intermediate: false\nsave_freq: 1\nlr: 1e-2\nwd: 5e-4\nuse_test: false\n"
        "early_stopping: false\npatience: 100\nmin_delta: 0.0\nseeds: [2]\n"
        'use_wandb: true\nproject_name: "thesis"\n'
    )
    done = mcx("train", "--config", tmp_path / "original.yaml")
    assert done.code == 0, done.err
    assert "ignored in" in done.err
    assert all(key in done.err for key in ("defaults", "experiment_name", "use_wandb", "project_name"))
    folder = tmp_path / "checkpoints/seed2"
    assert sorted(path.name for path in folder.glob("*.pt")) == ["checkpoint-0.pt", "checkpoint-2.pt"]
    assert "val_loss" in json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])


def test_a_network_that_cannot_take_the_images_is_named_before_the_work(mcx, tmp_path: Path) -> None:
    words = ("--dataset", "digits", "--epochs", "1", "--output-dir", tmp_path)
    for model in ("lenet5", "torchvision:shufflenet_v2_x0_5"):
        done = mcx("train", "--model", model, *words)
        assert (done.code, done.out) == (2, ""), done.err
        assert f"{model} cannot take images of (1, 8, 8)" in done.err
    done = mcx("train", "--model", "cnn", "--num-classes", "5", *words)
    assert (done.code, "has 5 classes" in done.err) == (2, True)


def test_e10_a_last_step_that_leaves_no_finite_weights_has_a_hint_that_the_command_can_follow(
    mcx, tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "steep.py").write_text(
        "from torch import nn\n"
        "class Steep(nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.linear = nn.Linear(64, num_classes)\n"
        "        nn.init.zeros_(self.linear.weight)\n"
        "    def forward(self, images):\n"
        "        return self.linear(1e6 * images.flatten(1))\n"
        "def net(input_shape, num_classes):\n"
        "    return Steep(num_classes)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ("train", "--model", "steep:net", "--dataset", "digits", "--max-samples", "64", "--epochs", "1")
    done = mcx(*words, "--lr", "1e38", "--eval-every", "0", "--output-dir", tmp_path / "o")
    assert (done.code, "holds NaN or infinity" in done.err) == (3, True), done.err
    assert done.err.endswith("hint: use a smaller --lr\n")
