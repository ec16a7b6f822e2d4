"""Tables of samples that are joined: other ids, names that do harm, and folders that no finished job vouches for."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from faults.commands import CASES, A
from modeconn_cli import api

JOIN = ("correlate", "--csl", "csl", "--output-dir", "out")
IDS = range(60)
HEAD = "sample_id,x\n"


def rows(ids: object, head: str = HEAD) -> bytes:
    return (head + "".join(f"{each},{k}\n" for k, each in enumerate(ids))).encode()  # type: ignore[arg-type]


# What is joined to samples 0 … 59, how, and with which code; of what is taken, how many samples there are then.
TABLES: dict[str, tuple[bytes, str, int, int | str]] = {
    "others": (rows(range(40, 100)), "", 3, "--how inner"),
    "others, inner": (rows(range(40, 100)), "inner", 0, 20),
    "others, outer": (rows(range(40, 100)), "outer", 0, 100),
    "fewer": (rows(range(10)), "", 3, "csl 60 (10 in all, 0 only here)"),
    "fewer, inner": (rows(range(10)), "inner", 0, 10),
    "none in common": (rows(range(900, 960)), "inner", 3, "no sample is in all sources"),
    "repeated": (rows([0, 0, *range(1, 60)]), "", 3, "1 duplicate sample ids: the first is 0"),
    "repeated, inner": (rows([3, 3]), "inner", 3, "1 duplicate sample ids: the first is 3"),
    "repeated as numbers and as text": (rows(['"3"', "3.0"]), "inner", 3, "duplicate sample ids: the first is 3"),
    "quoted": (rows(f'"{k}"' for k in IDS), "", 0, 60),
    "with a point": (rows(f"{k}.0" for k in IDS), "", 0, 60),
    "in another order": (rows(reversed(IDS)), "", 0, 60),
    "negative": (rows([-1, 2]), "inner", 3, "negative sample ids: the first is -1"),
    "text": (rows(["seven", 2]), "inner", 3, "not whole numbers: the first is 'seven'"),
    "fractions": (rows([0.5, 2]), "inner", 3, "not whole numbers: the first is '0.5'"),
    "beyond 2⁶³": (rows([2**63, 2]), "inner", 3, "sample ids"),
    "of 400 digits": (rows([10**400, 2]), "inner", 3, "sample ids"),
    "an empty cell": (rows(["", 2]), "inner", 3, "sample ids"),
    "no rows": (rows([]), "inner", 3, "t.csv"),
    "no bytes": (b"", "inner", 3, "t.csv"),
    "no column of ids": (rows(IDS, "id,x\n"), "", 3, "has no column sample_id"),
    "longer rows": (b"sample_id,x\n1,2,3\n", "inner", 3, "not a readable table"),
    "semicolons": (b"sample_id;x\n1;2\n", "inner", 3, "has no column sample_id"),
    "UTF-16": ("sample_id,x\n1,2\n".encode("utf-16"), "inner", 3, "t.csv"),
    "a mark of the order of bytes and CRLF": (b"\xef\xbb\xbf" + rows(IDS).replace(b"\n", b"\r\n"), "", 0, 60),
}  # fmt: skip


@pytest.mark.parametrize(("content", "how", "code", "said"), TABLES.values(), ids=TABLES)
def test_i7_other_ids_are_refused_or_counted(
    mcx: Callable, here: Path, undrawn: None, content: bytes, how: str, code: int, said: int | str
) -> None:
    Path("t.csv").write_bytes(content)
    done = mcx(*JOIN, "--with", "t.csv", *(("--how", how) if how else ()), "--json")
    assert done.code == code, done.err
    if code:
        assert (done.out, str(said) in done.err) == ("", True), done.err
        assert not Path("out").exists()
        return
    with Path("out/per_sample.csv").open(newline="") as stream:
        found = {int(row["sample_id"]): row for row in csv.DictReader(stream)}
    assert len(found) == said
    given = {int(float(line.split(",")[0].strip('"'))): float(line.split(",")[1])
             for line in content.decode("utf-8-sig").splitlines()[1:]}  # fmt: skip
    csl = np.load("csl/csl_data_run1_noise_0.npy")
    for sample, row in found.items():
        assert float(row["x"] or "nan") == pytest.approx(given.get(sample, np.nan), nan_ok=True)
        own = csl[sample] if sample < len(csl) else np.nan
        assert float(row["csl"] or "nan") == pytest.approx(float(own), rel=1e-6, nan_ok=True)
    counts = {each["source"]: each["samples"] for each in json.loads(done.out)["sources"]}
    assert (counts["csl"], list(counts.values()).count(len(given)) > 0) == (60, True)


# Names that do harm ----------------------------------------------------------------------------------------

HARMFUL = (
    '=HYPERLINK("http://x","y")', "a,b", 'q"uote', "new\nline", "+1+1", "@SUM(A1)", "-2+3", "\t=1",
    "<script>alert(1)</script>", "nul\0x",
)  # fmt: skip
NUMBER = re.compile(r"-?[\d.]+(e[+-]?\d+)?")


def cells(path: Path) -> list[str]:
    text = path.read_text("utf-8")
    assert "\0" not in text
    with path.open(newline="") as stream:
        return [cell for row in csv.reader(stream) for cell in row]


@pytest.mark.parametrize("first", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in (3, 6, 9))])
def test_i8_names_of_classes_are_neutral_in_tables_and_pages(here: Path, undrawn: None, first: int) -> None:
    names = {k: HARMFUL[(first + k) % len(HARMFUL)] for k in range(3)}
    Path("names.json").write_text(json.dumps(names))
    values = np.load("csl/csl_data_run1_noise_0.npy") - 5  # negative ones, which stay numbers
    np.save("csl_x.npy", values)
    shutil.copy("csl/sample_ids.npy", "sample_ids.npy")
    answer = api.correlate(output_dir="out", csl="csl_x.npy", class_map="names.json", tracking=tracking())
    found = [cell for path in Path("out").glob("*.csv") for cell in cells(path)]
    begins = [cell for cell in found if cell[:1] in tuple("=+-@\t\r") and cell]
    assert begins
    assert all(NUMBER.fullmatch(cell) for cell in begins), begins[:3]
    assert any(cell.startswith("-") for cell in begins)
    for name in names.values():
        plain = name.replace("\0", "")
        assert any(cell.lstrip("'") == plain.lstrip("'") for cell in found) or "nul" in name, name
    page = answer._repr_html_()
    assert "<script" not in page


def tracking() -> str:
    """A file that says the class of every sample."""
    head = "sample_id,true_label,class_id,epoch_num,batch_num,task_num,memo_score\n"
    Path("tracking.csv").write_text(head + "".join(f"{k},{k % 3},{k % 3},0,0,0,0.5\n" for k in IDS))
    return "tracking.csv"


COLUMNS = ("=cmd|' /C calc'!A0", "@x", "<script>", "+1", "a,b", 'q"')


@pytest.mark.parametrize(
    "name", [COLUMNS[0], *(pytest.param(each, marks=pytest.mark.slow) for each in COLUMNS[1:])]
)
def test_i8_names_of_columns_are_neutral_in_tables(
    mcx: Callable, here: Path, undrawn: None, name: str
) -> None:
    with Path("t.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("sample_id", name), *((k, -k) for k in IDS)])
    done = mcx(*JOIN, "--with", "t.csv")
    assert done.code == 0, done.err
    for path in Path("out").glob("*.csv"):
        found = cells(path)
        assert all(NUMBER.fullmatch(cell) for cell in found if cell[:1] in tuple("=+-@\t\r") and cell), path
    assert "-59" in "".join(Path("out/per_sample.csv").read_text()), "numbers are untouched"


# Folders that nobody vouches for ---------------------------------------------------------------------------

FOLDERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "csl": ("csl", ("correlate", "--csl", "csl")),
    "curvature": ("scores", ("correlate", "--curvature", "scores")),
    "dormant": ("scores", ("correlate", "--dormant", "scores")),
    "losses": ("losses", ("csl", "aggregate", "--input-dir", "losses")),
}


@pytest.mark.parametrize(
    "reader", [each if each == "csl" else pytest.param(each, marks=pytest.mark.slow) for each in FOLDERS]
)
def test_i9_a_folder_without_a_manifest_or_of_a_newer_version_is_refused(
    mcx: Callable, here: Path, undrawn: None, reader: str
) -> None:
    folder, words = FOLDERS[reader]
    if folder == "scores":
        assert mcx(*CASES[reader].words, "--end-epoch", "0", "--output-dir", folder).code == 0
    (manifest,) = Path(folder).glob(".mcx/*/manifest.json")
    whole = manifest.read_text()
    manifest.unlink()
    done = mcx(*words, "--output-dir", "out")
    assert (done.code, done.out, f"'{folder}' is not complete" in done.err) == (3, "", True), done.err
    manifest.write_text(whole.replace("mcx.manifest/1", "mcx.manifest/9"))
    done = mcx(*words, "--output-dir", "out")
    assert (done.code, done.out, f"'{manifest}' was written by a newer mcx" in done.err) == (3, "", True), (
        done.err
    )
    assert not list(Path().glob("out/*.*"))
    manifest.write_text(whole)
    assert mcx(*words, "--output-dir", "out").code == 0


READING = [name for name, case in CASES.items() if A in case.inputs]


@pytest.mark.parametrize(
    "command",
    [each if each == "csl score" else pytest.param(each, marks=pytest.mark.slow) for each in READING],
)
def test_i9_a_checkpoint_of_a_newer_version_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    content = torch.load(A, weights_only=True)
    content["mcx"]["schema"] = "mcx.checkpoint/9"
    torch.save(content, A)
    capsys.readouterr()
    assert CASES[command].run() == 3
    said = capsys.readouterr()
    assert (said.out, f"'{A}'" in said.err, "newer mcx" in said.err) == ("", True, True), said.err
