"""Does a reorganisation of the package change a figure, a file, a flag or a text?

    python -m bench.unchanged record --package BEFORE_DIR --into BEFORE    # every command of mcx, on the digits
    python -m bench.unchanged record --package AFTER_DIR --into AFTER
    python -m bench.unchanged compare BEFORE AFTER                         # exit code 1 where anything differs

The commands are in `unchanged.txt`. Record both with one version of it, on one machine with nothing else installed in
between: the package is known by its command line and `modeconn_cli.api` alone.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import json
import math
import os
import re
import shlex
import string
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.unchanged_inputs import give

# What may differ: where ("file place"), by how much relative to the larger value, and why. A number in a line of text
# may differ there by the rounding of its last digit too. Everything else has to be equal.
TOLERANCES: tuple[tuple[str, float, str], ...] = (
    (
        r"^(files/(curvature|api/curvature|joined/curved)|steps/curvature-)\S*\.(npy|npz|csv|jsonl?|out|err) ",
        1e-5,
        "curvature: differences of float32 gradients, and what is joined with them",
    ),
    (
        r"^files/csl/\S*loss_grad\S* |^(files|steps)/csl\S* \S*\.(mean_grad|tau|tau_sq)$|^steps/csl-\d+-csl\S* line",
        1e-6,
        "gradient norms of csl: float32 sums",
    ),
    (r"^(files/joined/|steps/csl-\d+-correlate)\S*\.(csv|json|out|err) ", 1e-12, "correlate: float64 sums"),
)
GIF = "GIF: colours are chosen anew for each picture"

# What differs between any two runs: texts of these forms, and entries of JSON ("file place") of these names.
MASKS: tuple[tuple[str, str], ...] = (
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)?", "<time>"),
    (r"^step \d+/\d+ .*\(\d+ s\)\n", ""),  # a line of progress every half minute
    (r"\(\d+ s\)$", "(<seconds>)"),  # the end of the others
    (r"about \S+ (s|min|h) on this machine", "about <duration> on this machine"),
    (r"[\d,]+ samples per second", "<rate> samples per second"),
    (r"\b(mcx|torch) \d+\.\d+\.\d+(\+\w+)?", r"\1 <version>"),
    (r"\bpid \d+", "pid <pid>"),
    (r"(\.gif +\d+ +[\d.]+ +)[\d,]+$", r"\1<bytes>"),  # as colours may differ
    (r"(?<= )\d{19}$", "<nanoseconds>"),  # in the listing of a job's inputs
)
MASKED = re.compile(
    r"metrics(\.jsonl \S*)?\.seconds$|\.(samples_per_second|host|pid|git_commit|mtime_ns|versions\.\w+)$"
)

COMMANDS = (
    "train", "swap", "l2", "curve train", "curve eval", "curve analyze", "curve extract", "lmc run",
    "lmc interpolate", "lmc report", "csl score", "csl aggregate", "curvature", "dormant", "correlate", "animate",
    "info", "status", "completion", "demo",
)  # fmt: skip
STEPS = Path(__file__).with_suffix(".txt")


# Recording ------------------------------------------------------------------------------------------------


def chains() -> dict[str, list[str]]:
    """The steps of each chain as command lines, each behind its exit code."""
    names = ("", "curve", "lmc", "csl", *COMMANDS)
    words = {"HELP": "\n".join(f"mcx {name} --help" for name in names)}
    found: dict[str, list[str]] = {}
    for line in STEPS.read_text().splitlines():
        if line.startswith("["):
            steps = found[line.strip("[]")] = []
        elif " = " in line and line.startswith("$"):
            name, text = line[1:].split(" = ", 1)
            words[name] = string.Template(text).substitute(words)
        elif line and not line.startswith("#"):
            lines = string.Template(line).substitute(words).splitlines()
            steps += [step if step[0].isdigit() else f"0 {step}" for step in lines]
    return found


class Recorder:
    """Runs steps in a fresh folder with one version of the package."""

    def __init__(self, package: Path, into: Path) -> None:
        self.package, self.into = package.resolve(), into.resolve()
        self.files = self.into / "files"
        (self.into / "steps").mkdir(parents=True)
        give(self.files / "given")
        own = {"PYTHONPATH": str(self.package), "OMP_NUM_THREADS": "1", "COLUMNS": "100", "TERM": "dumb"}
        foreign = ("MCX_", "_MCX_", "SLURM_")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)} | own
        where = self.run(["-c", "import modeconn_cli; print(modeconn_cli.__file__)"]).stdout.strip()
        if not Path(where).is_relative_to(self.package):
            raise SystemExit(f"the package that is run is '{where}', not in '{self.package}'")

    def run(self, words: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
        """Run Python to its end."""
        environment = self.environment | variables
        return subprocess.run(
            [sys.executable, *words],
            cwd=self.files,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )

    def step(self, name: str, line: str) -> str:
        """Run one step and write down what it said; returns a complaint about its exit code."""
        code, *words = shlex.split(line)
        given = dict(word.split("=", 1) for word in itertools.takewhile(lambda word: "=" in word, words))
        command, *words = words[len(given) :]
        begun = time.monotonic()
        done = self.run(["-m", "modeconn_cli", *words] if command == "mcx" else words, **given)
        print(f"{name}  {time.monotonic() - begun:.1f} s  {line}", file=sys.stderr, flush=True)
        stem = "-".join([name, *itertools.takewhile(str.isalnum, words[:2])])
        texts = {"out": done.stdout, "err": done.stderr, "code": f"{line}\nexit code {done.returncode}\n"}
        for suffix, text in texts.items():
            (self.into / "steps" / f"{stem}.{suffix}").write_text(text)
        wrong = f"{name}: exit code {done.returncode}: {line}\n{done.stderr[-500:]}"
        return "" if done.returncode == int(code) else wrong

    def chain(self, name: str, lines: list[str]) -> list[str]:
        """Run steps one after the other; returns the complaints."""
        return [self.step(f"{name}-{number:02d}", line) for number, line in enumerate(lines, 1)]


def record(package: Path, into: Path, jobs: int) -> int:
    """Run every step and keep what it writes and says. Returns 1 where a step does not end as it should."""
    begun, recorder = time.monotonic(), Recorder(package, into)
    (first, lines), *others = chains().items()
    said = recorder.chain(first, lines)
    with ThreadPoolExecutor(jobs) as pool:
        said += itertools.chain(*pool.map(lambda other: recorder.chain(*other), others))
    paths = {"folder": str(recorder.files), "package": str(recorder.package)}
    (into / "paths.json").write_text(json.dumps(paths))
    wrong = [text for text in said if text]
    print(*wrong, f"{len(said)} steps in {time.monotonic() - begun:.0f} s", sep="\n")
    return 1 if wrong else 0


# Comparing ------------------------------------------------------------------------------------------------

Leaf = np.ndarray | str | bytes | int | float | None
NUMBER = re.compile(r"(-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)")


class Recording:
    """What `record` has kept."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths: dict[str, str] = json.loads((root / "paths.json").read_text())
        self.names = {
            str(path.relative_to(root))
            for part in ("files", "steps")
            for path in (root / part).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }

    @cached_property
    def contents(self) -> dict[str, str]:
        """SHA-256 -> the first file of that content: a hash is compared as the file that it stands for."""
        files = sorted(self.names, reverse=True)
        return {hashlib.sha256((self.root / name).read_bytes()).hexdigest(): name for name in files}

    def masked(self, text: str) -> str:
        """The text without what differs between any two runs."""
        for what, path in self.paths.items():
            text = text.replace(path, f"<{what}>")
        for digest in set(re.findall(r"\b[0-9a-f]{64}\b", text)) & self.contents.keys():
            text = text.replace(digest, f"<content of {self.contents[digest]}>")
        for pattern, instead in MASKS:
            text = re.sub(pattern, instead, text, flags=re.MULTILINE)
        return text

    def leaves(self, name: str) -> dict[str, Leaf]:
        """What a file holds, by place."""
        path, suffix = self.root / name, Path(name).suffix
        if suffix == ".npy":
            return {"array": np.load(path)}
        if suffix == ".npz":
            return dict(np.load(path))
        if suffix == ".pt":
            return dict(self._entries(name, "", torch.load(path, map_location="cpu", weights_only=True)))
        if suffix in (".png", ".gif"):
            return dict(_frames(path))
        try:
            text = path.read_bytes().decode()
            if suffix == ".json" or (suffix == ".out" and text.startswith("{\n")):
                return dict(self._entries(name, "", json.loads(text)))
            if suffix == ".jsonl":
                return dict(self._entries(name, "", [json.loads(line) for line in text.splitlines()]))
        except ValueError:  # neither text nor JSON
            return {"bytes": path.read_bytes()}
        if suffix == ".csv":
            header, *rows = [*csv.reader(text.splitlines(keepends=True))] or [[]]
            cells: dict[str, Leaf] = {"layout": re.sub(r"[^,\r\n]+", "", text) + ",".join(header)}
            for i, row in enumerate(rows):
                cells |= {f"{key}[{i}]": cell for key, cell in zip(header, row, strict=False)}
            return cells
        return {f"line {i}": line for i, line in enumerate(self.masked(text).split("\n"), 1)}

    def _entries(self, name: str, place: str, value: Any) -> Iterator[tuple[str, Leaf]]:
        """The entries of a JSON document or a checkpoint."""
        if MASKED.search(f"{name} {place}"):
            yield place, "<masked>"
        elif isinstance(value, dict):
            file = self.contents.get(str(value.get("sha256")))
            size = (self.root / file).stat().st_size if file else None
            for key, item in value.items():  # a size is compared with the hash beside it, where it is true
                known = key == "size" and (item == size or str(value.get("file")).endswith(".gif"))
                yield from self._entries(name, f"{place}.{key}", f"<size of {file}>" if known else item)
            yield f"{place} keys", " ".join(map(str, value if name.endswith(".pt") else sorted(value)))
        elif isinstance(value, list | tuple):
            for i, item in enumerate(value):
                yield from self._entries(name, f"{place}[{i}]", item)
            yield f"{place} length", len(value)
        elif isinstance(value, torch.Tensor):
            yield place, value.numpy()
        else:
            yield place, self.masked(value) if isinstance(value, str) else value


