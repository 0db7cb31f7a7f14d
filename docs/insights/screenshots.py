"""Take the pictures of docs/insights.md, of the built-in cohort.

Trains the demo's models and photographs the page in headless Chromium:

    python docs/insights/screenshots.py

Given the eICU Collaborative Research Database Demo (PhysioNet, doi 10.13026/4mxk-na84,
Open Database License 1.0), it trains a StageNet on most of its stays and photographs
the others. Such pictures are patients' records, and stay out of this folder:

    python docs/insights/screenshots.py path/to/eicudemo --out elsewhere
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from pyhealth.datasets import create_sample_dataset
from pyhealth.models import StageNet
from rich.console import Console

from captum_ehr import Explanation
from captum_ehr.demo.cohorts import Cohort, split_by_patient
from captum_ehr.demo.live import demo_visualizer
from captum_ehr.demo.training import train
from captum_ehr.insights import AttributionVisualizer

HERE = Path(__file__).resolve().parent

LABS = {
    "lactate": "mmol/L",
    "creatinine": "mg/dL",
    "BUN": "mg/dL",
    "WBC x 1000": "10^3/uL",
    "platelets x 1000": "10^3/uL",
    "Hgb": "g/dL",
    "sodium": "mmol/L",
    "potassium": "mmol/L",
    "glucose": "mg/dL",
    "albumin": "g/dL",
    "total bilirubin": "mg/dL",
    "bicarbonate": "mmol/L",
}
STEP, HOURS, LONG = 6, 36, 72
MINUTES = 60
RARE = 4


def main(
    eicu: Annotated[Path | None, typer.Argument(help="The eICU demo.")] = None,
    out: Annotated[Path, typer.Option(help="Where they go.")] = HERE,
) -> None:
    """Read, train, photograph."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    if eicu is None:
        with demo_visualizer(Console(stderr=True), patients=40) as visualizer:
            photograph(visualizer, out)
        return
    if out.resolve() == HERE:
        raise typer.BadParameter("pictures of real records go elsewhere: --out FOLDER")
    photograph(of_eicu(eicu), out)


def of_eicu(root: Path) -> AttributionVisualizer:
    """The held-out stays of the eICU demo, explained by a StageNet."""
    samples, scale = read(root)
    patients: dict[str, list[int]] = {}
    for place, sample in enumerate(samples):
        patients.setdefault(sample["patient_id"], []).append(place)
    labels = [sample["long"] for sample in samples]
    chosen, held_out = split_by_patient(patients, labels, 50, seed=1)
    schema = {
        "diagnoses": "stagenet",
        "treatments": "stagenet",
        "labs": "stagenet_tensor",
    }
    dataset = create_sample_dataset(samples, schema, {"long": "binary"})
    cohort = Cohort(
        title="eICU demo",
        outcome="3 days or more",
        dataset=dataset,
        train=dataset.subset(chosen),
        held_out=dataset.subset(held_out),
        names={name: f"{name} ({unit})" for name, unit in LABS.items()},
        planted=(),
        notes=(),
        epochs=30,
        batch_size=16,
    )
    torch.manual_seed(0)
    model = StageNet(dataset, embedding_dim=32, chunk_size=16, levels=2)
    train(model, cohort, cohort.epochs, 0, lambda epoch, loss: None)
    return AttributionVisualizer(
        model,
        ["under 3 days", "3 days or more"],
        dataset=cohort.held_out,
        names=cohort.names,
        groups=("sex", "unit"),
        readable=readable(scale),
        time_label="hours since admission to the ICU",
        title="EHR Insights: eICU demo",
        deidentify=True,
    )


def read(root: Path) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """One sample per stay, its first days in steps; each lab's mean and deviation."""
    stays = pd.read_csv(root / "patient.csv").set_index("patientunitstayid")
    labs, scale = lab_steps(pd.read_csv(root / "lab.csv"))
    diagnoses = pd.read_csv(root / "diagnosis.csv")
    diagnoses["code"] = diagnoses["diagnosisstring"].map(last_words)
    treatments = pd.read_csv(root / "treatment.csv")
    treatments["code"] = treatments["treatmentstring"].map(last_words)
    coded = {
        "diagnoses": code_steps(diagnoses, "diagnosisoffset"),
        "treatments": code_steps(treatments, "treatmentoffset"),
    }
    samples = []
    for stay, row in stays.iterrows():
        steps = {key: own.get(stay, {}) for key, own in coded.items()}
        if not all(steps.values()) or stay not in labs.index:
            continue
        if row["unitdischargeoffset"] < HOURS * MINUTES:
            continue
        sample = {
            "patient_id": str(row["uniquepid"]),
            "long": int(row["unitdischargeoffset"] >= LONG * MINUTES),
            "sex": str(row["gender"]),
            "unit": str(row["unittype"]),
        }
        for key, own in steps.items():
            times = sorted(own)
            sample[key] = (gaps(times), [own[time] for time in times])
        values = labs.loc[stay]
        sample["labs"] = (gaps(list(values.index)), values.to_numpy().tolist())
        samples.append(sample)
    return samples, scale


