"""A cohort's files, opened and checked; nothing of them is believed unread."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from reprlib import repr as shortened
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
import torch

from ..explanation import Explanation, FeatureRecord
from ..explanation.explained import Contrast, Explained, Place, label_of
from ..explanation.feature_record import FeatureKeyError, Times
from ..explanation.sample_columns import PER_PATIENT
from ..propagation import Diagnostics
from ..scene.wording import several
from .columns import explanation_of, rows_schema, target_of
from .manifest import (
    COHORT,
    PART,
    PATIENTS,
    ROWS,
    CohortError,
    finished_parts,
    part_folder,
    part_report,
    read_manifest,
)

if TYPE_CHECKING:
    import pyarrow as pa

type _Float = Literal["float16", "bfloat16", "float32", "float64"]
type _Number = Literal[_Float, "uint8", "int8", "int16", "int32", "int64", "bool"]

_MOST_PLACES = 2**26
"""How many codes or values a feature of one sample has at most."""


@dataclass(frozen=True)
class Feature:
    """What all patients have of a feature in common."""

    key: str
    dtype: _Number
    time_dtype: _Number | None
    vocabulary: tuple[str, ...] | None
    columns: tuple[str, ...] | None
    times: Times | None = None
    measured: bool = False  # whether it is known which of its values were

    @property
    def is_untimed_series(self) -> bool:
        """Whether its steps, if it has any, are numbered without times."""
        return self.vocabulary is None and self.time_dtype is None


@dataclass(frozen=True)
class Header:
    """What all explanations of a cohort have in common."""

    features: tuple[Feature, ...]
    dtype: _Float
    model_name: str
    output: Literal["logit", "probability"]
    target_names: tuple[str, ...] | None
    baseline: str
    names: dict[str, str | dict[str, str]]
    units: dict[str, str | dict[str, str]]
    mode: str | None
    fingerprint: str
    target_unit: str = ""
    ranges: dict[str, dict[str, tuple[float | None, float | None]]] = field(
        default_factory=dict
    )

    def target_label(self, target: Explained) -> str:
        """The name of an explained output, else its index."""
        return label_of(target, self.target_names)


@dataclass(frozen=True)
class _Manifest:
    """``cohort.json``, as far as it is read."""

    partitions: int
    fingerprint: str
    explanation: Header


@dataclass(frozen=True)
class StoredCohort:
    """The files of a cohort, checked.

    Args:
        path: The folder.
        manifest: What ``cohort.json`` says.
        header: What all explanations have in common.
        reports: What each finished part's ``part.json`` says, by its number.
    """

    path: Path
    manifest: Mapping[str, Any]
    header: Header
    reports: Mapping[int, Mapping[str, Any]]

    def files(self, name: str) -> list[Path]:
        """That file of each finished part."""
        return [part_folder(self.path, number) / name for number in self.reports]

    def rows(self) -> list[pl.LazyFrame]:
        """The rows of each part, words as strings; all of a sample are in one."""
        words = pl.col("patient_id", "feature", "code").cast(pl.String)
        return [pl.scan_parquet(f).with_columns(words) for f in self.files(ROWS)]

    def patients(self) -> pl.LazyFrame:
        """A row per sample."""
        return pl.scan_parquet(self.files(PATIENTS))

    @cached_property
    def index(self) -> pl.DataFrame:
        """``patient_id``, ``sample`` and ``part`` of all samples, as in the dataset."""
        parts = [
            pl.scan_parquet(path).select("patient_id", "sample", part=number)
            for number, path in zip(self.reports, self.files(PATIENTS))
        ]
        return pl.concat(parts).collect().sort("sample")

    def explanations(self, samples: pl.DataFrame) -> list[Explanation]:
        """One explanation per row of the index, each with its own messages.

        Raises:
            CohortError: If a file of theirs is damaged; it is named.
        """
        held, found = self.manifest["explanation"], {}
        for (number,), mine in samples.group_by("part"):
            folder, only = part_folder(self.path, number), mine["sample"].to_list()
            rows, people = (_read(folder / name, only) for name in (ROWS, PATIENTS))
            _check_layouts(folder, people)
            report = Diagnostics.from_dict(self.reports[number]["diagnostics"])
            for row, sample in enumerate(people["sample"].to_pylist()):
                try:
                    one = explanation_of(rows, people.slice(row, 1), held, report)
                except ValueError as error:
                    raise CohortError(f"{folder} is damaged: {error}") from error
                found[sample] = one
        return [found[sample] for sample in samples["sample"]]

    def of_patients(self, ids: Sequence[str]) -> pl.DataFrame:
        """The rows of the index of some patients, in the order asked for.

        Raises:
            KeyError: If there is no patient of an identifier.
        """
        asked = pl.DataFrame({"patient_id": ids}, {"patient_id": pl.String}).unique(
            maintain_order=True
        )
        found = asked.join(
            self.index, "patient_id", "left", maintain_order="left_right"
        )
        unknown = found.filter(pl.col("sample").is_null())["patient_id"].to_list()
        if unknown:
            failed = {one["patient_id"] for one in self.failures}
            aside = (
                "; could not be explained, see failed" if unknown[0] in failed else ""
            )
            raise FeatureKeyError(
                f"there is no patient {unknown[0]!r} in this cohort{aside}."
            )
        return found

    def account(self) -> Diagnostics:
        """What ran, of all parts."""
        reports = [report["diagnostics"] for report in self.reports.values()]
        return sum(map(Diagnostics.from_dict, reports), Diagnostics())

    @property
    def failures(self) -> list[Mapping[str, Any]]:
        """``patient_id``, ``sample`` and ``reason`` of who could not be explained."""
        return [one for report in self.reports.values() for one in report["failed"]]

    def summary(self) -> list[str]:
        """What was explained, in a few words."""
        header, index = self.header, self.index
        failed, parts = len(self.failures), self.manifest["partitions"]
        targets = targets_of(self.patients().select("target").collect())
        labels = {header.target_label(target) for target in targets}
        explained = (
            f"{len(labels)} targets" if len(labels) != 1 else f"target {labels.pop()}"
        )
        return [
            f"{several(len(index), 'sample')} of "
            f"{several(index['patient_id'].n_unique(), 'patient')}",
            header.model_name or "unnamed model",
            f"{header.output} of {explained}",
            *([f"baseline {header.baseline}"] if header.baseline else []),
            f"{len(self.reports)} of {several(parts, 'part')}",
            f"{failed} set aside" if failed else "none set aside",
        ]

    def nobody(self, codes: Mapping[str, Sequence[str]]) -> Explanation:
        """An explanation of no patient, with the codes that each feature can have.

        Args:
            codes: Per feature the codes in use, for those without a vocabulary.
        """
        records = {}
        for feature in self.header.features:
            names = tuple(codes.get(feature.key, ()))
            if feature.vocabulary is not None:
                ids = torch.zeros(0, 1, dtype=torch.long)
                record = FeatureRecord(ids, ids > 0, None, feature.vocabulary)
            else:
                values = torch.zeros(0, len(names))
                record = FeatureRecord(values, values > 0, None, None, names)
            records[feature.key] = record
        shares = {key: torch.zeros(r.values.shape) for key, r in records.items()}
        numbers: dict[str, Any] = dict.fromkeys(PER_PATIENT, torch.zeros(0))
        return Explanation(
            attributions=shares,
            features=records,
            target=(),
            diagnostics=Diagnostics(),
            patient_ids=(),
            **numbers,
        )

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Name the damaged file where polars cannot read one.

        Raises:
            CohortError: If there is one.
        """
        try:
            yield
        except (pl.exceptions.ComputeError, pl.exceptions.PanicException) as error:
            for path in [*self.files(ROWS), *self.files(PATIENTS)]:
                _check_pages(path)
            raise CohortError(f"{self.path} cannot be read: {error}") from error


