"""Several models of the same features, code by code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from .data import ExplanationData
from .feature_record import codes_of, first_difference
from .joining import check_alike
from .labels import Grouping
from .rows import noted, strongest_first
from .sums import strongest
from .words import target_labels, unanswered

_ADVICE = "Only models of the same features, outputs and reference can be compared."


def across(
    explanations: Iterable[ExplanationData],
    mapping: Grouping | None = None,
    rest: str = "other",
) -> pd.DataFrame:
    """Means and spread between models; see :meth:`captum_ehr.Explanation.across`."""
    parts = list(explanations)
    samples = _checked(parts)
    tables = [strongest(part, mapping, rest) for part in parts]
    keys = [
        name for name in ("target", "group", "feature", "code") if name in tables[0]
    ]
    words = [name for name in ("name", "unit") if name in tables[0]]
    by_model = [table.set_index(keys) for table in tables]
    found, means, sizes = (
        pd.concat([one[name] for one in by_model], axis=1, keys=range(len(parts)))
        for name in ("samples", "mean", "mean_abs")
    )
    has = found.notna()  # what nobody of a model's samples has moves none of them
    means, sizes = means.where(has, 0.0), sizes.where(has, 0.0)
    table = pd.concat(by_model)[words].groupby(level=keys).first().reindex(means.index)
    table["models"] = has.sum(axis=1)
    table["mean"] = means.mean(axis=1, skipna=False)
    table["mean_abs"] = sizes.mean(axis=1, skipna=False)
    table["spread"] = means.std(axis=1, skipna=False)
    alike = np.sign(means).eq(np.sign(table["mean"]), axis=0) & has
    table["agreement"] = (alike.sum(axis=1) / table["models"]).where(
        table["mean"].notna()
    )
    table["lowest"] = means.min(axis=1, skipna=False)
    table["highest"] = means.max(axis=1, skipna=False)
    table = strongest_first(table.reset_index(), "mean_abs")
    table.attrs |= {"models": len(parts), "samples": samples}
    table.attrs |= _overall(table, means)
    return noted(table, *dict.fromkeys(map(unanswered, parts)))


def _check_codes(first: ExplanationData, other: ExplanationData, place: int) -> None:
    """Codes are matched by name, for folds may know others; columns may have none."""
    for key, record in first.features.items():
        counterpart = other.features[key]
        here, there = codes_of(key, record), codes_of(key, counterpart)
        is_named = all(r.is_token or r.columns for r in (record, counterpart))
        if {*here}.isdisjoint(there) or not (is_named or here == there):
            raise ValueError(
                f"explanations 0 and {place} have other codes in feature {key!r}: "
                f"number {first_difference(here, there)}. {_ADVICE}"
            )


def _overall(table: pd.DataFrame, means: pd.DataFrame) -> dict[str, float]:
    """Of all codes: do their signs, and their order, agree?"""
    known = table.dropna(subset=["agreement"])
    size = known["mean_abs"].sum()
    ranks = means.corr(method="spearman").to_numpy()
    pairs = ranks[np.triu_indices(len(ranks), 1)]
    return {
        "agreement": float(known["agreement"] @ known["mean_abs"] / (size or np.nan)),
        "rank_correlation": float(pairs.mean()),
    }


def _checked(parts: Sequence[ExplanationData]) -> str:
    """Whether models were explained on the same samples; refuse what is not alike."""
    if len(parts) < 2:
        raise ValueError(
            f"{len(parts)} explanation(s); expected two or more, one per model."
        )
    for place, other in enumerate(parts[1:], 1):
        check_alike(parts[0], other, place, _ADVICE, codes=())
        _check_codes(parts[0], other, place)
    for a, b in combinations(range(len(parts)), 2):
        if parts[a].fingerprint and parts[a].fingerprint == parts[b].fingerprint:
            raise ValueError(
                f"explanations {a} and {b} are of one model: its weights are the same. "
                "Give one explanation per model; concat joins the batches of one."
            )
    people = [Counter(part.patient_ids) for part in parts]
    targets = [target_labels(part) for part in parts]
    is_same = all(one == people[0] for one in people)
    for place, labels in enumerate(targets):
        each = zip(parts[place].patient_ids, labels)
        first = zip(parts[0].patient_ids, targets[0])
        if Counter(each) != Counter(first) if is_same else {*labels} != {*targets[0]}:
            raise ValueError(
                f"explanations 0 and {place} are of different targets; explain all "
                "models for the same ones, target=..."
            )
    if is_same:
        return "the same"
    shared = any(one.keys() & other.keys() for one, other in combinations(people, 2))
    return "some shared" if shared else "of their own"
