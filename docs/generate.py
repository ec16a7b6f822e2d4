"""Pages of the documentation site that are written from the program itself: nothing of them is kept in a file.

The first page is the README, the reference are the help of every command, the topics and the docstrings of
`modeconn_cli.api`. Called by `mkdocs build` (see mkdocs.yml).
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from modeconn_cli import api
from modeconn_cli.cli import pages
from modeconn_cli.cli.commands import COMMANDS, TOPICS

ROOT = Path(__file__).parents[1]
COLUMNS = "100"  # of the help, whatever terminal the site is built in
TUTORIALS = ("python", "samples", "distances", "barriers", "planes", "symmetries", "tasks", "processes")
EXPLAINED = ("methods", "promises", "speed", "commands", "architecture")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The table of contents: it follows the tables of commands and topics."""
    config.nav = [
        {"Start": "index.md"},
        {"Tutorials": [f"{name}.md" for name in TUTORIALS]},
        {"Explained": [f"{name}.md" for name in EXPLAINED]},
        {"Topics": [f"topics/{name}.md" for name in TOPICS]},
        {
            "Reference": [
                *({f"mcx {name}": address(name)} for name in COMMANDS),
                {"Python": "reference/python.md"},
            ]
        },
        {"Project": ["contributing.md", "changes.md"]},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The generated pages beside those of docs/."""
    os.environ["COLUMNS"] = COLUMNS
    for path, text in generated():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links between the project's own documents become links between pages."""
    for name, page in (
        ("../README.md", "index.md"),
        ("../CONTRIBUTING.md", "contributing.md"),
        ("CONTRIBUTING.md", "contributing.md"),
        ("CHANGELOG.md", "changes.md"),
    ):
        markdown = markdown.replace(f"]({name})", f"]({page})")
    return markdown


def generated() -> Iterator[tuple[str, str]]:
    """Path and Markdown of every page that no file holds."""
    yield "index.md", _at_the_root("README.md")
    yield "contributing.md", _at_the_root("CONTRIBUTING.md")
    yield "changes.md", _at_the_root("CHANGELOG.md")
    for name in TOPICS:
        yield f"topics/{name}.md", pages.topic(name)
    for name in COMMANDS:
        yield (
            address(name),
            f"# mcx {name}\n\n{COMMANDS[name]}\n\n```text\n{pages.page(name, everything=True)}```\n",
        )
    yield "reference/python.md", "# Python\n\n" + "\n".join(_documented(name) for name in api.__all__)


def address(command: str) -> str:
    """The page of a command."""
    return f"reference/{command.replace(' ', '-')}.md"


def _at_the_root(name: str) -> str:
    """A document of the project's folder, as it reads from docs/."""
    return re.sub(r"\]\(docs/", "](", (ROOT / name).read_text("utf-8"))


class _Plain(str):
    """An annotation that is shown without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def _documented(name: str) -> str:
    """A function or class of the API with its signature and docstring, which are plain text."""
    each = getattr(api, name)
    if not (inspect.isclass(each) or inspect.isfunction(each)):  # a type of others
        return f"## {name}\n\n```python\n{name} = {each}\n```\n"
    what = "class" if inspect.isclass(each) else "def"
    parts = [f"## {name}", f"```python\n{what} {name}{_signature(each)}\n```", inspect.getdoc(each) or ""]
    for method, function in vars(each).items() if what == "class" else ():
        if inspect.isfunction(function) and not method.startswith("_") and function.__doc__:
            parts += [f"```python\ndef {method}{_signature(function)}\n```", inspect.getdoc(function) or ""]
    return _with_examples("\n\n".join(parts)) + "\n"


def _signature(each: Any) -> str:
    """The parameters of a function, a line each."""
    signature = inspect.signature(each)
    plain = [
        one.replace(annotation=_Plain(one.annotation)) if isinstance(one.annotation, str) else one
        for one in signature.parameters.values()
    ]
    lines, named = [], False
    for one in plain:
        if one.kind is one.KEYWORD_ONLY and not named:
            lines.append("*")
        named = named or one.kind in (one.KEYWORD_ONLY, one.VAR_POSITIONAL)
        lines.append(str(one))
    result = signature.return_annotation
    returned = f" -> {result}" if isinstance(result, str) and result != "None" else ""
    return "(\n" + "".join(f"    {line},\n" for line in lines) + f"){returned}"


def _with_examples(text: str) -> str:
    """A docstring whose doctests stand in blocks of code."""
    parts = []
    for part in text.split("\n\n"):
        parts.append(f"```pycon\n{part}\n```" if part.lstrip().startswith(">>>") else part)
    return "\n\n".join(parts)
