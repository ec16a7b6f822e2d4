"""What of a source is used: its rows are chosen before the images are read."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from modeconn_cli.engine.datasets import stored
from modeconn_cli.engine.datasets.images import ImageFiles
from modeconn_cli.engine.datasets.pixels import dark
from modeconn_cli.engine.datasets.source import Source, Split
from modeconn_cli.engine.datasets.stored import Stored


@dataclass(frozen=True)
class Used:
    """Some rows of a source's splits, in the order they were asked for; no images are yet to be read.

    `span` are the least and the largest value of all training images, used or not, where these are floats. Images that
    are not `seen` are of no meaning but in shape and type.
    """

    train: Split
    test: Split
    span: tuple[float, float] | None = None
    doubts: tuple[str, ...] = ()
    seen: bool = True


def used(source: Source, train: Tensor, test: Tensor, size: int | None, blank: torch.device | None) -> Used:
    """The rows `train` and `test` of a source. Those that are yet to be read become `size` x `size` where that is said.

    With a device for `blank` images none are read. Raises InputError where they cannot be.
    """
    fit, held_out = source.train.take(train), source.test.take(test)
    if not isinstance(fit.images, Stored) or not isinstance(held_out.images, Stored):
        return Used(fit, held_out, _span(source.train.images))
    wanted = (fit.images, held_out.images)
    if blank is not None:
        shapes = [each.shape if size is None else (*each.shape[:2], size, size) for each in wanted]
        none = [stored.stand_in(shape, each.dtype, blank) for shape, each in zip(shapes, wanted, strict=True)]
        return Used(replace(fit, images=none[0]), replace(held_out, images=none[1]), seen=False)
    found = stored.read(wanted, size)
    return Used(
        replace(fit, images=found[0].images),
        replace(held_out, images=found[1].images),
        (found[0].low, found[0].high) if wanted[0].member.dtype.kind == "f" else None,
        tuple(
            filter(None, (dark(w.where, w.member.dtype, f.high) for w, f in zip(wanted, found, strict=True)))
        ),
    )


def _span(images: Tensor | ImageFiles | Stored) -> tuple[float, float] | None:
    if not isinstance(images, Tensor) or not images.is_floating_point() or not images.numel():
        return None
    low, high = torch.aminmax(images)
    return float(low), float(high)
