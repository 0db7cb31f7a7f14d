"""PyHealthAdapter: encoding, references, and clear words for bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from pyhealth.datasets.utils import collate_fn_dict_with_padding
from torch import Tensor, nn

from captum_ehr import AttributionWarning, DeepLiftEHR, PyHealthAdapter

STAGENET = zoo.Config("StageNet", "stagenet_nested", "binary", zoo.STAGES)
MLP = zoo.Config("MLP", "tensor", "binary", zoo.HIDDEN)
SERIES = zoo.Config("Transformer", "timeseries", "binary", zoo.SMALL)
HOT = zoo.Config("MLP", "multi_hot", "binary", zoo.HIDDEN)


@pytest.fixture(scope="module")
def stagenet() -> Any:
    return zoo.build(STAGENET)


@pytest.fixture(scope="module")
def mlp() -> Any:
    return zoo.build(MLP)


class TestEncode:
    def test_inputs_masks_and_the_rest(self, stagenet: Any) -> None:
        model, batch = stagenet
        enc = PyHealthAdapter(model).encode(batch)
        ids, labs = batch["timed_visits"][1], batch["timed_labs"][1]
        assert enc.feature_keys == ("timed_visits", "timed_labs")
        assert [x.shape for x in enc.inputs] == [(*ids.shape, 8), labs.shape]
        assert all(x.is_floating_point() for x in enc.inputs)
        assert torch.equal(enc.masks[0], ids != 0)
        assert all(m.dtype == torch.bool for m in enc.masks)
        for extra in enc.additional_forward_args:
            assert isinstance(extra, Tensor) and extra.shape[0] == len(enc) == 9
        assert enc.patient_ids == tuple(f"p{n}" for n in range(9))
        assert [pair[0] is x for pair, x in zip(enc.pairs, enc.inputs)] == [True] * 2

    def test_captum_may_repeat_and_slice_the_rest(self, stagenet: Any) -> None:
        model, batch = stagenet
        adapter = PyHealthAdapter(model)
        enc = adapter.encode(batch)
        every = (*enc.inputs, *enc.additional_forward_args)
        whole = adapter(*every)
        twice = adapter(*(t.repeat_interleave(2, 0) for t in every))
        torch.testing.assert_close(twice[::2], whole)
        torch.testing.assert_close(adapter(*(t[2:5] for t in every)), whole[2:5])

    def test_a_mask_in_the_batch_reaches_the_model(self, mlp: Any) -> None:
        model, batch = mlp
        mask = batch["conditions"] != 0
        mask[:, 1] = False
        masked = {**batch, "conditions": (batch["conditions"], mask)}
        adapter = PyHealthAdapter(model)
        enc = adapter.encode(masked)
        with torch.no_grad():
            expected = model(**masked)["logit"]
            found = adapter(*enc.inputs, *enc.additional_forward_args)
        assert torch.equal(found, expected)
        assert torch.equal(enc.masks[0], mask)

    def test_an_observed_row_of_zeros_is_no_padding(self, stagenet: Any) -> None:
        model, batch = stagenet
        time, labs = (t.clone() for t in batch["timed_labs"])
        row = int((time != 0).sum(1).argmax())
        labs[row, 1] = 0
        enc = PyHealthAdapter(model).encode({**batch, "timed_labs": (time, labs)})
        assert bool(enc.masks[1][row, 1].all())
        short = int((time != 0).sum(1).argmin())
        assert not bool(enc.masks[1][short, -1].any())

    def test_a_step_of_zeros_is_padding_only_at_the_end(self) -> None:
        model, batch = zoo.build(SERIES)
        vitals = torch.zeros_like(batch["vitals"])
        vitals[:, 1], vitals[:, 3] = 1.0, 2.0
        enc = PyHealthAdapter(model).encode({**batch, "vitals": vitals})
        real = torch.arange(vitals.shape[1]) < 4
        assert not bool(real.all())
        assert torch.equal(enc.masks[1], real[:, None].expand_as(vitals))

    def test_train_mode_and_the_model_itself_are_let_be(self, mlp: Any) -> None:
        model, batch = mlp
        model.train()
        adapter = PyHealthAdapter(model)
        enc = adapter.encode(batch)
        adapter(*enc.inputs, *enc.additional_forward_args)
        assert model.training and all(p.grad is None for p in model.parameters())
        model.eval()


class TestBaselines:
    def test_unk_at_tokens_and_pads_at_pads(self, mlp: Any) -> None:
        model, batch = mlp
        adapter = PyHealthAdapter(model)
        enc, (codes, labs) = adapter.encode(batch), adapter.baseline(batch)
        table = model.embedding_model.embedding_layers["conditions"].weight
        real = enc.masks[0]
        assert torch.equal(codes[real], table[1].expand_as(codes[real]))
        assert torch.equal(codes[~real], enc.inputs[0][~real])
        assert torch.equal(labs, torch.zeros_like(labs))

    def test_names(self, mlp: Any) -> None:
        model, batch = mlp
        adapter = PyHealthAdapter(model)
        enc = adapter.encode(batch)
        data = zoo.dataset("tensor", "binary")
        labs = torch.stack([s["labs"] for s in data])
        ids = torch.cat([s["conditions"] for s in data])
        table = model.embedding_model.embedding_layers["conditions"].weight.detach()
        codes, mean = adapter.baseline(batch, "mean")
        torch.testing.assert_close(mean, labs.mean(0).expand_as(mean))
        torch.testing.assert_close(codes[0, 0], table[ids].mean(0))
        _, median = adapter.baseline(batch, "median")
        torch.testing.assert_close(median[3], labs.median(0).values)
        codes, zero = adapter.baseline(batch, "pad")
        assert not codes.any() and not zero.any()
        codes, near = adapter.baseline(batch, "pyhealth")
        assert torch.equal(codes, table[1].expand_as(codes)) and bool(
            (near == 0.01).all()
        )
        assert not torch.equal(codes[~enc.masks[0]], enc.inputs[0][~enc.masks[0]])

    def test_mappings_tensors_tuples_numbers_and_functions(self, stagenet: Any) -> None:
        model, batch = stagenet
        adapter = PyHealthAdapter(model)
        enc = adapter.encode(batch)
        time, labs = batch["timed_labs"]
        unk, zero = adapter.baseline(batch)
        for given in (
            {"timed_labs": (time, torch.full_like(labs, 2.0))},
            {"timed_labs": torch.full_like(labs, 2.0)},
            {"timed_labs": 2.0},
            lambda encoded: {"timed_labs": torch.full_like(encoded.inputs[1], 2.0)},
        ):
            codes, values = adapter.baseline(batch, given)
            assert torch.equal(codes, unk)
            expected = torch.where(enc.masks[1], 2.0, zero)
            assert torch.equal(values, expected)
        ids = batch["timed_visits"][1]
        for given in (ids, (batch["timed_visits"][0], ids), enc.inputs[0]):
            codes, _ = adapter.baseline(batch, {"timed_visits": given})
            assert torch.equal(codes, enc.inputs[0])
        assert torch.equal(adapter.baseline(batch, (0.0, 3.0))[1], zero + 3.0)

    def test_absent_categories_get_nothing(self) -> None:
        model, batch = zoo.build(HOT)
        found = DeepLiftEHR(model).attribute(batch)["flags"]
        absent = batch["flags"] == 0
        assert not found[absent].any() and bool((found[~absent] != 0).any())

    @pytest.mark.parametrize(
        ("given", "error", "words"),
        [
            ("zero", ValueError, "the names are"),
            ({"labs": "zero"}, ValueError, "'labs'.*the names are"),
            ({"lab": 0.0}, KeyError, "the features are"),
            ({"labs": torch.zeros(9, 7)}, ValueError, r"'labs'.*\(9, 7\).*\(9, 4\)"),
            ({"labs": torch.zeros(8, 4)}, ValueError, r"'labs'.*\(8, 4\)"),
            ({"conditions": torch.zeros(9, 3)}, ValueError, "'conditions'.*embeddings"),
            ({"conditions": torch.full((9, 8), 99)}, ValueError, "another dataset"),
            ({"labs": object()}, TypeError, "'labs'.*a name, a number"),
            ((0.0,), ValueError, "1 part"),
        ],
    )
    def test_bad_baselines(self, mlp: Any, given: Any, error: Any, words: str) -> None:
        with pytest.raises(error, match=words):
            DeepLiftEHR(mlp[0]).attribute(mlp[1], given)


class TestBadBatches:
    def test_not_a_batch(self, mlp: Any) -> None:
        with pytest.raises(TypeError, match="data loader yields"):
            PyHealthAdapter(mlp[0]).encode([1, 2])  # type: ignore[arg-type]

    def test_a_missing_feature_key(self, mlp: Any) -> None:
        model, batch = mlp
        with pytest.raises(KeyError, match="lacks 'labs'.*It has: 'conditions'"):
            DeepLiftEHR(model).attribute({"conditions": batch["conditions"]})

    def test_nan_in_labs(self, mlp: Any) -> None:
        model, batch = mlp
        labs = batch["labs"].clone()
        labs[4, 1] = float("nan")
        with pytest.warns(AttributionWarning, match=r"not finite.*\[4\]"):
            found = DeepLiftEHR(model).attribute({**batch, "labs": labs})
        for attribution in found.values():  # a model that cannot do without them
            assert bool(attribution[4].isnan().all())
            assert bool(torch.isfinite(attribution[:4]).all())

    def test_infinite_labs(self, mlp: Any) -> None:
        model, batch = mlp
        labs = batch["labs"].clone()
        labs[4, 1] = float("-inf")
        with pytest.raises(ValueError, match=r"'labs': infinite.*\[4\]"):
            DeepLiftEHR(model).attribute({**batch, "labs": labs})

    def test_an_empty_batch(self, mlp: Any) -> None:
        model, batch = mlp
        empty = {k: v[:0] for k, v in batch.items() if isinstance(v, Tensor)}
        with pytest.raises(ValueError, match="'conditions': the batch is empty"):
            DeepLiftEHR(model).attribute(empty)

    def test_features_of_different_batches(self, mlp: Any) -> None:
        model, batch = mlp
        with pytest.raises(ValueError, match="differ in their number of patients"):
            DeepLiftEHR(model).attribute({**batch, "labs": batch["labs"][:4]})

    def test_a_value_without_its_time(self, stagenet: Any) -> None:
        model, batch = stagenet
        with pytest.raises(
            ValueError, match=r"'timed_labs': got 1.*\('time', 'value'\)"
        ):
            DeepLiftEHR(model).attribute(
                {**batch, "timed_labs": batch["timed_labs"][1]}
            )

    def test_no_tensor(self, mlp: Any) -> None:
        model, batch = mlp
        with pytest.raises(TypeError, match="'conditions'.*expected a tensor"):
            DeepLiftEHR(model).attribute({**batch, "conditions": "I50"})

    def test_embeddings_where_ids_belong(self, mlp: Any) -> None:
        model, batch = mlp
        with pytest.raises(TypeError, match="'conditions'.*expected token ids"):
            DeepLiftEHR(model).attribute(
                {**batch, "conditions": batch["conditions"].float()}
            )

    def test_an_empty_code_list(self) -> None:
        """PyHealth's RNN takes a patient without codes; so do we, and it adds up."""
        config = zoo.Config("RNN", "sequence", "binary", zoo.HIDDEN)
        model, _ = zoo.build(config)
        data = zoo.dataset("sequence", "binary")
        none = {**data[0], "conditions": torch.empty(0, dtype=torch.long)}
        batch = collate_fn_dict_with_padding([none, data[1]])
        exp = DeepLiftEHR(model, completeness="raise").explain(batch)
        assert not exp.attributions["conditions"][0].any()
        assert len(exp[0].to_frame()) == len(data[0]["drugs"])


