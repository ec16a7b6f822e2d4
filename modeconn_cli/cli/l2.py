"""`mcx l2`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.cli.tables import (
    EPOCHS,
    Block,
    Lines,
    Table,
    distance_block,
    ends,
    layers_block,
    number,
    percent,
    with_error,
)
from modeconn_cli.engine.settings.l2 import L2Settings

if TYPE_CHECKING:
    from modeconn_cli.engine.commands.l2 import L2ManyResult, L2Result
    from modeconn_cli.engine.commands.l2.summary import SummaryRow
    from modeconn_cli.engine.commands.l2.trajectory import Waypoint
    from modeconn_cli.engine.commands.l2.weight_space import LeftOut

app = typer.Typer()

LISTED = 20  # tensors of a kind that were left out; the JSON has all
PAIRS = 60  # in a table; the others are in the files


@app.command("l2")
@takes(L2Settings, "l2")
def l2(settings: L2Settings, report: Report) -> None:
    """Measure how far apart checkpoints are, in weight space and in what they compute.

      raw ‖Δ‖₂ · normalized ‖Δ‖₂/√P · relative ‖Δ‖₂/‖θ₁‖₂, P parameters in all

    Two checkpoints give the documented statistics and layers; several, or the folder of a run, a table of pairs
    and, for the epochs of a run, its trajectory. --output-dir keeps a JSON file per pair, summaries and figures.

    Examples, after the first of mcx train:
      mcx l2 runs/seed0/checkpoint-5.pt runs/seed1/checkpoint-5.pt
      mcx l2 runs/seed0/checkpoint-5.pt runs/seed1/checkpoint-5.pt --metric l2,cosine,functional
      mcx l2 runs/seed0 --pairs all --output-dir distances

    More: mcx help files.
    """
    from modeconn_cli.engine.commands import l2 as engine

    def shown(result: L2Result | L2ManyResult) -> list[Block]:
        return table(result) if isinstance(result, engine.L2Result) else many_table(result)

    report.run(engine.run, settings, shown)


def many_table(result: L2ManyResult) -> list[Block]:
    kinds: dict[str, tuple[str, Callable[[Any], str]]] = {
        "pair": ("pair", _pair_names(result)),
        "total_l2": ("total L2", number),
        "normalized_l2": ("normalized L2", number),
        "relative": ("relative", percent),
        "total_params": ("parameters", lambda value: "n/a" if value is None else f"{value:,}"),
        "cosine_distance": ("cosine", number),
        "fisher_distance": ("Fisher", number),
        "disagreement": ("disagreement", percent),
        "kl": ("KL", number),
        "logit_distance": ("logits", number),
        "modulo_permutation": ("permuted", number),
        "left_out": ("left out", lambda value: "n/a" if value is None else f"{value:,}"),
        "status": ("status", str),
    }
    shown, omitted = ends(result.pairs, PAIRS, "pairs")

    def cell(row: SummaryRow, name: str) -> str:
        value, text = getattr(row, name), kinds[name][1]
        error = getattr(row, f"{name}_stderr", None)
        return text(value) if error is None else with_error(value, error, text)

    names = [name for name in result.columns if name in kinds]
    columns = tuple(kinds[name][0] for name in names)
    rows = tuple(tuple(cell(row, name) for name in names) for row in shown)
    parts: list[Block] = [Table(f"Distances of {len(result.checkpoints)} checkpoints", columns, rows)]
    if result.trajectory is not None:
        parts.append(trajectory_table(result.trajectory, omitted))
    if omitted:
        parts.append(Lines(tuple(omitted)))
    return parts


def _pair_names(result: L2ManyResult) -> Callable[[str], str]:
    """The names of pairs as the table shows them: only what tells the checkpoints apart."""
    labels = list(result.checkpoints)
    if result.trajectory is not None:
        what, short = "epoch ", {row.label: str(row.epoch) for row in result.trajectory}
    else:
        what, short = distinct(labels)
    shown = {
        f"{first}-{second}": f"{what}{short[first]}–{short[second]}"
        for first, second in itertools.combinations(labels, 2)
    }
    return lambda name: shown.get(name, name)


def distinct(labels: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Labels without what all share, and a word to put before them where only their last number differs.

    >>> distinct(["checkpoint-0", "checkpoint-50"])
    ('epoch ', {'checkpoint-0': '0', 'checkpoint-50': '50'})
    >>> distinct(["wide-sgd-a.best", "wide-adam-a.best"])
    ('', {'wide-sgd-a.best': 'sgd', 'wide-adam-a.best': 'adam'})
    """
    ends = {label: label[len(label.rstrip("0123456789")) :] for label in labels}
    before = {label.removesuffix(end) for label, end in ends.items()}
    if len(before) == 1 and all(ends.values()):
        what = before.pop().rstrip("-_. ")
        return f"{'epoch' if what == 'checkpoint' else what} ".lstrip(), ends
    pieces = [re.split(r"([-_.])", label) for label in labels]  # with what separates them
    while min(map(len, pieces)) > 2 and len({tuple(piece[:2]) for piece in pieces}) == 1:
        pieces = [piece[2:] for piece in pieces]
    while min(map(len, pieces)) > 2 and len({tuple(piece[-2:]) for piece in pieces}) == 1:
        pieces = [piece[:-2] for piece in pieces]
    return "", {label: "".join(piece) for label, piece in zip(labels, pieces, strict=True)}


