"""Scores that know the cohort's truth, against what is known or by others."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from benchmarks import families, peers, scores
from benchmarks.data import batch_of, cohort
from captum_ehr.datasets import INTERACTION, planted_codes

pytestmark = pytest.mark.complete


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0])),
        min_size=1,
        max_size=20,
    ).filter(lambda items: any(relevant for relevant, _ in items))
)
def test_average_precision_is_scikit_learns(items: list[tuple[bool, float]]) -> None:
    relevant = torch.tensor([item[0] for item in items])
    values = torch.tensor([item[1] for item in items])
    expected = average_precision_score(relevant.numpy(), values.numpy())
    assert scores.average_precision(relevant, values) == pytest.approx(expected)


def test_average_precision_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="Nothing is relevant"):
        scores.average_precision(torch.tensor([False]), torch.tensor([1.0]))


@pytest.fixture(scope="module")
def case() -> peers.Case:
    family = families.named("LogisticRegression")[0]
    dataset = cohort("codes", 60)
    model = family.build(dataset, families.TINY)
    return peers.Case(model, batch_of(dataset, range(40)))


def test_planted_tokens_are_those_of_planted_codes(case: peers.Case) -> None:
    alone = together = 0
    for row in range(len(case.encoded)):
        codes: list[str] = []
        for key, processor in case.model.dataset.input_processors.items():
            words = {index: code for code, index in processor.code_vocab.items()}
            codes += [words[int(n)] for n in case.batch[key][row] if int(n) != 0]
        found = scores.planted(case, row)
        both = set(INTERACTION.codes) <= set(codes)
        for code, marked in zip(codes, found.tolist(), strict=True):
            if code in INTERACTION.codes:
                assert marked is both
                alone, together = alone + (not both), together + both
            else:
                assert marked is (code in planted_codes())
    assert alone and together


def test_importance_is_the_mean_size_of_a_codes_attributions(case: peers.Case) -> None:
    ones = {
        k: -2 * m.float() for k, m in zip(case.encoded.features, case.encoded.masks)
    }
    found = scores.importances(case, ones)
    assert found and set(found.values()) == {2.0}
    assert any(name.startswith("drugs:") for name in found)


def test_rank_correlation() -> None:
    a = torch.tensor([1.0, 2.0, 3.0, 10.0])
    assert scores.spearman(a, a**3) == pytest.approx(1)
    assert scores.spearman(a, -a) == pytest.approx(-1)
