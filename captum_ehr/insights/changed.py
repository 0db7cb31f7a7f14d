"""What the model itself says without a code, or with another value, of one patient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..adapter import EncodedBatch
from ..adapter.edits import Edit, Name, changes_of, edited, edits_of
from ..attr.changed_records import attributed
from ..explanation import Contrast, Explanation, FeatureRecord
from ..explanation.feature_record import codes_of, column_names
from ..scene.wording import output_value, percent, signed
from .explainer import Explanations, Setting
from .sources import PyHealthSource
from .views import plain

#: A feature and one of its codes or columns, as the page shows them.
type Shown = tuple[str, str]


def what_if(
    explanations: Explanations,
    row: int,
    setting: Setting,
    remove: Iterable[Shown],
    values: Mapping[Shown, float],
) -> dict[str, Any]:
    """The answer to one change of a patient's record, as plain data.

    Returns:
        ``f_input``, ``f_changed``, ``model_change``, ``attributed_change`` and
        ``difference`` (None where the method's numbers are no shares of a change, or
        the reference is the value itself), ``probability`` and ``probability_changed``,
        and ``words``.

    Raises:
        KeyError: If the patient's features have no such code or column.
        ValueError: If there is no PyHealth model to ask, or values are shown in other
            units than the model takes.
    """
    source, model = explanations.source, setting.model
    if not isinstance(source, PyHealthSource):
        raise ValueError("Only a PyHealth model can be asked about a changed record.")
    adapter, encoded = source.adapters[model], source.encode([row], model)
    explained = explanations.one(row, setting)
    gone = [_in_data(encoded, explained, one) for one in remove]
    put: dict[Name, float] = {
        _in_data(encoded, explained, one, True): v for one, v in values.items()
    }
    changes = changes_of(adapter.features, encoded.features, gone, put)
    edits = edits_of(adapter.features, encoded.features, changes)
    outputs = source.score(edited(adapter, encoded, edits), model).cpu()[0]
    target = explained.target[0]
    assert not isinstance(target, Contrast)  # the page offers none
    place = target if isinstance(target, int) else target[0]
    before = float(explained.f_input[0])
    says = _attributed(explanations, encoded, edits, explained, setting)
    head = explanations.heads[model]
    now = head.probabilities(explanations.scores(model)[row])
    then = head.probabilities(outputs)
    change = float(outputs[place]) - before
    said: dict[str, Any] = {
        "f_input": before,
        "f_changed": float(outputs[place]),
        "model_change": change,
        "attributed_change": says,
        "difference": change - says,
        "probability": math.nan if now is None else float(now[place]),
        "probability_changed": math.nan if then is None else float(then[place]),
    }
    whole: dict[str, Any] = plain({**said, "words": _words(said, explained)})
    return whole


def _words(said: Mapping[str, float], explained: Explanation) -> str:
    """The answer as the page says it."""
    if math.isnan(said["f_changed"]):
        return (
            f"{explained.output_word}: of the changed record the model has no answer."
        )
    ends = [output_value(said[name]) for name in ("f_input", "f_changed")]
    words = f"{explained.output_word} {ends[0]} → {ends[1]}"
    if not math.isnan(said["probability_changed"]) and explained.output == "logit":
        ends = [percent(said[n]) for n in ("probability", "probability_changed")]
        words += f", probability {ends[0]} → {ends[1]}"
    words += f": the model changes by {signed(said['model_change'], 3)}"
    says = said["attributed_change"]
    if math.isnan(says):
        return f"{words}; the attributions do not say by how much."
    return f"{words}; the attributions say {signed(says, 3)}."


def _in_data(
    encoded: EncodedBatch, shown: Explanation, one: Shown, is_value: bool = False
) -> Shown:
    """A code or column as the data has it, of which people may be shown another name.

    Raises:
        KeyError: If there is none.
        ValueError: If its values are shown in other units than the data's.
    """
    key, code = one
    if key not in shown.features or key not in encoded.features:
        return one  # refused by name where names are looked up
    record, held = shown.features[key], encoded.features[key]
    here, there = _names(key, record), _names(key, held)
    place = here.index(code) if code in here else -1
    if place < 0 or len(here) != len(there):
        return one
    same = record.values.shape == held.values.shape and torch.allclose(
        record.values.double().cpu(), held.values.double().cpu(), equal_nan=True
    )
    if is_value and not same:
        raise ValueError(
            f"The values of {key!r} are shown in other units than the model takes, so "
            "that none can be set here."
        )
    return key, there[place]


def _names(key: str, record: FeatureRecord) -> tuple[str, ...]:
    return codes_of(key, record) if record.is_token else column_names(key, record)


def _attributed(
    explanations: Explanations,
    encoded: EncodedBatch,
    edits: Mapping[str, Edit],
    explained: Explanation,
    setting: Setting,
) -> float:
    """What the attributions say of the change; NaN where they do not.

    The multiplier of a value is its attribution over x - x0, where that is not 0.
    """
    method = explanations.methods[setting.method]
    has_gone, has_put = (
        any(bool(getattr(edit, kind).any()) for edit in edits.values())
        for kind in ("removed", "put")
    )
    if not method.adds_up or (has_put and method.draws):
        return math.nan
    attributions = {k: a.cpu() for k, a in explained.attributions.items()}
    multipliers: dict[str, Tensor] = {}
    if has_put:
        reference = explanations.source.reference(
            encoded, setting.baseline, setting.model
        )
        for key, x, x0 in zip(encoded.features, encoded.inputs, reference):
            if key in edits and not encoded.features[key].is_token:
                multipliers[key] = attributions[key] / (x - x0).cpu()
    multipliers = {
        k: m.masked_fill(~m.isfinite(), math.nan) for k, m in multipliers.items()
    }
    records = {
        k: replace(r, values=r.values.cpu()) for k, r in encoded.features.items()
    }
    here = {k: Edit(*(part.cpu() for part in edit)) for k, edit in edits.items()}
    parts = attributed(records, here, attributions, multipliers)
    known = [float(part[0]) for part, has in zip(parts, (has_gone, has_put)) if has]
    return sum(known) if known else math.nan
