"""A seeded, learnable data set of any size and shape, for tests and benchmarks."""

from __future__ import annotations

import numpy as np

from modeconn_cli.engine.datasets.source import Source, Split, checked


def synthetic(
    train: int = 2000,
    test: int = 500,
    size: int = 32,
    channels: int = 3,
    classes: int = 10,
    noise: float = 0.6,
    seed: int = 0,
) -> Source:
    """Smooth class patterns plus noise: image = pattern of its class + noise x standard normal, as uint8.

    The patterns are sums of a few low frequencies, so that convolutions and shifts keep their meaning.
    """
    rng = np.random.default_rng(seed)
    grid = np.linspace(0, 2 * np.pi, size, endpoint=False)
    patterns = np.zeros((classes, channels, size, size))
    for _ in range(4):
        fx, fy = rng.integers(0, 4, (2, classes, channels, 1, 1))
        phase = rng.uniform(0, 2 * np.pi, (classes, channels, 1, 1))
        patterns += np.cos(fx * grid[None, None, :, None] + fy * grid[None, None, None, :] + phase)
    patterns /= patterns.std(axis=(1, 2, 3), keepdims=True)

    def draw(count: int, first: int) -> Split:
        labels = rng.integers(0, classes, count)
        values = patterns[labels] + noise * rng.standard_normal(
            (count, channels, size, size), dtype=np.float32
        )
        pixels = np.clip(np.round(127.5 + 40 * values), 0, 255).astype(np.uint8)
        return checked("synthetic", pixels, labels, np.arange(first, first + count), classes)

    return Source("synthetic", classes, draw(train, 0), draw(test, 0), transform="half")
