"""The result of an attribution: tensors, codes, visits, completeness, account."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from captum_ehr import storage
from captum_ehr.adapter.records import FeatureRecord
from captum_ehr.propagation.diagnostics import Diagnostics

if TYPE_CHECKING:
    import pandas as pd

_PER_PATIENT = ("f_input", "f_baseline", "delta", "rescale_factor")


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
        names: Human names of codes; a code that is not in it stays as it is.

    Raises:
        ValueError: If shapes, lengths or feature keys do not fit together, a token
            id has no code in its vocabulary, or ``output`` is unknown.

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
    names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that everything fits together."""
        count = len(self.patient_ids)
        for name in _PER_PATIENT:
            shape = tuple(getattr(self, name).shape)
            if shape != (count,):
                raise ValueError(
                    f"{name} has shape {shape}, expected ({count},): one number for "
                    "each of patient_ids."
                )
        if len(self.target) != count:
            raise ValueError(
                f"target has {len(self.target)} entries, expected {count}: one for "
                "each of patient_ids."
            )
        if self.output not in ("logit", "probability"):
            raise ValueError(
                f"output is {self.output!r}, expected 'logit' or 'probability'."
            )
        if set(self.attributions) != set(self.features):
            raise ValueError(
                f"attributions are for the features {sorted(self.attributions)}, "
                f"expected {sorted(self.features)}: give one tensor per feature."
            )
        for key, record in self.features.items():
            _check_feature(key, record, self.attributions[key], count)

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
            A frame with the columns ``patient_id`` (string), ``feature`` (string),
            ``visit`` (Int64), ``position`` (Int64), ``time`` (float, in the units
            of the task, NaN where unknown), ``code`` (string), ``name`` (string),
            ``value`` (float, NaN for tokens) and ``attribution`` (float).

            - Flat tokens: ``position`` counts tokens, ``visit`` is NA.
            - Nested tokens: ``visit`` is axis 1, ``position`` the place in it.
            - Deep nested tokens ``(patients, groups, visits, positions)``:
              ``visit`` is ``group * visits + visit``, ``time`` the group's.
            - Time series ``(patients, steps, columns)``: ``visit`` is the step,
              ``position`` the column, ``code`` the column's name.
            - Columns ``(patients, columns)``: ``position`` is the column.
            - A flat time series (``time`` shaped like the values): ``position`` is
              the step, ``code`` the one column's name, else the feature key.

            A column without a name has the code ``"<feature>[<column>]"``.
        """
        return storage.frame_of(storage.build_rows(self))

    def top(self, k: int | None = 10) -> pd.DataFrame:
        """The strongest codes over all patients of this explanation.

        For the strongest codes of one patient: ``explanation[0].top()``.

        Args:
            k: How many codes; None for all.

        Returns:
            A frame sorted by ``mean_abs``, strongest first, with the columns
            ``feature``, ``code``, ``name``, ``count`` (rows), ``patients`` (who have
            it), ``sum`` of its attributions, and over all patients explained,
            counting 0 for who do not have it, ``mean`` of its sum in each patient and
            ``mean_abs`` of that sum's absolute value.
        """
        keys = ["feature", "code"]
        each = (
            self.to_frame()
            .groupby([*keys, "patient_id"], as_index=False)
            .agg(
                name=("name", "first"),
                count=("attribution", "size"),
                sum=("attribution", "sum"),
            )
        )
        each["absolute"] = each["sum"].abs()
        table = each.groupby(keys, as_index=False).agg(
            name=("name", "first"),
            count=("count", "sum"),
            patients=("patient_id", "size"),
            mean=("sum", "sum"),
            mean_abs=("absolute", "sum"),
            sum=("sum", "sum"),
        )
        table[["mean", "mean_abs"]] /= max(len(self), 1)
        table = table.sort_values("mean_abs", ascending=False, kind="stable")
        return table.head(len(table) if k is None else k).reset_index(drop=True)

    def save(self, path: str | Path) -> Path:
        """Write everything to one Parquet file (zstd, nothing pickled).

        The file's ordinary columns are those of :meth:`to_frame`, readable by any
        Parquet reader. Tensors come back on the CPU, bit for bit.

        Args:
            path: Where to; an existing file is replaced.

        Returns:
            The path that was written.
        """
        return storage.write(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Explanation:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is no saved explanation, or a newer format.
        """
        return cls(**storage.read(path))

    def select(self, indices: int | slice | Iterable[int] | Tensor) -> Explanation:
        """The explanation of some of the patients, in the order asked for.

        Args:
            indices: One index, a slice, several indices, or a boolean mask with
                one entry per patient. Negative indices count from the end.

        Raises:
            IndexError: If an index is out of range.
        """
        chosen = self._indices(indices)

        def pick(tensor: Tensor) -> Tensor:
            return tensor[torch.tensor(chosen, dtype=torch.long, device=tensor.device)]

        def part(record: FeatureRecord) -> FeatureRecord:
            return replace(
                record,
                values=pick(record.values),
                mask=pick(record.mask),
                time=None if record.time is None else pick(record.time),
            )

        return replace(
            self,
            attributions={key: pick(one) for key, one in self.attributions.items()},
            features={key: part(one) for key, one in self.features.items()},
            f_input=pick(self.f_input),
            f_baseline=pick(self.f_baseline),
            delta=pick(self.delta),
            rescale_factor=pick(self.rescale_factor),
            target=tuple(self.target[i] for i in chosen),
            patient_ids=tuple(self.patient_ids[i] for i in chosen),
        )

    def __getitem__(self, index: int | slice | Iterable[int] | Tensor) -> Explanation:
        """The same as :meth:`select`; one patient gives a batch of one."""
        return self.select(index)

    def _indices(self, indices: int | slice | Iterable[int] | Tensor) -> list[int]:
        count = len(self)
        if isinstance(indices, slice):
            return list(range(count))[indices]
        wanted = indices.tolist() if isinstance(indices, Tensor) else indices
        asked = list(wanted) if isinstance(wanted, Iterable) else [wanted]
        if asked and all(isinstance(one, bool) for one in asked):
            if len(asked) != count:
                raise IndexError(
                    f"the boolean mask has {len(asked)} entries, expected {count}: "
                    "one per patient."
                )
            return [i for i, one in enumerate(asked) if one]
        chosen = [operator.index(one) for one in asked]
        for one in chosen:
            if not -count <= one < count:
                held = f"0 to {count - 1}" if count else "none"
                raise IndexError(
                    f"patient {one} is out of range: this explanation has {count} "
                    f"patient(s), indices {held}."
                )
        return [one % count for one in chosen]

    def __repr__(self) -> str:
        """A few lines: what was explained, whether it adds up, the top codes."""
        lines = [" | ".join(summary(self)), *completeness(self)]
        lines += [f"! {message}" for message in self.diagnostics.messages]
        for row in self.top(5).to_dict("records"):
            code = row["code"]
            if row["name"] != code:
                code += f" ({row['name']})"
            mean = f"mean {row['mean']:+.4g}, {row['patients']} patient(s) have it"
            lines.append(f"{row['feature']} {code}: {mean}")
        return "Explanation: " + "\n  ".join(lines)

    def _repr_html_(self) -> str:
        """Compact, self-contained HTML for a notebook; all data is escaped."""
        from captum_ehr.visualization.notebook import to_html

        html: str = to_html(self)
        return html


