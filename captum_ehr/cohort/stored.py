"""A cohort's files, opened and checked; nothing of them is believed unread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import torch

from ..explanation import Explanation, FeatureRecord
from ..explanation import data as explanation_data
from ..explanation.aggregates import check_threads
from ..explanation.explained import Contrast, Explained, Place, word_of
from ..explanation.feature_record import FeatureKeyError
from ..explanation.sample_columns import PER_PATIENT
from ..propagation import Diagnostics
from ..scene.wording import several
from .checking import (
    check_layouts,
    check_pages,
    check_patients,
    check_rows,
    check_sums,
    naming,
    read_samples,
)
from .columns import explanation_of, target_of
from .header import Failure, Header, Report, header_in, report_in
from .manifest import (
    COHORT,
    PART,
    PATIENTS,
    ROWS,
    CohortError,
    finished_parts,
    part_folder,
    part_report,
    parts_begun,
    read_manifest,
)

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class StoredCohort:
    """The files of a cohort, checked.

    Args:
        path: The folder.
        manifest: What ``cohort.json`` says.
        header: What all explanations have in common.
        reports: What is told of each finished part, by its number.
    """

    path: Path
    manifest: Mapping[str, Any]
    header: Header
    reports: Mapping[int, Report]

    def files(self, name: str) -> list[Path]:
        """That file of each finished part."""
        return [part_folder(self.path, number) / name for number in self.reports]

    def rows(self) -> list[pl.LazyFrame]:
        """The rows of each part, words as strings; all of a sample are in one.

        Raises:
            CohortError: If they do not add up to the outputs.
        """
        words = pl.col("patient_id", "feature", "code").cast(pl.String)
        return [pl.scan_parquet(f).with_columns(words) for f in self._row_files]

    @cached_property
    def _row_files(self) -> list[Path]:
        """Added up once, when rows are first asked for."""
        files = self.files(ROWS)
        for rows, people in zip(files, self.files(PATIENTS)):
            check_sums(rows, people, self.header)
        return files

    def patients(self) -> pl.LazyFrame:
        """A row per sample."""
        return pl.scan_parquet(self.files(PATIENTS))

    @cached_property
    def index(self) -> pl.DataFrame:
        """``patient_id``, ``sample`` and ``part`` of all samples, as in the dataset."""
        check_threads()
        parts = [
            pl.scan_parquet(path).select("patient_id", "sample", "target", part=number)
            for number, path in zip(self.reports, self.files(PATIENTS))
        ]
        found = pl.concat(parts).collect().sort("sample")
        absent = found.null_count().sum_horizontal().item()
        if absent or found["sample"].is_duplicated().any():
            raise CohortError(
                f"{self.path} is damaged: in {PATIENTS} of its parts a sample stands "
                "twice, or has no identifier or target."
            )
        return found.drop("target")

    def explanations(self, samples: pl.DataFrame) -> list[Explanation]:
        """One explanation per row of the index, each with its own messages.

        Raises:
            CohortError: If a file of theirs is damaged; it is named.
        """
        found: dict[int, Explanation] = {}
        for (number,), mine in samples.group_by("part"):
            folder, only = part_folder(self.path, number), mine["sample"].to_list()
            files = folder / ROWS, folder / PATIENTS
            rows, people = (read_samples(file, only) for file in files)
            with naming(folder):
                found |= self._explained(rows, people, self.reports[number].diagnostics)
        return [found[sample] for sample in samples["sample"]]

    def _explained(
        self, rows: pa.Table, people: pa.Table, report: Diagnostics
    ) -> dict[int, Explanation]:
        """By its sample, the explanation of each row of the patients' table."""
        held, found = self.manifest["explanation"], {}
        check_layouts(people)
        for row, sample in enumerate(people["sample"].to_pylist()):
            one = explanation_of(rows, people.slice(row, 1), held, report)
            if "padding" in people.schema.names:  # else there may be more than its rows
                explanation_data.check_sums(one)
            found[sample] = one
        return found

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
        reports = (report.diagnostics for report in self.reports.values())
        return sum(reports, Diagnostics())

    @property
    def failures(self) -> list[Failure]:
        """``patient_id``, ``sample`` and ``reason`` of who could not be explained."""
        return [one for report in self.reports.values() for one in report.failed]

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
            f"{word_of(header.output, header.mode)} of {explained}",
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
                check_pages(path)
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
    header = header_in(manifest, path / COHORT)
    reports = finished_parts(path, manifest)
    for number in {*parts_begun(path, manifest)} - {*reports}:
        folder = part_folder(path, number)
        is_there = (folder / PART).exists()
        # Looked at again: it may have been finished just now.
        if is_there and part_report(path, number, manifest["fingerprint"]) is None:
            raise CohortError(
                f"{folder} is damaged, or of another run: its files are not those that "
                f"its {PART} names. Explain the cohort again with resume=True, which "
                "makes this part anew."
            )
    told = {
        number: report_in(report, part_folder(path, number) / PART)
        for number, report in reports.items()
    }
    stored = StoredCohort(path, manifest, header, told)
    if not reports:
        raise CohortError(
            f"{path} has no finished part yet: there is nothing to read. Run "
            "explain_cohort again to go on."
        )
    people = stored.files(PATIENTS)
    for path in people:
        check_patients(path, people[0])
    for path in stored.files(ROWS):
        check_rows(path, header)
    with stored.reading():
        _ = stored.index
    return stored
