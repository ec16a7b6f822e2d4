"""Names of the classes, as the user maps them in a table or an object."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import yaml

from modeconn_cli.engine.commands.correlate.sources import existing
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import columns, files, strict_json

DEEPEST = 2  # collections within each other


def read(path: Path) -> dict[int, str]:
    """class id -> name. Raises InputError for what is no such table."""
    with files.reading(existing(path)):
        try:
            text = path.read_text("utf-8-sig")
            pairs = _rows(text, path) if path.suffix.lower() == ".csv" else _entries(text, path)
        except (ValueError, csv.Error, yaml.YAMLError, RecursionError) as error:
            raise InputError(
                f"'{path}' is not a readable map of classes: {' '.join(str(error).split())}"
            ) from error
    ids = columns.sample_ids([number for number, _ in pairs], path, what="class ids")
    return dict(zip(ids.tolist(), (name for _, name in pairs), strict=True))


def _rows(text: str, path: Path) -> list[tuple[str, str]]:
    rows = list(csv.DictReader(text.splitlines(keepends=True)))
    heads = rows[0].keys() if rows else ()
    for name in ("class_id", "class_name"):
        columns.id_column([head for head in heads if head], path, (name,))
    return [(row["class_id"], row["class_name"] or "") for row in rows]


def _of_yaml(text: str) -> object:
    """The value of a YAML text. Raises ValueError for nesting, which PyYAML takes minutes to find too deep."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError("it is nested, expected a class id and a name per line")
    return yaml.load(text, Loader=yaml.BaseLoader)


def _entries(text: str, path: Path) -> list[tuple[str, str]]:
    # BaseLoader keeps names such as `no` and `1e3` as they are written.
    content = strict_json.parsed(text, path) if path.suffix.lower() == ".json" else _of_yaml(text)
    if not isinstance(content, Mapping) or any(isinstance(name, list | dict) for name in content.values()):
        raise InputError(
            f"'{path}' is not an object of class ids and names", 'write {"0": "cat", "1": "dog"}'
        )
    return [(str(number), str(name)) for number, name in content.items()]
