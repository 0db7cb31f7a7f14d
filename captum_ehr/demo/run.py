"""The demo from end to end."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from captum_ehr.demo.cohorts import N_PATIENTS, Cohort, synthetic_demo_cohort
from captum_ehr.demo.explaining import (
    Explained,
    explain,
    shown_patients,
    timeline_patient,
)
from captum_ehr.demo.mimic3 import mimic3_cohort
from captum_ehr.demo.quiet import one_thread, quiet
from captum_ehr.demo.terminal import account_table, epochs_said, plain, said, top_table
from captum_ehr.demo.training import MODELS, build_model, steps_of, train
from captum_ehr.explanation.words import remarks
from captum_ehr.explanation.writing import private


def run_demo(
    out: Path,
    console: Console,
    *,
    mimic3: Path | None = None,
    patients: int = 200,
    epochs: int | None = None,
    seed: int = 0,
    n_patients: int = N_PATIENTS,
) -> list[Path]:
    """Train both models, explain held-out patients, show the tables, write the files.

    The console's file must be given, since what libraries print to the standard streams
    is held back meanwhile. The paths written come back, the report's first; DemoError
    says if the data do not suffice.
    """
    out.mkdir(parents=True, exist_ok=True)
    with quiet(), one_thread(), scratch(out) as copies:
        with console.status("") as status:
            said(
                console, status, "loading PyHealth and the patients (a minute at most)"
            )
            cohort = (
                synthetic_demo_cohort(n_patients, patients, seed)
                if mimic3 is None
                else mimic3_cohort(mimic3, Path(copies), patients, seed)
            )
        for note in cohort.notes:
            console.print(note, highlight=False)
        length = epochs or cohort.epochs
        with _progress(console) as bars:
            results = [_result(name, cohort, length, seed, bars) for name in MODELS]
        for explained in results:
            console.print()
            console.print(top_table(explained, cohort, console.width))
        console.print()
        console.print(account_table(results, cohort))
        for explained in results:
            for message in remarks(explained.explanation):
                console.print(f"! {explained.name}: {message}", markup=False)
        with console.status("Writing the report …"):
            return write_files(results, cohort, out)


def _result(
    name: str, cohort: Cohort, epochs: int, seed: int, progress: Progress
) -> Explained:
    model = build_model(name, cohort.dataset, seed)
    task = progress.add_task(f"train {name}", total=steps_of(cohort, epochs), note="")

    tell = epochs_said(partial(plain, progress.console), name, epochs)

    def step(epoch: int, loss: float) -> None:
        note = f"epoch {epoch + 1}/{epochs}, loss {loss:.2f}"
        progress.update(task, advance=1, note=note)
        tell(epoch, loss)

    train(model, cohort, epochs, seed, step)
    size = len(cohort.held_out)
    # One call explains all, so it has no middle to show.
    task = progress.add_task(f"explain {name}", total=None, note="")
    explained = explain(name, model, cohort)
    note = f"{size} {cohort.unit}"
    progress.update(task, total=size, completed=size, note=note)
    return explained


def _progress(console: Console) -> Progress:

    columns = (
        TextColumn("{task.description:<20}"),
        BarColumn(),
        TextColumn("{task.fields[note]:<24}"),
        TimeElapsedColumn(),
    )
    return Progress(
        *columns, console=console, redirect_stdout=False, redirect_stderr=False
    )


def scratch(out: Path | None) -> TemporaryDirectory[str]:
    """A folder for PyHealth's copies of the data, in another, then gone.

    Beside the results, because records may have to stay on the disk that was chosen.
    """
    return TemporaryDirectory(dir=out, prefix=".pyhealth-", ignore_cleanup_errors=True)


def combined_frame(results: Sequence[Explained]) -> pd.DataFrame:
    """All models' rows: :meth:`Explanation.to_frame` after a column ``model``.

    Two columns follow, the patient's ``f_baseline`` and ``f_input``, so the file
    alone shows that attributions add up: per model and patient, their sum is the
    difference.
    """
    frames = []
    for explained in results:
        explanation = explained.explanation
        outputs = explanation.samples()[["sample", "f_baseline", "f_input"]]
        frame = explanation.to_frame().merge(outputs, "left", "sample")
        frame.insert(0, "model", explained.name)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def write_files(results: Sequence[Explained], cohort: Cohort, out: Path) -> list[Path]:
    """Write the report, the picture, the table and each model's explanation."""
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
