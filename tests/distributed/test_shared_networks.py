"""Several processes share the networks: the files of one, whoever is killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

WORDS = (
    *("memo", "--model", "mlp", "--model-arg", "width=16", "--dataset", "digits", "--max-samples", "60"),
    *("--epochs", "2", "--batch-size", "16", "--stack", "2", "--models", "9"),
)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.distributed
def test_two_processes_give_the_files_of_one_after_a_kill(
    mcx: Callable, start: Callable, tmp_path: Path
) -> None:
    assert mcx(*WORDS, "--output-dir", tmp_path / "one", "--threads", "1").code == 0
    two = (*WORDS, "--output-dir", tmp_path / "two", "--nproc-per-node", "2")
    fault = {"MCX_TESTING": "1", "MCX_FAILPOINT": "memo.after_block.rank1:1=kill"}
    done = start(*two, environment=fault)
    out, err = done.communicate(timeout=100)
    assert (done.returncode, out) == (137, ""), err
    kept = [path.name for path in (tmp_path / "two/.mcx/memo/parts").iterdir()]
    assert "members-2-4.npz" in kept
    assert len(kept) < 5
    done = start(*two)
    out, err = done.communicate(timeout=100)
    assert done.returncode == 0, err
    assert out.count("Memorisation of 60 images of digits by 9 networks mlp") == 1
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    done = start(*two)
    _, err = done.communicate(timeout=100)
    assert (done.returncode, err.count("already complete")) == (0, 1)
