"""What is said of a reference that nobody has, and of patients without an answer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pyhealth.datasets import create_sample_dataset, get_dataloader
from pyhealth.models import MLP, Transformer

from captum_ehr import DeepLiftEHR, DeepLiftShapEHR, PyHealthAdapter
from captum_ehr.datasets import tiny_model


def model_of(
    labs: list[list[float]], times: list[float] | None = None
) -> tuple[Any, dict[str, Any]]:
    """A model of codes and laboratory values, and all of its patients."""
    samples = [
        {
            "patient_id": f"p{i}",
            "visit_id": "v",
            "conditions": ["a", "b", "c"][: i % 3 + 1],
            "labs": row if times is None else (times, [row] * len(times)),
            "died": i % 2,
        }
        for i, row in enumerate(labs)
    ]
    kind = "tensor" if times is None else "stagenet_tensor"
    dataset = create_sample_dataset(
        samples, {"conditions": "sequence", "labs": kind}, {"died": "binary"}
    )
    torch.manual_seed(0)
    if times is None:
        model = MLP(dataset, embedding_dim=8, hidden_dim=8).eval()
    else:
        model = Transformer(dataset, embedding_dim=8, heads=2).eval()
    return model, next(iter(get_dataloader(dataset, batch_size=len(samples))))


SODIUM = [[1.0, 138.0], [-2.0, 131.0], [0.5, 144.0], [1.5, 140.0]]


class Gone:
    """A dataset whose processors are left, but no samples."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getattr__(self, name: str) -> Any:
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        raise OSError("the files are gone")


class TestReferences:
    @pytest.mark.parametrize("times", [None, [0.0, 3.0]])
    def test_one_that_nobody_has_is_noted(self, times: list[float] | None) -> None:
        model, batch = model_of(SODIUM, times)
        made = DeepLiftEHR(model).explain(batch)
        (note,) = made.diagnostics.notes
        assert "feature 'labs' is outside of what the dataset holds" in note
        assert "in 1 of 2 column(s): labs[1] is 0, where 4 samples have 131 to" in note
        assert made.diagnostics.exact and not made.diagnostics.messages
        assert "outside of what the dataset holds" in repr(made)

    @pytest.mark.parametrize(
        "baselines",
        [
            {"labs": "mean"},
            {"labs": "median"},
            {"labs": torch.tensor([0.0, 139.0])},
            {"labs": torch.tensor([-2.0, 144.0])},
        ],
    )
    def test_one_within_is_not(self, baselines: Any) -> None:
        model, batch = model_of(SODIUM)
        assert DeepLiftEHR(model).explain(batch, baselines).diagnostics.notes == ()

    def test_one_above_or_of_some_patients_is(self) -> None:
        model, batch = model_of(SODIUM)
        given = torch.tensor([[0.0, 139.0]] * 3 + [[0.0, 145.0]])
        (note,) = DeepLiftEHR(model).explain(batch, {"labs": given}).diagnostics.notes
        assert "labs[1] is 145" in note

    def test_a_constant_column_has_its_own_mean(self) -> None:
        model, batch = model_of([[0.1, 139.3]] * 7)
        made = DeepLiftEHR(model).explain(batch, {"labs": "mean"})
        assert made.diagnostics.notes == ()

    def test_reference_patients_and_codes_are_none_of_it(self) -> None:
        model, batch = model_of([[0.0, 0.0], [1.0, 1.0]])
        assert DeepLiftEHR(model).explain(batch).diagnostics.notes == ()
        assert DeepLiftShapEHR(model).explain(batch, 2).diagnostics.notes == ()

    def test_ranges_are_found_once_and_without_a_trace(self) -> None:
        model, batch = model_of(SODIUM)
        adapter, before = PyHealthAdapter(model), set(vars(model))
        state = torch.get_rng_state()
        assert adapter.ranges["labs"].low.tolist() == [-2.0, 131.0]
        assert adapter.ranges["labs"].high.tolist() == [1.5, 144.0]
        assert torch.equal(state, torch.get_rng_state())
        assert set(vars(model)) == before

        model.dataset = Gone(model.dataset)
        assert DeepLiftEHR(adapter).explain(batch).diagnostics.notes
        # Where the dataset is gone there is nothing to compare with.
        assert DeepLiftEHR(model).explain(batch).diagnostics.notes == ()

    def test_large_datasets_are_read_in_part(self) -> None:
        model, _ = model_of([[float(i), 1.0] for i in range(2000)])
        found = PyHealthAdapter(model).ranges["labs"]
        assert 400 <= found.patients <= 1000
        assert found.high[0] - found.low[0] > 1900


def test_padding_has_no_rows_where_there_is_no_answer() -> None:
    model, batch = tiny_model()

    def broken(**given: Any) -> dict[str, torch.Tensor]:
        result = plain(**given)
        lost = given["labs"][:, :1] == batch["labs"][0, 0]
        return {**result, "logit": torch.where(lost, math.nan, result["logit"])}

    whole = DeepLiftEHR(model).explain(batch)
    plain = model.forward
    model.forward = broken
    with pytest.warns(UserWarning, match="not finite"):
        made = DeepLiftEHR(model, sum_tokens=True).explain(batch)
    assert math.isnan(float(made.f_input[0]))
    for key, record in made.features.items():
        assert torch.equal(record.mask, whole.features[key].mask)
