"""Every layout of checkpoints that is read, and what is said about those that are not."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import json
import pathlib
import pickle
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints, weights
from modeconn_cli.engine.networks.checkpoints import epochs
from modeconn_cli.engine.results.records import InputFile
from modeconn_cli.engine.settings.scoring import RunFolderSettings

STATE = {"conv.weight": torch.arange(8.0).reshape(2, 1, 2, 2), "conv.bias": torch.tensor([0.5, -0.5])}


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in STATE.items()}


def saved(path: Path, content: Any) -> Path:
    with path.open("wb") as stream:
        torch.save(content, stream)
    return path


def read(folder: Path, content: Any, **words: Any) -> checkpoints.Checkpoint:
    return checkpoints.read(saved(folder / "a.pt", content), **words)


def refusal(call: Callable[[], Any]) -> InputError:
    with pytest.raises(InputError) as caught:
        call()
    return caught.value


def same(found: dict[str, Tensor], expected: dict[str, Tensor] = STATE) -> bool:
    return list(found) == list(expected) and all(torch.equal(found[n], expected[n]) for n in expected)


LIGHTNING = {"pytorch-lightning_version": "2.4.0", "global_step": 10}
LAYOUTS: dict[str, tuple[Any, str, str]] = {
    "garipov": ({"epoch": 3, "model_state": STATE, "optimizer_state": {}}, "model_state", ""),
    "swapped": ({"model_state": STATE, "swap_metadata": {"seed": 42}}, "model_state", ""),
    "open_lth": ({"model_state_dict": STATE, "optimizer_state_dict": {}}, "model_state_dict", ""),
    "torchvision": ({"state_dict": STATE, "arch": "vgg16"}, "state_dict", ""),
    "lightning": ({"state_dict": prefixed("model."), **LIGHTNING}, "state_dict", "model."),
    "lightning net": ({"state_dict": prefixed("net."), **LIGHTNING}, "state_dict", "net."),
    "model": ({"model": STATE, "epoch": 1}, "model", ""),
    "net": ({"net": STATE, "acc": 91.5}, "net", ""),
    "model_weights": ({"model_weights": STATE, "optim_state": {}}, "model_weights", ""),
    "another name": ({"weights": STATE, "note": "x"}, "weights", ""),
    "bare": (STATE, "bare", ""),
    "ordered": (OrderedDict(STATE), "bare", ""),
    "parallel": (prefixed("module."), "bare", "module."),
    "compiled": ({"model": prefixed("_orig_mod.")}, "model", "_orig_mod."),
    "both": ({"model_state": prefixed("module._orig_mod.")}, "model_state", "module._orig_mod."),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_b8_every_layout_gives_the_same_weights(tmp_path: Path, name: str) -> None:
    content, layout, prefix = LAYOUTS[name]
    found = read(tmp_path, content)
    assert (found.layout, found.prefix) == (layout, prefix)
    assert same(found.state)


def test_a_model_of_ones_own_keeps_a_prefix_that_is_its_own(tmp_path: Path) -> None:
    assert same(read(tmp_path, {"state_dict": prefixed("model.")}).state, prefixed("model."))


def test_parameters_with_gradients_are_read_as_plain_tensors(tmp_path: Path) -> None:
    found = read(tmp_path, dict(nn.Linear(2, 2).named_parameters()))
    assert [t.requires_grad for t in found.state.values()] == [False, False]


def test_b8_safetensors_are_read_by_content_and_by_name(tmp_path: Path) -> None:
    data = safetensors.torch.save(STATE)
    for name in ("a.safetensors", "a.bin"):
        (tmp_path / name).write_bytes(data)
        assert same(checkpoints.read(tmp_path / name).state, dict(sorted(STATE.items())))


def test_b8_an_index_joins_the_shards_beside_it(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    places = {}
    for k, (name, tensor) in enumerate(STATE.items()):
        safetensors.torch.save_file({name: tensor}, tmp_path / f"model-{k}.safetensors")
        places[name] = f"model-{k}.safetensors"
    index.write_text(json.dumps({"weight_map": places}))
    assert same(checkpoints.read(index).state)
    index.write_text(json.dumps({"weight_map": {"w": "../other.safetensors"}}))
    assert (
        "names '../other.safetensors', which is no file beside it"
        in refusal(lambda: checkpoints.read(index)).message
    )


def header(entries: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end]}


DAMAGED = {
    "length": (1 << 63).to_bytes(8, "little") + b"{}",
    "short": b"\x08\x00",
    "overlap": header({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
    "hole": header({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)),
    "truncated": header({"a": entry(0, 400)}, bytes(12)),
    "no header": (20).to_bytes(8, "little") + b"x" * 20,
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_b13_damaged_safetensors_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(DAMAGED[kind])
    assert "is not a whole safetensors file" in refusal(lambda: checkpoints.read(path)).message


# What holds the weights -----------------------------------------------------------------------------------


def test_b9_several_candidates_are_listed_and_state_key_chooses(tmp_path: Path) -> None:
    other = {name: 2 * tensor for name, tensor in STATE.items()}
    content = {"generator": STATE, "critic": other, "epoch": 4}
    error = refusal(lambda: read(tmp_path, content))
    assert "several candidates for the weights: 'generator', 'critic'" in error.message
    assert "--state-key" in error.hint
    assert same(read(tmp_path, content, state_key="critic").state, other)


def test_a_standard_name_is_taken_and_others_of_the_same_names_are_said(tmp_path: Path) -> None:
    content = {"model": STATE, "ema": {name: 2 * tensor for name, tensor in STATE.items()}, "epoch": 4}
    found = read(tmp_path, content)
    assert same(found.state)
    assert any("--state-key" in remark and "ema" in remark for remark in found.remarks)
    assert same(read(tmp_path, content, state_key="ema").state, content["ema"])


OTHERS: dict[str, dict[str, Any]] = {
    "weights of classes": {"class_weights": {"w": torch.ones(10)}},
    "sums of losses": {"losses": {"train": torch.ones(3), "val": torch.zeros(3)}, "acc": 91.5},
    "an optimizer": {"optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": []}},
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("inside", [{}, {"version": 2, "tag": None, "acc": 91.5, "mean": [0.5]}])
def test_no_other_entry_is_taken_for_the_weights(tmp_path: Path, other: str, inside: dict[str, Any]) -> None:
    found = read(tmp_path, {**OTHERS[other], "state_dict": {**STATE, **inside}})
    assert (found.layout, same(found.state)) == ("state_dict", True)
    assert any("version" in remark for remark in found.remarks) == bool(inside)
    bare = read(tmp_path, {**STATE, **inside})
    assert (bare.layout, same(bare.state)) == ("bare", True)


def test_a_standard_name_in_another_form_is_not_passed_over(tmp_path: Path) -> None:
    parts = {"encoder": STATE, "head": {"w": torch.ones(2)}}
    content = {"model": parts, "class_weights": {"w": torch.ones(10)}}
    error = refusal(lambda: read(tmp_path, content))
    assert "'model' is no state dict, but holds others: encoder, head" in error.message
    assert error.hint == "pass --state-key model.NAME"
    assert same(read(tmp_path, content, state_key="model.encoder").state)


AMBIGUOUS: dict[str, dict[Any, Any]] = {
    "a dictionary beside bare tensors": {**STATE, "class_weights": {"w": torch.ones(10)}},
    "their averages beside bare tensors": {**STATE, "ema": STATE, "epoch": 3},
    "one deeper than another": {"my_net": {"layers": STATE}, "norm_stats": {"mean": torch.ones(3)}},
    "a list of tensors": {"my_net": {"w": [torch.ones(3)]}, "norm_stats": {"mean": torch.ones(3)}},
    "a standard name that is empty": {"state_dict": {}, "norm_stats": {"mean": torch.ones(3)}},
    "a standard name that is nothing": {"model": None, "norm_stats": {"mean": torch.ones(3)}},
    "a standard name that is a list": {"model": [torch.ones(3)], "norm_stats": {"mean": torch.ones(3)}},
    "a standard name far above its tensors": {
        "model": {"a": {"b": {"c": {"d": STATE}}}},
        "stats": {"w": torch.ones(2)},
    },
}


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_a_worse_candidate_is_never_taken(tmp_path: Path, kind: str) -> None:
    assert "--state-key" in refusal(lambda: read(tmp_path, AMBIGUOUS[kind])).hint


def test_the_file_itself_can_be_meant(tmp_path: Path) -> None:
    content = {**STATE, "ema": {name: 2 * tensor for name, tensor in STATE.items()}}
    assert same(read(tmp_path, content, state_key=".").state)
    assert same(read(tmp_path, content, state_key="ema").state, content["ema"])
    beside = {
        **STATE,
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}},
        "lr_schedulers": {"x": torch.ones(1)},
    }
    assert same(read(tmp_path, beside).state)


def test_a_name_that_holds_no_tensors_is_no_candidate(tmp_path: Path) -> None:
    assert read(tmp_path, {"model": {"depth": 18}, "net": STATE}).layout == "net"


def test_what_modules_keep_beside_tensors_is_kept(tmp_path: Path) -> None:
    kept = {"0._extra_state": {"version": torch.tensor(3.0)}, "_extra_state": None}
    for content in ({"model_state": {**STATE, **kept}}, {**STATE, **kept}):
        found = read(tmp_path, content)
        assert (same(found.state), list(found.extra), found.remarks) == (True, list(kept), ())


def test_b9_two_known_names_are_several_candidates(tmp_path: Path) -> None:
    error = refusal(lambda: read(tmp_path, {"model": STATE, "net": STATE}))
    assert "'model', 'net'" in error.message


def test_a_state_key_that_holds_no_weights_is_refused_with_what_is_there(tmp_path: Path) -> None:
    content = {"model_state": STATE, "epoch": 4}
    for key in ("epoch", "other"):
        error = refusal(lambda key=key: read(tmp_path, content, state_key=key))
        assert f"has no state dict under '{key}'" in error.message
        assert error.hint.startswith("entries: model_state, epoch; ")


@pytest.mark.parametrize("content", [{"epoch": 4, "lr": 0.1}, {}, {0: torch.ones(1)}])
def test_b9_a_file_without_weights_is_refused_with_what_is_there(tmp_path: Path, content: Any) -> None:
    error = refusal(lambda: read(tmp_path, content))
    assert "holds no state dict" in error.message
    assert error.hint == f"entries: {', '.join(map(str, content)) or 'nothing'}"


@pytest.mark.parametrize("content", [torch.ones(3), [torch.ones(3)], 5])
def test_a_file_that_is_no_dict_is_refused(tmp_path: Path, content: Any) -> None:
    assert (
        f"holds a {type(content).__name__}, expected a state dict"
        in refusal(lambda: read(tmp_path, content)).message
    )


def test_epochs_come_from_the_file_else_from_its_name(tmp_path: Path) -> None:
    assert (
        checkpoints.read(saved(tmp_path / "checkpoint-7.pt", {"model_state": STATE, "epoch": 5})).epoch == 5
    )
    assert checkpoints.read(saved(tmp_path / "checkpoint-7.pt", STATE)).epoch == 7
    assert checkpoints.read(saved(tmp_path / "a.pt", STATE)).epoch is None


def test_what_mcx_wrote_about_a_network_must_have_the_right_types(tmp_path: Path) -> None:
    about = {"model": "cnn", "num_classes": 10, "input_shape": [1, 8, 8]}
    about |= {"dataset": "digits", "wd": 0.1, "made by": "a later version"}
    again = read(tmp_path, {"model_state": STATE, "mcx": about}).about.entry()
    assert {name: again[name] for name in about} == about
    for wrong in (
        {"model": 5}, {"num_classes": "ten"}, {"input_shape": 8}, {"model_args": [1]}, {"wd": "1"}, {"val_size": [2]},
    ):  # fmt: skip
        error = refusal(lambda wrong=wrong: read(tmp_path, {"model_state": STATE, "mcx": {**about, **wrong}}))
        assert f"what it says about itself is damaged ('{next(iter(wrong))}' is " in error.message


# Numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_b11_values_that_are_not_finite_are_refused_with_their_layers(tmp_path: Path, bad: float) -> None:
    content = {"a": torch.ones(3), "b": torch.tensor([1.0, bad]), "c": torch.full((2,), bad)}
    error = refusal(lambda: read(tmp_path, content))
    assert "holds NaN or infinity in 2 of 3 tensors: b, c" in error.message
    assert error.hint == "pass --allow-nonfinite to use it all the same"
    assert len(read(tmp_path, content, allow_nonfinite=True).state) == 3


def test_a_mask_may_bar_entries(tmp_path: Path) -> None:
    barred = torch.full((3,), -torch.inf)
    content = {"state_dict": {"w": torch.ones(3), "causal_mask": barred}}
    assert len(read(tmp_path, content).state) == 2
    recorded = {"model_state": {"w": torch.ones(3), "barred": barred}, "mcx": {"buffers": ["barred"]}}
    assert len(read(tmp_path, recorded).state) == 2
    for name, value in (("running_mean", -torch.inf), ("causal_mask", torch.inf), ("causal_mask", torch.nan)):
        bad = {"w": torch.ones(3), name: torch.full((3,), value)}
        error = refusal(lambda bad=bad: read(tmp_path, bad))
        assert f"in 1 of 2 tensors: {name}" in error.message


def test_the_only_optimizer_of_a_list_is_taken(tmp_path: Path) -> None:
    state = {"state": {}, "param_groups": [{"params": [0]}]}
    for states, expected in (([state], state), ([state, state], None)):
        content = {"state_dict": {"w": torch.ones(3)}, "optimizer_states": states}
        assert read(tmp_path, content).optimizer_state == expected


def test_b11_zeros_and_denormals_are_finite(tmp_path: Path) -> None:
    assert len(read(tmp_path, {"a": torch.zeros(3), "b": torch.full((2,), 1e-45)}).state) == 2


KINDS = {
    "half": torch.ones(3, dtype=torch.float16),
    "bfloat": torch.ones(3, dtype=torch.bfloat16),
    "double": torch.ones(3, dtype=torch.float64) / 3,
    "eight bits": torch.ones(3, dtype=torch.float8_e4m3fn),
    "complex": torch.tensor([1 + 2j, -3j], dtype=torch.complex128),
    "counter": torch.tensor(7),
    "flags": torch.tensor([True, False]),
    "no axes": torch.tensor(0.5),
    "empty": torch.ones(0, 3),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "part of a larger one": torch.arange(100.0)[10:13],
    "repeated": torch.ones(1).expand(5),
    "channels last": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("kind", KINDS)
def test_b12_tensors_keep_their_type_shape_and_values(tmp_path: Path, kind: str) -> None:
    tensor = KINDS[kind]
    found = read(tmp_path, {"x": tensor}).state["x"]
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert torch.equal(found.to(torch.cdouble), tensor.to(torch.cdouble))
    bad = torch.tensor([1, complex(0, float("nan"))])
    assert "NaN or infinity in 1 of 2" in refusal(lambda: read(tmp_path, {"x": tensor, "y": bad})).message


def test_b12_tied_tensors_are_both_there(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    found = read(tmp_path, {"encoder": shared, "decoder": shared}).state
    assert torch.equal(found["encoder"], shared)
    assert torch.equal(found["decoder"], shared)
    assert weights.count(found) == 12


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.ones(2, device="meta"), "x is a meta tensor without values"),
        (torch.eye(2).to_sparse(), "x is a sparse tensor, expected dense ones"),
    ],
    ids=["meta", "sparse"],
)
def test_b12_tensors_without_values_are_refused(tmp_path: Path, tensor: Tensor, words: str) -> None:
    assert words in refusal(lambda: read(tmp_path, {"x": tensor})).message


def test_tensors_saved_on_another_device_are_read_on_the_cpu(tmp_path: Path) -> None:
    from attacks import archives

    path = saved(tmp_path / "a.pt", STATE)
    moved = archives.rewritten(
        path.read_bytes(),
        lambda members: {
            name: data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:3")
            for name, data in members.items()
        },
    )
    path.write_bytes(moved)
    assert same(checkpoints.read(path).state)
    assert b"cuda:3" in moved


# B10 ------------------------------------------------------------------------------------------------------


def test_b10_all_mismatches_with_a_model_are_counted_and_five_shown() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 10), nn.Linear(10, 2))
    state = dict(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 100), nn.Linear(100, 2)).state_dict())
    del state["2.bias"]
    state |= {"3.weight": torch.ones(1), "3.bias": torch.ones(1)}
    error = refusal(lambda: weights.load_into(model, state, "a.pt"))
    assert error.message == (
        "'a.pt' does not fit the model: 6 mismatches, 1.weight: file (100, 3), model (10, 3); "
        "1.bias: file (100,), model (10,); 2.weight: file (2, 100), model (2, 10); 2.bias: missing in the file; "
        "3.weight: not in the model"
    )
    assert "--num-classes" in error.hint


# The entry of one file --------------------------------------------------------------------------------------


def test_a_path_can_say_the_entry(tmp_path: Path) -> None:
    ema = {name: 2 * tensor for name, tensor in STATE.items()}
    path = saved(tmp_path / "checkpoint-7.pt", {"model": STATE, "trainer": {"ema": {"state": ema}}})
    found = checkpoints.read(Path(f"{path}::trainer.ema.state"), state_key="model")
    assert same(found.state, ema)
    assert (found.epoch, found.layout) == (7, "trainer.ema.state")
    error = refusal(lambda: checkpoints.read(Path(f"{path}::other")))
    assert error.message == f"'{path}' has no state dict under 'other'"
    assert (
        refusal(lambda: checkpoints.read(tmp_path / "no.pt::x")).message
        == f"'{tmp_path}/no.pt' does not exist"
    )
    named = saved(tmp_path / "checkpoint-7.pt::model", {"model": ema})  # a file of that name is itself
    assert same(checkpoints.read(named).state, ema)


def test_entries_of_a_file_are_several_inputs(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"model": STATE, "ema": STATE})
    one, two = (InputFile.of(Path(f"{path}::{entry}")).fields() for entry in ("model", "ema"))
    assert one["path"].endswith("a.pt::model")
    assert two["hashed"] == "file and 'ema'"
    assert len({one["sha256"], two["sha256"], InputFile.of(path).content.sha256}) == 3


# Other values than tensors -----------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1


BESIDE: dict[str, Any] = {
    "version of torch": torch.torch_version.TorchVersion("2.1.0"),
    "namespace": types.SimpleNamespace(lr=0.1, nested=argparse.Namespace(a=1)),
    "times": [datetime.datetime.now(datetime.UTC), datetime.date(2026, 1, 1), datetime.time(1), datetime.timedelta(1)],
    "frozen set": frozenset({1, "a"}),
    "queue": collections.deque([1, [2]], maxlen=3),
    "maps": [collections.ChainMap({"a": 1}), collections.UserDict(a=1), collections.UserList([1])],
    "path": Path("a/b"),
    "NumPy": [np.float32(1), np.dtype("float64"), np.float16, np.bool_(True), np.str_("ab"), np.arange(3)],
    "numbers": [decimal.Decimal("1.5"), fractions.Fraction(1, 3), range(3), slice(1, 2)],
    "key": {datetime.date(2026, 1, 1): 0.5},
}  # fmt: skip


@pytest.mark.parametrize("kind", BESIDE)
def test_b5_harmless_values_beside_the_weights_do_not_matter(tmp_path: Path, kind: str) -> None:
    for legacy in (False, True):
        path = tmp_path / "a.pt"
        torch.save({"model": STATE, "args": BESIDE[kind]}, path, _use_new_zipfile_serialization=not legacy)
        assert same(checkpoints.read(path).state)


class Number(enum.IntEnum):
    ONE = 1


@dataclasses.dataclass
class Recipe:
    lr: float = 0.1
    steps: list[int] = dataclasses.field(default_factory=lambda: [1, 2])


class Options(dict[str, Any]):
    """A dictionary with attributes, as those of configurations are."""

    def __init__(self, **words: Any) -> None:
        super().__init__(words)
        self.note = "x"


class Rows(list[int]):
    pass


Pair = collections.namedtuple("Pair", "a b")
LAYER = nn.Linear(2, 2)
OWN: dict[str, Any] = {
    "enums": [Colour.RED, Number.ONE],
    "a data class": Recipe(),
    "a named tuple": Pair(1, Recipe()),
    "dictionaries and lists of one's own": [Options(lr=0.1, more=Options(a=torch.ones(2))), Rows([1, 2])],
    "a key": {Colour.RED: 1},
    "objects of torch": [
        (adam := torch.optim.Adam(LAYER.parameters())),
        torch.optim.lr_scheduler.StepLR(adam, 3),
        torch.Generator(),
    ],
    "generators of NumPy": [np.random.default_rng(0), np.random.RandomState(0)],
    "exceptions": [ValueError("x"), KeyboardInterrupt()],
    "types": [int, bool, collections.defaultdict(int, {"a": 1})],
}


@pytest.mark.parametrize("kind", OWN)
def test_b5_objects_beside_the_weights_do_not_matter_whatever_they_are(tmp_path: Path, kind: str) -> None:
    for legacy in (False, True):
        path = tmp_path / "a.pt"
        torch.save({"model": STATE, "x": OWN[kind]}, path, _use_new_zipfile_serialization=not legacy)
        assert same(checkpoints.read(path).state)
    assert same(checkpoints.read(saved(tmp_path / "b.pt", {"weights": STATE, "x": OWN[kind]})).state)


def test_an_object_of_an_unknown_class_is_not_taken_for_weights(tmp_path: Path) -> None:
    name = f"{Options.__module__}.Options"
    weights_ = Options(w=torch.ones(2))
    for content, words in (
        (weights_, f"holds a {name}, expected a state dict"),
        ({"model": weights_, "ema": STATE}, f"'model' is a {name}, not a state dict"),
        ({"mine": weights_, "ema": STATE}, "several candidates for the weights: 'mine', 'ema'"),
        ({"mine": weights_}, f"'mine' is a {name}, not a state dict"),
        ({"model": {**STATE, "fc": weights_}}, f"'fc' is a {name}, not a tensor"),
        ({**STATE, "fc.weight": Recipe()}, "'fc.weight' is a"),
        ({"model": {**STATE, "conv._extra_state": {"x": Recipe()}}}, "'conv._extra_state' is a"),
    ):
        assert words in refusal(lambda content=content: read(tmp_path, content)).message
    beside = read(tmp_path, {**STATE, "recipe": Recipe()})
    assert (same(beside.state), "recipe" in beside.remarks[0]) == (True, True)


def test_a_stand_in_is_saved_again_as_plain_data(tmp_path: Path) -> None:
    found = read(
        tmp_path, {"model": STATE, "optimizer": {"state": {}, "param_groups": [{"kind": Colour.RED}]}}
    )
    torch.save(found.optimizer_state, tmp_path / "b.pt")
    assert torch.load(tmp_path / "b.pt", weights_only=True)["param_groups"] == [{"kind": {}}]


def test_b5_lines_of_python_after_a_refusal_do_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arrays = {name: tensor.numpy() for name, tensor in STATE.items()}
    Path("p.pkl").write_bytes(pickle.dumps(STATE, protocol=4))
    Path("n.pkl").write_bytes(pickle.dumps(arrays))
    np.savez("n.npz", **arrays)
    layer = nn.Linear(2, 2)
    for name, content in {
        "n.pt": arrays,
        "m.pt": {"model": arrays},
        "c.pt": {"model": STATE, "f": functools.partial(int)},
        "w.pt": layer,
        "i.pt": {"net": layer, "f": 1},
    }.items():
        torch.save(content, name)
    for name in ("p.pkl", "n.pkl", "n.npz", "n.pt", "m.pt", "c.pt", "w.pt", "i.pt"):
        error = refusal(lambda name=name: checkpoints.read(Path(name)))
        lines = error.hint.partition("in Python: ")[2]
        exec(lines, {"torch": torch, "pickle": pickle, "pathlib": pathlib, "numpy": np})
        found = checkpoints.read(Path("weights.pt")).state
        assert same(found, layer.state_dict() if name in ("w.pt", "i.pt") else STATE), name


def test_a_list_is_asked_which_of_it(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", [{"lr": 0.1}, STATE])
    error = refusal(lambda: checkpoints.read(path))
    assert error.hint == f"take one by its number: {path}::1"
    assert same(checkpoints.read(Path(f"{path}::1")).state)
    error = refusal(lambda: read(tmp_path, list(STATE.values())))
    assert "model.state_dict()" in error.hint


def test_the_longest_name_is_an_entry_and_errors_say_what_is_there(tmp_path: Path) -> None:
    content = {"a.b": {"c": STATE, "d": {"e": STATE}}, "a": {"b": {"x": 1}}, "list": [1, STATE]}
    for key in ("a.b.c", "a.b.d.e", "list.1"):
        assert same(read(tmp_path, content, state_key=key).state)
    for key, there in (("a.b.d.f", "entries: e"), ("a.b.f", "entries: c, d"), ("x", "entries: a.b, a, list")):
        error = refusal(lambda key=key: checkpoints.read(Path(f"{saved(tmp_path / 'a.pt', content)}::{key}")))
        assert error.hint == there
    assert "FILE::ENTRY" in refusal(lambda: read(tmp_path, content, state_key="x")).hint


def test_an_entry_can_be_what_the_names_of_one_network_begin_with(tmp_path: Path) -> None:
    other = {name: 2 * tensor for name, tensor in STATE.items()}
    both = {**prefixed("student."), **{f"teacher.{name}": tensor for name, tensor in other.items()}}
    for content in (both, {"state_dict": both, "epoch": 3}):
        for key, wanted in (("student", STATE), ("teacher", other)):
            found = read(tmp_path, content, state_key=key)
            assert (same(found.state, wanted), found.prefix) == (True, f"{key}.")
            assert "left out" in found.remarks[0]


def test_names_below_a_prefix_are_found_beside_others() -> None:
    state = {**prefixed("net.model."), "criterion.weight": torch.ones(2), "metric.total": torch.tensor(1)}
    assert same(weights.named_as(state, STATE))
    found = checkpoints.Checkpoint(Path("a.pt"), "bare", state).named_as(STATE)
    assert (same(found.state), found.prefix) == (True, "net.")
    assert "left out: criterion.weight, metric.total" in found.remarks[0]
    twice = checkpoints.Checkpoint(Path("a.pt"), "bare", {**prefixed("student."), **prefixed("teacher.")})
    error = refusal(lambda: twice.named_as(STATE))
    assert "under 'student.', 'teacher.'" in error.message
    assert "--state-key student" in error.hint
    assert weights.prefixes({**STATE, **prefixed("ema.")}, STATE) == []
    assert weights.prefixes(prefixed("a."), {**STATE, "head.bias": 1}) == []
    assert weights.prefixes(prefixed("a."), {**STATE, "head.bias": 1}, some=True) == ["a."]


class Shard(torch.Tensor):
    """Pickles as a DTensor does, without processes."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        from torch.distributed.tensor.placement_types import Shard

        return torch._utils._rebuild_wrapper_subclass, (Shard, torch.float32, (3,))


def test_shards_are_refused_with_how_to_gather_them(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3).as_subclass(Shard)}, tmp_path / "rank0.pt")
    error = refusal(lambda: checkpoints.read(tmp_path / "rank0.pt"))
    assert "one process's share of sharded tensors" in error.message
    assert "full_state_dict=True" in error.hint
    (tmp_path / "dcp").mkdir()
    for name in (".metadata", "__0_0.distcp"):
        (tmp_path / "dcp" / name).write_bytes(b"PK\x03\x04")
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero/zero_pp_rank_0_mp_rank_00_optim_states.pt").touch()
    settings = RunFolderSettings()
    for path, word in (
        ("dcp", "dcp_to_torch"),
        ("dcp/__0_0.distcp", "dcp_to_torch"),
        ("zero", "zero_to_fp32.py"),
    ):
        assert word in refusal(lambda path=path: checkpoints.read(tmp_path / path)).hint
        if path != "dcp/__0_0.distcp":
            assert (
                word in refusal(lambda path=path: epochs.in_range(tmp_path / path, settings, Runtime())).hint
            )
