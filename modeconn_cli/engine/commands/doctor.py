"""`mcx doctor`: is this machine fit? Each check tries the thing itself and says what to do where it is not."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import ClassVar, Literal

from modeconn_cli import __version__
from modeconn_cli.engine.errors import AnswerIsNo, McxError, must_exist
from modeconn_cli.engine.machine.devices import cores
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import files
from modeconn_cli.engine.results.figures import page
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.settings.doctor import DoctorSettings
from modeconn_cli.engine.settings.shared import FigureSettings

MIB, GIB = 2**20, 2**30
WRITTEN = 64 * MIB  # a checkpoint of VGG16 with its optimizer is twice as large
SYNCS = 8  # small files, as records and logs are
# Bytes that are free, and seconds: below the first it is a problem, below the second worth a note.
DISK, SHARED = (1 * GIB, 10 * GIB), (32 * MIB, 1 * GIB)
SLOW_WRITE, SLOW_SYNC = 20 * MIB, 0.2  # bytes a second; seconds for a small file
MOUNT = Path("/dev/shm")  # where processes that read images hand them over
REQUIRED = ("torchvision", "numpy", "scipy", "pandas", "safetensors", "imageio", "yaml")
OPTIONAL = {"timm": "networks as timm:NAME", "pyarrow": "tables as Parquet"}
PACKAGES = {"yaml": "pyyaml"}  # whose modules are called otherwise
AGAIN = "install mcx again: pip install --force-reinstall modeconn-cli"

Verdict = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Check:
    """What was tried, what was found, and what to do where the verdict is not ok."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""


@dataclass(frozen=True, kw_only=True)
class DoctorResult(Record):
    schema: ClassVar[str] = "mcx.doctor/1"

    folder: str
    checks: tuple[Check, ...]


def run(settings: DoctorSettings, runtime: Runtime) -> DoctorResult | None:
    """Try everything. Raises AnswerIsNo, with what was found, where there is a problem."""
    folder = settings.folder
    must_exist(folder, "pass a folder", folder=True)
    tried: dict[str, Callable[[], Iterator[Check]]] = {
        "python": python,
        "torch": torch_and_devices,
        "disk": partial(disk, folder),
        "shared memory": shared_memory,
        "figures": figures,
        "packages": packages,
        "variables": variables,
    }
    if runtime.plan([f"try {', '.join(tried)}; {WRITTEN // MIB} MiB are written in '{folder}' and removed"]):
        return None
    checks: list[Check] = []
    for done, (name, checked) in enumerate(tried.items()):
        runtime.progress(done, len(tried), trying=name)
        checks += checked()
    result = DoctorResult(folder=str(folder), checks=tuple(checks))
    problems = [check for check in checks if check.verdict == "problem"]
    if problems:
        first, more = problems[0], len(problems) - 1
        others = f" (and {more} more)" if more else ""
        raise AnswerIsNo(f"{first.name}: {first.found}{others}", first.advice, result)
    return result


def python() -> Iterator[Check]:
    """Which Python, and which system."""
    yield Check("mcx", "ok", __version__)
    yield Check("python", "ok", f"{platform.python_version()}, {platform.system()} {platform.machine()}")


def torch_and_devices() -> Iterator[Check]:
    """Whether torch is there, fits torchvision, and computes on every device that it sees."""
    try:
        import torch
        from torchvision.ops import nms
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        advice = (
            "torch and torchvision must be a pair, from one index: pip install --upgrade torch torchvision"
        )
        yield Check("torch", "problem", _reason(error), advice)
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    yield Check(
        "torch", "ok", f"{torch.__version__}, built with {build}; torchvision {_version('torchvision')}"
    )
    yield _computes("cpu", f"{cores()} cores, {torch.get_num_threads()} threads", lambda: nms)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(count):
        yield _cuda(index)
    if not count and (said or shutil.which("nvidia-smi")):
        why = _reason(said[0].message) if said else "nvidia-smi is there"
        yield Check(
            "cuda", "note", f"torch sees no GPU: {why}",
            "for a GPU: a torch built for CUDA, and a driver as new as it asks for (nvidia-smi); else --device cpu",
        )  # fmt: skip
    elif not count:
        yield Check("cuda", "ok", "no GPU; commands compute on the CPU")


def _cuda(index: int) -> Check:
    import torch

    try:
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
    except RuntimeError as error:
        return Check(
            f"cuda:{index}", "problem", _reason(error), "see nvidia-smi; --device cpu works without it"
        )
    found = f"{name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free"
    check = _computes(f"cuda:{index}", found, lambda: None)
    if check.verdict == "ok" and free < total / 2:
        return Check(check.name, "note", check.found, "another process uses it: see nvidia-smi")
    return check


