"""What a cohort is one of: the model, dataset, options and versions, as plain words.

Two runs belong to one cohort if all of it is the same. Contents are hashed: every
parameter and saved buffer of the model; of the dataset the patients, the schema and
vocabularies, and some records (all of them would have to be read).
"""

from __future__ import annotations

import hashlib
import json
import pickle
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import __version__
from ..adapter.vocabularies import vocabulary

_RECORDS = 16
"""How many records of a dataset are compared, evenly spread."""

_FREE = ("internal_batch_size",)
"""Options of an explainer that change memory alone: a run may go on with less."""

_PLAIN = (bool, int, float, str, type(None))


def digest(content: Any) -> str:
    """16 characters that change with the content, whatever it is made of.

    Example:
        >>> digest({"a": torch.zeros(2)}) == digest({"a": torch.zeros(2)})
        True
        >>> digest({"a": torch.zeros(2)}) == digest({"a": torch.zeros(3)})
        False
    """
    hashed = hashlib.sha256()
    for piece in _pieces(content):
        hashed.update(len(piece).to_bytes(8, "little"))
        hashed.update(piece)
    return hashed.hexdigest()[:16]


def _pieces(content: Any) -> Iterator[bytes]:
    """Bytes that tell one content from another."""
    if isinstance(content, Tensor):
        array = content.detach().cpu().contiguous()
        yield f"{array.dtype} {tuple(array.shape)}".encode()
        yield array.flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(content, np.ndarray) and content.dtype != object:
        yield from _pieces(torch.from_numpy(np.ascontiguousarray(content)))
    elif isinstance(content, Mapping):
        yield f"mapping {len(content)}".encode()
        for key, value in content.items():
            yield from _pieces(key)
            yield from _pieces(value)
    elif isinstance(content, (list, tuple)):
        yield f"sequence {len(content)}".encode()
        for value in content:
            yield from _pieces(value)
    elif isinstance(content, _PLAIN):
        yield repr(content).encode()
    elif callable(content):
        yield name_of(content).encode()
        yield from _pieces(_inside(content))
    else:
        yield pickle.dumps(content)


def name_of(thing: Any) -> str:
    """The qualified name of a function or class; of an object, that of its class."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{named.__qualname__}"


def _inside(function: Any) -> list[Any]:
    """What a function does besides its name: code, constants, what it holds on to."""
    if isinstance(function, partial):
        return [function.func, function.args, function.keywords]
    if not isinstance(function, FunctionType):
        is_object = not hasattr(function, "__qualname__")
        return [vars(function)] if is_object and hasattr(function, "__dict__") else []
    code, cells = function.__code__, function.__closure__ or ()
    constants = [c for c in code.co_consts if isinstance(c, _PLAIN)]
    held = [cell.cell_contents for cell in cells]
    names = [*code.co_names, *code.co_varnames]
    return [code.co_code.hex(), names, constants, function.__defaults__, held]


def identity_of(
    explainer: Any, dataset: Any, options: Mapping[str, Any]
) -> dict[str, Any]:
    """All that makes a cohort, in plain words; equal for runs that belong together.

    Options that are not plain are hashed.
    """
    adapter = explainer.model
    return {
        "model": model_identity(adapter.model),
        "dataset": dataset_identity(dataset),
        "explainer": {
            "class": name_of(type(explainer)),
            "multiply_by_inputs": explainer.multiplies_by_inputs,
            "features": list(adapter.feature_keys),
            "embeddings": [feature.embedding for feature in adapter.features],
            "score": adapter.score,
            "rules": digest(explainer.rules) if explainer.rules else None,
            **{k: v for k, v in _attributes(explainer).items() if k not in _FREE},
        },
        "options": {name: _said(value) for name, value in options.items()},
        "versions": versions(),
    }


def model_identity(model: nn.Module) -> dict[str, Any]:
    """A model's class, its modules with their plain attributes, and its numbers."""
    modules = {name: _attributes(module) for name, module in model.named_modules()}
    return {
        "class": name_of(type(model)),
        "structure": digest([re.sub(" at 0x[0-9a-f]+", "", repr(model)), modules]),
        "numbers": {name: digest(part) for name, part in model.state_dict().items()},
    }


def dataset_identity(dataset: Any) -> dict[str, Any]:
    """A dataset's size, patients, schema and vocabularies, and some of its records."""
    size = len(dataset)
    step = max(1, -(-size // _RECORDS))
    schemas: dict[str, Any] = {}
    vocabularies: dict[str, str] = {}
    for side in ("input", "output"):
        schemas[side] = getattr(dataset, f"{side}_schema", {})
        processors = getattr(dataset, f"{side}_processors", {})
        vocabularies |= {k: digest(vocabulary(p)) for k, p in processors.items()}
    return {
        "samples": size,
        "patients": digest(getattr(dataset, "patient_to_index", None) or {}),
        "schema": digest(str(schemas)),
        "vocabularies": vocabularies,
        "records": digest([_record(dataset, k) for k in range(0, size, step)]),
    }


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    return {
        "captum_ehr": __version__,
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: version(name) for name in ("torch", "captum", "pyhealth")},
    }


def fingerprint_of(identity: Mapping[str, Any]) -> str:
    """16 characters for all of it."""
    return digest(json.loads(json.dumps(identity, sort_keys=True)))


def differences(here: Any, there: Any, path: str = "") -> list[str]:
    """What differs between two identities, each as ``"path: there, now here"``.

    Example:
        >>> differences({"options": {"target": 1}}, {"options": {"target": 0}})
        ['options.target: 0, now 1']
    """
    if isinstance(here, Mapping) and isinstance(there, Mapping):
        return [
            line
            for key in sorted({*here, *there})
            for line in differences(
                here.get(key), there.get(key), f"{path}.{key}" if path else key
            )
        ]
    return [] if here == there else [f"{path}: {there!r}, now {here!r}"]


def _attributes(owner: Any) -> dict[str, Any]:
    """Plain public attributes, but for what is set in passing."""
    return {
        name: value
        for name, value in sorted(vars(owner).items())
        if isinstance(value, _PLAIN) and not name.startswith("_") and name != "training"
    }


def _record(dataset: Any, index: int) -> Any:
    """A sample, or why there is none."""
    try:
        return dataset[index]
    except OSError:
        raise
    except Exception as error:
        return repr(error)


def _said(value: Any) -> Any:
    """An option in words that JSON keeps."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Sequence) and all(isinstance(v, _PLAIN) for v in value):
        return list(value)
    return f"{type(value).__name__} {digest(value)}"
