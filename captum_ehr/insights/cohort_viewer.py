"""A cohort on disk, to look at: its explanations are read, and no model is needed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs

from ..cohort.columns import TAKEN
from ..cohort.stored import StoredCohort, open_cohort, targets_of
from ..explanation import Explanation
from ..explanation.explained import Contrast
from ..explanation.feature_record import words_for
from ..scene.wording import probability
from .explainer import Explained, Setting
from .methods import SHAP, Offer
from .output_head import Head
from .overview import people_of, prediction_of, ranked
from .shown import ShownViewer
from .sources import MOST_GROUPS, called


class CohortViewer(ShownViewer):
    """The patients of a finished cohort, as a page or plain data.

    As :class:`AttributionVisualizer`, but for what takes a model: there is one method,
    baseline and target, that which the cohort was explained with.

    Args:
        path: The cohort's folder.
        title: The page's heading; by default the model's name.
        time_label: What a time is, e.g. ``"weeks since the first visit"``.
        deidentify: Replace the patients' identifiers by numbers in random order.
            Codes, values, times and subgroups stay what they are.
        max_patients: How many samples are shown at most: the first of the dataset.

    Raises:
        FileNotFoundError: If there is no cohort.
        CohortError: If it is of another format, or a file is damaged.

    Example:
        >>> CohortViewer("results").serve()  # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | Path,
        *,
        title: str = "",
        time_label: str = "time",
        deidentify: bool = False,
        max_patients: int = 500,
    ) -> None:
        stored = open_cohort(Path(path))
        self._saved = SavedExplanations(stored, max_patients, deidentify)
        title, samples = title or stored.header.model_name, len(stored.index)
        if samples > max_patients:
            title = f"{title}: the first {max_patients} of {samples} samples"
        super().__init__(
            self._saved,
            title=title or "EHR Insights",
            time_label=time_label,
            deidentified=deidentify,
            kept=max_patients,
        )

    def setting(
        self,
        method: str | None = None,
        target: int | str | None = None,
        baseline: str | None = None,
        model: int = 0,
    ) -> Setting:
        """How patients were explained; nothing else is on offer.

        Raises:
            ValueError: If something else is asked for.
        """
        (name,), (held,) = self.methods, self.baselines_of("")
        label = self._saved.target
        for word, asked, offered in (
            ("method", method, (name,)),
            ("target", target, (0, label)),
            ("baseline", baseline, (held,)),
            ("model", model, (0,)),
        ):
            if asked is not None and asked not in offered:
                raise ValueError(
                    f"There is no {word} {asked!r}: the cohort is explained by {name} "
                    f"with the baseline {held!r} for {label}."
                )
        return Setting(0, name, 0, held)

    def baselines_of(self, method: str) -> tuple[str, ...]:
        """The one baseline that there is."""
        return (self._saved.stored.header.baseline or "as explained",)

    def _patients(self) -> dict[str, Any]:
        saved = self._saved
        codes, present = saved.codes()
        labels = saved.people["observed"].to_list()
        return {
            "models": [saved.stored.header.model_name or "model"],
            "targets": [(saved.target,)],
            "codes": codes,
            "is_predicted": saved.is_predicted,
            **people_of(saved.ids, saved.head, labels, saved.groups(), present),
            "predictions": [saved.predictions()],
        }


