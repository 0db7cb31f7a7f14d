"""What interactions are handed over as, of few codes or none, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import zoo
from oracles_pairs import product
from torch import nn

from captum_ehr import DeepLiftEHR, Interactions, PyHealthAdapter
from captum_ehr.datasets import tiny_model


def test_no_code_and_one_code_are_results() -> None:
    dl, batch = product()
    batch = {key: value for key, value in batch.items()}
    for key in ("conditions", "drugs"):
        batch[key] = batch[key].clone()
        batch[key][0] = 0  # no code
    batch["conditions"][1, 1:] = 0
    batch["drugs"][1] = 0  # one code
    pairs = dl.interactions(batch)
    assert [len(players) for players in pairs.players] == [0, 1, 6, 7]
    none, one = pairs[0], pairs[1]
    assert none.matrix().empty and none.one_way.shape == (1, 0, 0)
    assert none.f_input.item() == none.f_baseline.item() == none.rest.item() == 0
    assert one.matrix().iloc[0, 0] == one.attributions.item() != 0
    assert one.last_minus_first.item() == one.rest.item() == 0
    assert none.to_frame().empty and list(none.to_frame()) == list(pairs.to_frame())
    assert none.top().empty and len(pairs[[]]) == 0 and pairs[[]].top().empty
    assert set(pairs.to_frame()["sample"]) == {2, 3}
    assert pairs[1:3].one_way.shape == (2, 6, 6)


def test_bad_input_is_refused_by_name() -> None:
    model, batch = tiny_model()
    dl = DeepLiftEHR(model)
    with pytest.raises(ValueError, match="players='drug'; it is one of"):
        dl.interactions(batch, players="drug")
    for among in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="among="):
            dl.interactions(batch, among=among)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="multiply_by_inputs"):
        DeepLiftEHR(model, multiply_by_inputs=False).interactions(batch)
    with pytest.raises(TypeError, match="takes a batch"):
        dl.interactions(PyHealthAdapter(model).encode(batch).pairs)
    with pytest.raises(TypeError, match="no PyHealth model"):
        DeepLiftEHR(nn.Linear(2, 1)).interactions(batch)
    with pytest.raises(IndexError, match="out of range"):
        dl.interactions(batch, target=3)
    pairs = dl.interactions(batch)
    with pytest.raises(ValueError, match="k is -1"):
        pairs.top(-1)
    with pytest.raises(KeyError, match="no patient 'p9'"):
        pairs["p9"]
    with pytest.raises(ValueError, match="nothing to concatenate"):
        Interactions.concat([])
    with pytest.raises(ValueError, match="different baseline"):
        Interactions.concat([pairs, dl.interactions(batch, "pad")])


def test_tables_name_the_pair_and_rank_it_over_the_cohort() -> None:
    dl, batch = product()
    pairs = dl.interactions(batch)
    frame = pairs.to_frame()
    sizes = [len(players) for players in pairs.players]
    assert len(frame) == sum(math.comb(n, 2) for n in sizes)
    for sample, part in frame.groupby("sample"):
        assert part["effect"].abs().is_monotonic_decreasing
        names = [p[:2] for p in pairs.players[sample]]
        for row in part.itertuples():
            i = names.index((row.feature_a, row.code_a))
            j = names.index((row.feature_b, row.code_b))
            assert row.effect == pairs.effect[sample, i, j].item()
            assert row.asymmetry == pairs.asymmetry[sample, i, j].item()
    ends = ["feature_a", "code_a", "feature_b", "code_b"]
    top = pairs.top(None)
    assert not top.duplicated(ends).any()
    assert top["mean_abs"].is_monotonic_decreasing
    assert len(pairs.top(2)) == 2
    for row in top.itertuples():
        mine = frame
        for end in ends:
            mine = mine[mine[end] == getattr(row, end)]
        assert row.samples == row.patients == len(mine)
        assert row.mean == pytest.approx(mine["effect"].sum() / 4)
        assert row.mean_abs == pytest.approx(mine["effect"].abs().sum() / 4)
        assert row.mean_present == pytest.approx(mine["effect"].mean())
    tokens = dl.interactions(batch, players="token")
    assert tokens.to_frame()["position_b"].dtype == "Int64"
    assert max(map(len, tokens.players)) == 9
    assert pairs[3].matrix().index.tolist()[1] == "conditions b"
    broken = torch.full_like(pairs.one_way, torch.nan)
    assert replace(pairs, one_way=broken).top()["mean"].isna().all()


def test_a_sum_over_several_targets_is_noted() -> None:
    model, batch = zoo.shared(zoo.Config("MLP", "tensor", "multiclass", zoo.HIDDEN))
    target = [n % 3 for n in range(9)]
    pairs = DeepLiftEHR(model).interactions(batch, target=target)
    assert list(pairs.target) == target
    with pytest.warns(UserWarning, match="different targets"):
        assert "different targets" in pairs.top().attrs["note"]
