"""Arithmetic on weights: `dict[str, Tensor]`, parameters and buffers apart. Sums are taken in float64.

Shapes: P parameters in all, L layers (modules), K networks.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError

Weights = dict[str, Tensor]
T = TypeVar("T")

# Parts of names that wrappers add: DataParallel and averaged models, torch.compile, Opacus, activation checkpointing,
# FSDP, Fabric; and what people, and Lightning, call the network in a module of their own.
OF_WRAPPERS = (  # which nobody calls a module of his own
    "_orig_mod",
    "_module",
    "_checkpoint_wrapped_module",
    "_fsdp_wrapped_module",
    "_fpw_module",
    "_forward_module",
)
OF_TORCH = ("module", *OF_WRAPPERS)
WRAPPERS = (*OF_TORCH, "model", "net")

# Buffers that many networks have: in a bare state dict only their names tell them from parameters.
AVERAGED = "n_averaged"  # of AveragedModel, which wraps a network
COUNTERS = ("num_batches_tracked", AVERAGED)  # of steps: files that do without them begin at 0
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
BUFFERS = (
    *STATISTICS,
    "position_ids",
    "inv_freq",
    "relative_coords_table",
    "masked_bias",
    AVERAGED,
    "freqs",
    "freqs_cis",
)
CHUNK = 1 << 18  # elements converted to float64 at a time: 2 MB stay in the cache


def buffers_in(state: Mapping[str, Tensor]) -> list[str]:
    """The tensors of a bare state dict that are buffers by their names, or because they hold whole numbers.

    These are statistics of normalisation, masks, positions, and the vectors u and v of spectral norm, which stand
    beside its `weight_orig` (those of weight norm are parameters).
    """
    return [
        name for name, tensor in state.items() if not is_continuous(tensor) or called_a_buffer(name, state)
    ]


def is_continuous(tensor: Tensor) -> bool:
    """Whether a tensor's values are real or complex numbers, not whole ones."""
    return tensor.is_floating_point() or tensor.is_complex()


def flat(tensor: Tensor) -> Tensor:
    """The values in one row; of complex ones real and imaginary parts, whose squares add up to |w|²."""
    tensor = tensor.detach()
    return (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).reshape(-1)


def called_a_buffer(name: str, state: Mapping[str, Tensor]) -> bool:
    """Whether a tensor of a bare state dict is a buffer by its name."""
    module, _, leaf = name.rpartition(".")
    if leaf in BUFFERS or leaf == "mask" or leaf.endswith("_mask"):
        return True
    if leaf in ("_u", "_v"):
        return ".parametrizations." in f".{module}"
    return leaf.endswith(("_u", "_v")) and f"{name[:-2]}_orig" in state and state[name].ndim == 1


def called_a_parameter(name: str) -> bool:
    """Whether a tensor's name says that it is a parameter; many are called otherwise."""
    return any(word in name for word in ("weight", "bias", "parametrizations."))


def parameters_in(state: Mapping[str, Tensor]) -> Weights:
    """The parameters of a bare state dict: no buffers, no second names."""
    buffers = set(buffers_in(state))
    return {name: tensor for name, tensor in distinct(state).items() if name not in buffers}


def distinct(state: Mapping[str, Tensor]) -> Weights:
    """The state dict without the second names of its tensors (tied weights).

    They show where tensors lie in one place of the memory or of a file, in one shape; copies cannot be told.
    """
    seen: set[tuple[int, torch.Size, tuple[int, ...], torch.dtype]] = set()
    out = {}
    for name, tensor in state.items():
        key = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
        if tensor.numel() and key[0] and key in seen:
            continue
        seen.add(key)
        out[name] = tensor
    return out


def parameters_of(model: nn.Module, state: Mapping[str, Tensor]) -> Weights:
    """The entries of `state` that are parameters of `model`, in the model's order."""
    return {name: state[name] for name, _ in model.named_parameters()}


def frozen_in(model: nn.Module) -> list[str]:
    """The names of the parameters that training leaves as they are."""
    return [name for name, parameter in model.named_parameters() if not parameter.requires_grad]


def buffers_of(model: nn.Module, state: Mapping[str, Tensor]) -> Weights:
    """The entries of `state` that are buffers of `model`."""
    return {name: state[name] for name, _ in model.named_buffers() if name in state}


def not_parameters(model: nn.Module) -> list[str]:
    """The names in a model's state dict that are no parameters: buffers, and further names of tied weights."""
    names = {name for name, _ in model.named_parameters()}
    return [name for name in tensors_of(model) if name not in names]


def tensors_of(model: nn.Module) -> Weights:
    """The tensors of a model's state dict, its own ones: without what some modules keep there beside them."""
    found = model.state_dict(keep_vars=True)
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def extra_of(model: nn.Module) -> dict[str, Any]:
    """What modules keep in the state dict of a model beside tensors."""
    return {name: value for name, value in model.state_dict().items() if not isinstance(value, Tensor)}