class SavedExplanations(Explained):
    """Explanations read when they are looked at."""

    def __init__(self, stored: StoredCohort, most: int, deidentify: bool) -> None:
        super().__init__(most)
        self.stored = stored
        self.index = stored.index.head(most)
        self.ids = called(self.index["patient_id"].to_list(), deidentify)
        people = stored.patients().filter(
            pl.col("sample").is_in(self.index["sample"].implode())
        )
        self.people = people.collect().sort("sample")
        header, targets = stored.header, list(targets_of(self.people))
        words = stored.manifest["identity"]["explainer"]["class"]
        name = words.partition(" ")[0].rpartition(".")[2]
        self.methods = {name: Offer(name, True, together=32, draws=name == SHAP)}
        self.is_contrast = any(isinstance(target, Contrast) for target in targets)
        asked = stored.manifest["identity"]["options"]["target"]
        is_only = header.mode in ("binary", "regression")
        self.is_predicted = (asked is None or is_only) and not self.is_contrast
        labels = [header.target_label(target) for target in targets]
        several = "predicted class" if self.is_predicted else "as explained"
        self.target = labels[0] if len(labels) == 1 else several
        last = max((t for t in targets if isinstance(t, int)), default=0)
        classes = _classes(header.mode, header.target_names, last)
        self.head = Head(header.mode or "regression", classes, header.output)

    def _made(
        self, rows: Sequence[int], setting: Setting
    ) -> Iterator[tuple[int, Explanation]]:
        with self.stored.reading():
            read = self.stored.explanations(self.index[rows])
        for row, explanation in zip(rows, read, strict=True):
            yield row, replace(explanation, patient_ids=(self.ids[row],))

    def probability(self, row: int, setting: Setting) -> tuple[float, float] | None:
        """As it was stored; see :class:`~captum_ehr.insights.explainer.Explained`."""
        draws = self.methods[setting.method].draws
        ends = self.people["f_baseline"][row], self.people["f_input"][row]
        at_baseline, at_input = map(self._probability, ends)
        if at_input is None or at_baseline is None:
            return None
        return (math.nan if draws else at_baseline), at_input

    def _probability(self, output: float | None) -> float | None:
        """An output as a probability, NaN for no answer; None where it is none."""
        if self.head.mode == "regression" or self.is_contrast:
            return None
        output = math.nan if output is None else output
        if self.head.scale == "probability":
            return output
        # Of one logit of several classes there is none.
        is_own = self.head.mode in ("binary", "multilabel")
        return probability(output) if is_own else None

    def predictions(self) -> list[dict[str, Any]]:
        """What the model says of each patient, as far as it is known.

        Of several classes the explained one is the prediction, where that was asked
        for; else there is none.
        """
        columns = (self.people[name] for name in ("target", "f_input", "observed"))
        said = [self._prediction(*entries) for entries in zip(*columns)]
        return ranked(self.head, said)

    def _prediction(
        self, target: Any, output: float | None, observed: Any
    ) -> dict[str, Any]:
        probability = self._probability(output)
        score = output if probability is None else probability
        score = math.nan if score is None else score
        # Of several labels at once the score is the explained one's.
        is_named = self.head.mode == "multilabel" or (
            self.head.mode == "multiclass" and self.is_predicted
        )
        is_known = is_named and not self.is_contrast and not math.isnan(score)
        classes = (target,) if is_known else ()
        actual = self.head.actual(observed)
        return prediction_of(self.head, classes, score, probability is not None, actual)

    def groups(self) -> dict[str, tuple[str, ...]]:
        """Columns with few different words, truth values or whole numbers."""
        kinds = cs.string() | cs.boolean() | cs.integer()
        asked = self.people.drop(TAKEN).select(kinds)
        few = range(2, min(MOST_GROUPS, len(self.people) - 1) + 1)
        return {
            column.name: tuple(map(str, column.fill_null("unknown")))
            for column in asked.cast(pl.String)
            if column.n_unique() in few
        }

    def codes(self) -> tuple[list[dict[str, str]], list[list[int]]]:
        """Every code and column that any patient has, and per patient their places."""
        keys, header = ["feature", "code"], self.stored.header
        mine = self.index.lazy().select("sample")
        rows = pl.concat(self.stored.rows()).join(mine, "sample")
        with self.stored.reading():
            held = rows.select("sample", *keys).unique().collect(engine="streaming")
        held = held.sort("sample", *keys)
        codes = held.select(keys).unique(maintain_order=True).with_row_index("place")
        places = held.join(codes, keys).group_by("sample").agg("place")
        present = self.index.join(places, "sample", "left", maintain_order="left")
        names, units = (
            {f.key: words_for(f.key, words) for f in header.features}
            for words in (header.names, header.units)
        )
        return [
            {
                "feature": key,
                "code": code,
                "name": names[key].get(code, ""),
                "unit": units[key].get(code, ""),
            }
            for key, code in codes.select(keys).rows()
        ], [places or [] for places in present["place"].to_list()]


def _classes(
    mode: str | None, names: Sequence[str] | None, most: int
) -> tuple[str, ...]:
    """What the classes are called, two of a binary model."""
    if mode == "binary":
        name = names[-1] if names else "1"
        return (f"not {name}", name)
    return tuple(names or map(str, range(most + 1)))
