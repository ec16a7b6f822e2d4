"""The pieces that results are shown with. The only place where numbers are rounded."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

    from modeconn_cli.engine.networks.distances import Distance
    from modeconn_cli.engine.statistics import Spread


@dataclass(frozen=True)
class Table:
    """A titled table; text columns are flush left, all others flush right.

    The first `keys` columns say which row it is: a terminal that is too narrow shows the others in groups beside them.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1
    keys: int = 1


@dataclass(frozen=True)
class Lines:
    """Text that is printed as it stands, on a terminal and in a pipe."""

    lines: tuple[str, ...]


Block = Table | Lines
T = TypeVar("T")
EPOCHS = 12  # in a table; the others are in the files
MOST_DECIMALS = 8
# What barriers' series are called; {} stands for the held-out images.
SERIES = {
    "loss_train": "train nll",
    "error_train": "train error",
    "loss_test": "{} nll",
    "error_test": "{} error",
}


def ends(rows: Sequence[T], most: int, what: str) -> tuple[list[T], list[str]]:
    """The first and the last rows where there are more than `most`, with the line that says so."""
    if len(rows) <= most:
        return list(rows), []
    return [*rows[: most // 2], *rows[-(most // 2) :]], [f"Shown: {most} of {len(rows)} {what}"]


def number(value: float | None, digits: int = 6) -> str:
    """A number with a fixed count of decimals, `n/a` where there is none."""
    return "n/a" if value is None or value != value else f"{value:.{digits}f}"


def significant(value: float | None, digits: int = 4) -> str:
    """A number with so many decimals, and more of them where fewer than three figures would be left."""
    if value is None or value != value or value == 0 or abs(value) == math.inf:
        return number(value, digits)
    needed = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.2e}" if needed > MOST_DECIMALS else number(value, max(digits, needed))


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


def spread(value: float | Spread | None, digits: int) -> str:
    """A figure of one seed, or mean and standard deviation of several."""
    shown = partial(significant, digits=digits)
    return (
        shown(value) if value is None or isinstance(value, float) else with_error(value.mean, value.sd, shown)
    )


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
    """The parts on a terminal: ruled tables, headings in bold; no number and no path is ever cut."""
    for part in parts:
        if isinstance(part, Lines):
            _draw_lines(console, part)
            console.print()
            continue
        if part.title:
            _draw_lines(console, Lines((part.title,)), heading=True)
        for piece in fitting(part, console.width):
            if isinstance(piece, Lines):
                _draw_lines(console, piece)
            else:
                _draw_table(console, piece)


def _draw_lines(console: Console, part: Lines, *, heading: bool = False) -> None:
    from rich.text import Text

    for line in part.lines:
        bold = heading or (line.endswith(":") and not line.startswith(" "))
        for piece in wrapped(line, console.width):
            console.print(Text(piece, style="bold" if bold else ""), soft_wrap=True)


def _draw_table(console: Console, part: Table) -> None:
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable()
    widths = _widths(part, console.width)
    for i, (column, width) in enumerate(zip(part.columns, widths, strict=True)):
        table.add_column(Text(column), justify="left" if i < part.text_columns else "right", width=width)
    for row in part.rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def wrapped(line: str, width: int) -> list[str]:
    """The line in pieces that a terminal of so many columns shows without breaking words.

    One with a path is left whole: only a terminal's own line break can be copied away.
    """
    if len(line) <= width or re.search(r"/[^\s\d]|[^\s\d]/", line):
        return [line]
    return packed(line.split(" "), width, len(line) - len(line.lstrip()) + 2)


def packed(words: Sequence[str], width: int, indent: int = 2) -> list[str]:
    """Words in as few lines of at most so many columns as they fit into; all but the first are indented."""
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(" " * indent + word)
    return [line.rstrip() for line in lines]


RULE = 3  # columns of a terminal that a column takes beside its cells: a rule and two spaces


def fitting(part: Table, width: int) -> list[Block]:
    """The table as it fits into `width` columns: whole, or in groups of columns that repeat the keys.

    What does not fit even beside the keys follows row by row, and so does a single row of many columns.
    """
    least, keys = _least(part), range(part.keys)
    beside = width - 1 - sum(least[i] + RULE for i in keys)
    groups: list[list[int]] = []
    left, room = list[int](), 0
    for i in range(part.keys, len(part.columns)):
        if least[i] + RULE > beside:
            left.append(i)
            continue
        if not groups or least[i] + RULE > room:
            groups.append([])
            room = beside
        groups[-1].append(i)
        room -= least[i] + RULE
    if (len(part.columns) == 2 and left) or (len(groups) + bool(left) > 1 and len(part.rows) == 1):
        return [_stacked(part, list(range(part.keys, len(part.columns))))]
    out: list[Block] = [_of_columns(part, [*keys, *group]) for group in groups]
    return [*out, *([_stacked(part, left)] if left else [])]


def _least(part: Table) -> list[int]:
    """The least width of each column: its cells are whole, and so are the words of its heading."""
    from rich.cells import cell_len

    grid = [
        [*map(cell_len, (*column.split(), *cells))]
        for column, *cells in zip(part.columns, *part.rows, strict=True)
    ]
    return [max(lengths, default=0) for lengths in grid]


def _widths(part: Table, width: int) -> list[int]:
    """The width of each column, with headings in one line as far as there is room."""
    out = _least(part)
    room = width - 1 - sum(each + RULE for each in out)
    for i, column in enumerate(part.columns):
        more = min(max(len(column) - out[i], 0), max(room, 0))
        out[i] += more
        room -= more
    return out


def _of_columns(part: Table, chosen: Sequence[int]) -> Table:
    """The table of some columns."""
    columns = tuple(part.columns[i] for i in chosen)
    rows = tuple(tuple(row[i] for i in chosen) for row in part.rows)
    return replace(part, columns=columns, rows=rows, text_columns=sum(i < part.text_columns for i in chosen))


def _stacked(part: Table, chosen: Sequence[int]) -> Lines:
    """Some columns row by row: a line per cell, under the keys of its row."""
    lines: list[str] = []
    names = [part.columns[i] for i in chosen]
    alone = len(chosen) == 1
    if alone and len(part.columns) > 2:
        lines.append(f"{names[0]}:")
    longest = max(map(len, names)) + 1
    entry = max(len(row[0]) for row in part.rows) + 1 if len(part.columns) == 2 else 0
    for row in part.rows:
        key = ", ".join(row[: part.keys])
        if alone:
            lines.append(f"  {key + ':':{entry}} {row[chosen[0]]}")
            continue
        head = zip(part.columns[: part.keys], row, strict=False)
        lines.append(", ".join(f"{name} {cell}" for name, cell in head) + ":")
        lines += [f"  {name + ':':{longest}} {row[i]}" for name, i in zip(names, chosen, strict=True)]
    return Lines(tuple(lines))


def barriers_block(
    barriers: Mapping[str, Mapping[str, float | None]], held_out: str, positions: int, further: str = ""
) -> list[Block]:
    """The barriers of a path by definition and series; losses of barriers are without weight decay."""
    said = f"Barriers: errors in points, nll in nats{further}; the largest of {positions} positions"
    return [barriers_table("Barriers", "definition", barriers, held_out), Lines((said,))]


def barriers_table(
    title: str, key: str, barriers: Mapping[str, Mapping[str, float | None]], held_out: str
) -> Table:
    """Barriers by series, a row for each that is named."""
    heads = {name: words.format(held_out) for name, words in SERIES.items()}
    series = tuple(next(iter(barriers.values())))
    rows = tuple(
        (named, *(significant(values[name]) for name in series)) for named, values in barriers.items()
    )
    return Table(title, (key, *(heads[name] for name in series)), rows)


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
