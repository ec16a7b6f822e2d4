"""Every command does what its law in docs/performance.md says, for 4, 8 and 16 of everything: files opened, bytes in
them, folders listed, files hashed, operations of the network.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.commands import NET, within

from growth.counting import Counts, counted, growth
from modeconn_cli.cli import app
from modeconn_cli.engine.results import arrays, files, hashes, manifest
from modeconn_cli.engine.samples import scores, sweep

pytestmark = pytest.mark.usefixtures("undrawn")

SIZES = (4, 8, 16)
LINEAR = 1.05  # times as much for a further epoch at large sizes as at small ones
OWN = ["--model", "grownet:net", "-q"]
ENDS = ["run4/seed0/checkpoint-0.pt", "run4/seed0/checkpoint-3.pt"]


@pytest.fixture(scope="module")
def made(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """Runs of as many epochs as the sizes say, a checkpoint of each epoch."""

    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / "grownet.py").write_text(NET)
        random = np.random.default_rng(0)
        images, labels = random.integers(0, 256, (60, 1, 8, 8), dtype=np.uint8), np.arange(60) % 3
        np.savez(folder / "data.npz", x_train=images, y_train=labels, x_test=images[:30], y_test=labels[:30])
        with within(folder):
            for size in (*SIZES, SIZES[-1] + 1):
                words = [
                    "train",
                    *OWN,
                    "--dataset",
                    "data.npz",
                    "--save-freq",
                    "1",
                    "--epochs",
                    str(size - 1),
                ]
                assert app.main([*words, "--output-dir", f"run{size}"]) == 0
                scored = ["--checkpoint-dir", f"run{size}/seed0", *OWN]
                assert app.main(["csl", "score", *scored, "--output-dir", f"losses{size}"]) == 0
                assert app.main(["dormant", *scored, "--output-dir", f"dormant{size}"]) == 0
                words = ["--num-bends", str(size), "--epochs", "1", "--output-dir", f"curve{size}"]
                assert app.main(["curve", "train", *ENDS, *OWN, "--dataset", "data.npz", *words]) == 0
                analysed = [f"curve{size}/checkpoints/checkpoint-1.pt", "--num-points", str(size), "-q"]
                assert app.main(["curve", "analyze", *analysed, "--output-dir", f"layers{size}"]) == 0
            words = ["--dataset", "data.npz", "--k1", "0", "--k2", "1", "--num-alphas", "3"]
            assert app.main(["lmc", "run", *OWN, *words, "--output-dir", "branch0"]) == 0
            for number in range(1, SIZES[-1]):
                shutil.copytree("branch0", f"branch{number}")

    return made_once("growing", make)


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder; the runs and their scores lie where they were made, as copies would be other files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(made))
    # Every size has the same scores: a table with a column more is larger.
    monkeypatch.setattr(scores, "WINDOW", SIZES[0])
    anew(monkeypatch)
    return tmp_path


def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known yet, as in a process of its own."""
    monkeypatch.setattr(hashes, "_known", {})
    monkeypatch.setattr(manifest, "_read", {})
    monkeypatch.setattr(manifest, "_listings", {})


Measured = Callable[[str], Callable[[int], Counts]]


