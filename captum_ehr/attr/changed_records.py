"""A model's own answers to changed records, beside what attributions say of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..adapter import EncodedBatch, PyHealthAdapter
from ..adapter.edits import Edit, Name, changes_of, edited, edits_of
from ..explanation import Change, FeatureRecord, WhatIf
from ..explanation.what_if import BY_CASE
from .asking import answers, asked_model, multipliers_at
from .assembly import in_words
from .completeness import APART, MIXED, ROUNDINGS
from .engine import Engine
from .inputs import Prepared
from .outputs import select_again
from .result import Result
from .targets import Target, indices

_NAN = float("nan")


def answered(
    dl: Engine,
    batch: Any,
    remove: str | Iterable[Name],
    values: Mapping[Name, float] | None,
    baselines: Any,
    target: Target,
    how: str,
) -> WhatIf:
    """What the model answers, as :meth:`captum_ehr.DeepLiftEHR.what_if` says it."""
    why = "it compares attributions"
    model, encoded = asked_model(dl, batch, target, "what_if", why)
    changes = changes_of(model.features, encoded.features, remove, values, how)
    prepared, result = dl.run(encoded, baselines, target, None, None, tokens=True)
    if how == "reference" and len(prepared.references) > 1:
        raise ValueError(
            f"there are {len(prepared.references)} references, and how='reference' "
            "puts what is removed to one: say how='drop'."
        )
    if MIXED in result.diagnostics.messages:
        raise ValueError("what_if needs mixing='apart': each patient is asked about.")
    apart = APART in result.diagnostics.messages
    grad = torch.is_grad_enabled()
    with torch.set_grad_enabled(grad), torch.inference_mode(False):
        parts = multipliers_at(dl, prepared, result.index, apart)
        multipliers = dict(zip(encoded.features, parts))
        asked = Asked(dl, model, encoded, prepared, result, multipliers, apart)
        alone = tuple((change,) for change in changes)
        cases = (*alone, tuple(changes)) if len(changes) > 1 else alone
        found = _found(asked, cases, how)
    return WhatIf(
        cases,
        **found,
        target=indices(result.index),
        diagnostics=result.diagnostics,
        patient_ids=encoded.patient_ids,
        model_name=type(model.model).__name__,
        output=dl.output,
        target_names=model.target_names,
        baseline=in_words(baselines, len(prepared.references)),
        mode=model.mode,
        how=how,
    )


class Asked(NamedTuple):
    """An explanation, and how to ask the model again.

    Args:
        dl: The explainer.
        model: Its model.
        encoded: The batch that was explained.
        prepared: The same as tensors, and its references.
        result: What came of it.
        multipliers: By feature key.
        apart: Whether the model is known to mix patients.
    """

    dl: Engine
    model: PyHealthAdapter
    encoded: EncodedBatch
    prepared: Prepared
    result: Result
    multipliers: Mapping[str, Tensor]
    apart: bool

    def answer(self, prepared: Prepared) -> Tensor:
        """All outputs for these patients."""
        return answers(self.dl, prepared)


def _found(
    asked: Asked, cases: Sequence[Sequence[Change]], how: str
) -> dict[str, Tensor]:
    """By the name of the field of :class:`captum_ehr.WhatIf`, what was found.

    Each case is one forward of the whole batch, so that who else is in it and how far
    it is padded is as for f(x). Where the model mixes patients it is one for each who
    changes, the others being as they were.
    """
    records = asked.encoded.features
    attributions = dict(zip(records, asked.result.attributions))
    value, probability = _numbers(asked, asked.answer(asked.prepared))
    edits = [edits_of(asked.model.features, records, case, how) for case in cases]
    changed = [_changed(asked, some, how) for some in edits]
    apart = asked.apart or _mixes(asked, changed[-1], _touched(edits[-1]))
    columns = []
    for some, other in zip(edits, changed):
        places = _touched(some)
        rows = places.nonzero().flatten().tolist()
        outputs = _one_by_one(asked, other, rows) if apart else asked.answer(other)
        said = attributed(records, some, attributions, asked.multipliers)
        found = (_where(places > 0, part) for part in _numbers(asked, outputs))
        columns.append((places, *found, *said))
    by_case = (torch.stack(part, 1) for part in zip(*columns))
    return {
        "f_input": value,
        "probability": probability,
        **dict(zip(BY_CASE, by_case, strict=True)),
    }


def _numbers(asked: Asked, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """The explained outputs, and their probabilities; NaN where they have none."""
    index, mode = asked.result.index, asked.model.mode
    values = select_again(outputs, index).cpu().double()
    if index.dim() == 3:  # of a contrast, which has none
        return values, torch.full_like(values, _NAN)
    if asked.dl.output == "probability" and mode != "regression":
        return values, values
    if mode == "multiclass" and asked.model.scale == "logit":
        return values, select_again(outputs.double().softmax(-1), index).cpu()
    if mode in ("binary", "multilabel", "multiclass"):
        return values, values.sigmoid()
    return values, torch.full_like(values, _NAN)


def _changed(asked: Asked, edits: Mapping[str, Edit], how: str) -> Prepared:
    """The batch with these edits."""
    prepared = asked.prepared
    reference = prepared.references[0] if how == "reference" else None
    batch = edited(asked.model, asked.encoded, edits, reference)
    args = batch.additional_forward_args
    return replace(prepared, inputs=batch.inputs, args=args)


def _mixes(asked: Asked, changed: Prepared, places: Tensor) -> bool:
    """Whether a patient's answer is another one where others have not changed."""
    rows = places.nonzero().flatten().tolist()
    if len(rows) < 2:
        return False
    together = asked.answer(changed)[rows[0]]
    alone = _one_by_one(asked, changed, rows[:1])[rows[0]]
    near = ROUNDINGS * torch.finfo(together.dtype).eps
    return not torch.allclose(alone, together, near, near, equal_nan=True)


