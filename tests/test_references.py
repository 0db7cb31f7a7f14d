"""Typical references: UNK for codes, the dataset's median for values."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from pyhealth.datasets import create_sample_dataset, get_dataloader
from pyhealth.models import MLP
from torch import Tensor, nn

from captum_ehr import (
    DeepLiftEHR,
    LayerDeepLiftEHR,
    PyHealthAdapter,
    explain_cohort,
)
from captum_ehr.adapter.encoded import collated
from captum_ehr.adapter.features import Feature
from captum_ehr.adapter.observations import Observations, middle_of
from captum_ehr.datasets import tiny_model
from captum_ehr.datasets.tiny import quiet_pyhealth
from captum_ehr.insights import AttributionVisualizer
from captum_ehr.pyhealth import DeepLift

SCHEMAS = (
    "sequence nested tensor multi_hot timeseries nested_floats stagenet stagenet_nested"
).split()


def real_values(feature: Feature, dataset: Any) -> list[np.ndarray]:
    """Per column, all values of all patients' real steps, one patient at a time."""
    columns: list[list[float]] = []
    for k in range(len(dataset)):
        record = feature.record(feature.read(collated([dataset[k]])[feature.source]))
        values, mask = record.values[0], record.mask[0]
        if record.is_series:
            values, mask = values.unsqueeze(-1), mask.unsqueeze(-1)
        width = values.shape[-1]
        columns = columns or [[] for _ in range(width)]
        flat = zip(values.reshape(-1, width), mask.reshape(-1, width))
        for row, real in flat:
            for j in range(width):
                if real[j] and not row[j].isnan():
                    columns[j].append(float(row[j]))
    return [np.sort(column) for column in columns]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_codes_become_unknown_and_values_the_median(schema: str) -> None:
    model, batch = zoo.shared(zoo.Config("RNN", schema, options=zoo.HIDDEN))
    adapter = PyHealthAdapter(model)
    enc = adapter.encode(batch)
    parts = adapter.baseline(enc, "typical"), adapter.baseline(enc, "unk")
    for feature, mask, x, typical, unknown in zip(
        adapter.features, enc.masks, enc.inputs, *parts
    ):
        if not feature.is_valued:
            assert torch.equal(typical, unknown)
            continue
        columns = real_values(feature, model.dataset)
        middle = torch.tensor([column[(len(column) - 1) // 2] for column in columns])
        wide = middle.to(x).expand(x.shape)
        assert torch.equal(typical, torch.where(mask, wide, x))


@pytest.fixture
def holed() -> Iterator[tuple[Any, Any]]:
    """A model of two labs of which some are missing."""
    labs = [[1.0, np.nan], [3.0, 138.0], [np.nan, 140.0], [9.0, 144.0], [5.0, 139.0]]
    samples = [
        {"patient_id": f"p{n}", "codes": ["a"], "labs": row, "died": n % 2}
        for n, row in enumerate(labs)
    ]
    with quiet_pyhealth(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        data = create_sample_dataset(
            samples,
            {"codes": "sequence", "labs": "tensor"},
            {"died": "binary"},
            in_memory=True,
        )
        model = MLP(data, embedding_dim=4, hidden_dim=4).eval()
    yield model, next(iter(get_dataloader(data, len(labs))))


def test_missing_values_do_not_count(holed: Any) -> None:
    adapter = PyHealthAdapter(holed[0])
    for name, wanted in (("typical", [3.0, 139.0]), ("mean", [4.5, 140.25])):
        found = adapter.baseline(holed[1], {"labs": name})[1]
        assert found[1].tolist() == wanted
    assert adapter.ranges["labs"].low.tolist() == [1.0, 138.0]
    assert adapter.ranges["labs"].high.tolist() == [9.0, 144.0]


def test_a_column_that_nobody_has_is_said(holed: Any) -> None:
    model, _ = holed
    never = torch.tensor([0.0, torch.nan])
    whole = [{**sample, "labs": sample["labs"] + never} for sample in model.dataset]
    (_, labs) = PyHealthAdapter(model).features
    with pytest.raises(ValueError, match=r"'labs': no sample has .* column\(s\) \[1\]"):
        Observations(whole).middle(labs, "median")


def test_a_middle_of_several_and_of_none() -> None:
    points = torch.tensor([[3.0, torch.nan], [1.0, torch.nan], [2.0, torch.nan]])
    counts = torch.tensor([1, 5, 1])
    for name, wanted in (("median", 1.0), ("mean", 10 / 7)):
        middle = middle_of(points, counts, name)
        assert float(middle[0]) == pytest.approx(wanted) and bool(middle[1].isnan())


class Counting:
    """A dataset that counts how often it is read."""

    def __init__(self, dataset: Any) -> None:
        self.dataset, self.reads = dataset, 0

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Any]:
        self.reads += 1
        return iter(self.dataset)


def test_it_is_computed_once_for_all_threads_and_copies(holed: Any) -> None:
    adapter = PyHealthAdapter(holed[0])
    adapter.observations = Observations(counting := Counting(holed[0].dataset))
    enc = adapter.encode(holed[1])
    found: list[Tensor] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(adapter.baseline(enc, "typical")[1])
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and counting.reads == 1
    again = pickle.loads(pickle.dumps(adapter.observations))
    (_, labs) = adapter.features
    assert torch.equal(again.middle(labs, "median"), torch.tensor([3.0, 139.0]))
    assert again._samples.reads == 1


def test_it_is_the_reference_of_whoever_takes_one(tmp_path: Path) -> None:
    model, batch = tiny_model()
    exp = DeepLiftEHR(model, completeness="raise").explain(batch, "typical")
    assert exp.baseline == "typical" and exp.diagnostics.notes == ()
    theirs = DeepLift(model, baseline="typical").attribute(**batch)
    layer = LayerDeepLiftEHR(model, "fc").attribute(batch, "typical")
    torch.testing.assert_close(
        layer.flatten(1).sum(1), exp.f_input - exp.f_baseline, rtol=1e-4, atol=1e-6
    )
    cohort = explain_cohort(model, model.dataset, tmp_path, baselines="typical")
    mine = cohort[list(exp.patient_ids)]
    page = AttributionVisualizer(model, model.dataset, methods=["DeepLiftEHR"])
    assert page.overview()["baselines"]["DeepLiftEHR"][0] == "unk"
    assert page.view("p1", baseline="typical")["baseline"] == "typical"
    for key, value in exp.attributions.items():
        torch.testing.assert_close(theirs[key], value)
        torch.testing.assert_close(mine.attributions[key], value)


def columns(*rows: Sequence[float]) -> tuple[Any, Any]:
    samples = [
        {"patient_id": f"p{n}", "labs": list(row), "died": n % 2}
        for n, row in enumerate(rows)
    ]
    with quiet_pyhealth():
        data = create_sample_dataset(
            samples, {"labs": "tensor"}, {"died": "binary"}, in_memory=True
        )
    model = MLP(data, embedding_dim=4, hidden_dim=4).eval()
    return model, next(iter(get_dataloader(data, len(rows))))


def test_all_columns_that_0_is_outside_of_are_named_in_one_note() -> None:
    model, batch = columns([1, -5, 0.0, 7], [2, -6, 1.0, 9], [3, -9, -1.0, 8])
    (note,) = DeepLiftEHR(model).explain(batch).diagnostics.notes
    for words in (
        "in 3 of 4 column(s)",
        "labs[0] is 0, where 3 samples have 1 to 3",
        "labs[1] is 0, where they have -9 to -5",
        "labs[3] is 0, where they have 7 to 9",
        'baselines="typical"',
    ):
        assert words in note
    assert DeepLiftEHR(model).explain(batch, "typical").diagnostics.notes == ()
    model, batch = columns(*[[float(k + n) for k in range(1, 9)] for n in range(2)])
    (note,) = DeepLiftEHR(model).explain(batch).diagnostics.notes
    assert "labs[4]" in note and "labs[5]" not in note and "and 3 more" in note


def test_a_model_without_parameters_is_where_its_buffers_are() -> None:
    model, batch = tiny_model()

    class Bare(nn.Module):
        """A score by hand."""

        def __init__(self, dataset: Any) -> None:
            super().__init__()
            self.dataset, self.feature_keys = dataset, ["labs"]
            self.label_keys, self.mode = model.label_keys, "binary"

        def forward(self, labs: Tensor, **rest: Any) -> dict[str, Tensor]:
            return {"logit": torch.tanh(labs).sum(1, keepdim=True)}

    bare = Bare(model.dataset)
    adapter = PyHealthAdapter(bare)
    assert adapter.device == torch.device("cpu")
    exp = DeepLiftEHR(adapter, completeness="raise").explain(batch, "typical")
    torch.testing.assert_close(exp.f_input, torch.tanh(batch["labs"]).sum(1))
    bare.register_buffer("scale", torch.ones(1, device="meta"))
    assert adapter.device == torch.device("meta")


def test_a_function_gives_the_reference_its_name() -> None:
    """So that pictures say more than that one was given."""

    def healthy(encoded: Any) -> str:
        return "typical"

    model, batch = tiny_model()
    dl = DeepLiftEHR(model)
    assert dl.explain(batch, healthy).baseline == "healthy"
    assert dl.interactions(batch, healthy, among=2).baseline == "healthy"
    assert dl.explain(batch, lambda encoded: "typical").baseline == "given"
    assert dl.explain(batch, {"labs": "typical"}).baseline == "given"


@pytest.mark.parametrize("name", ["mean", "median"])
def test_a_middle_of_categories_is_that_of_who_lacks_them_too(name: str) -> None:
    model, batch = zoo.shared(zoo.Config("RNN", "multi_hot", options=zoo.HIDDEN))
    adapter = PyHealthAdapter(model)
    flags = [feature.key for feature in adapter.features].index("flags")
    dataset = model.dataset
    rows = torch.stack([dataset[k]["flags"] for k in range(len(dataset))])
    found = adapter.baseline(batch, name)[flags]
    middle = rows.mean(0) if name == "mean" else rows.median(0).values
    torch.testing.assert_close(found, middle.expand(found.shape))
    torch.testing.assert_close(found, adapter.baseline(batch, {"flags": middle})[flags])
    exp = DeepLiftEHR(adapter, completeness="raise").explain(batch, name)
    lacks = (batch["flags"] == 0) & (middle != 0)
    assert name == "median" or bool((exp.attributions["flags"][lacks] != 0).all())
