"""The built-in cohort: what is stated about it is so."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_ehr import DeepLiftEHR, datasets
from captum_ehr.adapter import collated
from captum_ehr.datasets import Sample, synthetic_samples

if TYPE_CHECKING:
    from pyhealth.datasets import SampleDataset


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return synthetic_samples(1500, seed=0)


@pytest.fixture(scope="module")
def cohort() -> SampleDataset:
    return datasets.synthetic_cohort(40, seed=0)


def _with_code(sample: Sample, feature: str, code: str) -> Sample:
    """A copy with ``code`` added to the last visit."""
    edited = copy.deepcopy(sample)
    edited[feature][1][-1].append(code)  # type: ignore[literal-required]
    return edited


def _without_code(sample: Sample, code: str) -> Sample:
    """A copy with ``code`` taken out of every visit."""
    edited = copy.deepcopy(sample)
    for feature in ("conditions", "drugs"):
        for visit in edited[feature][1]:
            visit[:] = [entry for entry in visit if entry != code]
    return edited


def _plain(sample: Sample) -> Sample:
    """A copy without any planted code."""
    for code in datasets.planted_codes():
        sample = _without_code(sample, code)
    return sample


# --- drawing ----------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(0, 20))
def test_equal_seeds_give_equal_patients_and_prefixes(
    seed: int, n_patients: int, more: int
) -> None:
    first = synthetic_samples(n_patients, seed)
    assert synthetic_samples(n_patients, seed) == first
    assert synthetic_samples(n_patients + more, seed)[:n_patients] == first


def test_other_seeds_give_other_patients() -> None:
    assert synthetic_samples(5, seed=0) != synthetic_samples(5, seed=1)


@pytest.mark.parametrize(
    ("n_patients", "seed", "word"), [(0, 0, "n_patients"), (3, -1, "seed")]
)
def test_bad_arguments_are_named(n_patients: int, seed: int, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        synthetic_samples(n_patients, seed)


def test_the_shape_of_every_sample(samples: list[Sample]) -> None:
    conditions = {entry.code for entry in datasets.CONDITIONS}
    drugs = {entry.code for entry in datasets.DRUGS}
    for sample in samples:
        times = sample["conditions"][0]
        assert times[0] == 0.0 and all(gap > 0 for gap in times[1:])
        assert sample["drugs"][0] == times == sample["labs"][0]
        for feature, known in (("conditions", conditions), ("drugs", drugs)):
            visits = sample[feature][1]  # type: ignore[literal-required]
            assert len(visits) == len(times) >= 2
            for visit in visits:
                assert visit and len(set(visit)) == len(visit) and set(visit) <= known
        assert {len(row) for row in sample["labs"][1]} == {len(datasets.LABS)}
        assert sample["outcome"] in (0, 1)
    assert len({sample["patient_id"] for sample in samples}) == len(samples)


def test_lists_of_features_are_not_shared(samples: list[Sample]) -> None:
    sample = samples[0]
    assert sample["conditions"][0] is not sample["drugs"][0]
    assert sample["drugs"][0] is not sample["labs"][0]


@pytest.mark.parametrize("seed", range(4))
def test_prevalence_of_the_outcome(seed: int) -> None:
    outcomes = [sample["outcome"] for sample in synthetic_samples(1000, seed)]
    assert 0.25 <= sum(outcomes) / len(outcomes) <= 0.45


def test_every_code_occurs_and_common_distractors_are_common(
    samples: list[Sample],
) -> None:
    carriers = dict.fromkeys(datasets.CODE_NAMES, 0)
    for sample in samples:
        visits = sample["conditions"][1] + sample["drugs"][1]
        for code in {code for visit in visits for code in visit}:
            carriers[code] += 1
    assert min(carriers.values()) >= 0.02 * len(samples)
    commonest = max(carriers, key=carriers.__getitem__)
    assert commonest in datasets.distractor_codes()


def test_labs_are_z_values_and_positive_in_their_units(samples: list[Sample]) -> None:
    rows = [row for sample in samples for row in sample["labs"][1]]
    for column, lab in enumerate(datasets.LABS):
        z = [row[column] for row in rows]
        mean = sum(z) / len(z)
        sd = math.sqrt(sum((value - mean) ** 2 for value in z) / len(z))
        assert abs(mean) < 0.1 and abs(sd - 1.0) < 0.1
        assert min(lab.to_value(value) for value in z) > 0
        assert lab.low < lab.mean < lab.high
        assert lab.to_z(lab.to_value(0.7)) == pytest.approx(0.7)


# --- truth ------------------------------------------------------------------


@pytest.mark.parametrize("factor", datasets.CODE_FACTORS, ids=lambda f: f.code)
def test_a_planted_code_adds_its_weight_once(
    samples: list[Sample], factor: datasets.CodeFactor
) -> None:
    for sample in map(_plain, samples[:20]):
        once = _with_code(sample, factor.feature, factor.code)
        twice = _with_code(once, factor.feature, factor.code)
        gain = datasets.log_odds(once) - datasets.log_odds(sample)
        assert gain == pytest.approx(factor.weight)
        assert datasets.log_odds(twice) == datasets.log_odds(once)


def test_the_interaction_needs_both(samples: list[Sample]) -> None:
    pair = datasets.INTERACTION
    for sample in map(_plain, samples[:20]):
        bare = datasets.log_odds(sample)
        one, other = (_with_code(sample, pair.feature, code) for code in pair.codes)
        assert datasets.log_odds(one) == bare == datasets.log_odds(other)
        both = _with_code(one, pair.feature, pair.codes[1])
        assert datasets.log_odds(both) - bare == pytest.approx(pair.weight)


def test_distractors_change_nothing(samples: list[Sample]) -> None:
    for sample in samples[:20]:
        truth = datasets.log_odds(sample)
        for code in datasets.distractor_codes():
            assert datasets.log_odds(_without_code(sample, code)) == truth
        edited = copy.deepcopy(sample)
        for name in datasets.distractor_labs():
            for row in edited["labs"][1]:
                row[datasets.LAB_NAMES.index(name)] = 3.0
        assert datasets.log_odds(edited) == truth


def test_the_lab_acts_through_its_peak(samples: list[Sample]) -> None:
    column = datasets.LAB_NAMES.index(datasets.LAB_FACTOR.name)
    for sample in samples[:20]:
        edited = copy.deepcopy(sample)
        peak = max(edited["labs"][1], key=lambda row: row[column])
        peak[column] += 0.5
        gain = datasets.log_odds(edited) - datasets.log_odds(sample)
        assert gain == pytest.approx(0.5 * datasets.LAB_FACTOR.weight)


def test_outcomes_follow_the_stated_risk(samples: list[Sample]) -> None:
    # Per fifth of the patients, within four standard errors of a binomial.
    ranked = sorted(samples, key=datasets.risk)
    size = len(ranked) // 5
    for start in range(0, len(ranked), size):
        group = ranked[start : start + size]
        risks = [datasets.risk(sample) for sample in group]
        spread = math.sqrt(sum(p * (1 - p) for p in risks))
        deaths = sum(sample["outcome"] for sample in group)
        assert abs(deaths - sum(risks)) <= 4 * spread


def test_contributions_add_up(samples: list[Sample]) -> None:
    for sample in samples[:50]:
        total = datasets.INTERCEPT + sum(datasets.contributions(sample).values())
        assert datasets.log_odds(sample) == pytest.approx(total)
        odds = datasets.risk(sample) / (1 - datasets.risk(sample))
        assert math.log(odds) == pytest.approx(total)


def test_planted_and_distractors_share_out_the_vocabulary() -> None:
    planted, rest = set(datasets.planted_codes()), set(datasets.distractor_codes())
    assert planted.isdisjoint(rest) and planted | rest == set(datasets.CODE_NAMES)
    assert len(datasets.CODE_NAMES) == len(datasets.CONDITIONS + datasets.DRUGS)
    in_feature = {
        "conditions": {entry.code for entry in datasets.CONDITIONS},
        "drugs": {entry.code for entry in datasets.DRUGS},
    }
    for factor in datasets.CODE_FACTORS:
        assert factor.code in in_feature[factor.feature]
    assert set(datasets.INTERACTION.codes) <= in_feature[datasets.INTERACTION.feature]
    weights = [factor.weight for factor in datasets.CODE_FACTORS]
    assert sum(weight > 0 for weight in weights) >= 3 and min(weights) < 0


# --- PyHealth ---------------------------------------------------------------


def test_importing_the_package_needs_no_pyhealth() -> None:
    script = (
        "import sys, captum_ehr.datasets as d; d.synthetic_samples(2);"
        "sys.exit(bool({'pyhealth', 'torch', 'captum'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_dataset_has_the_stated_schema(cohort: SampleDataset) -> None:
    assert len(cohort) == 40
    assert dict(cohort.input_schema) == dict(datasets.INPUT_SCHEMA)
    assert dict(cohort.output_schema) == dict(datasets.OUTPUT_SCHEMA)
    sample, plain = cohort[0], synthetic_samples(1, seed=0)[0]
    times, values = sample["conditions"]
    assert times.tolist() == pytest.approx(plain["conditions"][0])
    assert values.shape[0] == len(plain["conditions"][1])
    rows = zip(sample["labs"][1].tolist(), plain["labs"][1], strict=True)
    assert all(row == pytest.approx(wanted) for row, wanted in rows)


@pytest.mark.parametrize("name", ["StageNet", "Transformer"])
def test_both_models_take_the_same_batches(cohort: SampleDataset, name: str) -> None:
    import torch
    from pyhealth import models
    from pyhealth.datasets import get_dataloader

    sizes: dict[str, Any] = {"StageNet": {"chunk_size": 4, "levels": 2}}.get(name, {})
    torch.manual_seed(0)
    model = getattr(models, name)(cohort, embedding_dim=8, **sizes)
    for batch in get_dataloader(cohort, batch_size=16):
        output = model(**batch)
        assert output["logit"].shape == (len(batch["patient_id"]), 1)
        assert torch.isfinite(output["logit"]).all()
        output["loss"].backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert any(grad is not None and grad.abs().sum() > 0 for grad in gradients)


def test_labs_are_explained_by_name(cohort: SampleDataset) -> None:
    from pyhealth.models import StageNet

    model = StageNet(cohort, embedding_dim=4, chunk_size=2, levels=2).eval()
    batch = collated([cohort[0], cohort[1]])
    frame = DeepLiftEHR(model).explain(batch, "typical").to_frame()
    found = frame.loc[frame["feature"] == "labs", "code"].unique()
    assert [*found] == [f"{name} (z)" for name in datasets.LAB_NAMES]
