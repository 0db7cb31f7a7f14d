"""Pairs of players: their definition row by row, the exact index, what sums to what."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import zoo
from oracles_pairs import Record, product, shapley_interactions, shapley_values
from pyhealth.datasets import create_sample_dataset
from pyhealth.models import BaseModel
from torch import Tensor, nn

from benchmarks import interactions
from captum_ehr import (
    AttributionWarning,
    CompletenessError,
    DeepLiftEHR,
    DeepLiftShapEHR,
    Interactions,
    PyHealthAdapter,
    reference_patients,
)
from captum_ehr.datasets import tiny_model

CONFIGS = [
    zoo.Config("MLP", "tensor", options=zoo.HIDDEN),
    zoo.Config("RNN", "sequence", options={**zoo.HIDDEN, "rnn_type": "GRU"}),
    zoo.Config("StageNet", "stagenet", options=zoo.STAGES),
    zoo.Config("Transformer", "sequence", options=zoo.SMALL),
]
MORE = [
    zoo.Config("RETAIN", "nested", options=zoo.SMALL),
    zoo.Config("EHRMamba", "sequence", options=zoo.SMALL),
    zoo.Config("MLP", "multi_hot", options=zoo.HIDDEN),
    zoo.Config("StageAttentionNet", "stagenet", options=zoo.HEADS),
    zoo.Config("Transformer", "nested_floats", options=zoo.SMALL),
    zoo.Config("TCN", "timeseries", options={**zoo.SMALL, "num_channels": 6}),
]


def some_slow(configs: list[zoo.Config], model: str = "") -> list[Any]:
    """With those of a class, or all, in the complete tier."""
    marked = [config for config in configs if model in ("", config.model)]
    return [
        pytest.param(c, marks=[pytest.mark.complete] * (c in marked)) for c in configs
    ]


def in_double(config: zoo.Config) -> tuple[Any, Any]:
    return zoo.shared(config, dtype=torch.float64)


@pytest.mark.parametrize("config", some_slow(CONFIGS, "StageNet"), ids=str)
def test_every_row_is_what_attribute_gives_for_it(config: zoo.Config) -> None:
    model, batch = in_double(config)
    with zoo.default_dtype(torch.float64):
        dl = DeepLiftEHR(model, completeness="check")
        pairs = dl.interactions(batch)
        for row in (0, 3, 5):
            record, mine = Record(dl, batch, row), pairs[row]
            assert [p[:2] for p in mine.players[0]] == record.codes
            wanted = record.one_way()
            assert row == 3 or wanted.abs().max() > 1e-6  # 3: one of each feature
            torch.testing.assert_close(mine.one_way[0], wanted, rtol=0, atol=1e-11)
            own = record.phi(record.codes, [])
            own = torch.tensor(list(own.values()), dtype=torch.float64)
            torch.testing.assert_close(mine.attributions[0], own, rtol=0, atol=1e-11)
            for j, code in enumerate(record.codes):
                others = [c for c in record.codes if c != code]
                last = record.f(record.codes) - record.f(others)
                first = record.f([code]) - record.f([])
                found = mine.last_minus_first[0, j].item()
                assert found == pytest.approx(last - first, abs=1e-11)
        assert pairs.delta.abs().max() < 1e-11


@pytest.mark.parametrize("config", [*CONFIGS, *some_slow(MORE)], ids=str)
def test_rows_sum_to_the_attributions_and_all_to_the_change(config: zoo.Config) -> None:
    model, batch = zoo.shared(config)
    dl = DeepLiftEHR(model)
    pairs, exp = dl.interactions(batch), dl.explain(batch)
    assert bool(pairs.effect.abs().sum((1, 2))[:3].gt(1e-5).any())
    table = exp.by_code().set_index(["sample", "feature", "code"])["attribution"]
    for row, players in enumerate(pairs.players):
        sums = pairs[row].matrix().sum(axis=1)
        for player, total in zip(players, sums):
            given = table[row, player.feature, player.code]
            assert total == pytest.approx(given, abs=1e-6)
        assert len(players) == len(table[row])
    whole = pairs.matrices.sum((1, 2)) + pairs.rest
    change = (exp.f_input - exp.f_baseline).double()
    torch.testing.assert_close(whole, change, rtol=0, atol=1e-6)
    assert pairs.rest.abs().max() < 1e-6
    # what all interactions of j come to, of the model's own outputs alone
    columns = pairs.one_way.sum(1)
    torch.testing.assert_close(columns, pairs.last_minus_first, rtol=0, atol=2e-6)
    assert pairs.delta.abs().max() < 2e-6
    assert torch.equal(pairs.matrices, pairs.matrices.mT)


def test_of_shapley_values_it_is_the_shapley_interaction_index() -> None:
    dl, batch = product()
    pairs = dl.interactions(batch)
    assert max(map(len, pairs.players)) == 7
    for row in range(4):
        record, mine = Record(dl, batch, row), pairs[row]
        codes = record.codes

        def value(s: tuple[int, ...], record: Record = record) -> float:
            return record.f([record.codes[k] for k in s])

        exact = shapley_interactions(value, len(codes))
        assert exact.abs().max() > 0.01
        torch.testing.assert_close(mine.effect[0], exact, rtol=0, atol=1e-12)
        assert mine.asymmetry.abs().max() < 1e-12
        values = shapley_values(value, len(codes))
        torch.testing.assert_close(mine.attributions[0], values, rtol=0, atol=1e-12)
        # two codes of one feature are only added up; "b" of one feature is not the
        # other's
        alike = [[a[0] == b[0] for b in codes] for a in codes]
        assert mine.effect[0][torch.tensor(alike)].abs().max() < 1e-12


def test_shapiq_takes_it_for_what_its_own_computer_gives() -> None:
    shapiq = pytest.importorskip("shapiq")
    dl, batch = product()
    record, mine = Record(dl, batch, 3), dl.interactions(batch)[3]

    def game(coalitions: Any) -> Any:
        codes = [[c for c, s in zip(record.codes, row) if s] for row in coalitions]
        return torch.tensor([record.f(some) for some in codes]).double().numpy()

    n = len(record.codes)
    theirs = shapiq.ExactComputer(game, n)("k-SII", 2)
    ours = mine.to_shapiq()
    keys = [(i,) for i in range(n)] + [(i, j) for j in range(n) for i in range(j)]
    assert len(ours.interaction_lookup) == len(keys) + 1
    for key in keys:
        assert ours[key] == pytest.approx(float(theirs[key]), abs=1e-6)
    assert ours.baseline_value == pytest.approx(record.f([]), abs=1e-12)
    change = record.f(record.codes)
    assert float(sum(ours.values)) == pytest.approx(change, abs=1e-12)
    with pytest.raises(ValueError, match="of one patient, and there are 4"):
        dl.interactions(batch).to_shapiq()


def test_the_benchmarks_index_is_the_slow_one() -> None:
    dl, batch = product()
    record, enc = Record(dl, batch, 3), dl.model.encode(batch)[[3]]
    worth = interactions.worth(dl, enc)

    def value(s: tuple[int, ...]) -> float:
        return float(worth[tuple(int(k in s) for k in range(len(record.codes)))])

    for coalition in ((), (0,), (1, 3), (0, 2, 4, 5)):
        wanted = record.f([record.codes[k] for k in coalition])
        assert value(coalition) == pytest.approx(wanted, abs=1e-12)
    worth = torch.randn(2, 2, 2, 2, 2, dtype=torch.float64)
    exact = shapley_interactions(
        lambda s: float(worth[tuple(int(k in s) for k in range(5))]), 5
    )
    torch.testing.assert_close(interactions.interaction_index(worth), exact)


def test_all_rows_are_of_the_class_that_the_record_is() -> None:
    config = zoo.Config("RNN", "sequence", "multiclass", zoo.HIDDEN)
    model, batch = in_double(config)
    dl = DeepLiftEHR(model)
    pairs = dl.interactions(batch)
    with torch.no_grad():
        predicted = model(**batch)["logit"].argmax(1).tolist()
    assert list(pairs.target) == predicted
    turned = 0
    for row in range(3):
        record = Record(dl, batch, row)
        wanted = record.one_way(predicted[row])
        torch.testing.assert_close(pairs[row].one_way[0], wanted, rtol=0, atol=1e-11)
        for code in record.codes:
            some = [c for c in record.codes if c != code]
            output = dl.model(*record.mixed(some), *record.args)
            turned += int(output.argmax()) != predicted[row]
    assert turned  # a row's own prediction would have been another one
    given = dl.interactions(batch, target=[1] * len(batch["patient_id"]))
    assert set(given.target) == {1} and not torch.equal(given.effect, pairs.effect)


@pytest.mark.parametrize("config", some_slow(CONFIGS[1:3], "StageNet"), ids=str)
def test_slices_and_company_change_nothing(config: zoo.Config) -> None:
    model, batch = in_double(config)
    with zoo.default_dtype(torch.float64):
        whole = DeepLiftEHR(model).interactions(batch)
        sliced = DeepLiftEHR(model, internal_batch_size=5).interactions(batch)
        torch.testing.assert_close(sliced.one_way, whole.one_way, rtol=0, atol=1e-11)
        enc = PyHealthAdapter(model).encode(batch)
        parts = [DeepLiftEHR(model).interactions(enc[[row]]) for row in range(3)]
    again = Interactions.concat(parts)
    assert again.patient_ids == whole.patient_ids[:3]
    torch.testing.assert_close(again.one_way, whole[:3].one_way, rtol=0, atol=1e-11)
    torch.testing.assert_close(again.rest, whole[:3].rest, rtol=0, atol=1e-11)


def test_among_takes_the_strongest_and_leaves_the_rest_in_the_sum() -> None:
    model, batch = zoo.shared(CONFIGS[1])
    dl = DeepLiftEHR(model)
    whole, some = dl.interactions(batch), dl.interactions(batch, among=3)
    for row in range(len(whole)):
        sizes = whole.attributions[row, : len(whole.players[row])].abs()
        kept = sorted(sizes.argsort(descending=True)[:3].tolist())
        assert some.players[row] == tuple(whole.players[row][k] for k in kept)
        part = whole.one_way[row][kept][:, kept]
        mine = some.one_way[row][: len(kept), : len(kept)]
        torch.testing.assert_close(mine, part, rtol=0, atol=1e-6)
    assert some.rest.abs().max() > 1e-3
    total = some.matrices.sum((1, 2)) + some.rest
    torch.testing.assert_close(total, some.f_input - some.f_baseline, rtol=0, atol=1e-6)
    assert some.delta.abs().max() < 1e-6  # of all, not of those that are shown
    more = dl.interactions(batch, among=1000)
    assert more.players == whole.players


def test_models_that_mix_patients_take_them_one_by_one() -> None:
    model, batch = zoo.build(zoo.mixing()[0])
    dl = DeepLiftEHR(model, completeness="check")
    with pytest.raises(ValueError, match="depends on who else is in the batch"):
        dl.interactions(batch)
    enc = PyHealthAdapter(model).encode(batch)
    pairs = dl.interactions(enc[[0]])
    record = Record(dl, batch, 0)
    wanted = record.one_way()
    assert wanted.abs().max() > 1e-4
    torch.testing.assert_close(pairs.one_way[0], wanted, rtol=0, atol=1e-6)


@pytest.mark.complete
def test_models_that_draw_leave_the_generator_where_it_was() -> None:
    model, batch = zoo.build(zoo.drawing()[0])
    dl = DeepLiftEHR(model)
    before = torch.get_rng_state()
    enc = PyHealthAdapter(model).encode(batch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AttributionWarning)
        pairs = dl.interactions(enc[[0]])
        with pytest.raises(ValueError, match="or on random numbers"):
            dl.interactions(batch)
    assert torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(
        pairs.matrices.sum((1, 2)), pairs.f_input - pairs.f_baseline, rtol=0, atol=1e-6
    )


def test_it_is_said_where_the_model_sees_other_positions() -> None:
    model, batch = zoo.shared(zoo.Config("RNN", "sequence", options=zoo.HIDDEN))
    with pytest.warns(AttributionWarning, match=r"sees other positions .* p0, p1"):
        pairs = DeepLiftEHR(model).interactions(batch, "pad")
    assert pairs.delta.abs().max() > 1e-4
    total = pairs.matrices.sum((1, 2)) + pairs.rest
    change = pairs.f_input - pairs.f_baseline
    torch.testing.assert_close(total, change, rtol=0, atol=1e-6)


def test_what_does_not_add_up_is_said_by_patient_or_raised() -> None:
    def wrong(module: Any, y: Any, x: Any) -> Any:
        return lambda m: [(x, 2 * m * (x.mean > 0))]

    model, batch = tiny_model()
    rules = {nn.ReLU: wrong}
    with pytest.warns(AttributionWarning, match="do not add up.*p1, p2, p3, p4"):
        pairs = DeepLiftEHR(model, rules=rules).interactions(batch)
    assert pairs.delta.abs().max() > 1e-3
    missed = pairs.one_way.sum(1) - pairs.last_minus_first
    torch.testing.assert_close(pairs.delta, missed, rtol=0, atol=1e-6)
    with pytest.raises(CompletenessError, match="p1, p2, p3, p4"):
        DeepLiftEHR(model, rules=rules, completeness="raise").interactions(batch)


def test_several_references_give_the_mean() -> None:
    model, batch = tiny_model()
    patients = reference_patients(model.dataset, 2)
    together = DeepLiftShapEHR(model).interactions(batch, patients)
    adapter = PyHealthAdapter(model)
    keys = adapter.feature_keys
    each = [
        DeepLiftEHR(model).interactions(batch, dict(zip(keys, reference)))
        for reference in adapter.patient_baselines(batch, patients)
    ]
    assert together.baseline == "2 reference patients"
    for name in ("one_way", "attributions", "last_minus_first", "rest", "f_baseline"):
        mean = torch.stack([getattr(pairs, name) for pairs in each]).mean(0)
        torch.testing.assert_close(getattr(together, name), mean, rtol=0, atol=1e-7)


def test_where_the_model_has_no_answer_there_are_no_pairs() -> None:
    model, batch = zoo.build(zoo.Config("MLP", "multi_hot", options=zoo.HIDDEN))
    whole = DeepLiftEHR(model).interactions(batch)
    row = int(batch["flags"].sum(1).argmax())
    batch["conditions"] = batch["conditions"].clone()
    batch["conditions"][row] = 0  # of no code PyHealth's MLP makes NaN
    with pytest.warns(AttributionWarning, match=rf"not finite .* patient\(s\) p{row}$"):
        pairs = DeepLiftEHR(model).interactions(batch)
    assert pairs[row].matrices.isnan().all() and pairs[row].rest.isnan().all()
    lost = pairs.to_frame().groupby("sample")["effect"].apply(lambda x: x.isna().all())
    assert lost[lost].index.tolist() == [row]
    assert pairs.top(None)["mean"].isna().any()
    other = (row + 1) % 9
    torch.testing.assert_close(pairs[other].one_way, whole[other].one_way)


class Measured(BaseModel):
    """A network that is told which values are missing."""

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset=dataset)
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))

    def forward(self, **batch: Any) -> dict[str, Tensor]:
        labs = batch["labs"]
        flags = labs.isnan().to(labs.dtype)
        return {"logit": self.net(torch.cat([labs.nan_to_num(), 3 * flags], 1))}


def test_what_is_missing_stays_so_in_every_row() -> None:
    schema = {"labs": "tensor"}
    samples = [{"patient_id": f"p{n}", "labs": [1.0, n], "died": n} for n in (0, 1)]
    dl = DeepLiftEHR(
        Measured(create_sample_dataset(samples, schema, {"died": "binary"}))
    )
    batch = {"labs": torch.tensor([[1.0, torch.nan], [0.5, 2.0]])}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "missing values")
        pairs = dl.interactions(batch)
    assert pairs.last_minus_first[0].abs().max() < 1e-6  # else it were measured, as 0
    assert pairs[0].effect.abs().max() < 1e-6 < 1e-3 < pairs[1].effect.abs().max()
    assert pairs.attributions[0, 1] == 0 != pairs.attributions[0, 0]
