"""Several processes share the samples: the files of one, whatever happens to any of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from modeconn_cli.engine.samples.sweep import Sweep

UNITS = 4
# The words of a command, and the ranks that are killed one run after the other.
COMMANDS = {
    "dormant": (("dormant", "--output-dir"), (1,)),
    "curvature": (("curvature", "--niter", "2", "--save-dir"), (1,)),
    "csl": (("csl", "score", "--output-dir"), (0,)),
}


def files_of(folder: Path) -> dict[str, bytes]:
    """Every result, as bytes, by its name in the folder."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith(".mcx")}


def kill(rank: int) -> dict[str, str]:
    return {"MCX_TESTING": "1", "MCX_FAILPOINT": f"scoring.after_part.rank{rank}:1=kill"}


@pytest.fixture
def where(networks: Path) -> tuple[str | Path, ...]:
    """Two epochs of two work units each: UNITS."""
    return ("--checkpoint-dir", networks / "seed0", "--batch-size", "64")


@pytest.mark.distributed
@pytest.mark.parametrize("command", ["dormant", "csl", pytest.param("curvature", marks=pytest.mark.slow)])
def test_g2_h2_j3_killed_ranks_and_one_process_in_the_end_give_the_files_of_one(
    mcx: Callable,
    start: Callable,
    where: tuple,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    (words, killed), folder = COMMANDS[command], tmp_path / "many"
    assert mcx(*words, tmp_path / "one", *where, "--threads", "1").code == 0
    for rank in killed:
        done = start(*words, folder, *where, "--nproc-per-node", "2", environment=kill(rank))
        out, err = done.communicate(timeout=100)
        assert (done.returncode, out) == (137, "")
        assert "a process was ended by SIGKILL" in err
    kept, computed = list(folder.glob(".mcx/*/parts/*/*.npz")), []
    assert kept
    plain = Sweep._part

    def part(sweep: Sweep, unit: tuple[int, int], *found: object) -> dict:
        computed.append(unit)
        return plain(sweep, unit, *found)

    monkeypatch.setattr(Sweep, "_part", part)
    assert mcx(*words, folder, *where, "--threads", "1").code == 0
    assert len(kept) + len(computed) == UNITS, "what was there is not computed again"
    assert files_of(folder) == files_of(tmp_path / "one")


@pytest.mark.distributed
def test_g1_j7_two_processes_give_the_files_of_one_and_one_clean_output(
    mcx: Callable, start: Callable, where: tuple, tmp_path: Path
) -> None:
    assert mcx("dormant", *where, "--output-dir", tmp_path / "one", "--threads", "1").code == 0
    done = start("dormant", *where, "--output-dir", tmp_path / "two", "--nproc-per-node", "2")
    out, err = done.communicate(timeout=100)
    assert done.returncode == 0, err
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")
    assert out.count("Dormant units of 1,437 samples") == 1
    assert err.count("epoch 2/2") == 1
    again = start("dormant", *where, "--output-dir", tmp_path / "two", "--nproc-per-node", "3")
    out, err = again.communicate(timeout=100)
    assert (again.returncode, err.count("already complete")) == (0, 1)


@pytest.fixture
def many(mcx: Callable, tmp_path: Path) -> tuple[str | Path, ...]:
    """`csl score` of twelve epochs of two work units each, of which two ranks may be AHEAD."""
    small = ("--model", "mlp", "--model-arg", "width=4", "--dataset", "digits", "--max-samples", "1100")
    words = ("--epochs", "12", "--save-freq", "1", "--lr", "0.1", "--output-dir", tmp_path / "run", "-q")
    assert mcx("train", *small, *words).code == 0
    where = ("--checkpoint-dir", tmp_path / "run/seed0", "--start-epoch", "1", "--batch-size", "64")
    return ("csl", "score", *where, "--grad", "none", "--output-dir")


AHEAD = 4  # epochs, as a rank may do four units more than another


@pytest.mark.distributed
def test_g2_epochs_are_put_together_as_they_are_done_and_go_on_after_a_kill(
    mcx: Callable, start: Callable, many: tuple, tmp_path: Path
) -> None:
    """Rank 1 is killed after its eighth unit, which it begins when the first three epochs are put together."""
    folder = tmp_path / "out"
    fault = {"MCX_TESTING": "1", "MCX_FAILPOINT": "scoring.after_part.rank1:8=kill"}
    done = start(*many, folder, "--nproc-per-node", "2", environment=fault)
    assert (done.communicate(timeout=100)[0], done.returncode) == ("", 137)
    finished = len(list(folder.glob("loss_ce_*.npy")))
    assert 8 - 1 - AHEAD <= finished <= 8
    there = list(folder.glob(".mcx/*/parts/*"))
    assert 1 <= len(there) <= AHEAD + 1, "a folder per epoch that is not put together"
    done = start(*many, folder, "--nproc-per-node", "3")
    _, err = done.communicate(timeout=100)
    assert (done.returncode, f"{finished} of 12 epochs are scored already" in err) == (0, True), err
    assert list(folder.glob(".mcx/*/parts/*")) == []
    assert mcx(*many, tmp_path / "one", "--threads", "1").code == 0
    assert files_of(folder) == files_of(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("rank", [0, 1])
def test_no_rank_fills_the_disk_with_parts_while_another_hangs(
    start: Callable, ranks: list, many: tuple, tmp_path: Path, rank: int
) -> None:
    """As of torchrun, the store is not at rank 0, which may hang as any other."""
    port = int(ranks[0]["MASTER_PORT"])
    store = TCPStore("localhost", port, is_master=True, wait_for_workers=False)  # lives as long as its name
    fault = {"MCX_TESTING": "1", "MCX_FAILPOINT": f"scoring.after_part.rank{rank}:1=stop"}
    words = (*many, tmp_path / "out", "--dist-timeout", "3")
    there = {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    both = [start(*words, environment={**ranks[k], **there, **(fault if k == rank else {})}) for k in (0, 1)]
    _, err = both[1 - rank].communicate(timeout=60)
    both[rank].kill()
    both[rank].communicate()
    assert (both[1 - rank].returncode, f"rank {rank} has said nothing for 3 s" in err) == (75, True), err
    assert len(list((tmp_path / "out").glob(".mcx/*/parts/*/*.npz"))) == 1 + AHEAD + 1
    del store


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("fault", ["other", "damaged", "missing"])
def test_j2_j10_a_rank_that_sees_other_files_is_named_once(
    start: Callable, ranks: list, networks: Path, tmp_path: Path, fault: str
) -> None:
    """Rank 1's copy of the run has another checkpoint, one that cannot be read, or one less."""
    folders = [networks / "seed0", tmp_path / "seed0"]
    shutil.copytree(networks / "seed0", folders[1], ignore=shutil.ignore_patterns(".mcx"))
    broken = folders[1] / "checkpoint-4.pt"
    broken.write_bytes(
        (networks / "seed1/checkpoint-4.pt").read_bytes() if fault == "other" else b"PK\x03\x04"
    )
    if fault == "missing":
        broken.unlink()
    both = [
        start(
            "dormant",
            "--checkpoint-dir",
            folder,
            "--batch-size",
            "64",
            "--output-dir",
            tmp_path / "out",
            environment=rank,
        )
        for folder, rank in zip(folders, ranks, strict=True)
    ]
    ended = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [3, 3]
    assert [out for out, _ in ended] == ["", ""]
    errors = [err for _, err in ended if "error:" in err]
    assert len(errors) == 1
    kept = [json.loads(path.read_text()) for path in (tmp_path / "out/.mcx").glob("error.rank*.json")]
    # Ranks that lack a checkpoint say so at once: rank 0 may not have made the folder yet.
    assert len(kept) == 1 or (fault == "missing" and not kept)
    assert all((cause["exit_code"], cause["message"] in errors[0]) == (3, True) for cause in kept)
    said = {
        "other": "the ranks saw other files",
        "damaged": "error: rank 1: ",
        "missing": "error: rank 1: this rank lacks the checkpoint of epoch 4 that rank 0 has",
    }
    assert said[fault] in errors[0]


@pytest.mark.slow
@pytest.mark.distributed
def test_j4_a_signal_stops_all_ranks_and_the_work_goes_on(
    mcx: Callable, start: Callable, networks: Path, tmp_path: Path
) -> None:
    where = ("--checkpoint", networks / "seed0/checkpoint-4.pt", "--niter", "40", "--batch-size", "64")
    words = ("curvature", *where, "--save-dir", tmp_path / "out")
    done = start(*words, "--nproc-per-node", "2")
    private = tmp_path / "out/.mcx/curvature"
    end = time.monotonic() + 60
    while not (private / "status.json").exists() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.3)
    done.send_signal(signal.SIGTERM)
    out, err = done.communicate(timeout=60)
    assert (done.returncode, out) == (75, ""), err
    # A rank that is done with its share says that it was stopped while it waited for the other.
    assert (err.count("error: "), err.count(": stopped ")) == (0, 1), err
    assert err.count("; run the same command to continue") == 1
    assert '"state": "preempted"' in (private / "status.json").read_text()
    assert mcx(*words, "--threads", "1").code == 0
    assert mcx("curvature", *where, "--save-dir", tmp_path / "one", "--threads", "1").code == 0
    assert files_of(tmp_path / "out") == files_of(tmp_path / "one")


@pytest.mark.distributed
def test_a_rank_that_never_comes_is_given_up(
    start: Callable, ranks: list, where: tuple, tmp_path: Path
) -> None:
    done = start(
        "dormant", *where, "--output-dir", tmp_path / "out", "--dist-timeout", "2", environment=ranks[0]
    )
    out, err = done.communicate(timeout=60)
    assert (done.returncode, out) == (2, "")
    assert "rank 0 found no rank 1 at localhost:" in err


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("rank", "how", "message"),
    [
        (1, "stop", "rank 1 has said nothing for 3 s"),
        (0, "stop", "rank 1: rank 0 has said nothing for 3 s"),
        (0, "kill", "rank 1: rank 0 does not answer"),
    ],
)
def test_j3_a_rank_that_hangs_or_dies_is_given_up_and_finished_parts_stay(
    mcx: Callable,
    start: Callable,
    ranks: list,
    where: tuple,
    tmp_path: Path,
    rank: int,
    how: str,
    message: str,
) -> None:
    """Rank 0 holds the store: without it the others end too, and without a traceback."""
    words = ("dormant", *where, "--output-dir", tmp_path / "out", "--dist-timeout", "3")
    fault = {"MCX_TESTING": "1", "MCX_FAILPOINT": f"scoring.after_part.rank{rank}:1={how}"}
    both = [start(*words, environment={**ranks[k], **(fault if k == rank else {})}) for k in (0, 1)]
    _, err = both[1 - rank].communicate(timeout=60)
    both[rank].kill()
    both[rank].communicate()
    assert (both[1 - rank].returncode, message in err) == (75, True), err
    assert "Traceback" not in err
    assert list((tmp_path / "out").glob(".mcx/*/parts/*/*.npz"))
    assert mcx(*words, "--threads", "1").code == 0


@pytest.mark.distributed
def test_a_signal_ends_a_rank_that_waits_for_the_others(
    start: Callable, ranks: list, where: tuple, tmp_path: Path
) -> None:
    done = start("dormant", *where, "--output-dir", tmp_path / "out", environment=ranks[0])
    with pytest.raises(subprocess.TimeoutExpired):
        done.communicate(timeout=8)
    done.terminate()
    assert done.communicate(timeout=20)[0] == ""
    assert done.returncode == 143


def test_j1_bad_flags_are_refused_before_anything_starts(
    mcx: Callable, where: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("dormant", *where, "--output-dir", tmp_path / "out")
    for flags, message in (
        (("--nproc-per-node", "0"), "takes a number of processes or auto"),
        (("--nproc-per-node", "two"), "takes a number of processes or auto"),
        (("--nproc-per-node", "2", "--dist", "off"), "leave out --dist off"),
        (("--dist-timeout", "0"), "--dist-timeout must be greater than 0"),
    ):
        done = mcx(*words, *flags)
        assert (done.code, message in done.err) == (2, True)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = mcx(*words)
    assert (done.code, "RANK=2 is not one of WORLD_SIZE=2" in done.err) == (2, True)
    done = mcx(*words, "--dist", "off", "--dry-run")
    assert done.code == 0
    assert not (tmp_path / "out").exists()


@pytest.mark.distributed
def test_ranks_with_other_settings_are_refused(
    start: Callable, ranks: list, where: tuple, tmp_path: Path
) -> None:
    words = ("dormant", *where, "--output-dir", tmp_path / "out")
    both = [start(*words, environment=ranks[0]), start(*words, "--batch-size", "32", environment=ranks[1])]
    ended = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [2, 2]
    assert "rank 1: 'batch_size' is 32 here and 64 at rank 0" in ended[1]
    assert "error:" not in ended[0]


@pytest.mark.distributed
def test_j3_a_killed_rank_is_said_once(start: Callable, where: tuple, tmp_path: Path) -> None:
    done = start(
        "dormant", *where, "--output-dir", tmp_path / "out", "--nproc-per-node", "2", environment=kill(1)
    )
    out, err = done.communicate(timeout=60)
    assert (done.returncode, out) == (137, "")
    assert [line for line in err.splitlines() if "error" in line] == [
        "mcx dormant: error: a process was ended by SIGKILL"
    ]


@pytest.mark.distributed
def test_one_ctrl_c_of_a_terminal_saves_the_work(start: Callable, networks: Path, tmp_path: Path) -> None:
    """It reaches the ranks twice: from the terminal, and from the process that has started them."""
    words = (
        "curvature",
        "--checkpoint",
        networks / "seed0/checkpoint-4.pt",
        "--niter",
        "40",
        "--batch-size",
        "64",
    )
    done = start(*words, "--save-dir", tmp_path / "out", "--nproc-per-node", "2", group=True)
    status = tmp_path / "out/.mcx/curvature/status.json"
    end = time.monotonic() + 60
    while not status.exists() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.3)
    os.killpg(done.pid, signal.SIGINT)
    _, err = done.communicate(timeout=60)
    assert (done.returncode, json.loads(status.read_text())["state"]) == (75, "preempted"), err
    assert (err.count("error:"), err.count("; run the same command to continue")) == (0, 1)
