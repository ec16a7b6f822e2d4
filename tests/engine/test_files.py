"""The one writer: a file is there whole, or as it was before."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch

from modeconn_cli.engine.errors import InputError, OutputError
from modeconn_cli.engine.results import failpoints, files, logs, records, shards


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Failpoints work; each test counts from one."""
    monkeypatch.setenv("MCX_TESTING", "1")
    failpoints._counts.clear()
    yield monkeypatch
    failpoints._counts.clear()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_folders_are_made_and_nothing_else_is_left(tmp_path: Path) -> None:
    files.atomic_write(tmp_path / "a/b/x.bin", b"whole")
    assert (tmp_path / "a/b/x.bin").read_bytes() == b"whole"
    assert names_in(tmp_path / "a/b") == ["x.bin"]


def test_the_mode_of_a_file_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.atomic_write(tmp_path / "x", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


@pytest.mark.parametrize("place", ["files.before_write", "files.before_sync", "files.before_rename"])
@pytest.mark.parametrize(
    ("action", "words"),
    [("enospc", "no space left writing"), ("eio", "cannot write '{}': Input/output error")],
)
def test_a_disk_that_refuses_leaves_the_old_file_and_no_other(
    tmp_path: Path, failing: pytest.MonkeyPatch, place: str, action: str, words: str
) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"old")
    failing.setenv("MCX_FAILPOINT", f"{place}={action}")
    with pytest.raises(OutputError) as caught:
        files.atomic_write(path, b"new")
    assert words.format(path) in caught.value.message
    assert caught.value.exit_code == 5
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["x.json"]


def test_an_error_of_the_callback_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    def write(stream: IO[bytes]) -> None:
        stream.write(b"half")
        raise KeyboardInterrupt

    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        files.atomic_write(path, write)
    assert (path.read_bytes(), names_in(tmp_path)) == (b"old", ["x"])


def test_failpoints_sleep_unless_a_test_wakes_them(tmp_path: Path, failing: pytest.MonkeyPatch) -> None:
    failing.setenv("MCX_FAILPOINT", "files.before_write=enospc")
    failing.delenv("MCX_TESTING")
    files.atomic_write(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"


def test_a_symbolic_link_is_replaced_and_its_target_left_alone(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"mine")
    link.symlink_to(target)
    files.atomic_write(link, b"new")
    assert (target.read_bytes(), link.read_bytes(), link.is_symlink()) == (b"mine", b"new", False)


@pytest.mark.parametrize("place", ["file/x", "/proc/x/y", "dangling/x", "loop/x", "n" * 256])
def test_places_where_nothing_can_be_written_are_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere/at all")
    (tmp_path / "loop").symlink_to("loop")
    before = names_in(tmp_path)
    with pytest.raises(OutputError):
        files.atomic_write(tmp_path / place, b"new")
    assert (names_in(tmp_path), (tmp_path / "file").read_bytes()) == (before, b"mine")


@pytest.mark.parametrize("place", ["file", "/proc/x", "dangling", "loop", "file/x/y"])
def test_that_a_folder_cannot_be_written_is_known_before_the_work(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere/at all")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match="cannot write"):
        files.check_writable(tmp_path / place)


def test_asking_whether_a_folder_can_be_written_makes_nothing(tmp_path: Path) -> None:
    files.check_writable(tmp_path / "a/b/c")
    assert names_in(tmp_path) == []


def test_a9_only_leftovers_of_dead_processes_are_removed(tmp_path: Path) -> None:
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    own = files._temporary(tmp_path).name
    left = [own.replace(str(os.getpid()), str(dead)), own, f".mcx-{dead}-00000000aa.tmp", "x.tmp", "x.pt"]
    for name in left:
        (tmp_path / name).write_bytes(b"")
    files.check_writable(tmp_path)
    assert names_in(tmp_path) == sorted(left[1:]), "living processes and other hosts keep theirs"


def test_a_name_is_taken_by_folders_and_by_links_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    assert [files.occupied(tmp_path / name) for name in ("dangling", "folder", "free")] == [True, True, False]


def test_a_name_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for name in ("n" * 256, "loop/x"):
        with pytest.raises(OutputError, match="cannot write"):
            files.occupied(tmp_path / name)


def test_an_input_is_found_under_all_its_names(tmp_path: Path) -> None:
    source = tmp_path / "a.pt"
    source.write_bytes(b"weights")
    (tmp_path / "hard.pt").hardlink_to(source)
    (tmp_path / "soft.pt").symlink_to(source)
    (tmp_path / "copy.pt").write_bytes(b"weights")
    for name in ("a.pt", "hard.pt", "soft.pt", "../" + tmp_path.name + "/a.pt"):
        with pytest.raises(OutputError, match="is the input itself"):
            files.refuse_inputs([tmp_path / name], [source])
    files.refuse_inputs([tmp_path / "copy.pt", tmp_path / "new.pt"], [source])


# The kinds of files ---------------------------------------------------------------------------------------


def test_the_same_content_gives_the_same_bytes_of_tensors(tmp_path: Path) -> None:
    content = {"epoch": 1, "model_state": {"w": torch.arange(6.0), "n": torch.tensor(3)}}
    data = files.tensor_bytes(content)
    for name in ("a.pt", "b.pt"):
        files.write_tensors(tmp_path / name, content)
        assert (tmp_path / name).read_bytes() == data


def test_a_view_writes_its_own_bytes_only() -> None:
    large = torch.arange(100_000.0)
    assert len(files.tensor_bytes({"w": large[5:8]})) < 3000


def test_written_tensors_need_no_trust_to_be_loaded() -> None:
    content = {"w": torch.ones(2, 3).T, "best": np.float64(0.5), "steps": (1, np.int64(2)), "note": None}
    found = torch.load(io.BytesIO(files.tensor_bytes(content)), weights_only=True)
    assert torch.equal(found.pop("w"), content["w"])
    assert found == {"best": 0.5, "steps": [1, 2], "note": None}


def test_json_is_strict(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "x.json", {"x": float("nan")})
    assert names_in(tmp_path) == []


def test_names_that_are_not_text_come_back_from_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"a\xff.pt")
    files.write_json(tmp_path / "x.json", {"path": name, "word": "né"})
    assert json.loads((tmp_path / "x.json").read_text("utf-8")) == {"path": name, "word": "né"}


def test_arrays_that_need_a_pickle_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="'x' would need a pickle"):
        files.write_arrays(tmp_path / "x.npz", {"x": np.array([None])})
    files.write_arrays(tmp_path / "x.npz", {"x": [1, 2], "names": ["a", "bc"]})
    with np.load(tmp_path / "x.npz", allow_pickle=False) as found:
        assert (found["x"].tolist(), found["names"].tolist()) == ([1, 2], ["a", "bc"])


