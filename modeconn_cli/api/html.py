"""Tables and figures as a notebook shows them."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modeconn_cli.cli.tables import Block

KINDS = {".png": "image/png", ".svg": "image/svg+xml", ".gif": "image/gif"}
FIGURES = (*KINDS, ".pdf")
LARGEST = 4 << 20  # bytes of a figure that is put into a notebook
MOST = 6  # figures


def figures(
    made: Sequence[Path], document: Mapping[str, Any], folder: Path | None, command: str
) -> tuple[Path, ...]:
    """The figures of a result: those that were made now, those it names, and those of its job, which may be complete
    since long. A path is as the result has it.
    """
    from modeconn_cli.engine.results import jobs, manifest

    listed = [] if folder is None else manifest.read(jobs.private_folder(folder, command)) or {}
    paths = [*made, *map(Path, _texts(document)), *(Path(folder or ".") / place for place in listed)]
    drawn = [path for path in paths if path.suffix in FIGURES and path.is_file()]
    return tuple({path.resolve(): path for path in reversed(drawn)}[each] for each in _resolved(drawn))


def _resolved(paths: Sequence[Path]) -> list[Path]:
    return list(dict.fromkeys(path.resolve() for path in paths))


def _texts(value: Any) -> Iterator[str]:
    """Every text in a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)


def page(blocks: Sequence[Block], drawn: Sequence[Path]) -> str:
    """The tables of a result, then its figures; of many the first ones, and the places of the others."""
    from modeconn_cli.cli.tables import Lines

    parts = []
    for block in blocks:
        if isinstance(block, Lines):
            parts.append(f"<pre>{escape(chr(10).join(block.lines))}</pre>")
            continue
        align = ["left" if i < block.text_columns else "right" for i in range(len(block.columns))]
        rows = [_row("th", block.columns, align), *(_row("td", row, align) for row in block.rows)]
        parts.append(f"<table><caption>{escape(block.title)}</caption>{''.join(rows)}</table>")
    there = [path for path in drawn if path.is_file()]
    shown = [path for path in there if path.suffix in KINDS and path.stat().st_size <= LARGEST][:MOST]
    parts += [_figure(path) for path in shown]
    others = [str(path) for path in there if path not in shown]
    if others:
        said = f"{len(others)} {'more ' if shown else ''}figure{'s' if len(others) > 1 else ''}"
        parts.append(f"<p>{said}: {escape(', '.join(others))}</p>")
    return "".join(parts)


def _row(tag: str, cells: Sequence[str], align: Sequence[str]) -> str:
    shown = (
        f'<{tag} style="text-align:{side}">{escape(cell)}</{tag}>'
        for side, cell in zip(align, cells, strict=True)
    )
    return f"<tr>{''.join(shown)}</tr>"


def _figure(path: Path) -> str:
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    source = f"data:{KINDS[path.suffix]};base64,{content}"
    return f'<figure><img src="{source}" style="max-width:45em"><figcaption>{escape(str(path))}</figcaption></figure>'
