"""Every format that is read: a small whole file, its reader, and changes of its structure with right checksums."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save as save_safetensors
from torch import nn

from attacks import archives
from modeconn_cli.cli import config
from modeconn_cli.engine import symmetry
from modeconn_cli.engine.commands.animate import layers
from modeconn_cli.engine.commands.correlate import class_names, further
from modeconn_cli.engine.commands.lmc import pairs
from modeconn_cli.engine.datasets import images, npz, stored
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints, graph
from modeconn_cli.engine.networks.checkpoints import About
from modeconn_cli.engine.paths import file as curves
from modeconn_cli.engine.results import arrays, manifest, memo_scores, records, tracking_file
from modeconn_cli.engine.results.listing import Listing
from modeconn_cli.engine.samples import foreign
from modeconn_cli.engine.settings.csl import CslAggregateSettings
from modeconn_cli.engine.settings.curve import CurveTrainSettings
from modeconn_cli.engine.settings.shared import ModelSettings
from modeconn_cli.engine.symmetry import files as permutations

Structure = Callable[[bytes, random.Random], bytes]
RNG = np.random.default_rng(0)
WEIGHTS = {
    "0.weight": torch.arange(24.0).reshape(6, 4) / 7,
    "0.bias": torch.arange(6.0),
    "2.weight": torch.ones(3, 6),
}


@dataclass(frozen=True)
class Format:
    """`write` makes a file in a folder, `read` its value, `structure` changes its bytes and mends its checksums.

    `checksums`: a changed file that is read gives what the whole one does. What is changed is `part` of the file, where
    that is a folder.
    """

    name: str
    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    checksums: bool = False
    text: bool = False
    structure: Structure | None = None
    part: str = ""

    def place(self, path: Path) -> Path:
        return path / self.part if self.part else path


# What is written ------------------------------------------------------------------------------------------


def _bytes(name: str, make: Callable[[], bytes]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make())
        return path

    return write


def _saved(content: Any, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def _npz(compressed: bool = False, **values: Any) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **values)
    return buffer.getvalue()


def _npy(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def _json(document: Any) -> bytes:
    return json.dumps(document, indent=1).encode()


def _network() -> dict[str, Any]:
    about = About(model="mlp", num_classes=3, input_shape=(1, 2, 2), seed=1, wd=0.0, schedule_epochs=3)
    return checkpoints.content(3, {checkpoints.STATE: WEIGHTS}, about)


def _curve() -> dict[str, Any]:
    points = [{name: tensor + k for name, tensor in WEIGHTS.items()} for k in range(3)]
    about = About(model="mlp", num_classes=3, input_shape=(1, 2, 2))
    return checkpoints.content(
        3,
        {"control_points": points, "buffers": {}, "extra_state": {}, "curve": "bezier", "num_bends": 3},
        about,
    )


def _data() -> dict[str, Any]:
    images_ = RNG.integers(0, 255, (6, 1, 4, 4)).astype(np.uint8)
    split = np.array(["train"] * 4 + ["test"] * 2)
    return {
        "images": images_,
        "labels": np.arange(6) % 3,
        "sample_ids": np.arange(6)[::-1] * 5,
        "split": split,
    }


def _tracking() -> dict[str, np.ndarray]:
    ids = np.tile(np.arange(5), 3)
    return {
        "sample_id": ids,
        "class_id": ids % 2,
        "epoch_num": np.repeat([1, 2, 3], 5),
        "memo_score": ids / 7,
    }


def _csv(columns: Mapping[str, Any]) -> bytes:
    rows = zip(*(np.asarray(each).tolist() for each in columns.values()), strict=True)
    return "\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows), ""]).encode()


def _image(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 255, (9, 7, 3)).astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


_LINE = {
    "alphas": [0.0, 0.5, 1.0],
    **{f"{a}_{b}": [0.1, 0.4, 0.2] for a in ("losses", "accuracy_lst") for b in ("train", "test")},
}


def _index(folder: Path) -> Path:
    path = folder / "model.safetensors.index.json"
    (folder / "a.safetensors").write_bytes(save_safetensors({"0.weight": WEIGHTS["0.weight"]}))
    (folder / "b.safetensors").write_bytes(save_safetensors({"0.bias": WEIGHTS["0.bias"]}))
    path.write_bytes(
        _json({"metadata": {}, "weight_map": {"0.weight": "a.safetensors", "0.bias": "b.safetensors"}})
    )
    return path


# What is read ----------------------------------------------------------------------------------------------


def _checkpoint(path: Path) -> Any:
    found = checkpoints.read(path)
    return dict(sorted(found.state.items())), found.epoch


def _samples(path: Path) -> Any:
    source = npz.read(path)
    parts = (source.train, source.test)
    images = stored.read([part.images for part in parts])  # type: ignore[misc]
    return [[each.images, part.labels, part.ids] for each, part in zip(images, parts, strict=True)]


@cache
def _symmetry() -> Any:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    return symmetry.find(graph.trace(model, (4,)))


def _orders(path: Path) -> Any:
    return sorted(permutations.orders_to_first(path, _symmetry()).values())


def _open_curve(path: Path) -> Any:
    found = curves.read(path, ModelSettings(), Runtime())
    return found.points, found.kind


def _configured(path: Path) -> Any:
    values, _, _ = config.resolve(CurveTrainSettings, "curve train", {}, path)
    return CurveTrainSettings(**values, checked=True).as_plain()


def _table(path: Path) -> Any:
    found = tracking_file.read(path)
    return {name: found[name].to_numpy() for name in found} | {"ids": found.index.to_numpy()}


def _flags(path: Path) -> Any:
    return further.flags(path, (), True, Listing()).table.to_numpy()


def _memo(path: Path) -> Any:
    return memo_scores.read(path, assume=False)[0].to_numpy()


def _picture(path: Path) -> Any:
    images.common_size([path])
    found = images.ImageFiles((path,), (4, 4)).decoded(0)
    if isinstance(found, images._Refused):
        raise InputError(str(found))
    return np.asarray(found)


def _distances(path: Path) -> Any:
    found = layers.read(path, "raw_distances")
    return found.names, found.values


# How structures are changed ---------------------------------------------------------------------------------

HOSTILE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    5,
    2**31,
    2**63,
    10**400,
    1e308,
    float("inf"),
    float("nan"),
    0.5,
    "",
    "5",
    "x" * 300,
    "\ud800",
    "\x00",
    "../a",
    [],
    {},
    [[]],
    [None],
    {"a": {}},
    [1, 2, 3],
    "mirror",
)


def _replaced(value: Any, rng: random.Random) -> Any:
    """A value with one of its parts replaced, removed or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        out, key = dict(value), rng.choice(list(value))
        kind = rng.randrange(8)
        if kind == 0:
            del out[key]
        elif kind == 1:
            out[rng.choice(("x", "schema", "mcx", "epoch", ""))] = rng.choice(HOSTILE)
        else:
            out[key] = _replaced(value[key], rng)
        return out
    if isinstance(value, list | tuple) and value and rng.random() < 0.85:
        out_, k = list(value), rng.randrange(len(value))
        out_[k] = _replaced(value[k], rng)
        return out_ if rng.random() < 0.9 else out_ * rng.choice((0, 2, 50))
    return rng.choice(HOSTILE)