def targets_of(people: pl.DataFrame) -> Counter[Explained]:
    """How many of some rows of the patients' table are explained for each output."""
    return Counter(map(target_of, people["target"].to_list()))


def explained_for(target: Explained) -> pl.Expr:
    """Which rows of the patients' table are explained for an output, or a contrast."""
    column = pl.col("target")
    if isinstance(target, Contrast):
        a, b = (column.struct.field(end) for end in "ab")
        return _stands_at(a, target.a) & _stands_at(b, target.b)
    return _stands_at(column, target)


def _stands_at(column: pl.Expr, target: Place) -> pl.Expr:
    if isinstance(target, int):
        return column == target
    return column.list.eval(pl.element().cast(pl.String)).list.join(",") == ",".join(
        map(str, target)
    )


def open_cohort(path: Path) -> StoredCohort:
    """Open a cohort's folder; parts that are not finished are left out.

    Raises:
        FileNotFoundError: If there is no cohort.
        CohortError: If it is of another format, or a file of it is damaged.
    """
    manifest = read_manifest(path)
    header = _checked(manifest, path)
    reports = finished_parts(path, manifest)
    for number in {*range(manifest["partitions"])} - {*reports}:
        folder = part_folder(path, number)
        is_there = (folder / PART).exists()
        # Looked at again: it may have been finished just now.
        if is_there and part_report(path, number, manifest["fingerprint"]) is None:
            raise CohortError(
                f"{folder} is damaged, or of another run: its files are not those that "
                f"its {PART} names. Explain the cohort again with resume=True, which "
                "makes this part anew."
            )
    stored = StoredCohort(path, manifest, header, reports)
    if not reports:
        raise CohortError(
            f"{path} has no finished part yet: there is nothing to read. Run "
            "explain_cohort again to go on."
        )
    _check_files(stored)
    return stored


