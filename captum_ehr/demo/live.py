"""The demo's models and patients on the page, for ``captum-ehr insights --demo``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from captum_ehr.demo.cohorts import Cohort, synthetic_demo_cohort
from captum_ehr.demo.kept import keep, kept_model, kept_path
from captum_ehr.demo.mimic3 import mimic3_cohort
from captum_ehr.demo.quiet import one_thread, quiet
from captum_ehr.demo.run import scratch
from captum_ehr.demo.terminal import epochs_said, said
from captum_ehr.demo.training import MODELS, build_model, train
from captum_ehr.insights import AttributionVisualizer


@contextmanager
def demo_visualizer(
    console: Console,
    *,
    mimic3: Path | None = None,
    patients: int = 500,
    epochs: int | None = None,
    seed: int = 0,
) -> Iterator[AttributionVisualizer]:
    """Train the demo's two models and give its held-out patients to look at.

    Those of the built-in cohort are kept for the next time. With MIMIC-III, PyHealth's
    copies of the tables go when the block ends. DemoError says if the data do not
    suffice.
    """
    with scratch(Path.cwd() if mimic3 else None) as copies:
        status = console.status("")
        with quiet(), one_thread(), status:
            said(console, status, "loading PyHealth and the patients")
            if mimic3 is None:
                cohort = synthetic_demo_cohort(held_out=patients, seed=seed)
            else:
                cohort = mimic3_cohort(mimic3, Path(copies), patients, seed)
            models = []
            for name in MODELS:
                # Of somebody's own patients nothing is left outside of the block.
                keeps = mimic3 is None
                tell = partial(said, console, status)
                models.append(_model(name, cohort, epochs, seed, keeps, tell))
        yield of_cohort(models, cohort)


def _model(
    name: str,
    cohort: Cohort,
    epochs: int | None,
    seed: int,
    keeps: bool,
    tell: Callable[[str], None],
) -> nn.Module:
    """A model as it was kept, else trained and, if it ``keeps``, kept."""
    length = epochs or cohort.epochs
    path = kept_path(name, cohort, length, seed) if keeps else None
    model = kept_model(name, cohort, seed, path) if path else None
    if model is None:
        model = build_model(name, cohort.dataset, seed)
        train(model, cohort, length, seed, epochs_said(tell, name, length))
        if path:
            keep(model, path)
    return model


def of_cohort(
    models: list[Any], cohort: Cohort, **options: Any
) -> AttributionVisualizer:
    """The held-out patients of one of the demo's cohorts."""
    return AttributionVisualizer(
        models,
        (f"no {cohort.outcome}", cohort.outcome),
        dataset=cohort.held_out,
        names=cohort.names,
        readable=cohort.readable,
        time_label=cohort.time_label,
        baselines=("typical", "unk", "pad", "mean"),
        title=cohort.title.replace("captum_ehr demo", "EHR Insights"),
        **options,
    )
