"""Files that hold patients: whole or not at all, and their owner's alone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import ENOENT
from pathlib import Path
from typing import IO, Any

import pandas as pd

_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""How a text begins that spreadsheets may run, as OWASP lists it."""

_COUNTED = ("visit", "position")
"""Columns that count from 0 in frames."""


@contextmanager
def private(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary file under a temporary name that becomes ``path`` when all is written.

    It is readable by its owner alone (mode 0600), also where it replaces a file that
    was not. Where ``path`` is a symbolic link the link is replaced, and what it leads
    to left alone. After an exception there is no trace of it.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(ENOENT, "There is no such folder", str(path.parent))
    handle, temporary = tempfile.mkstemp(".part", ".", path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(handle)
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_text(path: str | Path, text: str) -> Path:
    """Write a text in UTF-8 as :func:`private` does; returns the path."""
    with private(path) as file:
        file.write(text.encode())
    return Path(path)


def write_csv(frame: pd.DataFrame, path: str | Path) -> Path:
    """Write a table as CSV that no spreadsheet runs, as :func:`private` does.

    A text that begins like a formula (``=``, ``+``, ``-``, ``@``, a tab or a line's
    end) gets an apostrophe in front of it; numbers stay what they are. Visits and
    positions, which a frame counts from 0 as tensors do, are counted from 1.
    """
    texts = {
        name: column.map(_harmless, na_action="ignore")
        for name, column in frame.items()
        if not pd.api.types.is_numeric_dtype(column.dtype)
    }
    counted = {name: frame[name] + 1 for name in _COUNTED if name in frame}
    table = frame.assign(**texts, **counted).rename(columns=_harmless)
    with private(path) as file:
        # What may end a line is put in quotes.
        table.to_csv(file, index=False, lineterminator="\r\n")
    return Path(path)


def _harmless(cell: Any) -> Any:
    runs = isinstance(cell, str) and cell.startswith(_FORMULAS)
    return f"'{cell}" if runs else cell
