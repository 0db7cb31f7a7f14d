"""The model's answers to changed records: those of records made anew by PyHealth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import zoo
from pyhealth.datasets import create_sample_dataset
from pyhealth.datasets.utils import collate_fn_dict_with_padding
from pyhealth.models import MLP, BaseModel
from torch import nn

from captum_ehr import DeepLiftEHR, DeepLiftShapEHR, PyHealthAdapter, WhatIf
from captum_ehr.datasets import tiny_model

CONFIGS = [
    zoo.Config("MLP", "tensor", options=zoo.HIDDEN),
    zoo.Config("MLP", "multi_hot", options=zoo.HIDDEN),
    zoo.Config("RNN", "sequence", options={**zoo.HIDDEN, "rnn_type": "GRU"}),
    zoo.Config("RNN", "nested", options={**zoo.HIDDEN, "rnn_type": "GRU"}),
    zoo.Config("RETAIN", "nested", options=zoo.SMALL),
    zoo.Config("Transformer", "sequence", options=zoo.SMALL),
    zoo.Config("StageNet", "stagenet", options=zoo.STAGES),
    zoo.Config("StageNet", "stagenet_nested", options=zoo.STAGES),
    zoo.Config("TCN", "sequence", options={**zoo.SMALL, "num_channels": 6}),
]
VALUES = [
    zoo.Config("MLP", "tensor", options=zoo.HIDDEN),
    zoo.Config("Transformer", "nested_floats", options=zoo.SMALL),
    zoo.Config("RNN", "timeseries", options=zoo.HIDDEN),
    zoo.Config("StageNet", "stagenet", options=zoo.STAGES),
]


def some_slow(configs: list[zoo.Config], model: str) -> list[Any]:
    """With those of a class in the complete tier."""
    return [
        pytest.param(c, marks=[pytest.mark.complete] * (c.model == model))
        for c in configs
    ]


def records(schema: str) -> list[dict[str, Any]]:
    """The raw samples that the zoo's dataset is made of."""
    rng = np.random.default_rng(7)
    return [zoo._sample(rng, n) for n in range(9)]


def without(entry: Any, code: str) -> Any:
    """A raw entry as somebody would have written it without the code."""
    if isinstance(entry, tuple):
        times, codes = entry
        if isinstance(codes[0], list):
            return times, without(codes, code)
        kept = [(t, c) for t, c in zip(times, codes) if c != code]
        return [t for t, _ in kept], [c for _, c in kept]
    return [
        without(part, code) if isinstance(part, list) else part
        for part in entry
        if not isinstance(part, str) or part != code
    ]


def padded(tensor: Any, like: Any) -> Any:
    missing = [n - m for m, n in zip(tensor.shape, like.shape)]
    return F.pad(tensor, [k for n in reversed(missing) for k in (0, n)])


def made_anew(model: Any, raw: list[Any], batch: Any) -> Any:
    """The batch of other raw samples, by the dataset's own processors, in float64."""
    processors = model.dataset.input_processors
    keys = list(processors)
    done = [{k: processors[k].process(sample[k]) for k in keys} for sample in raw]
    fresh = zoo.converted(collate_fn_dict_with_padding(done), torch.float64)
    both = {
        key: tuple(map(padded, fresh[key], batch[key]))
        if isinstance(fresh[key], tuple)
        else padded(fresh[key], batch[key])
        for key in keys
    }
    return {**batch, **both}


def logits(model: Any, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch)["logit"][:, 0]


def has(entry: Any, code: str) -> int:
    if isinstance(entry, tuple):
        entry = entry[1]
    if isinstance(entry, list):
        return sum(has(part, code) for part in entry)
    return int(isinstance(entry, str) and entry == code)


@pytest.mark.parametrize("config", some_slow(CONFIGS, "StageNet"), ids=str)
def test_without_a_code_it_is_the_record_made_anew(config: zoo.Config) -> None:
    model, batch = zoo.shared(config, dtype=torch.float64)
    raw = records(config.schema)
    with zoo.default_dtype(torch.float64):
        dl = DeepLiftEHR(model)
        feature = next(
            k for k, p in model.dataset.input_processors.items() if p.is_token()
        )
        exp = dl.explain(batch)
        codes = exp.top(3)
        codes = codes[codes["feature"] == feature]["code"].tolist()
        codes.append(raw[3][feature][-1] if config.schema == "sequence" else codes[0])
        codes = list(dict.fromkeys(map(str, codes)))
        found = dl.what_if(batch, [(feature, code) for code in codes])
        before = logits(model, batch)
        for case, code in enumerate(codes):
            changed = [{**s, feature: without(s[feature], code)} for s in raw]
            counts = [has(s[feature], code) for s in raw]
            assert found.places[:, case].tolist() == counts and max(counts) > 0
            after = logits(model, made_anew(model, changed, batch))
            held = torch.tensor(counts) > 0
            close(found.f_changed[held, case], after[held])
            close(found.model_change[held, case], (after - before)[held])
            assert found.f_changed[~held, case].isnan().all()
            rows = exp.to_frame().query("feature == @feature and code == @code")
            sums = -rows.groupby("sample")["attribution"].sum()
            close(found.minus_attribution[held, case], torch.tensor(sums.tolist()))
    close(found.f_input, before)


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(
        found, wanted.double(), rtol=0, atol=1e-11, equal_nan=True
    )


