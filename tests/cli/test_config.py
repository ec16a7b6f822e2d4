"""Configuration files, environment variables and flags: what wins, what is refused, what can be fed back."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

BASE = ("l2", "a.pt", "b.pt", "--print-config")


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "c.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def printed(out: str) -> dict[str, tuple[object, str]]:
    """Value and origin of each setting that `--print-config` shows."""
    found = {}
    for line in out.splitlines():
        text, _, origin = line.rpartition("  # ")
        if not text.startswith("# "):
            (name, value), *_ = yaml.safe_load(text).items()
            found[name] = (value, origin)
    return found


# Where a value comes from ---------------------------------------------------------------------------------


def test_a5_a_flag_wins_over_the_environment_over_a_file_over_the_default(mcx, tmp_path, monkeypatch) -> None:
    path = written(tmp_path, "show-top-k: 4\nsort_by: raw_l2\ninclude_buffers: yes\n")
    monkeypatch.setenv("MCX_L2_SHOW_TOP_K", "5")
    monkeypatch.setenv("MCX_L2_SORT_BY", "relative")
    done = mcx(*BASE, "--config", path, "--show-top-k", "6")
    assert done.code == 0
    found = printed(done.out)
    assert found["show_top_k"] == (6, "flag")
    assert found["sort_by"] == ("relative", "environment MCX_L2_SORT_BY")
    assert found["include_buffers"] == (True, f"config {path}")
    assert found["overwrite"] == (False, "default")
    assert found["checkpoints"] == (["a.pt", "b.pt"], "flag")


def test_an_empty_variable_is_as_good_as_none(mcx, monkeypatch) -> None:
    monkeypatch.setenv("MCX_L2_SHOW_TOP_K", "")
    assert printed(mcx(*BASE).out)["show_top_k"] == (10, "default")


def test_a_bad_value_is_named_with_its_source(mcx, tmp_path, monkeypatch) -> None:
    path = written(tmp_path, "show_top_k: many\n")
    assert mcx(*BASE, "--config", path).err.startswith(
        f"mcx l2: error: config {path}: show_top_k: 'many' is not a whole number\n"
    )
    monkeypatch.setenv("MCX_L2_SHOW_TOP_K", "few")
    assert mcx(*BASE).err.startswith("mcx l2: error: MCX_L2_SHOW_TOP_K: 'few' is not a whole number\n")


def test_variables_of_subcommands_join_their_words(mcx, monkeypatch) -> None:
    monkeypatch.setenv("MCX_CURVE_TRAIN_LR", "1e-3")
    assert printed(mcx("curve", "train", "--print-config").out)["lr"][0] == 0.001


# What can be fed back -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("l2", "a.pt", "b.pt"),
        ("l2", "--checkpoint1", "a b.pt", "--checkpoint2", "x: y\n#.pt", "--sort-by", "raw_l2"),
        ("l2", "--", "-a.pt", "[b]{c}.pt, d"),
        ("swap", "--checkpoint", "~", "--output", "null", "--pairs", "228:6,3:9", "--verify"),
        ("swap", "--checkpoint", "é\x1b.pt", "--layer-name", "010", "--model-arg", "a=(1),b=yes"),
        ("train", "--lr", "1e-05", "--seeds", "0,1", "--no-use-test", "--model", "no", "--wd", "0"),
        ("curve", "train", "--endpoint0", "a.pt", "--no-fix-start", "--init-method", "sphere"),
    ],
)
def test_printed_settings_can_be_fed_back(mcx, tmp_path: Path, words: tuple[str, ...]) -> None:
    command = words[:2] if words[0] == "curve" else words[:1]
    first = mcx(*command, "--print-config", *words[len(command) :])
    assert first.code == 0
    path = tmp_path / "c.yaml"
    path.write_text(first.out)
    again = mcx(*command, "--print-config", "--config", path)
    assert again.code == 0
    assert {k: v for k, (v, _) in printed(again.out).items()} == {
        k: v for k, (v, _) in printed(first.out).items()
    }
    assert len(printed(first.out)) > 3


def test_the_home_directory_is_written_as_a_tilde_and_found_again(mcx, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    done = mcx("l2", tmp_path / "a.pt", "b.pt", "--print-config", "--output", tmp_path / "x.json")
    assert printed(done.out)["output"] == ("~/x.json", "flag")
    path = written(tmp_path, done.out)
    again = mcx("l2", "--config", path)
    assert f"'{tmp_path}/a.pt' does not exist" in again.err


def test_the_settings_of_a_finished_job_can_be_fed_back(mcx, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ("--model", "mlp", "--model-arg", "width=4,depth=1", "--dataset", "digits", "--epochs", "1")
    folder = tmp_path / "runs"
    assert mcx("train", *words, "--lr", "1e-3", "--output-dir", folder, "-q").code == 0
    record = folder / "seed0/.mcx/train/config.resolved.yaml"
    assert "output_dir: ~/runs\n" in record.read_text()
    again = mcx("train", "--config", record)
    assert (again.code, f"already complete: {folder}/seed0" in again.err) == (0, True)


# What is refused ------------------------------------------------------------------------------------------

BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(c + 1)}: &{chr(c + 1)} [*{chr(c)}, *{chr(c)}]\n" for c in range(97, 120)
)
REFUSED: dict[str, tuple[str | bytes, str]] = {
    "duplicate key": ("lr: 1\n\nlr: 2\n", "config {} line 3: duplicate key 'lr'"),
    "duplicate by dash": ("num-bends: 3\nnum_bends: 5\n", "config {} line 2: duplicate key 'num_bends'"),
    "two names of one": (
        "wd: 0\nweight_decay: 1\n", "config {} line 2: 'weight_decay' gives 'wd' a second time"
    ),
    "unknown key": (
        "epochs: 1\nlearning_rate: 0.1\n",
        "config {} line 2: unknown key 'learning_rate' for 'curve train' (did you mean 'lr'?)",
    ),
    "misspelled key": (
        "num_bend: 3\n", "config {} line 1: unknown key 'num_bend' for 'curve train' (did you mean 'num_bends'?)"
    ),
    "python tag": (
        "lr: !!python/object/apply:os.system ['touch marker']\n",
        "config {} line 1: tags, anchors and aliases are not accepted",
    ),
    "own tag": ("lr: !x 5\n", "config {} line 1: tags, anchors and aliases are not accepted"),
    "alias bomb": (BOMB, "config {} line 1: tags, anchors and aliases are not accepted"),
    "large": ("# " + "x" * 50_000_000, "config {} is larger than 100,000 bytes"),
    "deep": ("lr: " + "[" * 40_000, "config {} line 1: expected 'key: value' lines"),
    "nested": ("curve:\n  lr: 5\n", "config {} line 1: expected a single value"),
    "nested list": ("seeds: [[1]]\n", "config {} line 1: unknown key 'seeds'"),
    "list for one": ("lr: [1, 2]\n", "config {}: lr: takes a single value, got a list"),
    "not a mapping": ("- lr\n- 5\n", "config {}: expected 'key: value' lines"),
    "not YAML": ("lr: 5\nwd: [1\n", "config {} line 3: not YAML: "),
    "tabs": ("lr:\n\t5\n", "config {} line 2: not YAML: "),
    "control character": ("lr: \x07\n", "config {}: not YAML: "),
    "two documents": ("lr: 5\n---\nlr: 6\n", "config {} line 2: not YAML: "),
    "binary": (b"\x89PNG\xff\xfe", "config {} is not UTF-8 text"),
    "key that is none": ("? [a, b]\n: 5\n", "config {} line 1: expected a single value"),
    "word for a number": ("lr: yes\n", "config {}: lr: 'yes' is not a number"),
    "number for a word": ("fix_start: 2\n", "config {}: fix_start: '2' is neither true nor false"),
    "out of bounds": ("num_bends: 1\n", "--num-bends must be at least 2, got 1"),
    "not finite": ("lr: .nan\n", "config {}: lr: '.nan' is not a number"),
    "path with NUL": ('endpoint0: "a\\0b"\n', "config {}: endpoint0: is not a path"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a2_a3_a_file_that_is_no_configuration_is_refused_on_one_line(
    mcx, tmp_path, monkeypatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    text, message = REFUSED[kind]
    path = written(tmp_path, text)
    done = mcx("curve", "train", "--config", path)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("mcx curve train: error: " + message.format(path))
    assert all(line.startswith("hint: ") for line in done.err.splitlines()[1:])
    assert [p.name for p in tmp_path.iterdir()] == ["c.yaml"]


@pytest.mark.parametrize("name", ["missing.yaml", ".", "missing/c.yaml"])
def test_a2_a_file_that_is_not_there_is_named(mcx, tmp_path: Path, name: str) -> None:
    done = mcx(*BASE, "--config", tmp_path / name)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"mcx l2: error: config {tmp_path / name} cannot be read: ")


def test_a2_a_stream_without_end_is_not_read_to_its_end(mcx) -> None:
    assert "config /dev/zero is larger than 100,000 bytes" in mcx(*BASE, "--config", "/dev/zero").err


# What values mean -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "line", "name", "value"),
    [
        ("train", "lr: 1e-3", "lr", 0.001),
        ("train", "lr: 1E3", "lr", 1000.0),
        ("train", "epochs: 010", "epochs", 10),
        ("train", 'epochs: "7"', "epochs", 7),
        ("train", "epochs: '7'  # one a day", "epochs", 7),
        ("train", "model: no", "model", "no"),
        ("train", "model: 010", "model", "010"),
        ("train", "model: 'null'", "model", "null"),
        ("train", "use_test: no", "use_test", False),
        ("train", "use-test: On", "use_test", True),
        ("train", "optimizer: AdamW", "optimizer", "adamw"),
        ("train", "transform: VGG", "transform", "vgg"),
        ("train", "seeds: [0, 1, 010]", "seeds", [0, 1, 10]),
        ("train", "seeds: 0,1", "seeds", [0, 1]),
        ("train", "seeds: 3", "seeds", [3]),
        ("train", "seeds:\n- 4\n- 5", "seeds", [4, 5]),
        ("train", "save_freq: null", "save_freq", 50),
        ("train", "save_freq:", "save_freq", 50),
        ("train", "save_freq: ~", "save_freq", 50),
        ("train", "", "save_freq", 50),
        ("train", "# nothing", "save_freq", 50),
        ("train", "save_intermediate: false\nsave_freq: 50", "save_freq", 0),
        ("train", "save_intermediate: true\nsave_freq: 25", "save_freq", 25),
        ("swap", "pairs: [228:6, 3:9]", "pairs", ["228:6", "3:9"]),
        ("swap", "pairs: 228:6", "pairs", ["228:6"]),
        ("swap", "output: a,b.pt", "output", "a,b.pt"),
    ],
)
def test_a4_values_reach_the_parser_of_their_flag(mcx, tmp_path, command, line, name, value) -> None:
    done = mcx(command, "--print-config", "--config", written(tmp_path, line + "\n"))
    assert done.code == 0
    assert printed(done.out)[name][0] == value


ORIGINAL = """\
defaults:
  - override hydra/job_logging: disabled
