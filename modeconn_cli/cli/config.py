"""Configuration files: flat YAML, every value as the text a flag would get."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from modeconn_cli.engine.errors import SettingsError, did_you_mean

LARGEST = 1_000_000  # bytes; a configuration is a page of text

# Keys of the original experiments that have no meaning here.
IGNORED = frozenset({"defaults", "experiment_name", "project_name", "use_wandb", "wandb_project", "run_name"})

Value = str | list[str]


def read(path: Path, known: Mapping[str, str], command: str) -> tuple[dict[str, Value], list[str]]:
    """The settings a file gives, by setting name, and the keys that were ignored.

    `known` maps each accepted key to its setting. Values stay text, so that they meet the parser of the
    flag they stand for. Raises SettingsError with the line for anything but a flat mapping of known keys.
    """
    root = _compose(path)
    if root is None:
        return {}, []
    if not isinstance(root, yaml.MappingNode):
        raise SettingsError(f"config {path}: expected 'key: value' lines")
    values: dict[str, Value] = {}
    ignored: list[str] = []
    seen: set[str] = set()
    for key_node, value_node in root.value:
        where = f"config {path} line {key_node.start_mark.line + 1}"
        key = _scalar(key_node, where)
        name = key.replace("-", "_")
        if name in seen:
            raise SettingsError(f"{where}: duplicate key '{key}'")
        seen.add(name)
        if name in known:
            if known[name] in values:
                raise SettingsError(f"{where}: '{key}' gives '{known[name]}' a second time")
            values[known[name]] = _value(value_node, where)
        elif name in IGNORED:
            ignored.append(key)
        else:
            hint = did_you_mean(name, known)
            note = f" ({hint})" if hint.startswith("did you mean") else ""
            raise SettingsError(f"{where}: unknown key '{key}' for '{command}'{note}", "" if note else hint)
    return {name: value for name, value in values.items() if value not in ("null", "~", "")}, ignored


def _compose(path: Path) -> yaml.Node | None:
    try:
        if path.stat().st_size > LARGEST:
            raise SettingsError(f"config {path} is larger than {LARGEST:,} bytes")
        text = path.read_text("utf-8")
    except OSError as error:
        raise SettingsError(f"config {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"config {path} is not UTF-8 text") from error
    try:
        for token in yaml.scan(text, Loader=yaml.BaseLoader):
            if isinstance(token, yaml.TagToken | yaml.AliasToken | yaml.AnchorToken):
                line = token.start_mark.line + 1
                raise SettingsError(f"config {path} line {line}: tags, anchors and aliases are not accepted")
        return yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        line = (
            error.problem_mark.line + 1
            if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark
            else 1
        )
        problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else str(error)
        raise SettingsError(f"config {path} line {line}: not YAML: {problem}") from error


def _scalar(node: yaml.Node, where: str) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise SettingsError(f"{where}: expected a single value")
    return str(node.value)


def _value(node: yaml.Node, where: str) -> Value:
    if isinstance(node, yaml.SequenceNode):
        return [_scalar(item, where) for item in node.value]
    return _scalar(node, where)


def write(values: Mapping[str, object]) -> str:
    """Settings as the text of a configuration file; `read` gives them back."""
    rows = {key: value for key, value in values.items() if value is not None and value != []}
    return yaml.safe_dump(rows, sort_keys=False, allow_unicode=True, default_flow_style=None, width=1000)
