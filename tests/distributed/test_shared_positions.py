"""Several processes share the positions of a path and the pairs of an experiment."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


def documents(folder: Path, pattern: str) -> dict[str, dict]:
    """JSON results by name, without what is of the run."""
    out = {}
    for path in folder.rglob(pattern):
        if ".mcx" not in path.parts:
            found = json.loads(path.read_text())
            out[path.name] = {
                k: v for k, v in found.items() if k not in ("provenance", "figure", "arrays", "folder")
            }
    return out


@pytest.mark.distributed
def test_j3_positions_are_shared_and_the_curve_is_that_of_one(
    mcx: Callable, start: Callable, networks: Path, tmp_path: Path
) -> None:
    ends = [networks / f"seed{k}/checkpoint-4.pt" for k in (0, 1)]
    words = (
        "curve",
        "eval",
        "--endpoint0",
        ends[0],
        "--endpoint1",
        ends[1],
        "--num-points",
        "5",
        "--output-dir",
    )
    assert mcx(*words, tmp_path / "one", "--threads", "1").code == 0
    stopped = {"MCX_TESTING": "1", "MCX_FAILPOINT": "evaluate.after_position.rank1:1=kill"}
    done = start(*words, tmp_path / "two", "--nproc-per-node", "2", environment=stopped)
    assert (done.wait(100), done.communicate()[0]) == (137, "")
    done = start(*words, tmp_path / "two", "--nproc-per-node", "2")
    out, err = done.communicate(timeout=100)
    assert done.returncode == 0, err
    assert out.count("Along the line (5 positions)") == 1
    with np.load(tmp_path / "one/curve.npz") as one, np.load(tmp_path / "two/curve.npz") as two:
        assert one.files == two.files
        for name in one.files:
            np.testing.assert_array_equal(one[name], two[name])
    assert documents(tmp_path / "one", "curve_summary.json") == documents(
        tmp_path / "two", "curve_summary.json"
    )


@pytest.mark.slow
@pytest.mark.distributed
def test_positions_where_some_layers_move_are_shared(
    mcx: Callable, start: Callable, networks: Path, tmp_path: Path
) -> None:
    ends = [networks / f"seed{k}/checkpoint-4.pt" for k in (0, 1)]
    words = (
        "lmc",
        "interpolate",
        *ends,
        "--num-alphas",
        "5",
        "--by-layer",
        "--layers",
        "conv2,fc1",
        "--output-dir",
    )
    assert mcx(*words, tmp_path / "one", "--threads", "1").code == 0
    done = start(*words, tmp_path / "two", "--nproc-per-node", "2")
    out, err = done.communicate(timeout=100)
    assert done.returncode == 0, err
    assert out.count("One layer moves") == 1
    one, two = (
        documents(tmp_path / name, "line_summary.json")["line_summary.json"] for name in ("one", "two")
    )
    assert {**one, "files": None} == {**two, "files": None}


@pytest.mark.slow
@pytest.mark.distributed
def test_the_leader_trains_and_pairs_are_shared(mcx: Callable, start: Callable, tmp_path: Path) -> None:
    words = ("lmc", "run", "--preset", "digits", "--max-epochs", "3", "--k1", "0,1", "--k2", "1,2", "--num-alphas", "3",
             "--batch-size", "256", "--output-dir")  # fmt: skip
    assert mcx(*words, tmp_path / "one", "--threads", "1").code == 0
    done = start(*words, tmp_path / "two", "--nproc-per-node", "2", "--json")
    out, err = done.communicate(timeout=100)
    assert done.returncode == 0, err
    assert json.loads(out)["evaluated_positions"] == 12
    pairs = documents(tmp_path / "one", "*_k1_*.json")
    assert len(pairs) == 4
    assert documents(tmp_path / "two", "*_k1_*.json") == pairs
    (one,), (two,) = (list((tmp_path / k).rglob("dataframes/*.csv")) for k in ("one", "two"))
    assert one.read_text() == two.read_text()


@pytest.mark.distributed
def test_j10_a_rank_with_another_end_is_refused(
    start: Callable, ranks: list, networks: Path, tmp_path: Path
) -> None:
    ends = [networks / f"seed1/checkpoint-{epoch}.pt" for epoch in (0, 4)]
    both = [
        start(
            "curve", "eval", "--endpoint0", networks / "seed0/checkpoint-4.pt", "--endpoint1", end,
            "--num-points", "5", "--output-dir", tmp_path / "out", environment=rank,
        )
        for end, rank in zip(ends, ranks, strict=True)
    ]  # fmt: skip
    ended = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [3, 3]
    assert "rank 1: this rank sees another file 1 than rank 0" in ended[1][1]
    assert not (tmp_path / "out/curve.npz").exists()


@pytest.mark.distributed
def test_cells_are_shared_and_the_plane_is_that_of_one(
    mcx: Callable, start: Callable, networks: Path, tmp_path: Path
) -> None:
    """Also where one of two processes was killed in the middle: the bytes are those of one that nothing disturbed."""
    ends = [networks / f"seed{k}/checkpoint-4.pt" for k in (0, 1)]
    words = (
        "curve",
        "plane",
        *ends,
        networks / "seed0/checkpoint-0.pt",
        "--grid-points",
        "3",
        "--output-dir",
    )
    assert mcx(*words, tmp_path / "one", "--threads", "1").code == 0
    stopped = {"MCX_TESTING": "1", "MCX_FAILPOINT": "evaluate.after_position.rank1:3=kill"}
    done = start(*words, tmp_path / "two", "--nproc-per-node", "2", environment=stopped)
    assert (done.wait(100), done.communicate()[0]) == (137, "")
    kept = sorted(path.name for path in (tmp_path / "two/.mcx/curve-plane").glob("positions-*.jsonl"))
    assert kept == ["positions-0.jsonl", "positions-1.jsonl"]
    done = start(*words, tmp_path / "two", "--nproc-per-node", "2")
    out, err = done.communicate(timeout=100)
    assert done.returncode == 0, err
    assert out.count("Over the plane of three networks (3 x 3 cells)") == 1
    for name in ("plane.npz", "plane.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    one, two = (documents(tmp_path / name, "plane_summary.json") for name in ("one", "two"))
    assert one == two


@pytest.mark.slow
@pytest.mark.distributed
def test_what_is_kept_along_a_path_is_that_of_one_process(
    mcx: Callable, start: Callable, networks: Path, tmp_path: Path
) -> None:
    ends = [networks / f"seed{k}/checkpoint-4.pt" for k in (0, 1)]
    more = ("--save-predictions", "--ensemble", "0,0.3,1", "--hessian-top", "1", "--hessian-samples", "50")
    words = ("curve", "eval", *ends, "--num-points", "5", *more, "--output-dir")
    assert mcx(*words, tmp_path / "one", "--threads", "1").code == 0
    stopped = {"MCX_TESTING": "1", "MCX_FAILPOINT": "evaluate.after_position.rank1:1=kill"}
    done = start(*words, tmp_path / "two", "--nproc-per-node", "2", environment=stopped)
    assert (done.wait(100), done.communicate()[0]) == (137, "")
    done = start(*words, tmp_path / "two", "--nproc-per-node", "2")
    out, err = done.communicate(timeout=100)
    assert done.returncode == 0, err
    assert out.count("Ensemble along the path") == 1
    for name in ("curve.npz", "predictions.npz", "prediction_changes.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert documents(tmp_path / "one", "curve_summary.json") == documents(
        tmp_path / "two", "curve_summary.json"
    )
