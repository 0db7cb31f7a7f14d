"""Shapley values and scores of attributions, against what is known or by others."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch import Tensor

from benchmarks import families, peers, scores
from benchmarks.data import batch_of, cohort
from benchmarks.shapley import Game, Sampling, pearson, sampled
from captum_ehr.datasets import INTERACTION, planted_codes

pytestmark = pytest.mark.complete


class Pairwise(torch.nn.Module):
    """Twice the first token, and the second times the third: known values."""

    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        a = x[..., 0]
        return (2 * a[:, 0] + a[:, 1] * a[:, 2]).unsqueeze(1)


class Tangled(torch.nn.Module):
    """Every token with every other."""

    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        a = x[..., 0].double()
        return torch.sin(a.cumsum(1) * a.flip(1)).sum(1, keepdim=True)


class Linear(torch.nn.Module):
    """A weight for each place."""

    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        weights = torch.tensor([1.0, -2.0, 3.0, 0.5])
        return (x[..., 0] * weights).sum(1, keepdim=True)


def game(function: Any, real: list[bool], x: Tensor | None = None) -> Game:
    x = torch.ones(1, len(real), 1) if x is None else x
    mask = torch.tensor([real])
    return Game(function, (x,), (torch.zeros_like(x),), (mask,), (x[..., 0],))


def exact(known: Game) -> Tensor:
    """Shapley values by their definition: the mean over all orders."""
    count = len(known.players(0))
    total = torch.zeros(count, dtype=torch.float64)
    orders = list(permutations(range(count)))
    for order in orders:
        present = torch.zeros(1, count, dtype=torch.bool)
        for player in order:
            before = known.values(0, present)
            present[0, player] = True
            total[player] += float(known.values(0, present) - before)
    return total / len(orders)


def test_sampled_shapley_values_of_a_game_that_is_known() -> None:
    known = game(Pairwise(), [True, True, True, False])
    sampling = Sampling(pairs=4, most=4)
    found = sampled(known, 0, sampling, torch.Generator().manual_seed(0))
    expected = torch.tensor([2.0, 0.5, 0.5], dtype=torch.float64)
    for estimate in (found.first, found.second, found.values):
        torch.testing.assert_close(estimate, expected)


@pytest.mark.parametrize("players", [4, 5])
def test_sampled_shapley_values_come_to_the_exact_ones(players: int) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, players + 1, 1, generator=generator)
    known = game(Tangled(), [True] * players + [False], x)
    truth = exact(known)
    sampling = Sampling(pairs=400, most=4000, until=2.0)
    found = sampled(known, 0, sampling, generator)
    torch.testing.assert_close(found.values, truth, rtol=0, atol=0.03)
    assert found.orders == 8000 and pearson(found.values, truth) > 0.999
    whole = known.values(0, torch.tensor([[False] * players, [True] * players]))
    torch.testing.assert_close(found.values.sum(), whole[1] - whole[0])


def test_orders_are_drawn_until_two_halves_agree() -> None:
    generator = torch.Generator().manual_seed(2)
    known = game(Tangled(), [True] * 5, torch.randn(1, 5, 1, generator=generator))
    for until in (0.5, 0.9, 0.999):
        sampling = Sampling(pairs=2, most=10_000, until=until)
        found = sampled(known, 0, sampling, generator)
        assert found.split_half >= until
    few = sampled(known, 0, Sampling(2, 6, until=2.0), generator)
    assert few.orders == 12


def test_curves_of_a_linear_model_are_cumulative_sums() -> None:
    known = game(Linear(), [True] * 4)
    best = torch.tensor([1.0, -2.0, 3.0, 0.5])
    insertion, deletion = scores.curves(known, 0, best)
    risen = [0, 3, 4, 4.5, 2.5]  # 3, 1, .5, -2
    assert insertion == pytest.approx(sum(risen) / 5)
    assert deletion == pytest.approx(sum(risen) / 5)
    for order in permutations(range(4)):
        other = scores.curves(known, 0, torch.tensor(order, dtype=torch.float32))
        assert max(other) <= insertion + 1e-6
    worst = scores.curves(known, 0, -best)
    assert worst[0] == pytest.approx(sum([0, -2, -1.5, -0.5, 2.5]) / 5)


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


def test_a_linear_model_has_no_infidelity(case: peers.Case) -> None:
    found = peers.ours(case)
    # its mean over codes divides by their number, which stays
    assert scores.unfaithful(case, found, 8) < 1e-8
    turned = dict(reversed(list(found.items())))  # as some peers give them
    assert scores.unfaithful(case, turned, 8) < 1e-8
    noise = peers.random(case)
    assert scores.unfaithful(case, noise, 8) > 1e-3


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
