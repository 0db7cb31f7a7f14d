"""Feature masks: who the players are, and that Captum takes them one by one."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from dataclasses import replace
from functools import cache
from math import prod
from typing import Any

import pytest
import torch
import zoo
from captum._utils.models.linear_model import SkLearnLinearRegression
from captum.attr import FeatureAblation, KernelShap, Lime, ShapleyValueSampling
from explanations import explain, rows
from torch import Tensor
from versions import CAPTUM, before

from captum_ehr import PyHealthAdapter
from captum_ehr.adapter import EncodedBatch, FeatureMask, Pairs, Player
from captum_ehr.adapter.feature_masks import feature_mask
from captum_ehr.attr.captums import attributed_by
from captum_ehr.attr.pairwise import by_player
from captum_ehr.datasets import tiny_model
from captum_ehr.explanation import FeatureRecord

RNN = zoo.HIDDEN
SCHEMAS = (
    "sequence nested tensor multi_hot timeseries nested_floats stagenet stagenet_nested"
).split()


@cache
def encoded(schema: str) -> tuple[PyHealthAdapter, Any]:
    model, batch = zoo.build(zoo.Config("RNN", schema, options=RNN))
    adapter = PyHealthAdapter(model)
    return adapter, adapter.encode(batch)


def numbers(mask: FeatureMask, enc: Any, row: int) -> list[list[int]]:
    """By feature, the numbers at one patient's real places, in order."""
    return [
        (part[row].squeeze(-1) if part.dim() > real.dim() else part[row])[
            real[row]
        ].tolist()
        for part, real in zip(mask, enc.masks)
    ]


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("players", ["code", "token", "feature", "visit"])
def test_every_patient_is_numbered_from_0_and_padding_comes_last(
    schema, players
) -> None:
    adapter, enc = encoded(schema)
    if players == "visit" and schema in ("sequence", "tensor", "multi_hot"):
        with pytest.raises(ValueError, match="none of the features .* has visits"):
            adapter.feature_mask(enc, players)
        return
    mask = adapter.feature_mask(enc, players)
    assert isinstance(mask, tuple) and len(mask) == len(enc.inputs)
    longest = max(map(len, mask.players))
    for row in range(len(enc)):
        found = {n for part in numbers(mask, enc, row) for n in part}
        assert found == set(range(len(mask.players[row])))
        assert len(set(mask.players[row])) == len(mask.players[row])
    everything = torch.cat([part.flatten() for part in mask]).unique().tolist()
    assert everything == list(range(len(everything)))
    for part, real, x in zip(mask, enc.masks, enc.inputs):
        assert part.dtype == torch.long and part.dim() == x.dim()
        padding = part.expand(x.shape)[~real] if part.dim() == real.dim() else None
        if padding is None:
            padding = part.squeeze(-1)[~real]
        assert bool((padding == longest).all())


def test_a_code_is_one_player_wherever_it_stands() -> None:
    adapter, enc = encoded("nested")
    mask, record = adapter.feature_mask(enc), enc.features["visits"]
    again = 0
    for row in range(len(enc)):
        ids = record.values[row][record.mask[row]].tolist()
        (found,) = numbers(mask, enc, row)
        names = [mask.players[row][n] for n in found]
        assert names == [Player("visits", record.vocabulary[i]) for i in ids]
        assert list(mask.players[row]) == list(dict.fromkeys(names))
        again += len(ids) - len(set(ids))
    assert again > 0, "no patient has a code twice: this test tests nothing"


def test_tokens_values_and_columns_are_named_as_in_an_explanation() -> None:
    from captum_ehr import DeepLiftEHR

    adapter, enc = encoded("stagenet_nested")
    frame = DeepLiftEHR(adapter).explain(enc).to_frame()
    mask = adapter.feature_mask(enc, "token")
    for row, patient in enumerate(enc.patient_ids):
        rows = frame[frame["patient_id"] == patient]
        expected = [(r.feature, r.code, r.visit, r.position) for r in rows.itertuples()]
        assert [tuple(p) for p in mask.players[row]] == expected
    columns = Counter(
        p.code for p in adapter.feature_mask(enc).players[0] if "labs" in p.feature
    )
    assert columns == {f"timed_labs[{c}]": 1 for c in range(3)}


