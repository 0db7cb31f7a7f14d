"""The same explanation with more said of it: names, units, ranges, what is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from .coding import NAMES
from .data import ExplanationData, check_keys
from .explained import Contrast
from .feature_record import as_flags, range_of
from .labels import Grouping, joined, labels_of
from .sample_columns import checked
from .times import said

_WHY_NOT = {
    "contrast": "the explanation is of a contrast, and a difference of logits is no "
    "logit of a class. Explain the difference of probabilities itself: "
    'DeepLiftEHR(model, output="probability").explain(batch, ...).',
    "regression": "the model is a regression: its output is no logit and has no "
    "probability.",
    "multiclass": "the model is multiclass: a probability depends on the logits of all "
    "classes, this explanation holds the attributions to one. Explain the probability "
    'itself: DeepLiftEHR(model, output="probability").explain(batch).',
    None: "it is not known what the model's output is. Say so with "
    'dataclasses.replace(explanation, mode="binary") (or "multilabel") if it is a '
    "logit whose sigmoid is the probability.",
}


class Described(ExplanationData):
    """The methods of :class:`captum_ehr.Explanation` that say more of the same."""

    def in_probability(self) -> Self:
        """On the scale of probabilities: adds up to p(x) - p(x0).

        Each attribution is multiplied by the sigmoid's exact slope between the two
        outputs, (p(x) - p(x0)) / (f(x) - f(x0)), in float64. With several references,
        p(x0) is that of their mean logit. What is in probabilities already stays.

        Raises:
            ValueError: If the model is multiclass (explain the probability in place of
                the logit), a regression, or it is not known what it is.
        """
        contrast = any(isinstance(target, Contrast) for target in self.target)
        kind = "contrast" if contrast else self.mode
        if self.output == "probability" and kind not in ("contrast", "regression"):
            return self
        if kind not in ("binary", "multilabel"):
            raise ValueError(f"in_probability: {_WHY_NOT.get(kind, _WHY_NOT[None])}")
        at_input, at_baseline = self.f_input.double(), self.f_baseline
        slope = sigmoid_slope(at_input, at_baseline.double())

        def scaled(tensor: Tensor) -> Tensor:
            return tensor.double() * slope.view(-1, *[1] * (tensor.ndim - 1))

        return replace(
            self,
            attributions={k: scaled(a) for k, a in self.attributions.items()},
            f_input=torch.sigmoid(at_input),
            f_baseline=torch.sigmoid(at_baseline.double()),
            delta=scaled(self.delta),
            output="probability",
        )

    def with_names(self, names: Grouping) -> Self:
        """The same with names of codes; unknown codes stay as they are.

        Args:
            names: From code to name: a mapping, a function (None for no name), or a
                ready one; or a dict with one of these per feature key. Ready are
                the official titles of ``"icd9"``, ``"icd10"`` and ``"icd"`` (either)
                diagnoses, ``"icd9_procedures"`` and ``"icd10_procedures"``.

        Raises:
            KeyError, ValueError, ImportError: As :meth:`by_group`.
        """
        more = labels_of(self.features, names, NAMES, "name")
        return replace(self, names=joined(self.names, more))

    def with_units(self, units: Grouping) -> Self:
        """The same with units of columns or codes; others have none.

        Args:
            units: As the names of :meth:`with_names`, but that none are ready.
        """
        more = labels_of(self.features, units, {}, "unit")
        return replace(self, units=joined(self.units, more))

    def with_ranges(self, ranges: Grouping) -> Self:
        """The same with usual (reference) ranges of columns or codes.

        Views shade them and mark values outside with an arrow; they are in the units
        of the values that are shown. Other columns have none.

        Args:
            ranges: From column or code to ``(low, high)``, infinite or None where
                there is no bound: a mapping or a function (None for no range), or a
                dict with one of these per feature key.

        Raises:
            KeyError: If it names a feature that there is not.
            ValueError: If a range is no pair of numbers, or low is above high.

        Example:
            >>> from captum_ehr import DeepLiftEHR
            >>> from captum_ehr.datasets import tiny_model
            >>> explanation = DeepLiftEHR(tiny_model()[0]).explain(tiny_model()[1])
            >>> explanation.with_ranges({"labs[0]": (0.6, 1.3)}).ranges
            {'labs': {'labs[0]': (0.6, 1.3)}}
        """
        more = labels_of(self.features, ranges, {}, "usual range", range_of)
        return replace(self, ranges=joined(self.ranges, more))

    def with_measured(self, measured: Mapping[str, Any]) -> Self:
        """The same, with which values were measured and which were not.

        Those that were imputed or carried forward are drawn as small hollow dots,
        without a number. From the data: a batch's entry ``"<feature key>_measured"``,
        see :meth:`captum_ehr.PyHealthAdapter.encode`.

        Args:
            measured: Per feature key booleans (or 0 and 1) shaped like its ``values``,
                padding included, where they do not count; or None for not known.

        Raises:
            KeyError: If there is no such feature.
            ValueError: If they have another shape or other numbers, or the feature's
                values are codes.
        """
        check_keys("measured names", measured, self.features)
        features = dict(self.features)
        for key, flags in measured.items():
            known = None if flags is None else as_flags(key, flags)
            if known is not None:
                known = known.to(features[key].values.device)
            features[key] = replace(features[key], measured=known)
        return replace(self, features=features)

    def with_target(
        self, name: str | Sequence[str] | None = None, unit: str | None = None
    ) -> Self:
        """The same, with what the explained output is called and counted in.

        Args:
            name: Of the one output, or of each of several in the order of their
                indices; None leaves it.
            unit: Of a regression, such as ``"days"``; None leaves it.

        Raises:
            ValueError: If there is not one name per output, or what is explained is no
                regression and so has no unit.

        Example:
            >>> from captum_ehr import DeepLiftEHR
            >>> from captum_ehr.datasets import tiny_model
            >>> explanation = DeepLiftEHR(tiny_model()[0]).explain(tiny_model()[1])
            >>> explanation.with_target("death").target_label(0)
            'death'
        """
        names = self.target_names
        if name is not None:
            names = (name,) if isinstance(name, str) else tuple(name)
            ends = [
                (t.a, t.b) if isinstance(t, Contrast) else (t,) for t in self.target
            ]
            places = [k for ks in ends for k in ks if isinstance(k, int)]
            outputs = len(self.target_names or ()) or max(places, default=0) + 1
            # Where outputs have no names yet, those explained are as many as are known.
            if len(names) < outputs or (self.target_names and len(names) > outputs):
                raise ValueError(
                    f"{len(names)} name(s) for {outputs} output(s); give one for each, "
                    "in the order of their indices."
                )
        if unit and self.mode not in ("regression", None):
            raise ValueError(
                f"the label is {self.mode}: its {self.output} has no unit, {unit!r} "
                "would be one of a regression."
            )
        unit = self.target_unit if unit is None else unit
        return replace(self, target_names=names, target_unit=unit)

    def with_sample_columns(self, columns: Mapping[str, Sequence[Any]]) -> Self:
        """The same with more columns of the samples, such as sex, age or site.

        Those of the batch are there already, see ``sample_columns``.

        Args:
            columns: By name, one word, number or truth value per sample, None where it
                is unknown; an existing column is replaced.

        Raises:
            ValueError: If there is not one value per sample, they are of several kinds,
                or the tables have a column of that name.
            TypeError: If a value is something else.

        Example:
            >>> from captum_ehr import DeepLiftEHR
            >>> from captum_ehr.datasets import tiny_model
            >>> explanation = DeepLiftEHR(tiny_model()[0]).explain(tiny_model()[1])
            >>> more = explanation.with_sample_columns({"sex": ["F", "M", "F", None]})
            >>> more["p2"].sample_columns
            {'label': (0,), 'sex': ('M',)}
        """
        more = checked(columns, len(self))
        return replace(self, sample_columns={**self.sample_columns, **more})

    def with_times(self, times: str | Mapping[str, str]) -> Self:
        """The same, with what times count, for all features or by feature key.

        Args:
            times: ``"elapsed"`` since one moment that all features share; ``"gaps"``
                since the step before, as of PyHealth's StageNet codes, which are added
                up; ``"order"`` for what is no clock, as times that begin again at each
                admission. Guessed where it is not said: ``"order"`` for all where any
                of the dataset's do not run forward, else elapsed.

        Raises:
            KeyError: If there is no such feature.
            ValueError: If there is no such word, or times fall that should not.
        """
        if isinstance(times, str):
            timed = (
                k for k, record in self.features.items() if record.time is not None
            )
            times = dict.fromkeys(timed, times)
        check_keys("times names", times, self.features)
        more = {key: said(key, self.features[key], word) for key, word in times.items()}
        return replace(self, features={**self.features, **more})


def sigmoid_slope(a: Tensor, b: Tensor) -> Tensor:
    """``(sigmoid(a) - sigmoid(b)) / (a - b)``, also where a is b, without cancellation.

    Of a > b the numerator is ``-expm1(b - a) * sigmoid(a) * sigmoid(-b)``.

    Example:
        >>> sigmoid_slope(torch.tensor([0.0, 1e-9]), torch.tensor([0.0, 0.0]))
        tensor([0.2500, 0.2500])
    """
    high, low = torch.maximum(a, b), torch.minimum(a, b)
    change = high - low
    share = torch.where(change > 0, -torch.expm1(-change) / change, 1.0)
    return share * torch.sigmoid(high) * torch.sigmoid(-low)