class OwnModel(nn.Module):
    """A model of a user's: other names, another output, an entry of its own."""

    def __init__(self, data: Any) -> None:
        super().__init__()
        self.dataset, self.feature_keys, self.label_keys = data, ["conditions"], []
        self.table = nn.Embedding(
            len(data.input_processors["conditions"].code_vocab), 4
        )
        self.head = nn.Linear(5, 2)

    def forward(self, **batch: Any) -> dict[str, Tensor]:
        pooled = torch.tanh(self.table(batch["conditions"]).sum(1))
        return {"scores": self.head(torch.cat([pooled, batch["age"]], 1))}


class TestOwnModels:
    def test_described_in_a_line(self) -> None:
        model = OwnModel(zoo.dataset("tensor", "binary"))
        adapter = PyHealthAdapter(
            model,
            embeddings={"conditions": "table"},
            score="scores",
            extra_keys=["age"],
        )
        batch = {
            "conditions": torch.tensor([[2, 3, 0], [4, 0, 0]]),
            "age": torch.ones(2, 1),
        }
        exp = DeepLiftEHR(adapter, completeness="raise").explain(batch, target=1)
        torch.testing.assert_close(exp.f_input, model(**batch)["scores"][:, 1])

    def test_what_is_missing_is_said(self) -> None:
        model = OwnModel(zoo.dataset("tensor", "binary"))
        with pytest.raises(ValueError, match="'conditions'.*has no nn.Embedding"):
            PyHealthAdapter(model)
        with pytest.raises(KeyError, match="the features are"):
            PyHealthAdapter(model, embeddings={"drugs": "table"})
        adapter = PyHealthAdapter(
            model, embeddings={"conditions": "table"}, extra_keys=["age"]
        )
        batch = {"conditions": torch.tensor([[2]]), "age": torch.ones(1, 1)}
        for entry, error, words in (
            ([[1.0]], TypeError, "'age'.*a list"),
            (torch.tensor(1.0), TypeError, "'age'.*one number"),
            (torch.ones(2, 1), ValueError, "'age': 2"),
        ):
            with pytest.raises(error, match=words):
                adapter.encode({**batch, "age": entry})
        with pytest.raises(ValueError, match="Is the batch of another dataset"):
            adapter.baseline(batch, {"conditions": torch.tensor([[999]])})
        with pytest.raises(KeyError, match="no 'logit'; it returns 'scores'"):
            DeepLiftEHR(adapter).attribute(batch)

    def test_other_modules_are_no_pyhealth_models(self) -> None:
        with pytest.raises(TypeError, match="Expected a PyHealth model"):
            PyHealthAdapter(nn.Linear(2, 1))
