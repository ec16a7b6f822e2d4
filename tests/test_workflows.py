"""The workflow scripts, in full, on the digits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def script(name: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    path = ROOT / "configs/workflows" / name
    return subprocess.run(["bash", str(path)], cwd=folder, env=environment, capture_output=True, text=True)


def test_the_experiments_endpoints_and_their_distances(mcx, networks: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    (results / "endpoints").mkdir(parents=True)
    (results / "endpoints/checkpoints").symlink_to(networks)
    variables = {"RESULTS": "results", "EPOCH": "4"}
    made = script("setup_neuronswap_experiments.sh", tmp_path, **variables)
    assert made.returncode == 0, made.stderr
    for depth, layer in (("early", "conv1"), ("mid", "conv3"), ("late", "fc1")):
        metadata = json.loads(
            (results / f"endpoints_neuronswap/{depth}2/checkpoint-4_metadata.json").read_text()
        )
        assert (metadata["layer_depth"], metadata["layer_name"]) == (depth, layer)
        assert metadata["verification"]["level"] == "full"
        assert metadata["verification"]["acc_original"] == metadata["verification"]["acc_swapped"]
    mirror = json.loads((results / "endpoints_mirror/checkpoint-4_metadata.json").read_text())
    assert mirror["verification"]["is_equivalent"] is True

    measured = script("calculate_all_endpoint_l2.sh", tmp_path, **variables)
    assert measured.returncode == 0, measured.stderr
    folder = results / "endpoint_l2_distances"
    names = ("seed0-seed1", "seed0-mirror", "seed0-early2", "seed0-mid2", "seed0-late2")
    distances = {name: json.loads((folder / f"{name}.json").read_text())["total_l2"] for name in names}
    assert max(distances[f"seed0-{depth}2"] for depth in ("early", "mid", "late")) < distances["seed0-mirror"]
    assert [line.split()[0] for line in (folder / "summary.txt").read_text().splitlines()[1:]] == list(names)