def gaps(times: list[float]) -> list[float]:
    """Days since the step before, as StageNet wants them."""
    return [0.0] + [(b - a) / 24 for a, b in zip(times, times[1:], strict=False)]


def code_steps(table: pd.DataFrame, offset: str) -> dict[int, dict[float, list[str]]]:
    """Per stay and step the codes that were entered; rare ones left out."""
    table = table.assign(step=step_of(table[offset])).dropna(subset=["step", "code"])
    stays = table.groupby("code")["patientunitstayid"].nunique()
    table = table[table["code"].map(stays) >= RARE]
    made: dict[int, dict[float, list[str]]] = {}
    for (stay, step), rows in table.groupby(["patientunitstayid", "step"]):
        made.setdefault(stay, {})[step] = sorted(set(rows["code"]))
    return made


def step_of(offset: pd.Series) -> pd.Series:
    """The beginning of the step, in hours; missing outside of the first days."""
    hours = offset / MINUTES
    return (hours // STEP * STEP).where((hours >= 0) & (hours < HOURS))


def lab_steps(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """z-values by stay and step, the last known ones carried forward."""
    table = table[table["labname"].isin(list(LABS))]
    table = table.assign(step=step_of(table["labresultoffset"])).dropna(
        subset=["step", "labresult"]
    )
    scale = table.groupby("labname")["labresult"].agg(["mean", "std"])
    scale = scale.loc[list(LABS)]
    wide = table.pivot_table(
        index=["patientunitstayid", "step"], columns="labname", values="labresult"
    )[list(LABS)]
    z = ((wide - scale["mean"]) / scale["std"]).clip(-3, 3)
    return z.groupby(level=0).ffill().fillna(0.0), scale


def last_words(text: str) -> str:
    """The end of a path, with what stands before it where that says little."""
    parts = text.split("|")
    return parts[-1] if len(parts[-1]) > 8 else ", ".join(parts[-2:])


def readable(scale: pd.DataFrame) -> Callable[[Explanation], Explanation]:
    """Values back in their units, and hours since admission."""
    from dataclasses import replace

    mean, deviation = (torch.tensor(scale[c].to_numpy()) for c in ("mean", "std"))

    def shown(explanation: Explanation) -> Explanation:
        features = {}
        for key, record in explanation.features.items():
            record = replace(record, time=(record.time.cumsum(1) * 24).round())
            if key == "labs":
                values = (mean + deviation * record.values).float().round(decimals=1)
                record = replace(record, values=values, columns=tuple(LABS))
            features[key] = record
        return replace(explanation, features=features)

    return shown


def photograph(visualizer: AttributionVisualizer, folder: Path) -> None:
    """The patient, the comparison and the cohort."""
    from playwright.sync_api import sync_playwright

    overview = visualizer.overview()
    said, patients = overview["predictions"][0], overview["patients"]
    right = [
        i
        for i, one in enumerate(said)
        if one["correct"] and patients[i]["actual"] == (1,)
    ]
    row = max(
        right or range(len(said)), key=lambda i: len(visualizer.view(i)["visits"])
    )
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    with visualizer.serve() as server, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 1180})
        page.goto(server.url)
        page.locator("#search").fill(visualizer.ids[row])
        page.keyboard.press("Enter")
        page.locator("#reset").click()
        page.wait_for_timeout(2500)
        page.screenshot(path=folder / "patient.png")
        page.locator("#compare").click()
        second = page.locator(".panel[data-side='1']")
        second.get_by_label("Method").select_option(label="ShapleyValueSampling")
        page.wait_for_selector(".waiting", state="attached")
        page.wait_for_selector(".panel:not(:has(.waiting))")
        page.wait_for_selector(".agreement")
        page.screenshot(path=folder / "comparison.png")
        page.locator("#compare").click()
        page.locator("[data-tab=cohort]").click()
        page.wait_for_timeout(1500)
        page.screenshot(path=folder / "cohort.png")
        browser.close()


if __name__ == "__main__":
    typer.run(main)
