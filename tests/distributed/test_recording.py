"""Two processes of torch.distributed record what one does, byte for byte."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

N = 23  # odd: the last batches differ, and a sampler pads

LOOP = """
import sys
import numpy as np, torch
from torch import distributed
from torch.utils.data import DistributedSampler
import modeconn_cli
from modeconn_cli.engine.errors import InputError

N, folder, case, world = 23, sys.argv[1], sys.argv[2], int(sys.argv[3])
if world > 1:
    distributed.init_process_group("gloo")
rank = distributed.get_rank() if world > 1 else 0
logits = 3 * torch.randn(2, N, 5, generator=torch.Generator().manual_seed(0))
ids = None if case in ("learnt", "repeated") else [1] if case == "other ids" and rank else range(N)
try:
    rec = modeconn_cli.Recorder(folder, ids=ids, strict=case == "missing")
    for epoch in range(2):
        order = torch.randperm(N, generator=torch.Generator().manual_seed(epoch))
        if case == "missing":
            order = order[:20]
        if world > 1 and case == "padded":
            sampler = DistributedSampler(range(N), 2, rank, seed=5)
            sampler.set_epoch(epoch)
            batches = torch.tensor(list(sampler)).split(4)
        elif world > 1:  # batches in turn, one more for rank 0, the last of them shorter
            batches = order.split(4)[rank::2]
        else:
            batches = order.split(4)
        for k in batches:
            rec.step(k % 7 if case == "repeated" else k, logits[epoch][k], k % 7 % 5)
        rec.epoch_end()
except InputError as error:
    print(f"{error.message} | {error.hint}")
    sys.exit(3)
finally:
    if world > 1:
        distributed.destroy_process_group()
"""


def run(folder: Path, case: str, environments: list[dict[str, str]]) -> list[tuple[int, str]]:
    """The loop with so many processes: exit code and output of each."""
    words = [sys.executable, "-W", "ignore", "-c", LOOP, str(folder), case, str(len(environments))]
    started = [
        subprocess.Popen(words, env={**os.environ, **each}, stdout=subprocess.PIPE, text=True)
        for each in environments
    ]
    said = [each.communicate(timeout=300)[0].strip() for each in started]
    return [(each.returncode, text) for each, text in zip(started, said, strict=True)]


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("case", ["uneven", "padded", "learnt", "repeated"])
def test_two_ranks_write_what_one_does(tmp_path: Path, ranks: list[dict[str, str]], case: str) -> None:
    assert run(tmp_path / "two", case, ranks) == [(0, ""), (0, "")]
    assert run(tmp_path / "one", case, [{}]) == [(0, "")]
    found = everything(tmp_path / "two")
    assert len([name for name in found if name.startswith("loss_")]) == 2
    assert found == everything(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("case", "said"), [("missing", "3 of 23 ids were in no step"), ("other ids", "the ranks have other ids")]
)
def test_what_one_rank_refuses_all_refuse(
    tmp_path: Path, ranks: list[dict[str, str]], case: str, said: str
) -> None:
    for code, text in run(tmp_path / "two", case, ranks):
        assert (code, said in text, " | " in text) == (3, True, True), text
