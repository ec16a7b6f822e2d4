"""Curves, lines and branches: one point, kills half-way, files that are something else, strict results."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from faults.commands import CASES, CURVE, OWN, A, B
from modeconn_cli.engine.paths import evaluate

LINES: dict[str, list[str]] = {
    "curve eval": ["curve", "eval", CURVE, *OWN, "--num-points"],
    "curve eval line": ["curve", "eval", A, B, *OWN, "--num-points"],
    "curve analyze": ["curve", "analyze", "--curve-checkpoint", CURVE, "--num-points"],
    "lmc interpolate": ["lmc", "interpolate", A, B, *OWN, "--num-alphas"],
}
EVALUATED = pytest.mark.parametrize("command", [name for name in LINES if name != "curve analyze"])


def arrays(folder: str) -> dict[str, np.ndarray]:
    (path,) = Path(folder).glob("*.npz")
    with np.load(path) as file:
        return dict(file)


@pytest.mark.parametrize("command", LINES)
def test_f1_fewer_than_two_points_are_refused(mcx: Callable, here: Path, command: str) -> None:
    for number in ("1", "0", "-5"):
        done = mcx(*LINES[command], number, "--output-dir", "out")
        assert (done.code, done.out, Path("out").exists()) == (2, "", False), done.err
        assert re.search(r"--num-(points|alphas) must be at least [23], got ", done.err), done.err


def test_f1_two_points_are_the_ends(mcx: Callable, here: Path) -> None:
    for command in ("curve analyze", "curve eval line"):
        assert mcx(*LINES[command], "2", "--output-dir", command, "-q").code == 0
    assert arrays("curve analyze")["raw_l2"].shape[0] == 2
    assert arrays("curve eval line")["ts"].tolist() == [0, 1]


@pytest.mark.slow
def test_f1_many_points_do_not_stay_in_memory(mcx: Callable, here: Path) -> None:
    """The networks at a hundred thousand positions would be 170 MB; the results are 8 bytes per layer and figure."""
    import tracemalloc

    tracemalloc.start()
    try:
        assert mcx(*LINES["curve analyze"], "100000", "--output-dir", "out", "-q").code == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    made = arrays("out")
    assert made["raw_l2"].shape[0] == 100_000
    assert peak < 6 * sum(each.nbytes for each in made.values())


@EVALUATED
def test_f2_what_was_evaluated_before_a_kill_is_not_evaluated_again(
    mcx: Callable, here: Path, forked: Callable, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    words = [*LINES[command], "5", "-q", "--output-dir"]
    assert mcx(*words, "whole").code == 0
    kill = {"MCX_TESTING": "1", "MCX_FAILPOINT": "evaluate.after_position.rank0:3=kill"}
    assert forked([*words, "again"], kill).code == -signal.SIGKILL
    (log,) = Path("again").rglob("*.jsonl")
    kept = log.read_bytes()
    assert len(kept.splitlines()) == 3
    measured: list[float] = []
    measure = evaluate.measure
    monkeypatch.setattr(evaluate, "measure", lambda *given: (measured.append(given[3]), measure(*given))[1])
    assert mcx(*words, "again").code == 0
    assert [t for t in measured if t not in (0.0, 1.0)] == [0.75]
    expected = arrays("whole")
    assert all(
        np.array_equal(array, expected[name], equal_nan=True) for name, array in arrays("again").items()
    )


@pytest.mark.parametrize("position", [8, 17])  # of 3 + 4 · 3 + 3: on the second line, among the features
def test_f2_a_line_of_some_layers_goes_on_where_it_was_killed(
    mcx: Callable, here: Path, forked: Callable, monkeypatch: pytest.MonkeyPatch, position: int
) -> None:
    words = [
        *LINES["lmc interpolate"],
        "3",
        "--by-layer",
        "--layers",
        "2",
        "-q",
        "--dpi",
        "30",
        "--output-dir",
    ]
    measured: list[float] = []
    measure = evaluate.measure
    monkeypatch.setattr(evaluate, "measure", lambda *given: (measured.append(given[3]), measure(*given))[1])
    assert mcx(*words, "whole").code == 0
    every = len(measured)
    kill = {"MCX_TESTING": "1", "MCX_FAILPOINT": f"evaluate.after_position.rank0:{position}=kill"}
    assert forked([*words, "again"], kill).code == -signal.SIGKILL
    lines = [(log.name, log.read_text().splitlines()) for log in Path("again").rglob("*.jsonl")]
    kept = [(name, json.loads(line)["t"]) for name, own in lines for line in own]
    assert len(kept) == position
    # Of a line of some layers one end is the whole network's, and nothing is measured there.
    ends = [(name, t) for name, t in kept if name.startswith("layers") and t == float(name.split("-")[2])]
    features = [each for each in kept if each[0].startswith("features")]
    measured.clear()
    assert mcx(*words, "again").code == 0
    assert len(measured) == every - len(kept) + len(ends) + len(features)
    before, after = (json.loads(Path(name, "line_summary.json").read_text()) for name in ("whole", "again"))
    assert {**before, "files": None} == {**after, "files": None}


@EVALUATED
def test_f3_with_their_own_statistics_the_ends_are_the_plain_evaluation(
    mcx: Callable, here: Path, command: str
) -> None:
    """Of networks with batch norm, whose files stay as they are."""
    if command == "curve eval":
        policies, seeds = ("keep",), ()
    else:
        policies, seeds = ("keep", "lerp"), (0, 1)
    before = {path: path.read_bytes() for path in Path().rglob("*.pt")}
    for policy in policies:
        assert mcx(*LINES[command], "3", "--bn", policy, "--output-dir", policy, "-q").code == 0
    for seed in seeds:
        row = json.loads(Path(f"runs/seed{seed}/metrics.jsonl").read_text().splitlines()[-1])
        assert row["epoch"] == 2
        found = arrays("lerp")
        assert found["te_nll"][-seed] == pytest.approx(row["test_loss"], abs=1e-6)
        assert found["te_acc"][-seed] == pytest.approx(row["test_accuracy"], abs=1e-9)
    assert {path: path.read_bytes() for path in before} == before


TAKES_A_CURVE = {name: case for name, case in CASES.items() if CURVE in case.words}


@pytest.mark.parametrize("command", TAKES_A_CURVE)
def test_f4_a_network_in_the_place_of_a_curve_is_named_with_what_was_expected(
    mcx: Callable, here: Path, command: str
) -> None:
    case = TAKES_A_CURVE[command]
    words = [A if word == CURVE else word for word in case.words]
    if command == "curve eval":
        words = ["curve", "eval", "--curve-checkpoint", *words[2:]]
    done = mcx(*words, "--output-dir" if case.job else "--output", "out.pt" if not case.job else "out")
    assert (done.code, done.out) == (3, ""), done.err
    assert f"'{A}' has no curve points" in done.err
    assert "expected" in done.err
    assert not list(Path().glob("out*"))


@pytest.mark.parametrize(
    "command", ["swap", "l2", "curve train", "lmc interpolate", "csl score", "curvature", "dormant"]
)
def test_f4_a_curve_in_the_place_of_a_network_is_named(mcx: Callable, here: Path, command: str) -> None:
    case = CASES[command]
    curve = ["--checkpoint", CURVE]
    words = [CURVE if word == A else word for word in case.words]
    if "--checkpoint-dir" in words:
        at = words.index("--checkpoint-dir")
        words[at : at + 2] = curve
    words = [word for k, word in enumerate(words) if "--permutation" not in words[max(0, k - 1) : k + 1]]
    done = mcx(*words, "--output-dir" if case.job else "--output", case.into)
    assert (done.code, done.out) == (3, ""), done.err
    assert f"'{CURVE}'" in done.err
    assert "curve" in done.err.replace(CURVE, "")


def altered(path: Path, **changes: Any) -> str:
    return json.dumps({**json.loads(path.read_text()), **changes})


METADATA: dict[str, Callable[[Path], str | bytes | None]] = {
    "missing": lambda path: None,
    "empty": lambda path: "",
    "cut off": lambda path: path.read_text()[:100],
    "a list": lambda path: "[]",
    "not text": lambda path: b"\xff\xfe\x00",
    "another layer": lambda path: altered(path, layer_name="fc9", layers_swapped=["fc9"]),
    "no such unit": lambda path: altered(path, neuron_pairs=[[0, 99]]),
    "one unit": lambda path: altered(path, neuron_pairs=[[0]]),
    "words for units": lambda path: altered(path, neuron_pairs=[["a", "b"]]),
}


@pytest.mark.parametrize("command", ["curve analyze", "lmc interpolate"])
@pytest.mark.parametrize("harm", METADATA)
def test_f5_swap_metadata_that_do_not_fit_are_named(
    mcx: Callable, here: Path, command: str, harm: str
) -> None:
    metadata = Path("swapped_metadata.json")
    content = METADATA[harm](metadata)
    if content is None:
        metadata.unlink()
    else:
        metadata.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = mcx(*CASES[command].words, "--output-dir", "out")
    assert (done.code, done.out) == (3, ""), done.err
    assert "swapped_metadata.json" in done.err or "fc9" in done.err
    assert "Traceback" not in done.err


LMC = [*CASES["lmc run"].words, "--output-dir", "out"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--k1", "5", "--max-epochs", "3"), "beyond the main branch"),
        (("--k1", "2", "--k2", "2", "--max-epochs", "3"), "beyond the main branch"),
        (("--k1", "-1"), "must be at least 0"),
        (("--k2", "0"), "must be at least 1"),
        (("--k1", "1,1"), "names 1 twice"),
    ],
)
def test_f6_impossible_epochs_of_a_branch_are_refused(
    mcx: Callable, here: Path, flags: Any, said: str
) -> None:
    done = mcx(*LMC, *flags)
    assert (done.code, done.out, Path("out").exists()) == (2, "", False), done.err
    assert said in done.err


@pytest.mark.parametrize("command", ["curve eval", "lmc interpolate"])
def test_f8_the_barrier_of_equal_networks_is_zero_without_a_sign(
    mcx: Callable, here: Path, command: str
) -> None:
    flag = "--num-points" if command == "curve eval" else "--num-alphas"
    done = mcx(*command.split(), A, A, *OWN, flag, "5", "--output-dir", "out", "--json")
    found = json.loads(done.out)["barriers"]
    values = [value for row in found.values() for value in row.values()]
    assert values
    assert all(str(value) in ("0", "0.0") for value in values)
    text = mcx(*command.split(), A, A, *OWN, flag, "5", "--output-dir", "out").out
    assert not re.search(r"-0(\.0*)?\b", text), text


def strictly(text: str) -> None:
    """Raises what is no JSON: NaN and infinities as words, and keys that come twice."""

    def refuse(word: str) -> None:
        raise AssertionError(word)

    def once(pairs: list[tuple[str, Any]]) -> None:
        assert len({key for key, _ in pairs}) == len(pairs)

    json.loads(text, parse_constant=refuse, object_pairs_hook=once)


def check_folder(folder: Path) -> int:
    """How many documents there are; what a job keeps for itself alone, in lines, is no result."""
    documents = list(folder.rglob("*.json"))
    for path in documents:
        strictly(path.read_text("utf-8"))
    for path in folder.rglob("*.jsonl"):
        for line in path.read_text("utf-8").splitlines() if ".mcx" not in path.parts else ():
            strictly(line)
    return len(documents)


def test_f9_every_document_of_a_study_is_strict_json(study: Path) -> None:
    assert check_folder(study) > 20


@pytest.mark.parametrize(
    "command",
    [name if name in ("curve eval", "l2") else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
def test_f9_what_a_command_prints_and_writes_is_strict_json_even_where_numbers_are_none(
    mcx: Callable, here: Path, command: str
) -> None:
    """Of networks with NaN, where the command takes them."""
    case = CASES[command]
    words = [word for word in case.words if word != "-q"]
    where = ("--output-dir" if case.job else "--output", case.into)
    done = mcx(*words, *where, "--json")
    assert done.code == 0, done.err
    strictly(done.out)
    check_folder(here)
    spoilt = [
        path
        for path in (A, "swapped.pt", CURVE)
        if path in case.inputs or command in ("csl score", "dormant")
    ]
    for name in spoilt:
        content = torch.load(name, weights_only=True)
        for state in content.get("control_points", [content.get("model_state")]):
            next(iter(state.values())).view(-1)[0] = float("nan")
        with Path(name).open("wb") as stream:
            torch.save(content, stream)
    where = ("--output-dir", "nan") if case.job else ("--output", f"nan{Path(case.into).suffix}")
    done = mcx(*words, *where, "--json", *(["--allow-nonfinite"] if spoilt else []))
    if done.out:
        strictly(done.out)
    check_folder(here)
