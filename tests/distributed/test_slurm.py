"""The templates of `configs/slurm`, under a stand-in for SLURM."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import slurm

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TEMPLATES = sorted((ROOT / "configs/slurm").glob("submit_*.sh"))


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    return {**slurm.install(tmp_path / "bin"), "SLURM_SUBMIT_DIR": str(ROOT)}


def test_every_documented_template_is_there_and_asks_to_be_queued_again() -> None:
    names = {path.name for path in TEMPLATES}
    documented = {f"submit_neuronswap_curve_{depth}2.sh" for depth in ("early", "mid", "late")}
    assert documented | {"submit_neuronswap_analysis.sh"} <= names
    for path in TEMPLATES:
        lines = re.findall(r"^#SBATCH (--\S+)$", path.read_text(), re.MULTILINE)
        assert {"--requeue", "--open-mode=append", "--signal=USR2@180"} <= set(lines), path.name
        assert path.stat().st_mode & 0o100


@pytest.mark.distributed
def test_j5_a_job_of_two_tasks_is_stopped_queued_again_and_goes_on(
    mcx: Callable, cluster: dict[str, str], networks: Path, tmp_path: Path
) -> None:
    script = ROOT / "configs/slurm/submit_dormant.sh"
    exported = {
        "RUN": str(networks / "seed0"), "OUT": str(tmp_path / "out"), "START": "0", "END": "4", "STEP": "4",
        "FLAGS": "--batch-size 64 --threads 1",
    }  # fmt: skip
    # USR2 in one task stops both.
    stopped = {"MCX_TESTING": "1", "MCX_FAILPOINT": "scoring.after_part.rank1:1=usr2"}
    first = slurm.sbatch(script, cluster, NTASKS="2", **exported, **stopped)
    assert first.returncode == 75, first.stderr
    assert Path(cluster["REQUEUED"]).read_text() == f"requeue {cluster['SLURM_JOB_ID']}\n"
    second = slurm.sbatch(script, {**cluster, "SLURM_RESTART_COUNT": "1"}, NTASKS="2", **exported)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("Dormant units of") == 1
    assert len(Path(cluster["REQUEUED"]).read_text().splitlines()) == 1
    words = shlex.split(exported["FLAGS"])
    assert (
        mcx("dormant", "--checkpoint-dir", networks / "seed0", "--output-dir", tmp_path / "one", *words).code
        == 0
    )
    for path in (tmp_path / "one").glob("*.*"):
        if path.is_file():
            assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.slow
@pytest.mark.distributed
def test_every_template_runs(cluster: dict[str, str], tmp_path: Path) -> None:
    """The whole chain on the digits, a few epochs each."""
    digits, run = ROOT / "configs/digits", tmp_path / "r/endpoints/checkpoints/seed0"
    common = {"RESULTS": str(tmp_path / "r"), "EPOCH": "2", "CURVE_EPOCH": "2", "NTASKS": "1"}

    def submit(name: str, **exported: str) -> None:
        done = slurm.sbatch(ROOT / f"configs/slurm/submit_{name}.sh", cluster, **{**common, **exported})
        assert done.returncode == 0, f"{name}: {done.stderr}"

    for seed in ("0", "1"):
        submit(
            "endpoints", CONFIG=str(digits / "cnn_endpoints.yaml"), SLURM_ARRAY_TASK_ID=seed,
            FLAGS="--epochs 2 --save-freq 1 --threads 1",
        )  # fmt: skip
    for depth in ("early", "mid", "late"):
        swapped = tmp_path / f"r/endpoints_neuronswap/{depth}2/checkpoint-2.pt"
        words = [
            "--checkpoint",
            str(run / "checkpoint-2.pt"),
            "--output",
            str(swapped),
            "--layer-depth",
            depth,
        ]
        slurm.subprocess.run(
            [sys.executable, "-m", "modeconn_cli", "swap", *words], check=True, capture_output=True
        )
        submit(
            f"neuronswap_curve_{depth}2", CONFIG=str(digits / f"cnn_curve_neuronswap_{depth}2_reg.yaml"),
            FLAGS=f"--endpoint0 {run}/checkpoint-2.pt --endpoint1 {swapped} --epochs 2 --threads 1",
        )  # fmt: skip
    submit("neuronswap_analysis", EXPERIMENT="late2")
    for name in ("csl_scoring", "dormant", "curvature"):
        submit(
            name, RUN=str(run), OUT=str(tmp_path / name), START="0", END="2", STEP="2", NTASKS="2",
            FLAGS="--threads 1 --max-samples 100",
        )  # fmt: skip
    submit(
        "lmc", PRESET="digits", OUT=str(tmp_path / "lmc"), FLAGS="--max-epochs 3 --k1 0,1 --k2 1 --threads 1"
    )
    assert (tmp_path / "r/curve_neuronswap_late2_reg/analysis/layer_distances_evolution.gif").exists()
    assert json.loads((tmp_path / "curvature/curvature_summary_digits.json").read_text())["samples"] == 100
