"""From a result to an explanation, and what is to know when reading it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapter import EncodedBatch, PyHealthAdapter
from ..adapter.outside import outside
from ..explanation import Explanation, Interactions
from ..explanation.words import cancellation
from ..propagation import Diagnostics
from .pairwise import Found, Pairs, Scored, remarks
from .result import Result
from .targets import indices

_SAMPLED = 16


def assembled(
    model: nn.Module,
    encoded: EncodedBatch,
    references: Sequence[Sequence[Tensor]],
    result: Result,
    output: str = "logit",
    baseline: str = "given",
) -> Explanation:
    """A result with the batch that it belongs to.

    An adapter knows what its outputs are called; ``output`` is the scale of what is
    explained, ``baseline`` the references in words.
    """
    answered = torch.isfinite(result.f_input - result.f_baseline)
    sums, features = encoded.attributed(result.attributions, answered)
    change = (result.f_input - result.f_baseline)[answered]
    times = cancellation((a[answered] for a in sums.values()), change).tolist()
    report = result.diagnostics + Diagnostics(cancellation=max(times, default=0.0))
    adapter = model if isinstance(model, PyHealthAdapter) else None
    if adapter is not None and not adapter.observations.has_clock(adapter.features):
        features |= {
            one.key: replace(features[one.key], times="order")
            for one in adapter.features
            if one.owner is None and features[one.key].time is not None
        }
    if adapter is not None and len(references) == 1:
        report += Diagnostics(notes=outside(adapter.ranges, encoded, references[0]))
    inside = model if adapter is None else adapter.model
    return Explanation(
        attributions=sums,
        features=features,
        f_input=result.f_input,
        f_baseline=result.f_baseline,
        delta=result.balance.delta,
        rescale_factor=result.factor,
        target=indices(result.index),
        diagnostics=report,
        patient_ids=encoded.patient_ids,
        model_name=type(inside).__name__,
        output=output,
        target_names=None if adapter is None else adapter.target_names,
        baseline=baseline,
        mode=None if adapter is None else adapter.mode,
        fingerprint=fingerprint(inside),
        sample_columns=encoded.sample_columns,
    )


def assembled_pairs(
    model: PyHealthAdapter,
    encoded: EncodedBatch,
    scored: Scored,
    found: Found,
    output: str,
    baseline: str,
) -> Interactions:
    """What the rows of all patients come to, padded to who has most players."""
    parts = [Pairs.of(*each) for each in zip(found.players, found.rows)]
    most = max(map(len, found.players))

    def column(name: str) -> Tensor:
        """One tensor for all patients."""
        each = [getattr(part, name) for part in parts]
        missing = [most - len(players) for players in found.players]
        return torch.stack([F.pad(x, [0, n] * x.dim()) for x, n in zip(each, missing)])

    said = tuple(remarks(scored, encoded.patient_ids, found.rows))
    players = zip(scored.mask.players, found.players)
    references = scored.prepared.references
    notes = (
        outside(model.ranges, encoded, references[0]) if len(references) == 1 else ()
    )
    return Interactions(
        players=tuple(tuple(everybody[k] for k in some) for everybody, some in players),
        **{name: column(name) for name in Pairs._fields},
        f_input=torch.stack([rows.f_input[0] for rows in found.rows]),
        f_baseline=torch.stack([rows.f_baseline[0] for rows in found.rows]),
        target=indices(scored.places),
        diagnostics=found.diagnostics + Diagnostics(messages=said, notes=notes),
        patient_ids=encoded.patient_ids,
        model_name=type(model.model).__name__,
        output=output,
        target_names=model.target_names,
        baseline=baseline,
        mode=model.mode,
        fingerprint=fingerprint(model.model),
        target_unit="",
    )


def in_words(baselines: object, count: int) -> str:
    """What explanations call their reference, of which there are so many."""
    if count > 1:
        return f"{count} reference patients"
    if isinstance(baselines, str):
        return baselines
    name = getattr(baselines, "__name__", "<none>")  # a function's
    return "given" if name.startswith("<") else name


def fingerprint(model: nn.Module) -> str:
    """16 characters that change with the model's class and parameters.

    Their names, shapes and up to 16 of the values of each are hashed, so that it costs
    nothing beside an explanation, and a step of training changes it. Buffers are not:
    some models write into theirs whenever they run.

    Example:
        >>> one, two = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> fingerprint(one) == fingerprint(one), fingerprint(one) == fingerprint(two)
        (True, False)
    """
    digest = hashlib.sha256(type(model).__qualname__.encode())
    values = defaultdict(list)
    for name, tensor in model.named_parameters():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().reshape(-1)
        step = max(flat.numel() // _SAMPLED, 1)
        values[flat.dtype, flat.device].append(flat[::step][:_SAMPLED])
    for same in values.values():  # read at once: a device is waited for each time
        digest.update(torch.cat(same).cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
