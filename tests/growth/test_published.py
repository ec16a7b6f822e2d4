"""What it takes to publish a file, counted: one temporary file, one sync of it and one of its folder, one rename."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modeconn_cli.cli import app
from modeconn_cli.engine.results import files


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the system is asked for a temporary file, to sync and to rename, and how many files are published."""
    found = Counter[str]()

    def counting(name: str) -> None:
        function = getattr(os, name)

        def counted(*words: Any, **more: Any) -> Any:
            if name != "open" or str(words[0]).endswith(".tmp"):
                found[name] += 1
            return function(*words, **more)

        monkeypatch.setattr(os, name, counted)

    for name in ("open", "fsync", "replace"):
        counting(name)
    monkeypatch.setattr(files, "published", lambda _: found.update(["published"]))
    return found


def test_one_file(tmp_path: Path, calls: Counter[str]) -> None:
    files.write_array(tmp_path / "a.npy", np.arange(3))
    assert calls == {"open": 1, "fsync": 2, "replace": 1, "published": 1}


def test_many_documents_share_the_sync_of_their_folder(tmp_path: Path, calls: Counter[str]) -> None:
    files.write_jsons((tmp_path / f"{k}.json", {"k": k}) for k in range(files.MANY + 1))
    count = files.MANY + 1
    assert calls == {"open": count, "fsync": count + 2, "replace": count, "published": count}


def test_a_whole_job(tmp_path: Path, calls: Counter[str]) -> None:
    """Beside its files a job has a lock, a record, settings, a status and a manifest, and looks if it may write."""
    for epoch in range(3):
        with (tmp_path / f"loss_digits_epoch_{epoch}.npy").open("wb") as stream:
            np.lib.format.write_array(stream, np.arange(6, dtype=np.float32))
    words = ["csl", "aggregate", "--input-dir", str(tmp_path), "--output-dir", str(tmp_path / "out"), "-q"]
    assert app.main(words) == 0
    count = calls["published"]
    made = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(made) <= count <= len(made) + 4, "the lock is gone, and the status was written twice"
    assert (calls["replace"], calls["fsync"]) == (count, 2 * count)
    assert calls["open"] <= count + 3, "a look at each of the folders"


def test_documents_may_hold_names_that_are_no_text(tmp_path: Path) -> None:
    """A file name of stray bytes is spelled out, alone and among others."""
    some = [(tmp_path / f"{k}.json", {"path": "\udcff"}) for k in range(2)]
    files.write_jsons(some[:1])
    files.write_jsons([(tmp_path / "b.json", {}), *some])
    assert {path.read_bytes() for path, _ in some} == {b'{\n  "path": "\\udcff"\n}\n'}
