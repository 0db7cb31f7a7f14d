"""Distributions of references: the mean, every one, one input pass for all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from captum.attr import DeepLiftShap
from torch import Tensor, nn

from captum_ehr import (
    DeepLiftEHR,
    DeepLiftShapEHR,
    PyHealthAdapter,
    reference_patients,
)

PATIENTS = [
    zoo.Config("MLP", "multi_hot", options=zoo.HIDDEN),
    zoo.Config("RNN", "nested", "multiclass", zoo.HIDDEN),
    zoo.Config("StageNet", "stagenet_nested", options=zoo.STAGES),
    zoo.Config("Transformer", "timeseries", options=zoo.SMALL),
    zoo.Config("EHRMamba", "sequence", options=zoo.SMALL),
]


def plain() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    return model, torch.randn(5, 4), torch.randn(7, 4)


def test_it_is_captums_where_captum_is_right() -> None:
    model, x, references = plain()
    theirs, their_delta = DeepLiftShap(model).attribute(
        x, references, target=1, return_convergence_delta=True
    )
    ours, delta = DeepLiftShapEHR(model).attribute(
        x, references, target=1, return_convergence_delta=True
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert delta.shape == their_delta.shape == (35,)
    assert isinstance(DeepLiftShapEHR(model), DeepLiftShap)


def test_every_reference_and_their_mean() -> None:
    model, x, references = plain()
    dl = DeepLiftShapEHR(model, completeness="check")
    each = dl.attribute(x, references, target=2, per_reference=True)
    assert each.shape == (5, 7, 4)
    for k, one in enumerate(references):
        alone = DeepLiftEHR(model).attribute(x, one.expand_as(x), target=2)
        torch.testing.assert_close(each[:, k], alone, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(each.mean(1), dl.attribute(x, references, target=2))


@pytest.mark.parametrize(
    ("most", "seen"),
    [
        (None, [5, 5, 30, 30]),  # the first alone, then all others at once
        (15, [5, 5, 15, 15, 15, 15]),
        (5, [5] * 8),  # one input pass, seven references
    ],
)
def test_how_often_the_model_runs(most: int | None, seen: list[int]) -> None:
    model, x, references = plain()
    rows: list[int] = []

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            rows.append(len(x))
            return self.inner(x)

    dl = DeepLiftShapEHR(Counted(), internal_batch_size=most)
    dl.attribute(x, references, target=0)
    assert rows == seen


@pytest.mark.parametrize("config", PATIENTS, ids=str)
def test_reference_patients_one_by_one(config: zoo.Config) -> None:
    model, batch = zoo.build(config, trained=True)
    others = reference_patients(zoo.dataset(config.schema, config.mode), 4, seed=3)
    dl = DeepLiftShapEHR(model, completeness="raise")
    exp = dl.explain(batch, others)
    assert exp.baseline == "4 reference patients" and not exp.diagnostics.fallbacks
    # They have fewer codes: where they have none, the patient's positions are kept
    kept = [structure.message for structure in exp.diagnostics.structure]
    assert set(exp.diagnostics.messages) <= set(kept)
    dl, inside = (kind(model, completeness="off") for kind in (type(dl), DeepLiftEHR))
    adapter = PyHealthAdapter(model)
    each = dl.attribute(batch, others, per_reference=True)
    target = list(exp.target)
    enc = adapter.encode(batch)
    totals = []
    for k in range(4):
        own = one_by_hand(adapter, enc, adapter.encode(others), k)
        alone = inside.explain(batch, own, target=target)
        for key, attribution in alone.attributions.items():
            torch.testing.assert_close(
                each[key][:, k], attribution, rtol=1e-3, atol=1e-6
            )
        totals.append(alone.f_baseline)
    torch.testing.assert_close(exp.f_baseline, torch.stack(totals).mean(0))
    for key, record in exp.features.items():
        assert record.columns or not exp.attributions[key][~record.mask].any()


def test_where_a_reference_patient_has_less_there_is_nothing() -> None:
    """Also of a model whose padding has an embedding that is not zero."""
    model, batch = zoo.build(PATIENTS[-1])
    adapter = PyHealthAdapter(model)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.weight[0] = 1.0
    enc = adapter.encode(batch)
    for k, parts in enumerate(adapter.patient_baselines(enc, enc)):
        torch.testing.assert_close(parts, one_by_hand(adapter, enc, enc, k))
    assert any(bool((m & ~m[k]).any()) for m in enc.masks for k in range(len(enc)))


def one_by_hand(adapter: Any, enc: Any, others: Any, k: int) -> tuple[Tensor, ...]:
    """Position by position: the reference patient's, the zero of absence, padding."""
    made = []
    for feature, x, mask, other, real in zip(
        adapter.features, enc.inputs, enc.masks, others.inputs, others.masks
    ):
        own = torch.zeros_like(x)
        for place in mask.nonzero().tolist():
            row, *where = place
            inside = all(w < n for w, n in zip(where, real.shape[1:]))
            if inside and bool(real[(k, *where)]):
                own[(row, *where)] = other[(k, *where)]
        padding = ~mask.unsqueeze(-1) if feature.embedding else ~mask
        own = torch.where(padding, x, own)
        made.append(other[k].expand_as(x) if feature.columns else own)
    return tuple(made)


