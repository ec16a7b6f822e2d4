"""What a finished job returns without doing it again is what it would find now: every doubt and it is done again."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeconn_cli.cli import app
from modeconn_cli.engine.errors import OutputError
from modeconn_cli.engine.results import files, manifest

pytestmark = pytest.mark.usefixtures("undrawn")


def said(*words: str) -> dict[str, Any]:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert app.main([*words, "-q", "--json"]) == 0
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Losses of the original scripts, aggregated."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "in"
    folder.mkdir()
    for epoch in range(4):
        values = (np.arange(20, dtype=np.float32) + 1) / (epoch + 1)
        np.save(folder / f"loss_digits_run1_epoch_{epoch}_noise_0.npy", values)
    np.save(folder / "sample_ids.npy", np.arange(100, 120))
    said(*AGGREGATE, "--num-samples", "2")
    return folder


AGGREGATE = ("csl", "aggregate", "--input-dir", "in", "--output-dir", "out")


def test_k4_other_ids_are_other_samples(foreign: Path) -> None:
    before = said(*AGGREGATE, "--num-samples", "2")["hardest"]
    assert [row["sample_id"] for row in before] == [119, 118]
    np.save(foreign / "sample_ids.npy", np.arange(500, 520))
    done = app.main([*AGGREGATE, "--num-samples", "2", "-q"])
    assert done in (0, 5), "done again, or refused where other samples lie there"
    if done == 0:
        assert said(*AGGREGATE, "--num-samples", "2")["hardest"][0]["sample_id"] == 519


def test_label_noise_that_comes_later_is_used(foreign: Path) -> None:
    assert said(*AGGREGATE, "--num-samples", "2")["flipped"] is None
    rows = "".join(f"{k},0,{int(k % 5 == 0)}\n" for k in range(100, 120))
    (foreign / "label_noise_digits_run1_noise_0.csv").write_text("sample_id,clean_label,noisy_label\n" + rows)
    assert said(*AGGREGATE, "--num-samples", "2")["flipped"] == 4


def test_more_samples_are_shown_where_they_are_asked_for(foreign: Path) -> None:
    assert len(said(*AGGREGATE, "--num-samples", "3")["hardest"]) == 3


def test_a_result_that_was_edited_is_not_repeated(foreign: Path) -> None:
    (path,) = Path("out").glob("metrics_*.json")
    mean = json.loads(path.read_text())["mean_csl"]
    text = path.read_text()
    digit = str(mean)[0]
    path.write_text(text.replace(f'"mean_csl": {digit}', '"mean_csl": 9'))
    assert said(*AGGREGATE, "--num-samples", "2")["mean_csl"] == mean


def test_places_are_those_of_today(foreign: Path) -> None:
    Path("out").rename("moved")
    found = said("csl", "aggregate", "--input-dir", "in", "--output-dir", "moved", "--num-samples", "2")
    assert Path(found["csl_path"]).exists()


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate("abc"):
        with Path(f"{name}.pt").open("wb") as stream:
            torch.save({"fc.weight": torch.arange(6.0) * (number + 1)}, stream)
    return tmp_path


L2 = ("l2", "a.pt", "b.pt", "c.pt", "--pairs", "all", "--output-dir", "out")


@pytest.mark.parametrize(
    "damage",
    [
        lambda document: {**document, "resulu": document.pop("result")},
        lambda document: {**document, "files": 3},
        lambda document: {**document, "result": {**document["result"], "pairs": [{"pair": 5}]}},
        lambda document: {**document, "result": {**document["result"], "trajectory": "x"}},
    ],
)
def test_what_cannot_be_read_of_finished_pairs_is_measured_again(
    pairs: Path, damage: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    before = said(*L2)
    path = Path("out/.mcx/l2/finished.json")
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    assert said(*L2) == before


def test_values_that_are_no_numbers_stay_none(pairs: Path) -> None:
    with Path("c.pt").open("wb") as stream:
        torch.save({"fc.weight": torch.tensor([1.0, float("nan"), 2.0, 3.0, float("inf"), 5.0])}, stream)
    words = (*L2, "--allow-nonfinite")
    before = said(*words)
    assert before["nonfinite"]
    assert said(*words) == before


def test_hashes_that_cannot_be_read_are_taken_again(foreign: Path) -> None:
    (private,) = Path("out/.mcx").glob("csl-aggregate*")
    (private / "manifest.json").unlink()
    (private / manifest.HASHES).write_text('{"files": [')
    said(*AGGREGATE, "--num-samples", "2")
    assert (private / "manifest.json").exists()


def test_a_flipped_byte_is_found_by_verify_whatever_its_time_is(foreign: Path) -> None:
    (path,) = Path("out").glob("csl_digits*.npy")
    times, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert app.main(["status", "out", "-q"]) == 0
    assert app.main(["status", "out", "--verify", "-q"]) == 3


def test_a_folder_that_cannot_be_synced_after_many_files_is_5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def broken(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(5, "Input/output error")
        sync(handle)

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OutputError, match="Input/output error"):
        files.write_jsons([(tmp_path / "a.json", {}), (tmp_path / "b.json", {})])
