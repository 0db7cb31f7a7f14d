"""Make the documentation's figures: train a model, explain, draw each plot.

    python docs/make_figures.py
    python docs/make_figures.py --mimic3 FOLDER --eicu FOLDER --out FOLDER

Without folders of records, everything is drawn from the built-in cohort of invented
patients, and that is what docs/figures holds: a picture of a patient's history is
that patient's record. With them, the same plots are made of real records: MIMIC-III
for codes, eICU for laboratory values.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from captum_ehr import DeepLiftEHR, Explanation
from captum_ehr.adapter import collated
from captum_ehr.demo.cohorts import Cohort, synthetic_demo_cohort
from captum_ehr.demo.explaining import explain, timeline_patient
from captum_ehr.demo.mimic3 import mimic3_cohort
from captum_ehr.demo.quiet import one_thread, quiet
from captum_ehr.demo.training import MODELS, build_model, train
from captum_ehr.visualization import (
    cohort_bar,
    cohort_beeswarm,
    cohort_heatmap,
    completeness,
    dependence,
    faithfulness,
    heatmap,
    intervals,
    pair_heatmap,
    pair_network,
    timeline,
    waterfall,
)

HERE = Path(__file__).parent
DPI = 100
EVALUATED = 24

PAPER: dict[str, Any] = {"fontsize": 7, "title": False, "subtitle": False}
"""What docs/figures.md says of a figure for a paper."""

SHORT = {
    "C34.90": "Lung cancer",
    "E03.9": "Hypothyroidism",
    "F32.A": "Depression",
    "F41.9": "Anxiety disorder",
    "I10": "Hypertension",
    "K59.00": "Constipation",
    "K74.60": "Liver cirrhosis",
    "L30.9": "Dermatitis",
}
"""Names that are whole in the README's figure."""

README: dict[str, Any] = {"width": 8.38, "max_codes": 3, "max_values": 2}
"""As wide as a README is shown; in twice the dots, for screens that have them."""


def main() -> None:
    """Read the folders' names and make the figures."""
    parser = argparse.ArgumentParser(description="Make the documentation's figures.")
    parser.add_argument("--mimic3", type=Path, help="a folder with MIMIC-III's tables")
    parser.add_argument("--eicu", type=Path, help="a folder with eICU's tables")
    parser.add_argument("--out", type=Path, default=HERE / "figures")
    asked = parser.parse_args()
    if (asked.mimic3 or asked.eicu) and asked.out == HERE / "figures":
        parser.error("real records: say with --out where their pictures shall go.")
    asked.out.mkdir(parents=True, exist_ok=True)
    with one_thread(), tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch)
        if asked.mimic3:
            draw(lambda: mimic3_cohort(asked.mimic3, cache), asked.out / "mimic3")
        if asked.eicu:
            from eicu_cohort import eicu_cohort

            draw(lambda: eicu_cohort(asked.eicu, cache), asked.out / "eicu")
    if not (asked.mimic3 or asked.eicu):
        draw(_synthetic, asked.out)


def _synthetic() -> Cohort:
    return synthetic_demo_cohort(2500, 200)


def draw(make: Callable[[], Cohort], out: Path) -> None:
    """Train the demo's models on a cohort and draw every plot of the first."""
    out.mkdir(parents=True, exist_ok=True)
    with quiet():
        cohort = make()
        trained = {name: _trained(name, cohort) for name in MODELS}
        explained = {
            name: explain(name, model, cohort).explanation
            for name, model in trained.items()
        }
        asked = _asked(trained[MODELS[0]], cohort, explained[MODELS[0]])
    first = explained[MODELS[0]]
    patient = timeline_patient(first)
    short = int(first.to_frame().groupby("sample").size().idxmin())
    time = cohort.time_label
    figures = {
        "timeline": timeline(first, patient, time_label=time),
        "timeline_short": timeline(first, short, time_label=time),
        "waterfall": waterfall(first, patient),
        "waterfall_probability": waterfall(first.in_probability(), patient),
        "heatmap": heatmap(first, patient, bins=12, time_label=time),
        "heatmap_codes": heatmap(
            first, patient, by="code", k=20, bins=12, time_label=time
        ),
        "cohort_bar": cohort_bar(first, k=15),
        "intervals": intervals(first.top(15, level=0.95)),
        "cohort_beeswarm": cohort_beeswarm(first, k=15),
        "completeness": completeness(explained),
        **asked,
        "paper_column": waterfall(first, patient, k=8, **PAPER, width=3.5),
        "paper_page": timeline(
            first, patient, values=True, max_codes=4, time_label=time, **PAPER, width=7
        ),
        "readme": timeline(
            first.with_names(SHORT), patient, values=True, time_label=time, **README
        ),
    }
    for name, (figure, _) in figures.items():
        dpi = 2 * DPI if name == "readme" else DPI
        figure.savefig(out / f"{name}.png", dpi=dpi, pil_kwargs={"optimize": True})


def _trained(name: str, cohort: Cohort) -> Any:
    model = build_model(name, cohort.dataset, seed=0)
    train(model, cohort, cohort.epochs, 0, lambda epoch, loss: None)
    return model


def _asked(model: Any, cohort: Cohort, explanation: Explanation) -> dict[str, Any]:
    """What needs the model: a patient's pairs, an evaluation; and the whole cohort."""
    records = [cohort.held_out[row] for row in range(len(cohort.held_out))]
    patient = timeline_patient(explanation)
    dl = DeepLiftEHR(model)
    pairs = dl.interactions(collated([records[patient]]), "typical")
    some = collated(records[:EVALUATED])
    evaluation = dl.evaluate(some, "typical", show_progress=False)
    value = explanation.top(None).dropna(subset=["unit"])["code"].iloc[0]
    return {
        "pair_heatmap": pair_heatmap(pairs, k=10, names=cohort.names),
        "pair_network": pair_network(pairs, names=cohort.names),
        "cohort_heatmap": cohort_heatmap(explanation, k=15),
        "dependence": dependence(explanation, value),
        "faithfulness": faithfulness(evaluation),
    }


if __name__ == "__main__":
    main()
