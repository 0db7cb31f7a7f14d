"""Patients to look at, wherever their explanations come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..explanation import Explanation
from ..scene import PatientScene, patient_scene
from .explainer import Explained, Setting
from .sources import Cache
from .views import part_of, plain, remarks_of, said_of, sums_of, view_of


class Viewer(ABC):
    """Patients and what moved the model, for a page and as plain data.

    Args:
        explanations: Of the patients.
        title: The page's heading.
        time_label: What a time is.
        deidentified: Whether patients are called by numbers.
        kept: Of how many patients sums are kept.
    """

    def __init__(
        self,
        explanations: Explained,
        *,
        title: str,
        time_label: str,
        deidentified: bool,
        kept: int,
    ) -> None:
        self.title = title
        self.time_label = time_label
        self.methods = explanations.methods
        self.deidentified = deidentified
        self._explained = explanations
        self._parts = Cache[tuple[int, Setting], dict[str, Any]](kept)
        self._overview: dict[str, Any] | None = None
        self._places: dict[tuple[str, str], int] = {}

    @abstractmethod
    def setting(
        self,
        method: str | None = None,
        target: int | str | None = None,
        baseline: str | None = None,
        model: int = 0,
    ) -> Setting:
        """How to explain, checked and with the defaults filled in."""

    @abstractmethod
    def baselines_of(self, method: str) -> tuple[str, ...]:
        """The names of the baselines that a method may have."""

    @abstractmethod
    def _patients(self) -> dict[str, Any]:
        """Patients, predictions and codes, as :meth:`overview` has them."""

    @property
    def asks_model(self) -> bool:
        """Whether there is a model to ask about changed records."""
        return False

    @property
    def ids(self) -> tuple[str, ...]:
        """What the patients are called."""
        return self._explained.ids

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

    def explanation(self, patient: int | str, setting: Setting) -> Explanation:
        """One patient's explanation, computed or kept."""
        return self._explained.one(self.row(patient), setting)

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
        probability = self._explained.probability(row, setting)
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
        probability = self._explained.probability(row, setting)
        return self._scene(row, setting, probability)

    def _scene(
        self, row: int, setting: Setting, probability: tuple[float, float] | None
    ) -> PatientScene:
        """The explanation's scene, with what the overview says of patient and model."""
        overview, offer = self.overview(), self.methods[setting.method]
        patient = overview["patients"][row]
        said = overview["predictions"][setting.model][row]
        facts = [("observed", patient["label"])] if patient["label"] else []
        facts.append(said_of(overview, setting.model, said))
        facts += zip(overview["groups"], patient["groups"])
        explanation = self._explained.one(row, setting)
        scene = patient_scene(
            explanation,
            time_label=self.time_label,
            adds_up=offer.adds_up,
            signed=offer.signed,
        )
        return replace(
            scene,
            model=overview["models"][setting.model],
            baseline=setting.baseline,
            probabilities=None if explanation.output == "probability" else probability,
            facts=tuple(facts),
            is_right=said["correct"],
        )

    def what_if(
        self,
        patient: int | str,
        setting: Setting,
        remove: Iterable[tuple[str, str]] = (),
        values: Mapping[tuple[str, str], float] | None = None,
    ) -> dict[str, Any]:
        """What the model itself says of a patient without codes, or with other values.

        Raises:
            ValueError: If there is no model to ask, only explanations that were read.
        """
        raise ValueError("These explanations were read: there is no model to ask.")

    def overview(self) -> dict[str, Any]:
        """Everything but attributions: patients, predictions, codes, what is on offer.

        Returns:
            ``patients`` (``id``, ``label``, ``actual`` classes or the ``observed``
            number, ``groups`` and places in ``codes``), ``predictions`` by model
            (``text``, ``score``, the likeliest of several ``classes``, whether it is
            ``correct``, else the ``rank`` of the score), whether ``is_predicted`` what
            they say, and not merely explained, ``codes``, ``models``, ``methods``,
            ``baselines`` by method, ``targets`` by model, ``classes``, ``groups``.
        """
        if self._overview is None:
            overview = {
                "title": self.title,
                "time_label": self.time_label,
                "deidentified": self.deidentified,
                "asks_model": self.asks_model,
                "methods": [
                    {
                        "name": method.name,
                        "adds_up": method.adds_up,
                        "signed": method.signed,
                        "quick": method.together > 8,
                    }
                    for method in self.methods.values()
                ],
                "baselines": {name: self.baselines_of(name) for name in self.methods},
                **self._patients(),
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
        for row, explanation in zip(missing, self._explained.many(missing, setting)):
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
