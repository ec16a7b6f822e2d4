"""Networks that keep, outside their state dict, what they once computed from a parameter.

LeViT, EfficientFormer, EfficientViT, TinyViT and others compute in eval mode once what in training they compute every
time: an attribute, a dictionary or a buffer that is not saved. When other weights are put into such a network it goes
on with the old values. `watch` gives a network a hook that sees which attributes eval mode changes, and from then on
takes them back before every forward, so that each set of weights meets the network as its constructor has left it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

FRAMEWORK = frozenset(vars(nn.Module()))  # what every module has: parameters, buffers, hooks, its mode
ABSENT = object()

Place = tuple[str, str]  # the name of a module, and of its attribute


def watch(model: nn.Module, note: Callable[[str], None] = lambda _: None) -> None:
    """Watch a network that was just made and has computed nothing yet."""
    watched = _Watched(model, note)
    model.register_forward_pre_hook(watched.before)
    model.register_forward_hook(watched.after)


def untouched_copy(model: nn.Module) -> nn.Module:
    """A copy of the network in which eval mode has left nothing, and which is watched as the network is."""
    watched = _watching(model)
    if watched is not None:
        watched.take_back()
    return _copy(model)


def copy_to_trace(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Copy a network for one forward that is traced; `memo` as in `copy.deepcopy`.

    One that is known to remember forgets before that forward too: what it does on entering eval mode is traced with it.
    """
    watched = _watching(model)
    if watched is not None:
        watched.take_back()
    made = _copy(model, memo)
    if watched is not None and not watched.remembers:
        _unwatch(made)
    return made


