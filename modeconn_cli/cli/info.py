"""`mcx info`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.cli.tables import Block, Lines, Table, epoch_words
from modeconn_cli.engine.settings.info import InfoSettings

if TYPE_CHECKING:
    from modeconn_cli.engine.commands.info import InfoResult
    from modeconn_cli.engine.commands.info.groups import Symmetries

app = typer.Typer()

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@app.command("info")
@takes(InfoSettings, "info")
def info(settings: InfoSettings, report: Report) -> None:
    """Say what a checkpoint holds, without running anything in it.

    With --symmetries its network is built, and the groups of units that can be exchanged are listed.

    Examples, after the first of mcx train:
      mcx info runs/seed0/checkpoint-5.pt
      mcx info runs/seed0/checkpoint-5.pt --json
      mcx info runs/seed0/checkpoint-5.pt --symmetries --show-keys 0

    More: mcx help models.
    """
    from modeconn_cli.engine.commands import info as engine

    report.run(engine.run, settings, table)


def table(result: InfoResult) -> list[Block]:
    bad = result.nonfinite_tensors
    finite = (
        "not read" if bad is None else "all finite" if not bad else f"NaN or infinity in {', '.join(bad[:5])}"
    )
    model = " or ".join(result.model) or "unknown (pass --model where it is needed)"
    facts = {
        "layout": result.layout,
        "curve": f"{result.curve}, {result.num_bends} control points" if result.curve else "no",
        "epoch": epoch_words(result.epoch, result.weights_of_epoch),
        "model": f"{model}, by its keys" if result.recognised else model,
        "data set": result.dataset or "unknown",
        "parameters": f"{result.num_params:,}",
        "tensors": f"{result.num_tensors:,}",
        "values": finite,
        "optimizer": "yes" if result.has_optimizer else "no",
        "size": f"{result.size:,} bytes",
        "sha256": result.sha256 or "not read",
    }
    parts: list[Block] = [Table(result.checkpoint, ("entry", "value"), tuple(facts.items()), text_columns=2)]
    # Statistics of batch norm come after what is learnt.
    ordered = sorted(result.tensors, key=lambda each: each.name.rpartition(".")[2] in STATISTICS)
    shown = ordered[: result.show_keys]
    if shown:
        rows = tuple((t.name, "x".join(map(str, t.shape)) or "scalar", t.dtype) for t in shown)
        more = "; --show-keys N: more" if len(shown) < result.num_tensors else ""
        title = f"Tensors ({len(shown)} of {result.num_tensors}{more})"
        parts.append(Table(title, ("name", "shape", "type"), rows, text_columns=3))
    return parts if result.symmetries is None else parts + _of_symmetries(result.symmetries)


def _of_symmetries(found: Symmetries) -> list[Block]:
    """The groups, every axis that moves with them, and the layers whose units have to stay."""
    if not found.groups:
        parts: list[Block] = [Lines(("No units can be exchanged.",))]
    else:
        nested = any(group.within for group in found.groups)
        groups = tuple(
            (
                group.name,
                ", ".join(group.layers),
                *((group.within or "",) if nested else ()),
                f"{group.units:,}",
                f"{group.rows_per_unit:,}",
            )
            for group in found.groups
        )
        moves = tuple(
            (group.name, move.tensor, f"{move.axis}", f"{move.length:,}", f"{move.per_unit:,}")
            for group in found.groups
            for move in group.moves
        )
        of = f"{found.units:,} in {len(groups)} {'group' if len(groups) == 1 else 'groups'}"
        parts = [
            Table(
                f"Exchangeable units ({of})",
                ("group", "layers", *(("in each of",) if nested else ()), "units", "rows per unit"),
                groups,
                text_columns=2 + nested,
            ),
            Table(
                "Axes that move with them",
                ("group", "tensor", "axis", "length", "per unit"),
                moves,
                text_columns=2,
                keys=2,
            ),
        ]
    if found.fixed:
        title = f"Not exchangeable ({len(found.fixed)})"
        parts.append(Table(title, ("layer", "reason"), tuple(found.fixed.items()), text_columns=2))
    return parts
