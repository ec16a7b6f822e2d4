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
from torch.utils.data import SequentialSampler

from modeconn_cli.engine.datasets import Batch
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.samples.per_sample import TRIED, check_independent


@dataclass
class Loaded:
    """One pass over a loader of (images, labels) or (images, labels, ids): iterate, then ask for ids and labels.

    Labels are integers [N] or one-hot [N, C]. Without ids a sample's id is its position in this pass.
    """

    loader: Iterable[Any]
    device: torch.device
    positions: bool = False
    shape: tuple[int, ...] | None = None  # of an image
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
        images, labels = item[0].to(self.device), self._classes(item[1].to(self.device), len(item[0]))
        if not images.is_floating_point():
            raise InputError(
                f"images are {images.dtype}: the loader must give what the network takes, floats"
            )
        if self.shape not in (None, tuple(images.shape[1:])):
            raise InputError(f"images {tuple(images.shape[1:])} come after images {self.shape}")
        self.shape = tuple(images.shape[1:])
        if len(item) == 3:
            if item[2].is_floating_point() or item[2].numel() != len(images):
                raise InputError(
                    f"ids {item[2].dtype} {tuple(item[2].shape)} are not whole numbers, one per sample"
                )
            ids = item[2].to(self.device).reshape(-1).long()
        else:
            self._say_once()
            ids = torch.arange(seen, seen + len(images), device=self.device)
        return Batch(images, labels.long(), ids)

    @staticmethod
    def _classes(labels: Tensor, count: int) -> Tensor:
        """int64 [N] of integers or one-hot rows."""
        if labels.ndim == 2 and labels.shape[1] > 1:
            if not (((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all()):
                raise InputError("labels with several columns must be one-hot")
            labels = labels.argmax(1)
        labels = labels.reshape(-1)
        if labels.is_floating_point() or len(labels) != count:
            raise InputError(
                f"labels {labels.dtype} {tuple(labels.shape)} are not the classes of {count} samples"
            )
        return labels

    def _say_once(self) -> None:
        sampler = getattr(self.loader, "sampler", None)
        if not self.positions and sampler is not None and not isinstance(sampler, SequentialSampler):
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


def check(model: nn.Module, batch: Batch) -> int:
    """How many classes a model tells apart. Raises InputError where it cannot score samples one by one."""
    check_independent(model, batch.images[:TRIED])
    with torch.no_grad():
        return int(model(batch.images[:1]).shape[1])


def check_labels(labels: Tensor, classes: int) -> None:
    """Raises InputError for a label that no class has."""
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        raise InputError(f"label {int(labels[wrong][0])} is none of the network's {classes} classes")


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
