"""`mcx doctor` tries what it reports on, and is exit code 4 where something does not work."""

from __future__ import annotations

import errno
import json
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modeconn_cli.engine.commands import doctor
from modeconn_cli.engine.results import files

Usage = namedtuple("Usage", "total used free")  # as shutil gives it


def checks(done: object) -> dict[str, dict]:
    return {check["name"]: check for check in json.loads(done.out)["checks"]}  # type: ignore[attr-defined]


def test_a_fit_machine(mcx: Callable, tmp_path: Path) -> None:
    done = mcx("doctor", tmp_path, "--json", "-q")
    found = checks(done)
    assert (done.code, done.err, list(tmp_path.iterdir())) == (0, "", [])
    assert found["torch"]["found"].startswith(torch.__version__)
    assert f"{torch.get_num_threads()} threads" in found["cpu"]["found"]
    assert {"python", "disk space", "disk speed", "shared memory", "figures", "pyarrow", "timm"} <= set(found)
    assert {check["verdict"] for check in found.values()} <= {"ok", "note"}
    assert all(bool(check["advice"]) == (check["verdict"] != "ok") for check in found.values())
    assert mcx("doctor", tmp_path / "absent").code == 3


def test_a_disk_that_refuses_is_a_problem_with_what_to_do(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _: object) -> None:
        raise files.refused(path, OSError(errno.ENOSPC, "full"))

    monkeypatch.setattr(files, "atomic_write", full)
    done = mcx("doctor", tmp_path, "--json")
    assert (done.code, checks(done)["disk speed"]["verdict"]) == (4, "problem")
    assert "mcx doctor: error: disk speed: no space left writing" in done.err
    assert "hint: choose a folder that can be written to" in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("free", "space", "shared"),
    [(2**24, "problem", "problem"), (2**29, "problem", "note"), (2**33, "note", "ok")],
)
def test_space_is_judged_by_what_is_free(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, space: str, shared: str
) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Usage(2 * free, free, free))
    monkeypatch.setattr(doctor, "MOUNT", tmp_path)
    monkeypatch.setattr(doctor, "WRITTEN", 2**20)
    assert next(doctor.disk(tmp_path)).verdict == space
    (check,) = doctor.shared_memory()
    assert (check.verdict, bool(check.advice)) == (shared, shared != "ok")


def test_a_gpu_whose_kernels_fail_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**34, 2**34))

    def ones(*_: int, device: str) -> torch.Tensor:
        if device == "cpu":
            return torch.full((64, 64), 1.0)
        raise RuntimeError(
            "no kernel image is available for execution on the device\nCompile with TORCH_USE_CUDA_DSA"
        )

    monkeypatch.setattr(torch, "ones", ones)
    found = {check.name: check for check in doctor.torch_and_devices()}
    assert (found["cpu"].verdict, found["cuda:0"].verdict) == ("ok", "problem")
    assert found["cuda:0"].found.endswith("fails: no kernel image is available for execution on the device")


def test_a_driver_without_a_device_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    found = {check.name: check for check in doctor.torch_and_devices()}
    assert (found["cuda"].verdict, "torch sees no GPU" in found["cuda"].found) == ("note", True)


def test_missing_packages_and_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setattr(doctor, "_version", lambda name: "" if name == "timm" else "1.0")
    found = {check.name: check for check in doctor.packages()}
    assert (found["pandas"].verdict, found["timm"].verdict, found["pyarrow"].verdict) == (
        "problem",
        "note",
        "ok",
    )
    monkeypatch.setenv("MCX_MODEL", "mlp")
    (check,) = doctor.variables()
    assert (check.name, check.verdict, check.found) == ("MCX_MODEL", "note", "mlp")


@pytest.mark.gpu
def test_every_gpu_computes(mcx: Callable, tmp_path: Path) -> None:
    found = checks(mcx("doctor", tmp_path, "--json"))
    for index in range(torch.cuda.device_count()):
        assert found[f"cuda:{index}"]["verdict"] in ("ok", "note")
