"""Batches of a user's own data loader, with the ids that tell its samples apart."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import RandomSampler

from modeconn_cli.engine.datasets import Batch
from modeconn_cli.engine.errors import InputError


@dataclass
class Loaded:
    """One pass over a loader of (images, labels) or (images, labels, ids): iterate, then ask for ids and labels.

    Labels are integers [N] or one-hot [N, C]. Without ids a sample's id is its position in this pass.
    """

    loader: Iterable[Any]
    device: torch.device
    positions: bool = False
    _ids: list[Tensor] = field(default_factory=list)
    _labels: list[Tensor] = field(default_factory=list)

    def __iter__(self) -> Iterator[Batch]:
        """Raises InputError for batches of another kind."""
        seen = 0
        for item in self.loader:
            batch = self._batch(item, seen)
            seen += len(batch)
            self._ids.append(batch.ids.cpu())
            self._labels.append(batch.labels.cpu())
            yield batch
        if not seen:
            raise InputError("the loader gives no samples")

    def _batch(self, item: Any, seen: int) -> Batch:
        if not (isinstance(item, list | tuple) and len(item) in (2, 3) and all(map(torch.is_tensor, item))):
            raise InputError("the loader must give (images, labels) or (images, labels, ids) as tensors")
        images, labels = item[0].to(self.device), item[1].to(self.device)
        labels = labels.argmax(1) if labels.ndim == 2 and labels.shape[1] > 1 else labels.reshape(-1)
        if labels.is_floating_point() or len(labels) != len(images):
            raise InputError(f"labels {tuple(item[1].shape)} are not the classes of {len(images)} samples")
        if len(item) == 3:
            ids = item[2].to(self.device).reshape(-1).long()
        else:
            self._say_once()
            ids = torch.arange(seen, seen + len(images), device=self.device)
        return Batch(images, labels.long(), ids)

    def _say_once(self) -> None:
        if not self.positions and isinstance(getattr(self.loader, "sampler", None), RandomSampler):
            warnings.warn(
                "the loader shuffles and gives no ids: positions hold for this pass alone", stacklevel=5
            )
        self.positions = True

    @property
    def ids(self) -> np.ndarray:
        """int64 [N], after the pass. Raises InputError where a sample came twice."""
        ids = torch.cat(self._ids).numpy()
        unique, counts = np.unique(ids, return_counts=True)
        if len(unique) < len(ids):
            raise InputError(f"the loader gives sample {unique[counts > 1][0]} more than once")
        return ids

    @property
    def labels(self) -> np.ndarray:
        """int64 [N], after the pass."""
        return torch.cat(self._labels).numpy()


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[torch.device]:
    """The model in eval mode, and the device of its tensors; every module's mode is put back."""
    modes = {module: module.training for module in model.modules()}
    first = next(iter(model.state_dict().values()), None)
    model.eval()
    try:
        yield torch.device("cpu") if first is None else first.device
    finally:
        for module, mode in modes.items():
            module.training = mode
