"""Damaged and hostile checkpoint files: refused, or read as they were saved; nothing in between, nothing run."""

from __future__ import annotations

import collections
import functools
import importlib
import io
import operator
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from attacks import archives, pickles
from attacks.pickles import called, entry, named, state, value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import checkpoints
from modeconn_cli.engine.networks.checkpoints import integrity
from modeconn_cli.engine.networks.checkpoints.pickles import STAND_INS

STATE = {"w": torch.arange(6.0).reshape(2, 3) / 7, "b": torch.tensor([1.5, -2.5])}


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


WHOLE = saved({"epoch": 3, "model_state": STATE})


def written(folder: Path, data: bytes) -> Path:
    path = folder / "a.pt"
    path.write_bytes(data)
    return path


def refusal(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        checkpoints.read(path)
    return caught.value


# B1, B2, B3: bytes that are missing or wrong --------------------------------------------------------------


def test_b1_a_missing_file_a_folder_and_an_empty_file_are_told_apart(tmp_path: Path) -> None:
    assert refusal(tmp_path / "a.pt").message == f"'{tmp_path}/a.pt' does not exist"
    assert refusal(tmp_path).message == f"'{tmp_path}' is a directory, not a checkpoint"
    assert refusal(written(tmp_path, b"")).message == f"'{tmp_path}/a.pt' is empty (0 bytes)"


@pytest.mark.parametrize("percent", [1, 10, 50, 99])
def test_b2_a_truncated_archive_has_lost_its_directory(tmp_path: Path, percent: int) -> None:
    path = written(tmp_path, WHOLE[: len(WHOLE) * percent // 100])
    assert refusal(path).message == f"'{path}' is truncated or damaged (zip directory missing)"


@pytest.mark.parametrize("percent", [1, 10, 50, 99])
def test_b2_a_truncated_file_of_the_old_format_is_refused(tmp_path: Path, percent: int) -> None:
    path = tmp_path / "a.pt"
    pickles.saved(path, {"model_state": STATE}, legacy=True)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * percent // 100])
    assert refusal(path).exit_code == 3


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 7))
def test_b3_a_flipped_bit_is_refused_or_changes_no_tensor(tmp_path: Path, position: int, bit: int) -> None:
    path = written(tmp_path, archives.flipped(WHOLE, position, bit))
    try:
        found = checkpoints.read(path).state
    except InputError:
        return
    assert list(found) == list(STATE)
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)


def test_b3_every_bit_of_a_tensor_is_under_its_checksum(tmp_path: Path) -> None:
    data = archives.members_of(WHOLE)["archive/data/0"]
    place = WHOLE.find(data)
    for position in range(place, place + len(data)):
        path = written(tmp_path, archives.flipped(WHOLE, position, 3))
        assert refusal(path).message == f"'{path}' is damaged: CRC mismatch in 'archive/data/0'"


def test_b3_a_member_marked_as_a_folder_is_refused(tmp_path: Path) -> None:
    """torch skips such a member and leaves the tensor uninitialised."""
    path = written(tmp_path, archives.marked_as_folder(WHOLE, "archive/data/0"))
    assert "is damaged or was not written by torch.save: 'archive/data/0'" in refusal(path).message


def test_b15_a_file_replaced_while_it_is_read_is_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, check = written(tmp_path, WHOLE), integrity.check

    def replaced(stream: IO[bytes], where: Path) -> int:
        size = check(stream, where)
        (tmp_path / "new.pt").write_bytes(saved({"w": torch.zeros(9)}))
        (tmp_path / "new.pt").replace(where)
        return size

    monkeypatch.setattr(integrity, "check", replaced)
    assert list(checkpoints.read(path).state) == ["w", "b"]
    monkeypatch.undo()
    assert list(checkpoints.read(path).state) == ["w"]


# B4, B6: files with code -----------------------------------------------------------------------------------

CODE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "shell": (pickles.shell, "posix.system"),
    "eval": (pickles.evaluated, "builtins.eval"),
    "open": (pickles.opened, "io.open"),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", CODE)
