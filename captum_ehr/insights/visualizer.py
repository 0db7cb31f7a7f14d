"""AttributionVisualizer: patients, models and methods to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..explanation import Explanation
from ..scene import PatientScene
from .batches import source_of
from .explainer import Explanations, Setting
from .methods import DRAWN, methods_of
from .output_head import VisualizationOutput, output_of
from .overview import overview_of
from .readers import BaseFeature
from .sources import Cache, Grouping, PyHealthSource, called
from .views import part_of, plain, remarks_of, scene_of, sums_of, view_of

if TYPE_CHECKING:
    from .server import Server


class AttributionVisualizer:
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
            by name whatever that takes; by default ``"unk"``, ``"pad"``, ``"mean"``.
        groups: Of PyHealth datasets: subgroups to filter by; keys of the samples, or
            by name a function of the sample or one group per patient. By default all
            keys with few different values.
        readable: From an explanation in the model's units to one in people's, e.g.
            values back into mmol/L.
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
        self.title = title
        self.time_label = time_label
        self.methods = methods_of(methods, isinstance(source, PyHealthSource))
        self.deidentified = deidentify
        ids = called(source.ids, deidentify)
        self._source = source
        self._explanations = Explanations(
            source, self.methods, names or {}, ids, readable, cache_size
        )
        self._parts = Cache[tuple[int, Setting], dict[str, Any]](50 * cache_size)
        self._overview: dict[str, Any] | None = None
        self._places: dict[tuple[str, str], int] = {}

    @property
    def ids(self) -> tuple[str, ...]:
        """What the patients are called."""
        return self._explanations.ids

    def __len__(self) -> int:
        """The number of patients."""
        return len(self.ids)

    def row(self, patient: int | str) -> int:
        """The place of a patient, given by place or identifier.

        Raises:
            KeyError: If nobody is called so.
            IndexError: If there is no such place.
        """
        if isinstance(patient, str):
            if patient not in self.ids:
                raise KeyError(f"There is no patient {patient!r}.")
            return self.ids.index(patient)
        if not -len(self) <= patient < len(self):
            raise IndexError(
                f"There is no patient {patient}; there are {len(self)}, 0 to "
                f"{len(self) - 1}."
            )
        return patient % len(self)

    def rows(self, patients: Iterable[int | str] | None = None) -> list[int]:
        """The places of patients, each once; all by default."""
        chosen = range(len(self)) if patients is None else patients
        return list(dict.fromkeys(map(self.row, chosen)))

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
        baseline = offered[0] if baseline is None or len(offered) == 1 else baseline
        _check_offered("baseline", baseline, offered)
        targets = self._explanations.heads[model].targets
        if isinstance(target, str) and target in targets:
            target = targets.index(target)
        known = target is None or (
            isinstance(target, int) and 0 <= target < len(targets)
        )
        if not known:
            raise ValueError(
                f"There is no target {target!r}; there are {', '.join(targets)}, by "
                f"index 0 to {len(targets) - 1}."
            )
        if len(targets) == 1:
            target = 0  # the predicted output is the only one
        return Setting(model, method, target, baseline)  # type: ignore[arg-type]

    def baselines_of(self, method: str) -> tuple[str, ...]:
        """The names of the baselines that a method may have."""
        return (DRAWN,) if self.methods[method].draws else self._source.baselines

    def explanation(self, patient: int | str, setting: Setting) -> Explanation:
        """One patient's explanation, computed or kept."""
        return self._explanations.one(self.row(patient), setting)

    def view(
        self,
        patient: int | str = 0,
        method: str | None = None,
        target: int | str | None = None,
        baseline: str | None = None,
        model: int = 0,
    ) -> dict[str, Any]:
        """One patient, by place or identifier, as plain data, fit for JSON.

        How to explain is said as in :meth:`setting`.

        Returns:
            ``row``, ``patient``, ``prediction`` (as in :meth:`overview`), ``model``,
            ``method``, ``target``, ``baseline``, ``output`` (the scale), ``f_input``,
            ``f_baseline``, ``probability`` (at the baseline and at the input, or
            None), ``total``, ``delta``, ``relative_delta``, ``complete`` (whether it
            adds up, and what to say of it), ``limit`` (of the colours), ``features``,
            ``visits``, ``series`` and ``columns``; visits and steps count from 1.
        """
        row, setting = self.row(patient), self.setting(method, target, baseline, model)
        overview = self.overview()
        probability = self._explanations.probability(row, setting)
        return {
            "row": row,
            "patient": overview["patients"][row],
            "prediction": overview["predictions"][setting.model][row],
            "model": overview["models"][setting.model],
            "method": setting.method,
            "baseline": setting.baseline,
            "probability": plain(probability),
            **view_of(self._scene(row, setting, probability)),
        }

    def scene(self, patient: int | str, setting: Setting) -> PatientScene:
        """All that is said of one patient, for what draws it."""
        row = self.row(patient)
        probability = self._explanations.probability(row, setting)
        return self._scene(row, setting, probability)

    def _scene(
        self, row: int, setting: Setting, probability: tuple[float, float] | None
    ) -> PatientScene:
        return scene_of(
            self._explanations.one(row, setting),
            self.overview(),
            row,
            setting,
            self.methods[setting.method].adds_up,
            probability,
        )

    def overview(self) -> dict[str, Any]:
        """Everything but attributions: patients, predictions, codes, what is on offer.

        Returns:
            ``patients`` (``id``, ``label``, ``actual`` classes, ``groups`` and places
            in ``codes``), ``predictions`` by model (``text``, ``score``, predicted
            ``classes``, ``correct``), ``codes``, ``models``, ``methods``,
            ``baselines`` by method, ``targets`` by model, ``classes``, ``groups``.
        """
        if self._overview is None:
            overview = {
                "title": self.title,
                "time_label": self.time_label,
                "deidentified": self.deidentified,
                "methods": [
                    {
                        "name": method.name,
                        "adds_up": method.adds_up,
                        "quick": method.together > 8,
                    }
                    for method in self.methods.values()
                ],
                "baselines": {name: self.baselines_of(name) for name in self.methods},
                **overview_of(self._explanations),
            }
            self._places = {
                (code["feature"], code["code"]): place
                for place, code in enumerate(overview["codes"])
            }
            self._overview = overview  # last, for other threads ask for it
        return self._overview

    def contributions(
        self, patients: Iterable[int | str], setting: Setting
    ) -> dict[int, dict[str, Any]]:
        """By place, what each patient adds to the cohort.

        Returns:
            ``f_input``, ``f_baseline``, ``delta`` (and in words), ``status``,
            ``target`` (by name) and ``codes``: by its place in the overview's list the
            sum of the attributions of each code, None where that is no number.
        """
        self.overview()
        adds_up = self.methods[setting.method].adds_up
        parts = {row: self._parts.get((row, setting)) for row in self.rows(patients)}
        missing = [row for row, part in parts.items() if part is None]
        for row, explanation in zip(missing, self._explanations.many(missing, setting)):
            part = part_of(explanation, adds_up, self._places)
            parts[row] = self._parts[row, setting] = part
        return {row: part for row, part in parts.items() if part is not None}

    def cohort(
        self,
        method: str | None = None,
        target: int | str | None = None,
        baseline: str | None = None,
        model: int = 0,
        patients: Iterable[int | str] | None = None,
    ) -> dict[str, Any]:
        """The strongest codes over patients, all by default, as plain data.

        How to explain is said as in :meth:`setting`.

        Returns:
            ``count`` of patients, and by falling mean absolute attribution the
            ``codes``: ``feature``, ``code``, ``name``, ``patients``, ``prevalence``,
            ``mean`` and ``mean_abs``, as in :meth:`captum_ehr.Explanation.top`; and in
            ``note`` what these are not good for, or nothing.
        """
        setting = self.setting(method, target, baseline, model)
        parts = self.contributions(self.rows(patients), setting).values()
        codes = sums_of(parts, self.overview()["codes"])
        return {
            "count": len(parts),
            "codes": codes,
            "note": " ".join(remarks_of(parts)),
        }

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
        source, model = self._source, setting.model
        return output_of(
            self._explanations.one(row, setting),
            source.encode([row], model),
            source.features,
            self._explanations.heads[model],
            self._explanations.scores(model)[row],
            source.labels[row],
            model,
        )

    def save(self, path: str | Path, **options: Any) -> Path:
        """Write one self-contained HTML page; see :func:`captum_ehr.insights.save`."""
        from .page import save

        return save(self, path, **options)

    def serve(self, **options: Any) -> Server:
        """Serve the page on this machine; see :func:`captum_ehr.insights.serve`."""
        from .server import serve

        return serve(self, **options)

    def render(self, **options: Any) -> Any:
        """Show the page in a notebook; see :func:`captum_ehr.insights.render`."""
        from .inline_frame import render

        return render(self, **options)


def _check_offered(word: str, name: str, offered: Iterable[str]) -> None:
    if name not in offered:
        names = ", ".join(offered)
        raise ValueError(f"There is no {word} {name!r}; there are {names}.")
