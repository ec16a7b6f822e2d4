"""Changed files of every format are refused, or are what they were: `make fuzz N=100000` tries more of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attacks import archives, fuzz
from attacks.formats import FORMATS, HEADERS, _header, _json, _npz
from modeconn_cli.engine.datasets import images, npz
from modeconn_cli.engine.errors import InputError, within_memory
from modeconn_cli.engine.results import arrays, records

FORMAT = {each.name: each for each in FORMATS}
NPZ = _npz(**{"0": torch.arange(6).numpy()[::-1].copy(), "1": torch.arange(3).numpy()})

# Examples in which a reader has once been wrong.
FOUND = (
    ("pt", 321), ("pt of the old form", 264), ("shards", 122), ("curve", 539), ("permutation", 110),
    ("tracking csv", 21), ("tracking csv", 367), ("tracking npz", 198), ("class names json", 164), ("memo csv", 42),
    ("webp", 555), ("class names yaml", 7), ("pair", 722),
)  # fmt: skip


@pytest.mark.parametrize("name", FORMAT)
def test_l1_l2_l3_changed_files_are_refused_or_read_and_start_nothing(tmp_path: Path, name: str) -> None:
    _, findings = fuzz.run(FORMAT[name], tmp_path, range(20))
    assert not findings, "\n".join(map(str, findings))


@pytest.mark.parametrize(("name", "number"), FOUND)
def test_l1_l2_l3_what_was_found_once_is_mended(tmp_path: Path, name: str, number: int) -> None:
    _, findings = fuzz.run(FORMAT[name], tmp_path, range(number, number + 1))
    assert not findings, str(findings[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMAT)
def test_l1_l2_l3_many_changed_files_are_refused_or_read_and_start_nothing(tmp_path: Path, name: str) -> None:
    _, findings = fuzz.run(FORMAT[name], tmp_path, range(300))
    assert not findings, "\n".join(map(str, findings))


def test_the_fuzzer_finds_a_reader_that_is_wrong(tmp_path: Path) -> None:
    whole = fuzz.Format(
        "text", lambda folder: _written(folder, b"1 2 3"), lambda p: [int(w) for w in p.read_text().split()]
    )
    _, findings = fuzz.run(whole, tmp_path, range(50))
    assert any("ValueError" in str(found) for found in findings)
    ones = fuzz.Format(
        "ones", lambda folder: _written(folder, b"1 2 3"), lambda p: len(p.read_bytes()), checksums=True
    )
    _, findings = fuzz.run(ones, tmp_path, range(50))
    assert any("gives another value" in str(found) for found in findings)


def _written(folder: Path, data: bytes, name: str = "a.npz") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(NPZ) - 1), st.integers(0, 7))
def test_l1_no_bit_of_an_archive_of_arrays_makes_another_value(
    tmp_path: Path, position: int, bit: int
) -> None:
    try:
        found = arrays.read_npz(_written(tmp_path, archives.flipped(NPZ, position, bit)))
    except InputError:
        return
    assert {name: values.tolist() for name, values in found.items()} == {
        "0": [5, 4, 3, 2, 1, 0],
        "1": [0, 1, 2],
    }


@pytest.mark.parametrize("text", HEADERS[:2])
def test_l2_a_claim_of_more_than_the_member_holds_is_refused(tmp_path: Path, text: str) -> None:
    path = _written(tmp_path, archives.zipped({"images.npy": _header(text, bytes(24))}))
    with pytest.raises(InputError, match="its header"):
        arrays.read_npz(path)


def test_l2_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    values = _header("{'descr': '|u1', 'fortran_order': False, 'shape': (200000000,), }", bytes(200_000_000))
    path = _written(tmp_path, archives.zipped({"images.npy": values}, 8))
    with pytest.raises(InputError, match="claims 200,000,128 bytes of"):
        npz.read(path)


def test_l2_a_single_array_that_is_called_an_archive_is_named(tmp_path: Path) -> None:
    path = _written(tmp_path, _header("{'descr': '|u1', 'fortran_order': False, 'shape': (3,), }", bytes(3)))
    with pytest.raises(InputError, match=r"a single array, a \.npy file"):
        npz.read(path)


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        (
            "PostScript",
            lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n"),
        ),
        ("pipe", os.mkfifo),
        ("60,000 x 60,000", lambda path: path.write_bytes(b"P6\n60000 60000\n255\n" + bytes(99))),
        ("0 x 0", lambda path: path.write_bytes(b"GIF89a" + bytes(7) + b"," + bytes(11) + b";")),
    ],
)
def test_l6_what_is_called_an_image_and_is_none_is_refused(tmp_path: Path, kind: str, make: object) -> None:
    path = tmp_path / "a.png"
    make(path)  # type: ignore[operator]
    for channels in (1, 3):
        assert isinstance(images._decoded(path, channels), images._Refused), kind
    assert images.common_size([path]) is None


def test_i9_a_record_of_a_newer_version_is_refused_and_never_passed_over(tmp_path: Path) -> None:
    path = _written(tmp_path, _json({"schema": "mcx.l2/9"}), "a.json")
    for read in (records.read_object, records.peek_object):
        with pytest.raises(InputError, match=r"was written by a newer mcx \('mcx.l2/9'\)"):
            read(path)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a21_m5_memory_that_runs_out_is_said_with_the_batch_size_to_try(error: Exception) -> None:
    with pytest.raises(InputError, match="memory has run out") as caught, within_memory(128):
        raise error
    assert "--batch-size, such as 64" in caught.value.hint


def test_other_errors_of_torch_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), within_memory(128):
        raise RuntimeError("shapes cannot be multiplied")
