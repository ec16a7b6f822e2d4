"""`mcx l2` of several checkpoints, of folders and of patterns."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modeconn_cli.engine.networks.checkpoints import integrity


@pytest.fixture
def three(networks: Path) -> list[Path]:
    return [
        networks / "seed0/checkpoint-0.pt",
        networks / "seed0/checkpoint-4.pt",
        networks / "seed1/checkpoint-4.pt",
    ]


def contents(folder: Path) -> dict[str, bytes]:
    """The pairs' files."""
    return {path.name: path.read_bytes() for path in folder.glob("*.json")}


def labelled(three: list[Path]) -> list[str]:
    return [f"{label}={path}" for label, path in zip(("init", "seed0", "seed1"), three, strict=True)]


def vector(path: Path) -> Tensor:
    state = torch.load(path, weights_only=True)["model_state"]
    return torch.cat([tensor.double().flatten() for tensor in state.values()])


def test_a_json_per_pair_and_both_summaries(mcx: Callable, three: list[Path], tmp_path: Path) -> None:
    done = mcx("l2", *labelled(three), "--pairs", "all", "--output-dir", tmp_path)
    assert done.code == 0
    pairs = ["init-seed0", "init-seed1", "seed0-seed1"]
    assert sorted(path.name for path in tmp_path.glob("*.json")) == [f"{pair}.json" for pair in pairs]
    alone = json.loads(mcx("l2", three[1], three[2], "--json").out)
    written = json.loads((tmp_path / "seed0-seed1.json").read_text())
    same = ("total_l2", "normalized_total_l2", "relative_total", "all_layer_distances", "top_10_layers")
    assert {key: written[key] for key in same} == {key: alone[key] for key in same}
    with (tmp_path / "summary.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["pair"] for row in rows] == pairs
    assert float(rows[2]["total_l2"]) == alone["total_l2"]
    lines = (tmp_path / "summary.txt").read_text().splitlines()
    assert lines[0].split() == ["pair", "total_l2", "normalized_l2", "relative", "total_params", "status"]
    assert [line.split()[0] for line in lines[1:]] == pairs


def test_by_default_the_first_is_compared_with_each(mcx: Callable, three: list[Path]) -> None:
    done = json.loads(mcx("l2", *labelled(three), "--json").out)
    assert [row["pair"] for row in done["pairs"]] == ["init-seed0", "init-seed1"]


def test_where_nothing_is_drawn_the_kind_of_figure_is_refused(
    mcx: Callable, three: list[Path], tmp_path: Path
) -> None:
    words = ("l2", *labelled(three), "--output-dir", tmp_path / "o", "--figure-format", "pdf")
    done = mcx(*words)
    assert (done.code, "--figure-format has no effect without --pairs all" in done.err) == (2, True)
    assert "--pairs all measures every pair" in mcx("l2", *labelled(three)).err
    drawn = mcx(*words, "--pairs", "all")
    assert (drawn.code, "--pairs all" in drawn.err) == (0, False)
    assert (tmp_path / "o/heatmap.pdf").exists()


def test_flags_reach_the_summaries_of_several_too(mcx: Callable, ends: list[Path], tmp_path: Path) -> None:
    first, second = ends
    done = mcx("l2", "--checkpoint1", first, "--checkpoint2", second, "--output-dir", tmp_path)
    assert done.code == 0, done.err
    assert len(list(tmp_path.glob("*.json"))) == 1
    assert mcx("l2", "--output-dir", tmp_path / "one", first).code == 2
    assert mcx("l2", "--checkpoint1", first, first, second, second).code == 2


def test_every_file_is_opened_once(mcx: Callable, mlps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    original = integrity.opened
    monkeypatch.setattr(integrity, "opened", lambda path: (opened.append(path), original(path))[1])
    assert mcx("l2", mlps / "seed0", "--pairs", "all").code == 0
    assert sorted(opened) == sorted((mlps / "seed0").glob("*.pt"))


def test_d6_a_broken_file_spoils_its_own_pairs_only(mcx: Callable, three: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(three[0].read_bytes()[:100])
    words = ("--pairs", "all", "--output-dir", tmp_path / "out")
    done = mcx("l2", *labelled(three), f"bad={tmp_path / 'bad.pt'}", *words)
    assert done.code == 3
    assert "3 of 6 pairs could not be measured" in done.err
    assert done.out.count(" ok") == 3
    assert done.out.count("truncated or damaged") == 3
    assert len(list((tmp_path / "out").glob("*.json"))) == 3


def test_what_helps_with_an_unread_file_is_said(mcx: Callable, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3)}, tmp_path / "a.pt")
    torch.save({"first": {"w": torch.ones(3)}, "second": {"w": torch.zeros(3)}}, tmp_path / "b.pt")
    done = mcx("l2", tmp_path / "a.pt", tmp_path / "b.pt", "--output-dir", tmp_path / "out")
    assert (done.code, "hint: pass --state-key NAME" in done.err) == (3, True)
    done = mcx(
        "l2",
        tmp_path / "b.pt",
        tmp_path / "a.pt",
        f"c={tmp_path / 'a.pt'}",
        "--output-dir",
        tmp_path / "many",
    )
    assert "hint: the first checkpoint is in every pair" in done.err


def test_d6_one_broken_network_among_many_spoils_its_own_pairs(
    mcx: Callable, mlps: Path, tmp_path: Path
) -> None:
    """All pairs come from one Gram matrix, which a NaN would spoil."""
    names = [f"n{k}" for k in range(9)]
    torch.manual_seed(0)
    for name in names:
        torch.save({"w": torch.randn(50), "v": torch.randn(3)}, tmp_path / f"{name}.pt")
    torch.save({"w": torch.full((50,), math.nan), "v": torch.randn(3)}, tmp_path / "n4.pt")
    (tmp_path / "n6.pt").write_bytes((tmp_path / "n6.pt").read_bytes()[:300])
    paths = [tmp_path / f"{name}.pt" for name in names]
    done = mcx("l2", *paths, "--pairs", "all", "--json")
    assert done.code == 3
    rows = {row["pair"]: row for row in json.loads(done.out)["pairs"]}
    for i in range(9):
        for j in range(i + 1, 9):
            row = rows[f"n{i}-n{j}"]
            if {4, 6} & {i, j}:
                assert row["total_l2"] is None
                assert ("NaN or infinity" in row["status"]) or ("truncated" in row["status"])
            else:
                a, b = (torch.cat([t.double() for t in torch.load(paths[k]).values()]) for k in (i, j))
                assert row["total_l2"] == pytest.approx(float((a - b).norm()), rel=1e-9)


def test_labels_come_from_the_stem_or_the_folder(mcx: Callable, three: list[Path]) -> None:
    done = json.loads(mcx("l2", *three, "--json").out)
    assert list(done["checkpoints"]) == ["checkpoint-0", "seed0", "seed1"]


def test_two_checkpoints_of_one_name_are_refused(mcx: Callable, three: list[Path]) -> None:
    done = mcx("l2", f"a={three[0]}", f"a={three[1]}", three[2])
    assert (done.code, "two checkpoints are called 'a'" in done.err) == (2, True)
    assert mcx("l2", f"a/b={three[0]}", three[1], three[2]).code in (2, 3)


def test_two_pairs_of_one_name_are_refused(mcx: Callable, networks: Path) -> None:
    paths = [networks / f"seed{k}/checkpoint-{epoch}.pt" for k in (0, 1) for epoch in (0, 4)]
    words = [f"{label}={path}" for label, path in zip(("a", "b-c", "a-b", "c"), paths, strict=True)]
    done = mcx("l2", *words, "--pairs", "all")
    assert (done.code, "two pairs are called 'a-b-c'" in done.err) == (2, True)


def test_a_second_run_changes_nothing_and_another_set_is_refused(
    mcx: Callable, three: list[Path], tmp_path: Path
) -> None:
    words = (*labelled(three), "--output-dir", tmp_path)
    assert mcx("l2", *words).code == 0
    before = contents(tmp_path)
    again = mcx("l2", *words)
    assert (again.code, "already complete" in again.err) == (0, True)
    assert contents(tmp_path) == before
    other = mcx("l2", f"init={three[1]}", f"seed0={three[0]}", f"seed1={three[2]}", "--output-dir", tmp_path)
    assert (other.code, other.out) == (5, "")
    assert contents(tmp_path) == before
    more = mcx("l2", *words[:3], f"x={three[1]}", "--output-dir", tmp_path)
    assert (more.code, "hold the same weights" in more.err) == (0, False)
    assert set(before) < set(contents(tmp_path)), "a pair more, and the others as they were"


def test_summaries_of_others_are_kept(mcx: Callable, networks: Path, tmp_path: Path) -> None:
    (tmp_path / "summary.txt").write_text("precious")
    words = ("l2", networks / "seed0", "--output-dir", tmp_path)
    done = mcx(*words)
    assert (done.code, "summary.txt' exists" in done.err) == (5, True)
    assert (tmp_path / "summary.txt").read_text() == "precious"
    assert mcx(*words, "--overwrite").code == 0
    assert mcx(*words).code == 0, "its own summaries are no others'"


def test_all_pairs_give_a_matrix_and_a_heat_map(mcx: Callable, mlps: Path, tmp_path: Path) -> None:
    words = ("--pairs", "all", "--metric", "l2,cosine,functional", "--output-dir", tmp_path / "out")
    assert mcx("l2", mlps / "seed0", *words).code == 0
    points = [vector(mlps / "seed0" / f"checkpoint-{epoch}.pt") for epoch in range(5)]
    with np.load(tmp_path / "out/matrix.npz") as found:
        assert found["labels"].tolist() == [f"checkpoint-{epoch}" for epoch in range(5)]
        for i in range(5):
            for j in range(5):
                expected = float((points[i] - points[j]).norm())
                assert found["total_l2"][i, j] == pytest.approx(expected, rel=1e-9)
        assert (found["disagreement"] == found["disagreement"].T).all()
    assert (tmp_path / "out/heatmap.png").exists()
    assert len(list((tmp_path / "out").glob("checkpoint-*.json"))) == 10


def test_what_has_a_direction_stands_above_the_diagonal(
    mcx: Callable, networks: Path, tmp_path: Path
) -> None:
    words = ("--pairs", "all", "--metric", "l2,functional", "--output-dir", tmp_path / "out")
    done = mcx("l2", networks / "seed0", networks / "seed1", *words)
    assert (done.code, "a trajectory is of one run" in done.err) == (0, True)
    with np.load(tmp_path / "out/matrix.npz") as found:
        for name in ("relative", "kl"):
            assert np.isfinite(found[name][np.triu_indices(4)]).all()
            assert np.isnan(found[name][np.tril_indices(4, -1)]).all()
        assert (found["total_l2"] == found["total_l2"].T).all()


def test_the_folder_of_a_run_gives_its_trajectory(mcx: Callable, mlps: Path, tmp_path: Path) -> None:
    done = mcx("l2", mlps / "seed0", "--output-dir", tmp_path / "out")
    assert done.code == 0, done.err
    with (tmp_path / "out/trajectory.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    points = [vector(mlps / "seed0" / f"checkpoint-{epoch}.pt") for epoch in range(5)]
    assert [int(row["epoch"]) for row in rows] == list(range(5))
    length = 0.0
    for k, (row, point) in enumerate(zip(rows, points, strict=True)):
        assert float(row["from_start"]) == pytest.approx(float((point - points[0]).norm()), rel=1e-9)
        assert float(row["from_end"]) == pytest.approx(float((point - points[-1]).norm()), rel=1e-9)
        if k:
            length += float((point - points[k - 1]).norm())
            assert float(row["step"]) == pytest.approx(float((point - points[k - 1]).norm()), rel=1e-9)
        assert float(row["length"]) == pytest.approx(length, rel=1e-9)
        if 0 < k < 4:
            turn = F.cosine_similarity(point - points[k - 1], points[k + 1] - point, 0)
            assert float(row["turn"]) == pytest.approx(float(turn), abs=1e-6)
    assert (tmp_path / "out/trajectory.png").read_bytes().startswith(b"\x89PNG")
    assert "Trajectory" in done.out
    assert (tmp_path / "out/checkpoint-0-checkpoint-4.json").exists()


def test_nothing_is_known_of_broken_epochs(mcx: Callable, networks: Path, tmp_path: Path) -> None:
    shutil.copy(networks / "seed0/checkpoint-0.pt", tmp_path / "checkpoint-0.pt")
    (tmp_path / "checkpoint-1.pt").write_bytes(b"PK\x03\x04")
    shutil.copy(networks / "seed0/checkpoint-4.pt", tmp_path / "checkpoint-4.pt")
    done = mcx("l2", tmp_path, "--json")
    rows = json.loads(done.out)["trajectory"]
    assert done.code == 3
    assert (rows[0]["from_start"], rows[2]["from_end"]) == (0.0, 0.0)
    assert rows[2]["from_start"] > 0
    assert {rows[1][name] for name in ("from_start", "from_end", "step", "length", "relative")} == {None}
    (tmp_path / "checkpoint-0.pt").write_bytes(b"PK\x03\x04")
    rows = json.loads(mcx("l2", tmp_path, "--json").out)["trajectory"]
    assert {rows[0][name] for name in ("from_start", "from_end", "length", "relative")} == {None}


def test_a_range_of_epochs_and_a_pattern_choose(mcx: Callable, mlps: Path) -> None:
    found = json.loads(
        mcx("l2", mlps / "seed0", "--start-epoch", "1", "--end-epoch", "3", "--step", "2", "--json").out
    )
    assert list(found["checkpoints"]) == ["checkpoint-1", "checkpoint-3"]
    done = mcx("l2", mlps / "seed0", mlps / "seed0/checkpoint-1.pt")
    assert (done.code, "two checkpoints are called" in done.err) == (2, True)
    for step in (1, 2):
        words = (f"{mlps}/seed0/checkpoint-?.pt", "--step", str(step), "--json")
        found = json.loads(mcx("l2", *words).out)
        assert [row["epoch"] for row in found["trajectory"]] == list(range(0, 5, step))
    done = mcx("l2", *sorted(mlps.glob("seed0/*.pt"))[:2], "--start-epoch", "1")
    assert (done.code, "choose from a folder or a pattern" in done.err) == (2, True)