def trajectory_table(rows: Sequence[Waypoint], omitted: list[str]) -> Table:
    """A row per epoch; a line is added to `omitted` where some are not shown."""
    shown, left = ends(rows, EPOCHS, "epochs")
    omitted += left
    columns = ("epoch", "from start", "from end", "step", "length", "relative", "turn")
    cells = tuple(
        (
            str(row.epoch),
            *(number(value) for value in (row.from_start, row.from_end, row.step, row.length)),
            percent(row.relative),
            number(row.turn, 3),
        )
        for row in shown
    )
    return Table("Trajectory", columns, cells, text_columns=0)


def table(result: L2Result) -> list[Block]:
    """The documented blocks, where L2 is asked for, and one for all further metrics."""
    parts: list[Block] = []
    distance, metrics = result.distance, result.settings.metric
    if "l2" in metrics:
        parts.append(distance_block(distance))
    further: list[tuple[str, str]] = []
    if "cosine" in metrics:
        further.append(("Cosine distance", number(distance.cosine_distance)))
    if "fisher" in metrics:
        value = with_error(distance.fisher_distance, distance.fisher_distance_stderr, number)
        further.append((f"Fisher distance ({_samples(result, 'fisher')})", value))
    if result.functional is not None:
        where, found = _samples(result, "functional"), result.functional
        further += [
            (f"Disagreement ({where})", with_error(found.disagreement, found.disagreement_stderr, percent)),
            ("Mean KL divergence", with_error(found.kl, found.kl_stderr, number)),
            (
                "Mean distance of logits",
                with_error(found.logit_distance, found.logit_distance_stderr, number),
            ),
        ]
    if result.permuted is not None:
        words = {"swap": "with the swap undone", "file": "permuted"}
        how = words.get(result.permuted.how, f"aligned by {result.permuted.how}")
        further.append((f"Total L2 {how}", number(result.permuted.distance.total_l2)))
    if further:
        width = max(len(name) for name, _ in further) + 1
        lines = (f"  {name + ':':{width}} {value}" for name, value in further)
        parts.append(Lines(("Further distances:", *lines)))
    if metrics != ("functional",):
        parts.append(layers_block(distance, result.settings.show_top_k, result.settings.order))
    if result.left_out is not None:
        parts.append(_left_out(result.left_out))
    return parts


def _left_out(found: LeftOut) -> Lines:
    """What --common did not compare, a line per tensor up to LISTED of a kind."""
    kinds = [
        ("only in the first", list(found.only_first)),
        ("only in the second", list(found.only_second)),
        ("of two shapes", [f"{name} {a} and {b}" for name, (a, b) in found.shapes.items()]),
    ]
    lines = [f"Left out ({found.count} tensors):"]
    for title, names in kinds:
        more = [f"… and {len(names) - LISTED:,} more"] if len(names) > LISTED else []
        lines += [f"  {title}: {name}" for name in [*names[:LISTED], *more]]
    return Lines(tuple(lines))


def _samples(result: L2Result, metric: str) -> str:
    facts = result.data[metric]
    return f"{facts['samples']:,} {facts['split']} samples of {facts['dataset']}"