@pytest.mark.parametrize("config", some_slow(VALUES, "StageNet"), ids=str)
def test_with_another_value_it_is_the_model_on_that_value(config: zoo.Config) -> None:
    model, batch = zoo.shared(config, dtype=torch.float64)
    key = list(model.dataset.input_processors)[-1]
    parts = batch[key] if isinstance(batch[key], tuple) else (batch[key],)
    adapter = PyHealthAdapter(model)
    mask = adapter.encode(batch).features[key].mask
    with zoo.default_dtype(torch.float64):
        dl = DeepLiftEHR(model, completeness="check")
        several = parts[-1].dim() > 2
        wanted: dict[Any, float] = {f"{key}[1]": 2.5}
        wanted |= {(f"{key}[0]", 1): -3.0} if several else {}
        found = dl.what_if(batch, set=wanted, target=0)
        exp = dl.explain(batch)
        places = [(..., 1)] + [(slice(None), 1, 0)] * several
        together = parts[-1].clone()
        for case, (at, value) in enumerate(zip(places, wanted.values())):
            x = parts[-1].clone()
            x[at] = torch.where(mask[at], torch.full_like(x[at], value), x[at])
            together[at] = x[at]
            seen = mask[at].reshape(len(x), -1).sum(1)
            assert found.places[:, case].tolist() == seen.tolist()
            entry = (*parts[:-1], x) if len(parts) > 1 else x
            after = logits(model, {**batch, key: entry})
            close(found.f_changed[seen > 0, case], after[seen > 0])
            # against a reference of 0 the multiplier is attribution / value
            share = exp.attributions[key] * (x - parts[-1]) / parts[-1]
            share = torch.where(parts[-1] != 0, share, 0.0).flatten(1).sum(1)
            close(found.multiplier_times_change[seen > 0, case], share[seen > 0])
        entry = (*parts[:-1], together) if len(parts) > 1 else together
        close(found.f_changed[:, -1], logits(model, {**batch, key: entry}))
        assert found.minus_attribution.isnan().all()


class Additive(BaseModel):
    """A weight for each code and value: attributions say all that there is to say."""

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset)
        self.embeddings = nn.ModuleDict(
            {
                "codes": nn.Embedding(
                    len(dataset.input_processors["codes"].code_vocab), 1
                )
            }
        )
        with torch.no_grad():
            self.embeddings["codes"].weight[:2] = 0
        self.values = nn.Linear(2, 3)

    def forward(self, codes: Any, labs: Any, **_: Any) -> Any:
        total = self.embeddings["codes"](codes).sum(1)
        return {"logit": self.values(labs) + total * torch.arange(1.0, 4)}


def additive() -> tuple[Any, Any]:
    samples = [
        {"patient_id": f"p{n}", "codes": codes, "labs": [n + 1.0, -1.0], "label": n}
        for n, codes in enumerate((["a", "b", "a"], ["b"], ["c", "a"]))
    ]
    data = create_sample_dataset(
        samples, {"codes": "sequence", "labs": "tensor"}, {"label": "multiclass"}
    )
    torch.manual_seed(2)
    model = Additive(data).eval()
    return model, collate_fn_dict_with_padding([data[i] for i in range(3)])


@pytest.mark.parametrize("how", ["drop", "reference"])
@pytest.mark.parametrize("target", [None, 1, "2", [0, 1, 2]])
def test_of_an_additive_model_attributions_say_all(how: Any, target: Any) -> None:
    model, batch = additive()
    dl = DeepLiftEHR(model)
    found = dl.what_if(
        batch, ["a", "c"], {"labs[0]": 4.0, "labs[1]": 0.5}, target=target, how=how
    )
    assert found.difference.nan_to_num(nan=0.0).abs().max() < 1e-5
    assert found.model_change.isnan().sum() == 3  # one without a, two without c
    assert found.places[:, -1].tolist() == [4, 2, 4]
    index = dl.explain(batch, target=target).target
    assert found.target == index
    shares = model(**batch)["logit"].softmax(-1)[range(3), list(index)]
    torch.testing.assert_close(found.probability.float(), shares.detach())


