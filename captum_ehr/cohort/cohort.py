"""A cohort on disk, with the questions that people ask of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
from pyarrow.dataset import Dataset, dataset

from ..explanation import Explanation
from ..explanation.labels import Grouping
from ..explanation.resampling import Resampling
from . import cohort_tables as tables
from .cohort_report import write_cohort_report
from .cohort_tables import Among
from .judging import Judgement, judged
from .manifest import ROWS
from .stored import open_cohort


class Cohort:
    """Explanations of any number of patients, in a folder.

    Nothing is loaded whole: tables are worked out from the Parquet files by polars when
    they are asked for, in blocks, so that memory does not grow with the rows.

    What a table counts is a sample's *total*: the sum of its attributions at a code (a
    group, a feature, a visit). Tables have, with the meaning of
    :meth:`captum_ehr.Explanation.top`,

    - ``count`` (rows), ``samples`` and ``patients`` (who have it), and ``prevalence``,
      the share of the samples that have it;
    - ``mean`` and ``mean_abs`` over all samples, counting 0 for those that do not have
      it, of the total and of its absolute value;
    - ``mean_present``, ``q25``, ``median`` and ``q75`` over the samples that have it;
    - the ends of intervals, such as ``mean_low`` and ``mean_high``, by bootstrap over
      patients: all samples of a patient are drawn together. Each interval is for itself
      (of a thousand codes without effect fifty are beyond 0 at a level of .95), and of
      what fewer than some twenty patients have it is too narrow.

    Means and quartiles are NaN, and come last, where an attribution of a sample is no
    number. Where samples are explained for different outputs ``attrs["note"]`` says so,
    and a warning: choose one with ``among``. All tables take

    - ``among``: who is counted: identifiers of patients, or an expression of polars
      over :attr:`patients`, as ``pl.col("sex") == "F"`` or ``pl.col("target") == 2``;
    - ``replicates`` (0 for no intervals), ``level`` and ``seed`` of the bootstrap.

    Args:
        path: The folder that :func:`captum_ehr.explain_cohort` wrote. Parts that are
            not finished are left out.

    Raises:
        FileNotFoundError: If there is no cohort.
        CohortError: If it is of another format, or a file is damaged, which is named.

    Example:
        >>> from tempfile import mkdtemp
        >>> from captum_ehr import explain_cohort
        >>> from captum_ehr.datasets import tiny_model
        >>> model, _ = tiny_model()
        >>> cohort = explain_cohort(model, model.dataset, mkdtemp())
        >>> len(cohort), cohort["p2"].patient_ids
        (4, ('p2',))
        >>> cohort.codes(replicates=0)["code"].tolist()[:2]
        ['E11.9', 'I50.9']
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._stored = open_cohort(self.path)

    def scan(self) -> Dataset:
        """All rows as a dataset of Arrow's, of which nothing is read yet.

        One row per token or value, with the columns ``patient_id``, ``sample`` (the
        index in the dataset), ``feature``, ``code``, ``visit``, ``position``, ``time``,
        ``value``, ``attribution`` and, where that is known, ``measured``, as in
        :meth:`captum_ehr.Explanation.to_frame`; null where there is none.
        """
        return dataset(list(map(str, self._stored.files(ROWS))), format="parquet")

    @property
    def patients(self) -> pl.LazyFrame:
        """One row per sample, lazily: ``collect()`` it, or a part of it.

        ``patient_id``, ``sample``, ``f_input``, ``f_baseline``, ``delta``,
        ``rescale_factor``, ``padding`` (the sum of what is attributed to it, and has no
        rows), ``target``, ``observed``, ``messages``, and the columns asked for.
        """
        return self._stored.patients().drop("layout")

    def codes(
        self,
        by: Grouping | None = None,
        among: Among = None,
        *,
        rest: str = "other",
        replicates: int = 1_000,
        level: float = 0.95,
        seed: int = 0,
    ) -> pd.DataFrame:
        """The statistics of each code or column, or of groups of them, strongest first.

        Args:
            by: Groups in place of codes; see :meth:`captum_ehr.Explanation.by_group`.
            among: Who is counted; all by default.
            rest: The group of all that has none.
            replicates: How often patients are drawn again.
            level: Of the intervals.
            seed: Of the draws.

        Returns:
            ``feature``, ``code``, ``name`` and ``unit`` (or ``group``), and the
            statistics that :class:`Cohort` tells of, sorted by ``mean_abs``.

        Raises:
            KeyError: If there is no patient of an identifier, or ``by`` names a feature
                that there is not.
            ValueError: If nobody is left, a number is out of range, or there is no
                ready grouping of that name.
        """
        how = Resampling(replicates, level, seed)
        with self._stored.reading():
            return tables.code_table(self._stored, by, rest, among, how)

    def features(
        self,
        among: Among = None,
        *,
        replicates: int = 1_000,
        level: float = 0.95,
        seed: int = 0,
    ) -> pd.DataFrame:
        """The statistics of each ``feature``, in their order; as :meth:`codes`."""
        how = Resampling(replicates, level, seed)
        with self._stored.reading():
            return tables.feature_table(self._stored, among, how)

    def visits(
        self,
        among: Among = None,
        *,
        replicates: int = 1_000,
        level: float = 0.95,
        seed: int = 0,
    ) -> pd.DataFrame:
        """The statistics of each visit by its number from the start; as :meth:`codes`.

        Returns:
            ``visit`` (from 0; NA, last of the visits, for all that belongs to none) and
            ``series``: the feature whose own steps these are, as those of a series
            without times are no visits; None for visits.
        """
        how = Resampling(replicates, level, seed)
        with self._stored.reading():
            return tables.visit_table(self._stored, among, how)

    def groups(
        self,
        column: str,
        by: Grouping | None = None,
        among: Among = None,
        *,
        reference: Any = None,
        rest: str = "other",
        replicates: int = 1_000,
        level: float = 0.95,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Subgroups of patients side by side, code by code.

        Args:
            column: A column of :attr:`patients` with 2 to 50 values, such as
                ``"sex"``; samples without a value are left out.
            by: Groups of codes in place of codes; see :meth:`codes`.
            among: Who is counted; all by default.
            reference: The value that the others are compared with; the most frequent
                by default.
            rest: The group of all codes that have none.
            replicates: How often patients are drawn again.
            level: Of the intervals.
            seed: Of the draws.

        Returns:
            The columns of :meth:`captum_ehr.Explanation.groups`: a row per code and
            value but the reference, by falling absolute difference, with its interval,
            ``p_value`` and ``q_value``. What an interval may not say is told at
            :class:`Cohort`.

        Raises:
            KeyError: If there is no such column; as :meth:`codes`.
            ValueError: If it has not 2 to 50 values, or no such reference; as
                :meth:`codes`.
        """
        how = Resampling(replicates, level, seed)
        with self._stored.reading():
            return tables.group_table(
                self._stored, column, reference, by, rest, among, how
            )

    @property
    def failed(self) -> pd.DataFrame:
        """Who could not be explained: ``patient_id``, ``sample`` and ``reason``."""
        columns = ["patient_id", "sample", "reason"]
        return pd.DataFrame(self._stored.failures, columns=columns)

    @property
    def is_finished(self) -> bool:
        """Whether every part is there."""
        return len(self._stored.reports) == self._stored.manifest["partitions"]

    def performance(self, threshold: float = 0.5) -> Judgement:
        """How well the explained outputs fit what was observed.

        Args:
            threshold: The probability from which on a sample is called positive.

        Raises:
            ImportError: If scikit-learn is not installed.
            ValueError: If the threshold is no probability, or what was observed fits
                no kind of label.
        """
        with self._stored.reading():
            return judged(self._stored, threshold)

    def report(
        self,
        path: str | Path,
        *,
        title: str = "",
        threshold: float = 0.5,
        k: int = 20,
        patients: Sequence[str] = (),
    ) -> Path:
        """Write the cohort as one HTML page that needs nothing else.

        The model's performance, the strongest codes with their intervals, whether
        attributions add up, and who could not be explained; nothing of single patients
        but what is asked for.

        Args:
            path: Where to, readable by its owner alone; an existing file is replaced.
            title: The heading; by default the model's name.
            threshold: The probability from which on a sample is called positive.
            k: How many codes.
            patients: Identifiers of patients to show with their visits.

        Returns:
            The path that was written.

        Raises:
            ImportError: If scikit-learn is not installed.
            KeyError: If there is no such patient.
            ValueError: If ``k`` is less than 1, or as :meth:`performance`.
        """
        with self._stored.reading():
            return write_cohort_report(
                self._stored,
                path,
                title=title,
                threshold=threshold,
                k=k,
                patients=patients,
            )

    def __getitem__(self, patients: str | Iterable[str]) -> Explanation:
        """The explanation of a patient, or of several, with all of their samples.

        Raises:
            KeyError: If there is no patient of an identifier.
            TypeError: If it is no identifier.
        """
        ids: list[Any] = [patients]
        if isinstance(patients, Iterable) and not isinstance(patients, str):
            ids = list(patients)
        if not all(isinstance(one, str) for one in ids):
            raise TypeError(
                "patients of a cohort are chosen by an identifier or several, got "
                f"{patients!r}."
            )
        with self._stored.reading():
            parts = self._stored.explanations(self._stored.of_patients(ids))
        return Explanation.concat(parts)

    def __len__(self) -> int:
        """The number of samples explained."""
        return len(self._stored.index)

    def __repr__(self) -> str:
        """What was explained, how many, what is missing, and where it is."""
        with self._stored.reading():
            summary = self._stored.summary()
        return f"Cohort({str(self.path)!r}): {' · '.join(summary)}"
