"""Counting instead of timing: forwards, backwards, opened files, elements read."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@contextlib.contextmanager
def passes(model: nn.Module) -> Iterator[Counter[str]]:
    """Count the model's `forward` passes and the `backward` passes that reach its last parameter."""
    found: Counter[str] = Counter()
    last = list(model.parameters())[-1]
    hooks = [
        model.register_forward_pre_hook(lambda *_: found.update(["forward"])),
        last.register_post_accumulate_grad_hook(lambda *_: found.update(["backward"])),  # type: ignore[no-untyped-call]
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count how many elements of each watched tensor operations read; views read nothing."""

    def __init__(self, watched: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._numbers = {t.untyped_storage().data_ptr(): i for i, t in enumerate(watched)}
        self.elements: Counter[int] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            for tensor in tree_leaves((args, kwargs)):
                if isinstance(tensor, Tensor):
                    number = self._numbers.get(tensor.untyped_storage().data_ptr())
                    if number is not None:
                        self.elements[number] += tensor.numel()
        return out


_opened: list[str] | None = None
_listening = False


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _opened is not None and isinstance(arguments[0], str | bytes | os.PathLike):
        _opened.append(os.fsdecode(arguments[0]))


@contextlib.contextmanager
def opens(path: Path) -> Iterator[list[str]]:
    """The list holds the file's path once for every time that Python opened it, when the block has ended."""
    global _opened, _listening
    if not _listening:
        sys.addaudithook(_listen)  # there is no way to take it off again
        _listening = True
    _opened, found = [], list[str]()
    try:
        yield found
    finally:
        found += [name for name in _opened if os.path.realpath(name) == os.path.realpath(path)]
        _opened = None