def test_the_frame_has_a_row_for_each_patient_and_change() -> None:
    model, batch = tiny_model()
    dl = DeepLiftEHR(model)
    found = dl.what_if(batch, ["I50.9", "A41.9"], {"labs[1]": 0.0})
    frame = found.to_frame()
    assert isinstance(frame, pd.DataFrame) and len(frame) == 4 * 4
    assert frame["change"].tolist()[:4] == [
        "without I50.9",
        "without A41.9",
        "labs[1] = 0",
        "all together",
    ]
    row = frame.iloc[3]
    parts = row["minus_attribution"] + row["multiplier_times_change"]
    assert row["attributed_change"] == pytest.approx(parts)
    assert row["difference"] == pytest.approx(row["model_change"] - parts)
    assert row["model_change"] == pytest.approx(row["f_changed"] - row["f_input"])
    odds = np.log(frame["probability_changed"] / (1 - frame["probability_changed"]))
    np.testing.assert_allclose(odds, frame["f_changed"], atol=1e-6)
    nobody = frame[frame["places"] == 0]
    assert len(nobody) == 2 + 3  # p2 and p3 without I50.9, all but p4 without A41.9
    assert nobody[["f_changed", "attributed_change", "difference"]].isna().all(None)
    assert repr(found).splitlines()[2].startswith("  without A41.9: 1 patient(s)")


def test_a_sample_alone_has_the_same_answer_and_the_batch_stays() -> None:
    model, batch = tiny_model()
    dl = DeepLiftEHR(model)
    before = {key: batch[key].clone() for key in ("conditions", "labs")}
    whole = dl.what_if(batch, "I10", {"labs[0]": 9.0})
    assert all(torch.equal(batch[key], x) for key, x in before.items())
    alone = dl.what_if(model.dataset[2], "I10", {"labs[0]": 9.0})
    torch.testing.assert_close(
        alone.f_changed[0], whole.f_changed[2], rtol=1e-5, atol=0
    )
    encoded = dl.what_if(PyHealthAdapter(model).encode(batch), "I10", {"labs[0]": 9.0})
    close(encoded.f_changed, whole.f_changed)


def test_embeddings_of_no_record_are_refused() -> None:
    model, batch = tiny_model()
    encoded = PyHealthAdapter(model).encode(batch)
    moved = replace(encoded, inputs=(encoded.inputs[0] + 1, encoded.inputs[1]))
    with pytest.raises(ValueError, match="not those of its ids"):
        DeepLiftEHR(model).what_if(moved, "I10")


def test_a_record_left_empty_may_have_no_answer() -> None:
    model, batch = tiny_model()
    found = DeepLiftEHR(model).what_if(batch, "E11.9")  # all that the second has
    assert found.places[1, 0] == 1 and found.f_changed[1, 0].isnan()
    assert "the model has no answer for 1" in repr(found)


def test_to_the_reference_it_is_the_model_at_the_reference() -> None:
    model, batch = tiny_model()
    dl, adapter = DeepLiftEHR(model), PyHealthAdapter(model)
    found = dl.what_if(batch, ["I10", "labs[1]"], baselines="mean", how="reference")
    enc, reference = adapter.encode(batch), adapter.baseline(batch, "mean")
    here = (
        enc.features["conditions"].values
        == dict(model.dataset.input_processors["conditions"].code_vocab)["I10"]
    )
    codes = torch.where(here.unsqueeze(-1), reference[0], enc.inputs[0])
    labs = enc.inputs[1].clone()
    labs[:, 1] = reference[1][:, 1]
    with torch.no_grad():
        after = adapter(codes, labs, *enc.additional_forward_args)[:, 0]
    torch.testing.assert_close(found.f_changed[:, -1].float(), after)
    sums = dl.explain(batch, "mean").attributions["labs"][:, 1]
    torch.testing.assert_close(found.minus_attribution[:, 1].float(), -sums)


def test_a_score_that_is_a_probability_keeps_it() -> None:
    model, batch = zoo.shared(zoo.Config("RNN", "sequence", "multiclass", zoo.HIDDEN))
    dl = DeepLiftEHR(PyHealthAdapter(model, score="y_prob"))
    code = dl.explain(batch).to_frame()["code"].iloc[0]
    found = dl.what_if(batch, [code])
    with torch.no_grad():
        chances = model(**batch)["y_prob"].double()
    torch.testing.assert_close(found.probability, chances.max(1).values)


def test_visits_are_those_of_the_frame() -> None:
    model, batch = zoo.shared(zoo.Config("RNN", "nested", options=zoo.HIDDEN))
    dl = DeepLiftEHR(model)
    row = next(dl.explain(batch).to_frame().itertuples())
    found = dl.what_if(batch, [(row.code, row.visit)])
    same = dl.what_if(batch, [(row.code, int(row.visit))])
    torch.testing.assert_close(found.f_changed, same.f_changed, equal_nan=True)


