"""`mcx memo`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.cli.tables import Block, Lines, Table, number, percent, with_error
from modeconn_cli.engine.settings.memo import MemoSettings

if TYPE_CHECKING:
    from modeconn_cli.engine.commands.memo import MemoResult

app = typer.Typer()


@app.command("memo")
@takes(MemoSettings, "memo")
def memo(settings: MemoSettings, report: Report) -> None:
    """Measure how far each training image is memorised, from many networks on random shares of the data.

      mem(i) = P(right on i | trained on i) − P(right on i | not trained on i)

    Feldman and Zhang 2020 (arXiv:2008.03703). Small networks are trained many at once, each as it would be alone.
    Writes memo_scores.csv for train --memo-scores and correlate --memo, influence.csv with the pairs of a training and
    a held-out image above --influence-threshold, and memo_networks.npz, from which both can be computed again.
    Labels are those that are trained on: with --label-noise the flipped ones.

    Examples:
      mcx memo --model mlp --dataset digits --models 16 --epochs 5 --schedule linear --wd 0 --output-dir memo
      mcx memo --model mlp --dataset digits --label-noise 0.1 --models 16 --epochs 5 --output-dir memo_noisy

    More: mcx correlate --help, mcx help files.
    """
    from modeconn_cli.engine.commands import memo as engine

    report.run(engine.run, settings, table)


def table(result: MemoResult) -> list[Block]:
    used = result.models - len(result.left_out)
    found = result.memorisation
    keys = ("mean", "std", "q5", "q50", "q95")
    title = (
        f"Memorisation of {result.samples:,} images of {result.dataset} by {used} networks {result.model}, "
        f"each trained on {result.trained_on:,}"
    )
    errors = result.standard_error
    lines = [
        f"Standard error: median {number(errors['median'], 4)}, largest {number(errors['largest'], 4)}",
        f"Right answers: {percent(result.right_in)} trained on, {percent(result.right_out)} left out, "
        f"{percent(result.right_held_out)} held out",
        f"Influences above {result.influence_threshold:g}: {result.influences:,} pairs with "
        f"{result.held_out_samples:,} held-out images",
    ]
    if result.flipped is not None:
        lines.append(
            f"Flipped labels: {result.flipped:,}, mean {number(result.flipped_memo_score, 4)}; right answers "
            f"{percent(result.flipped_right_in)} trained on"
        )
    if result.undefined:
        lines.append(f"Without a score: {result.undefined:,} images, in all or in none of the sets")
    if result.left_out:
        lines.append(f"Left out: {len(result.left_out)} networks that have become NaN or infinite")
    most = tuple(
        (
            str(each.sample_id),
            str(each.label),
            with_error(each.memo_score, each.standard_error, lambda value: number(value, 4)),
            *(() if each.flipped is None else ("yes" if each.flipped else "no",)),
        )
        for each in result.most_memorised
    )
    flipped = () if result.flipped is None else ("flipped",)
    return [
        Table(title, keys, (tuple(number(found[key], 4) for key in keys),), text_columns=0, keys=0),
        Table("Most memorised", ("sample", "label", "memorisation", *flipped), most, text_columns=0),
        Lines(tuple(lines)),
    ]
