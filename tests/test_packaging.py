"""The package as it is handed out: built, installed into an empty environment, and used there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*words: str | Path, cwd: Path) -> str:
    """Run a program without any path of this checkout; its standard output."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MCX_", "PYTHON"))
    }
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_wheel_and_sdist_are_built_installed_and_used(tmp_path: Path) -> None:
    source, empty = tmp_path / "source", tmp_path / "empty"
    source.mkdir()
    shutil.copytree(
        ROOT / "modeconn_cli", source / "modeconn_cli", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    # The sdist first, the wheel from it: what the sdist lacks, the wheel lacks too.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", cwd=source)
    (wheel,), (sdist,) = (source / "dist").glob("*.whl"), (source / "dist").glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        shipped = set(archive.namelist())
    here = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "modeconn_cli").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert here == {name for name in shipped if name.startswith("modeconn_cli/")}
    assert "modeconn_cli/py.typed" in shipped
    with tarfile.open(sdist) as archive:
        assert any(name.endswith("/LICENSE") for name in archive.getnames())

    # Empty but for what the package depends on: torch is borrowed from the environment of the tests instead of being
    # fetched again. A line in a .pth file adds its packages and not its editable installation of this checkout.
    venv.create(empty, symlinks=True)
    site = empty / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip", "--python", empty / "bin/python", "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", wheel, cwd=tmp_path)
    mcx = empty / "bin/mcx"
    where = run(empty / "bin/python", "-c", "import modeconn_cli; print(modeconn_cli.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(empty)
    assert run(mcx, "--version", cwd=tmp_path).split()[-1] == wheel.name.split("-")[1]
    assert "preresnet" in run(mcx, "help", "models", cwd=tmp_path)
    printed = run(
        mcx, "demo", "--epochs", "1", "--curve-epochs", "1", "--num-points", "3", "--json", cwd=tmp_path
    )
    assert '"swapped_pair"' in printed
    assert (tmp_path / "results/demo/cnn/digits/endpoints_neuronswap/mid2/checkpoint-1.pt").exists()


def test_the_versions_of_python_are_declared() -> None:
    named = {text.rpartition(" ")[2] for text in PROJECT["classifiers"] if "Python :: 3." in text}
    assert named == {"3.11", "3.12", "3.13", "3.14"}
    assert PROJECT["requires-python"] == ">=3.11"
    assert f"{sys.version_info[0]}.{sys.version_info[1]}" in named
    assert (ROOT / "modeconn_cli/py.typed").exists()
