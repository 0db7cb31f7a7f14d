"""How far explanations of a model can be believed, method by method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .explained import OfPatients

#: What is measured of each method and patient, in the order of the tables.
SCORES = (
    "shapley",
    "insertion",
    "deletion",
    "comprehensiveness",
    "sufficiency",
    "infidelity",
    "sensitivity",
    "randomised",
    "agreement",
)


@dataclass(frozen=True, eq=False)
class Evaluation(OfPatients):
    r"""What was measured of several methods' attributions, of the same patients.

    All numbers are of *players* (codes, unless asked otherwise): a player's attribution
    is the sum over its places. Tensors are float64 and on the CPU, NaN where a measure
    was not taken, has no value or did not fit in the budget; ``notes`` say which.

    Args:
        methods: Their names, ours first.
        patient_ids: Of the patients that were evaluated.
        samples: Which rows of the batch they are.
        players: ``(patients,)``, how many each has.
        scores: By name, ``(methods, patients)``. ``shapley``: the correlation with
            sampled Shapley values; ``insertion`` and ``deletion``: how far, on average,
            the output rises above f(x0), and falls below f(x), as players come or go by
            falling attribution, in units of the output; ``comprehensiveness`` and
            ``sufficiency``: PyHealth's; ``infidelity``: Captum's, normalised, over the
            mean (f(x) - f(x0))²; ``sensitivity``: Captum's, the largest relative change
            of the attributions as each number moves by up to a thousandth of itself;
            ``randomised``: the correlation with the attributions of the model with its
            head's weights shuffled; ``agreement``: with our attributions.
        split_half: ``(patients,)``, the correlation of two independent estimates of the
            Shapley values: no method can be told to agree with them much better.
        orders: ``(patients,)``, how many orders of the players they come from.
        agreements: ``(methods, methods, patients)``, correlations of attributions.
        fractions: ``(points,)``, the shares of the players at which curves are read.
        paths: ``"insertion"`` and ``"deletion"``, ``(methods, patients, points)``: the
            output, between two players on the straight line.
        left_out: By reason, the patients that were not evaluated.
        notes: What was not measured, and why.
        spent: By measure, how many rows the model evaluated.
        budget: How many it might.
        model_name: The name of the model.
        output: ``"logit"`` or ``"probability"``.
        mode: What the label is, in PyHealth's words.
        baseline: The reference in words.
        kind: Who the players are.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> found = DeepLiftEHR(model).evaluate(batch, show_progress=False)
        >>> found.to_frame()["method"].tolist()
        ['DeepLiftEHR', 'IntegratedGradients', 'InputXGradient', 'random']
        >>> bool(found.to_frame()["shapley"][0] > 0.9)
        True
    """

    methods: tuple[str, ...]
    patient_ids: tuple[str, ...]
    samples: tuple[int, ...]
    players: Tensor
    scores: Mapping[str, Tensor]
    split_half: Tensor
    orders: Tensor
    agreements: Tensor
    fractions: Tensor
    paths: Mapping[str, Tensor]
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    spent: Mapping[str, int] = field(default_factory=dict)
    budget: int = 0
    model_name: str = ""
    output: str = "logit"
    mode: str | None = None
    baseline: str = ""
    kind: str = "code"

    def __post_init__(self) -> None:
        """Check that everything fits together."""
        size = len(self.methods), len(self.patient_ids)
        wanted = {
            **dict.fromkeys(SCORES, size),
            "split_half": size[1:],
            "orders": size[1:],
            "agreements": (size[0], *size),
        }
        for name, shape in wanted.items():
            tensor = self.scores[name] if name in SCORES else getattr(self, name)
            if tuple(tensor.shape) != shape:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)}, expected {shape}."
                )

    def to_frame(self) -> pd.DataFrame:
        """One row per method: means over the patients, and how sure these are.

        Returns:
            A frame with the columns ``method``, ``patients`` and, for each of
            ``scores``, its mean over the patients who have one, under its own name, the
            standard error of that mean under ``"<name>_error"`` and, where they are
            fewer than all, the number in ``"<name>_patients"``; behind ``shapley``
            ``split_half``, how far the Shapley values agree with themselves.
            ``attrs["spent"]`` are the model evaluations by measure, ``attrs["notes"]``
            what was not measured.
        """
        frame = pd.DataFrame({"method": np.array(self.methods, dtype=object)})
        frame["patients"] = len(self)
        for name in SCORES:
            each = pd.DataFrame(self.scores[name].numpy())
            frame[name], frame[f"{name}_error"] = each.mean(axis=1), each.sem(axis=1)
            known = each.count(axis=1)
            if ((known < len(self)) & (known > 0)).any():
                frame[f"{name}_patients"] = known
            if name == "shapley":
                frame["split_half"] = torch.nanmean(self.split_half).item()
        frame.attrs = {"spent": dict(self.spent), "notes": list(self.notes)}
        return frame

    def by_patient(self) -> pd.DataFrame:
        """One row per method and patient.

        Returns:
            A frame with the columns ``method``, ``patient_id``, ``sample``,
            ``players``, ``orders``, ``split_half`` and those of ``scores``.
        """
        count, size = len(self.methods), len(self)
        columns: dict[str, Any] = {
            "method": np.repeat(np.array(self.methods, dtype=object), size),
            "patient_id": np.tile(np.array(self.patient_ids, dtype=object), count),
            "sample": np.tile(np.array(self.samples), count),
        }
        for name in ("players", "orders", "split_half"):
            columns[name] = np.tile(getattr(self, name).numpy(), count)
        columns |= {name: self.scores[name].flatten().numpy() for name in SCORES}
        return pd.DataFrame(columns)

    def curves(self) -> pd.DataFrame:
        """The insertion and deletion curves, as means over the patients.

        Returns:
            A frame with the columns ``method``, ``curve`` (``"insertion"`` or
            ``"deletion"``), ``fraction`` (of the players that have come, or gone),
            ``value`` (the mean output) and ``error`` (of that mean).
        """
        parts = []
        for curve, tensor in self.paths.items():
            for method, values in zip(self.methods, tensor):
                each = pd.DataFrame(values.numpy(), columns=self.fractions.numpy())
                column = {"method": method, "curve": curve, "fraction": each.columns}
                column |= {"value": each.mean(), "error": each.sem()}
                parts.append(pd.DataFrame(column))
        return pd.concat(parts, ignore_index=True)

    def agreement(self) -> pd.DataFrame:
        """How far the methods agree: mean correlation over patients, of each pair.

        Returns:
            A square frame, methods by methods.
        """
        table, names = torch.nanmean(self.agreements, dim=2), list(self.methods)
        return pd.DataFrame(table.numpy(), index=names, columns=names)

    def __repr__(self) -> str:
        """A line, one for each method, and what was not measured."""
        lines = [
            f"Evaluation: {self.model_name or 'unnamed model'} | {len(self)} patient(s)"
            f" | {sum(self.spent.values())} of {self.budget} model evaluations"
        ]
        for row in self.to_frame().to_dict("records"):
            said = [f"{n} {row[n]:+.3g}" for n in SCORES if row[n] == row[n]]
            lines.append(f"{row['method']}: {', '.join(said) or 'nothing measured'}")
        lines += [
            f"left out, {reason}: {len(ids)} patient(s)"
            for reason, ids in self.left_out.items()
        ]
        return "\n  ".join([*lines, *self.notes])
