"""What a kill leaves of a score of many epochs, each of many units."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modeconn_cli.engine.samples import sweep

SAMPLES, UNIT, EPOCHS = 24, 4, 8
UNITS = SAMPLES // UNIT
WORDS = (
    "csl",
    "score",
    "--checkpoint-dir",
    "run/seed0",
    "--grad",
    "none",
    "--batch-size",
    UNIT,
    "--output-dir",
)


@pytest.fixture(autouse=True)
def run(mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight epochs of a network of a few weights, and units of four samples."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "UNIT", UNIT)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (SAMPLES + 6, 1, 8, 8), dtype=np.uint8)
    split = np.array(["train"] * SAMPLES + ["test"] * 6)
    np.savez("data.npz", images=images, labels=np.arange(SAMPLES + 6) % 3, split=split)
    network = ("--model", "mlp", "--model-arg", "width=4", "--num-classes", "3", "--dataset", "data.npz")
    assert mcx("train", *network, "--epochs", EPOCHS, "--save-freq", "1", "--output-dir", "run").code == 0


def parts(folder: str) -> list[Path]:
    return list(Path(folder).glob(".mcx/*/parts/*/*.npz"))


def results(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.np[yz]")}


def test_what_a_kill_has_left_is_taken_and_nothing_of_it_stays(
    mcx: Callable, forked: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mcx(*WORDS, "whole").code == 0
    kill = {"MCX_TESTING": "1", "MCX_FAILPOINT": f"scoring.after_part:{2 * UNITS + 4}=kill"}
    assert forked([*WORDS, "out"], kill).code == -9
    assert len(parts("out")) == 4, "of the third epoch, as two are finished"
    place, foreign = parts("out")[0].parent, "0123456789abcdef-0-4.npz"
    (place / foreign).write_bytes(b"of what the checkpoint was before")
    finished = place.with_name("epoch_0")
    finished.mkdir()
    (finished / foreign).write_bytes(b"a kill came before it was removed")
    plain, computed = sweep.Sweep._part, list[sweep.Unit]()

    def part(each: sweep.Sweep, unit: sweep.Unit, *found: Any) -> sweep.Values:
        computed.append(unit)
        return plain(each, unit, *found)

    monkeypatch.setattr(sweep.Sweep, "_part", part)
    assert mcx(*WORDS, "out").code == 0
    assert len(computed) == (EPOCHS + 1 - 2) * UNITS - 4, "what was there is not computed again"
    assert results("out") == results("whole")
    assert list(place.parent.iterdir()) == []
