"""`mcx swap`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.cli.tables import Block, Lines, distance_block, layers_block, number
from modeconn_cli.engine.settings.swap import SwapSettings

if TYPE_CHECKING:
    from modeconn_cli.engine.commands.swap import SwapResult

app = typer.Typer()


@app.command("swap")
@takes(SwapSettings, "swap")
def swap(settings: SwapSettings, report: Report) -> None:
    """Exchange neurons of a network and prove that its function stays the same.

    Writes <output>, <stem>_metadata.json and <stem>_layer_distances.json.

    Examples, after the first of mcx train:
      mcx swap runs/seed0/checkpoint-5.pt --output swapped.pt
      mcx swap runs/seed0/checkpoint-5.pt --mirror --verify --output mirrored.pt

    More: mcx help models, mcx help files.
    """
    from modeconn_cli.engine.commands import swap as engine

    report.run(engine.run, settings, table)


def table(result: SwapResult) -> list[Block]:
    check = result.verification
    lines = ["Verification:", f"  Level:                  {check.level}"]
    if check.acc_original is not None:
        lines += [
            f"  Accuracy, original:     {number(check.acc_original, 2)}%",
            f"  Accuracy, swapped:      {number(check.acc_swapped, 2)}%",
            f"  Equal predictions:      {number(check.pred_match_rate, 2)}%",
        ]
    if check.max_output_diff is not None:
        lines.append(f"  Largest output change:  {check.max_output_diff:.3g}")
    if check.is_equivalent is not None:
        lines.append(f"  Equivalent:             {'yes' if check.is_equivalent else 'no'}")
    return [
        distance_block(result.distance),
        layers_block(result.distance, 5, "normalized_l2"),
        Lines(tuple(lines)),
    ]
