"""The result of an attribution, with the methods that people call on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import pandas as pd

from . import conversion, joining
from . import storage as files
from .described import Described
from .sample_columns import PER_PATIENT
from .selecting import Selector, positions, some, told_of
from .sums import strongest
from .tabled import Tabled
from .words import completeness, remarks, summary
from .writing import write_csv

_BY_PATIENT = (
    *("attributions", "features", "target", "patient_ids", "sample_columns"),
    *PER_PATIENT,
)


@dataclass(frozen=True, eq=False)
class Explanation(Described, Tabled):
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
        target: Per patient, the index of the explained output, or the
            :class:`Contrast` of two.
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
        ranges: By feature key, the usual ``(low, high)`` of its columns or codes.
        sample_columns: By name, one word, number or truth value per sample, None where
            it is unknown: what the batch says of each beside the features, such as
            sex, age, site, and the label as the dataset writes it.

    Raises:
        ValueError: If shapes, lengths or feature keys do not fit together, a token
            id has no code in its vocabulary, ``output`` is unknown, a usual range is
            not in order, or a sample column has a name that is taken.
        KeyError: If ``names``, ``units`` or ``ranges`` have a table for a feature that
            there is not.

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
        rows = positions(self.patient_ids, indices)
        parts = {name: some(getattr(self, name), rows) for name in _BY_PATIENT}
        return replace(self, diagnostics=told_of(self.diagnostics, rows), **parts)

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
        page = conversion.display("page")
        if page is None:
            raise ImportError(
                "to_html: no installed package makes pages of explanations (entry "
                "points of the group 'captum_ehr.displays'). Install captum-ehr; from "
                "a source tree with pip install -e ."
            )
        html: str = page(self, path, title=title)
        return html

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
        lines = [" | ".join(summary(self)), *completeness(self)]
        lines += [f"! {message}" for message in remarks(self)]
        for row in strongest(self).head(5).to_dict("records"):
            code = row["code"]
            if row["name"] != code:
                code += f" ({row['name']})"
            code += f" [{row['unit']}]" if row["unit"] else ""
            mean = f"mean {row['mean']:+.4g}, {row['patients']} patient(s) have it"
            target = f"{row['target']}: " if "target" in row else ""
            lines.append(f"{target}{row['feature']} {code}: {mean}")
        return "Explanation: " + "\n  ".join(lines)

    def _repr_html_(self) -> str | None:
        """HTML for a notebook, which shows the text where nothing makes it."""
        notebook = conversion.display("notebook")
        return None if notebook is None else notebook(self)
