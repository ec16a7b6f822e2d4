"""What the documents say is what the program does."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from modeconn_cli.cli import config
from modeconn_cli.cli.commands import COMMANDS, GROUPS
from modeconn_cli.cli.complete import settings_of

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def block(name: str) -> str:
    """The fenced block after `<!-- name -->`."""
    found = re.search(rf"<!-- {name} -->\n```\w*\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


def story() -> list[list[str]]:
    """The command lines of the README's story, shortened to a few epochs."""
    text = block("story").replace("\\\n", " ")
    text = text.replace("checkpoint-20", "checkpoint-2").replace("checkpoint-60", "checkpoint-3")
    text = text.replace("--epochs 20", "--epochs 2").replace("--epochs 60", "--epochs 3")
    text = text.replace("--num-points 61", "--num-points 7").replace("$R", "results/cnn/digits")
    lines = [line for line in text.splitlines() if line.startswith("mcx ")]
    return [shlex.split(line)[1:] for line in lines]


@pytest.mark.slow
def test_the_readmes_story_can_be_pasted(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = story()
    assert len(lines) == 7
    for words in lines:
        done = mcx(*words)
        assert done.code == 0, done.err
        assert done.out
    assert (
        tmp_path / "results/cnn/digits/curve_neuronswap_mid2_reg/analysis/layer_distances_evolution.gif"
    ).exists()


@pytest.mark.slow
def test_the_readmes_samples_can_be_pasted(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shortened to four epochs and two directions."""
    text = block("samples").replace("\\\n", " ").replace("$R", "results")
    text = text.replace("checkpoint-20", "checkpoint-4").replace("--epochs 20", "--epochs 4")
    text = text.replace("--end-epoch 20 --step 5", "--end-epoch 4 --step 2").replace("1,5,10,20", "1,2")
    monkeypatch.chdir(tmp_path)
    lines = [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("mcx ")]
    assert len(lines) == 7
    for words in lines:
        done = mcx(*words, *(["--niter", "2"] if words[0] == "curvature" else []))
        assert done.code == 0, done.err
    with (tmp_path / "results/correlations/per_sample.csv").open() as stream:
        header, *rows = stream.read().splitlines()
    named = {
        "csl",
        "lt",
        "curvature",
        "directional_eig",
        "dormant_prop",
        "dormant_post",
        "flipped",
        "category",
    }
    assert named <= set(header.split(","))
    assert len(rows) == 1437


def test_the_readmes_tree_is_the_packages() -> None:
    shown = set(re.findall(r"[├└]── (\w+)/", block("tree")))
    folders = {path.parent.name for path in (ROOT / "modeconn_cli").rglob("__init__.py")} - {"modeconn_cli"}
    assert shown == folders


def test_the_readme_names_every_command() -> None:
    named = set(re.findall(r"^\| `mcx ([^`]+)`", README, re.MULTILINE))
    assert named == set(COMMANDS)


def test_every_configuration_is_loaded_by_the_command_it_names() -> None:
    for path in (ROOT / "configs").rglob("*.yaml"):
        command = re.match(r"# mcx (.+?) --config", path.read_text())
        assert command is not None, f"{path} does not begin with '# mcx COMMAND --config'"
        cls = settings_of(command[1])
        values, _, _ = config.resolve(cls, command[1], {}, path)
        cls(**values)
        assert yaml.safe_load(path.read_text())


def test_the_table_of_commands_is_what_the_modules_offer() -> None:
    import importlib

    offered = set()
    for module in {name.split()[0] for name in COMMANDS}:
        app = importlib.import_module(f"modeconn_cli.cli.{module}").app
        prefix = f"{module} " if module in GROUPS else ""
        offered |= {prefix + str(command.name) for command in app.registered_commands}
    assert offered == set(COMMANDS)


@pytest.mark.slow
def test_the_readmes_distances_can_be_pasted(
    mcx: Callable, networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    swapped = "R/endpoints_neuronswap/mid2/checkpoint-4.pt"
    assert mcx("swap", "--checkpoint", networks / "seed0/checkpoint-4.pt", "--output", swapped).code == 0
    text = block("distances").replace("\\\n", " ").replace("checkpoint-20", "checkpoint-4")
    text = text.replace("$R/endpoints/checkpoints", str(networks)).replace("$R/noisy", str(networks))
    text = text.replace("$R", "R").replace(" --step 5", "")
    lines = [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("mcx ")]
    assert len(lines) == 5
    for words in lines:
        done = mcx(*words)
        assert done.code == 0, done.err
    assert {path.name for path in Path("R/endpoint_l2_distances").glob("[!.]*")} == {
        "seed0-seed1.json", "seed0-mid2.json", "summary.txt", "summary.csv",
    }  # fmt: skip


@pytest.mark.slow
def test_the_readmes_tasks_can_be_pasted(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shortened to two epochs of a task."""
    monkeypatch.chdir(tmp_path)
    text = block("tasks").replace("\\\n", " ").replace("$R", "R")
    text = text.replace("--start-epoch 8 --end-epoch 40 --step 8", "--start-epoch 2 --end-epoch 10 --step 4")
    for line in [line for line in text.splitlines() if line.startswith("mcx ")]:
        words = shlex.split(line)[1:]
        more = {"train": ["--epochs-per-task", "2", "--save-freq", "2"], "curvature": ["--niter", "2"]}
        done = mcx(*words, *more.get(words[0], []))
        assert done.code == 0, done.err
    with (tmp_path / "R/tasks/correlations/per_sample.csv").open() as stream:
        header, *rows = stream.read().splitlines()
    assert {"csl", "curvature", "dormant_prop", "task_num", "times_seen"} <= set(header.split(","))
    assert len(rows) == 1437 - 140, "every sample that was trained on"
