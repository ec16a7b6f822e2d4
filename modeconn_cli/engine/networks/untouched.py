"""Networks that keep, outside their state dict, what they once computed from a parameter.

LeViT, EfficientFormer, EfficientViT, TinyViT and others compute in eval mode once what in training they compute every
time: an attribute, a dictionary or a buffer that is not saved. When other weights are put into such a network it goes
on with the old values. `watch` gives a network a hook that sees which attributes eval mode changes, and from then on
takes them back before every forward, so that each set of weights meets the network as its constructor has left it.
What is kept where it cannot be taken back is refused before the first forward.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import other_weights
from modeconn_cli.engine.networks.kept import Kept, Place, attributes, mark, restore, tensors


def watch(model: nn.Module, note: Callable[[str], None] = lambda _: None) -> None:
    """Watch a network that was just made and has computed nothing yet."""
    watched = _Watched(model, note)
    model.register_forward_pre_hook(watched.before)
    model.register_forward_hook(watched.after)


def ask(model: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Try a watched network that is about to be traced, as its first forward does. Raises InputError as that does."""
    watched = _watching(model)
    if watched is not None:
        watched.ask(inputs)


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
    for _, value in attributes(model):
        for tensor in tensors(value):
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
        self._first = {place: Kept.of(value) for place, value in attributes(model)}
        self._changing: set[Place] = set()  # what eval mode changes, and the outputs then depend on
        self._harmless: set[Place] = set()
        self._seen: dict[Place, Any] = {}
        self._asked, self._refusal = False, ""
        mode = model.training
        before = {place: mark(value) for place, value in attributes(model)}
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
        made._asked, made._refusal = self._asked, self._refusal
        return made

    def before(self, model: nn.Module, inputs: Any) -> None:
        self.ask(inputs)
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
        with other_weights.unread():
            stale = not changed or self._goes_stale(changed, inputs)
        if not stale:
            past = self._with_history(changed)
            self._changing |= past
            self._harmless |= changed - past
        else:
            self._take_up(changed)

    def ask(self, inputs: Sequence[Any]) -> None:
        """Once, before anything was computed: raises InputError where something is kept that cannot be taken back."""
        if not self._asked and not any(map(is_lazy, self._model.parameters())):
            self._asked = True
            with contextlib.suppress(Exception):  # of the user's own forward, which says it when it is called
                self._try(inputs)
        if self._refusal:
            raise InputError(
                self._refusal,
                "compute it in every forward, or keep it in an attribute of the module: that is taken back",
            )

    def _try(self, inputs: Sequence[Any]) -> None:
        used, twin, fresh = self._untouched(), self._untouched(), self._untouched()
        _unwatch(twin)
        _unwatch(fresh)
        parameter = other_weights.remembered(used, twin, fresh, inputs)
        watched = _watching(used)
        if watched is not None:
            self._changing |= watched._changing
        if parameter is None:
            return
        owner = self._model.get_submodule(parameter.rpartition(".")[0])
        of = f"from '{parameter}'" if parameter else "from its weights"
        self._refusal = (
            f"{type(owner).__name__} keeps where it cannot be taken back (a cache, a global, a closure) what it has "
            f"computed {of}: under other weights its outputs would be those of the old ones"
        )

    def _untouched(self) -> nn.Module:
        made = _copy(self._model)
        watched = _watching(made)
        if watched is not None:
            watched.take_back()
        return made

    def _with_history(self, changed: set[Place]) -> set[Place]:
        """What holds tensors with the graph that made them: a second backward pass could not go through it."""
        kept = {place: value for place, value in attributes(self._model) if place in changed}
        return {place for place, value in kept.items() if any(not t.is_leaf for t in tensors(value))}

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
                restore(module, attribute, self._first.get((name, attribute)))

    def _goes_stale(self, changed: set[Place], inputs: Sequence[Any]) -> bool:
        """Whether other weights give other outputs when these attributes stay as they are now.

        Weight norm, for one, computes its attribute before every forward.
        """
        stale, fresh = _copy(self._model), _copy(self._model)
        watched = _watching(fresh)
        assert watched is not None
        watched._changing = changed
        watched.take_back()
        _into_eval_mode(fresh)
        outputs = []
        for each in (stale, fresh):
            _unwatch(each)
            other_weights.move(each)
            outputs.append(other_weights.run(each, inputs, entering=False)[0])
        return not other_weights.agree(*outputs)

    def _snapshot(self) -> dict[Place, Any]:
        """Marks of what is kept now; batch norms whose statistics are being recomputed are in training mode."""
        busy = {name for name, module in self._model.named_modules() if module.training}
        return {place: mark(value) for place, value in attributes(self._model) if place[0] not in busy}

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
