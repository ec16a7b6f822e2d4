"""`mcx dormant`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.cli.tables import EPOCHS, Block, Lines, Table, ends, percent, significant
from modeconn_cli.engine.settings.dormant import DormantSettings

if TYPE_CHECKING:
    from modeconn_cli.engine.commands.dormant import DormantResult
    from modeconn_cli.engine.networks.activations.layers import LayerDormancy

app = typer.Typer()

LAYERS, TASKS = 40, 20  # layers in a table; the others are in the files


@app.command("dormant")
@takes(DormantSettings, "dormant")
def dormant(settings: DormantSettings, report: Report) -> None:
    """Find the share of units that every sample leaves inactive, and the dormant units of every layer.

    Writes dormant_props_epoch_*.npy (outputs of convolutions and linear layers, as documented),
    dormant_post_epoch_*.npy (after each nonlinearity; the one to trust) and dormant_layers_epoch_*.csv, with the units
    that are dormant by their mean (Sokar et al. 2023) and by their frequency (Dohare et al. 2024), and four ranks of
    each layer's features with norms and distance from epoch 0; dormant_ranks.png draws these over epochs.

    Examples, after the first of mcx train:
      mcx dormant runs/seed0 --output-dir dormant
      mcx dormant runs/seed0 --start-epoch 3 --epoch-step 2 --site post --output-dir dormant_post
      mcx dormant runs/seed0 --no-ranks --output-dir dormant_alone

    More: mcx correlate --help, mcx help files.
    """
    from modeconn_cli.engine.commands import dormant as engine

    report.run(engine.run, settings, table)


def table(result: DormantResult) -> list[Block]:
    columns = (
        "epoch", "documented mean", "documented median", "post-activation mean", "post-activation median",
        "never active", f"tau {result.tau:g}", f"frequency {result.dormant_unit_threshold:g}", "NaN samples",
    )  # fmt: skip
    epochs, omitted = ends(result.epochs, EPOCHS, "epochs")
    rows = tuple(
        (
            str(each.epoch),
            *(percent(found[key] if found else None) for found in (each.pre, each.post) for key in ("mean", "q50")),
            *(percent(value) for value in (each.never, each.tau_dormant, each.frequency_dormant)),
            str(each.nonfinite),
        )
        for each in epochs
    )  # fmt: skip
    units = ", ".join(f"{count:,} units {kind}" for kind, count in result.units.items())
    title = f"Dormant units of {result.samples:,} samples of {result.dataset} ({units})"
    layers, left = ends(result.layers, LAYERS, "layers")
    by_layer = tuple(
        (
            layer.layer,
            layer.site,
            f"{layer.units:,}",
            *(percent(value) for value in (layer.proportion, layer.never, layer.tau_dormant, layer.frequency_dormant)),
        )
        for layer in layers
    )  # fmt: skip
    lines = [f"Scored in this run: {result.scored} epochs"]
    if result.samples_per_second is not None:
        lines[0] += f", {result.samples_per_second:,.0f} samples per second"
    lines += [
        *omitted,
        *left,
        "pre: outputs of convolutions and linear layers, as documented; post: after each nonlinearity",
    ]
    return [
        Table(title, columns, rows, text_columns=0),
        Table(
            f"Layers at epoch {result.epochs[-1].epoch}",
            ("layer", "site", "units", "dormant", "never active", "tau-dormant", "frequency-dormant"),
            by_layer,
            text_columns=2,
            keys=2,
        ),
        *_ranks(result),
        Lines(tuple(lines)),
    ]


def _ranks(result: DormantResult) -> list[Block]:
    """The ranks of the layers at the last epoch, and those of the last hidden layer by task."""
    if not result.ranks:
        return []
    layers, _ = ends([row for row in result.layers if row.entropy_rank is not None], LAYERS, "layers")
    named = (
        "entropy rank",
        "srank(0.01)",
        "stable rank",
        "approximate rank",
        "feature norm",
        "weight norm",
        "moved",
        "dead",
    )
    blocks: list[Block] = []
    if layers:
        rows = tuple((row.layer, f"{row.units:,}", *_numbers(row)) for row in layers)
        title = f"Ranks of features at epoch {result.epochs[-1].epoch}"
        blocks.append(Table(title, ("layer", "units", *named), rows, text_columns=1))
    tasks, _ = ends([task for task in result.tasks if task.layers], TASKS, "tasks")
    if tasks:
        by_task = tuple(
            (str(task.task), str(task.epoch), str(task.classes_seen), *_numbers(task.layers[-1]))
            for task in tasks
        )
        title = f"Last hidden layer at the end of each task ({tasks[-1].layers[-1].layer})"
        blocks.append(Table(title, ("task", "epoch", "classes", *named), by_task, text_columns=0))
    return blocks


def _numbers(row: LayerDormancy) -> tuple[str, ...]:
    srank, approximate, dead = (
        "n/a" if value is None else f"{value:,}" for value in (row.srank, row.approximate_rank, row.dead)
    )
    entropy, stable, feature, weight, moved = (
        significant(value)
        for value in (
            row.entropy_rank,
            row.stable_rank,
            row.feature_norm,
            row.weight_norm,
            row.distance_from_init,
        )
    )
    return entropy, srank, stable, approximate, feature, weight, moved, dead
