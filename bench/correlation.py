"""Joining and correlating eight metrics of 1.3 million samples, as a whole process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from bench.command_line import MCX, process
from bench.pairs import Pair

COUNT = 1_300_000  # ImageNet's training images
CLASSES = 1000


def prepare(folder: Path) -> Pair:
    """Files of every kind of source; one run beforehand tells the peak memory."""
    generator = np.random.default_rng(0)
    base, ids = generator.gamma(2.0, size=COUNT).astype(np.float32), np.arange(COUNT)
    places = {
        "csl": ("csl_imagenet_run1_noise_0.01", "lt_imagenet_run1_noise_0.01"),
        "curvature": ("per_image_curvature", "per_image_directional_eig"),
        "dormant": ("dormant_props_epoch_90", "dormant_post_epoch_90"),
        "further": ("memo", "margin"),
    }
    for place, names in places.items():
        (folder / place).mkdir()
        ids_name = "sample_ids_epoch_90" if place == "dormant" else "sample_ids"
        np.save(folder / place / f"{ids_name}.npy", ids)
        for name in names:
            np.save(folder / place / f"{name}.npy", base + generator.standard_normal(COUNT, dtype=np.float32))
    np.save(folder / "curvature/per_image_labels.npy", ids % CLASSES)
    words = (
        MCX, "correlate", "--csl", str(folder / "csl"), "--curvature", str(folder / "curvature"),
        "--dormant", str(folder / "dormant"), "--memo", str(folder / "further/memo.npy"),
        "--with", str(folder / "further/margin.npy"), "--output-dir", str(folder / "out"),
        "--no-resume", "--overwrite", "--quiet",
    )  # fmt: skip
    return Pair(process(*words), None, (f"{COUNT:,} samples x 8 metrics, {peak(*words):.0f} MB at most",))


def peak(*words: str) -> float:
    """The largest memory of a command, in MB."""
    # A process of its own between: the kernel counts the memory of who forks as the child's.
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run((sys.executable, "-c", code, *words), stdout=subprocess.PIPE, check=True)
    return int(done.stdout) / (1e6 if sys.platform == "darwin" else 1e3)
