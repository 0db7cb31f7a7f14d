"""The promises, on PyHealth's models over generated schemata and patients."""

from __future__ import annotations

from typing import Any, NamedTuple

import hypothesis
import pytest
import torch
import zoo
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from pyhealth_cases import batches, dataset
from snapshots import snapshot
from test_promises import assert_within

from captum_ehr import DeepLiftEHR, Explanation

CODES = st.sampled_from(["I10", "E11", "N18", "I50", "J44"])
VALUES = st.sampled_from([0.0, 1.0, -1.5, 0.25, 1e-6, 1e3, 140.0])

#: Entries of a patient, by PyHealth's name of the processor.
ENTRIES: dict[str, st.SearchStrategy[Any]] = {
    "sequence": st.lists(CODES, min_size=1, max_size=4),
    "nested_sequence": st.lists(
        st.lists(CODES, min_size=1, max_size=3), min_size=1, max_size=3
    ),
    "multi_hot": st.lists(CODES, min_size=1, max_size=3, unique=True),
    "tensor": st.lists(VALUES, min_size=3, max_size=3),
}

#: A class, what it is made with, and the processors that it takes.
SIZED = {"embedding_dim": 4, "hidden_dim": 3}
MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "MLP": ("MLP", SIZED, "sequence nested_sequence multi_hot tensor"),
    "regression": ("LogisticRegression", {"embedding_dim": 4}, " ".join(ENTRIES)),
    "GRU": ("RNN", {**SIZED, "rnn_type": "GRU"}, " ".join(ENTRIES)),
    "LSTM": ("RNN", {**SIZED, "rnn_type": "LSTM"}, "sequence nested_sequence"),
    "Transformer": ("Transformer", {"embedding_dim": 4}, " ".join(ENTRIES)),
    "RETAIN": ("RETAIN", {"embedding_dim": 4}, "sequence nested_sequence tensor"),
    "StageNet": ("StageNet", {**zoo.STAGES, "embedding_dim": 4}, "sequence"),
}


class Record(NamedTuple):
    """A model, the processors of its features, and two sets of patients."""

    model: str
    schema: tuple[str, ...]
    patients: tuple[tuple[Any, ...], ...]
    baseline: str
    seed: int

    def build(self) -> tuple[Any, Any]:
        """The model in float64, and its data."""
        from pyhealth import models

        keys = {f"{name}_{k}": name for k, name in enumerate(self.schema)}
        rows = [(*row, k % 2) for k, row in enumerate(self.patients)]
        data = dataset(keys, *rows)
        name, options, _ = MODELS[self.model]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return getattr(models, name)(data, **options).double().eval(), data


@st.composite
def records(draw: Any, model: str) -> Record:
    kinds = st.sampled_from(MODELS[model][2].split())
    schema = tuple(draw(st.lists(kinds, min_size=1, max_size=3)))
    row = st.tuples(*(ENTRIES[name] for name in schema))
    rows = tuple(draw(st.lists(row, min_size=2, max_size=3)))
    baseline = draw(st.sampled_from(["unk", "pad"]))
    return Record(model, schema, rows, baseline, draw(st.integers(0, 2**16)))


def holds(record: Record) -> None:
    model, data = record.build()
    (batch,) = (zoo.converted(b, torch.float64) for b in batches(data, 3))
    with zoo.default_dtype(torch.float64):
        before = snapshot(model)
        explainer = DeepLiftEHR(model, completeness="check")
        exp = explainer.explain(batch, record.baseline)
        assert snapshot(model) == before
        with torch.no_grad():
            own = zoo.score(model, batch)
        torch.testing.assert_close(exp.f_input, own[:, 0], rtol=1e-12, atol=1e-12)
        assert not exp.diagnostics.fallbacks
        assert_within(exp, 1e-10, 16)
        for key, feature in exp.features.items():
            assert (exp.attributions[key][~feature.mask] == 0).all()
        alone(record, explainer, data, exp)
        planned(record, explainer, batch)


def alone(record: Record, explainer: Any, data: Any, together: Explanation) -> None:
    """Each patient alone, where the model does not read how much padding there is."""
    for row, batch in enumerate(batches(data, 1)):
        batch = zoo.converted(batch, torch.float64)
        target = [together.target[row]]
        exp = explainer.explain(batch, record.baseline, target)
        sides = zip(
            (exp.f_input, exp.f_baseline), (together.f_input, together.f_baseline)
        )
        if not all(torch.allclose(a, b[row : row + 1], atol=1e-12) for a, b in sides):
            continue
        for key, share in exp.attributions.items():
            place = tuple(slice(n) for n in share.shape[1:])
            company = together.attributions[key][row][place]
            torch.testing.assert_close(share[0], company, rtol=1e-8, atol=1e-11)


def planned(record: Record, explainer: Any, batch: Any) -> None:
    """The third batch of a shape is explained as by the passes."""
    explainer.explain(batch, record.baseline)
    other = {
        key: value.flip(0) if isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
    }
    ours = explainer.explain(other, record.baseline)
    theirs = DeepLiftEHR(explainer.model).explain(other, record.baseline)
    for key, share in theirs.attributions.items():
        torch.testing.assert_close(ours.attributions[key], share, rtol=1e-9, atol=1e-12)


def each_holds(model: str, examples: int) -> None:
    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @hypothesis.given(records(model))
    def run(record: Record) -> None:
        holds(record)

    run()


@pytest.mark.filterwarnings("ignore::captum_ehr.attr.completeness.AttributionWarning")
@pytest.mark.parametrize("model", MODELS)
def test_generated_records_keep_every_promise(model: str) -> None:
    each_holds(model, 2)


@pytest.mark.complete
@pytest.mark.filterwarnings("ignore::captum_ehr.attr.completeness.AttributionWarning")
@pytest.mark.parametrize("model", MODELS)
def test_more_generated_records_keep_every_promise(model: str) -> None:
    each_holds(model, 12)
