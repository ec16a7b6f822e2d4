"""What is asked of a command: what it cannot do without, and what would have no effect."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modeconn_cli.cli.commands import COMMANDS
from modeconn_cli.cli.complete import settings_of
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.settings.base import specs
from modeconn_cli.engine.settings.csl import CslScoreSettings
from modeconn_cli.engine.settings.shared import ModelSettings
from modeconn_cli.engine.settings.swap import SwapSettings

# What is required ------------------------------------------------------------------------------------------

FOLDER = ("no folder for the results", "pass --output-dir DIR")
ENDS = ("a curve needs two endpoints", "pass --endpoint0 FILE --endpoint1 FILE")
PATH = (
    "give either a curve or two endpoints", "pass --curve-checkpoint FILE, or --endpoint0 and --endpoint1"
)  # fmt: skip
LINE = "mcx lmc interpolate A.pt B.pt"
CHECKPOINTS = ("give either one checkpoint or a folder of them", "pass --checkpoint or --checkpoint-dir")
MISSING: dict[str, tuple[str, str]] = {
    "train": FOLDER,
    "train --output-dir o": ("no network", "pass --model NAME, or pkg.mod:factory for your own"),
    "swap": ("no network to swap", "pass --checkpoint FILE"),
    "swap --checkpoint a.pt": ("no file for the swapped network", "pass --output FILE"),
    "curve train": ENDS,
    "curve train --endpoint0 a.pt --output-dir o": ENDS,
    "curve train --endpoint0 a.pt --endpoint1 b.pt": FOLDER,
    "curve eval": FOLDER,
    "curve eval --output-dir o": PATH,
    "curve eval --output-dir o --endpoint0 a.pt": PATH,
    "curve eval --output-dir o --curve-checkpoint c.pt --endpoint0 a.pt --endpoint1 b.pt": PATH,
    "curve plane": FOLDER,
    "curve plane --output-dir o": (
        "give either three networks, a curve, or a run",
        "mcx curve plane A.pt B.pt C.pt, --curve-checkpoint FILE or --run DIR",
    ),
    "curve plane a.pt b.pt --output-dir o": (
        "a plane goes through three networks, got 2", "mcx curve plane A.pt B.pt C.pt"
    ),
    "curve compare": ("no folder to read", "mcx curve compare DIR…"),
    "curve analyze": ("no curve", "pass --curve-checkpoint FILE"),
    "curve analyze --curve-checkpoint c.pt": FOLDER,
    "curve extract": ("no position", "pass --t between 0 and 1"),
    "curve extract --t 0.5": ("no file for the network", "pass --output FILE.pt"),
    "curve extract --t 0.5 --output a.pt": PATH,
    "lmc run": FOLDER,
    "lmc run --output-dir o": ("no network", "pass --model NAME or --preset NAME"),
    "lmc run --preset digits": FOLDER,
    "lmc interpolate": ("two checkpoints are needed, got 0", LINE),
    "lmc interpolate --endpoint1 a.pt": ("two checkpoints are needed, got 1", LINE),
    "lmc interpolate a.pt b.pt c.pt": ("two checkpoints are needed, got 3", LINE),
    "lmc interpolate a.pt b.pt --curve-checkpoint c.pt": PATH,
    "lmc report": ("no folder to read", "mcx lmc report DIR…"),
    "csl score": FOLDER,
    "csl score --output-dir o": CHECKPOINTS,
    "csl score --output-dir o --checkpoint a.pt --checkpoint-dir d": CHECKPOINTS,
    "csl aggregate": ("no arrays", "pass --input-dir DIR, or --from FILE for other tools' files"),
    "csl aggregate --input-dir i": FOLDER,
    "curvature": CHECKPOINTS,
    "dormant": CHECKPOINTS,
    "memo": FOLDER,
    "memo --output-dir o": ("no network", "pass --model NAME, or pkg.mod:factory for your own"),
    "correlate": FOLDER,
    "correlate --output-dir o": (
        "no metrics", "pass --csl, --lt, --scores, --curvature, --dormant, --memo, --tracking or --with"
    ),
    "animate": ("no layer distances", "pass --data FILE.npz, a file of mcx curve analyze"),
    "animate --data d.npz": ("no file for the result", "pass --output FILE.gif"),
    "info": ("no checkpoint", "mcx info FILE"),
    "convert": ("no checkpoint", "mcx convert FILE --layout … --output FILE"),
    "status": ("no folder", "mcx status DIR"),
    "completion": ("which shell?", "mcx completion bash, zsh or fish; mcx completion install"),
}  # fmt: skip


@pytest.mark.parametrize("line", MISSING)
def test_what_a_command_cannot_do_without_is_asked_for(mcx, line: str) -> None:
    message, hint = MISSING[line]
    command = next(name for name in COMMANDS if f"{line} ".startswith(f"{name} "))
    done = mcx(*line.split())
    assert (done.code, done.out) == (2, "")
    assert done.err == f"mcx {command}: error: {message}\nhint: {hint}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_settings_can_be_looked_at_before_they_are_complete(mcx, command: str) -> None:
    done = mcx(*command.split(), "--print-config")
    assert (done.code, done.err) == (0, "")
    shown = [line.lstrip("# ").partition(":")[0] for line in done.out.splitlines()]
    assert shown == [spec.name for spec in specs(settings_of(command))]


# What would have no effect ---------------------------------------------------------------------------------

TRAIN = "train --model mlp --output-dir o"
SWAP = "swap --checkpoint a.pt --output b.pt"
CURVE = "curve train --endpoint0 a.pt --endpoint1 b.pt --output-dir o"
EVAL = "curve eval --endpoint0 a.pt --endpoint1 b.pt --output-dir o"
EXTRACT = "curve extract --endpoint0 a.pt --endpoint1 b.pt --t 0.5 --output c.pt"
SCORE = "csl score --output-dir o"
# Every flag has the value that it has without being given.
IDLE: dict[str, str] = {
    f"{TRAIN} --min-delta 0": "--min-delta has no effect without --patience",
    f"{TRAIN} --optimizer adam --momentum 0.9": "--momentum has no effect with --optimizer adam",
    f"{TRAIN} --label-seed 0": "--label-seed has no effect without --label-noise",
    f"{TRAIN} --seeds 0,1 --seed 0": "--seed has no effect with --seeds",
    f"{TRAIN} --epochs-per-task 200": "--epochs-per-task has no effect without --classes-per-task",
    f"{TRAIN} --track-every 1": "--track-every has no effect without --track-samples",
    f"{TRAIN} --track-format csv": "--track-format has no effect without --track-samples",
    f"{SWAP} --pairs 1:2 --num-swaps 1": "--num-swaps has no effect with --pairs",
    f"{SWAP} --layer-name a --layer-depth mid": "--layer-depth has no effect with --layer-name",
    f"{SWAP} --mirror --num-swaps 1": (
        "--num-swaps has no effect with --mirror and --random, which permute every hidden layer"
    ),
    f"{SWAP} --use-test": "--use-test has no effect without --verify",
    f"{SWAP} --no-verify --max-samples 5": "--max-samples has no effect without --verify",
    f"{SWAP} --data-path d": "--data-path has no effect without --verify",
    f"{SWAP} --verify --labels clean": "--labels has no effect on the test images",
    "l2 a.pt b.pt --download": (
        "--download has no effect without fisher or functional in --metric, or --align activations"
    ),
    "l2 a.pt b.pt --metric functional --labels clean": (
        "--labels has no effect without --fisher empirical on training samples"
    ),
    "l2 a.pt b.pt --metric fisher --labels trained": (
        "--labels has no effect without --fisher empirical on training samples"
    ),
    "l2 a.pt b.pt --step 1": "--start-epoch, --end-epoch and --step choose from a folder or a pattern",
    "l2 a.pt b.pt --pairs first": "--pairs has no effect on two checkpoints",
    "l2 a.pt b.pt --fisher true": "--fisher has no effect without fisher in --metric",
    "l2 a.pt b.pt --metric functional --fisher-samples 1000": (
        "--fisher-samples has no effect without fisher in --metric"
    ),
    "l2 a.pt b.pt --num-classes 3": (
        "--num-classes has no effect without fisher or functional in --metric, --align activations or --model"
    ),
    "l2 a.pt b.pt --dataset digits": (
        "--dataset has no effect without fisher or functional in --metric, --align activations or --model"
    ),
    "l2 a.pt b.pt --model mlp --max-samples 9": (
        "--max-samples has no effect without fisher or functional in --metric, or --align activations"
    ),
    "l2 a.pt b.pt --labels trained": "--labels has no effect without --fisher empirical on training samples",
    "l2 a.pt b.pt --split test": "--split has no effect without fisher or functional in --metric",
    "l2 a.pt b.pt --overwrite": "--overwrite has no effect without --output or --output-dir",
    "l2 a.pt b.pt c.pt --show-top-k 10": (
        "--show-top-k has no effect on several checkpoints without --output-dir"
    ),
    f"{CURVE} --min-delta 0": "--min-delta has no effect without --patience",
    f"{CURVE} --init-curve c.pt": "--init-curve has no effect with --init-method linear",
    f"{CURVE} --init-alpha 0.5": "--init-alpha has no effect with --init-method linear and --num-bends 3",
    f"{CURVE} --init-method biased --num-bends 5 --init-alpha 0.5": (
        "--init-alpha has no effect with --init-method biased and --num-bends 5"
    ),
    f"{CURVE} --init-method biased --init-noise 0.01": "--init-noise has no effect with --init-method biased",
    f"{CURVE} --compat elementwise-noise": "--compat has no effect with --init-method linear",
    f"{CURVE} --init-method perturbed --init-inside-sphere": (
        "--init-inside-sphere has no effect with --init-method perturbed"
    ),
    f"{EVAL} --bn keep --bn-samples 9": "--bn-samples has no effect with --bn keep",
    f"{EVAL} --dist off --dist-timeout 600": "--dist-timeout has no effect with --dist off",
    f"{EVAL} --label-noise 0 --label-seed 0": "--label-seed has no effect with --label-noise 0",
    f"{EVAL} --label-noise 0 --labels trained": "--labels has no effect with --label-noise 0",
    f"{EXTRACT} --bn none --val-size 5": "--val-size has no effect with --bn none",
    f"{EXTRACT} --bn none --workers 2": "--workers has no effect with --bn none",
    f"{EXTRACT} --labels clean": "unknown option '--labels'",
    f"{TRAIN} --dataset digits --data-path d": "--data-path has no effect on the data set digits",
    f"{TRAIN} --dataset synthetic --download": "--download has no effect on the data set synthetic",
    f"{TRAIN} --dataset mine:make --data-path d": "--data-path has no effect on a data factory",
    f"{TRAIN} --dataset d.npz --download": "--download has no effect on an .npz file",
    f"{TRAIN} --dataset d.npz --data-arg a=1": "--data-arg has no effect on an .npz file",
    f"{TRAIN} --dataset imagenet --download": "--download has no effect on a folder of images",
    "lmc run --model mlp --output-dir o --schedule-epochs 5": (
        "--schedule-epochs has no effect with --schedule constant"
    ),
    "lmc run --model mlp --output-dir o --label-seed 5": "--label-seed has no effect without --label-noise",
    "lmc interpolate a.pt b.pt --endpoint0 c.pt": "--endpoint0 has no effect with CHECKPOINTS",
    "lmc interpolate a.pt b.pt --resume": "--resume has no effect without --output-dir",
    "curve compare d --overwrite": "--overwrite has no effect without --output-dir",
    "lmc report d --overwrite": "--overwrite has no effect without --output-dir",
    f"{SCORE} --checkpoint a.pt --step 1": "--epoch-step has no effect with --checkpoint",
    f"{SCORE} --checkpoint a.pt --allow-missing": "--allow-missing has no effect with --checkpoint",
    f"{SCORE} --checkpoint-dir d --weight-decay 0 --wd-form seed": (
        "--wd-form has no effect with --weight-decay 0"
    ),
    f"{SCORE} --checkpoint-dir d --scheme short --noise-level 0.01": (
        "--noise-level has no effect with --scheme short"
    ),
    f"{SCORE} --checkpoint a.pt --scheme short --run-idx 1": "--run-idx has no effect with --scheme short",
    f"{SCORE} --checkpoint a.pt --split test --labels clean": (
        "--labels has no effect with --split test, whose labels are never flipped"
    ),
    f"{SCORE} --checkpoint-dir d --classes-per-task 5": (
        "--classes-per-task has no effect without --seen-classes"
    ),
    "curvature --checkpoint a.pt --start-epoch 0": "--start-epoch has no effect with --checkpoint",
    "dormant --checkpoint a.pt --end-epoch 0": "--end-epoch has no effect with --checkpoint",
    "correlate --csl c --output-dir o --by task_num --class-map c.csv": (
        "--class-map has no effect without class_id in --by"
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "align a.pt --to b.pt",
        "merge a.pt b.pt",
        "swap a.pt",
        "convert a.pt --layout mcx",
        "curve extract --endpoint0 a.pt --endpoint1 b.pt --t 0.5",
    ],
)
def test_a_name_of_a_format_that_is_not_written_is_refused(
    mcx, tmp_path: Path, monkeypatch, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.pt", "b.pt"):
        Path(name).touch()
    done = mcx(*line.split(), "--output", "out.safetensors")
    assert (done.code, done.out) == (2, "")
    assert "'out.safetensors': safetensors files are read, not written\nhint: end the name in .pt" in done.err


@pytest.mark.parametrize("line", IDLE)
def test_a_flag_that_nothing_would_read_is_refused(mcx, tmp_path: Path, monkeypatch, line: str) -> None:
    monkeypatch.chdir(tmp_path)
    there = {tmp_path / "a.pt", tmp_path / "b.pt"}
    for path in there:
        path.touch()
    done = mcx(*line.split())
    assert (done.code, done.out, set(tmp_path.iterdir())) == (2, "", there)
    assert f": error: {IDLE[line]}\n" in done.err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_takes_a_network_from_a_file_says_which(command: str) -> None:
    cls = settings_of(command)
    if not issubclass(cls, ModelSettings):
        return
    assert cls(checked=True).sources == ()
    paths = {spec.name: Path("a.pt") for spec in specs(cls) if spec.kind is Path and not spec.many}
    many = {spec.name: (Path("a.pt"), Path("b.pt")) for spec in specs(cls) if spec.kind is Path and spec.many}
    sources = cls(checked=True, **paths, **many).sources
    assert sources
    assert set(sources) <= {Path("a.pt"), Path("b.pt")}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_setting_depends_on_is_a_setting_of_the_same_command(command: str) -> None:
    settings = settings_of(command)(checked=True)
    assert set(settings.idle()) <= {spec.name for spec in specs(type(settings))}


ASKED = ("swap", "--checkpoint", "missing.pt", "--output", "b.pt", "--pairs", "1:2")
REFUSED = "--num-swaps has no effect with --pairs"


@pytest.mark.parametrize(
    ("flags", "variable", "file", "refused"),
    [
        ([], None, None, False),
        (["--num-swaps", "1"], None, None, True),
        (["--num-swaps", "2"], None, None, True),
        ([], "1", None, True),
        ([], "2", None, True),
        ([], "", None, False),
        ([], None, "num_swaps: 1", False),
        ([], None, "num_swaps: 2", True),
        ([], "1", "num_swaps: 1", True),
        (["--num-swaps", "1"], None, "num_swaps: 2", True),
    ],
)
def test_a_setting_is_given_by_a_flag_a_variable_or_another_value_in_a_file(
    mcx, tmp_path: Path, monkeypatch, flags: list[str], variable: str | None, file: str | None, refused: bool
) -> None:
    """A file lists defaults too, as the one that every run writes."""
    monkeypatch.chdir(tmp_path)
    if variable is not None:
        monkeypatch.setenv("MCX_SWAP_NUM_SWAPS", variable)
    if file is not None:
        (tmp_path / "c.yaml").write_text(file)
        flags = [*flags, "--config", "c.yaml"]
    done = mcx(*ASKED, *flags)
    expected = (2, REFUSED) if refused else (3, "'missing.pt' does not exist")
    assert (done.code, expected[1] in done.err) == (expected[0], True), done.err


def test_a_variable_of_another_command_gives_nothing(mcx, monkeypatch) -> None:
    for name in ("MCX_L2_NUM_SWAPS", "MCX_CURVE_SWAP_NUM_SWAPS", "MCX_SWAPS_NUM_SWAPS", "MCX_DEVICE"):
        monkeypatch.setenv(name, "1")
    assert mcx(*ASKED).code == 3


@pytest.mark.parametrize(
    ("command", "name", "hint"),
    [
        ("train", "MCX_TRAIN_LABELS", "did you mean 'MCX_TRAIN_LABEL_SEED'?"),
        ("train", "MCX_TRAIN_EPOCH", "did you mean 'MCX_TRAIN_EPOCHS'?"),
        ("curve train", "MCX_CURVE_TRAIN_BENDS", "did you mean 'MCX_CURVE_TRAIN_NUM_BENDS'?"),
        ("csl score", "MCX_CSL_SCORE_GRADS", "did you mean 'MCX_CSL_SCORE_GRAD'?"),
        ("swap", "MCX_SWAP_LAYER_NAMES", "did you mean 'MCX_SWAP_LAYER_NAME'?"),
    ],
)
def test_a_variable_that_is_no_setting_of_its_command_is_refused(
    mcx, monkeypatch, command: str, name: str, hint: str
) -> None:
    words = (*command.split(), "--print-config")
    monkeypatch.setenv(name, "")
    assert mcx(*words).code == 0
    monkeypatch.setenv(name, "clean")
    done = mcx(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err == f"mcx {command}: error: {name}: unknown setting of '{command}'\nhint: {hint}\n"
    assert mcx("info", "--print-config").code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("lmc", "run", "--branch-seed", "3,4,3"), "--branch-seed names 3 twice"),
        (("lmc", "run", "--k1", "0,1,0"), "--k1 names 0 twice"),
        (("lmc", "run", "--k2", "1,1"), "--k2 names 1 twice"),
        (("lmc", "report", "a", "b", "a"), "FOLDERS names a twice"),
        (("train", "--seeds", "1,1"), "--seeds names 1 twice"),
        (("curvature", "--sweep-h", "1e-3,0.001"), "--sweep-h names 0.001 twice"),
        (("curvature", "--sweep-niter", "5,5"), "--sweep-niter names 5 twice"),
        (("l2", "a.pt", "b.pt", "--metric", "l2,l2"), "--metric names l2 twice"),
        (("correlate", "--with", "a.csv,a.csv"), "--with-files names a.csv twice"),
        (("correlate", "--by", "class_id,class_id"), "--by names class_id twice"),
        (("train", "--model", "mlp", "--model-arg", "width=4,width=5"), "--model-arg names width twice"),
    ],
)
def test_what_a_list_names_twice_is_refused(mcx, tmp_path, words: tuple[str, ...], message: str) -> None:
    """It would count once, and a mean over seeds would be of fewer than it says."""
    folder = () if words[0] in ("l2",) or "report" in words else ("--output-dir", tmp_path / "out")
    network = () if {"--model", "report"} & {*words} else ("--model", "mlp")
    done = mcx(
        *words,
        *folder,
        *(
            (*network, "--dataset", "digits")
            if words[0] in ("train", "lmc") and "report" not in words
            else ()
        ),
    )
    assert (done.code, done.out) == (2, ""), done.err
    assert done.err.splitlines()[0].endswith(f": error: {message}")
    assert not (tmp_path / "out").exists()


def test_settings_made_in_python_are_given_where_they_differ_from_the_default() -> None:
    words: dict[str, Any] = {"checkpoint": Path("a.pt"), "output": Path("b.pt"), "pairs": ("1:2",)}
    assert SwapSettings(**words, num_swaps=1) == SwapSettings(**words)
    with pytest.raises(SettingsError, match=REFUSED):
        SwapSettings(**words, num_swaps=2)
    with pytest.raises(SettingsError, match=REFUSED):
        SwapSettings(**words, explicit=frozenset({"num_swaps"}))
    with pytest.raises(SettingsError, match="no file for the swapped network"):
        SwapSettings(checkpoint=Path("a.pt"))


def test_what_was_given_is_no_part_of_settings_and_stays_with_them() -> None:
    plain = CslScoreSettings(output_dir=Path("o"), checkpoint=Path("a.pt"))
    given = replace(plain, explicit=frozenset({"grad"}))
    assert (given, hash(given), repr(given)) == (plain, hash(plain), repr(plain))
    assert given.as_plain() == plain.as_plain()
    assert given.recorded() == plain.recorded()
    filled = replace(given, start_epoch=3)  # a command's own doing: with --checkpoint a user may not
    assert (filled.was_given("grad"), filled.was_given("split"), filled.start_epoch) == (True, False, 3)


# What nothing reads is not compared ------------------------------------------------------------------------

CNN = "{0}/seed0/checkpoint-4.pt"
OTHER = "{0}/seed1/checkpoint-4.pt"
PAIR = f"--endpoint0 {CNN} --endpoint1 {OTHER}"
SMALL = "--max-samples 40"


@pytest.mark.parametrize(
    ("line", "unread"),
    [
        (f"csl score --checkpoint {CNN} --grad none {SMALL} --output-dir o", "--seed 7"),
        (f"csl score --checkpoint {CNN} --grad none {SMALL} --weight-decay 0 --output-dir o", "--seed 7"),
        (f"dormant --checkpoint {CNN} {SMALL} --output-dir o", "--seed 7"),
        (f"dormant --checkpoint {CNN} --split test --label-noise 0.5 {SMALL} --output-dir o", "--seed 7"),
        (f"l2 {CNN} {OTHER} --metric functional --label-noise 0.5 {SMALL} --output o.json", "--seed 7"),
        (f"curve eval {PAIR} --num-points 2 {SMALL} --output-dir o", "--seed 7 --bn keep"),
        (f"curve eval {PAIR} --num-points 2 {SMALL} --bn none --output-dir o", "--seed 7"),
        (f"lmc interpolate {PAIR} --num-alphas 3 {SMALL} --output-dir o", "--seed 7 --bn-samples 9"),
        (
            f"curve plane {CNN} --random-directions 1 --grid-points 2 {SMALL} --output-dir o",
            "--seed 7 --bn keep",
        ),
        (f"curve extract {PAIR} --t 0.5 --output o.pt", "--seed 7 --batch-size 9 --max-samples 5"),
        (f"curve extract {PAIR} --t 0.5 --bn none --output o.pt", "--seed 7 --batch-size 9"),
        (f"swap --checkpoint {CNN} --output o.pt", "--batch-size 9"),
        (f"swap --checkpoint {CNN} --output o.pt --pairs 0:1 --no-verify", "--seed 7"),
        (f"swap --checkpoint {CNN} --output o.pt --mirror --no-verify", "--seed 7 --batch-size 9"),
        (f"curve extract {PAIR} --t 0.5 --bn keep --output o.pt", "--seed 7"),
        (f"l2 {CNN} {OTHER} --output o.json", "--seed 7 --batch-size 9"),
        (f"l2 {CNN} {OTHER} --metric functional {SMALL} --output o.json", "--seed 7"),
    ],
)
def test_a_setting_that_nothing_reads_does_not_refuse_a_continuation(
    mcx, networks: Path, tmp_path: Path, monkeypatch, line: str, unread: str
) -> None:
    monkeypatch.chdir(tmp_path)
    words = line.format(networks).split()
    assert mcx(*words).code == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("o*") if path.is_file()}
    done = mcx(*words, *unread.split())
    assert (done.code, "already complete" in done.err) == (0, True), done.err
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    "line",
    [
        f"csl score --checkpoint {CNN} --grad none {SMALL} --output-dir o",
        f"dormant --checkpoint {CNN} {SMALL} --output-dir o",
        f"curve eval {PAIR} --num-points 2 {SMALL} --output-dir o",
        f"lmc interpolate {PAIR} --num-alphas 3 {SMALL} --output-dir o",
        f"swap --checkpoint {CNN} --output o.pt --verify --no-use-test --val-size 40",
        f"l2 {CNN} {OTHER} --metric fisher --fisher empirical --fisher-samples 9 --output o.json",
    ],
)
def test_a_choice_between_labels_that_are_the_same_is_refused_and_refuses_nothing(
    mcx, networks: Path, tmp_path: Path, monkeypatch, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    words = line.format(networks).split()
    for labels in ("clean", "trained"):
        done = mcx(*words, "--labels", labels)
        assert (done.code, "--labels has no effect without label noise" in done.err) == (2, True), done.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert mcx(*words).code == 0
    for record in (*tmp_path.rglob("record.json"), *tmp_path.glob("o*.json")):
        record.write_text(record.read_text().replace('"labels": "trained"', '"labels": "clean"'))
    done = mcx(*words)
    assert (done.code, "already complete" in done.err) == (0, True), done.err


def test_what_a_file_says_of_the_machine_is_not_refused_on_data_that_do_not_need_it(
    mcx, tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "c.yaml").write_text(
        "data_path: data\nnum_workers: 4\nepochs: 0\ndataset: digits\nmodel: mlp\n"
    )
    words = ("train", "--config", tmp_path / "c.yaml", "--output-dir", tmp_path / "o")
    done = mcx(*words)
    assert (done.code, "has no effect" in done.err) == (0, False), done.err
    monkeypatch.setenv("MCX_TRAIN_DATA_PATH", "data")
    done = mcx(*words)
    assert (done.code, "--data-path has no effect on the data set digits" in done.err) == (2, True)


def test_the_network_of_a_curve_that_is_analysed_without_a_swap_is_not_chosen(
    mcx, networks: Path, tmp_path: Path
) -> None:
    ends = ("--endpoint0", CNN.format(networks), "--endpoint1", OTHER.format(networks))
    assert mcx("curve", "train", *ends, "--epochs", "0", "--output-dir", tmp_path).code == 0
    curve = ("curve", "analyze", "--curve-checkpoint", tmp_path / "checkpoints/checkpoint-0.pt")
    for words, code, message in (
        (("--model", "mlp"), 3, "says model cnn, not mlp"),
        (("--num-classes", "9"), 3, "says num_classes 10, not 9"),
        (("--model-arg", "width=9"), 2, "--model-arg has no effect on this curve, which says its arguments"),
        (("--state-key", "x"), 2, "--state-key has no effect on this curve, which says its tensors"),
    ):
        done = mcx(*curve, *words, "--output-dir", tmp_path / "o")
        assert (done.code, message in done.err) == (code, True), done.err
    same = ("--model", "cnn", "--num-points", "3", "--output-dir", tmp_path / "same")
    assert mcx(*curve, *same).code == 0
    original = (*curve, "--original-checkpoint")
    assert mcx(*original, CNN.format(networks), "--num-points", "3", "--output-dir", tmp_path / "o").code == 0
    for wrong in (curve[-1], "--state-key"):
        words = (wrong,) if wrong != "--state-key" else (CNN.format(networks), "--state-key", "missing")
        done = mcx(*original, *words, "--output-dir", tmp_path / "p")
        assert done.code == 3, done.err
        assert ("is a curve, not a network" if wrong != "--state-key" else "under 'missing'") in done.err


@pytest.mark.parametrize("command", ["train", "lmc run"])
def test_the_help_of_a_command_that_reads_no_checkpoint_names_none(mcx, command: str) -> None:
    shown = " ".join(mcx(*command.split(), "--help-all").out.split())
    assert "from the checkpoint" not in shown
    assert "[default: the data's]" in shown


@pytest.mark.parametrize(
    ("line", "changed", "message"),
    [
        (f"curvature --checkpoint {CNN} --niter 1 {SMALL}", "--seed 7", "'seed' was 0, now 7"),
        (f"csl score --checkpoint {CNN} --label-noise 0.5 {SMALL}", "--seed 7", "'seed' was 0, now 7"),
        (f"csl score --checkpoint {CNN} {SMALL}", "--grad none", "'grad' was param, now none"),
        (f"dormant --checkpoint {CNN} {SMALL}", "--batch-size 9", "'batch_size' was 128, now 9"),
        (f"curve eval {PAIR} --num-points 2 {SMALL}", "--wd 1", "'wd' was 0.0005, now 1.0"),
    ],
)
def test_a_setting_that_is_read_refuses_a_continuation(
    mcx, networks: Path, tmp_path: Path, line: str, changed: str, message: str
) -> None:
    words = [*line.format(networks).split(), "--output-dir", str(tmp_path)]
    assert mcx(*words).code == 0
    done = mcx(*words, *changed.split())
    assert (done.code, message in done.err) == (3, True), done.err