def test_a_probability_and_several_references_are_explained_as_well() -> None:
    model, batch = tiny_model()
    found = DeepLiftEHR(model, output="probability").what_if(batch, ["I10"])
    torch.testing.assert_close(
        found.f_changed, found.probability_changed, equal_nan=True
    )
    dl = DeepLiftShapEHR(model)
    found = dl.what_if(batch, ["I10"], {"labs[0]": 0.3}, baselines=3)
    exp = dl.explain(batch, 3)
    rows = exp.to_frame().query("code == 'I10'").groupby("sample")["attribution"].sum()
    assert found.minus_attribution[0, 0] == pytest.approx(-rows[0], rel=1e-5)
    with pytest.raises(ValueError, match="3 references"):
        dl.what_if(batch, ["I10"], baselines=3, how="reference")


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"remove": ["N18"]}, KeyError, "N18.3"),
        ({"remove": [("drugs", "I10")]}, KeyError, "'conditions', 'labs'"),
        ({"remove": ["labs[0]"]}, KeyError, "set it, or say how='reference'"),
        ({"set": {"labs": 1.0}}, KeyError, "labs\\[0\\]"),
        ({"set": {"I10": 1.0}}, KeyError, "Codes are removed"),
        ({"set": {"labs[0]": float("inf")}}, ValueError, "finite"),
        ({"set": {"labs[0]": "high"}}, ValueError, "finite"),
        ({"set": {("labs[0]", 1): 2.0}}, ValueError, "no visits"),
        ({}, ValueError, "nothing is changed"),
        ({"remove": ["I10"], "how": "zero"}, ValueError, "'drop', 'reference'"),
        ({"remove": [("a", "b", "c")]}, ValueError, "no name"),
    ],
)
def test_what_cannot_be_is_refused(asked: Any, error: Any, words: str) -> None:
    model, batch = tiny_model()
    with pytest.raises(error, match=words):
        DeepLiftEHR(model).what_if(batch, **asked)


def test_a_code_of_two_features_is_asked_for_by_its_feature() -> None:
    samples = [
        {"patient_id": f"p{n}", "a": ["x", "y"], "b": ["x", "z"], "label": n}
        for n in range(2)
    ]
    data = create_sample_dataset(
        samples, {"a": "sequence", "b": "sequence"}, {"label": "binary"}
    )
    model = MLP(data, embedding_dim=4, hidden_dim=4)
    dl = DeepLiftEHR(model)
    with pytest.raises(ValueError, match="'a' and 'b' have"):
        dl.what_if(data[0], ["x"])
    found = dl.what_if(data[0], [("a", "x"), ("b", "x")])
    assert found.words == ("without a x", "without b x", "all together")


def test_a_model_that_reads_place_by_place_drops_nothing() -> None:
    options = {**zoo.SMALL, "vocab_size": 40, "time_embeddings_size": 4}
    model, batch = zoo.shared(zoo.Config("EHRMambaCEHR", "cehr", options=options))
    dl = DeepLiftEHR(model)
    code = dl.explain(batch).top(None).query("feature == 'concept_ids'")["code"].iloc[0]
    with pytest.raises(ValueError, match="beside them"):
        dl.what_if(batch, [code])
    found = dl.what_if(batch, [code], how="reference")
    assert isinstance(found, WhatIf) and int(found.places.sum()) > 0


class Mixing(Additive):
    """What a patient's codes come to depends on the batch's mean."""

    share = 0.0

    def forward(self, codes: Any, labs: Any, **_: Any) -> Any:
        total = self.embeddings["codes"](codes).sum(1)
        mixed = self.share * total.mean() * labs[:, :1]
        return {"logit": total * (1 + total.mean() ** 2) + mixed}


@pytest.mark.parametrize("share", [0.0, 1.0])  # of 0 the sums do not tell it
@pytest.mark.filterwarnings("ignore:the model mixes")
def test_patients_that_a_model_mixes_are_asked_about_one_by_one(share: float) -> None:
    model, batch = additive()
    torch.manual_seed(2)
    model = Mixing(model.dataset).eval()
    model.share = share
    found = DeepLiftEHR(model).what_if(batch, ["a"])
    ids = batch["codes"]
    for row in (0, 2):
        other = ids.clone()
        kept = [i for i in ids[row].tolist() if i not in (0, 2)]
        other[row] = torch.tensor(kept + [0] * (ids.shape[1] - len(kept)))
        after = logits(model, {**batch, "codes": other})[row]
        assert found.f_changed[row, 0] == pytest.approx(after.item(), abs=1e-6)
    if share:
        with pytest.raises(ValueError, match="apart"):
            DeepLiftEHR(model, mixing="together").what_if(batch, ["a"])
