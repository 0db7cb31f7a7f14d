"""The ways out: SHAP's explanations and Captum's records for its own pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

if TYPE_CHECKING:
    import pandas as pd

    from .explanation import Explanation

#: What the columns of SHAP's matrix are.
type Features = Literal["tokens", "codes"]


def to_shap(explanation: Explanation, features: Features | None = None) -> Any:
    """A ``shap.Explanation``, for SHAP's plots.

    Args:
        explanation: The explanation.
        features: ``"tokens"``: one patient, a feature per token or value, for
            ``waterfall``, ``bar`` and ``text``. ``"codes"``: one row per sample
            and a feature per code or column, for ``beeswarm``, ``bar`` and
            ``heatmap``; ``data`` is how often a patient has a code (0 where not),
            or the mean of a column's values (NaN where there is none). By default
            tokens for one sample, else codes.

    Returns:
        ``values`` of shape ``(rows,)`` or ``(samples, codes)``, whose sums are
        those of the attributions; ``base_values`` is ``f_baseline``.

    Raises:
        ImportError: If shap is not installed.
        ValueError: If tokens are asked of several patients.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> explanation = DeepLiftEHR(model).explain(batch)
        >>> explanation.to_shap().shape, explanation[0].to_shap().shape
        ((4, 8), (5,))
    """
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


def _tokens(explanation: Explanation) -> Any:
    """One patient: a feature per token or value."""
    import shap

    frame = explanation.to_frame()
    values = list(map(_number, frame["value"], frame["unit"]))
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


def _codes(explanation: Explanation) -> Any:
    """Many patients: a feature per code or column that any of them has."""
    import shap

    frame = explanation.to_frame()
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
    found: list[str] = names.where(~twice, longer).tolist()
    return found


def _number(value: float, unit: str | None) -> str:
    """A value with its unit; nothing for a token."""
    if math.isnan(value):
        return ""
    return f"{value:.4g} {unit}" if unit else f"{value:.4g}"


def _place(feature: str, visit: int) -> str:
    """Where a token stands, in words; visits are counted from 1, -1 is none."""
    return feature if visit < 0 else f"{feature} visit {visit + 1}"


def to_captum_records(
    explanation: Explanation,
    labels: Sequence[Any] | None = None,
    *,
    normalize: bool = True,
) -> list[Any]:
    """Records for ``captum.attr.visualization.visualize_text``, one per sample.

    Captum puts their texts into HTML as they are, so they are escaped here.

    Args:
        explanation: The explanation.
        labels: The true label of each sample.
        normalize: Divide the word attributions of each sample by the largest, for
            Captum's colours end at -1 and 1. The score is the sum all the same.

    Raises:
        ValueError: If there is not one label per sample.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> explanation = DeepLiftEHR(model).explain(batch)
        >>> records = explanation.to_captum_records()
        >>> records[0].raw_input_ids
        ['I50.9', 'N18.3', 'I10', 'labs[0] 1.8', 'labs[1] 0.4']
    """
    from captum.attr import visualization

    if labels is not None and len(labels) != len(explanation):
        raise ValueError(
            f"labels has {len(labels)} entries, expected {len(explanation)}: one per "
            "sample."
        )
    total = explanation.total
    frame = explanation.to_frame()
    frame["word"] = [
        escape(f"{name} {_number(value, unit)}".strip())
        for name, value, unit in zip(frame["name"], frame["value"], frame["unit"])
    ]
    parts = dict(iter(frame.groupby("sample", sort=False)))
    nothing = frame.iloc[:0]
    records = []
    for row in range(len(explanation)):
        part = parts.get(row, nothing)
        own = torch.tensor(part["attribution"].to_numpy(dtype=np.float64))
        largest = own.abs().max().item() if len(own) else 0.0
        probability, predicted = _prediction(explanation, row)
        records.append(
            visualization.VisualizationDataRecord(
                word_attributions=own / largest if normalize and largest else own,
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


def _prediction(explanation: Explanation, row: int) -> tuple[float, str]:
    """The explained output's probability and the class that it speaks for.

    NaN where the probability needs the logits of other classes, which are not held.
    """
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


def to_html(
    explanation: Explanation, path: str | Path | None = None, *, title: str = ""
) -> str:
    """A page that needs nothing else: all data escaped, no network.

    Shows the strongest codes, whether the attributions add up, and the visits of the
    first 20 patients; :func:`captum_ehr.visualization.write_report` has more to choose
    from.

    Args:
        explanation: The explanation.
        path: Where to write it as well, readable by its owner alone; an existing file
            is replaced.
        title: The heading; by default the model's name.

    Returns:
        The HTML document.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> explanation = DeepLiftEHR(model).explain(batch)
        >>> "E11.9" in explanation.to_html()
        True
    """
    # Here and not above: the pictures stand on the explanation.
    from captum_ehr.visualization import report

    html: str = report.to_html(explanation, path, title=title)
    return html
