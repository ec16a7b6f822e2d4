"""`mcx csl`: score, aggregate."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.cli.tables import EPOCHS, Block, Lines, Table, ends, number, with_error
from modeconn_cli.engine.settings.csl import CslAggregateSettings, CslScoreSettings

if TYPE_CHECKING:
    from modeconn_cli.engine.commands.csl.aggregate import CslAggregateResult
    from modeconn_cli.engine.commands.csl.foreign import CslForeignResult
    from modeconn_cli.engine.commands.csl.score import CslScoreResult

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)


@app.command("score")
@takes(CslScoreSettings, "csl score")
def score(settings: CslScoreSettings, report: Report) -> None:
    """Score the loss and the gradient norm of every sample at every checkpoint of a run.

    Writes loss_*.npy, loss_grad_*.npy and, with weight decay, loss_ce_*.npy (the loss without it) per epoch, in id
    order, beside sample_ids.npy. Of the same logits dynamics_*.npz per epoch holds the label's logit, the largest
    other one, the label's probability, whether it is correct, the entropy and |p - onehot|, which csl aggregate makes
    its table of scores of. Epochs that are there are not scored again; those of earlier versions, without
    dynamics_*.npz, are.

    Examples, after the first of mcx train:
      mcx csl score runs/seed0 --output-dir scores
      mcx csl score runs/seed0 --grad input --end-epoch 2 --output-dir scores_input

    More: mcx csl aggregate --help, mcx help files.
    """
    from modeconn_cli.engine.commands.csl import score as engine

    report.run(engine.run, settings, score_table)


@app.command("aggregate")
@takes(CslAggregateSettings, "csl aggregate")
def aggregate(settings: CslAggregateSettings, report: Report) -> None:
    """Sum losses and gradient norms over epochs: cumulative sample loss and learning time.

      CSL_i = Σ_t loss(w_t, sample i)
      lt_i = 1 − share of epochs whose running mean of its gradient norm is < tau

    Ravikumar et al. 2025. Writes csl_*.npy, lt_*.npy, lt_first_epoch_*.npy, metrics_*.json and figures; reads the
    original's arrays too. lt_first_epoch is the paper's first epoch below tau, which may be the one before training
    for every sample; lt_stays_*.npy is the first epoch from which on a sample stays below.

    scores_*.csv has a line per sample and a column per score of training dynamics that the arrays allow: AUM and
    margins, confidence, variability, correctness, EL2N, forgetting events, entropy, dynamic uncertainty and others;
    scores_*.json says what each is, which end is hard, and why others are absent. mcx correlate --scores takes the
    table.

    --from makes the table of what other tools have recorded: aum's records, cartography's training_dynamics,
    cleanlab's labels and pred_probs, memorization scores; --export writes their files, in their definitions.

    Examples, after the first of mcx csl score:
      mcx csl aggregate scores --output-dir scores/csl --export aum,cartography
      mcx csl aggregate --from scores/csl/aum_values_digits_run1_noise_0.csv --output-dir scores/aum

    More: mcx correlate --help, mcx help files.
    """
    if settings.from_files:
        from modeconn_cli.engine.commands.csl import foreign

        report.run(foreign.run, settings, foreign_table)
        return
    from modeconn_cli.engine.commands.csl import aggregate as engine

    report.run(engine.run, settings, aggregate_table)


def score_table(result: CslScoreResult) -> list[Block]:
    chosen, omitted = ends(result.epochs, EPOCHS, "epochs")
    rows = tuple(
        (
            str(each.epoch),
            f"{result.samples - each.skipped:,}",
            number(each.mean_loss),
            number(each.shift),
            number(each.mean_grad),
            str(each.nonfinite),
            each.checkpoint,
        )
        for each in chosen
    )
    columns = (
        "epoch",
        "samples",
        "mean loss",
        "weight decay",
        f"mean grad norm ({result.grad})",
        "non-finite",
        "checkpoint",
    )
    title = f"{result.dataset}, {result.split}: {result.samples:,} samples at {len(result.epochs)} epochs"
    lines = [f"Scored in this run: {result.scored} epochs"]
    if result.samples_per_second is not None:
        lines[0] += f", {result.samples_per_second:,.0f} samples per second"
    form = f", form {result.wd_form}" if result.weight_decay else ""
    lines.append(f"Weight decay: {result.weight_decay:g}{form} ({result.wd_origin})")
    lines += [*omitted, f"Gradient norms: {result.grad_method}"]
    return [Table(title, columns, rows, text_columns=0), Lines(tuple(lines))]


def aggregate_table(result: CslAggregateResult) -> list[Block]:
    head = (
        ("epochs", f"{result.num_epochs} ({result.kept_epochs[0]} … {result.kept_epochs[-1]})"),
        ("samples", f"{result.losses_shape[1]:,}"),
        *((("losses", result.losses),) if result.losses != "of evaluation" else ()),
        ("mean CSL", number(result.mean_csl)),
        ("tau", number(result.tau)),
        *((("tau of squares", number(result.tau_sq)),) if result.tau_sq is not None else ()),
        *((("samples with NaN", f"{result.samples_with_nan:,}"),) if result.samples_with_nan else ()),
    )
    parts: list[Block] = [Table(f"CSL of {result.dataset}", ("figure", "value"), head)]
    names = [
        name
        for name in ("csl", "csl_ce", "csl_per_epoch", "lt", "lt_first_epoch", "lt_stays")
        if result.hardest and name in result.hardest[0]
    ]
    known = ("flipped",) if result.auroc else ()
    for title, rows in (("Hardest samples", result.hardest), ("Easiest samples", result.easiest)):
        cells = tuple(
            (
                str(row["sample_id"]),
                *(_value(row[name], name) for name in names),
                *("yes" if row[name] else "no" for name in known),
            )
            for row in rows
        )
        parts.append(Table(title, ("sample id", *names, *known), cells, text_columns=0))
    if result.auroc:
        cells = tuple(
            (
                name,
                f"{result.auroc_n[name]:,}",
                with_error(value, result.auroc_stderr[name], partial(number, digits=4)),
            )
            for name, value in result.auroc.items()
        )
        parts.append(Table(f"Finding the {result.flipped} flipped labels", ("metric", "n", "AUROC"), cells))
    return parts


def foreign_table(result: CslForeignResult) -> list[Block]:
    epochs = result.kept_epochs
    head = (
        ("samples", f"{result.samples:,}"),
        *((("epochs", f"{len(epochs)} ({epochs[0]} … {epochs[-1]})"),) if epochs else ()),
        ("scores", f"{len(result.scores)}"),
    )
    whys: dict[str, list[str]] = {}
    for name, why in result.absent.items():
        whys.setdefault(why, []).append(name)
    lines = [f"Columns: {', '.join(result.scores)}", f"Table: {result.scores_path}"]
    lines += [f"Absent: {', '.join(names)}: {why}" for why, names in whys.items()]
    return [Table(f"Scores of {result.kind}", ("figure", "value"), head), Lines(tuple(lines))]


def _value(value: float, name: str) -> str:
    if value != value:
        return "never" if name.startswith(("lt_first", "lt_stays")) else "n/a"
    return f"{value:g}" if name.startswith(("lt_first", "lt_stays")) else number(value)
