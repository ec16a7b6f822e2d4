"""`mcx demo`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.cli.tables import Lines, Part, Table, number, percent
from modeconn_cli.engine.settings.demo import DemoSettings

if TYPE_CHECKING:
    from modeconn_cli.engine.demo import DemoResult

app = typer.Typer()


@app.command("demo")
@takes(DemoSettings, "demo")
def demo(settings: DemoSettings, report: Report) -> None:
    """Run the whole story on the built-in digits: no download, about a minute on two cores.

    Trains two networks, swaps a pair of neurons in one and proves the swap, measures distances, trains Bezier
    curves, evaluates and analyses them, and draws the result.
    """
    from modeconn_cli.engine import demo as engine

    report.emit(engine.run(settings, report.runtime(settings)), table)


def table(result: DemoResult) -> list[Part]:
    first, second = result.accuracies
    i, j = result.swapped_pair
    columns = (
        "pair", "L2", "normalized", "line barrier", "curve barrier", "line error", "curve error", "curve length",
    )  # fmt: skip
    rows = tuple(
        (
            pair.name,
            number(pair.total_l2, 4),
            number(pair.normalized_l2),
            f"{number(pair.line_barrier, 4)} nats",
            f"{number(pair.curve_barrier, 4)} nats",
            f"{number(pair.line_error_barrier, 2)} pp",
            f"{number(pair.curve_error_barrier, 2)} pp",
            number(pair.length, 2),
        )
        for pair in result.pairs
    )
    return [
        Lines(
            (
                f"seed0 and seed1 classify {number(first, 2)}% and {number(second, 2)}% of the test digits correctly.",
                f"Swapping units {i} and {j} of {result.swapped_layer} in seed0 changes its outputs by at most "
                f"{result.max_output_diff:.1e}.",
            )
        ),
        Table("From seed0 to the other network (barriers: max_gap on the test images)", columns, rows),
        Lines(
            (
                "Half-way along the swap's curve the squared distance from seed0 lies to "
                f"{percent(result.share_swapped, 1)} in the swapped layer, {percent(result.share_neighbours, 1)} in "
                f"the layers that read it, {percent(result.share_elsewhere, 1)} elsewhere.",
                f"Figure: {result.figure}",
                f"Animation: {result.animation}",
            )
        ),
    ]
