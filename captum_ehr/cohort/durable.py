"""Writing what outlives a crash: whole or not at all, and its owner's alone."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

_ABANDONED = 24 * 3600.0
"""Seconds after which a temporary folder of another machine is nobody's."""


def make_private(folder: Path) -> None:
    """Make a folder, and those above it, that only its owner may enter."""
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def private_file(path: Path) -> Iterator[IO[bytes]]:
    """A new file with mode 0600 that is on the disk when the block ends."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        yield file
        file.flush()
        os.fsync(handle)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as a new file; numbers that are none are not JSON's."""
    with private_file(path) as file:
        file.write(json.dumps(content, allow_nan=False, indent=1).encode())


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as a new Parquet file with zstd."""
    plain = ("attribution", "f_input", "f_baseline", "delta", "rescale_factor")
    coded = [name for name in table.schema.names if name not in plain]
    with private_file(path) as file:
        pq.write_table(table, file, compression="zstd", use_dictionary=coded)


@contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """A folder under a temporary name that becomes ``final`` when the block ends.

    Where ``final`` is there by then, as when dask runs a task twice, this one is thrown
    away. After an exception nothing is left.
    """
    temporary = final.parent / f".{final.name}.{owner()}.{uuid.uuid4().hex}.tmp"
    temporary.mkdir(mode=0o700)
    try:
        yield temporary
        _sync(temporary)
        try:
            os.rename(temporary, final)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        _sync(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def whole_file(final: Path) -> Iterator[Path]:
    """The same for one file, which replaces what was there."""
    temporary = final.parent / f".{final.name}.{owner()}.{uuid.uuid4().hex}.tmp"
    try:
        yield temporary
        os.replace(temporary, final)
        _sync(final.parent)
    finally:
        temporary.unlink(missing_ok=True)


def discard(folder: Path) -> None:
    """Take away what is not whole, at once for all who look."""
    aside = folder.parent / f".{folder.name}.{owner()}.{uuid.uuid4().hex}.tmp"
    try:
        os.rename(folder, aside)
    except FileNotFoundError:
        return
    shutil.rmtree(aside, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes have left; what others write just now stays."""
    for path in folder.glob(".*.*.*.tmp"):
        if not _is_abandoned(path):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def owner() -> str:
    """This process, in a file's name."""
    host = "".join(c if c.isalnum() else "-" for c in socket.gethostname())
    return f"{host}_{os.getpid()}"


def _is_abandoned(path: Path) -> bool:
    """Whether the process that writes it is gone."""
    host, _, pid = path.name.rsplit(".", 3)[-3].rpartition("_")
    if host == owner().rpartition("_")[0] and pid.isdigit() and os.name == "posix":
        return not _runs(int(pid))
    try:
        return time.time() - path.stat().st_mtime > _ABANDONED
    except FileNotFoundError:
        return False


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _sync(folder: Path) -> None:
    """A rename is on the disk when its folder is."""
    if os.name != "posix":
        return  # there folders cannot be opened
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
