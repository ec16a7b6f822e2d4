"""`mcx demo`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.cli.tables import Block, Lines, Table, number, percent
from modeconn_cli.engine.settings.demo import DemoSettings

if TYPE_CHECKING:
    from modeconn_cli.engine.stories.demo import DemoResult
    from modeconn_cli.engine.stories.demo.samples import Samples

app = typer.Typer()


@app.command("demo")
@takes(DemoSettings, "demo")
def demo(settings: DemoSettings, report: Report) -> None:
    """Run the whole story on the built-in digits: no download, about a minute on two cores.

    Trains two networks, swaps a pair of neurons in one and proves the swap, measures distances, trains Bezier curves,
    evaluates and analyses them, aligns one network to the other, and draws the result. With --full a third network is
    trained with 5 % of the labels flipped, every sample is scored by every metric, and the metrics are joined and
    correlated.

    Examples:
      mcx demo
      mcx demo --epochs 2 --curve-epochs 2 --num-points 5 --output-dir quick

    More: mcx COMMAND --help for each of its steps.
    """
    from modeconn_cli.engine.stories import demo as engine

    report.run(engine.run, settings, table)


def table(result: DemoResult) -> list[Block]:
    return [*_networks(result), *([] if result.samples is None else _samples(result.samples))]


def _networks(result: DemoResult) -> list[Block]:
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
            )
        ),
        Table(
            "On the straight line from seed0 to seed1 (max_gap on the test images)",
            ("seed1", "L2", "barrier", "error"),
            tuple(
                (
                    line.name,
                    number(line.total_l2, 4),
                    f"{number(line.barrier, 4)} nats",
                    f"{number(line.error_barrier, 2)} pp",
                )
                for line in result.aligned
            ),
        ),
    ]


def _samples(samples: Samples) -> list[Block]:
    columns = tuple(name for name in samples.hardest[0] if name != "sample_id")

    def cell(value: object) -> str:
        return number(value, 4) if isinstance(value, float) else str(value)

    rows = tuple(
        (
            str(row["sample_id"]),
            *(("yes" if row[name] else "no") if name == "flipped" else cell(row[name]) for name in columns),
        )
        for row in samples.hardest
    )
    pairs = tuple(
        (each.metric_a, each.metric_b, f"{each.n:,}", number(each.pearson, 4), number(each.spearman, 4))
        for each in samples.correlations
    )
    found = ", ".join(f"{name} {number(value, 4)}" for name, value in samples.auroc.items())
    return [
        Table(
            f"The hardest samples of {samples.epochs} epochs with {percent(samples.noise, 0)} of the labels flipped",
            ("sample id", *columns),
            rows,
            text_columns=0,
        ),
        Table(
            "What the metrics of a sample share",
            ("metric", "metric", "n", "Pearson", "Spearman"),
            pairs,
            text_columns=2,
            keys=2,
        ),
        Lines((f"Finding the {samples.flipped} flipped labels (AUROC): {found}",)),
    ]
