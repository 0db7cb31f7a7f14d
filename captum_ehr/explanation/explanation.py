"""The result of an attribution: tensors, codes, visits, completeness, account."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from captum_ehr.adapter.records import FeatureRecord
from captum_ehr.propagation.diagnostics import Diagnostics

from . import conversion, storage, sums
from .checks import check
from .comparing import compare
from .joining import concat
from .naming import with_names, with_units
from .rows import Words, build_rows, frame_of
from .scale import in_probability
from .selecting import select
from .words import described
from .writing import write_csv

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Explanation:
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
        fingerprint: Tells the weights of the explained model from others'; empty
            where unknown.

    Raises:
        ValueError: If shapes, lengths or feature keys do not fit together, a token
            id has no code in its vocabulary, or ``output`` is unknown.
        KeyError: If ``names`` or ``units`` have a table for a feature that there is
            not.

    Example:
        >>> ids, mask = torch.tensor([[2, 3, 0]]), torch.tensor([[True, True, False]])
        >>> codes = FeatureRecord(ids, mask, None, ("<pad>", "<unk>", "I50", "E11"))
        >>> explanation = Explanation(
        ...     attributions={"conditions": torch.tensor([[0.5, -0.25, 0.0]])},
        ...     features={"conditions": codes},
        ...     f_input=torch.tensor([0.5]),
        ...     f_baseline=torch.tensor([0.25]),
        ...     delta=torch.zeros(1),
        ...     rescale_factor=torch.ones(1),
        ...     target=(0,),
        ...     diagnostics=Diagnostics(),
        ...     patient_ids=("p1",),
        ... )
        >>> explanation.to_frame()["code"].tolist()
        ['I50', 'E11']
    """

    attributions: dict[str, Tensor]
    features: dict[str, FeatureRecord]
    f_input: Tensor
    f_baseline: Tensor
    delta: Tensor
    rescale_factor: Tensor
    target: tuple[int | tuple[int, ...], ...]
    diagnostics: Diagnostics
    patient_ids: tuple[str, ...]
    model_name: str = ""
    output: str = "logit"
    target_names: tuple[str, ...] | None = None
    baseline: str = ""
    names: Words = field(default_factory=dict)
    units: Words = field(default_factory=dict)
    mode: str | None = None
    fingerprint: str = ""

    def __post_init__(self) -> None:
        """Check that everything fits together."""
        check(self)

    # Each of these is a function of its module, which documents it.
    select = select
    __getitem__ = select
    concat = staticmethod(concat)
    by_visit = sums.by_visit
    by_code = sums.by_code
    by_feature = sums.by_feature
    by_group = sums.by_group
    top = sums.top
    compare = compare
    in_probability = in_probability
    with_names = with_names
    with_units = with_units
    to_shap = conversion.to_shap
    to_captum_records = conversion.to_captum_records
    to_html = conversion.to_html

    def __len__(self) -> int:
        """The number of patients."""
        return len(self.patient_ids)

    @property
    def total(self) -> Tensor:
        """``(patients,)`` float64: the sum of all attributions of each patient."""
        total = torch.zeros(len(self), dtype=torch.float64)
        for attribution in self.attributions.values():
            summed = attribution.detach().to("cpu", torch.float64)
            total = total + (summed.flatten(1).sum(1) if summed.ndim > 1 else summed)
        return total

    @property
    def relative_delta(self) -> Tensor:
        """``(patients,)`` float64: ``|delta| / |f_input - f_baseline|``.

        0 where nothing is missing, infinite where something is missing although
        the output did not change.
        """
        numbers = (self.delta, self.f_input, self.f_baseline)
        delta, at_input, at_baseline = (
            number.detach().to("cpu", torch.float64) for number in numbers
        )
        ratio = delta.abs() / (at_input - at_baseline).abs()
        return torch.where(delta == 0, torch.zeros_like(ratio), ratio)

    def target_label(self, patient: int) -> str:
        """The name of the output explained for a patient, else its index."""
        target = self.target[patient]
        names = self.target_names or ()
        if isinstance(target, int) and 0 <= target < len(names):
            return names[target]
        return str(target)

    def to_frame(self) -> pd.DataFrame:
        """One row per real token or value; padding has no row.

        Rows come patient by patient, feature by feature, in the tensors' order.

        Returns:
            A frame with the columns ``patient_id`` (string), ``sample`` (integer, the
            row of the explanation: a patient may have several), ``visit`` (Int64),
            ``position`` (Int64), ``time`` (float, in the units of the task, NaN where
            unknown or where a patient's do not run forward: gaps since the visit
            before stand in ``features[key].time``), ``feature`` (string), ``code``
            (string), ``name`` (string), ``value`` (float, NaN for tokens), ``unit``
            (string, None where unknown) and ``attribution`` (float).

            - Flat tokens: ``position`` counts tokens, ``visit`` is NA.
            - Nested tokens: ``visit`` is axis 1, ``position`` the place in it.
            - Deep nested tokens ``(patients, groups, visits, positions)``:
              ``visit`` is ``group * visits + visit``, ``visits`` being the padded
              number, ``time`` the group's.
            - Time series ``(patients, steps, columns)``: ``visit`` is the step,
              ``position`` the column, ``code`` the column's name.
            - Columns ``(patients, columns)``: ``position`` is the column.
            - A flat time series (``time`` shaped like the values): ``position`` is
              the step, ``code`` the one column's name, else the feature key.

            A column without a name has the code ``"<feature>[<column>]"``.
        """
        return frame_of(build_rows(self))

    def save(self, path: str | Path) -> Path:
        """Write everything to one Parquet file (zstd, nothing pickled).

        The file's ordinary columns are those of :meth:`to_frame`, readable by any
        Parquet reader; what a row does not have (a code's value) is null. Tensors come
        back on the CPU, bit for bit. The file is whole or not there, and readable by
        its owner alone.

        Args:
            path: Where to; an existing file is replaced.

        Returns:
            The path that was written.

        Raises:
            ValueError: If the attributions do not add up to what the outputs, the
                delta and the factor say; :meth:`load` would refuse the file.
        """
        return storage.write(self, path)

    @classmethod
    def load(cls, path: str | Path, *, max_bytes: int = 2**31) -> Explanation:
        """Read what :meth:`save` wrote; the file is not trusted.

        Args:
            path: The file.
            max_bytes: The most memory that its tensors may take; a file that asks for
                more is refused before anything is unpacked.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is no saved explanation, a newer format, too large,
                or damaged, or if its attributions do not add up to what its outputs,
                delta and factor say. The message names the file and what is wrong.
        """
        return storage.read(path, cls, max_bytes)

    def to_csv(self, path: str | Path, table: pd.DataFrame | None = None) -> Path:
        """Write the rows as CSV that a spreadsheet may open.

        Text that it would run as a formula gets an apostrophe in front of it. The file
        is whole or not there, and readable by its owner alone.

        Args:
            path: Where to; an existing file is replaced.
            table: Another table of this explanation, such as ``by_code()``.

        Returns:
            The path that was written.
        """
        return write_csv(self.to_frame() if table is None else table, path)

    def __iter__(self) -> Iterator[Explanation]:
        """One explanation per sample."""
        return (select(self, row) for row in range(len(self)))

    def __repr__(self) -> str:
        """A few lines: what was explained, whether it adds up, the top codes."""
        return described(self)

    def _repr_html_(self) -> str:
        """Compact, self-contained HTML for a notebook; all data is escaped."""
        from captum_ehr.visualization.notebook import to_html

        html: str = to_html(self)
        return html