def _of_json(whole: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.1:
        return rng.choice(
            (
                b"[" * 100_000,
                b'{"a":' * 100_000,
                b'{"a": 1e999}',
                b"{}",
                b"[]",
                b"7",
                b'"x"',
                b'{"a": ' + b"9" * 400 + b"}",
            )
        )
    return json.dumps(_replaced(json.loads(whole), rng)).encode()


def _of_yaml(whole: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.1:
        return b"lr: " + rng.choice(
            (b"9" * 4000, b"1e999", b"&a [*a]", b"!!python/name:os.system", b"[" * 5000)
        )
    value = _replaced(yaml.safe_load(whole), rng)
    text = json.dumps(value) if rng.random() < 0.5 else yaml.safe_dump(value)
    return text.encode("utf-8", "replace")


def _tensor(rng: random.Random) -> Any:
    return rng.choice(
        (
            torch.zeros(0),
            torch.tensor(float("nan")),
            torch.ones(2, dtype=torch.bool),
            torch.ones(1).expand(10**5, 10**5),
            torch.ones(2, 2).to_sparse(),
            torch.ones(2, dtype=torch.complex64),
            torch.empty(2, device="meta"),
            torch.ones(3),
        )
    )


def _content(make: Callable[[], dict[str, Any]], legacy: bool) -> Structure:
    def structure(_: bytes, rng: random.Random) -> bytes:
        content = make()
        for _ in range(rng.choice((1, 1, 3))):
            inside = content
            while isinstance(inside, dict) and inside:
                key = rng.choice(list(inside))
                below = inside[key]
                if isinstance(below, dict) and below and rng.random() < 0.7:
                    inside[key] = inside = dict(below)
                    continue
                inside[key] = (
                    _tensor(rng)
                    if isinstance(below, torch.Tensor) and rng.random() < 0.7
                    else _replaced(below, rng)
                )
                break
        try:
            return _saved(content, legacy=legacy)
        except (RuntimeError, ValueError, TypeError, OverflowError, NotImplementedError, AttributeError):
            return _saved({}, legacy=legacy)  # torch refuses some of them itself

    return structure


def _zip_members(whole: bytes, rng: random.Random) -> bytes:
    """One member changed, all checksums right again."""
    from attacks.fuzz import changed

    def change(members: dict[str, bytes]) -> dict[str, bytes]:
        name = rng.choice(list(members))
        kind = rng.randrange(6)
        if kind == 0:
            return {each: data for each, data in members.items() if each != name}
        if kind == 1:
            return {**members, f"{name}x": members[name]}
        return {**members, name: changed(members[name], rng, text=False)}

    data = archives.rewritten(whole, change)
    if rng.random() < 0.1:
        data = archives.zipped(archives.members_of(data), rng.choice((8, 12, 14)))
    return data


HEADERS = (
    "{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -6), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (6,), }",
    "{'descr': '<U5', 'fortran_order': False, 'shape': (6,), }",
    "{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (6,), }",
    "{'descr': [('a', '<f4'), ('b', '|O')], 'fortran_order': False, 'shape': (6,), }",
    "{'descr': [('a', '<f4')], 'fortran_order': True, 'shape': (6,), }",
    "{'descr': '<f8', 'fortran_order': 5, 'shape': 6, }",
    "{'descr': '<V0', 'fortran_order': False, 'shape': (6,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 0, 99999999999999999999), }",
    "(" * 5000,
    "__import__('os').system('true')",
    "{'descr': '<c16', 'fortran_order': False, 'shape': (), }",
    "{'descr': '<f2', 'fortran_order': False, 'shape': (6, 1), }",
)
VALUES: tuple[Any, ...] = (
    np.array([0.5, 1, 2, 3, 4, 5]),
    np.array([2**63] * 6, np.uint64),
    np.array([np.nan] * 6),
    np.arange(6) - 3,
    np.array(["a"] * 6),
    np.array([b"train"] * 6),
    np.eye(6),
    np.eye(6) / 2,
    np.zeros((6, 0)),
    np.float32(3),
    np.zeros(0),
    np.array([{}] * 6, dtype=object),
    np.arange(6).astype("M8[s]"),
    np.zeros(6, "c8"),
    np.zeros((6, 1, 0, 0), np.uint8),
    np.zeros((6, 3), bool),
    np.zeros(6, [("a", "f4")]),
    np.zeros((1,) * 30),
    np.array(["\U0010ffff"] * 6),
    np.longdouble(2) ** 70,
)


def _header(text: str, body: bytes) -> bytes:
    head = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", min(len(head), 65535)) + head + body


def _array(rng: random.Random) -> bytes:
    return (
        _header(rng.choice(HEADERS), rng.randbytes(rng.choice((0, 24, 48, 1000))))
        if rng.random() < 0.6
        else _npy_any(rng.choice(VALUES))
    )


def _npy_any(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)
    return buffer.getvalue()


def _of_npy(_: bytes, rng: random.Random) -> bytes:
    return _array(rng)


def _of_npz(whole: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return _zip_members(whole, rng)
    members = archives.members_of(whole)
    name = rng.choice(list(members))
    return archives.zipped({**members, name: _array(rng)}, rng.choice((0, 0, 8)))


def _of_safetensors(whole: bytes, rng: random.Random) -> bytes:
    size = int.from_bytes(whole[:8], "little")
    header = json.dumps(_replaced(json.loads(whole[8 : 8 + size]), rng)).encode()
    return (
        struct.pack("<Q", rng.choice((len(header), len(header), len(header), 2**63, 0)))
        + header
        + whole[8 + size :]
    )


def _of_legacy(whole: bytes, rng: random.Random) -> bytes:
    """Pickles of other content, among them ones that call."""
    from attacks import pickles

    opcodes = rng.choice(
        (
            pickles.called("posix.system", pickles.value("true")),
            pickles.called("builtins.eval", pickles.value("1")),
            pickles.tensor_of(10**12, (10**12,), (1,), legacy=True),
            pickles.value([[]] * 9),
            pickle.dumps({}, 4)[2:-1],
        )
    )
    parts = [
        pickle.dumps(part, protocol=2) for part in (pickles.MAGIC, pickles.VERSION, {"little_endian": True})
    ]
    return b"".join(parts) + pickles.entry(opcodes) + pickle.dumps([], protocol=2)


_SWAP = {"layer_name": "0", "neuron_pairs": [[0, 1], [2, 5]], "mode": "pairs", "seed": 3}
_ANIMATED = {
    "layer_names": np.array(["a", "b"]),
    "layer_types": np.array(["conv", "fc"]),
    "t_values": np.linspace(0, 1, 5),
    "raw_distances": RNG.random((5, 2)),
    "swapped_layer_name": np.array("a"),
}
_CONFIG = (
    b"curve: bezier\nepochs: 5\nlr: 0.1\nbatch_size: 64\nendpoint0: a.pt\nendpoint1: b.pt\noutput_dir: o"
)
_MANIFEST = {"schema": "mcx.manifest/1", "files": [{"file": "a.npy", "size": 3, "sha256": "0" * 64}]}
_PAIR = {"schema": "mcx.lmc_pair/1", "dataset": "digits", "k1": 1, "k2": 2, "distance": 3.0, **_LINE}


def _foreign(path: Path) -> Any:
    """What a file of another tool gives; beside probabilities lie their labels."""
    paths = [path.with_name("labels.npy"), path] if path.name == "pred_probs.npy" else [path]
    kind, looks = foreign.recognised(paths)
    settings = CslAggregateSettings(assume_index=True, checked=True)
    source = kind.read(looks, foreign.Told(settings, Runtime(), path.parent, None))
    return source.ids, source.labels, source.known, list(source.begin()), source.probs and source.probs()


def _probabilities(folder: Path) -> Path:
    (folder / "labels.npy").write_bytes(_npy(np.arange(6) % 3))
    return _bytes("pred_probs.npy", lambda: _npy(np.full((6, 3), 1 / 3, np.float32)))(folder)


def _records() -> dict[str, Any]:
    target, other = RNG.random(12).astype(np.float32), RNG.random(12).astype(np.float32)
    return {
        "sample_id": np.repeat([3, 5, 8, 9], 3), "num_measurements": np.tile([1, 2, 3], 4),
        "target_logit": np.repeat([0, 1, 1, 0], 3), "target_val": target,
        "other_logit": np.repeat([1, 0, 0, 1], 3), "other_val": other,
        "margin": target - other, "aum": target - other,
    }  # fmt: skip


def _lines(*objects: dict[str, Any]) -> bytes:
    return "".join(json.dumps(each) + "\n" for each in objects).encode()


_DYNAMICS = [{"guid": k * 3, "logits_epoch_2": [0.5 * k, -1.0, 2.0], "gold": k % 3} for k in range(5)]
_TD = {
    "threshold_closeness": 0.1,
    "confidence": 0.5,
    "variability": 0.2,
    "correctness": 3,
    "forgetfulness": 1,
}

FORMATS: tuple[Format, ...] = (
    Format(
        "pt",
        _bytes("checkpoint-3.pt", lambda: _saved(_network())),
        _checkpoint,
        True,
        structure=_content(_network, False),
    ),
    Format(
        "pt members", _bytes("a.pt", lambda: _saved(_network())), _checkpoint, True, structure=_zip_members
    ),
    Format(
        "pt of the old form",
        _bytes("a.pt", lambda: _saved(_network(), legacy=True)),
        _checkpoint,
        structure=_content(_network, True),
    ),
    Format(
        "pt by hand",
        _bytes("a.pt", lambda: _saved(_network(), legacy=True)),
        _checkpoint,
        structure=_of_legacy,
    ),
    Format(
        "safetensors",
        _bytes("a.safetensors", lambda: save_safetensors(WEIGHTS)),
        _checkpoint,
        structure=_of_safetensors,
    ),
    Format("shards", _index, _checkpoint, text=True, structure=_of_json),
    Format(
        "curve",
        _bytes("a.pt", lambda: _saved(_curve())),
        _open_curve,
        True,
        structure=_content(_curve, False),
    ),
    Format("npz", _bytes("a.npz", lambda: _npz(**_data())), _samples, True, structure=_of_npz),
    Format(
        "npz compressed", _bytes("a.npz", lambda: _npz(True, **_data())), _samples, True, structure=_of_npz
    ),
    Format(
        "npy",
        _bytes("a.npy", lambda: _npy(RNG.random(9).astype(np.float32))),
        lambda p: np.array(arrays.read(p)),
        structure=_of_npy,
    ),
    Format("ids", _bytes("ids.npy", lambda: _npy(np.arange(9))), arrays.read_ids, structure=_of_npy),
    Format(
        "record",
        _bytes("a.json", lambda: _json({"schema": "mcx.l2/1", "distance": 0.5, "layers": [1, 2]})),
        records.read_object,
        text=True,
        structure=_of_json,
    ),
    Format(
        "manifest",
        _bytes(".mcx/manifest.json", lambda: _json(_MANIFEST)),
        lambda p: manifest.read(p.parent),
        text=True,
        structure=_of_json,
    ),
    Format(
        "pair",
        _bytes("a.json", lambda: _json(_PAIR)),
        lambda p: pairs.read(p).result,
        text=True,
        structure=_of_json,
    ),
    Format("swap metadata", _bytes("a.json", lambda: _json(_SWAP)), _orders, text=True, structure=_of_json),
    Format(
        "permutation",
        _bytes("a.npz", lambda: _npz(**{"0": np.arange(6)[::-1]})),
        _orders,
        True,
        structure=_of_npz,
    ),
    Format("tracking csv", _bytes("a.csv", lambda: _csv(_tracking())), _table, text=True),
    Format("tracking npz", _bytes("a.npz", lambda: _npz(**_tracking())), _table, True, structure=_of_npz),
    Format(
        "flags",
        _bytes("a.csv", lambda: _csv({"sample_id": range(9), "flag": [0, 1, 0] * 3})),
        _flags,
        text=True,
    ),
    Format(
        "class names json",
        _bytes("a.json", lambda: _json({"0": "cat", "1": "dog"})),
        class_names.read,
        text=True,
        structure=_of_json,
    ),
    Format(
        "class names yaml",
        _bytes("a.yaml", lambda: b"0: cat\n1: dog\n"),
        class_names.read,
        text=True,
        structure=_of_yaml,
    ),
    Format(
        "class names csv",
        _bytes("a.csv", lambda: b"class_id,class_name\n0,cat\n1,dog\n"),
        class_names.read,
        text=True,
    ),
    Format(
        "memo csv",
        _bytes("a.csv", lambda: _csv({"sample_id": range(9), "memo_score": np.arange(9) / 9})),
        _memo,
        text=True,
    ),
    Format(
        "memo npz",
        _bytes("a.npz", lambda: _npz(tr_idx=np.arange(9), tr_mem=np.arange(9) / 9)),
        _memo,
        True,
        structure=_of_npz,
    ),
    Format("aum records", _bytes("a.csv", lambda: _csv(_records())), _foreign, text=True),
    Format(
        "aum values",
        _bytes("a.csv", lambda: _csv({"sample_id": range(9), "aum": range(9)})),
        _foreign,
        text=True,
    ),
    Format("cartography dynamics", _bytes("a.jsonl", lambda: _lines(*_DYNAMICS)), _foreign, text=True),
    Format(
        "cartography metrics",
        _bytes("a.jsonl", lambda: _lines(*({"guid": k, "index": k, **_TD, "epochs": 4} for k in range(5)))),
        _foreign,
        text=True,
    ),
    Format("probabilities", _probabilities, _foreign, structure=_of_npy),
    Format("distances", _bytes("a.npz", lambda: _npz(**_ANIMATED)), _distances, True, structure=_of_npz),
    Format("config", _bytes("a.yaml", lambda: _CONFIG), _configured, text=True, structure=_of_yaml),
    *(
        Format(kind, _bytes(f"a.{kind}", lambda kind=kind: _image(kind)), _picture)
        for kind in ("png", "jpeg", "bmp", "gif", "tiff", "webp", "ppm")
    ),
)