def test_a_visit_is_one_player_across_features() -> None:
    adapter, enc = encoded("stagenet")
    mask = adapter.feature_mask(enc, "visit")
    codes, labs = mask
    for row in range(len(enc)):
        for step in range(codes.shape[1]):
            found = {int(codes[row, step, 0]), *labs[row, step].tolist()}
            if enc.masks[0][row, step]:
                assert len(found) == 1
                assert mask.players[row][found.pop()] == Player("", visit=step)


def test_features_without_visits_are_players_as_a_whole() -> None:
    adapter, enc = encoded("timeseries")
    mask = adapter.feature_mask(enc, "visit")
    assert mask.players[0][:2] == (Player("conditions"), Player("", visit=0))
    assert mask.players[0] == (
        Player("conditions"),
        *(Player("", visit=k) for k in range(int(enc.masks[1][0].any(-1).sum()))),
    )
    whole = adapter.feature_mask(enc, "feature")
    assert set(whole.players) == {(Player("conditions"), Player("vitals"))}


def test_categories_that_are_present_are_players_by_name() -> None:
    adapter, enc = encoded("multi_hot")
    record = enc.features["flags"]
    for row, players in enumerate(adapter.feature_mask(enc).players):
        present = {c for c, v in zip(record.columns, record.values[row]) if v}
        assert {p.code for p in players if p.feature == "flags"} == present


def test_times_are_players_of_their_own() -> None:
    model, batch = zoo.build(zoo.Config("StageNet", "stagenet", options=zoo.STAGES))
    adapter = PyHealthAdapter(model, attribute_time=True)
    enc = adapter.encode(batch)
    assert Player("timed.time", "time") in adapter.feature_mask(enc).players[0]
    visits = adapter.feature_mask(enc, "visit")
    assert all(not p.feature for p in visits.players[0])


def values_of(values: Tensor, time: Tensor | None, **more: Any) -> EncodedBatch:
    """Continuous values by themselves."""
    record = FeatureRecord(values, torch.ones_like(values, dtype=torch.bool), time)
    record = replace(record, **more)
    ids = tuple(f"p{n}" for n in range(len(values)))
    return EncodedBatch((values,), (record.mask,), (), {"labs": record}, ids)


