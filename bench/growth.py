"""`python -m bench.growth`: how the time of a command grows as its input doubles, three times, and its peak memory.

Each run is a process of its own, of which processor time counts, so that a busy machine does not. What is there for any
size, such as the import of torch, drops out: the exponent is that of what is added. The exit code is 1 where one is
above its limit.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

LINEAR, PAIRS = 1.1, 2.1
SAMPLES = 50_000
NOISE = 1.0  # seconds of processor time that have to be added for an exponent to mean anything


@dataclass(frozen=True)
class Axis:
    """A command whose input grows; `make` fills a folder, `again`: the run of a finished job is what is measured."""

    name: str
    limit: float
    first: int
    make: Callable[[Path, int], None]
    words: tuple[str, ...]
    again: bool = False


def losses(folder: Path, epochs: int) -> None:
    """Losses and gradient norms in the layout of the original scripts."""
    random = np.random.default_rng(0)
    np.save(folder / "sample_ids.npy", np.arange(SAMPLES))
    values = random.gamma(1.0, size=SAMPLES).astype(np.float32)
    for epoch in range(epochs):
        np.save(folder / f"loss_digits_epoch_{epoch}.npy", values / (epoch + 1))
        np.save(folder / f"loss_grad_digits_epoch_{epoch}.npy", values / (epoch + 2))


def dormancy(folder: Path, epochs: int) -> None:
    random = np.random.default_rng(0)
    ids, labels = np.arange(SAMPLES // 10), np.arange(SAMPLES // 10) % 10
    for epoch in range(epochs):
        np.save(folder / f"dormant_props_epoch_{epoch}.npy", random.random(len(ids), dtype=np.float32))
        np.save(folder / f"sample_ids_epoch_{epoch}.npy", ids)
        np.save(folder / f"labels_epoch_{epoch}.npy", labels)


def checkpoints(folder: Path, count: int) -> None:
    random = torch.Generator().manual_seed(0)
    for number in range(count):
        state = {f"{k}.weight": torch.randn(8, 8, generator=random) for k in range(3)}
        with (folder / f"checkpoint-{number}.pt").open("wb") as stream:
            torch.save({"epoch": number, "model_state": state}, stream)


AGGREGATE = ("csl", "aggregate", "--dataset", "digits", "--output-dir", "out", "--input-dir", "in")
CORRELATE = ("correlate", "--output-dir", "out", "--dormant", "in")
ALL_PAIRS = ("l2", "in", "--pairs", "all", "--output-dir", "out")
AXES = (
    Axis("csl aggregate, epochs", LINEAR, 500, losses, AGGREGATE),
    Axis("csl aggregate again, epochs", LINEAR, 500, losses, AGGREGATE, again=True),
    Axis("correlate --dormant, epochs", LINEAR, 500, dormancy, CORRELATE),
    Axis("l2 --pairs all, checkpoints", PAIRS, 25, checkpoints, ALL_PAIRS),
    Axis("l2 --pairs all again, checkpoints", PAIRS, 25, checkpoints, ALL_PAIRS, again=True),
    Axis("l2 FOLDER, checkpoints", LINEAR, 50, checkpoints, ("l2", "in", "--output-dir", "out")),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="the least of so many counts [default: 3]")
    parser.add_argument("--only", default="", help="axes that begin so")
    asked = parser.parse_args()
    runs = asked.runs
    over = False
    print(f"{'':36}{'n':>6}   processor seconds at n, 2n, 4n, 8n   exponent  limit  MB at n, 8n")
    for axis in (each for each in AXES if each.name.startswith(asked.only)):
        sizes = [axis.first * 2**k for k in range(4)]
        found = [min(_run(axis, size) for _ in range(runs)) for size in sizes]
        seconds = [each[0] for each in found]
        exponent = _exponent(seconds)
        over |= exponent is not None and exponent > axis.limit
        said = "     –" if exponent is None else f"{exponent:6.2f}"
        times = "  ".join(f"{each:6.2f}" for each in seconds)
        print(
            f"{axis.name:36}{axis.first:6}   {times}{said:>14}{axis.limit:7.1f}  {found[0][1]:.0f}, {found[-1][1]:.0f}"
        )
    return over


def _exponent(seconds: list[float]) -> float | None:
    """p of a + b n^p through the first, the third and the last; None where next to nothing is added."""
    middle, last = seconds[2] - seconds[0], seconds[3] - seconds[0]
    if last < NOISE:
        return None
    low, high = 0.01, 6.0
    while high - low > 0.005:
        p = (low + high) / 2
        low, high = (p, high) if (8**p - 1) / (4**p - 1) < last / max(middle, 1e-9) else (low, p)
    return low


def _run(axis: Axis, size: int) -> tuple[float, float]:
    """Processor seconds and peak memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "in").mkdir()
        axis.make(place / "in", size)
        if axis.again:
            _measured(axis.words, place)
        return _measured(axis.words, place)


def _measured(words: tuple[str, ...], place: Path) -> tuple[float, float]:
    pid = os.fork()
    if pid == 0:
        os.chdir(place)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.execv(sys.executable, [sys.executable, "-m", "modeconn_cli", *words, "-q"])
    _, status, used = os.wait4(pid, 0)
    if status:
        raise RuntimeError(f"mcx {' '.join(words)} ended with {os.waitstatus_to_exitcode(status)}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