def _one_by_one(asked: Asked, changed: Prepared, rows: Sequence[int]) -> Tensor:
    """All outputs, of each of these patients where the others are as they were."""
    prepared = asked.prepared
    outputs = asked.answer(prepared).clone()
    for row in rows:
        inputs = _with_row(prepared.inputs, changed.inputs, row)
        args = _with_row(prepared.args, changed.args, row)
        mixed = replace(prepared, inputs=inputs, args=args)
        outputs[row] = asked.answer(mixed)[row]
    return outputs


def _with_row(before: Sequence[Any], after: Sequence[Any], row: int) -> tuple[Any, ...]:
    """Tensors of a batch with one patient's of another."""
    mixed = []
    for one, other in zip(before, after):
        if isinstance(one, Tensor) and one.dim():
            one = one.detach().clone()
            one[row] = other[row]
        mixed.append(one)
    return tuple(mixed)


def _touched(edits: Mapping[str, Edit]) -> Tensor:
    """``(patients,)``: how many places edits concern, also such as are so already."""
    counts = [(e.removed | e.put).cpu().flatten(1).sum(1) for e in edits.values()]
    return torch.stack(counts).sum(0)


def attributed(
    records: Mapping[str, FeatureRecord],
    edits: Mapping[str, Edit],
    attributions: Mapping[str, Tensor],
    multipliers: Mapping[str, Tensor],
) -> tuple[Tensor, Tensor]:
    """What attributions say of edits: of what goes, and of values that are set.

    Args:
        records: The features, by key.
        edits: What becomes of them.
        attributions: By feature key, shaped like the values.
        multipliers: Likewise, for features of which values are set.

    Returns:
        ``(patients,)`` -Σ attributions and ``(patients,)`` Σ multiplier · change, in
        float64; NaN where a patient has nothing of the kind.
    """
    gone = [(edit.removed, -attributions[key]) for key, edit in edits.items()]
    put = [
        (edit.put, multipliers[key] * (edit.values - records[key].values))
        for key, edit in edits.items()
        if bool(edit.put.any())
    ]
    count = len(next(iter(edits.values())).put)
    return _summed(gone, count), _summed(put, count)


def _summed(parts: Sequence[tuple[Tensor, Tensor]], patients: int) -> Tensor:
    """The sums over places, NaN where there are none."""
    total = torch.zeros(patients, dtype=torch.float64)
    seen = torch.zeros(patients, dtype=torch.bool)
    for at, sizes in parts:
        total += torch.where(at, sizes, 0.0).cpu().double().flatten(1).sum(1)
        seen |= at.cpu().flatten(1).any(1)
    return _where(seen, total)


def _where(seen: Tensor, numbers: Tensor) -> Tensor:
    return torch.where(seen, numbers, _NAN)