def _frames(path: Path) -> Iterator[tuple[str, Leaf]]:
    with Image.open(path) as image:
        count: int = getattr(image, "n_frames", 1)
        yield "size and frames", f"{image.size} {count}"
        for k in range(count):
            image.seek(k)
            yield f"duration[{k}]", str(image.info.get("duration"))
            yield f"pixels[{k}]", np.asarray(image.convert("RGBA"))


def unlike(one: Leaf, other: Leaf, *, printed: bool) -> tuple[str, float] | None:
    """How two values differ, in words and relative to the larger one; None where they do not."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return _arrays_unlike(one, other)
    if type(one) is type(other) and repr(one) == repr(other):
        return None
    same = len(os.path.commonprefix([repr(one), repr(other)]))  # noqa: RUF071 - characters are meant
    words = " and is ".join(repr(value)[max(same - 40, 0) : same + 60] for value in (one, other))
    return f"was {words}", _size(one, other, printed)


def _size(one: Leaf, other: Leaf, printed: bool) -> float:
    """The relative difference of two numbers, and of two texts the largest of the numbers in them."""
    if isinstance(one, str) and isinstance(other, str):
        parts, others = NUMBER.split(one), NUMBER.split(other)
        numbers = zip(parts[1::2], others[1::2], strict=False)
        same = parts[::2] == others[::2]
        return max((_apart(*pair, printed) for pair in numbers), default=math.inf) if same else math.inf
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) / max(abs(one), abs(other), sys.float_info.min)
    return math.inf


def _arrays_unlike(one: np.ndarray, other: np.ndarray) -> tuple[str, float] | None:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return f"was {one.dtype} {one.shape} and is {other.dtype} {other.shape}", math.inf
    differ = one != other
    if one.dtype.kind == "f":  # a zero has a sign, and NaN is NaN
        differ = (differ | (np.signbit(one) != np.signbit(other))) & ~(np.isnan(one) & np.isnan(other))
    words = f"{np.count_nonzero(differ):,} of {one.size:,} values differ"
    if not differ.any() or one.dtype.kind not in "fiu":
        return (words, math.inf) if differ.any() else None
    a, b = one[differ].astype(np.float64), other[differ].astype(np.float64)
    with np.errstate(all="ignore"):
        size = np.abs(a - b) / np.maximum(np.abs(a), np.abs(b))
    return words, float(np.nan_to_num(size, nan=math.inf).max())


def _apart(one: str, other: str, printed: bool) -> float:
    """By how much two numbers differ relatively; where they are printed, beyond the rounding of the last digit."""
    a, b = Decimal(one.replace(",", "")), Decimal(other.replace(",", ""))
    if a == b:
        return 0.0
    apart = abs(a - b)
    if printed and "." in one + other:  # a count is not rounded
        digits = min(int(number.as_tuple().exponent) for number in (a, b))
        apart = max(apart - Decimal(1).scaleb(digits), Decimal(0))
    return float(apart / max(abs(a), abs(b)))


@dataclass(frozen=True)
class Difference:
    """One place of one file: what it was and is, and why that may be, if it may."""

    file: str
    place: str
    words: str
    size: float = math.inf

    @cached_property
    def allowed(self) -> str:
        if self.file.endswith(".gif") and self.place.startswith("pixels"):
            return GIF
        fitting = (
            why for where, limit, why in TOLERANCES if self.size <= limit and re.search(where, str(self))
        )
        return next(fitting, "")

    def __str__(self) -> str:
        return f"{self.file} {self.place}"

    @property
    def kind(self) -> tuple[str, ...]:
        """Equal for differences that are printed as one: numbers in the names of files and places do not count."""
        return re.sub(r"\d+", "#", self.file), re.sub(r"\d+", "#", self.place), self.allowed


def differences(before: Recording, after: Recording) -> Iterator[Difference]:
    """Every place at which two recordings differ."""
    for name in sorted(before.names | after.names):
        if name not in before.names or name not in after.names:
            yield Difference(name, "file", "is new" if name in after.names else "is missing")
        elif (before.root / name).read_bytes() != (after.root / name).read_bytes():
            one, other = before.leaves(name), after.leaves(name)
            for place in one | other:
                if place not in one or place not in other:
                    yield Difference(name, place, "is new" if place in other else "is missing")
                elif found := unlike(one[place], other[place], printed=place.startswith("line ")):
                    yield Difference(name, place, *found)


def compare(before: Recording, after: Recording) -> int:
    """Print every difference, like ones as one. Returns 1 where one is not allowed."""
    groups: dict[tuple[str, ...], list[Difference]] = defaultdict(list)
    for difference in differences(before, after):
        groups[difference.kind].append(difference)
    for group in groups.values():
        first, size = group[0], max(each.size for each in group)
        more = f" (and {len(group) - 1} like it)" if len(group) > 1 else ""
        how = f", at most {size:.2g} relative" if size < math.inf else ""
        verdict = f"  [allowed: {first.allowed}]" if first.allowed else ""
        print(f"{first}: {first.words}{more}{how}{verdict}")
    found = [difference for group in groups.values() for difference in group]
    wrong = sum(not difference.allowed for difference in found)
    count = len(before.names | after.names)
    print(f"{count:,} files compared: {wrong:,} differences, and {len(found) - wrong:,} that are allowed")
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.unchanged", description=(__doc__ or "").splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="run every command and keep what it writes and says")
    recording.add_argument(
        "--package", type=Path, required=True, metavar="DIR", help="folder that holds modeconn_cli/"
    )
    recording.add_argument("--into", type=Path, required=True, metavar="DIR", help="a new folder")
    recording.add_argument("--jobs", type=int, default=1, metavar="N", help="steps at a time [default: 1]")
    comparing = commands.add_parser("compare", help="print what differs between two recordings")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    options = parser.parse_args()
    if options.command == "record":
        return record(options.package, options.into, options.jobs)
    return compare(Recording(options.before), Recording(options.after))


if __name__ == "__main__":
    sys.exit(main())
