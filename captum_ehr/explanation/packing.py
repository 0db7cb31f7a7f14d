"""Plain data of a file that may be broken or forged: tensors, and what JSON holds.

Nothing is believed before it is checked, and nothing is unpacked that is larger than
it says it is.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Iterator, Mapping
from reprlib import repr as short
from typing import Any

import torch
from torch import Tensor

#: What plain data should be: a type, None, a list of one kind, a tuple of several that
#: it may be, a dict of kinds by name (an optional one's ends in "?"), or
#: ``{str: kind}`` for any names.
type Kind = Any

TENSOR: Kind = {"dtype": str, "shape": [int], "zlib": str}
"""What :func:`pack` makes."""

_WORDS = {str: "text", int: "a whole number", bool: "true or false"}
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
    )
}


def expect(value: Any, kind: Kind, where: str) -> None:
    """Raise a ValueError that says where plain data are not what they should be.

    Example:
        >>> expect({"shape": [4, 2.5]}, {"shape": [int], "note?": str}, "x")
        Traceback (most recent call last):
        ValueError: x.shape[1] is 2.5, expected a whole number.
    """
    for place, found, wanted in _misfits(value, kind, where):
        raise ValueError(f"{place} is {short(found)}, expected {wanted}.")


def _misfits(value: Any, kind: Kind, where: str) -> Iterator[tuple[str, Any, str]]:
    """Places, what is there, and what should be."""
    if isinstance(kind, tuple):
        if all(any(_misfits(value, one, where)) for one in kind):
            yield where, value, " or ".join(map(_word, kind))
    elif isinstance(kind, list) and isinstance(value, list):
        for place, one in enumerate(value):
            yield from _misfits(one, kind[0], f"{where}[{place}]")
    elif isinstance(kind, dict) and isinstance(value, dict):
        parts = dict.fromkeys(value, kind[str]) if str in kind else kind
        for key, one in parts.items():
            name = key.removesuffix("?")
            if name in value:
                yield from _misfits(value[name], one, f"{where}.{name}")
            elif name == key:
                yield f"{where}.{name}", "missing", _word(one)
    elif not _is_of(value, kind):
        yield where, value, _word(kind)


def _is_of(value: Any, kind: Kind) -> bool:
    """Whether a single value is of a type; True is no number, half a sign no text."""
    if kind is None or not isinstance(kind, type):
        return value is None and kind is None
    if kind is str and isinstance(value, str):
        return value.isascii() or not any(
            "\ud800" <= sign <= "\udfff" for sign in value
        )
    return type(value) is kind


def _word(kind: Kind) -> str:
    if isinstance(kind, (list, dict)):
        return "a list" if isinstance(kind, list) else "an object"
    return "nothing" if kind is None else _WORDS[kind]


def pack(tensor: Tensor) -> dict[str, Any]:
    """A tensor's bits, fit for JSON."""
    flat = tensor.detach().cpu().contiguous().flatten()
    data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "zlib": base64.b64encode(zlib.compress(data)).decode("ascii"),
    }


def room(dtype: str, shape: list[int]) -> int:
    """The bytes that a tensor takes, an axis of length 0 counting as 1.

    Raises:
        ValueError: If there is no such type or shape.
    """
    if dtype not in _DTYPES:
        raise ValueError(f"the type {short(dtype)} is none of {', '.join(_DTYPES)}.")
    if any(size < 0 for size in shape):
        raise ValueError(f"the shape {short(shape)} has an axis of negative length.")
    return math.prod(max(size, 1) for size in shape) * _DTYPES[dtype].itemsize


def unpack(packed: Mapping[str, Any]) -> Tensor:
    """The inverse of :func:`pack`, of as many bytes as the tensor has and no more.

    Raises:
        ValueError: If they are more, fewer, or broken, or there is no such tensor.
    """
    room(packed["dtype"], packed["shape"])
    dtype, shape = _DTYPES[packed["dtype"]], packed["shape"]
    size = math.prod(shape) * dtype.itemsize
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(
            base64.b64decode(packed["zlib"], validate=True), size + 1
        )
    except zlib.error as error:
        raise ValueError(f"a tensor's bytes are broken ({error}).") from error
    if len(data) != size or not stream.eof:
        raise ValueError(
            f"a tensor of shape {shape} and type {packed['dtype']} has {size} bytes, "
            "its packed data fewer or more."
        )
    if not data:
        return torch.empty(shape, dtype=dtype)
    stored = torch.uint8 if dtype is torch.bool else dtype
    flat = torch.frombuffer(bytearray(data), dtype=stored)
    return (flat != 0 if dtype is torch.bool else flat).reshape(shape)
