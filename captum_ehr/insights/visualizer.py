"""AttributionVisualizer: patients, models and methods to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from numbers import Integral
from typing import Any

from torch import Tensor, nn

from ..explanation import Contrast, Explanation
from .batches import source_of
from .changed import what_if
from .explainer import Explanations, Setting
from .methods import DRAWN, methods_of
from .output_head import OutputScore, VisualizationOutput
from .overview import overview_of
from .readers import BaseFeature
from .shown import ShownViewer
from .sources import Grouping, PyHealthSource, called


class AttributionVisualizer(ShownViewer):
    """Patients and what moved the model, to look at in a browser or as plain data.

    The short form takes a PyHealth model and dataset and works out the rest; the long
    form takes what Captum Insights takes. Attributions are computed when they are
    looked at.

    Args:
        models: A model, or several over the same features; each a PyHealth model, a
            :class:`captum_ehr.PyHealthAdapter` or, in the long form, any module.
        classes: In the short form a PyHealth sample dataset; in the long form the
            name of each class (two for a model of one logit). Both can be given in
            the short form as well: ``classes=["no", "yes"], dataset=dataset``.
        features: How each input is read; not needed in the short form.
        dataset: Batches of patients; a PyHealth dataset stands here as well.
        score_func: From the models' output to the score of each class, which then is
            taken as a probability; without it the outputs are logits.
        use_label_for_attr: As in Captum; what a model of one output per patient
            needs is found out here, so True and False do the same.
        names: Human names of codes.
        methods: Names of methods, or attribution classes of Captum's; the first is
            shown first. By default ours and ten of Captum's.
        baselines: Of PyHealth models: names (see
            :meth:`~captum_ehr.PyHealthAdapter.baseline`), or
            by name whatever that takes; by default ``"unk"``, ``"pad"``,
            ``"typical"``, ``"mean"``.
        groups: Of PyHealth datasets: subgroups to filter by; keys of the samples, or
            by name a function of the sample or one group per patient. By default all
            keys with few different values.
        readable: From an explanation in the model's units to one in people's, e.g.
            values back into mmol/L.
        times: What times count, ``"gaps"`` or ``"elapsed"``, if it is to be said; see
            :meth:`captum_ehr.Explanation.with_times`.
        time_label: What a time is, e.g. ``"weeks since the first visit"``.
        title: The page's heading.
        deidentify: Replace the patients' identifiers by numbers in random order.
            Codes, values and times stay what they are.
        max_patients: How many patients are read from batches, at most.
        cache_size: How many patients' explanations are kept.

    Raises:
        ValueError: If there is nobody, features do not fit, or a method is unknown.
        TypeError: If the arguments are neither form.

    Example:
        >>> from captum_ehr.datasets import tiny_model
        >>> model, _ = tiny_model()
        >>> visualizer = AttributionVisualizer(model, model.dataset)
        >>> view = visualizer.view("p1")
        >>> [item["code"] for item in view["columns"][0]["items"]]
        ['labs[0]', 'labs[1]']
    """

    def __init__(
        self,
        models: nn.Module | Sequence[nn.Module],
        classes: Any = None,
        features: Sequence[BaseFeature] | BaseFeature | None = None,
        dataset: Any = None,
        score_func: Callable[[Tensor], Tensor] | None = None,
        use_label_for_attr: bool = True,
        *,
        names: Mapping[str, str] | None = None,
        methods: Sequence[Any] | None = None,
        baselines: Sequence[str] | Mapping[str, Any] | None = None,
        groups: Mapping[str, Grouping] | Sequence[str] | None = None,
        readable: Callable[[Explanation], Explanation] | None = None,
        times: str | Mapping[str, str] | None = None,
        time_label: str = "time",
        title: str = "EHR Insights",
        deidentify: bool = False,
        max_patients: int = 10_000,
        cache_size: int = 2_000,
    ) -> None:
        source = source_of(
            [models] if isinstance(models, nn.Module) else list(models),
            classes,
            features,
            dataset,
            score_func,
            baselines,
            groups,
            max_patients,
        )
        self._source = source
        offered = methods_of(methods, isinstance(source, PyHealthSource))
        self._explanations = Explanations(
            source,
            offered,
            names or {},
            called(source.ids, deidentify),
            readable if times is None else partial(_timed, times, readable),
            cache_size,
        )
        super().__init__(
            self._explanations,
            title=title,
            time_label=time_label,
            deidentified=deidentify,
            kept=50 * cache_size,
        )

    def setting(
        self,
        method: str | None = None,
        target: int | str | None = None,
        baseline: str | None = None,
        model: int = 0,
    ) -> Setting:
        """How to explain, checked and with the defaults filled in.

        Args:
            method: A method's name; the first on offer by default.
            target: An output's index or name; None for the predicted one.
            baseline: A baseline's name; the first on offer by default.
            model: Which of the models.

        Raises:
            ValueError: If it is not on offer; the message names what is.
        """
        if not 0 <= model < len(self._source.models):
            raise ValueError(
                f"There is no model {model}; there are {len(self._source.models)}."
            )
        method = next(iter(self.methods)) if method is None else method
        _check_offered("method", method, self.methods)
        offered = self.baselines_of(method)
        others = chain.from_iterable(map(self.baselines_of, self.methods))
        if baseline is None or (len(offered) == 1 and baseline in others):
            baseline = offered[0]  # another method's stays where that one is left
        _check_offered("baseline", baseline, offered)
        targets = self._explanations.heads[model].targets
        if isinstance(target, str) and target in targets:
            target = targets.index(target)
        known = target is None or (
            isinstance(target, Integral) and 0 <= target < len(targets)
        )
        if not known:
            raise ValueError(
                f"There is no target {target!r}; there are {', '.join(targets)}, by "
                f"index 0 to {len(targets) - 1}."
            )
        if isinstance(target, Integral):
            target = int(target)
        if len(targets) == 1:
            target = 0  # the predicted output is the only one
        return Setting(model, method, target, baseline)  # type: ignore[arg-type]

    @property
    def asks_model(self) -> bool:
        """Whether there is a PyHealth model to ask about changed records."""
        return isinstance(self._source, PyHealthSource)

    def what_if(
        self,
        patient: int | str,
        setting: Setting,
        remove: Iterable[tuple[str, str]] = (),
        values: Mapping[tuple[str, str], float] | None = None,
    ) -> dict[str, Any]:
        """What the model itself says of a patient without codes, or with other values.

        Args:
            patient: Place or identifier.
            setting: How the patient is explained; see :meth:`setting`.
            remove: Pairs of feature and code, taken out wherever they stand.
            values: From feature and column to the value at all of its times.

        Returns:
            ``f_input``, ``f_changed``, ``model_change``, what the attributions say,
            ``attributed_change``, and their ``difference``; both probabilities, and
            all in ``words``. None where there is no number.

        Raises:
            KeyError: If there is no such code or column.
            ValueError: If values are shown in other units than the model takes, or the
                model is not PyHealth's.
        """
        place = self.row(patient)
        return what_if(self._explanations, place, setting, remove, values or {})

    def baselines_of(self, method: str) -> tuple[str, ...]:
        """The names of the baselines that a method may have."""
        return (DRAWN,) if self.methods[method].draws else self._source.baselines

    def _patients(self) -> dict[str, Any]:
        return overview_of(self._explanations)

    def visualize(
        self,
        patients: Iterable[int | str] | None = None,
        method: str | None = None,
        target: int | str | None = None,
        baseline: str | None = None,
    ) -> list[list[VisualizationOutput]]:
        """What Captum Insights' ``visualize`` returns, per patient and model.

        Of the first four patients by default; how to explain is said as in
        :meth:`setting`.
        """
        rows = range(min(4, len(self))) if patients is None else map(self.row, patients)
        models = range(len(self._source.models))
        settings = [self.setting(method, target, baseline, model) for model in models]
        return [[self._output(row, setting) for setting in settings] for row in rows]

    def _output(self, row: int, setting: Setting) -> VisualizationOutput:
        """One patient's explanation, as Captum's classes show it."""
        source, model = self._source, setting.model
        explanation = self._explanations.one(row, setting)
        head = self._explanations.heads[model]
        records = source.encode([row], model).features
        parts = [explanation.attributions[feature.name] for feature in source.features]
        sums = [float(part.sum()) for part in parts]
        whole = sum(map(abs, sums)) or 1.0
        actual = head.actual(source.labels[row])
        target = explanation.target[0]
        place = target.a if isinstance(target, Contrast) else target
        return VisualizationOutput(
            [
                feature.visualize(part, records[feature.name].values, sum_ / whole)
                for feature, part, sum_ in zip(source.features, parts, sums)
            ],
            OutputScore(100, actual[0], head.words(actual[:1])) if actual else None,
            head.listed(self._explanations.scores(model)[row]),
            place if isinstance(place, int) else place[0],
            model,
        )


def _check_offered(word: str, name: str, offered: Iterable[str]) -> None:
    if name not in offered:
        names = ", ".join(offered)
        raise ValueError(f"There is no {word} {name!r}; there are {names}.")


def _timed(
    times: str | Mapping[str, str],
    readable: Callable[[Explanation], Explanation] | None,
    explanation: Explanation,
) -> Explanation:
    """An explanation with what its times count, in people's units."""
    said = explanation.with_times(times)
    return said if readable is None else readable(said)
