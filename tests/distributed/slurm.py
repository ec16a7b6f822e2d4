"""A stand-in for SLURM on one machine: `sbatch` runs a script, `srun` its tasks, `scontrol requeue` leaves a note."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

SRUN = """#!{python}
import os, signal, subprocess, sys
words = sys.argv[1:]
while words[0].startswith("-"):
    words.pop(0)
count = int(os.environ["SLURM_NTASKS"])
step = {{"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(count), "SLURM_STEP_TASKS_PER_NODE": str(count),
        "SLURM_STEP_NODELIST": "localhost"}}
tasks = [
    subprocess.Popen(words, env={{**os.environ, **step, "SLURM_PROCID": str(k), "SLURM_LOCALID": str(k)}})
    for k in range(count)
]
signal.signal(signal.SIGUSR2, lambda *_: [task.send_signal(signal.SIGUSR2) for task in tasks])
sys.exit(max(task.wait() for task in tasks))
"""

SCONTROL = """#!/bin/sh
echo "$@" >> "$REQUEUED"
"""


def install(folder: Path) -> dict[str, str]:
    """Put the commands into a folder; the environment in which a script finds them, and mcx."""
    folder.mkdir()
    for name, text in {"srun": SRUN.format(python=sys.executable), "scontrol": SCONTROL}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    scripts = Path(sys.executable).parent
    return {
        **os.environ,
        "PATH": f"{folder}:{scripts}:{os.environ['PATH']}",
        "SLURM_JOB_ID": str(os.getpid()),
        "REQUEUED": str(folder / "requeued"),
        "OMP_NUM_THREADS": "1",
    }


def sbatch(script: Path, environment: dict[str, str], **exported: str) -> subprocess.CompletedProcess[str]:
    """Run a batch script as its #SBATCH lines say."""
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", script.read_text(), re.MULTILINE))
    allocation = {"SLURM_NTASKS": exported.pop("NTASKS", options["ntasks"]), "SLURM_PROCID": "0"}
    return subprocess.run(
        ["bash", str(script)],
        env={**environment, **allocation, **exported},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
