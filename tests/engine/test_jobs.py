"""A job folder: one run at a time, the same settings, and nothing replaced unasked."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from modeconn_cli.cli import config
from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError, McxError, OutputError, Stopped
from modeconn_cli.engine.machine.runtime import Opened, Runtime, Silent
from modeconn_cli.engine.results import files, jobs, locks, records
from modeconn_cli.engine.settings.base import setting, specs
from modeconn_cli.engine.settings.shared import FolderSettings


@dataclass(frozen=True, kw_only=True)
class Wanted(FolderSettings):
    lr: float = setting(0.1)
    epochs: int = setting(2, change="grow")
    device: str = setting("cpu", change="free")


def wanted(folder: Path, **words: Any) -> Wanted:
    return Wanted(**{"output_dir": folder, **words})


class Heard(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str, level: str = "note") -> None:
        self.notes.append(text)


RESULT = "result.txt"


@contextmanager
def opened(folder: Path, inputs: Sequence[Path] = (), **words: Any) -> Iterator[tuple[jobs.Job, list[str]]]:
    heard = Heard()
    runtime = Runtime(device=None, listener=heard)
    with jobs.opened(
        wanted(folder, **words), folder, "some job", runtime, further=inputs, owned=["*.txt"]
    ) as job:
        yield job, heard.notes


def run(folder: Path, inputs: Sequence[Path] = (), **words: Any) -> list[str]:
    """A whole run; returns the notes."""
    with opened(folder, inputs, **words) as (job, notes):
        if not job.complete:
            files.write_text(folder / RESULT, "done")
            job.finish([folder / RESULT])
    return notes


def begin(folder: Path, **words: Any) -> None:
    """A run that ends before it has finished."""
    with opened(folder, **words):
        files.write_text(folder / RESULT, "half")


def private(folder: Path) -> Path:
    return folder / ".mcx/some-job"


def status(folder: Path) -> str:
    return str(json.loads((private(folder) / names.STATUS_FILE).read_text())["state"])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(kind: type[McxError], folder: Path, *inputs: Path, **words: Any) -> McxError:
    before = contents(folder)
    with pytest.raises(kind) as caught, opened(folder, inputs, **words):
        pass
    after = contents(folder)
    assert {path: after.get(path) for path in before} == before
    return caught.value


def dead_pid() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def lock(folder: Path, **words: Any) -> Path:
    path = private(folder) / names.LOCK_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"pid": 1, "host": socket.gethostname(), "started": "10:02", **words}))
    return path


# Record and status ----------------------------------------------------------------------------------------


def test_a_finished_job_is_complete_and_unlocked(tmp_path: Path) -> None:
    run(tmp_path, lr=0.2)
    assert status(tmp_path) == "complete"
    assert not (private(tmp_path) / names.LOCK_FILE).exists()
    manifest = json.loads((private(tmp_path) / names.MANIFEST_FILE).read_text())
    assert manifest["files"][0]["file"] == RESULT
    assert (manifest["settings"]["lr"], manifest["command"]) == (0.2, "mcx some job")


def test_the_recorded_settings_can_be_read_as_a_configuration(tmp_path: Path) -> None:
    run(tmp_path, lr=1e-5, output_dir=Path("a\nb: c"))
    known = {spec.name: spec.name for spec in specs(Wanted)}
    values, _ = config.read(private(tmp_path) / names.SETTINGS_FILE, known, "some job")
    assert (float(values["lr"]), values["output_dir"], values["epochs"]) == (1e-5, "a\nb: c", "2")


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (Stopped("saved"), "preempted"),
        (InputError("bad data"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(143), "interrupted"),
    ],
)
def test_the_status_says_how_a_run_ended(tmp_path: Path, error: BaseException, state: str) -> None:
    def end() -> None:
        with opened(tmp_path):
            assert status(tmp_path) == "running"
            raise error

    with pytest.raises(type(error)):
        end()
    assert status(tmp_path) == state
    assert not (private(tmp_path) / names.LOCK_FILE).exists()


def test_a_finished_job_is_not_done_again(tmp_path: Path) -> None:
    run(tmp_path)
    before = (tmp_path / RESULT).stat().st_mtime_ns
    assert run(tmp_path) == [f"already complete: {tmp_path}"]
    assert (tmp_path / RESULT).stat().st_mtime_ns == before


def test_an_unfinished_job_goes_on(tmp_path: Path) -> None:
    begin(tmp_path)
    with opened(tmp_path) as (job, _):
        assert (job.resumed, job.complete) == (True, False)


def test_a_finished_job_with_a_damaged_result_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / RESULT).write_text("changed")
    error = refused(InputError, tmp_path)
    assert "was changed after the job had finished" in error.message
    assert error.hint == "use --no-resume --overwrite"


# What may change ------------------------------------------------------------------------------------------


def test_a_changed_setting_is_refused_with_old_and_new(tmp_path: Path) -> None:
    begin(tmp_path)
    error = refused(InputError, tmp_path, lr=0.05)
    assert error.message == "'lr' was 0.1, now 0.05"
    assert "--no-resume --overwrite" in error.hint


def test_settings_that_only_add_work_or_move_it_may_change(tmp_path: Path) -> None:
    begin(tmp_path)
    with opened(tmp_path, epochs=5, device="cuda") as (job, notes):
        assert job.resumed
    assert notes == ["device was cpu, now cuda: last bits may differ"]


def test_a_changed_input_is_refused(tmp_path: Path) -> None:
    source, folder = tmp_path / "a.pt", tmp_path / "run"
    source.write_text("one")
    run(folder, [source])
    source.write_text("two")
    assert f"'{source}' is not the file the job began with" in refused(InputError, folder, source).message
    assert "began with 1 input files, now 0" in refused(InputError, folder).message


def test_a_moved_input_of_the_same_content_is_accepted(tmp_path: Path) -> None:
    source, folder = tmp_path / "a.pt", tmp_path / "run"
    source.write_text("one")
    run(folder, [source])
    assert run(folder, [source.rename(tmp_path / "b.pt")]) == [f"already complete: {folder}"]


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    error = refused(InputError, tmp_path, tmp_path / "a.pt")
    assert error.message == f"'{tmp_path}/a.pt' does not exist"


# Overwriting ----------------------------------------------------------------------------------------------


def test_someone_elses_files_are_kept_unless_overwrite(tmp_path: Path) -> None:
    (tmp_path / RESULT).write_text("mine")
    error = refused(OutputError, tmp_path)
    assert (error.message, error.hint) == (f"'{tmp_path}/{RESULT}' exists", "use --overwrite to replace it")
    run(tmp_path, overwrite=True)
    assert (tmp_path / RESULT).read_text() == "done"


def test_starting_anew_needs_both_flags(tmp_path: Path) -> None:
    run(tmp_path)
    assert "--no-resume --overwrite" in refused(OutputError, tmp_path, resume=False).hint
    assert refused(InputError, tmp_path, lr=0.5, overwrite=True).message == "'lr' was 0.1, now 0.5"
    with opened(tmp_path, lr=0.5, resume=False, overwrite=True) as (job, _):
        assert not job.resumed
        assert not (tmp_path / RESULT).exists()


def test_files_of_other_names_survive_an_overwrite(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("mine")
    run(tmp_path)
    run(tmp_path, resume=False, overwrite=True)
    assert (tmp_path / "notes.md").read_text() == "mine"


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_a_damaged_record_is_refused_and_can_be_overwritten(tmp_path: Path, text: str) -> None:
    run(tmp_path)
    (private(tmp_path) / names.RECORD_FILE).write_text(text)
    assert "record.json' cannot be read" in refused(InputError, tmp_path).message
    assert run(tmp_path, resume=False, overwrite=True) == []


@pytest.mark.parametrize("place", ["file", "file/run", "/proc/run"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="cannot write"), opened(tmp_path / place):
        pass
    assert (tmp_path / "file").read_text() == "mine"


# Locks ----------------------------------------------------------------------------------------------------


def test_a12_a_living_owner_keeps_the_lock(tmp_path: Path) -> None:
    path = lock(tmp_path, pid=os.getppid())
    error = refused(OutputError, tmp_path)
    assert error.message == (
        f"'{tmp_path}' is locked by pid {os.getppid()} on {socket.gethostname()} (started 10:02)"
    )
    assert json.loads(path.read_text())["pid"] == os.getppid()


def test_a13_the_lock_of_a_dead_process_is_taken_over_with_a_notice(tmp_path: Path) -> None:
    pid = dead_pid()
    lock(tmp_path, pid=pid)
    assert run(tmp_path) == [f"taking over the lock of pid {pid}, which has ended"]


@pytest.mark.parametrize("text", ["", "{", '{"pid": 5}'])
def test_a13_a_lock_that_a_kill_left_half_written_is_taken_over(tmp_path: Path, text: str) -> None:
    lock(tmp_path).write_text(text)
    assert run(tmp_path) == ["taking over the lock of pid unknown, which has ended"]


def test_the_lock_of_another_host_lives_by_its_heartbeat(tmp_path: Path) -> None:
    path = lock(tmp_path, host="elsewhere")
    assert "locked by pid 1 on elsewhere" in refused(OutputError, tmp_path).message
    os.utime(path, (0, 0))
    assert run(tmp_path) == ["taking over the lock of pid 1, which has ended"]


def test_a_live_owner_renews_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PULSE", 0.01)
    with opened(tmp_path):
        path = private(tmp_path) / names.LOCK_FILE
        os.utime(path, (0, 0))
        end = time.monotonic() + 20
        while path.stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.01)
        assert path.stat().st_mtime > 0


def test_a_lock_that_another_has_taken_over_is_left_to_it(tmp_path: Path) -> None:
    with opened(tmp_path):
        other = lock(tmp_path, host="elsewhere")
    assert other.exists()


def test_a_job_of_a_queue_that_is_started_again_takes_its_own_lock_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    lock(tmp_path, host="elsewhere", slurm="78", restart="0")
    assert "locked by pid 1 on elsewhere" in refused(OutputError, tmp_path).message
    lock(tmp_path, host="elsewhere", slurm="77", restart="1")
    assert "locked by pid 1 on elsewhere" in refused(OutputError, tmp_path).message
    lock(tmp_path, host="elsewhere", slurm="77", restart="0")
    assert run(tmp_path) == ["taking over the lock of pid 1, which has ended"]


def test_two_commands_share_a_folder(tmp_path: Path) -> None:
    runtime = Runtime(device=None)
    with (
        jobs.opened(wanted(tmp_path), tmp_path, "one", runtime),
        jobs.opened(wanted(tmp_path, lr=9.0), tmp_path, "two", runtime) as job,
    ):
        assert not job.resumed


def test_leftovers_of_dead_processes_are_removed(tmp_path: Path) -> None:
    pid = str(dead_pid())
    places = tmp_path, private(tmp_path), private(tmp_path) / "parts", private(tmp_path) / "parts/epoch_3"
    left = [place / files._temporary(place).name.replace(str(os.getpid()), pid) for place in places]
    places[-1].mkdir(parents=True)
    for path in left:
        path.write_text("")
    run(tmp_path)
    assert [path.exists() for path in left] == [False] * 4


def test_leftovers_in_folders_of_results_are_removed_too(tmp_path: Path) -> None:
    (tmp_path / "losses").mkdir()
    here = tmp_path / "losses" / files._temporary(tmp_path).name
    dead = here.with_name(here.name.replace(str(os.getpid()), str(dead_pid())))
    for path in (here, dead):
        path.write_text("")
    with jobs.opened(
        wanted(tmp_path), tmp_path, "one", Runtime(device=None), owned=("*.txt", "losses/*.tmp.npy")
    ):
        assert (here.exists(), dead.exists()) == (True, False)


# Single files ---------------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path: Path) -> records.Provenance:
    """Of a result that `wanted` asks for, made of one file."""
    source = tmp_path / "source"
    source.write_text("content")
    return records.provenance(wanted(tmp_path), "l2", Opened(), [source])


def due(path: Path, made: records.Provenance, *, record: Path | None = None, **words: Any) -> bool:
    beside = words.pop("beside", ())
    return jobs.file_output(path, made, wanted(path.parent, **words), record=record, beside=beside)


def plain(made: records.Provenance, **changes: Any) -> dict[str, Any]:
    return {**records.strict(vars(made)), **changes}


def test_a_file_of_the_same_command_is_complete(tmp_path: Path, made: records.Provenance) -> None:
    path = tmp_path / "x.json"
    files.write_json(path, {"provenance": plain(made, settings={"lr": 0.1, "overwrite": True})})
    assert due(path, made) is False
    assert due(path, made, overwrite=True) is True


def test_a_file_made_on_another_machine_is_complete(tmp_path: Path, made: records.Provenance) -> None:
    """What may change between two runs into a folder may change between two writings of a file."""
    path = tmp_path / "x.json"
    files.write_json(path, {"provenance": plain(made, settings={**made.settings, "device": "cuda"})})
    assert due(path, made) is False


@pytest.mark.parametrize(
    "text",
    [
        "{}", "[]", "x", '{"provenance": 5}', '{"provenance": {"settings": 5}}',
        '{"provenance": {"command": "mcx l2", "settings": 5, "inputs": []}}',
        '{"provenance": {"command": "mcx l2", "settings": {}, "inputs": [5]}}',
    ],
)  # fmt: skip
def test_a_file_that_says_nothing_of_its_origin_is_kept(
    tmp_path: Path, made: records.Provenance, text: str
) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(OutputError, match="exists"):
        due(path, made)


@pytest.mark.parametrize("changes", [{"settings": {"lr": 2}}, {"inputs": []}, {"command": "mcx swap"}])
def test_a_file_of_any_other_origin_is_kept(
    tmp_path: Path, made: records.Provenance, changes: dict[str, Any]
) -> None:
    path = tmp_path / "x.json"
    files.write_json(path, {"provenance": plain(made, **changes)})
    with pytest.raises(OutputError, match="exists"):
        due(path, made)


def test_a_record_without_its_file_is_a_kill_and_any_other_companion_is_kept(
    tmp_path: Path, made: records.Provenance
) -> None:
    path, record, beside = tmp_path / "x.pt", tmp_path / "x.json", tmp_path / "y.json"
    files.write_json(record, {"provenance": plain(made), "checkpoint_sha256": "cd"})
    beside.write_text("{}")
    assert due(path, made, record=record, beside=[beside]) is True
    record.unlink()
    with pytest.raises(OutputError, match=f"'{beside}' exists"):
        due(path, made, record=record, beside=[beside])


def test_a_record_of_another_file_does_not_vouch_for_this_one(
    tmp_path: Path, made: records.Provenance
) -> None:
    path, record = tmp_path / "x.pt", tmp_path / "x.json"
    path.write_bytes(b"old")
    files.write_json(record, {"provenance": plain(made), "checkpoint_sha256": "cd"})
    with pytest.raises(OutputError, match=f"'{path}' exists"):
        due(path, made, record=record)


def test_a_setting_that_a_record_does_not_know_had_its_default(tmp_path: Path) -> None:
    """Folders of an older version go on."""
    begin(tmp_path)
    record = tmp_path / names.JOB_FOLDER / "some-job" / names.RECORD_FILE
    document = json.loads(record.read_text())
    del document["settings"]["lr"]
    record.write_text(json.dumps(document))
    run(tmp_path)
    assert (tmp_path / RESULT).exists()
