"""The pieces that results are shown with. The only place where numbers are rounded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

    from modeconn_cli.engine.networks.distances import Distance


@dataclass(frozen=True)
class Table:
    """A titled table; text columns are flush left, all others flush right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1


@dataclass(frozen=True)
class Lines:
    """Text that is printed as it stands, on a terminal and in a pipe."""

    lines: tuple[str, ...]


Block = Table | Lines
T = TypeVar("T")
EPOCHS = 12  # in a table; the others are in the files


def ends(rows: Sequence[T], most: int, what: str) -> tuple[list[T], list[str]]:
    """The first and the last rows where there are more than `most`, with the line that says so."""
    if len(rows) <= most:
        return list(rows), []
    return [*rows[: most // 2], *rows[-(most // 2) :]], [f"Shown: {most} of {len(rows)} {what}"]


def number(value: float | None, digits: int = 6) -> str:
    """A number with a fixed count of decimals, `n/a` where there is none."""
    return "n/a" if value is None or value != value else f"{value:.{digits}f}"


def epoch_words(epoch: int | None, weights_of: int | None) -> str:
    """An epoch, and that of the weights where a task has ended with its best ones."""
    if epoch is None:
        return "unknown"
    return f"{epoch}" if weights_of in (None, epoch) else f"{epoch} (weights of {weights_of})"


def percent(ratio: float | None, digits: int = 2) -> str:
    """A ratio as a percentage, with its sign."""
    return "n/a" if ratio is None else f"{100 * ratio:.{digits}f}%"


def with_error(value: float | None, error: float | None, shown: Callable[[float | None], str]) -> str:
    """A value with its standard error, where there is one."""
    known = value is not None and error is not None and error == error
    return f"{shown(value)} ± {shown(error)}" if known else shown(value)


def plain_text(parts: Sequence[Block]) -> str:
    """The parts as text for pipes and files: no colour, no box, never cut."""
    return "\n".join(line for part in parts for line in (*_plain(part), "")).rstrip("\n") + "\n"


def _plain(part: Block) -> list[str]:
    if isinstance(part, Lines):
        return list(part.lines)
    grid = [part.columns, *part.rows]
    widths = [max(len(row[i]) for row in grid) for i in range(len(part.columns))]
    lines = [part.title] if part.title else []
    for row in grid:
        cells = [
            cell.ljust(width) if i < part.text_columns else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines


def draw(console: Console, parts: Sequence[Block]) -> None:
    """The parts on a terminal: ruled tables, headings in bold."""
    from rich.table import Table as RichTable
    from rich.text import Text

    for part in parts:
        if isinstance(part, Lines):
            for line in part.lines:
                heading = line.endswith(":") and not line.startswith(" ")
                console.print(Text(line, style="bold" if heading else ""), soft_wrap=True)
            console.print()
            continue
        table = RichTable(title=Text(part.title, style="bold") if part.title else None, title_justify="left")
        for i, column in enumerate(part.columns):
            table.add_column(Text(column), justify="left" if i < part.text_columns else "right")
        for row in part.rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)


def distance_block(distance: Distance) -> Lines:
    """The documented statistics of a pair of networks."""
    return Lines(
        (
            "L2 Distance Statistics:",
            f"  Total L2 distance:      {number(distance.total_l2)}",
            f"  Normalized L2 distance: {number(distance.normalized_total_l2)}",
            f"  Total parameters:       {distance.total_params:,}",
        )
    )


ORDER_NAMES = {
    "normalized_l2": "normalized L2 distance",
    "raw_l2": "raw L2 distance",
    "relative_distance": "relative distance",
    "cosine_distance": "cosine distance",
    "fisher_distance": "Fisher distance",
}


def layers_block(distance: Distance, count: int, order: str) -> Lines:
    """The documented list of the most distant layers."""
    chosen = distance.top(count, order)
    lines = [f"Top {len(chosen)} layers by {ORDER_NAMES[order]}:"]
    for rank, layer in enumerate(chosen, start=1):
        shown = {
            "normalized_l2": number(layer.normalized_l2),
            "raw_l2": number(layer.raw_l2),
            "relative_distance": percent(layer.relative_distance, 4),
            "cosine_distance": number(layer.cosine_distance),
            "fisher_distance": number(layer.fisher_distance),
        }[order]
        size = f"(raw: {number(layer.raw_l2, 2)}, params: {layer.n_params:,})"
        lines.append(f"  {rank}. {layer.layer_name}: {shown} {size}")
    return Lines(tuple(lines))
