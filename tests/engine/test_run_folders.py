"""Folders that other trainers wrote: which of their files are checkpoints, and of which epochs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.machine.runtime import Runtime, Silent
from modeconn_cli.engine.networks import checkpoints
from modeconn_cli.engine.networks.checkpoints import epochs, integrity
from modeconn_cli.engine.settings.scoring import RunFolderSettings


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str, level: str = "note") -> None:
        self.said.append(text)


def write(folder: Path, *names: str, **content: Any) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"weight": torch.ones(2), **content}, path)


def taken(folder: Path, **words: Any) -> tuple[dict[int, str], list[str]]:
    """epoch -> name below the folder, and what was said."""
    heard = Heard()
    found = epochs.in_range(folder, RunFolderSettings(**words), Runtime(listener=heard))
    return {epoch: path.relative_to(folder).as_posix() for epoch, path in found.items()}, heard.said


# trainer: the names of epochs, and of what is left out
SCHEMES: dict[str, tuple[dict[int, str], tuple[str, ...]]] = {
    "lightning": ({3: "epoch=3-step=400.ckpt", 10: "epoch=10-step=1100.ckpt"}, ("last.ckpt",)),
    "lightning with a metric": (
        {0: "epoch=00-val_loss=0.45.ckpt", 1: "epoch=01-val_loss=1e-05.ckpt"},
        ("last.ckpt",),
    ),
    "lightning, best": ({4: "best-epoch=04-acc=0.9.ckpt", 7: "best-epoch=07-acc=0.91.ckpt"}, ()),
    "hugging face": (
        {500: "checkpoint-500/pytorch_model.bin", 1000: "checkpoint-1000/model.safetensors"},
        ("training_args.bin", "model.safetensors"),
    ),
    "accelerate": (
        {0: "epoch_0/model.safetensors", 1: "epoch_1/model.safetensors"},
        ("random_states_0.pkl",),
    ),
    "timm": (
        {9: "checkpoint-9.pth.tar", 12: "checkpoint-12.pth.tar"},
        ("model_best.pth.tar", "last.pth.tar"),
    ),
    "torchvision": ({0: "model_0.pth", 1: "model_1.pth", 12: "model_12.pth"}, ("checkpoint.pth",)),
    "fairseq": (
        {9: "checkpoint9.pt", 12: "checkpoint12.pt"},
        ("checkpoint_best.pt", "checkpoint_last.pt", "checkpoint_1_500.pt"),
    ),
    "detectron": ({4999: "model_0004999.pth", 9999: "model_0009999.pth"}, ("model_final.pth",)),
    "yolo": ({5: "epoch5.pt", 10: "epoch10.pt"}, ("best.pt", "last.pt")),
    "keras-like": ({7: "weights.07.pt", 12: "weights.12.pt"}, ()),
    "steps": ({500: "step500.pt", 1500: "step1500.pt"}, ("latest.pt", "optimizer.pt", "scheduler500.pt")),
    "labelled beside another number": ({1: "net_ep001_it300.pt", 2: "net_ep002_it600.pt"}, ()),
    "one number twice": ({1: "run-1_1.pt", 2: "run-2_2.pt"}, ()),
    "prefix with numbers": ({3: "resnet18_cifar100_3.pth", 5: "resnet18_cifar100_5.pth"}, ()),
    "one alone": ({12: "ckpt_ep012.pth"}, ("best_ep099.pth",)),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_names_of_many_trainers_say_their_epochs(tmp_path: Path, scheme: str) -> None:
    names, beside = SCHEMES[scheme]
    write(tmp_path, *names.values(), *beside)
    (tmp_path / "events.log").write_text("")
    found, said = taken(tmp_path)
    assert (found, list(found)) == (names, sorted(names))
    assert "kept as they are" in said[0]
    assert Path(next(iter(names.values()))).name in said[0]
    assert all(name in said[1] for name in beside)


WORD = st.text("abcdfgXYZ_-.=", min_size=1, max_size=8).filter(lambda word: word[0] not in ".-")


@settings(max_examples=60, deadline=None)
@given(
    prefix=WORD,
    constant=st.integers(0, 200) | st.none(),
    width=st.integers(0, 7),
    numbers=st.sets(st.integers(0, 99_999), min_size=2, max_size=6),
    suffix=st.sampled_from((".pt", ".pth", ".ckpt", ".pth.tar", ".bin")),
)
def test_padding_and_prefixes_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory,
    prefix: str,
    constant: int | None,
    width: int,
    numbers: set[int],
    suffix: str,
) -> None:
    folder = tmp_path_factory.mktemp("run")
    begin = prefix if constant is None else f"{prefix}{constant}_"
    for number in numbers:
        (folder / f"{begin}{number:0{width}d}{suffix}").touch()
    found, _ = taken(folder)
    assert found == {number: f"{begin}{number:0{width}d}{suffix}" for number in sorted(numbers)}


def test_the_epochs_in_the_files_come_before_the_names(tmp_path: Path) -> None:
    """As MoCo writes them: file 0003 holds epoch 4, the number of epochs completed."""
    for number in range(3):
        write(tmp_path, f"checkpoint_{number:04d}.pth.tar", epoch=number + 1)
    write(tmp_path, "model_best.pth.tar", epoch=2)
    found, said = taken(tmp_path)
    assert found == {number + 1: f"checkpoint_{number:04d}.pth.tar" for number in range(3)}
    assert "own entries 'epoch'" in said[0]


def test_names_without_numbers_have_the_epochs_of_their_files(tmp_path: Path) -> None:
    write(tmp_path, "best.pt", epoch=7)
    write(tmp_path, "last.pt", epoch=10)
    assert taken(tmp_path)[0] == {7: "best.pt", 10: "last.pt"}


def test_entries_that_are_the_same_in_several_files_do_not_count(tmp_path: Path) -> None:
    write(tmp_path, "step500.pt", "step1000.pt", epoch=0)
    assert list(taken(tmp_path)[0]) == [500, 1000]


def test_the_epoch_in_a_file_is_read_without_its_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a.pt", epoch=3, optimizer={"epoch": 5})
    monkeypatch.setattr(integrity, "check_zip", lambda *_: pytest.fail("every byte was read"))
    assert integrity.epoch_in(tmp_path / "a.pt") == 3


@pytest.mark.parametrize("epoch", [-1, 2.5, True, "3", None, torch.tensor(3)])
def test_what_is_no_number_of_epochs_is_not_taken_for_one(tmp_path: Path, epoch: object) -> None:
    write(tmp_path, "a.pt", epoch=epoch)
    assert integrity.epoch_in(tmp_path / "a.pt") is None


def test_no_code_of_a_file_runs_when_its_epoch_is_read(tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    write(tmp_path, "a.pt", epoch=3, bad=Bad())
    assert integrity.epoch_in(tmp_path / "a.pt") is None
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("names", "patterns"),
    [
        (["model_1_300.pth", "model_2_600.pth"], ["model_{epoch}_*.pth", "model_*_{epoch}.pth"]),
        (["G_1.pth", "G_2.pth", "D_1.pth", "D_2.pth"], ["D_{epoch}.pth", "G_{epoch}.pth"]),
        (
            ["epoch=0-step=5.ckpt", "epoch=0-step=9.ckpt", "epoch=1-step=12.ckpt"],
            ["epoch=*-step={epoch}.ckpt"],
        ),
        (["seed1.pt", "seed2.pt"], []),
        (["resnet18.pt"], ["resnet{epoch}.pt"]),
        (["a.pt", "b.pt"], []),
    ],
)
def test_what_is_not_clear_is_listed_with_the_patterns_that_settle_it(
    tmp_path: Path, names: list[str], patterns: list[str]
) -> None:
    write(tmp_path, *names)
    with pytest.raises(InputError) as caught:
        taken(tmp_path)
    assert all(name in caught.value.message for name in names)
    assert "--pattern" in caught.value.hint
    assert all(f"--pattern '{each}'" in caught.value.hint for each in patterns)
    for pattern in patterns:
        assert taken(tmp_path, pattern=pattern)[0] or len(names) == 1


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("step{epoch}.pt", {5: "step5.pt", 12: "step12.pt"}),
        ("model_*_{epoch}.pth", {300: "model_1_300.pth", 600: "model_2_600.pth"}),
        ("model_{epoch}_*", {1: "model_1_300.pth", 2: "model_2_600.pth"}),
        ("at-{epoch}/*", {7: "at-7/weights", 10: "at-10/weights"}),
    ],
)
def test_a_pattern_says_which_files_and_which_number(
    tmp_path: Path, pattern: str, found: dict[int, str]
) -> None:
    write(
        tmp_path,
        "step5.pt",
        "step12.pt",
        "model_1_300.pth",
        "model_2_600.pth",
        "at-7/weights",
        "at-10/weights",
    )
    write(tmp_path, "checkpoint-500/pytorch_model.bin", "checkpoint-500/optimizer.pt")
    write(tmp_path, "checkpoint-3.pt", "step5.pt.old", "last_step5.pt")
    assert taken(tmp_path, pattern=pattern) == (found, [])
    assert list(taken(tmp_path, pattern=pattern, start_epoch=max(found))[0]) == [max(found)]


@pytest.mark.parametrize("pattern", ["step.pt", "{epoch}_{epoch}.pt", "/a/{epoch}.pt", "../{epoch}.pt", ""])
def test_a_pattern_is_of_names_in_the_folder_with_one_epoch(pattern: str) -> None:
    with pytest.raises(SettingsError, match="--pattern"):
        RunFolderSettings(pattern=pattern)


def test_a_pattern_that_nothing_fits_is_refused_with_what_is_there(tmp_path: Path) -> None:
    write(tmp_path, "model_1.pth")
    with pytest.raises(InputError) as caught:
        taken(tmp_path, pattern="step{epoch}.pt")
    assert "step{epoch}.pt" in caught.value.message
    assert "model_1.pth" in caught.value.hint


def test_files_that_torch_did_not_write_are_no_checkpoints(tmp_path: Path) -> None:
    for name in ("weights.07.h5", "weights.08.h5"):
        (tmp_path / name).touch()
    with pytest.raises(InputError) as caught:
        taken(tmp_path)
    assert "no checkpoints" in caught.value.message
    assert "weights.07.h5" in caught.value.hint
    assert "torch.save" in caught.value.hint


def test_a_folder_above_another_trainers_gets_a_hint(tmp_path: Path) -> None:
    write(tmp_path, "weights/epoch5.pt", "weights/epoch6.pt")
    with pytest.raises(InputError) as caught:
        taken(tmp_path)
    assert caught.value.hint == f"did you mean {tmp_path / 'weights'}?"


def test_known_names_leave_others_alone(tmp_path: Path) -> None:
    write(tmp_path, "checkpoint-1.pt", "checkpoint-2.pt", "last.pt", "model_9.pth", epoch=40)
    assert taken(tmp_path) == ({1: "checkpoint-1.pt", 2: "checkpoint-2.pt"}, [])


def test_shards_are_one_checkpoint_by_their_index(tmp_path: Path) -> None:
    for step in (500, 1000):
        folder = tmp_path / f"checkpoint-{step}"
        parts = [f"pytorch_model-0000{k}-of-00002.bin" for k in (1, 2)]
        for k, part in enumerate(parts):
            folder.mkdir(exist_ok=True)
            torch.save({f"weight{k}": torch.full((2,), float(step))}, folder / part)
        index = {"weight_map": {f"weight{k}": part for k, part in enumerate(parts)}}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    found, _ = taken(tmp_path)
    assert list(found) == [500, 1000]
    state = checkpoints.read(tmp_path / found[1000]).state
    assert {name: tensor.tolist() for name, tensor in state.items()} == {
        "weight0": [1000] * 2,
        "weight1": [1000] * 2,
    }
    with pytest.raises(InputError, match="not clear"):  # the folder itself is one checkpoint
        taken(tmp_path / "checkpoint-500")


@pytest.mark.parametrize(
    ("there", "words", "flags"),
    [
        (
            range(0, 4000, 200),
            {"start_epoch": 0, "end_epoch": 4000, "epoch_step": 200},
            "pass --end-epoch 3800",
        ),
        (range(1, 6), {"start_epoch": 0, "end_epoch": 9}, "pass --start-epoch 1 --end-epoch 5"),
        (range(500, 2001, 500), {"end_epoch": 2000}, "pass --step 500"),
        ((0, 1, 5), {"end_epoch": 5}, "choose with --start-epoch"),
        ((0, 1), {"start_epoch": 5, "end_epoch": 9}, "choose with --start-epoch"),
    ],
)
def test_a_range_beyond_what_is_there_names_the_flags_that_are_within(
    tmp_path: Path, there: range, words: dict[str, int], flags: str
) -> None:
    for epoch in there:
        (tmp_path / f"checkpoint-{epoch}.pt").touch()
    with pytest.raises(InputError) as caught:
        taken(tmp_path, **words)
    assert flags in caught.value.hint
    if flags.startswith("pass"):
        given_flags = dict(re.findall(r"--(\S+) (\d+)", flags))
        asked = {"epoch_step": "step", "start_epoch": "start-epoch", "end_epoch": "end-epoch"}
        again = words | {name: int(given_flags[flag]) for name, flag in asked.items() if flag in given_flags}
        assert taken(tmp_path, **again)[0]


def test_a_folder_of_another_trainer_is_scored_and_measured(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for epoch in range(2):
        torch.manual_seed(epoch)
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        (tmp_path / "run").mkdir(exist_ok=True)
        torch.save(net.state_dict(), tmp_path / f"run/model_1_{epoch}.pth")
        torch.save(net.state_dict(), tmp_path / f"run/other_{epoch}.pth")
    (tmp_path / "own_of_a_folder.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    run = (
        "--checkpoint-dir",
        tmp_path / "run",
        "--output-dir",
        tmp_path / "out",
        "--pattern",
        "other_{epoch}.pth",
    )
    data = ("--model", "own_of_a_folder:net", "--dataset", "digits", "--max-samples", "20")
    assert mcx("csl", "score", *run, *data).code == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("loss_ce_*")) != []
    done = mcx("l2", tmp_path / "run", "--pattern", "model_*_{epoch}.pth")
    assert (done.code, "Trajectory" in done.out) == (0, True), done.err
    done = mcx("l2", tmp_path / "run/model_1_0.pth", tmp_path / "run/other_0.pth", "--pattern", "{epoch}")
    assert (done.code, "--pattern" in done.err) == (2, True)
    assert mcx("l2", tmp_path / "run").code == 3


# Several runs, and folders of folders --------------------------------------------------------------------------

RUNS: dict[str, list[list[str]]] = {  # the names of each run
    "seeds, without an epoch twice": [["seed0_epoch1.pt", "seed0_epoch3.pt"], ["seed1_epoch2.pt"]],
    "a fold each": [["net-fold1-epoch=7.ckpt"], ["net-fold2-epoch=9.ckpt"]],
    "letters": [["runA_ep1.pt", "runA_ep3.pt"], ["runB_ep2.pt"]],
    "words": [["wide_epoch1.pt", "wide_epoch4.pt"], ["deep_epoch2.pt", "deep_epoch3.pt"]],
    "a number without a name": [["w16_epoch1.pt", "w16_epoch4.pt"], ["w32_epoch2.pt", "w32_epoch3.pt"]],
    "metrics beside": [["trial_3_epoch=1_loss=0.5.pt", "trial_3_epoch=3_loss=0.3.pt"], ["trial_4_epoch=2_loss=0.4.pt"]],
}  # fmt: skip


@pytest.mark.parametrize("kind", RUNS)
def test_runs_in_one_folder_are_told_apart_where_no_epoch_is_there_twice(tmp_path: Path, kind: str) -> None:
    write(tmp_path, *(name for run in RUNS[kind] for name in run))
    with pytest.raises(InputError, match=f"holds checkpoints of {len(RUNS[kind])} runs") as caught:
        taken(tmp_path)
    found = [
        sorted(taken(tmp_path, pattern=each)[0].values())
        for each in re.findall(r"'([^']+)'", caught.value.hint)
    ]
    assert sorted(found) == sorted(map(sorted, RUNS[kind]))


@pytest.mark.parametrize(
    "names",
    [
        ["epoch=3-step=400.ckpt", "epoch=4-step=500.ckpt"],
        ["ep1_acc91.pt", "ep2_acc90.pt", "ep3_acc91.pt", "ep4_acc90.pt"],
        ["epoch=0-loss=0.23.pt", "epoch=1-loss=0.21.pt", "epoch=2-loss=0.23.pt", "epoch=3-loss=0.21.pt"],
        ["lr10_epoch1.pt", "lr10_epoch2.pt", "lr1_epoch3.pt", "lr1_epoch4.pt"],
        ["run-1_1.pt", "run-2_2.pt"],
        ["seed3_epoch1.pt", "seed3_epoch2.pt"],
        ["trunk1_epoch1.pt", "trunk1_epoch2.pt"],
    ],
)  # fmt: skip
def test_what_varies_with_the_epoch_is_one_run(tmp_path: Path, names: list[str]) -> None:
    write(tmp_path, *names)
    assert sorted(taken(tmp_path)[0].values()) == sorted(names)


def test_a_hint_has_flags_of_the_command_alone(mcx: Callable, tmp_path: Path) -> None:
    write(tmp_path / "dup", *(f"epoch_{epoch}.{kind}" for epoch in (1, 2) for kind in ("pt", "pth")))
    write(tmp_path / "runs", *(f"index-{run}_epoch-{epoch}.pt" for run in (0, 1) for epoch in (1, 2)))
    for folder, pattern in (("dup", "epoch_{epoch}.pth"), ("runs", "index-1_epoch-{epoch}.pt")):
        done = mcx("l2", tmp_path / folder)
        assert (done.code, "--run-idx" in done.err) == (2, False)
        assert f"--pattern '{pattern}'" in done.err
        assert mcx("l2", tmp_path / folder, "--pattern", pattern).code == 0
    words = ("--output-dir", tmp_path / "o", "--model", "cnn", "--dataset", "digits")
    assert "--run-idx" in mcx("csl", "score", tmp_path / "runs", *words).err
    assert "--run-idx" not in mcx("csl", "score", tmp_path / "dup", *words).err


def test_one_checkpoint_in_each_numbered_folder_is_that_of_an_epoch(tmp_path: Path) -> None:
    for name, scheme in (("model.pt", "epoch_{}"), ("ckpt.pth", "e{}")):
        folder = tmp_path / name
        write(folder, *(f"{scheme.format(epoch)}/{name}" for epoch in (1, 2, 10)))
        (folder / "logs").mkdir()
        assert taken(folder)[0] == {epoch: f"{scheme.format(epoch)}/{name}" for epoch in (1, 2, 10)}
    write(tmp_path / "two", *(f"e{epoch}/{name}.pt" for epoch in (1, 2) for name in ("gen", "critic")))
    with pytest.raises(InputError, match="no checkpoints") as caught:
        taken(tmp_path / "two")
    for pattern in re.findall(r"'([^']+)'", caught.value.hint):
        assert list(taken(tmp_path / "two", pattern=pattern)[0]) == [1, 2]
    write(tmp_path / "seeds", "seed0/last.pt", "seed1/last.pt", epoch=3)
    write(tmp_path / "lightning", "version_0/checkpoints/epoch=0-step=10.ckpt")
    for name, below in (("seeds", "seed0"), ("lightning", "version_0/checkpoints")):
        with pytest.raises(InputError) as caught:
            taken(tmp_path / name)
        assert caught.value.hint == f"did you mean {tmp_path / name / below}?"