@pytest.fixture
def measured(made: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> Measured:
    """What a command does. In its words `{n}` is the size, `{made}` where the runs lie, `{nets}`, `{branches}` and
    `{steps}` are so many checkpoints, folders of branches and steps h.
    """

    def written(words: str, size: int) -> list[str]:
        return words.format(
            n=size,
            made=made,
            nets=" ".join(f"{k}={made}/run{SIZES[-1]}/seed0/checkpoint-{k}.pt" for k in range(size)),
            branches=" ".join(f"{made}/branch{k}" for k in range(size)),
            steps=",".join(f"{1 + k}e-3" for k in range(size)),
        ).split()

    def of(words: str) -> Callable[[int], Counts]:
        def measure(size: int) -> Counts:
            anew(monkeypatch)
            with counted(monkeypatch, made, here) as counts:
                assert app.main([*written(words, size), "-q"]) == 0
            return counts

        app.main([*(word.replace("out4", "imports") for word in written(words, SIZES[0])), "-q"])
        return measure

    return of


def pairs(size: int) -> float:
    return size * (size - 1) / 2


SCORED = (
    "--checkpoint-dir {made}/run{n}/seed0 --dataset {made}/data.npz --model grownet:net --output-dir out{n}"
)
FOUR = SCORED.replace("run{n}", "run4")
STORED = "--dataset {made}/data.npz --model grownet:net"
TRAINED = f"{STORED} --output-dir out{{n}}"
LINE = "{made}/run4/seed0/checkpoint-0.pt {made}/run4/seed0/checkpoint-3.pt"


@pytest.mark.parametrize(
    "words",
    [
        f"csl score {SCORED}",
        f"dormant {SCORED}",
        f"curvature {SCORED} --niter 1",
        "csl aggregate --input-dir {made}/losses{n} --output-dir out{n}",
        "correlate --dormant {made}/dormant{n} --output-dir out{n}",
        "l2 {made}/run{n}/seed0 --output-dir out{n}",
        "status {made}/run{n}",
        "status {made}/dormant{n} --verify",
        f"train {TRAINED} --epochs {{n}} --save-freq 1",
        f"curve eval {LINE} {TRAINED} --num-points {{n}}",
        f"lmc run {TRAINED} --k1 0 --k2 1 --num-alphas {{n}}1",
        f"lmc run {TRAINED} --k1 0 --k2 {{n}} --num-alphas 3",
        f"csl score {FOUR} --max-samples {{n}}",
        f"dormant {FOUR} --max-samples {{n}}",
        f"curvature {FOUR} --niter 1 --max-samples {{n}}",
        f"curvature {FOUR} --niter {{n}}",
        f"curvature {FOUR} --niter 1 --sweep-h {{steps}}",
        f"curve train {LINE} {TRAINED} --epochs {{n}} --save-freq 1",
        f"curve train {LINE} {TRAINED} --epochs 1 --num-bends {{n}}",
        "curve analyze {made}/curve4/checkpoints/checkpoint-1.pt --num-points {n} --output-dir out{n}",
        f"lmc interpolate {LINE} {TRAINED} --num-alphas {{n}}1",
        f"curve extract {{made}}/curve{{n}}/checkpoints/checkpoint-1.pt --t 0.5 {STORED} --output out{{n}}.pt",
        "convert {made}/curve{n}/checkpoints/checkpoint-1.pt --layout garipov --output out{n}.pt",
        "animate {made}/layers{n}/layer_distances_along_curve.npz --output out{n}.gif",
        "merge {nets} --align weights --dataset {made}/data.npz --model grownet:net --output out{n}.pt",
    ],
)
def test_work_grows_as_epochs_and_positions_do(measured: Measured, words: str) -> None:
    found = growth(SIZES, measured(words))
    assert all(value <= LINEAR for value in found.values()), str(found)
    assert found["listed"] == 0, "as many folders are listed for any number"


@pytest.mark.slow
def test_folders_of_branches_are_listed_once_each(measured: Measured) -> None:
    found = growth(SIZES, measured("lmc report {branches} --output-dir out{n}"))
    assert all(value <= LINEAR for value in found.values()), str(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "by_pairs"),
    [
        (f"curve eval {{made}}/curve{{n}}/checkpoints/checkpoint-1.pt {TRAINED} --num-points 3", "flops"),
        (f"curve plane --run {{made}}/run{{n}}/seed0 {TRAINED} --grid-points 2", "flops"),
        (
            "curve analyze {made}/curve{n}/checkpoints/checkpoint-1.pt --num-points 3 --output-dir out{n}",
            "flops",
        ),
        (
            "align {nets} --to {made}/run4/seed0/checkpoint-3.pt --model grownet:net --output-dir out{n}",
            "read",
        ),
        ("align {nets} --cycle --model grownet:net --output-dir out{n}", "read"),
    ],
)
def test_what_grows_as_pairs_do_is_named(measured: Measured, words: str, by_pairs: str) -> None:
    """Inner products of all points of a curve or a run; each document of many aligned networks names all of them."""
    command = measured(words)
    found = growth(SIZES, command)
    assert found.pop("listed") == 0
    assert found.pop(by_pairs) <= 2.1
    assert all(value <= LINEAR for value in found.values()), str(found)


