"""The built-in digits: 1,797 real 8 x 8 images (UCI, CC BY 4.0; see DIGITS.txt)."""

from __future__ import annotations

from importlib import resources

import numpy as np

from modeconn_cli.engine.datasets.source import Source, checked


def digits() -> Source:
    """1,437 training and 360 test images; a sample's id is its row in the source file."""
    with resources.files(__package__).joinpath("digits.npz").open("rb") as stream:
        file = np.load(stream, allow_pickle=False)
        images, labels, test = file["images"], file["labels"], file["test"]
    # 17 grey levels spread over 0 … 255, so that the named transforms mean what they say.
    pixels = np.round(images[:, None].astype(np.float64) * (255 / 16)).astype(np.uint8)
    ids = np.arange(len(labels))
    return Source(
        name="digits",
        num_classes=10,
        train=checked("digits", pixels[~test], labels[~test], ids[~test], 10),
        test=checked("digits", pixels[test], labels[test], ids[test], 10),
        transform="half",
    )
