"""Models that need a word more: no logit, several tables, ids that are structure."""

from __future__ import annotations

import pytest
import torch
import zoo

from captum_ehr import DeepLiftEHR, PyHealthAdapter
from captum_ehr.adapter.known_models import DESCRIPTIONS, description

MEDICATION = [c for c in zoo.configs() if c.schema == "medication"]
CEHR = next(c for c in zoo.configs() if c.model == "EHRMambaCEHR")


@pytest.mark.parametrize("config", MEDICATION, ids=str)
def test_scores_of_drugs_before_any_threshold(config: zoo.Config) -> None:
    model, batch = zoo.build(config, trained=True)
    with torch.no_grad():
        score = zoo.score(model, batch)
    assert bool(((score > 0) & (score < 1)).all())
    drug = "J01C"
    column = PyHealthAdapter(model).labels[drug]
    plain = DeepLiftEHR(model, output="probability").explain(batch, target=drug)
    torch.testing.assert_close(plain.f_input, score[:, column])
    logit = DeepLiftEHR(model).explain(batch, target=drug)
    torch.testing.assert_close(logit.f_input, torch.logit(score[:, column]))
    for exp in (plain, logit):
        assert exp.diagnostics.exact and set(exp.target) == {column}
        change = (exp.f_input - exp.f_baseline).double()
        torch.testing.assert_close(exp.total, change, rtol=1e-4, atol=1e-6)


def test_a_timeline_of_six_fields() -> None:
    model, batch = zoo.build(CEHR, trained=True)
    exp = DeepLiftEHR(model, completeness="raise").explain(batch)
    assert list(exp.features) == ["concept_ids", "time_stamps", "ages"]
    record = exp.features["concept_ids"]
    assert torch.equal(record.mask, batch["concept_ids"] != 0)
    frame = exp.to_frame()
    codes = frame[frame["feature"] == "concept_ids"]["code"]
    assert set(codes) <= set(zoo.CODES) and len(codes) == int(record.mask.sum())
    assert not exp.attributions["concept_ids"][~record.mask].any()
    adapter = PyHealthAdapter(model)
    ref = adapter.baseline(batch)
    unknown = model.embeddings.word_embeddings.weight[1]
    torch.testing.assert_close(ref[0][0, -1], unknown.detach())


def test_structure_may_be_attributed_by_naming_its_table() -> None:
    model, batch = zoo.build(CEHR)
    adapter = PyHealthAdapter(
        model, embeddings={"token_type_ids": "embeddings.token_type_embeddings"}
    )
    enc = adapter.encode(batch)
    assert enc.feature_keys == ("concept_ids", "token_type_ids", "time_stamps", "ages")
    with torch.no_grad():
        ours = adapter(*enc.inputs, *enc.additional_forward_args)
    torch.testing.assert_close(ours, model(**batch)["logit"])
    exp = DeepLiftEHR(adapter, completeness="raise").explain(batch)
    assert exp.attributions["token_type_ids"].any()


def test_a_subclass_is_described_by_its_base() -> None:
    model, _ = zoo.build(MEDICATION[0])
    known = description(model)
    assert known is DESCRIPTIONS["pyhealth.models.gamenet.GAMENet"]
    own = type("Own", (type(model),), {})
    model.__class__ = own
    assert description(model) is known
    assert description(torch.nn.Linear(1, 1)).score == "logit"
