"""The share of time: when things happened, beside what happened."""

from __future__ import annotations

import pytest
import torch
import zoo

from captum_ehr import DeepLiftEHR, Explanation, PyHealthAdapter

TIMED = [
    zoo.Config("StageNet", schema, options=zoo.STAGES)
    for schema in ("stagenet", "stagenet_nested", "stagenet_codes")
] + [zoo.Config("StageAttentionNet", "stagenet", options=zoo.HEADS)]


@pytest.mark.parametrize("config", TIMED, ids=str)
def test_times_add_up_with_the_rest(config: zoo.Config) -> None:
    model, batch = zoo.build(config, trained=True)
    exp = DeepLiftEHR(model, attribute_time=True, completeness="raise").explain(batch)
    timed = [key for key in exp.features if key.endswith(".time")]
    assert timed == [f"{key}.time" for key in model.feature_keys]
    change = (exp.f_input - exp.f_baseline).double()
    torch.testing.assert_close(exp.total, change, rtol=1e-4, atol=1e-6)
    for key in timed:
        record = exp.features[key]
        assert torch.equal(record.values, batch[key.removesuffix(".time")][0])
        assert not exp.attributions[key][~record.mask].any()
        assert bool((record.mask.sum(1) >= 1).all())
    assert any(bool(exp.attributions[key].abs().max() > 1e-6) for key in timed)


def test_f0_is_the_models_answer_at_the_times_of_the_reference() -> None:
    model, batch = zoo.build(TIMED[0])
    adapter = PyHealthAdapter(model, attribute_time=True)
    codes, labs = (
        (torch.zeros_like(batch[key][0]), batch[key][1]) for key in model.feature_keys
    )
    # what happened stays; only when is taken away
    enc = adapter.encode(batch)
    values = dict(zip(adapter.feature_keys, enc.inputs))
    keep = {key: values[key] for key in model.feature_keys}
    exp = DeepLiftEHR(adapter).explain(batch, keep)
    with torch.no_grad():
        theirs = model(**{**batch, "timed": codes, "timed_labs": labs})["logit"]
    torch.testing.assert_close(exp.f_baseline, theirs.squeeze(1))
    for key in model.feature_keys:
        assert not exp.attributions[key].any()


def test_references_of_times() -> None:
    model, batch = zoo.build(TIMED[0])
    adapter = PyHealthAdapter(model, attribute_time=True)
    assert adapter.feature_keys == (
        "timed",
        "timed_labs",
        "timed.time",
        "timed_labs.time",
    )
    own = adapter.encode(batch).inputs
    times, ids = batch["timed"]
    mask = adapter.encode(batch).masks[2]
    given = adapter.baseline(batch, {"timed": (times + 5, ids)})[2]
    torch.testing.assert_close(given, torch.where(mask, times + 5, times))
    assert not adapter.baseline(batch)[2].any()
    assert torch.equal(adapter.baseline(batch, "pyhealth")[2], own[2])
    mean = adapter.baseline(batch, "mean")[2]
    torch.testing.assert_close(mean[mask], times[mask].mean().expand(int(mask.sum())))
    named = adapter.baseline(batch, {"timed.time": 3.0})[2]
    torch.testing.assert_close(named, torch.where(mask, 3.0, times))


def test_times_in_the_frame_and_on_disk(tmp_path) -> None:
    model, batch = zoo.build(TIMED[1])
    exp = DeepLiftEHR(model, attribute_time=True).explain(batch)
    frame = exp.to_frame()
    rows = frame[frame["feature"] == "timed_visits.time"]
    assert set(rows["code"]) == {"time"} and bool((rows["value"] == rows["time"]).all())
    again = Explanation.load(exp.save(tmp_path / "x.parquet"))
    for key, attribution in exp.attributions.items():
        assert torch.equal(attribution, again.attributions[key])


def test_it_needs_times_and_a_pyhealth_model() -> None:
    model, batch = zoo.build(TIMED[0])
    with pytest.raises(
        ValueError, match="'timed': attribute_time=True, but this batch"
    ):
        DeepLiftEHR(model, attribute_time=True).explain(
            {**batch, "timed": (None, batch["timed"][1])}
        )
    with pytest.raises(ValueError, match="attribute_time=True needs a PyHealth model"):
        DeepLiftEHR(torch.nn.Linear(2, 1), attribute_time=True)
