"""What a model answers to a changed record, beside what the attributions say of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..propagation import Diagnostics
from .explained import Explained, OfTargets
from .player import Player, labels

#: The fields with a number for each patient and case.
BY_CASE = (
    "places",
    "f_changed",
    "probability_changed",
    "minus_attribution",
    "multiplier_times_change",
)

#: What becomes of what is removed.
WAYS = ("drop", "reference")


class Change(NamedTuple):
    """One change of a record.

    Args:
        player: Whose places: a code or a column, in one visit where it has a visit.
        value: What stands there then; None where the code is removed.
    """

    player: Player
    value: float | None = None


@dataclass(frozen=True, eq=False)
class WhatIf(OfTargets):
    r"""The model's own answers to changed records, and what the attributions say.

    An attribution of a token is its share of f(x) - f(x0): without the token it says
    f(x) less that. Of a value v in place of x it says :math:`m\,(v - x)`, m being the
    multiplier, :math:`m\,(x - x_0)` its attribution. The model's own change is another
    one where codes act together, where the model is not a straight line between x, x0
    and v, and where a token that is gone is not the same as the reference's (other
    tokens move up): the difference is no error of either.

    All tensors are float64 and on the CPU, NaN where a patient has nothing of what is
    changed, or the model no answer, as some have none to a record left empty.

    Args:
        cases: What was changed together: each change alone, then, of several, all.
        places: ``(patients, cases)``, how many tokens and values it changed.
        f_input: ``(patients,)``, f(x).
        f_changed: ``(patients, cases)``, f(x′), the model's own answer.
        minus_attribution: ``(patients, cases)``, -Σ of the attributions of what was
            removed; NaN where nothing was.
        multiplier_times_change: ``(patients, cases)``, Σ m·(v - x) of the values that
            were set; NaN where none was.
        probability: ``(patients,)``, of the explained class at x; NaN without one.
        probability_changed: ``(patients, cases)``, the same at x′.
        target: Per patient, the index of the explained output.
        diagnostics: What ran, of the explanation.
        patient_ids: Per patient, the identifier.
        model_name: The name of the explained model.
        output: ``"logit"`` or ``"probability"``: the scale of all but probabilities.
        target_names: The name of each output index, or None.
        baseline: The reference in words.
        mode: What the label is, in PyHealth's words.
        how: ``"drop"`` or ``"reference"``, what became of what was removed.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> answers = DeepLiftEHR(model).what_if(batch, ["N18.3"], {"labs[0]": 1.0})
        >>> answers.places.tolist()[:2]
        [[1, 1, 2], [0, 1, 1]]
        >>> answers.to_frame()["change"].tolist()[:3]
        ['without N18.3', 'labs[0] = 1', 'all together']
    """

    cases: tuple[tuple[Change, ...], ...]
    places: Tensor
    f_input: Tensor
    f_changed: Tensor
    minus_attribution: Tensor
    multiplier_times_change: Tensor
    probability: Tensor
    probability_changed: Tensor
    target: tuple[Explained, ...]
    diagnostics: Diagnostics
    patient_ids: tuple[str, ...]
    model_name: str = ""
    output: str = "logit"
    target_names: tuple[str, ...] | None = None
    baseline: str = ""
    mode: str | None = None
    how: str = "drop"

    def __post_init__(self) -> None:
        """Check that everything fits together."""
        count, cases = len(self.patient_ids), len(self.cases)
        wanted = {
            **dict.fromkeys(("f_input", "probability"), (count,)),
            **dict.fromkeys(BY_CASE, (count, cases)),
        }
        for name, shape in wanted.items():
            came = tuple(getattr(self, name).shape)
            if came != shape:
                raise ValueError(f"{name} has shape {came}, expected {shape}.")

    @property
    def model_change(self) -> Tensor:
        """``(patients, cases)``: f(x′) - f(x)."""
        return self.f_changed - self.f_input.unsqueeze(1)

    @property
    def attributed_change(self) -> Tensor:
        """``(patients, cases)``: what the attributions say of it, both parts."""
        parts = self.minus_attribution, self.multiplier_times_change
        total = torch.stack([part.nan_to_num(nan=0.0) for part in parts]).sum(0)
        nothing = parts[0].isnan() & parts[1].isnan()
        return total.masked_fill(nothing, float("nan"))

    @property
    def difference(self) -> Tensor:
        """``(patients, cases)``: the model's change less the attributions'."""
        return self.model_change - self.attributed_change

    @property
    def words(self) -> tuple[str, ...]:
        """Each case in words; visits count from 1."""
        alone = [case[0] for case in self.cases if len(case) == 1]
        names = labels(change.player for change in alone)
        words = [_words(*each, self.how) for each in zip(alone, names)]
        return (*words, *["all together"] * (len(self.cases) - len(alone)))

    def to_frame(self) -> pd.DataFrame:
        """One row per patient and case, patient by patient.

        Returns:
            A frame with the columns ``patient_id``, ``sample`` (the row of the
            patient), ``target``, ``change`` (in words), ``places`` (how many tokens and
            values it changed; where it is 0 all that follows of it is NaN),
            ``f_input``, ``f_changed``, ``model_change``, ``minus_attribution``,
            ``multiplier_times_change``, ``attributed_change`` (their sum),
            ``difference``, ``probability`` and ``probability_changed``.
        """
        count, cases = len(self), len(self.cases)
        once = {
            "patient_id": np.array(self.patient_ids, dtype=object),
            "sample": np.arange(count),
            "target": np.array([self.target_label(i) for i in range(count)], object),
        }
        columns: dict[str, Any] = {k: v.repeat(cases) for k, v in once.items()}
        columns["change"] = list(self.words) * count
        for name in _COLUMNS:
            numbers: Tensor = getattr(self, name)
            wide = numbers if numbers.dim() == 2 else numbers.unsqueeze(1)
            columns[name] = wide.expand(count, cases).reshape(-1).numpy()
        return pd.DataFrame(columns)

    def __repr__(self) -> str:
        """A line, and one for each case: its patients, and means over these."""
        lines = [
            f"WhatIf: {self.model_name or 'unnamed model'} | {len(self)} patient(s) | "
            f"{self.output_word}"
        ]
        columns = self.places, self.model_change, self.attributed_change
        for words, *each in zip(self.words, *(column.T for column in columns)):
            has, known = each[0] > 0, each[1].isfinite()
            line = f"{words}: {int(has.sum())} patient(s) have it"
            if bool((has & ~known).any()):
                line += f", the model has no answer for {int((has & ~known).sum())}"
            if bool(known.any()):
                numbers = [f"{part[known].mean():+.4g}" for part in each[1:]]
                line += f", mean change {numbers[0]}, attributed {numbers[1]}"
            lines.append(line)
        return "\n  ".join(lines)


def _words(change: Change, name: str, how: str) -> str:
    if change.value is not None:
        return f"{name} = {change.value:g}"
    return f"without {name}" if how == "drop" else f"{name} at its reference"


_COLUMNS = (
    "places",
    "f_input",
    "f_changed",
    "model_change",
    "minus_attribution",
    "multiplier_times_change",
    "attributed_change",
    "difference",
    "probability",
    "probability_changed",
)
