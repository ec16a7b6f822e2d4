"""The same curve through more control points."""

from __future__ import annotations

import math

import numpy as np

from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.paths.path import Kind, coefficients


def elevation(kind: Kind, count: int, wanted: int) -> np.ndarray:
    """E, float64 [wanted, count]: the curve through the points E P is the one through P [count].

    Of a Bezier curve, whose degree is raised from n to m, E_ij = C(n, j) C(m − n, i − j) / C(m, i) (Farin 2002,
    section 6.1); on a chain new points lie at equal distances on each segment. Raises SettingsError where no such curve
    exists.

    >>> elevation("bezier", 2, 3).tolist()
    [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    """
    n, m = count - 1, wanted - 1
    if m < n:
        raise SettingsError(
            f"a {kind} of {count} control points is none of {wanted}", f"use --num-bends {count} or more"
        )
    if kind == "bezier":
        rows = [
            [math.comb(n, j) * _comb(m - n, i - j) / math.comb(m, i) for j in range(n + 1)]
            for i in range(m + 1)
        ]
        return np.array(rows)
    if m % n:
        raise SettingsError(
            f"a polychain of {count} control points is none of {wanted}, which has its corners elsewhere",
            f"use --num-bends {count}, {2 * n + 1}, {3 * n + 1} …",
        )
    return np.stack([coefficients(kind, count, i / m) for i in range(m + 1)])


def _comb(n: int, k: int) -> int:
    return math.comb(n, k) if k >= 0 else 0