@pytest.mark.parametrize("size", SIZES)
def test_parts_are_read_once_by_name_and_are_of_one_epoch_at_a_time(
    made: Path, here: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Four units of each epoch: 60 samples, sixteen at a time."""
    written, there, write = list[Path](), list[int](), files.write_arrays

    def write_arrays(path: Path, values: dict[str, np.ndarray], *, remember: bool = False) -> None:
        write(path, values, remember=remember)
        if sweep.PARTS not in path.parts:
            return
        written.append(path)
        there.append(sum(each.exists() for each in written))

    monkeypatch.setattr(sweep, "UNIT", 16)
    monkeypatch.setattr(files, "write_arrays", write_arrays)
    words = ["csl", "score", "--checkpoint-dir", str(made / f"run{size}/seed0"), *OWN, "--batch-size", "16"]
    with counted(monkeypatch, here) as counts:
        assert app.main([*words, "--dataset", str(made / "data.npz"), "--output-dir", "out"]) == 0
    assert (len(written), max(there)) == (4 * size, 4)
    read = {path: times for path, times in counts.opened.items() if sweep.PARTS in Path(path).parts}
    assert [path for path in counts.listed if sweep.PARTS in Path(path).parts] == []
    assert {path: read.get(str(path.absolute())) for path in written} == dict.fromkeys(written, 1)


def test_all_pairs_take_work_by_pairs_and_run_again_by_checkpoints(measured: Measured) -> None:
    command = measured("l2 {made}/run{n}/seed0 --pairs all --output-dir out{n}")
    found = growth(SIZES, command, pairs)
    assert all(value <= LINEAR for value in found.values()), str(found)
    again = growth(SIZES, command)
    assert growth(SIZES, command, pairs)["read"] <= LINEAR, "the table of all pairs"
    assert all(value <= LINEAR for name, value in again.items() if name != "read"), again
    most, pairs_ = command(SIZES[-1]).opened.total(), pairs(SIZES[-1])
    assert most < pairs_, "no file of a pair is opened"


@pytest.mark.parametrize("size", SIZES)
def test_an_epoch_more_reads_that_epoch_alone(
    made: Path, here: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """The hashes of earlier arrays are believed, as long as nobody touches them."""
    words = ["csl", "score", "--checkpoint-dir", str(made / f"run{size}/seed0"), *OWN]
    words += ["--dataset", str(made / "data.npz"), "--output-dir", "out"]
    assert app.main([*words, "--end-epoch", str(size - 2)]) == 0
    anew(monkeypatch)
    with counted(monkeypatch, made, here) as counts:
        assert app.main(words) == 0
    assert not [path for path in (*counts.opened, *counts.hashed) if "_epoch_" in Path(path).name]
    assert counts.opened[str(made / f"run{size}/seed0/checkpoint-{size - 2}.pt")] <= 1


def test_an_array_that_was_touched_is_hashed_again(
    made: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["csl", "aggregate", "--output-dir", "out", "-q", "--input-dir"]
    scored = ["--checkpoint-dir", str(made / "run4/seed0"), "--dataset", str(made / "data.npz"), *OWN]
    assert app.main(["csl", "score", *scored, "--output-dir", "own"]) == 0
    touched = min(Path("own").glob("loss_data_*epoch_1_*.npy"))
    touched.write_bytes(touched.read_bytes())
    anew(monkeypatch)
    with counted(monkeypatch, here) as counts:
        assert app.main([*words, "own"]) == 0
    assert [path for path in counts.hashed if "_epoch_" in Path(path).name] == [str(touched)]


@pytest.mark.parametrize("size", SIZES)
def test_each_array_is_read_once_for_its_sum_and_twice_for_learning_times(
    made: Path, here: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    read: Counter[str] = Counter()
    stream, opened = arrays.stream, arrays.npz

    def streamed(paths: list[Path], length: int) -> Iterator[np.ndarray]:
        for path, values in zip(paths, stream(paths, length), strict=True):
            read[path.name.partition("_data")[0]] += 1
            yield values

    def npz(path: Path) -> Any:
        read[path.name.partition("_data")[0]] += 1
        return opened(path)

    monkeypatch.setattr(arrays, "stream", streamed)
    monkeypatch.setattr(arrays, "npz", npz)
    assert (
        app.main(
            ["csl", "aggregate", "--input-dir", str(made / f"losses{size}"), "--output-dir", "out", "-q"]
        )
        == 0
    )
    assert read == {"loss": size, "loss_ce": size, "loss_grad": 2 * size, "dynamics": size}


def test_a_finished_aggregation_reads_no_array_again(
    made: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["csl", "aggregate", "--input-dir", str(made / "losses8"), "--output-dir", "out", "-q", "--json"]
    printed = []
    for _ in range(2):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert app.main(words) == 0
        printed.append(json.loads(out.getvalue()))
        monkeypatch.setattr(arrays, "stream", lambda *_: [][0])
        monkeypatch.setattr(arrays, "npz", lambda *_: [][0])
    assert printed[0] == printed[1]


def test_a_planted_quadratic_is_found(
    measured: Measured, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each array is vouched for by reading all of its folder."""
    holds = manifest.Entry.holds

    def slow(entry: manifest.Entry, path: Path) -> bool:
        for other in path.parent.glob("*.npy"):
            other.open("rb").close()
        return holds(entry, path)

    monkeypatch.setattr(manifest.Entry, "holds", slow)
    found = growth(SIZES, measured("csl aggregate --input-dir {made}/losses{n} --output-dir out{n}"))
    assert found["opened"] > 1.5
