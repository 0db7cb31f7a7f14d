"""Valid files made invalid: bytes, JSON and Parquet columns changed at some place."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

#: What may stand in JSON where something else should.
ODD: tuple[Any, ...] = (
    *(None, True, 5, -1, 0.5, 10**12, 2**70, float("nan"), "", "x", "../x", "\ud800"),
    *([], {}, [1], [[1]], {"a": 1}, [None], "=HYPERLINK(1)"),
)

#: JSON that no reader should follow to its end.
BOMBS = {
    "deep": b'{"format":1,"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}",
    "digits": b'{"format":' + b"9" * 10**5 + b"}",
    "no text": b"\xff\xfe\x00",
    "nothing": b"",
    "a list": b"[1]",
    "pickle": b"\x80\x04.",
}


@st.composite
def mutated(draw: st.DrawFn, whole: bytes) -> bytes:
    """Cut, flipped, overwritten, moved or added to at some places."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from("flip zeros copy insert cut".split())):
            case "flip":
                data[at : at + 1] = bytes(b ^ 1 << (at % 8) for b in data[at : at + 1])
            case "zeros":
                data[at : at + 16] = bytes(len(data[at : at + 16]))
            case "copy":
                data[at : at + 16] = data[at // 2 : at // 2 + 16]
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=4))
            case "cut":
                del data[at:]
    return bytes(data)


def places(held: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all that JSON holds; of a list to its first two entries."""
    yield path
    keys = held if isinstance(held, dict) else range(2)
    for key in keys if isinstance(held, (dict, list)) else ():
        if isinstance(held, dict) or key < len(held):
            yield from places(held[key], (*path, key))


def with_value(held: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy in which something else stands at a place; or nothing, for ``...``."""
    if not path:
        return value
    made = inner = copy.deepcopy(held)
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return made


@st.composite
def changed_json(draw: st.DrawFn, held: Any) -> bytes:
    """JSON with something odd at a place, or nothing."""
    path = draw(st.sampled_from([*places(held)]))
    value = draw(st.sampled_from([*ODD, ...] if path else ODD))
    return json.dumps(with_value(held, path, value)).encode()


def resized(file: Path) -> None:
    """Let the part know of the file's size, as a forger would."""
    said = json.loads((file.parent / "part.json").read_text())
    said["bytes"][file.name] = file.stat().st_size
    (file.parent / "part.json").write_text(json.dumps(said))


def rewrite(file: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Put another table in the place of one."""
    pq.write_table(change(pq.read_table(file)), file)
    resized(file)


def column(
    name: str, values: Callable[[list[Any]], list[Any]], kind: Any = None
) -> Any:
    """A change of one column: its values, and its type if one is given."""

    def change(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name)
        other = pa.array(
            values(table[name].to_pylist()), kind or table.field(name).type
        )
        return table.set_column(place, name, other)

    return change
