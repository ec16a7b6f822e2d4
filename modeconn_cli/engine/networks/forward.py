"""The guard around a network's own forward: it may be a user's, and may raise anything."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError, McxError


def forward(model: nn.Module, images: Tensor) -> Any:
    """What a network gives for images [N, …]. Raises InputError where its forward fails."""
    try:
        return model(images)
    except McxError:
        raise
    except Exception as error:  # the user's own code
        reason = (str(error).strip() or "it gives no reason").splitlines()[0]
        raise InputError(
            f"the network's forward fails on images {tuple(images.shape)}: {type(error).__name__}: {reason}",
            "it is called with one tensor of images: wrap one that takes more; --image-size says their size",
        ) from error
