"""`mcx l2` of several checkpoints."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from modeconn_cli.engine.networks import checkpoints


@pytest.fixture
def files(networks: Path) -> list[Path]:
    return [
        networks / "seed0/checkpoint-0.pt",
        networks / "seed0/checkpoint-4.pt",
        networks / "seed1/checkpoint-4.pt",
    ]


def contents(folder: Path) -> dict[str, bytes]:
    """The pairs' files."""
    return {path.name: path.read_bytes() for path in folder.glob("*.json")}


def labelled(files: list[Path]) -> list[str]:
    return [f"{label}={path}" for label, path in zip(("init", "seed0", "seed1"), files, strict=True)]


def test_a_json_per_pair_and_both_summaries(mcx, files: list[Path], tmp_path: Path) -> None:
    done = mcx("l2", *labelled(files), "--pairs", "all", "--output-dir", tmp_path)
    assert done.code == 0
    pairs = ["init-seed0", "init-seed1", "seed0-seed1"]
    assert sorted(path.name for path in tmp_path.glob("*.json")) == [f"{pair}.json" for pair in pairs]
    alone = json.loads(mcx("l2", files[1], files[2], "--json").out)
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


def test_by_default_the_first_is_compared_with_each(mcx, files: list[Path]) -> None:
    done = json.loads(mcx("l2", *labelled(files), "--json").out)
    assert [row["pair"] for row in done["pairs"]] == ["init-seed0", "init-seed1"]


def test_each_file_is_read_once(mcx, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    read, seen = checkpoints.read, []

    def counting(path: Path, **words: object) -> checkpoints.Checkpoint:
        seen.append(path)
        return read(path, **words)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoints, "read", counting)
    assert mcx("l2", *labelled(files), "--pairs", "all").code == 0
    assert seen == files


def test_a_broken_file_spoils_its_own_pairs_only(mcx, files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(files[0].read_bytes()[:100])
    done = mcx(
        "l2",
        *labelled(files),
        f"bad={tmp_path / 'bad.pt'}",
        "--pairs",
        "all",
        "--output-dir",
        tmp_path / "out",
    )
    assert done.code == 3
    assert "3 of 6 pairs could not be measured" in done.err
    assert done.out.count(" ok") == 3
    assert done.out.count("truncated or damaged") == 3
    assert len(list((tmp_path / "out").glob("*.json"))) == 3


def test_labels_come_from_the_stem_or_the_folder(mcx, files: list[Path]) -> None:
    done = json.loads(mcx("l2", *files, "--json").out)
    assert list(done["checkpoints"]) == ["checkpoint-0", "seed0", "seed1"]


def test_two_checkpoints_of_one_name_are_refused(mcx, files: list[Path]) -> None:
    done = mcx("l2", f"a={files[0]}", f"a={files[1]}", files[2])
    assert (done.code, "two checkpoints are called 'a'" in done.err) == (2, True)
    assert mcx("l2", f"a/b={files[0]}", files[1], files[2]).code in (2, 3)


def test_a_second_run_changes_nothing_and_another_set_is_refused(
    mcx, files: list[Path], tmp_path: Path
) -> None:
    words = (*labelled(files), "--output-dir", tmp_path)
    assert mcx("l2", *words).code == 0
    before = contents(tmp_path)
    again = mcx("l2", *words)
    assert (again.code, "already complete" in again.err) == (0, True)
    assert contents(tmp_path) == before
    other = mcx("l2", f"init={files[1]}", f"seed0={files[0]}", f"seed1={files[2]}", "--output-dir", tmp_path)
    assert (other.code, other.out) == (5, "")
    assert contents(tmp_path) == before
    more = mcx("l2", *words[:3], f"x={files[1]}", "--output-dir", tmp_path)
    assert (more.code, "hold the same weights" in more.err) == (0, False)
    assert set(before) < set(contents(tmp_path)), "a pair more, and the others as they were"
