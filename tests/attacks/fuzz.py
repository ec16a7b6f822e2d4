"""A fuzzer over every reader of files: `make fuzz N=100000`.

Each example is a whole file of one format, changed: in its bytes, or in its structure with every checksum right again.
The reader has to give a value or refuse the file by InputError or SettingsError, within a time and memory limit, and
without starting anything. Where the format has checksums, the bytes were changed and a value comes, it is the whole
file's. An example is known by its format and number: `python -m attacks.fuzz 1 --format npz --first 4711`.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from attacks.formats import FORMATS, Format
from modeconn_cli.engine.errors import LONGEST, InputError, SettingsError

SECONDS = 5.0  # of one example
MEMORY = 600 << 20  # bytes beside what the process has before the first
EVENTS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.Popen",
    "socket.connect",
    "os.remove",
)


class TooLong(BaseException):
    """Of no kind that a reader catches."""


class Ran(BaseException):
    """A reader has started something."""


@dataclass(frozen=True)
class Finding:
    format: str
    number: int
    what: str

    def __str__(self) -> str:
        return f"{self.format} {self.number}: {self.what}"


# Bytes --------------------------------------------------------------------------------------------------

NUMBERS = (
    b"1e999",
    b"9" * 400,
    b"9" * 5000,
    b"-1",
    b"NaN",
    b"true",
    b'"5"',
    b"null",
    b"[" * 100_000,
    b"0.5",
    b"{}",
)
WORDS = (
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\r",
    b'"',
    b",",
    b"\n",
    b"\\ud800",
    b"!!python/object:os.system ''",
)
LARGE = (0, 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)


def changed(data: bytes, rng: random.Random, *, text: bool) -> bytes:
    """One to four changes, most of them small."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(out) + 1)
        end = min(len(out), at + rng.choice((1, 1, 2, 4, 8, 16, 100, 1000)))
        kind = rng.randrange(10 if text else 8)
        if kind <= 1 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            out[at:end] = rng.randbytes(end - at)
        elif kind == 3:
            del out[at:end]
        elif kind == 4:
            out[at:at] = out[at:end]
        elif kind == 5:
            out[at:end] = bytes(end - at)
        elif kind == 6:
            size = rng.choice((2, 4, 8))
            out[at : at + size] = struct.pack("<Q", rng.choice(LARGE))[:size]
        elif kind == 7:
            del out[rng.choice((at, len(out) // 2, max(0, len(out) - 1))) :]
        elif kind == 8:
            out[at:at] = rng.choice(WORDS)
        else:
            places = [k for k, c in enumerate(out) if 48 <= c <= 57]
            if places:
                k = rng.choice(places)
                out[k : k + 1] = rng.choice(NUMBERS)
    return bytes(out)


# One example ----------------------------------------------------------------------------------------------


def made(each: Format, whole: bytes, number: int) -> tuple[bytes, bool]:
    """The bytes of an example, and whether the checksums of the format have to tell."""
    rng = random.Random(f"{each.name} {number}")
    if each.structure is not None and rng.random() < 0.4:
        return each.structure(whole, rng), False
    return changed(whole, rng, text=each.text), each.checksums


_watched = False


def _hook(event: str, _: object) -> None:
    if _watched and event.startswith(EVENTS):
        raise Ran(event)


def _alarm(_number: int, _frame: FrameType | None) -> None:
    raise TooLong


@contextmanager
def _limited() -> Iterator[None]:
    global _watched
    before = signal.signal(signal.SIGALRM, _alarm)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    _watched = True
    try:
        yield
    finally:
        _watched = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(each: Format, path: Path, data: bytes, expected: Any, checked: bool) -> str:
    """`refused`, `read`, or what is wrong with how a reader has taken a file."""
    (each.place(path)).write_bytes(data)
    try:
        with _limited():
            found = each.read(path)
    except (InputError, SettingsError) as error:
        return "refused" if len(error.message) <= LONGEST else "says too much"
    except TooLong:
        return f"takes more than {SECONDS:g} s"
    except Ran as event:
        return f"starts something: {event}"
    except Exception as error:  # noqa: BLE001 - what no reader may raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        ours = [f for f in traceback.extract_tb(error.__traceback__) if "modeconn_cli" in f.filename][-1:]
        where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in (frame, *ours))
        return f"{type(error).__name__} at {where}: {str(error)[:100]}"
    if checked and not same(found, expected):
        return "gives another value"
    return "read"


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal to the last bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and same(a.numpy(), b.numpy())
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def run(each: Format, folder: Path, numbers: range) -> tuple[Counter[str], list[Finding]]:
    """Examples of one format."""
    path = each.write(folder)
    whole, expected = each.place(path).read_bytes(), each.read(path)
    counts, findings = Counter[str](), []
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in numbers:
        data, checked = made(each, whole, number)
        said = outcome(each, path, data, expected, checked)
        now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if now - memory > MEMORY >> 10:
            said, memory = f"takes {(now - memory) >> 10} MiB", now
        counts[said if said in ("refused", "read") else "found"] += 1
        if said not in ("refused", "read"):
            findings.append(Finding(each.name, number, said))
    return counts, findings


def _in_a_process(each: Format, numbers: range) -> tuple[dict[str, int], list[str]]:
    """The same in a process of its own, whose end is a finding too."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reader)
            faulthandler.enable()
            sys.addaudithook(_hook)
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + (2 << 30), resource.RLIM_INFINITY))
            with tempfile.TemporaryDirectory() as folder:
                counts, findings = run(each, Path(folder), numbers)
            with os.fdopen(writer, "w") as stream:
                json.dump([counts, list(map(str, findings))], stream)
            code = 0
        except BaseException:  # noqa: BLE001 - the process ends here
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read()
    _, status = os.waitpid(pid, 0)
    if status or not said:
        return {"found": 1}, [
            f"{each.name} {numbers}: the process ended with {os.waitstatus_to_exitcode(status)}"
        ]
    counts, findings = json.loads(said)
    return counts, findings


def main() -> int:
    words = argparse.ArgumentParser()
    words.add_argument("number", type=int, help="changed files over all formats, or of the one named")
    words.add_argument("--format", choices=[each.name for each in FORMATS])
    words.add_argument("--first", type=int, default=0, help="number of the first example")
    words.add_argument("--json", type=Path)
    asked = words.parse_args()
    chosen = [each for each in FORMATS if asked.format in (None, each.name)]
    share = -(-asked.number // len(chosen))
    torch.set_num_threads(1)
    total, every = Counter[str](), []
    for each in chosen:
        begin = time.monotonic()
        counts, findings = _in_a_process(each, range(asked.first, asked.first + share))
        total.update(counts)
        every += findings
        took = time.monotonic() - begin
        print(f"{each.name:20} {share:8,} examples {took:6.1f} s  {dict(counts)}", flush=True)
        kinds = Counter(each.partition(": ")[2] for each in findings)
        for kind, times in kinds.most_common(8):
            example = next(each for each in findings if each.endswith(kind))
            print(f"    {times} x {example}", flush=True)
    tried = share * len(chosen)
    print(
        f"{tried:,} changed files: {total['refused']:,} refused, {total['read']:,} read, {len(every)} found"
    )
    if asked.json:
        asked.json.write_text(json.dumps({"formats": len(chosen), "files": tried, **total, "found": every}))
    return 1 if every else 0


if __name__ == "__main__":
    sys.exit(main())