def _checked(manifest: Mapping[str, Any], path: Path) -> Header:
    """What the features are, or where the words are not those of this format."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(_Manifest).validate_python(manifest).explanation
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        came = "missing" if first["type"] == "missing" else shortened(first["input"])
        raise CohortError(
            f"{path / COHORT}: {place} is {came}: {first['msg']}."
        ) from None


def _check_files(stored: StoredCohort) -> None:
    """Every file is Parquet, with the columns that are read."""
    import pyarrow as pa

    numbers = dict.fromkeys(PER_PATIENT, pa.float64())
    people = {"patient_id": pa.string(), "sample": pa.int32(), **numbers}
    rows = {one.name: one.type for one in rows_schema()}
    if not any(feature.measured for feature in stored.header.features):
        del rows["measured"]
    for name, wanted in ((ROWS, rows), (PATIENTS, people)):
        for path in stored.files(name):
            _check_columns(path, wanted)


def _check_columns(path: Path, wanted: Mapping[str, pa.DataType]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise CohortError(f"{path} is damaged, no Parquet file: {error}") from error
    for name, kind in wanted.items():
        came = [str(field.type) for field in schema if field.name == name]
        if came != [str(kind)]:
            words = " and ".join(came) or "missing"
            raise CohortError(f"{path}: column {name!r} is {words}, expected {kind}.")


def _read(path: Path, samples: Sequence[int]) -> pa.Table:
    """What a file has of some samples."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, filters=[("sample", "in", samples)])
    except (pa.ArrowException, OSError) as error:
        raise CohortError(f"{path} is damaged: {error}") from error


def _check_layouts(folder: Path, people: pa.Table) -> None:
    """Refuse what would need more room than any record."""
    for layouts in people["layout"].to_pylist():
        for layout in layouts:
            if math.prod(layout["shape"]) > _MOST_PLACES:
                raise CohortError(
                    f"{folder} is damaged: a feature has the shape {layout['shape']}."
                )


def _check_pages(path: Path) -> None:
    """Read all of a file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for _ in pq.ParquetFile(path).iter_batches():
            pass
    except (pa.ArrowException, OSError) as error:
        raise CohortError(f"{path} is damaged: {error}") from error