def test_a_log_loses_only_the_line_that_a_kill_cut_off(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    assert logs.read_lines(log) == []
    for line in ("one", "two"):
        logs.append_line(log, line)
    with log.open("a") as stream:
        stream.write("thr")
    assert logs.read_lines(log) == [b"one", b"two"]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"'{tmp_path}/x' does not exist"), files.reading(tmp_path / "x"):
        (tmp_path / "x").read_bytes()
    with pytest.raises(InputError, match=f"cannot read '{tmp_path}': {os.strerror(errno.EISDIR)}"):  # noqa: SIM117
        with files.reading(tmp_path):
            tmp_path.read_bytes()


# The one reader of JSON --------------------------------------------------------------------------------------

BAD_JSON = {
    "deep": (b"[" * 100_000, "nested too deeply"),
    "deep objects": (b'{"a":' * 100_000, "nested too deeply"),
    "long": (b'{"a": ' + b"1" * 5000 + b"}", "a number beyond every float"),
    "twice": (b'{"layer_name": "a", "layer_name": "b"}', "'layer_name' occurs twice"),
    "not UTF-8": (b'{"a": "\xff"}', "utf-8"),
    "a list": (b"[1]", "no JSON object"),
    "text": (b"hello", "Expecting value"),
}


@pytest.mark.parametrize("kind", BAD_JSON)
def test_json_that_cannot_be_read_is_refused_with_its_file(tmp_path: Path, kind: str) -> None:
    content, words = BAD_JSON[kind]
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        records.read_object(path, "write it anew")
    assert str(path) in caught.value.message
    assert words in caught.value.message
    assert caught.value.hint == "write it anew"
    index = tmp_path / "model.safetensors.index.json"
    index.write_bytes(content)
    with pytest.raises(InputError, match="index"):
        shards.shards(index)


def test_files_are_parsed_by_the_one_reader_alone() -> None:
    """Elsewhere json.loads reads what the processes of a job tell each other, and headers while a word is completed."""
    package = Path(files.__file__).parents[2]
    found = {
        p.relative_to(package).as_posix()
        for p in package.rglob("*.py")
        if "json.load" in p.read_text("utf-8")
    }
    among = {
        "engine/machine/launch.py",
        "engine/machine/ranks.py",
        "engine/samples/scored_run.py",
        "cli/complete.py",
    }
    assert found == {"engine/results/strict_json.py", *among}
