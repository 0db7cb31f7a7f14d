"""The ways out: SHAP's explanations, records for Captum's pictures, others' pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from importlib.metadata import entry_points
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .data import ExplanationData
from .explained import Contrast
from .frame import to_frame

#: What the columns of SHAP's matrix are.
type Features = Literal["tokens", "codes"]


def to_shap(explanation: ExplanationData, features: Features | None = None) -> Any:
    """A ``shap.Explanation``, for SHAP's plots; see :meth:`Explanation.to_shap`."""
    if features is None:
        features = "tokens" if len(explanation) == 1 else "codes"
    if features == "codes":
        return _codes(explanation)
    if features != "tokens":
        raise ValueError(f"features is {features!r}, expected 'tokens' or 'codes'.")
    if len(explanation) != 1:
        raise ValueError(
            f"tokens are one patient's, this explanation has {len(explanation)}: "
            "explanation[0].to_shap(), or features='codes'."
        )
    return _tokens(explanation)


def _tokens(explanation: ExplanationData) -> Any:
    """One patient: a feature per token or value."""
    import shap

    frame = to_frame(explanation)
    values = _readings(frame)
    places = list(map(_place, frame["feature"], frame["visit"].fillna(-1)))
    # The text plot puts tokens side by side as they are.
    words = [f"{n} {v}".strip() + "; " for n, v in zip(frame["name"], values)]
    return shap.Explanation(
        frame["attribution"].to_numpy(),
        base_values=explanation.f_baseline.detach().double().item(),
        data=np.array(words, dtype=object),
        display_data=np.array(
            [value or place for value, place in zip(values, places)], dtype=object
        ),
        feature_names=frame["name"].tolist(),
    )


def _codes(explanation: ExplanationData) -> Any:
    """Many patients: a feature per code or column that any of them has."""
    import shap

    frame = to_frame(explanation)
    keys = frame["feature"] + "\0" + frame["code"]
    place, codes = keys.factorize()
    first = frame.loc[~keys.duplicated()]
    row, shape = frame["sample"].to_numpy(), (len(explanation), len(codes))
    # Samples times codes is the largest thing here: it is held twice, no more.
    values, data = np.zeros(shape), np.zeros(shape)
    np.add.at(values, (row, place), frame["attribution"].to_numpy())
    np.add.at(data, (row, place), 1.0)
    features = explanation.features
    is_value = np.array([not features[key].is_token for key in first["feature"]], bool)
    mine, column = is_value[place], np.cumsum(is_value) - 1
    observed = np.zeros((shape[0], int(is_value.sum())))
    where = (row[mine], column[place[mine]])
    np.add.at(observed, where, frame["value"].to_numpy()[mine])
    with np.errstate(invalid="ignore"):
        data[:, is_value] = observed / data[:, is_value]
    return shap.Explanation(
        values,
        base_values=explanation.f_baseline.detach().double().cpu().numpy(),
        data=data,
        feature_names=_unique(first),
    )


def _unique(first: pd.DataFrame) -> list[str]:
    """A name per code; where two have the same, their features and codes as well."""
    names: pd.Series = first["name"]
    twice = names.duplicated(keep=False)
    longer = names + " (" + first["feature"] + " " + first["code"] + ")"
    unique: list[str] = names.where(~twice, longer).tolist()
    return unique


def _readings(frame: pd.DataFrame) -> list[str]:
    """Per row the value, its unit, and that it was not measured; nothing of codes."""
    columns = frame["value"], frame["unit"], frame["measured"].fillna(True)
    return [
        " ".join(filter(None, [f"{value:.4g}", unit, "" if seen else "(not measured)"]))
        if not math.isnan(value)
        else ""
        for value, unit, seen in zip(*columns)
    ]


def _place(feature: str, visit: int) -> str:
    """Where a token stands, in words; visits are counted from 1, -1 is none."""
    return feature if visit < 0 else f"{feature} visit {visit + 1}"


class TextRecord(NamedTuple):
    """The fields of ``captum.attr.visualization.VisualizationDataRecord``."""

    word_attributions: Tensor
    pred_prob: float
    pred_class: str
    true_class: str
    attr_class: str
    attr_score: float
    raw_input_ids: list[str]
    convergence_score: float


def to_captum_records(
    explanation: ExplanationData,
    labels: Sequence[Any] | None = None,
    *,
    normalize: bool = True,
) -> list[TextRecord]:
    """Records for Captum's ``visualize_text``, one per sample.

    Captum puts their texts into HTML as they are, so they are escaped here. See
    :meth:`captum_ehr.Explanation.to_captum_records`.
    """
    if labels is not None and len(labels) != len(explanation):
        raise ValueError(
            f"labels has {len(labels)} entries, expected {len(explanation)}: one per "
            "sample."
        )
    frame, total = to_frame(explanation), explanation.total
    frame["word"] = [
        escape(f"{name} {value}".strip())
        for name, value in zip(frame["name"], _readings(frame))
    ]
    parts = dict(iter(frame.groupby("sample", sort=False)))
    nothing = frame.iloc[:0]
    records = []
    for row in range(len(explanation)):
        part = parts.get(row, nothing)
        words = torch.tensor(part["attribution"].to_numpy(dtype=np.float64))
        largest = words.abs().max().item() if len(words) else 0.0
        probability, predicted = _prediction(explanation, row)
        records.append(
            TextRecord(
                word_attributions=words / largest if normalize and largest else words,
                pred_prob=probability,
                pred_class=escape(predicted),
                true_class="" if labels is None else escape(str(labels[row])),
                attr_class=escape(explanation.target_label(row)),
                attr_score=total[row].item(),
                raw_input_ids=part["word"].tolist(),
                convergence_score=explanation.delta[row].item(),
            )
        )
    return records


def _prediction(explanation: ExplanationData, row: int) -> tuple[float, str]:
    """The explained output's probability and the class that it speaks for.

    NaN where the probability needs the logits of other classes, which are not held, and
    of a contrast, which is a difference.
    """
    if isinstance(explanation.target[row], Contrast):
        return math.nan, ""
    value = explanation.f_input[row].detach().double()
    label = explanation.target_label(row)
    if explanation.mode == "regression":
        return value.item(), ""
    if explanation.output == "logit":
        if explanation.mode not in ("binary", "multilabel"):
            return math.nan, ""
        value = torch.sigmoid(value)
    if explanation.mode == "multiclass":
        return value.item(), ""
    return value.item(), label if value > 0.5 else f"not {label}"


def display(name: str) -> Callable[..., Any] | None:
    """What an installed package draws explanations with, None where there is none.

    Args:
        name: Of an entry point in the group ``captum_ehr.displays``: ``"notebook"``,
            from an explanation to the HTML of a cell; ``"page"``, from an explanation,
            a path or None and a title to that of a page.
    """
    points = entry_points(group="captum_ehr.displays", name=name)
    return next((point.load() for point in points), None)
