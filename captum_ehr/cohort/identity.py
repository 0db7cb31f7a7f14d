"""What a cohort is one of: the model, dataset, options and versions, as plain words.

Two runs belong to one cohort if all of it is the same. Contents are hashed: every
parameter and saved buffer of the model; of the dataset the patients, the schema and
vocabularies, and some records (all of them would have to be read).
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from torch import nn

from .. import __version__
from ..adapter.vocabularies import vocabulary
from .contents import PLAIN, digest, name_of, plain_attributes

_RECORDS = 16
"""How many records of a dataset are compared, evenly spread."""

_FREE = ("internal_batch_size",)
"""Options of an explainer that change memory alone: a run may go on with less."""


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
            **{k: v for k, v in plain_attributes(explainer).items() if k not in _FREE},
        },
        "options": {name: _said(value) for name, value in options.items()},
        "versions": versions(),
    }


def model_identity(model: nn.Module) -> dict[str, Any]:
    """A model's class, its modules with their plain attributes, and its numbers."""
    modules = {name: plain_attributes(module) for name, module in model.named_modules()}
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
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Sequence) and all(isinstance(v, PLAIN) for v in value):
        return list(value)
    return f"{type(value).__name__} {digest(value)}"