def summary(explanation: Explanation) -> list[str]:
    """What was explained, in a few words: model, patients, output, baseline."""
    labels = {explanation.target_label(i) for i in range(len(explanation))}
    parts = [
        explanation.model_name or "unnamed model",
        f"{len(explanation)} patient(s)",
        f"{explanation.output} of "
        + (f"{len(labels)} targets" if len(labels) != 1 else f"target {labels.pop()}"),
    ]
    if explanation.baseline:
        parts.append(f"baseline {explanation.baseline}")
    return parts


def completeness(explanation: Explanation) -> list[str]:
    """Whether the attributions add up, in one or two lines of plain words."""
    if not len(explanation):
        return []
    mean = "" if len(explanation) == 1 else "mean "
    at_baseline = explanation.f_baseline.detach().double().mean().item()
    at_input = explanation.f_input.detach().double().mean().item()
    total = explanation.total.mean().item()
    worst = explanation.relative_delta.max().item()
    change = f"{mean}f(x0) {at_baseline:.4f} → f(x) {at_input:.4f}"
    return [
        f"{change}, sum of attributions {total:+.4f}",
        f"largest |delta| / |f(x) - f(x0)| before rescaling: {worst:.1e}",
    ]


def _check_feature(
    key: str, record: FeatureRecord, attribution: Tensor, count: int
) -> None:
    """Raise a ValueError that names what does not fit in a feature."""
    values, shape = record.values, tuple(record.values.shape)

    def refuse(what: str, came: object, expected: object) -> None:
        raise ValueError(f"feature {key!r}: {what} {came}, expected {expected}.")

    if not shape or shape[0] != count:
        refuse("values have shape", shape, f"{count} patient(s) along the first axis")
    if tuple(attribution.shape) != shape:
        refuse("attributions have shape", tuple(attribution.shape), f"{shape}")
    if tuple(record.mask.shape) != shape or record.mask.dtype != torch.bool:
        came = f"{record.mask.dtype} of shape {tuple(record.mask.shape)}"
        refuse("the mask is", came, f"torch.bool of shape {shape}")
    if record.time is not None:
        steps = {shape[1] if len(shape) > 1 else 1}
        if len(shape) == 2 and not record.is_token:
            steps.add(1)
        allowed = [(count, n) for n in sorted(steps)]
        if tuple(record.time.shape) not in allowed:
            words = " or ".join(map(str, allowed))
            refuse("time has shape", tuple(record.time.shape), words)
    if record.vocabulary is None:
        width = shape[-1] if len(shape) > 1 else 1
        named = width if record.columns is None else len(record.columns)
        if named != width and not storage.is_series(record):
            refuse("there are column names:", named, width)
        return
    if values.is_floating_point():
        refuse("token ids are", values.dtype, "an integer dtype")
    if len(shape) > 4:
        refuse("token ids have", f"{len(shape)} axes", "1 to 4 axes")
    ids, size = values[record.mask], len(record.vocabulary)
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < size:
        came = f"{int(ids.min())} to {int(ids.max())}"
        refuse("token ids run from", came, f"0 to {size - 1}, as in its vocabulary")