@pytest.mark.parametrize("forced", [False, True], ids=["plain", "forced"])
def test_b4_b6_code_in_a_pickle_is_named_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, legacy: bool, forced: bool
) -> None:
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    make, name = CODE[kind]
    marker, path = tmp_path / "marker", tmp_path / "a.pt"
    pickles.saved(path, {"model_state": STATE, "extra": make(marker)}, legacy=legacy)
    error = refusal(path)
    assert error.message == f"'{path}' refused: contains '{name}' (code)"
    assert "torch.save(model.state_dict()" in error.hint
    assert not marker.exists()


def test_the_attack_itself_works_where_nobody_is_careful(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "a.pt"
    pickles.saved(path, pickles.shell(marker), legacy=False)
    torch.load(path, weights_only=False)
    assert marker.exists()


GADGETS: dict[str, bytes] = {
    "builtins.getattr": called("builtins.getattr", value("x"), value("upper")),
    "operator.attrgetter": called("operator.attrgetter", value("__class__")),
    "functools.partial": called("functools.partial", named("builtins.print")),
    "importlib.import_module": called("importlib.import_module", value("this")),
    "builtins.bytearray": called("builtins.bytearray", value(1 << 40)),
    "torch._tensor._rebuild_from_type_v2": called("torch._tensor._rebuild_from_type_v2"),
    "torch._utils._rebuild_parameter_with_state": called("torch._utils._rebuild_parameter_with_state"),
    "torch._utils._rebuild_qtensor": called("torch._utils._rebuild_qtensor"),
    "torch._utils._rebuild_wrapper_subclass": called("torch._utils._rebuild_wrapper_subclass"),
    "torch._utils._rebuild_device_tensor_from_numpy": called(
        "torch._utils._rebuild_device_tensor_from_numpy"
    ),
    "torch.FloatTensor": called("torch.FloatTensor", value(1 << 40)),
    "torch.Tensor": called("torch.Tensor", value(1 << 40)),
    "torch.load": called("torch.load", value("b.pt")),
    "numpy.load": called("numpy.load", value("b.npy")),
    "numpy.memmap": called("numpy.memmap", value("b.npy")),
}


@pytest.mark.parametrize("place", [pickles.in_zip, pickles.in_legacy], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", GADGETS)
def test_b4_what_looks_up_attributes_imports_allocates_or_opens_is_refused(
    tmp_path: Path, name: str, place: Callable[[Path, bytes], None]
) -> None:
    path = tmp_path / "a.pt"
    place(path, entry(GADGETS[name]))
    assert refusal(path).message == f"'{path}' refused: contains '{name}' (code)"


POPEN = called("subprocess.Popen", value("touch x"))
DISGUISED: dict[str, bytes] = {
    "posix.system": called("own.Class", called("posix.system", value("touch x"))),
    "subprocess.Popen": state(called("own.Class"), b"}" + value("x") + POPEN + b"s"),
    "commands.Run": called("commands.Run"),  # of Python 2, which the table of names makes subprocess
    "own.function": called("own.function"),
    "own.Class.method": called("own.Class.method"),
    "torch.jit._script.ScriptModule": called("torch.jit._script.ScriptModule"),
    "torch.utils.data.get_worker_info": called("torch.utils.data.get_worker_info"),
    "torch.optim.os.system": called("torch.optim.os.system"),
    "numpy.random.os.system": called("numpy.random.os.system"),
    "threading.Thread": called("threading.Thread"),
    "builtins.type": called("builtins.type", value("x")),
    "builtins.__import__": called("builtins.__import__", value("this")),
}


@pytest.mark.parametrize("name", DISGUISED)
def test_b4_what_may_stand_for_a_class_of_anyones_lets_nothing_else_through(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / "a.pt"
    for place in (pickles.in_zip, pickles.in_legacy):
        place(path, entry(DISGUISED[name]))
        found = name.replace("commands", "subprocess")
        assert refusal(path).message == f"'{path}' refused: contains '{found}' (code)"


def test_a_class_of_anyones_is_not_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "a.pt"
    tensor = pickles.tensor_of(1, (1,), (1,))
    made = state(called("own_module.Class", value([1] * 9)), value({"k": [2]}))
    filled = made + b"(" + value(1) + value(2) + b"e" + b"(" + value("k") + value(1) + b"u"
    content = b"\x80\x02}" + value("w") + tensor + b"s" + value("x") + filled + b"s."
    pickles.in_zip(path, content, data=bytes(4))
    found = checkpoints.read(path)
    assert found.state == {"w": torch.zeros(1)}
    assert not (tmp_path / "ran").exists()


def test_newer_opcodes_that_look_names_up_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    pickles.in_zip(path, entry(b"\x8c\x05posix\x8c\x06system\x93"))
    assert refusal(path).message == f"'{path}' refused: contains 'opcode STACK_GLOBAL' (code)"


HOSTILE = (
    (),
    (1 << 60,),
    ("a" * 9,),
    (b"raw",),
    (print,),
    (importlib,),
    (operator.attrgetter("x"), 1),
    ([1], [2]),
    ({"k": 1},),
    (np.ndarray, (1 << 60,), b"b"),
    (functools.partial, "f8", 1),
)


def test_no_allowed_name_does_more_than_make_data_whatever_it_is_called_with() -> None:
    plain = (type(None), bool, int, float, str, dict, frozenset)
    for name, function in STAND_INS.items():
        for arguments in HOSTILE:
            try:
                made = function(*arguments)
            except (TypeError, ValueError, AttributeError):
                continue
            harmless = isinstance(made, plain) or type(made).__name__ in (
                "DType",
                "Array",
                "Namespace",
                "Inert",
            )
            assert harmless, f"{name}{arguments} made {made!r}"
            assert not isinstance(made, dict | list | str) or len(made) < 100


def test_forged_numpy_types_and_sizes_are_refused(tmp_path: Path) -> None:
    """NumPy itself believes the flags and sizes that a pickle gives it."""
    forged = state(
        called("numpy.dtype", value("O"), b"\x89", b"\x88"), value((3, "|", None, None, None, -1, -1, 63))
    )
    array = called("numpy.core.multiarray._reconstruct", named("numpy.ndarray"), value((0,)), value("b"))
    number = called("numpy.dtype", value("f8"), b"\x89", b"\x88")
    huge = state(array, b"(", value(1), value((1 << 40,)), number, b"\x89", value("ab"), b"t")
    path = tmp_path / "a.pt"
    for opcodes in (forged, huge, called("numpy.ndarray", value((1 << 40,)))):
        pickles.in_zip(path, entry(opcodes))
        assert "cannot be read as a checkpoint" in refusal(path).message


def test_attributes_given_to_a_dict_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    tensor = pickles.tensor_of(1, (1,), (1,))
    dictionary = called("collections.OrderedDict") + value("w") + tensor + b"s"
    opcodes = state(dictionary, b"}" + value("items") + named("builtins.list") + b"s")
    pickles.in_zip(path, b"\x80\x02" + opcodes + b".", data=bytes(4))
    assert checkpoints.read(path).state == {"w": torch.zeros(1)}


# B7, B14: other files, and claims -------------------------------------------------------------------------

LOOKALIKES = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run: git lfs pull"),
    "html": (b"\n <!doctype HTML><html>not found</html>", "is an HTML page"),
    "html2": (b"<HTML><body>", "is an HTML page"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(40), "is a PNG image"),
    "gzip": (b"\x1f\x8b\x08" + bytes(40), "is a gzip archive"),
    "npy": (b"\x93NUMPY\x01\x00" + bytes(40), "is a NumPy array"),
    "text": (b"epoch 1: 0.5\nepoch 2: 0.4\n", "is a text file"),
    "binary": (b"\x00\x01\xff\xfe" * 9, "is not a file torch.save wrote"),
    "zip": (archives.zipped({"a.txt": b"x"}), "is a zip archive, but not one torch.save wrote"),
    "npz": (archives.zipped({"images.npy": b"x"}), "is a zip archive, but not one torch.save wrote"),
    "pickle": (b"\x80\x02}.", "was written by pickle, not by torch.save"),
    "script": (
        archives.zipped({"m/data.pkl": b"\x80\x02}.", "m/constants.pkl": b"\x80\x02)."}),
        "is a TorchScript archive",
    ),
}


@pytest.mark.parametrize("kind", LOOKALIKES)
def test_b7_what_is_often_found_in_a_checkpoints_place_is_named(tmp_path: Path, kind: str) -> None:
    data, words = LOOKALIKES[kind]
    assert words in refusal(written(tmp_path, data)).message


def test_b5_a_whole_module_is_refused_with_the_way_to_save_its_tensors(tmp_path: Path) -> None:
    error = refusal(written(tmp_path, saved(nn.Linear(2, 2))))
    assert "refused: contains 'torch.nn.modules.linear.Linear' (code)" in error.message
    assert "torch.save(model.state_dict()" in error.hint


def test_b14_compressed_members_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    bomb = archives.zipped(
        {"archive/data.pkl": b"\x80\x02}.", "archive/data/0": bytes(10_000_000)}, zipfile.ZIP_DEFLATED
    )
    assert len(bomb) < 20_000
    assert "was not written by torch.save: 'archive/data.pkl'" in refusal(written(tmp_path, bomb)).message


def test_b14_members_that_lie_in_each_other_are_refused(tmp_path: Path) -> None:
    assert "damaged" in refusal(written(tmp_path, archives.overlapping(10_000))).message


def test_a_second_pickle_under_a_name_of_other_case_is_refused(tmp_path: Path) -> None:
    data = archives.with_member_twice(WHOLE, "archive/data.pkl", entry(named("posix.system")))
    assert "members occur twice" in refusal(written(tmp_path, data)).message


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("elements", [100_000, 10**12, 1 << 62])
def test_b14_a_storage_that_claims_more_than_the_file_holds_is_refused(
    tmp_path: Path, elements: int, legacy: bool
) -> None:
    path = tmp_path / "a.pt"
    content = entry(pickles.tensor_of(elements, (elements,), (1,), legacy=legacy))
    if legacy:
        pickles.in_legacy(path, content)
    else:
        pickles.in_zip(path, content, data=bytes(4))
    assert "cannot be read as a checkpoint" in refusal(path).message


def test_b14_a_tensor_that_repeats_one_number_a_trillion_times_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, saved({"w": torch.ones(1).expand(10**6, 10**6)}))
    assert "a tensor claims 1,000,000,000,000 elements, the file has" in refusal(path).message


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    inside: list[Any] = []
    inside.append(inside)
    doubled: list[Any] = []
    for _ in range(40):
        doubled = [doubled, doubled]
    for content in (inside, doubled):
        path = written(tmp_path, saved({"model_state": STATE, "extra": content}))
        assert "values nested without end" in refusal(path).message


def test_b5_old_data_beside_the_tensors_is_read_as_plain_values(tmp_path: Path) -> None:
    import argparse

    extras = {
        "args": argparse.Namespace(lr=0.1, path=Path("runs/a")),
        "best": np.float64(0.25),
        "count": np.int32(7),
        "classes": np.arange(6, dtype=">i2").reshape(2, 3, order="F"),
        "history": collections.defaultdict(list, {"loss": [1.0, 2.0]}),
        "counter": collections.Counter("aab"),
    }
    found = checkpoints.read(written(tmp_path, saved({"model_state": STATE, **extras}))).content
    assert (found["best"], found["count"]) == (0.25, 7)
    assert (found["args"].lr, found["args"].path) == (0.1, "runs/a")
    assert np.array_equal(found["classes"], extras["classes"])
    assert (found["history"], found["counter"]) == ({"loss": [1.0, 2.0]}, {"a": 2, "b": 1})
    assert all(
        type(found[name]) is kind for name, kind in (("best", float), ("count", int), ("history", dict))
    )
