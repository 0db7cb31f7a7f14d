"""The demo's files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from captum_ehr.demo.cohort import Cohort
from captum_ehr.demo.explaining import Explained, shown_patients, timeline_patient
from captum_ehr.explanation.writing import private

if TYPE_CHECKING:
    import pandas as pd


def combined_frame(results: Sequence[Explained]) -> pd.DataFrame:
    """All models' rows: :meth:`Explanation.to_frame` after a column ``model``.

    Two columns follow, the patient's ``f_baseline`` and ``f_input``, so the file
    alone shows that attributions add up: per model and patient, their sum is the
    difference.
    """
    import pandas as pd

    frames = []
    for explained in results:
        explanation = explained.explanation
        frame = explanation.to_frame()
        frame.insert(0, "model", explained.name)
        for column in ("f_baseline", "f_input"):
            numbers = getattr(explanation, column).double().tolist()
            by_patient = dict(zip(explanation.patient_ids, numbers, strict=True))
            frame[column] = frame["patient_id"].map(by_patient)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def write_files(results: Sequence[Explained], cohort: Cohort, out: Path) -> list[Path]:
    """Write the report, the picture, the table and each model's explanation.

    Args:
        results: Per model.
        cohort: Where the patients come from.
        out: The folder; files of the same names are replaced.

    Returns:
        The paths, the report's first.
    """
    from captum_ehr.visualization import timeline, write_report

    first = results[0].explanation
    report = write_report(
        {explained.name: explained.explanation for explained in results},
        out / "report.html",
        title=cohort.title,
        planted=cohort.planted,
        patients=shown_patients(first),
        notes=cohort.notes,
    )
    picture = out / "timeline.png"
    figure, _ = timeline(first, timeline_patient(first), time_label=cohort.time_label)
    with private(picture) as file:
        figure.savefig(file, dpi=150, format="png")
    table = out / "attributions.parquet"
    with private(table) as file:
        combined_frame(results).to_parquet(file, index=False)
    saved = [
        explained.explanation.save(out / f"{explained.name.lower()}.parquet")
        for explained in results
    ]
    return [report, picture, table, *saved]