def _copy(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy, also of a network that keeps tensors with a history: weight norm's weight, activations."""
    memo = {} if memo is None else memo
    for _, value in _attributes(model):
        for tensor in _tensors(value):
            if not tensor.is_leaf:
                memo.setdefault(id(tensor), tensor.detach().clone())
    return copy.deepcopy(model, memo)


def _unwatch(model: nn.Module) -> None:
    for hooks in (model._forward_pre_hooks, model._forward_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(getattr(hook, "__self__", None), _Watched):
                del hooks[key]


def _watching(model: nn.Module) -> _Watched | None:
    hooks = (getattr(hook, "__self__", None) for hook in model._forward_pre_hooks.values())
    return next((each for each in hooks if isinstance(each, _Watched)), None)


class _Watched:
    """The hooks of one network; a copy of the network has its own.

    They are bound methods and no closures so that `copy.deepcopy` of a network copies them with it.
    """

    def __init__(self, model: nn.Module, note: Callable[[str], None]) -> None:
        self._model, self._note = model, note
        self._first = {place: _kept(value) for place, value in _attributes(model)}
        self._changing: set[Place] = set()  # what eval mode changes, and the outputs then depend on
        self._harmless: set[Place] = set()
        self._seen: dict[Place, Any] = {}
        mode = model.training
        before = {place: _mark(value) for place, value in _attributes(model)}
        model.eval()
        self._take_up(self._changed(before))
        self.take_back()
        model.train(mode)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Watched:
        made = object.__new__(_Watched)
        memo[id(self)] = made
        made._model, made._note = copy.deepcopy(self._model, memo), self._note
        made._first = copy.deepcopy(self._first, memo)
        made._changing, made._harmless, made._seen = set(self._changing), set(self._harmless), {}
        return made

    def before(self, model: nn.Module, _inputs: Any) -> None:
        if model.training:
            return
        if self._changing:
            self.take_back()
            _into_eval_mode(model)
        self._seen = self._snapshot()

    def after(self, model: nn.Module, inputs: Any, _outputs: Any) -> None:
        if model.training or not self._seen:
            return
        changed, self._seen = self._changed(self._seen), {}
        if changed and not self._goes_stale(changed, inputs):
            past = self._with_history(changed)
            self._changing |= past
            self._harmless |= changed - past
        else:
            self._take_up(changed)

    def _with_history(self, changed: set[Place]) -> set[Place]:
        """What holds tensors with the graph that made them: a second backward pass could not go through it."""
        kept = {place: value for place, value in _attributes(self._model) if place in changed}
        return {place for place, value in kept.items() if any(not t.is_leaf for t in _tensors(value))}

    @property
    def remembers(self) -> bool:
        """Whether eval mode is known to leave anything."""
        return bool(self._changing)

    def take_back(self) -> None:
        """Give the attributes that eval mode changes the values that they had first."""
        modules = dict(self._model.named_modules())
        for name, attribute in self._changing:
            module = modules.get(name)
            if module is not None:
                _restore(module, attribute, self._first.get((name, attribute), ABSENT))

    @torch.no_grad()
    def _goes_stale(self, changed: set[Place], inputs: Any) -> bool:
        """Whether other weights give other outputs when these attributes stay as they are now.

        Weight norm, for one, computes its attribute before every forward.
        """
        stale, fresh = _copy(self._model), _copy(self._model)
        modules = dict(fresh.named_modules())
        for name, attribute in changed:
            _restore(modules[name], attribute, _apart(self._first.get((name, attribute), ABSENT)))
        _into_eval_mode(fresh)
        draw = torch.Generator().manual_seed(0)
        for one, other in zip(stale.parameters(), fresh.parameters(), strict=True):
            if one.is_floating_point():
                one.add_((0.1 * torch.randn(one.shape, generator=draw)).to(one))
                other.copy_(one)
        for each in (stale, fresh):
            _unwatch(each)
        few = [value[:2] if isinstance(value, Tensor) else value for value in inputs]
        with torch.random.fork_rng(devices=[]):
            outputs = []
            for each in (stale, fresh):
                torch.manual_seed(0)
                outputs.append([leaf for leaf in pytree.tree_leaves(each(*few)) if isinstance(leaf, Tensor)])
        return not all(torch.allclose(a, b, rtol=1e-5, equal_nan=True) for a, b in zip(*outputs, strict=True))

    def _snapshot(self) -> dict[Place, Any]:
        """Marks of what is kept now; batch norms whose statistics are being recomputed are in training mode."""
        busy = {name for name, module in self._model.named_modules() if module.training}
        return {place: _mark(value) for place, value in _attributes(self._model) if place[0] not in busy}

    def _changed(self, before: dict[Place, Any]) -> set[Place]:
        """What has changed since and is not known yet."""
        after = self._snapshot()
        changed = {place for place in before.keys() | after.keys() if before.get(place) != after.get(place)}
        return changed - self._changing - self._harmless

    def _take_up(self, changed: set[Place]) -> None:
        """Changes that matter from now on; the first ones are said."""
        known = bool(self._changing)
        self._changing |= changed
        if changed and not known:
            name, attribute = min(changed)
            kind = type(self._model.get_submodule(name)).__name__
            self._note(
                f"{kind} keeps in eval mode what it has computed ('{attribute}'): it is computed anew for every batch, "
                "as it may depend on the weights"
            )


def _into_eval_mode(model: nn.Module) -> None:
    """Call what a network does when it enters eval mode; modules that are in training mode stay there."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    for module, mode in modes:
        module.training = mode


def _attributes(model: nn.Module) -> Iterator[tuple[Place, Any]]:
    """What a module holds beside parameters, modules and buffers that are saved."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for attribute, value in vars(module).items():
            if attribute not in FRAMEWORK:
                yield (name, attribute), value
        for attribute in module._non_persistent_buffers_set:
            yield (name, attribute), module._buffers[attribute]


def _mark(value: Any, depth: int = 3) -> Any:
    """Equal for a value that is the same object and was not written into, down to some containers in containers."""
    if isinstance(value, Tensor):
        return id(value), 0 if value.is_inference() else value._version
    if isinstance(value, dict) and depth:
        return id(value), tuple((repr(key), _mark(entry, depth - 1)) for key, entry in value.items())
    if isinstance(value, list | tuple | set) and depth:
        return id(value), tuple(_mark(entry, depth - 1) for entry in value)
    return value if isinstance(value, bool | int | float | str | None) else id(value)


def _tensors(value: Any, depth: int = 3) -> Iterator[Tensor]:
    """The tensors in a value, down to some containers in containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple | set) and depth:
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _tensors(entry, depth - 1)


def _kept(value: Any) -> Any:
    """A value that later changes do not reach: its object, and what it held."""
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        kept = value.detach().clone()  # one with a history could not be copied with the network
        return kept, kept
    if isinstance(value, dict | list | set):
        return value, value.copy()
    return value, None


def _apart(first: Any) -> Any:
    """The same for a copy of the network, which must not write into the network's own containers."""
    if first is ABSENT or not isinstance(first[0], dict | list | set):
        return first
    return first[1].copy(), first[1]


def _restore(module: nn.Module, attribute: str, first: Any) -> None:
    """Put back a value that `_kept` made; without one the attribute goes."""
    own = module._buffers if attribute in module._buffers else vars(module)
    if first is ABSENT:
        own.pop(attribute, None)
        module._non_persistent_buffers_set.discard(attribute)
        return
    value, content = first
    if isinstance(value, Tensor) and content is not None:
        there = own.get(attribute)
        like = there if isinstance(there, Tensor) else value
        value = content.to(like.device, like.dtype if content.is_floating_point() else content.dtype).clone()
    elif isinstance(value, dict | set):
        value.clear()
        value.update(content)
    elif isinstance(value, list):
        value[:] = content
    own[attribute] = value
