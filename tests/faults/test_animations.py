"""`mcx animate`: archives that are none, rates, names and values that are hard to draw, and ends while it writes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeconn_cli.engine.results import failpoints

SOURCE = Path("analysis/layer_distances_along_curve.npz")
WORDS = ("animate", "--data", "d.npz", "--output", "a.gif")


@pytest.fixture
def arrays(here: Path) -> dict[str, np.ndarray]:
    """The distances of four layers at three positions, which lie in d.npz too."""
    layers = ("conv1", "norm1", "fc1", "fc2")
    t = np.array([0.0, 0.5, 1.0])
    found = {
        "t_values": t,
        "layer_names": np.array(layers),
        "layer_types": np.array(["conv", "norm", "fc", "fc"]),
        "normalized_l2": np.outer(t, np.arange(1.0, 5.0)),
    }
    np.savez("d.npz", **found)
    return found


def frames(path: str) -> tuple[int, int]:
    """How many there are, and how many milliseconds they last together."""
    with Image.open(path) as film:
        lasts = 0
        for k in range(film.n_frames):
            film.seek(k)
            lasts += film.info["duration"]
        return film.n_frames, lasts


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_i1_an_archive_that_is_cut_off_is_refused(mcx: Callable, here: Path, share: float) -> None:
    data = SOURCE.read_bytes()
    SOURCE.write_bytes(data[: int(share * len(data))])
    done = mcx("animate", "--data", SOURCE, "--output", "a.gif")
    assert (done.code, done.out, f"'{SOURCE}'" in done.err) == (3, "", True), done.err
    assert not Path("a.gif").exists()


OTHER: dict[str, dict[str, object]] = {
    "no names": {"layer_names": None},
    "no types": {"layer_types": None},
    "no positions": {"t_values": None},
    "no values": {"normalized_l2": None},
    "fewer positions": {"t_values": np.arange(2.0)},
    "fewer types": {"layer_types": np.array(["conv"])},
    "fewer names": {"layer_names": np.array(["a", "b"])},
    "no layers": {
        "layer_names": np.array([], dtype=str),
        "layer_types": np.array([], dtype=str),
        "normalized_l2": np.zeros((3, 0)),
    },
    "objects": {"layer_names": np.array([object()] * 4, dtype=object)},
    "objects as values": {"normalized_l2": np.array([[{}] * 4] * 3, dtype=object)},
    "numbers as names": {"layer_names": np.arange(4)},
    "text as values": {"normalized_l2": np.full((3, 4), "x")},
    "complex values": {"normalized_l2": np.zeros((3, 4), complex)},
    "one axis": {"normalized_l2": np.zeros(12)},
    "falling positions": {"t_values": np.arange(3.0)[::-1]},
    "equal positions": {"t_values": np.zeros(3)},
    "positions that are none": {"t_values": np.array([0, np.nan, 1])},
}


@pytest.mark.parametrize("changes", OTHER.values(), ids=OTHER)
def test_i1_arrays_that_are_others_are_refused(
    mcx: Callable, arrays: dict[str, np.ndarray], changes: dict[str, object]
) -> None:
    left = {name: value for name, value in {**arrays, **changes}.items() if value is not None}
    np.savez("d.npz", allow_pickle=True, **left)  # type: ignore[arg-type]
    done = mcx(*WORDS)
    assert (done.code, done.out, "'d.npz'" in done.err) == (3, "", True), done.err
    assert "Traceback" not in done.err
    assert not Path("a.gif").exists()


@pytest.mark.parametrize("metric", ["raw_l2", "relative"])
def test_i1_a_metric_that_the_file_lacks_names_those_it_has(
    mcx: Callable, arrays: dict[str, np.ndarray], metric: str
) -> None:
    done = mcx(*WORDS, "--metric", metric)
    assert (done.code, done.out) == (3, "")
    assert f"'d.npz' has no array '{metric}'" in done.err
    assert "its metrics: normalized_l2" in done.err


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf", "x", "1e400"])
def test_i3_a_rate_that_no_animation_has_is_refused(
    mcx: Callable, arrays: dict[str, np.ndarray], rate: str
) -> None:
    done = mcx(*WORDS, "--fps", rate)
    assert (done.code, done.out, "--fps" in done.err) == (2, "", True), done.err
    assert not Path("a.gif").exists()


@pytest.mark.parametrize(
    ("rate", "hundredths", "said"),
    [
        ("10", 10, ()),
        ("33", 3, ("it has 33.33",)),
        ("60", 2, ("it has 50", "many viewers slow down")),
        ("1000", 1, ("it has 100", "many viewers slow down")),
        ("1e-9", 65535, ("it has 0.001526",)),
    ],
)
def test_i3_what_is_played_is_what_is_said(
    mcx: Callable, arrays: dict[str, np.ndarray], rate: str, hundredths: int, said: tuple[str, ...]
) -> None:
    done = mcx(*WORDS, "--fps", rate)
    assert done.code == 0, done.err
    assert all(text in done.err for text in said), done.err
    assert said or "a GIF cannot hold" not in done.err
    assert frames("a.gif") == (3, 3 * 10 * hundredths)


def test_i2_equal_frames_are_all_there(mcx: Callable, arrays: dict[str, np.ndarray]) -> None:
    np.savez("d.npz", **{**arrays, "normalized_l2": np.ones((3, 4))})
    assert mcx(*WORDS, "--fps", "5").code == 0
    assert frames("a.gif") == (3, 600)


MATHS = np.array(["$\\frac{a}$", "_x_^{", "new\nline", "\x00\x1b[31m"])
HARD: dict[str, dict[str, object]] = {
    "some NaN": {"normalized_l2": np.array([[0, np.nan, 1, 2], [np.inf, 1, 1, 1], [1, 2, 3, -np.inf]])},
    "zeros": {"normalized_l2": np.zeros((3, 4))},
    "huge": {"normalized_l2": np.full((3, 4), 1e299)},
    "tiny": {"normalized_l2": np.full((3, 4), 1e-320)},
    "negative": {"normalized_l2": -np.ones((3, 4))},
    "whole numbers": {"normalized_l2": np.ones((3, 4), int)},
    "names with mathematical signs": {"layer_names": MATHS},
    "names of markup": {"layer_names": np.array(["<script>", "&amp;", "%s", "{x}"])},
    "long names": {"layer_names": np.array([f"{'x' * 400}{k}" for k in range(4)])},
    "names in other letters": {"layer_names": np.array(["é", "中", "😀", "\u202e"])},
    "equal names": {"layer_names": np.array(["a"] * 4)},
    "empty names": {"layer_names": np.array(["", "", "", ""])},
    "one layer": {
        "layer_names": np.array(["a"]),
        "layer_types": np.array(["conv"]),
        "normalized_l2": np.ones((3, 1)),
    },
    "one position": {"t_values": np.array([0.5]), "normalized_l2": np.ones((1, 4))},
    "2,000 layers": {
        "layer_names": np.array([f"block{k}.conv" for k in range(2000)]),
        "layer_types": np.array(["conv"] * 2000),
        "normalized_l2": np.ones((3, 2000)),
    },
}
QUICK = ("some NaN", "names with mathematical signs")


@pytest.mark.filterwarnings("ignore:Glyph:UserWarning")
@pytest.mark.parametrize(
    "name", [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in HARD]
)
def test_i4_whatever_the_values_and_names_are_there_is_a_figure(
    mcx: Callable, arrays: dict[str, np.ndarray], name: str
) -> None:
    changed = {**arrays, **HARD[name]}
    np.savez("d.npz", **changed)  # type: ignore[arg-type]
    done = mcx(*WORDS, "--heatmap")
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    assert frames("a.gif")[0] == len(changed["t_values"])  # type: ignore[arg-type]
    assert Path("a_heatmap.png").read_bytes().startswith(b"\x89PNG")


def test_i4_nothing_but_nan_is_refused(mcx: Callable, arrays: dict[str, np.ndarray]) -> None:
    np.savez("d.npz", **{**arrays, "normalized_l2": np.full((3, 4), np.nan)})
    done = mcx(*WORDS)
    assert (done.code, done.out) == (3, "")
    assert "'d.npz': normalized_l2 has no finite value" in done.err
    assert not Path("a.gif").exists()


PLACES = ("before_write", "before_sync", "before_rename")


def left() -> list[str]:
    return [path.name for path in Path().iterdir() if path.suffix in (".gif", ".tmp", ".png")]


@pytest.mark.parametrize("place", PLACES)
def test_i5_a_full_disk_leaves_nothing_under_its_name(
    mcx: Callable, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("MCX_TESTING", "1")
    monkeypatch.setenv("MCX_FAILPOINT", f"files.{place}:1=enospc")
    failpoints._counts.clear()
    done = mcx(*WORDS)
    assert (done.code, done.out, "a.gif" in done.err) == (5, "", True), done.err
    assert left() == []


@pytest.mark.parametrize(
    "place", [each if each == PLACES[-1] else pytest.param(each, marks=pytest.mark.slow) for each in PLACES]
)
def test_i5_a_kill_leaves_nothing_under_its_name_or_the_old_file(
    mcx: Callable, forked: Callable, arrays: dict[str, np.ndarray], place: str
) -> None:
    kill = {"MCX_TESTING": "1", "MCX_FAILPOINT": f"files.{place}:1=kill"}
    assert forked(WORDS, kill).code == -9
    assert not Path("a.gif").exists()
    assert mcx(*WORDS).code == 0
    assert left() == ["a.gif"], "what the killed process had begun is removed"
    whole = Path("a.gif").read_bytes()
    assert forked([*WORDS, "--fps", "5", "--overwrite"], kill).code == -9
    assert Path("a.gif").read_bytes() == whole


SETTINGS: dict[str, dict[str, str]] = {
    "no display": {"MPLBACKEND": "TkAgg", "DISPLAY": ""},
    "a backend that is not there": {"MPLBACKEND": "bogus"},
    "a backend of someone's": {"MPLBACKEND": "module://evilbackend"},
    "a folder that cannot be written": {"MPLCONFIGDIR": "/proc/x"},
    "no home": {"HOME": "/proc/x"},
}


@pytest.mark.slow
@pytest.mark.parametrize("environment", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("command", ["animate", "correlate"])
def test_i6_no_display_and_no_folder_of_matplotlib_are_needed(
    fresh: Callable, arrays: dict[str, np.ndarray], environment: dict[str, str], command: str
) -> None:
    Path("evilbackend.py").write_text("open('ran', 'w').close()\n")
    places = {"PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
    words = {
        "animate": (*WORDS, "--heatmap"),
        "correlate": ("correlate", "--csl", "csl", "--memo", "memo.csv", "--output-dir", "out"),
    }
    done = fresh(*words[command], environment={**places, **environment})
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    made = ["a.gif", "a_heatmap.png"] if command == "animate" else list(Path("out").glob("*.png"))
    assert made
    assert all(Path(path).stat().st_size > 1000 for path in made)
    assert not Path("ran").exists()