@pytest.mark.parametrize(
    ("shape", "timed"),
    [
        ((2, 3, 2, 4), None),
        ((2, 3, 2, 4), 3),
        ((2, 5), 1),
        ((2, 3, 4), 3),
        ((2,), None),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_each_row_of_the_frame_is_a_player(
    shape: tuple[int, ...], timed: int | None, named: bool
) -> None:
    """Of values of four axes, and of columns that all have one time."""
    values = torch.arange(1.0, 1 + prod(shape)).view(shape)
    time = None if timed is None else torch.ones(shape[0], timed).cumsum(1)
    width = shape[-1] if len(shape) > 1 else 1
    names = tuple(f"lab {k}" for k in range(width)) if named else None
    enc = values_of(values, time, columns=names)
    frame = rows(explain(dict(enc.features)), "patient_id", "code", "visit", "position")
    for name, players in zip(enc.patient_ids, feature_mask(enc, "token").players):
        found = [(name, p.code, p.visit, p.position) for p in players]
        assert found == [row for row in frame if row[0] == name]
    codes = {player.code for player in feature_mask(enc, "code").players[0]}
    assert codes == {row[1] for row in frame}


def test_one_value_per_step_is_one_code_and_one_player_per_step() -> None:
    values = torch.ones(2, 5)
    enc = values_of(values, values.cumsum(1))
    assert len(feature_mask(enc, "code").players[0]) == 1
    assert [p.position for p in feature_mask(enc, "token").players[0]] == [*range(5)]
    assert [p.visit for p in feature_mask(enc, "visit").players[0]] == [*range(5)]


def test_unknown_players_are_refused() -> None:
    model, batch = tiny_model()
    with pytest.raises(ValueError, match="players='codes'; it is one of .*'token'"):
        PyHealthAdapter(model).feature_mask(batch, "codes")


def test_visits_that_do_not_go_together_are_refused() -> None:
    adapter, enc = encoded("stagenet")
    record = enc.features["timed_labs"]
    assert record.time is not None
    shorter = replace(
        record, values=record.values[:, :4], mask=record.mask[:, :4], time=None
    )
    short = replace(enc, features={**enc.features, "timed_labs": shorter})
    with pytest.raises(ValueError, match=r"number of visits.*'timed_labs': 4"):
        adapter.feature_mask(short, "visit")
    time = record.time.clone()
    time[2, 0] += 1
    later = replace(enc.features["timed_labs"], time=time)
    moved = replace(enc, features={**enc.features, "timed_labs": later})
    with pytest.raises(ValueError, match=r"'timed' and 'timed_labs' .*\[2\]"):
        adapter.feature_mask(moved, "visit")


# What Captum makes of them ---------------------------------------------------------


def given(adapter: PyHealthAdapter, enc: Any, **more: Any) -> dict[str, Any]:
    return {
        "inputs": enc.inputs,
        "baselines": adapter.baseline(enc),
        "target": 0,
        "additional_forward_args": enc.additional_forward_args,
        **more,
    }


def without(
    adapter: PyHealthAdapter, enc: Any, mask: FeatureMask, row: int, number: int
) -> Tensor:
    """f(x) - f(x with one patient's player at its reference), by hand."""
    ablated = [x.clone() for x in enc.inputs]
    for x, x0, part in zip(ablated, adapter.baseline(enc), mask):
        chosen = (part[row] == number).expand(x[row].shape)
        x[row][chosen] = x0[row][chosen]
    with torch.no_grad():
        whole = adapter(*enc.inputs, *enc.additional_forward_args)
        return (whole - adapter(*ablated, *enc.additional_forward_args))[row, 0]


@pytest.mark.parametrize("players", ["code", "token", "visit", "feature"])
@pytest.mark.parametrize("at_once", [1, 3])
def test_ablation_is_the_difference_by_hand(players, at_once) -> None:
    adapter, enc = encoded("stagenet_nested")
    mask = adapter.feature_mask(enc, players)
    found = FeatureAblation(adapter).attribute(
        **given(adapter, enc), feature_mask=mask, perturbations_per_eval=at_once
    )
    if players == "visit" and before(CAPTUM, "0.9"):
        # It ablates feature by feature, so a visit's codes and labs apart.
        with pytest.raises(ValueError, match="differ within a player"):
            mask.to_frame(found)
        return
    frame = mask.to_frame(found)
    assert len(frame) == sum(map(len, mask.players))
    assert frame["attribution"].abs().min() > 0
    some = frame[frame["patient_id"].isin(["p0", "p3", "p5"])]
    for r in some.itertuples():
        row = enc.patient_ids.index(r.patient_id)
        expected = without(adapter, enc, mask, row, r.player)
        assert r.attribution == pytest.approx(float(expected), rel=1e-3, abs=1e-6)
    for part, real in zip(found, enc.masks):
        padding = part[~real]  # of other batch sizes, only rounding differs
        bound = 0.0 if at_once == 1 else 1e-6
        assert padding.abs().max() <= bound


@pytest.mark.parametrize("method", [FeatureAblation, ShapleyValueSampling])
@pytest.mark.parametrize("players", ["code", "visit"])
def test_shares_of_a_player_add_up_to_its_value(method, players) -> None:
    adapter, enc = encoded("stagenet_nested")
    mask, reference = adapter.feature_mask(enc, players), adapter.baseline(enc)

    def weighted(first: Tensor, second: Tensor) -> Tensor:
        return first.flatten(1).sum(1) + 3 * second.flatten(1).sum(1)

    found = attributed_by(method(weighted), enc, reference, (), mask)
    known = [w * (x - x0) for w, x, x0 in zip((1, 3), enc.inputs, reference)]
    size = max(map(len, mask.players)) + 1
    whose = [part.expand_as(x) for part, x in zip(mask, enc.inputs)]
    sums, wanted = (by_player(whose, parts, size) for parts in (found, known))
    torch.testing.assert_close(sums, wanted, rtol=1e-4, atol=1e-4)


def test_sampled_shapley_values_add_up_over_players() -> None:
    adapter, enc = encoded("stagenet")
    mask = adapter.feature_mask(enc)
    torch.manual_seed(0)
    found = ShapleyValueSampling(adapter).attribute(
        **given(adapter, enc), feature_mask=mask, n_samples=2, perturbations_per_eval=2
    )
    sums = mask.to_frame(found).groupby("patient_id")["attribution"].sum()
    with torch.no_grad():
        change = (
            adapter(*enc.inputs, *enc.additional_forward_args)
            - adapter(*adapter.baseline(enc), *enc.additional_forward_args)
        )[:, 0]
    for row, patient in enumerate(enc.patient_ids):
        assert sums[patient] == pytest.approx(float(change[row]), abs=2e-6)


@pytest.mark.parametrize("method", [KernelShap, Lime])
def test_surrogates_take_each_patient_with_its_own_mask(method) -> None:
    adapter, enc = encoded("stagenet")
    mask = adapter.feature_mask(enc)
    made = (
        method(adapter)
        if method is KernelShap
        else Lime(adapter, interpretable_model=SkLearnLinearRegression())
    )
    with pytest.warns(UserWarning, match="multiple inputs"):
        found = made.attribute(**given(adapter, enc), feature_mask=mask, n_samples=30)
    frame = mask.to_frame(found)
    assert set(frame["patient_id"]) == set(enc.patient_ids)
    for row, patient in enumerate(enc.patient_ids):
        assert len(frame[frame["patient_id"] == patient]) == len(mask.players[row])
        assert any(bool(part[row].any()) for part in found)


def test_a_patient_without_an_answer_leaves_the_others_theirs() -> None:
    adapter, enc = encoded("nested")
    mask = adapter.feature_mask(enc)
    found = [torch.zeros_like(x) for x in enc.inputs]
    for part in found:
        part[1] = float("nan")
    frame = mask.to_frame(found)
    unknown = frame["patient_id"] == enc.patient_ids[1]
    assert (frame["attribution"].isna() == unknown).all() and unknown.any()


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_masks_and_pairs_copy_and_pickle(again) -> None:
    adapter, enc = encoded("nested")
    mask, pairs = adapter.feature_mask(enc), enc.pairs
    other = again(mask)
    assert type(other) is FeatureMask and all(map(torch.equal, other, mask))
    assert (other.players, other.patient_ids) == (mask.players, mask.patient_ids)
    same = again(pairs)
    assert type(same) is Pairs and torch.equal(same[0][0], pairs[0][0])
    rest = same.additional_forward_args, pairs.additional_forward_args
    assert all(map(torch.equal, *rest))


def test_a_frame_refuses_what_is_not_constant_or_not_shaped() -> None:
    adapter, enc = encoded("nested")
    mask = adapter.feature_mask(enc)
    with pytest.raises(ValueError, match="differ within a player"):
        mask.to_frame([torch.rand_like(x) for x in enc.inputs])
    with pytest.raises(ValueError, match=r"Attributions 0 have shape \(9, 6\)"):
        mask.to_frame([torch.zeros(9, 6)])
    with pytest.raises(ValueError, match="2 tensor.* for the 1"):
        mask.to_frame([*enc.inputs, *enc.inputs])
