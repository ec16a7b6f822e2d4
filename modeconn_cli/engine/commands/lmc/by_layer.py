"""`mcx lmc interpolate --by-layer`: the line of one layer at a time, and of all layers up to it.

The rest of the network stays at one end or at the other. Source: Adilova et al. 2024 (arXiv:2307.06966).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from modeconn_cli.engine.commands.lmc.line import Line
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.paths import feature_connectivity
from modeconn_cli.engine.paths.barriers import HEADLINE
from modeconn_cli.engine.paths.evaluate import Measurement, evaluate_path
from modeconn_cli.engine.paths.feature_connectivity import SiteConnectivity
from modeconn_cli.engine.paths.opened import OpenedPath
from modeconn_cli.engine.paths.partial import End, Part, differing, partial, parts

Moves = Literal["alone", "up_to"]
ENDS: tuple[End, End] = (0, 1)
MOVES: tuple[Moves, Moves] = ("alone", "up_to")


@dataclass(frozen=True)
class LayerLine:
    """The line on which one layer moves alone, or with all before it (`up_to`), the rest being endpoint `rest`'s.

    Of each series the `values` at every α, losses in nats and errors in percent; `gap` = L − ((1−α) L(A) + α L(B))
    with both whole networks, and `gap_own` with the line's own ends, of which one is a hybrid. `max_gap` and
    `max_gap_own` are the largest over α.
    """

    layer: str
    moves: Moves
    rest: End
    values: dict[str, list[float]]
    gap: dict[str, list[float]]
    gap_own: dict[str, list[float]]
    max_gap: dict[str, float | None]
    max_gap_own: dict[str, float | None]

    @classmethod
    def of(cls, part: Part, moves: Moves, rest: End, line: Line, whole: Line) -> LayerLine:
        alphas, series, gap, own = line.alphas, line.series(), {}, {}
        for name, values in series.items():
            ends = whole.series()[name][[0, -1]]
            gap[name] = values - ((1 - alphas) * ends[0] + alphas * ends[1])
            own[name] = values - ((1 - alphas) * values[0] + alphas * values[-1])
        return cls(
            part.name,
            moves,
            rest,
            {name: values.tolist() for name, values in series.items()},
            {name: values.tolist() for name, values in gap.items()},
            {name: values.tolist() for name, values in own.items()},
            {name: float(values.max()) for name, values in gap.items()},
            dict(line.barriers()[HEADLINE]),
        )


class ByLayer:
    """The lines of the layers that `words` name, all where there are none, between the ends of `opened`."""

    def __init__(self, opened: OpenedPath, words: Sequence[str], ts: Sequence[float]) -> None:
        self._opened, self._ts = opened, ts
        self.parts = parts(opened.subject.model, words)
        self._differing = differing(opened)
        self._wanted = [(part, moves, rest) for moves in MOVES for part in self.parts for rest in ENDS]
        # Where nothing moves, or all that differs, every position has been measured already.
        keys = {self._key(*each) for each in self._wanted}
        self._lines = {key for key in keys if key[0] and key[0] != self._differing}

    @property
    def plan(self) -> str:
        """What it costs, in a plan's words."""
        count = len(self._lines) * (len(self._ts) - 1)
        return (
            f"by layer: {len(self.parts)} layers, alone and with all before them, the rest from either network: "
            f"{count:,} more positions (--layers NAMES, --num-alphas N for fewer); features at {len(self._ts)}, three "
            "passes over the held-out images each"
        )

    @property
    def stages(self) -> int:
        """How many lines have to be gone along, that of the whole network and that of the features included."""
        return len(self._lines) + 2

    def run(
        self, whole: Sequence[Measurement], private: Path | None, runtime: Runtime
    ) -> tuple[list[LayerLine], list[SiteConnectivity]]:
        """Measure the lines and the features; positions are kept in the folder `private`."""
        found, line = dict[tuple[frozenset[str], End], Line](), Line.measured(whole)
        out, stage = list[LayerLine](), 1
        for part, moves, rest in self._wanted:
            key = self._key(part, moves, rest)
            if key not in found:
                said = {"layer": part.name, "moves": moves.replace("_", " "), "rest": rest}
                own = runtime.part(stage, 1, self.stages, **said)
                stage += key in self._lines
                found[key] = self._measured(*key, whole, private, own)
            out.append(LayerLine.of(part, moves, rest, found[key], line))
        log = None if private is None else private / feature_connectivity.LOG
        own = runtime.part(self.stages - 1, 1, self.stages, measured="features")
        return out, feature_connectivity.connectivity(self._opened, self._ts, own, log)

    def _key(self, part: Part, moves: Moves, rest: End) -> tuple[frozenset[str], End]:
        """What tells a line from others: tensors that are the same at both ends do not move."""
        own = self._differing & (part.alone if moves == "alone" else part.up_to)
        return own, 0 if own == self._differing else rest

    def _measured(
        self,
        moved: frozenset[str],
        rest: End,
        whole: Sequence[Measurement],
        private: Path | None,
        runtime: Runtime,
    ) -> Line:
        end = whole[0 if rest == 0 else -1]
        if moved == self._differing:
            return Line.measured(whole)
        if not moved:
            return Line.measured([replace(end, t=each.t) for each in whole])
        log = None if private is None else private / _log(moved, rest)
        known: Mapping[float, Measurement] = {end.t: end}
        on_line = evaluate_path(partial(self._opened, moved, rest), self._ts, runtime, log, measured=known)
        return Line.measured(on_line.measurements)


def _log(moved: Collection[str], rest: End) -> str:
    """The name of a line's log, by what moves on it."""
    digest = hashlib.sha256("\n".join(sorted(moved)).encode()).hexdigest()[:16]
    return f"layers-{digest}-{rest}-{{}}.jsonl"