experiment_name: vgg16_curve_neuronswap_mid2_reg
project_name: mode-connectivity
use_wandb: false
init_start: endpoints/seed0/checkpoint-200.pt
init_end: endpoints_neuronswap/mid2/checkpoint-200.pt
output_root: results/vgg16/cifar10/curve_neuronswap_mid2_reg
data_path: ./data
model: VGG16
curve: Bezier
transform: VGG
use_test: true
num_bends: 3
save_freq: 50
wd: 5e-4
init_method: biased
init_alpha: 0.3
init_noise: 0.01
init_inside_sphere: true
"""


def test_a_file_of_the_original_experiments_is_read_as_it_is(mcx, tmp_path: Path) -> None:
    done = mcx("curve", "train", "--print-config", "--config", written(tmp_path, ORIGINAL))
    assert done.code == 0
    found = {name: value for name, (value, _) in printed(done.out).items()}
    assert found["endpoint0"] == "endpoints/seed0/checkpoint-200.pt"
    assert found["endpoint1"] == "endpoints_neuronswap/mid2/checkpoint-200.pt"
    assert found["output_dir"] == "results/vgg16/cifar10/curve_neuronswap_mid2_reg"
    assert (found["curve"], found["transform"], found["wd"], found["init_method"]) == (
        "bezier", "vgg", 0.0005, "biased",
    )  # fmt: skip
    assert found["init_inside_sphere"] is True
    notes = done.err.splitlines()
    assert notes == [f"ignored in {tmp_path}/c.yaml: defaults, experiment_name, project_name, use_wandb"]


def test_what_the_original_scripts_have_built_in_is_said(mcx, tmp_path: Path) -> None:
    """The YAML of a polygon or of the symmetry plane says neither; noise is meant element by element there."""
    lines = "experiment_name: seed0-mirror\ninit_start: a.pt\ninit_end: b.pt\n"
    lines += "init_method: perturbed\ninit_noise: 0.01\n"
    words = ("curve", "train", "--print-config", "--config", written(tmp_path, lines))
    said = mcx(*words).err
    assert "--curve polychain" in said
    assert "--constraint symmetry-plane-per-tensor" in said
    assert "--compat elementwise-noise" in said
    said = mcx(*words, "--curve", "polychain", "--compat", "elementwise-noise").err
    assert said.splitlines() == [f"ignored in {tmp_path}/c.yaml: experiment_name"]
    own = lines.replace("experiment_name: seed0-mirror\n", "")
    said = mcx("curve", "train", "--print-config", "--config", written(tmp_path, own)).err
    assert said.startswith("init_noise 0.01 is the norm"), "what its noise means no other key tells"
    assert said.count("\n") == 1
    assert mcx(*words[:3], "--config", written(tmp_path, own), "--compat", "elementwise-noise").err == ""


def test_the_original_training_keys_are_accepted(mcx, tmp_path: Path) -> None:
    text = "seeds: [0, 1]\npatience: 20\nmin_delta: 1e-4\nval_size: 500\noutput_root: runs\n"
    found = printed(mcx("train", "--print-config", "--config", written(tmp_path, text)).out)
    names = ("seeds", "patience", "min_delta", "val_size", "output_dir")
    assert [found[name][0] for name in names] == [[0, 1], 20, 0.0001, 500, "runs"]


# Flags ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("--show-top-k", "3", "--sort-by", "raw_l2"),
        ("--show_top_k", "3", "--sort_by", "raw_l2"),
        ("--show_top_k=3", "--sort-by=raw_l2"),
        ("--show-top-k=3", "--sort-by=Raw-L2"),
        ("--show-top-k", "3", "--sort-by", "RAWL2"),
        ("--show-top-k", "9", "--show-top-k", "3", "--sort-by", "raw_l2"),
    ],
)
def test_flags_are_spelled_with_dashes_or_underscores(mcx, words: tuple[str, ...]) -> None:
    found = printed(mcx(*BASE, *words).out)
    assert (found["show_top_k"][0], found["sort_by"][0]) == (3, "raw_l2")


def test_underscores_in_values_are_left_alone(mcx) -> None:
    words = ("--state_key=model_state_dict", "--output=my_dir/x_y.json")
    found = printed(mcx(*BASE, *words).out)
    assert (found["state_key"][0], found["output"][0]) == ("model_state_dict", "my_dir/x_y.json")
    assert printed(mcx(*BASE, "--state-key", "a_b").out)["state_key"][0] == "a_b"


def test_words_after_two_dashes_are_left_alone(mcx) -> None:
    found = printed(mcx("l2", "--print-config", "--", "--a_b.pt", "-c_d.pt").out)
    assert found["checkpoints"][0] == ["--a_b.pt", "-c_d.pt"]


def test_keys_of_hydra_and_of_steps_are_named_and_ignored(mcx, tmp_path: Path) -> None:
    text = "hydra:\n  run:\n    dir: outputs/${now:%Y}\noptimization_steps: 200\nprint_freq: 10\nepochs: 3\n"
    done = mcx(
        "curve",
        "train",
        "--print-config",
        "--config",
        written(tmp_path, text + "constraint: symmetry-plane\n"),
    )
    assert done.code == 0, done.err
    assert printed(done.out)["epochs"][0] == 3
    assert f"ignored in {tmp_path}/c.yaml: hydra, optimization_steps, print_freq" in done.err
    assert "--epochs" in done.err
    assert mcx("train", "--print-config", "--config", written(tmp_path, "optimization_steps: 2\n")).code == 2


def test_arguments_of_a_network_are_gathered_and_of_other_flags_the_last_counts(mcx) -> None:
    words = ("train", "--print-config", "--model", "mlp", "--model-arg", "width=3,depth=2", "--seeds", "1")
    found = printed(mcx(*words, "--model-arg", "name='a,b'", "--seeds", "2,3").out)
    assert found["model_arg"] == (["width=3", "depth=2", "name='a,b'"], "flag")
    assert found["seeds"] == ([2, 3], "flag")
