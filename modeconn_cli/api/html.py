"""Tables and figures as a notebook shows them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modeconn_cli.cli.tables import Block

KINDS = {".png": "image/png", ".svg": "image/svg+xml", ".gif": "image/gif"}
LARGEST = 4 << 20  # bytes of a figure that is put into a notebook
MOST = 6  # figures


def page(blocks: Sequence[Block], files: Sequence[Path]) -> str:
    """The tables of a result, then its figures."""
    from modeconn_cli.cli.tables import Lines

    parts = []
    for block in blocks:
        if isinstance(block, Lines):
            parts.append(f"<pre>{escape(chr(10).join(block.lines))}</pre>")
            continue
        align = ["left" if i < block.text_columns else "right" for i in range(len(block.columns))]
        rows = [_row("th", block.columns, align), *(_row("td", row, align) for row in block.rows)]
        parts.append(f"<table><caption>{escape(block.title)}</caption>{''.join(rows)}</table>")
    figures = [path for path in files if path.suffix in KINDS and path.stat().st_size <= LARGEST]
    parts += [_figure(path) for path in figures[:MOST]]
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
    return f'<figure><img src="{source}" style="max-width:45em"><figcaption>{escape(path.name)}</figcaption></figure>'
