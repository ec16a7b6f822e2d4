"""The guard around a library's parsing of a file, and the one way to open a file that somebody else may have written.

A library may raise anything on a damaged file. Around its call, and nothing else, every exception means that the file
is not what it should be; around our own code an exception stays what it is, a bug that is seen.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from modeconn_cli.engine.errors import InputError, McxError, must_exist
from modeconn_cli.engine.results import files

# What libraries say -> what is wrong with the file. Their own words advise to trust it, which is never done.
REASONS = {
    "max_header_size": "its header is too long for an array",
    "allow_pickle": "it holds Python objects, which are never loaded",
    "Object arrays": "it holds Python objects, which are never loaded",
    "magic string is not correct": "it does not begin as one",
    "EOF": "it ends too early",
    "No data left": "it ends too early",
    "not a zip file": "it is no zip archive, or ends too early",
    "Header does not contain the correct keys": "its header is not that of an array",
    "Cannot parse header": "its header is not that of an array",
    "password required": "it is encrypted",
    "Bad CRC-32 for file": "it is damaged: its checksum is another one",
    "codec can't decode": "it is not UTF-8 text",
}
LONGEST = 200  # characters of what a library says


def reason(error: BaseException) -> str:
    """What is wrong with a file that a library refuses, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return next((ours for said, ours in REASONS.items() if said in text), text[:LONGEST])


def opened(path: Path) -> IO[bytes]:
    """A file, open for reading. Raises InputError for what is none: a folder, or a pipe, which would wait for ever."""
    must_exist(path)
    with files.reading(path):
        return path.open("rb")


@contextlib.contextmanager
def parsing(path: Path, what: str, hint: str = "") -> Iterator[None]:
    """Whatever a library raises inside becomes an InputError: the file at `path` is not a readable `what`.

    What it warns of is passed over: it is right, or it is refused.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except McxError:
        raise
    except OSError as error:
        if error.strerror is None:
            raise InputError(f"'{path}' is not a readable {what}: {reason(error)}", hint) from error
        with files.reading(path):
            raise
    except Exception as error:
        raise InputError(f"'{path}' is not a readable {what}: {reason(error)}", hint) from error
