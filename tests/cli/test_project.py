"""What stands for every command of a project: mcx.yaml, MCX_MODEL and MCX_DATASET."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from modeconn_cli.cli import complete

MINE = """
from torch import nn

def net(num_classes, input_shape):
    channels, height, width = input_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 8), nn.ReLU(), nn.Linear(8, num_classes))
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network of its own, and the working directory two folders below."""
    (tmp_path / "mine_of_a_project.py").write_text(MINE)
    (tmp_path / "mcx.yaml").write_text("model: mine_of_a_project:net\ndataset: digits\nbatch-size: 64\n")
    (tmp_path / "below" / "it").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "below" / "it")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def origins(text: str) -> dict[str, str]:
    return {line.split(":")[0].lstrip("# "): line.rpartition("# ")[2] for line in text.splitlines()}


def test_a_project_says_its_network_and_data_once(mcx, project: Path) -> None:
    done = mcx("train", "--epochs", "1", "--output-dir", "run")
    assert done.code == 0, done.err
    assert done.err.splitlines()[0] == f"{project / 'mcx.yaml'} says model, dataset, batch_size"
    provenance = json.loads(mcx("swap", "run/seed0/checkpoint-1.pt", "--output", "s.pt", "--json").out)[
        "provenance"
    ]
    assert provenance["standing"] == dict.fromkeys(("model", "dataset"), str(project / "mcx.yaml"))
    distance = mcx("l2", "run/seed0/checkpoint-1.pt", "s.pt")
    assert (distance.code, "mcx.yaml" in distance.err) == (0, False)  # it needs neither


def test_the_order_is_flag_file_checkpoint_variable_project(mcx, project: Path, monkeypatch) -> None:
    assert mcx("train", "--model", "cnn", "--epochs", "0", "--output-dir", "run").code == 0
    ask = ("csl", "score", "run/seed0", "--output-dir", "o", "--print-config")
    here = str(project / "mcx.yaml")
    found = origins(mcx(*ask).out)
    assert (found["model"], found["batch_size"]) == ("checkpoint run/seed0/checkpoint-0.pt", here)
    assert "\nmodel: cnn " in mcx(*ask).out
    assert origins(mcx(*ask, "--batch-size", "32").out)["batch_size"] == "flag"
    train = ("train", "--output-dir", "o", "--print-config")
    assert origins(mcx(*train).out)["model"] == here
    monkeypatch.setenv("MCX_MODEL", "mlp")
    assert origins(mcx(*train).out)["model"] == "MCX_MODEL"
    (project / "c.yaml").write_text("model: lenet5\n")
    assert origins(mcx(*train, "--config", "../../c.yaml").out)["model"] == "config ../../c.yaml"


def test_what_stands_for_a_project_counts_as_nobodys_wish(mcx, project: Path) -> None:
    """No setting of it is refused where it has no effect, and other data than a checkpoint's leave it alone."""
    (project / "mcx.yaml").write_text("dataset: synthetic\ntransform: vgg\nlabel-noise: 0.5\n")
    assert (
        mcx("train", "--model", "mlp", "--dataset", "digits", "--epochs", "0", "--output-dir", "run").code
        == 0
    )
    done = mcx("csl", "score", "run/seed0", "--output-dir", "o", "--print-config")
    assert "dataset: digits " in done.out
    assert "transform: vgg" not in done.out
    assert "label_noise: 0.5" not in done.out
    assert mcx("swap", "run/seed0/checkpoint-0.pt", "--output", "s.pt").code == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "modle: cnn\n",
            "line 1: 'modle' is no setting that stands for every command (did you mean 'model'?)",
        ),
        ("lr: 0.1\n", "'lr' is no setting that stands for every command"),
        ("batch_size: many\n", "batch_size: 'many' is not a whole number"),
        ("batch_size: 0\n", "batch_size must be at least 1, got 0"),
        ("model: [a\n", "not YAML"),
    ],
)
def test_a_project_file_that_cannot_be_meant_is_refused(mcx, project: Path, text: str, said: str) -> None:
    (project / "mcx.yaml").write_text(text)
    done = mcx("train", "--model", "mlp", "--dataset", "digits", "--output-dir", "o")
    assert done.code == 2
    assert said in done.err
    assert "mcx.yaml" in done.err


def test_a_project_file_of_another_user_is_not_read(mcx, project: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: os.stat(project).st_uid + 1)
    done = mcx("train", "--output-dir", "o")
    assert done.code == 2
    assert f"'{project / 'mcx.yaml'}' is not read: it belongs to another user" in done.err


def test_completion_reads_no_project_file(project: Path) -> None:
    (project / "mcx.yaml").write_text("{")
    words = {"_MCX_COMPLETE": "complete_bash", "COMP_WORDS": "mcx train --mod", "COMP_CWORD": "2"}
    assert "--model" in complete.answer(words)


def test_variables_that_no_command_knows_are_named_once(mcx, monkeypatch) -> None:
    monkeypatch.setenv("MCX_MODLE", "cnn")
    monkeypatch.setenv("MCX_DEBUG", "")
    monkeypatch.setenv("MCX_TRAIN_LR", "0.1")
    done = mcx("swap", "--checkpoint", "missing.pt", "--output", "s.pt")
    assert done.err.count("MCX_MODLE") == 1
    assert "MCX_MODLE is a variable that no command knows: did you mean 'MCX_MODEL'?" in done.err
    assert "MCX_TRAIN_LR" not in done.err


# What a program reads before it starts anything -------------------------------------------------------------


def test_settings_and_plan_are_json_for_programs(mcx, project: Path) -> None:
    done = mcx("train", "--epochs", "3", "--output-dir", "o", "--print-config", "--json")
    document = json.loads(done.out)
    assert (document["schema"], document["command"]) == ("mcx.settings/1", "mcx train")
    assert document["settings"]["epochs"] == {"value": 3, "origin": "flag"}
    assert document["settings"]["lr"] == {"value": 0.05, "origin": "default"}
    done = mcx("train", "--epochs", "3", "--output-dir", "o", "--dry-run", "--json", "-q")
    document = json.loads(done.out)
    assert (document["schema"], done.err) == ("mcx.plan/1", "")
    assert any("3 epochs" in line for line in document["plan"])
    assert not Path("o").exists()