def _computes(device: str, found: str, first: Callable[[], object]) -> Check:
    """A product of small matrices, held to its exact value."""
    import torch

    advice = "torch does not run on it: see nvidia-smi" if device != "cpu" else AGAIN
    try:
        first()
        ones = torch.ones(64, 64, device=device)
        total = float((ones @ ones).sum())
    except (RuntimeError, NotImplementedError) as error:
        return Check(device, "problem", f"{found}; a small product fails: {_reason(error)}", advice)
    if total != 64.0**3:
        return Check(device, "problem", f"{found}; a small product is {total}, not {64**3}", advice)
    return Check(device, "ok", found)


def disk(folder: Path) -> Iterator[Check]:
    """How much space there is, and how fast a file is on the disk for good."""
    free = shutil.disk_usage(folder).free
    verdict = _below(free, DISK)
    yield Check(
        "disk space", verdict, f"{free / GIB:.1f} GiB free in '{folder}'",
        "" if verdict == "ok" else "free some space: checkpoints of a long training take gigabytes",
    )  # fmt: skip
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".mcx-doctor-") as place:
            written = Path(place) / "file"
            size = min(WRITTEN, free // 4)
            took = _seconds(lambda: files.atomic_write(written, os.urandom(size)))
            syncs = [_seconds(lambda: files.write_text(written, "small")) for _ in range(SYNCS)]
    except (McxError, OSError) as error:
        yield Check(
            "disk speed", "problem", _reason(error), "choose a folder that can be written to: mcx doctor DIR"
        )
        return
    speed, sync = size / max(took, 1e-9), sorted(syncs)[SYNCS // 2]
    slow = speed < SLOW_WRITE or sync > SLOW_SYNC
    yield Check(
        "disk speed", "note" if slow else "ok", f"{speed / MIB:.0f} MiB/s, {1000 * sync:.0f} ms for a small file",
        "a local disk is faster for --output-dir; a larger --save-freq writes less" if slow else "",
    )  # fmt: skip


def shared_memory() -> Iterator[Check]:
    """Where the processes that read images hand them over; systems without the mount do it in another way."""
    if not MOUNT.is_dir():
        yield Check("shared memory", "ok", f"no {MOUNT} on this system")
        return
    usage = shutil.disk_usage(MOUNT)
    verdict = _below(usage.free, SHARED)
    if not os.access(MOUNT, os.W_OK):
        verdict = "problem"
    yield Check(
        "shared memory", verdict, f"{usage.free / GIB:.2f} of {usage.total / GIB:.2f} GiB free in {MOUNT}",
        "" if verdict == "ok" else "for folders of images: docker run --shm-size 2g, or --workers 0",
    )  # fmt: skip


def figures() -> Iterator[Check]:
    """Whether matplotlib draws in the look of all figures."""
    try:
        with warnings.catch_warnings(), page(FigureSettings(), "mcx doctor") as drawn:
            warnings.simplefilter("ignore")
            drawn.panels[0].plot([0, 1], [0, 1])
    except (ImportError, RuntimeError, ValueError, OSError) as error:
        yield Check(
            "figures", "problem", _reason(error), "pip install --upgrade matplotlib; MPLCONFIGDIR=/tmp"
        )
        return
    yield Check("figures", "ok", f"matplotlib {_version('matplotlib')} draws, {len(drawn.content):,} bytes")


def packages() -> Iterator[Check]:
    """Whether the libraries that mcx stands on can be imported, and which of the optional ones are there."""
    for name in REQUIRED:
        try:
            importlib.import_module(name)
        except (ImportError, RuntimeError, OSError) as error:
            yield Check(PACKAGES.get(name, name), "problem", _reason(error), AGAIN)
        else:
            yield Check(PACKAGES.get(name, name), "ok", _version(PACKAGES.get(name, name)))
    for name, use in OPTIONAL.items():
        version = _version(name)
        if version:
            yield Check(name, "ok", version)
        else:
            yield Check(name, "note", f"not installed: no {use}", f"where it is wanted: pip install {name}")


def variables() -> Iterator[Check]:
    """The variables of the environment that change what mcx does."""
    given = {name: value for name, value in sorted(os.environ.items()) if name.startswith("MCX_") and value}
    for name, value in given.items():
        yield Check(
            name, "note", value, f"it stands for every command in this shell; unset {name} takes it back"
        )
    if not given:
        yield Check("MCX_* variables", "ok", "none")


def _below(free: int, limits: tuple[int, int]) -> Verdict:
    return "problem" if free < limits[0] else "note" if free < limits[1] else "ok"


def _seconds(work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _version(package: str) -> str:
    """The installed version, empty where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _reason(error: Warning | Exception | str) -> str:
    """The first line of what a library says."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
