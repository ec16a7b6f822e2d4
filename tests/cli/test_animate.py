"""`mcx animate` as its user sees it: what is in the files, and when they are made again."""

from __future__ import annotations

import io
import json
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from modeconn_cli.engine.commands.animate import bars

LAYERS = ("conv1", "norm1", "$fc_1$")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three layers at seven positions; the second is the swapped one and ends where it began."""
    t = np.linspace(0, 1, 7)
    values = np.stack([t, 4 * t * (1 - t), 2 * t], axis=1)
    kinds = np.array(["conv", "norm", "fc"])
    names = {"layer_names": np.array(LAYERS), "layer_types": kinds, "swapped_layer_name": np.array("norm1")}
    np.savez(tmp_path / "d.npz", t_values=t, normalized_l2=values, relative=values / 10, **names)
    return tmp_path / "d.npz"


def frames(path: Path) -> tuple[list[np.ndarray], list[int]]:
    """Every frame as RGB [H, W, 3], and its duration in milliseconds."""
    pictures, durations = [], []
    with Image.open(path) as film:
        for k in range(film.n_frames):
            film.seek(k)
            pictures.append(np.asarray(film.convert("RGB")).astype(int))
            durations.append(film.info.get("duration", 0))
    return pictures, durations


def count(picture: np.ndarray, ink: str) -> int:
    """Pixels of a colour, as near as the palette holds it."""
    colour = np.array([int(ink[k : k + 2], 16) for k in (1, 3, 5)])
    return int((np.abs(picture - colour).max(axis=2) <= 8).sum())


def test_i3_there_is_a_frame_per_position_each_as_long_as_asked(mcx: Callable, data: Path) -> None:
    output = data.with_name("x.gif")
    done = mcx("animate", "--data", data, "--output", output, "--fps", "8", "--json")
    pictures, durations = frames(output)
    assert (done.code, durations) == (0, [130] * 7)
    assert {picture.shape for picture in pictures} == {(540, 960, 3)}
    found = json.loads(done.out)
    assert (found["frames"], found["seconds"], found["layers"]) == (7, pytest.approx(0.91), 3)
    assert "it has 7.692" in done.err
    with Image.open(output) as film:
        assert film.info["loop"] == 0


def test_bars_grow_as_the_values_do_in_the_colours_of_their_kinds(mcx: Callable, data: Path) -> None:
    output = data.with_name("x.gif")
    assert mcx("animate", "--data", data, "--output", output).code == 0
    pictures, _ = frames(output)
    for ink, column in (("#009E73", 0), ("#D55E00", 1), ("#0072B2", 2)):
        values = np.load(data)["normalized_l2"][:, column]
        pixels = np.array([count(picture, ink) for picture in pictures])
        drawn = (pixels - pixels[0]) / (pixels.max() - pixels[0])  # the legend is in every frame
        np.testing.assert_allclose(drawn, values / values.max(), atol=0.02)


def test_i2_positions_where_nothing_changes_are_frames_of_their_own(mcx: Callable, data: Path) -> None:
    arrays = dict(np.load(data))
    np.savez(data, **{**arrays, "normalized_l2": np.ones((7, 3))})
    output = data.with_name("x.gif")
    assert mcx("animate", "--data", data, "--output", output).code == 0
    assert frames(output)[1] == [100] * 7


def test_i4_values_that_are_not_finite_have_no_bar(mcx: Callable, data: Path) -> None:
    arrays = dict(np.load(data))
    values = arrays["normalized_l2"]
    values[3, 0], values[4, 2] = np.nan, np.inf
    np.savez(data, **{**arrays, "normalized_l2": values})
    output = data.with_name("x.gif")
    done = mcx("animate", "--data", data, "--output", output, "--heatmap")
    assert (done.code, "2 of 21 values are not finite" in done.err) == (0, True)
    pictures, _ = frames(output)
    pale = [count(picture, "#eeeef1") for picture in pictures]
    assert min(pale[3], pale[4]) > 2 * max(pale[k] for k in (0, 1, 2, 5, 6))


def test_the_same_command_gives_the_same_pixels_and_its_provenance_is_inside(
    mcx: Callable, data: Path
) -> None:
    outputs = [data.with_name(f"{name}.gif") for name in "ab"]
    for output in outputs:
        assert mcx("animate", "--data", data, "--output", output, "--heatmap").code == 0
    first, second = (frames(output)[0] for output in outputs)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    with Image.open(outputs[0]) as film, Image.open(data.with_name("a_heatmap.png")) as still:
        told = json.loads(film.info["comment"])
        assert told == json.loads(still.info["mcx"])
    assert (told["command"], told["settings"]["output"]) == ("mcx animate", str(outputs[0]))


def test_files_of_the_same_command_stay_and_others_are_not_replaced(mcx: Callable, data: Path) -> None:
    output = data.with_name("x.gif")
    words = ("animate", "--data", data, "--output", output)
    assert mcx(*words).code == 0
    before = output.read_bytes()
    again = mcx(*words, "--heatmap")
    assert (again.code, f"already complete: {output}" in again.err) == (0, True)
    assert (output.read_bytes(), data.with_name("x_heatmap.png").exists()) == (before, True)
    moved = output.rename(data.with_name("y.gif"))
    assert "already complete" in mcx("animate", "--data", data, "--output", moved).err
    for other in (("--metric", "relative"), ("--max-frames", "3"), ("--fps", "5")):
        done = mcx("animate", "--data", data, "--output", moved, *other)
        assert (done.code, "use --overwrite" in done.err) == (5, True)
    assert moved.read_bytes() == before
    assert mcx("animate", "--data", data, "--output", moved, "--max-frames", "3", "--overwrite").code == 0
    assert len(frames(moved)[0]) == 3


def test_i4_thousands_of_layers_and_one_position_are_drawn(mcx: Callable, data: Path) -> None:
    many = np.array([f"block{k}.conv" for k in range(2000)])
    kinds = np.full(2000, "conv")
    np.savez(data, layer_names=many, layer_types=kinds, t_values=[0.5], raw_l2=np.ones((1, 2000)))
    output = data.with_name("x.gif")
    assert mcx("animate", "--data", data, "--output", output, "--metric", "raw_l2", "--heatmap").code == 0
    ((picture,), _) = frames(output)
    assert count(picture, "#009E73") > 100_000, "the bars leave no gap"


@pytest.mark.parametrize("kind", ["pdf", "svg"])
def test_a_heat_map_in_another_format_is_told_from_a_strangers(mcx: Callable, data: Path, kind: str) -> None:
    output, still = data.with_name("x.gif"), data.with_name(f"x_heatmap.{kind}")
    words = ("animate", "--data", data, "--output", output, "--heatmap", "--figure-format", kind)
    done = mcx(*words, "--json")
    assert (done.code, json.loads(done.out)["heatmap"]) == (0, str(still))
    before = still.read_bytes()
    assert f"already complete: {still}" in mcx(*words).err
    assert still.read_bytes() == before
    assert f"already complete: {still}" not in mcx(*words, "--dpi", "70").err
    still.write_bytes(b"%PDF-1.4 of someone else")
    assert "use --overwrite" in mcx(*words).err


def moving(count: int) -> Iterator[Image.Image]:
    """Frames of one palette, of which the third is as the second."""
    palette = Image.new("P", (1, 1))
    palette.putpalette([255, 255, 255, 0, 0, 0, 200, 0, 0])
    for k in range(count):
        picture = Image.new("RGB", (60, 40), "white")
        ImageDraw.Draw(picture).rectangle((5 * max(k, 2), 10, 5 * max(k, 2) + 8, 30), (200, 0, 0))
        yield picture.quantize(palette=palette, dither=Image.Dither.NONE)


def test_frames_that_are_written_one_by_one_are_those_of_pillow(tmp_path: Path) -> None:
    out, first = io.BytesIO(), [*moving(9)][2:]
    bars.write_gif(out, iter(first), 70, "of mine")
    (tmp_path / "ours.gif").write_bytes(out.getvalue())
    first[0].save(tmp_path / "pillow.gif", save_all=True, append_images=first[1:], duration=70, loop=0)
    (ours, lasting), (theirs, also) = (frames(tmp_path / name) for name in ("ours.gif", "pillow.gif"))
    assert (len(ours), lasting) == (7, [70] * 7) == (len(theirs), also)
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    with Image.open(tmp_path / "ours.gif") as film:
        assert (film.info["loop"], film.info["comment"]) == (0, b"of mine")


def test_equal_neighbours_stay_two_frames(tmp_path: Path) -> None:
    out = io.BytesIO()
    bars.write_gif(out, moving(4), 70, "")
    (tmp_path / "ours.gif").write_bytes(out.getvalue())
    pictures, lasting = frames(tmp_path / "ours.gif")
    assert lasting == [70] * 4
    assert [np.array_equal(pictures[0], each) for each in pictures] == [True, True, True, False]


def test_however_many_frames_there_are_only_the_last_ones_are_held(
    mcx: Callable, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, drawn, held = Image.Image.quantize, list[weakref.ref[Image.Image]](), list[int]()

    def quantize(picture: Image.Image, *how: object, **more: object) -> Image.Image:
        held.append(sum(each() is not None for each in drawn))
        found = plain(picture, *how, **more)  # type: ignore[arg-type]
        drawn.append(weakref.ref(found))
        return found

    monkeypatch.setattr(Image.Image, "quantize", quantize)
    for count in (6, 12, 24):
        drawn.clear(), held.clear()
        t = np.linspace(0, 1, count)
        arrays = {**np.load(data), "t_values": t, "normalized_l2": np.stack([t, 1 - t, t * t], axis=1)}
        np.savez(data, **{name: arrays[name] for name in arrays if name != "relative"})
        output = data.with_name(f"{count}.gif")
        assert mcx("animate", "--data", data, "--output", output).code == 0
        assert len(frames(output)[0]) == count
        assert (len(held), max(held) <= 3) == (count + 1, True), (
            "the palette's, the last one and the one before"
        )