def test_a_dataset_a_number_and_a_seed() -> None:
    model, batch = zoo.build(PATIENTS[2])
    data = zoo.dataset("stagenet_nested", "binary")
    dl = DeepLiftShapEHR(model)
    whole = dl.explain(batch, data)
    assert whole.baseline == f"{len(data)} reference patients"
    drawn = dl.explain(batch, 3)
    same = dl.explain(batch, reference_patients(data, 3))
    torch.testing.assert_close(drawn.f_baseline, same.f_baseline)
    first = reference_patients(data, 3)["patient_id"]
    assert first == reference_patients(data, 3)["patient_id"] and len(set(first)) == 3
    assert any(
        first != reference_patients(data, 3, seed)["patient_id"] for seed in range(1, 5)
    )


def test_slices_give_the_same() -> None:
    model, batch = zoo.build(PATIENTS[2])
    whole = DeepLiftShapEHR(model).explain(batch, 3)
    sliced = DeepLiftShapEHR(model, internal_batch_size=2).explain(batch, 3)
    for key, attribution in whole.attributions.items():
        torch.testing.assert_close(sliced.attributions[key], attribution)
    torch.testing.assert_close(sliced.f_baseline, whole.f_baseline)


def test_patients_that_mix_are_explained_apart() -> None:
    model, batch = zoo.build(zoo.mixing()[0])
    with pytest.warns(UserWarning, match="with the others held fixed"):
        exp = DeepLiftShapEHR(model, completeness="raise").explain(batch, 2)
    change = (exp.f_input - exp.f_baseline).double()
    torch.testing.assert_close(exp.total, change, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("baselines", "words"),
    [
        (torch.zeros(1, 4), "averages over several references, got 1"),
        (
            torch.zeros(3, 5),
            r"Baseline 0: expected a tensor of shape \(references, 4\)",
        ),
        ((torch.zeros(3, 4),) * 2, r"2 baseline\(s\) for 1 input"),
        (0.0, "expected tensors with the references as dimension 0"),
        ({"conditions": torch.zeros(3, 4)}, "reference patients need a batch"),
        (5, "reference patients need a batch"),
    ],
)
def test_bad_references(baselines: Any, words: str) -> None:
    model, x, _ = plain()
    with pytest.raises((ValueError, TypeError), match=words):
        DeepLiftShapEHR(model).attribute(x, baselines, target=0)


def test_bad_reference_patients() -> None:
    model, batch = zoo.build(PATIENTS[0])
    dl = DeepLiftShapEHR(model)
    with pytest.raises(ValueError, match="got 1; against a single one use DeepLiftEHR"):
        dl.explain(batch, 1)
    with pytest.raises(ValueError, match="99 reference patients of a dataset that has"):
        dl.explain(batch, 99)
    with pytest.raises(TypeError, match="expected reference patients"):
        dl.explain(batch, "unk")
    with pytest.raises(KeyError, match="lacks 'flags'"):
        dl.explain(batch, {"conditions": batch["conditions"]})


@pytest.mark.parametrize("config", PATIENTS[:2], ids=str)
def test_the_spread_is_that_of_one_reference_after_the_other(config: Any) -> None:
    model, batch = zoo.build(config)
    references = reference_patients(model.dataset, 4)
    table = DeepLiftShapEHR(model).spread(batch, references, target=0)
    adapter = PyHealthAdapter(model)
    encoded = adapter.encode(batch)
    each = [
        DeepLiftEHR(adapter).explain(encoded, one, target=0).attributions
        for one in adapter.patient_baselines(encoded, references)
    ]
    whole = DeepLiftShapEHR(model).explain(batch, references, target=0)
    for key, mean in whole.attributions.items():
        parts = torch.stack([one[key] for one in each])
        mask = whole.features[key].mask
        rows = table[table["feature"] == key]
        for name, expected in (
            ("attribution", mean),
            ("attribution", parts.mean(0)),
            ("spread_over_references", parts.std(0)),
        ):
            ours = torch.from_numpy(rows[name].to_numpy().copy())
            torch.testing.assert_close(
                ours, expected[mask].double(), rtol=1e-4, atol=1e-6
            )


def test_the_spread_is_of_one_output() -> None:
    model, batch = zoo.build(PATIENTS[0])
    with pytest.raises(ValueError, match="one output at a time"):
        DeepLiftShapEHR(model).spread(batch, 2, target="all")
