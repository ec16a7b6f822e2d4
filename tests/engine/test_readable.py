"""What is said of arrays that NumPy refuses: what is wrong with the file, and never to trust it."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import arrays

OBJECTS = "it holds Python objects, which are never loaded"


def npy(path: Path, values: np.ndarray) -> bytes:
    np.save(path, values, allow_pickle=True)
    return path.read_bytes()


def bad(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Broken files by name, with what is said of each."""
    good, objects = npy(folder / "x.npy", np.ones(9)), npy(folder / "x.npy", np.array([{}], dtype=object))
    np.savez(folder / "x.npz", a=np.ones(3), b=np.array([{}], dtype=object))
    archive = (folder / "x.npz").read_bytes()
    with zipfile.ZipFile(folder / "y.npz", "w") as file:
        file.writestr("a.npy", pickle.dumps([1]))
    foreign = (folder / "y.npz").read_bytes()
    return {
        "objects.npy": (objects, "holds Python objects, which are never loaded"),
        "pickle.npy": (pickle.dumps([1, 2]), "it does not begin as one"),
        "empty.npy": (b"", "it ends too early"),
        "cut.npy": (good[:60], "it ends too early"),
        "long.npy": (good[:8] + b"\xff\xff" + b" " * 65535, "its header is too long for an array"),
        "version.npy": (good[:6] + b"\x09\x00" + good[8:], "its version is 9, expected 1 or 2"),
        "keys.npy": (good.replace(b"'descr'", b"'desxr'"), "its header is not that of an array"),
        "objects.npz": (archive, OBJECTS),
        "cut.npz": (archive[: len(archive) // 2], "it is no zip archive, or ends too early"),
        "text.npz": (b"hello", "it is no zip archive, or ends too early"),
        "foreign.npz": (foreign, "'a' in it is no array"),
    }


def test_what_is_wrong_is_said_and_never_to_trust_a_file(tmp_path: Path) -> None:
    for name, (content, said) in bad(tmp_path).items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            arrays.read_npz(path) if path.suffix == ".npz" else arrays.read(path)
        assert said in caught.value.message, name
        for word in ("allow_pickle", "trust", "unsafe", "max_header_size", "\n"):
            assert word not in caught.value.message + caught.value.hint, name
    with pytest.raises(InputError, match="does not exist"):
        arrays.read(tmp_path / "absent.npy")
