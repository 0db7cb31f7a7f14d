"""What a figure is asked for, checked: the one patient, features, limits, ranges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from captum_ehr.explanation.data import check_keys
from captum_ehr.explanation.feature_record import FeatureKeyError, Range, codes_of
from captum_ehr.explanation.words import mixed_targets
from captum_ehr.scene.wording import signed

if TYPE_CHECKING:
    import pandas as pd

    from captum_ehr.explanation import Explanation

type Patient = int | str | None
"""A patient's index, or identifier; None where there is only one."""

type Ranges = Mapping[str, Range | Mapping[str, Range]]
"""Ranges by column; under a feature's key may stand a table of its own."""


def one_patient(explanation: Explanation, patient: Patient) -> Explanation:
    """The explanation of the one patient that is to be shown."""
    count = len(explanation)
    if patient is not None:
        explanation = explanation[patient]
        if len(explanation) == 1:
            return explanation
        raise ValueError(
            f"patient {patient!r} has {len(explanation)} samples in this explanation "
            "and the picture is of one; give its index."
        )
    if count == 1:
        return explanation
    some = f", such as 0 or {explanation.patient_ids[0]!r}" if count else ""
    raise ValueError(
        f"this picture is of one patient and the explanation has {count}; say which "
        f"with patient: an index or an identifier{some}."
    )


def one_target(explanation: Explanation) -> None:
    """Refuse samples of different targets: what moves each is not to be added up."""
    mixed = mixed_targets(explanation)
    if mixed:
        some = explanation.target[0]
        raise ValueError(
            f"{mixed} This picture is of one target; of those of "
            f"{explanation.target_label(0)!r}: "
            f"explanation[[target == {some!r} for target in explanation.target]]."
        )


def at_least_one(**limits: int) -> None:
    """Refuse a limit that would leave nothing, by its name."""
    for name, limit in limits.items():
        if limit < 1:
            raise ValueError(f"{name} is {limit}, expected at least 1.")


def one_of(name: str, choice: str, known: Sequence[str]) -> None:
    """Refuse a word that is none of the known ones."""
    if choice not in known:
        words = ", ".join(map(repr, known))
        raise ValueError(f"{name} is {choice!r}, expected one of {words}.")


def of_features(
    table: pd.DataFrame, explanation: Explanation, features: Iterable[str] | None
) -> pd.DataFrame:
    """The rows of some features, all if None; refuse what is not there, or nothing."""
    wanted = [features] if isinstance(features, str) else features
    if wanted is not None:
        wanted = list(wanted)
        check_keys("features names", wanted, explanation.features)
        table = table[table["feature"].isin(wanted)].reset_index(drop=True)
    if not len(table):
        where = "the explanation" if wanted is None else ", ".join(map(repr, wanted))
        raise ValueError(f"nothing to show: {where} has no code or value.")
    return table


def check_finite(table: pd.DataFrame) -> None:
    """Refuse attributions that are not finite, for nothing adds up with them."""
    wrong = ~np.isfinite(table["attribution"].to_numpy(dtype=float))
    if wrong.any():
        row = table[wrong].iloc[0]
        raise ValueError(
            f"the attribution of {row['code']!r} in feature {row['feature']!r} of "
            f"patient {row['patient_id']!r} is {row['attribution']}, and nothing adds "
            "up with it; see explanation.diagnostics."
        )


def of_cohort(
    explanation: Explanation, k: int, features: Iterable[str] | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of all samples, and their codes, strongest first, if it can be drawn."""
    at_least_one(k=k)
    one_target(explanation)
    frame = of_features(explanation.to_frame(), explanation, features)
    check_finite(frame)
    return frame, of_features(explanation.top(None), explanation, features)


def weaker(rest: pd.DataFrame) -> list[str]:
    """The note of the codes that are not shown, if there are any."""
    if not len(rest):
        return []
    total = signed(rest["mean"].sum(), 3)
    return [f"+{len(rest)} more codes or columns, weaker: mean together {total}"]


def with_reference(explanation: Explanation, ranges: Ranges | None) -> Explanation:
    """The explanation with other usual ranges; refuse columns that there are not."""
    records = explanation.features.items()
    columns = {
        key: codes_of(key, record) for key, record in records if not record.is_token
    }
    usual: dict[str, dict[str, Range]] = {}
    for word, entry in (ranges or {}).items():
        keys = list(columns)
        table: Mapping[str, Any] = {word: entry}
        if isinstance(entry, Mapping):
            check_keys("reference names", [word], explanation.features)
            keys, table = [word], entry
        for code, bounds in table.items():
            places = [key for key in keys if code in columns.get(key, ())]
            if not places:
                known = [repr(name) for key in keys for name in columns.get(key, ())]
                raise FeatureKeyError(
                    f"reference names {code!r}, which is no column of "
                    f"{', '.join(map(repr, keys)) or 'any feature'}; there are "
                    f"{', '.join(known) or 'none'}."
                )
            for key in places:
                usual.setdefault(key, {})[code] = bounds
    return explanation.with_ranges(usual) if usual else explanation
