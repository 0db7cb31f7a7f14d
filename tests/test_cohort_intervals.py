"""Intervals hold the truth as often as they say, also of patients with many samples."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cohort_files import write_cohort
from explanations import explain

from captum_ehr.cohort import Cohort
from captum_ehr.explanation import Explanation, FeatureRecord

PATIENTS, CODES, COHORTS, LEVEL = 200, 400, 5, 0.95
TRUTH = {"mean": 0.2, "mean_present": 0.5, "prevalence": 0.4}


def drawn(seed: int) -> tuple[Explanation, list[str]]:
    """One to three samples of each patient, alike; every code drawn for itself.

    A code has, in two fifths of all patients, a mean of .5; with an effect of the
    patient, of the group that he is in, and noise of the sample.
    """
    random = np.random.default_rng(seed)
    owner = np.repeat(np.arange(PATIENTS), random.integers(1, 4, PATIENTS))
    has = random.random((PATIENTS, CODES)) < TRUTH["prevalence"]
    mean = TRUTH["mean_present"]
    effect = random.gamma(2, mean / 2, (PATIENTS, CODES))
    size = effect[owner] + 0.2 * random.normal(size=(len(owner), CODES))
    mask = torch.from_numpy(has[owner])
    shares = torch.from_numpy(size) * mask
    columns = tuple(f"C{k}" for k in range(CODES))
    record = FeatureRecord(mask.float(), mask, None, None, columns)
    ids = tuple(f"p{k}" for k in owner)
    words = {"patient_ids": ids, "f_input": shares.sum(1), "delta": shares[:, 0] * 0}
    sexes = random.permutation(PATIENTS) % 2
    return explain(
        {"codes": record},
        {"codes": shares},
        f_baseline=torch.zeros(len(owner)).double(),
        rescale_factor=torch.ones(len(owner)).double(),
        target=(0,) * len(owner),
        **words,
    ), ["FM"[sexes[k]] for k in owner]


def held(low: pd.Series, high: pd.Series, truth: float) -> float:
    return float(((low <= truth) & (truth <= high)).mean())


@pytest.mark.complete
def test_intervals_hold_the_truth_as_often_as_they_say(tmp_path: Path) -> None:
    shares: dict[str, list[float]] = {}
    for seed in range(COHORTS):
        whole, sex = drawn(seed)
        folder = write_cohort(tmp_path / str(seed), whole, columns={"sex": sex})
        cohort = Cohort(folder)
        codes = cohort.codes(level=LEVEL, seed=seed)
        groups = cohort.groups("sex", level=LEVEL, seed=seed)
        for name, truth in TRUTH.items():
            ends = codes[f"{name}_low"], codes[f"{name}_high"]
            shares.setdefault(name, []).append(held(*ends, truth))
        ends = groups["difference_low"], groups["difference_high"]
        shares.setdefault("difference", []).append(held(*ends, 0.0))
    error = math.sqrt(LEVEL * (1 - LEVEL) / (CODES * COHORTS))
    for name, each in shares.items():
        assert abs(np.mean(each) - LEVEL) < 4 * error, (name, np.mean(each))


@pytest.mark.complete
def test_samples_drawn_alone_would_not_hold_it(tmp_path: Path) -> None:
    whole, _ = drawn(0)
    alone = tuple(f"{name} {row}" for row, name in enumerate(whole.patient_ids))
    object.__setattr__(whole, "patient_ids", alone)
    codes = Cohort(write_cohort(tmp_path, whole)).codes(level=LEVEL)
    assert held(codes["mean_low"], codes["mean_high"], TRUTH["mean"]) < LEVEL - 0.03