def snapshot(model: nn.Module) -> Weights:
    """A copy of the model's tensors on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors_of(model).items()}


def is_counter(name: str) -> bool:
    """Whether a tensor counts steps, which files of before torch 0.4.1 and networks without a wrapper lack."""
    return name.rpartition(".")[2] in COUNTERS


def without_prefix(names: Iterable[str], parts: Iterable[str]) -> tuple[list[str], str]:
    """Names without the `parts` that all of them begin with, and those: `module._orig_mod.`; counters may lack them."""
    left, prefix = list(names), ""
    while True:
        named = [name for name in left if not is_counter(name)]
        first = next((f"{p}." for p in parts if named and all(n.startswith(f"{p}.") for n in named)), "")
        if not first:
            return left, prefix
        left, prefix = [name.removeprefix(first) for name in left], prefix + first


def unwrapped(names: Iterable[str], wrappers: Iterable[str] = WRAPPERS) -> list[str]:
    """Names without the parts that `wrappers` add anywhere in them.

    A wrapper holds one module under a name of its own and nothing else, but for a count of averages: a part that stands
    beside others is the network's own, whatever it is called, so that no two names become the same.
    """
    listed = list(names)
    inside: dict[str, set[str]] = {}  # what stands in every module
    for name in listed:
        *parts, leaf = name.split(".")
        held = [*parts, *([] if leaf == AVERAGED else [f"{leaf}."])]  # a tensor is no wrapper
        for k, part in enumerate(held):
            inside.setdefault(".".join(parts[:k]), set()).add(part)
    around = {module for module, held in inside.items() if len(held) == 1 and held <= {*wrappers}}

    def short(name: str) -> str:
        *parts, leaf = name.split(".")
        return ".".join([*(part for k, part in enumerate(parts) if ".".join(parts[:k]) not in around), leaf])

    return [short(name) for name in listed]


def renaming(names: Iterable[str], wanted: Iterable[str]) -> dict[str, str]:
    """The names of a state dict -> the `wanted` ones that mean the same tensors but for wrappers on either side.

    A name without a counterpart stays.
    """
    theirs, ours = list(names), list(wanted)
    if {*theirs} == {*ours}:
        return dict(zip(theirs, theirs, strict=True))
    meant = dict(zip(unwrapped(ours), ours, strict=True))
    found = {name: meant[s] for name, s in zip(theirs, unwrapped(theirs), strict=True) if s in meant}
    new = {name: found.get(name, name) for name in theirs}
    return new if len({*new.values()}) == len(new) else {name: name for name in theirs}


def prefixes(names: Iterable[str], wanted: Iterable[str], *, some: bool = False) -> list[str]:
    """What stands before all the `wanted` names among the names of a state dict, where they are not there themselves:
    `model.` of one that holds a network beside a loss's weights.

    With `some` the one before most of them, where none is there itself.
    """
    theirs, ours = {*unwrapped(names)}, {name for name in unwrapped(wanted) if not is_counter(name)}
    if not theirs.isdisjoint(ours) if some else theirs >= ours:
        return []
    found = Counter(
        name[: k + 1]
        for name in theirs
        for k, letter in enumerate(name)
        if letter == "." and name[k + 1 :] in ours
    )
    most = max(found.values(), default=0) if some else len(ours)
    before = sorted(prefix for prefix, count in found.items() if count == most)
    return before if len(before) == 1 or not some else []


def below(state: Mapping[str, T], prefix: str) -> dict[str, T]:
    """The entries whose names begin so but for wrappers, without that."""
    short = zip(unwrapped(state), state.values(), strict=True)
    return {name.removeprefix(prefix): value for name, value in short if name.startswith(prefix)}


def named_as(state: Mapping[str, T], wanted: Mapping[str, Any]) -> dict[str, T]:
    """A state dict under the names that a network, or another state dict, has for the same tensors.

    Parts of names that wrappers add (DataParallel, torch.compile, Opacus, …) are dropped from both sides. A counter of
    steps that is `wanted` and not there is 0; the one of an averaged model that is not wanted is left out, and so
    is all beside the one prefix that stands before what is wanted (`prefixes`).
    """
    before = prefixes(state, wanted)
    if len(before) == 1:
        state = below(state, before[0])
    new = renaming(state, wanted)
    out = {
        new[name]: value
        for name, value in state.items()
        if new[name] in wanted or name.rpartition(".")[2] != AVERAGED
    }
    lacking = {
        name: torch.zeros_like(like, device="cpu")
        for name, like in wanted.items()
        if is_counter(name) and name not in out and isinstance(like, Tensor)
    }
    return {**out, **lacking}  # type: ignore[dict-item] # T is Tensor, or Any


def count(weights: Mapping[str, Tensor]) -> int:
    """Number of elements, P."""
    return sum(tensor.numel() for tensor in weights.values())


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for loops over small chunks, which memory bounds.

    Their operations are too short to share: on a busy machine two threads took ten times as long as one, waiting
    for each other.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def gram(tensors: Sequence[Tensor], origin: Tensor) -> Tensor:
    """Inner products of w_k − w_0 and, last, of the origin w_0 itself: float64 [K + 1, K + 1] for K tensors.

    Differences are taken first: the Gram matrix of the tensors themselves would cancel, and the distance of
    the origin from itself would not be exactly 0. Read once, in cache-sized chunks.
    """
    rows = [flat(tensor) for tensor in (*tensors, origin)]
    size = rows[0].numel()
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    buffer = torch.empty(len(rows), min(CHUNK, max(size, 1)), dtype=torch.float64)
    for begin in range(0, size, CHUNK):
        part = buffer[:, : min(CHUNK, size - begin)]
        for row, tensor in zip(part, rows, strict=True):
            row.copy_(tensor[begin : begin + CHUNK])
        part[:-1] -= part[-1]
        total += part @ part.T
    return total


def square_norm(flat: Tensor) -> Tensor:
    """‖w‖² of a flat vector, a float64 scalar on its device.

    A CPU reduces float32 to float64 element by element: 39 ms for 15 million, against 4 ms in chunks.
    """
    if flat.device.type != "cpu":
        norm: Tensor = torch.linalg.vector_norm(flat, dtype=torch.float64)
        return norm**2
    total = torch.zeros((), dtype=torch.float64)
    buffer = torch.empty(min(CHUNK, flat.numel()), dtype=torch.float64)
    for begin in range(0, flat.numel(), CHUNK):
        part = buffer[: min(CHUNK, flat.numel() - begin)].copy_(flat[begin : begin + CHUNK])
        total += torch.dot(part, part)
    return total


def modules(names: Iterable[str]) -> dict[str, list[str]]:
    """Tensor names by the module that holds them: `conv1` -> [`conv1.weight`, `conv1.bias`]."""
    out: dict[str, list[str]] = {}
    for name in names:
        out.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return out


def check_alike(a: Mapping[str, Tensor], b: Mapping[str, Tensor], name_a: str, name_b: str) -> None:
    """Raise InputError, naming both sides, where two sets of weights differ in names, shapes or kinds."""
    missing = [name for name in a if name not in b and not is_counter(name)]
    extra = [name for name in b if name not in a and not is_counter(name)]
    if missing or extra:
        common = len(a) - len(missing)
        raise InputError(
            f"different networks: {common} tensors in common, {_some(missing)} only in '{name_a}', "
            f"{_some(extra)} only in '{name_b}'"
        )
    both = [name for name in a if name in b]
    shapes = [name for name in both if a[name].shape != b[name].shape]
    if shapes:
        rows = [f"{n} {tuple(a[n].shape)} and {tuple(b[n].shape)}" for n in shapes[:5]]
        raise InputError(
            f"{len(shapes)} of {len(both)} tensors differ in shape between '{name_a}' and '{name_b}': "
            + "; ".join(rows)
        )
    kinds = [name for name in both if _kind(a[name]) != _kind(b[name])]
    if kinds:
        name = kinds[0]
        raise InputError(f"{name} is {a[name].dtype} in '{name_a}' and {b[name].dtype} in '{name_b}'")


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def shortened(names: Sequence[str], count: int = 5) -> str:
    """The first names of a list, and how many there are beside."""
    more = len(names) - count
    return ", ".join(names[:count]) + (f" and {more} more" if more > 0 else "")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"{len(names)} ({shown})" if names else "none"


def load_into(model: nn.Module, state: Mapping[str, Any], where: str) -> None:
    """Copy a state dict into a model, whose names may differ by wrappers.

    All mismatches are reported in one InputError.
    """
    named = named_as(state, model.state_dict())
    check_fits(model, named, where)
    load(model, named)


def load(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Copy a state dict that fits into a model, with the version numbers that some layers ask for (MNASNet)."""
    whole = model.state_dict()
    whole.update(state)
    model.load_state_dict(whole)


def check_fits(model: nn.Module, state: Mapping[str, Any], where: str) -> None:
    """Raise InputError, with all mismatches, for a state dict that is not this model's."""
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    tensors = [n for n in own if n in state and isinstance(own[n], Tensor)]
    shapes = [n for n in tensors if own[n].shape != state[n].shape]
    if missing or unexpected or shapes:
        problems = [f"{n}: file {tuple(state[n].shape)}, model {tuple(own[n].shape)}" for n in shapes]
        problems += [f"{n}: missing in the file" for n in missing]
        problems += [f"{n}: not in the model" for n in unexpected]
        hint = "pass the --model, --num-classes, --input-shape and --model-arg the file was trained with"
        raise InputError(
            f"'{where}' does not fit the model: {len(problems)} mismatches, {'; '.join(problems[:5])}", hint
        )
