"""What a batch, an output, an argument and a target are taken for."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import zoo
from pyhealth.datasets import create_sample_dataset, get_dataloader
from pyhealth.models import MLP
from torch import Tensor, nn
from versions import untold

from captum_ehr import (
    DeepLiftEHR,
    DeepLiftShapEHR,
    LayerDeepLiftEHR,
    NeuronDeepLiftEHR,
    PyHealthAdapter,
)
from captum_ehr.attr.outputs import rounded_at
from captum_ehr.attr.targets import select

Out = namedtuple("Out", "prediction hidden")


@pytest.fixture(scope="module")
def mlp() -> Any:
    return zoo.build(zoo.Config("MLP", "tensor", "binary", zoo.HIDDEN))


class Form(nn.Module):
    """Gives its scores in some form."""

    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.form = nn.Linear(4, 3), form

    def forward(self, x: Tensor) -> Any:
        return self.form(torch.tanh(self.layer(x)))


#: What an adapter has too, under these names.
NAMESAKES = (
    ("labels", ["dead", "alive", "gone"]),
    ("labels", {"all": 0}),
    ("labels", torch.ones(3)),
    ("scale", 1.0),
    ("features", nn.Sequential(nn.Linear(2, 2))),
)


@pytest.mark.parametrize(("name", "value"), NAMESAKES)
def test_a_plain_module_s_attributes_are_its_own(name: str, value: Any) -> None:
    model, x = Form(lambda y: y), torch.randn(3, 4)
    expected = {
        repr(target): DeepLiftEHR(model).attribute(x, target=target)
        for target in (0, [0, 1, 2], "all")
    }
    setattr(model, name, value)
    explainer = DeepLiftEHR(model)
    for target in (0, [0, 1, 2], "all"):
        for _ in range(4):
            found = explainer.attribute(x, target=target)
            torch.testing.assert_close(found, expected[repr(target)])
    assert LayerDeepLiftEHR(model, "layer").attribute(x, target=0).shape == (3, 3)
    index = torch.zeros(3, 1, dtype=torch.int64)
    assert rounded_at(model, "logit", index, model(x)) is None


class TestBatches:
    def test_a_sample_is_a_batch_of_one(self, mlp: Any) -> None:
        model, _ = mlp
        sample = model.dataset[2]
        exp = DeepLiftEHR(model, completeness="raise").explain(sample)
        loaded = next(iter(get_dataloader(model.dataset.subset([2]), 1)))
        right = DeepLiftEHR(model).explain(loaded)
        assert exp.patient_ids == (sample["patient_id"],)
        for key, value in right.attributions.items():
            torch.testing.assert_close(exp.attributions[key], value)

    def test_a_batch_of_one_may_name_its_patient(self, mlp: Any) -> None:
        model, batch = mlp
        one = {k: v[:1] for k, v in batch.items() if isinstance(v, Tensor)}
        exp = DeepLiftEHR(model).explain({**one, "patient_id": "p"})
        assert len(exp) == 1

    @pytest.mark.parametrize(
        ("made", "words"),
        [
            (lambda d: get_dataloader(d, 3), "for batch in loader"),
            (lambda d: d, "batches of get_dataloader"),
            (lambda d: [d[0], d[1]], "collate_fn_dict_with_padding"),
            (lambda d: None, "NoneType"),
            (lambda d: {k: v for k, v in d[0].items() if k != "patient_id"}, "single"),
        ],
    )
    def test_what_is_no_batch(self, mlp: Any, made: Any, words: str) -> None:
        with pytest.raises((TypeError, ValueError), match=f"batch.*{words}"):
            DeepLiftEHR(mlp[0]).explain(made(mlp[0].dataset))

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            pytest.param(
                lambda x: torch.cat([x, x], 1),
                r"has shape \(9, 8\).*has 4 columns",
                marks=untold,
            ),
            (lambda x: x[:, 0], r"shape \(9,\), expected 2 dimensions"),
            (lambda x: x.double(), "dtype torch.float64, the model has torch.float32"),
            (lambda x: x.half(), "dtype torch.float16"),
            (lambda x: x + 0j, "real numbers, got torch.complex64"),
            (lambda x: x.to_sparse(), "dense"),
            (lambda x: x.to("meta"), "meta"),
            (lambda x: x.numpy(), "ndarray"),
        ],
    )
    def test_values_that_do_not_fit(self, mlp: Any, change: Any, words: str) -> None:
        model, batch = mlp
        with pytest.raises((TypeError, ValueError), match=f"'labs'.*{words}"):
            DeepLiftEHR(model).explain({**batch, "labs": change(batch["labs"])})

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda i: i + 1000, "from 1000 to .*17 rows"),
            (lambda i: i.to(torch.uint8), "int64 or int32"),
            (lambda i: i[0], "the batch first"),
        ],
    )
    def test_ids_that_do_not_fit(self, mlp: Any, change: Any, words: str) -> None:
        model, batch = mlp
        given = {**batch, "conditions": change(batch["conditions"])}
        with pytest.raises((TypeError, ValueError), match=f"'conditions'.*{words}"):
            DeepLiftEHR(model).explain(given)

    def test_arguments_of_the_adapter(self, mlp: Any) -> None:
        model, batch = mlp
        adapter = PyHealthAdapter(model)
        enc = adapter.encode(batch)
        every = (*enc.inputs, *enc.additional_forward_args)
        with pytest.raises(ValueError, match="4 additional arguments, expected 3"):
            adapter(*every, torch.ones(9))
        with pytest.raises(ValueError, match="'labs': its mask is missing"):
            adapter(*every[:-1])
        with pytest.raises(ValueError, match="'conditions'.*no module 'nope'"):
            PyHealthAdapter(model, embeddings={"conditions": "nope"})


class TestOutputs:
    @pytest.mark.parametrize(
        "form",
        [
            lambda y: [y, y * 2],
            lambda y: (y, y * 2),
            lambda y: {"logit": y, "hidden": y},
            lambda y: Out(y, y),
            lambda y: None,
            lambda y: 3,
            lambda y: 3.0,
            lambda y: y.detach().numpy(),
            lambda y: y > 0,
            lambda y: y.argmax(1),
            lambda y: y + 0j,
        ],
    )
    def test_what_has_no_scores_is_refused(self, form: Any) -> None:
        x = torch.randn(5, 4)
        for explainer in (
            DeepLiftEHR(Form(form)),
            LayerDeepLiftEHR(Form(form), "layer"),
        ):
            with pytest.raises(TypeError, match="Form returned"):
                explainer.attribute(x, target=0)
        neuron = NeuronDeepLiftEHR(Form(form), "layer").attribute(x, 1)
        assert neuron.shape == x.shape  # its score is the layer's

    @pytest.mark.parametrize(
        "form", [lambda y: (y,), lambda y: {"logit": y}, lambda y: Out(y, None)]
    )
    def test_a_single_tensor_is_the_score(self, form: Any) -> None:
        torch.manual_seed(0)
        model, x = Form(form), torch.randn(5, 4)
        expected = DeepLiftEHR(nn.Sequential(model.layer, nn.Tanh())).attribute(
            x, target=2
        )
        found = DeepLiftEHR(model).attribute(x, target=2)
        torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize("explainer", [DeepLiftEHR, DeepLiftShapEHR])
    def test_squeezed_for_one_patient(self, explainer: Any) -> None:
        torch.manual_seed(0)
        x, x0 = torch.randn(3, 4), torch.randn(2, 4)
        for form, target in ((lambda y: y, 2), (lambda y: y[:, :1], None)):
            plain = explainer(Form(form))
            squeezed = Form(lambda y, form=form: form(y).squeeze())
            squeezed.load_state_dict(plain.model.state_dict())
            bases = x0 if explainer is DeepLiftShapEHR else torch.zeros_like(x)
            expected = plain.attribute(x, bases, target=target)
            sliced = explainer(squeezed, internal_batch_size=1)
            torch.testing.assert_close(
                sliced.attribute(x, bases, target=target), expected
            )
            one = bases if explainer is DeepLiftShapEHR else bases[:1]
            alone = explainer(squeezed).attribute(x[:1], one, target=target)
            torch.testing.assert_close(alone, expected[:1])

    @pytest.mark.parametrize(
        ("form", "words"),
        [
            (lambda y: y[:3], r"shape \(3, 3\) for 5 patients"),
            (lambda y: y.T, r"shape \(3, 5\) for 5 patients"),
            (lambda y: y.sum(), "one number for the batch"),
            (lambda y: y[:, :0], "empty"),
        ],
    )
    def test_what_has_no_row_per_patient(self, form: Any, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            DeepLiftEHR(Form(form)).attribute(torch.randn(5, 4), target=0)


class Attending(nn.Module):
    """Patients of as many steps as there may be patients, and a mask of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Any, weights: Any = None) -> Tensor:
        keep = torch.as_tensor(mask)
        steps = torch.softmax(x @ x.transpose(1, 2) + keep, -1) @ self.value(x).tanh()
        pooled = steps.mean(1)
        return pooled if weights is None else pooled @ weights


class TestArguments:
    @pytest.mark.parametrize("size", [1, 2, 3])
    def test_a_square_mask_is_no_patients(self, size: int) -> None:
        torch.manual_seed(0)
        model, x = Attending(), torch.randn(4, 4, 4)
        mask = torch.triu(torch.full((4, 4), -1e9), 1)
        for more in ((mask,), (mask, torch.randn(4, 3))):
            whole = DeepLiftEHR(model).attribute(
                x, target=0, additional_forward_args=more
            )
            sliced = DeepLiftEHR(model, internal_batch_size=size).attribute(
                x, target=0, additional_forward_args=more
            )
            torch.testing.assert_close(sliced, whole, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
    def test_lengths_follow_their_patients(self, kind: Any) -> None:
        class Lengths(nn.Module):
            def forward(self, x: Tensor, lengths: Any) -> Tensor:
                return torch.stack(
                    [row[: int(n)].tanh().sum() for row, n in zip(x, lengths)]
                )

        x, lengths = torch.randn(5, 6), kind([1, 2, 3, 4, 6])
        given = {"additional_forward_args": (lengths,)}
        whole = DeepLiftEHR(Lengths()).attribute(x, **given)
        sliced = DeepLiftEHR(Lengths(), internal_batch_size=2).attribute(x, **given)
        torch.testing.assert_close(sliced, whole)
        assert (whole != 0).sum(1).tolist() == [1, 2, 3, 4, 6]
        if kind is list:  # Captum's way: what is no tuple is one argument
            alone = DeepLiftEHR(Lengths()).attribute(x, additional_forward_args=lengths)
            torch.testing.assert_close(alone, whole)

    def test_what_cannot_be_told_is_refused(self) -> None:
        class Mixing(nn.Module):
            def forward(self, x: Tensor, more: Tensor) -> Tensor:
                return (x * x.mean(0)).sum(1) + more.sum()

        with pytest.raises(ValueError, match="internal_batch_size=2"):
            DeepLiftEHR(Mixing(), internal_batch_size=2).attribute(
                torch.randn(4, 3), additional_forward_args=(torch.randn(4),)
            )


class TestTargets:
    @pytest.mark.parametrize(
        "target",
        [
            np.array([0, 1, 2, 1]),
            np.array([0, 1, 2, 1], dtype=np.uint8),
            pd.Series([0, 1, 2, 1], index=[7, 8, 9, 10]),
            torch.tensor([0.0, 1.0, 2.0, 1.0]),
            torch.tensor([[0], [1], [2], [1]]),
            [np.int64(0), 1.0, (2,), torch.tensor(1)],
        ],
    )
    def test_one_per_patient(self, target: Any) -> None:
        values, index = select(torch.arange(12.0).view(4, 3), target)
        assert values.tolist() == [0.0, 4.0, 8.0, 10.0]
        assert index.tolist() == [[0], [1], [2], [1]]

    @pytest.mark.parametrize("one", [np.int64(1), 1.0, True, np.True_, np.float32(1)])
    def test_one_for_all(self, one: Any) -> None:
        assert select(torch.randn(4, 3), one)[1].tolist() == [[1]] * 4

    @pytest.mark.parametrize("one", [1.5, float("nan"), object(), {}, (0, 1, 2)])
    def test_no_index(self, one: Any) -> None:
        with pytest.raises(ValueError, match="does not fit an output|neither an index"):
            select(torch.randn(4, 3), one)

    def test_booleans_are_labels_of_a_binary_model(self, mlp: Any) -> None:
        model, batch = mlp
        dl = DeepLiftEHR(model)
        assert dl.explain(batch, target=True).target == (0,) * 9
        with pytest.raises(ValueError, match="one logit"):
            dl.explain(batch, target=False)

    def test_numbers_that_are_labels_too(self) -> None:
        samples = [
            {
                "patient_id": f"p{n}",
                "visit_id": "v",
                "c": ["a", "b"],
                "triage": 1 + n % 3,
            }
            for n in range(6)
        ]
        data = create_sample_dataset(
            samples, {"c": "sequence"}, {"triage": "multiclass"}
        )
        torch.manual_seed(0)
        dl = DeepLiftEHR(MLP(data, embedding_dim=4, hidden_dim=4).eval())
        batch = next(iter(get_dataloader(data, 6)))
        with pytest.raises(ValueError, match=r"label\(2\) for the label, \(2,\) for"):
            dl.explain(batch, target=2)
        assert dl.explain(batch, target=(2,)).target == (2,) * 6
        assert dl.explain(batch, target="2").target == (1,) * 6
        with pytest.raises(IndexError, match=r"the label is label\(3\)"):
            dl.explain(batch, target=3)


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ({"rules": 5}, TypeError),
        ({"internal_batch_size": True}, ValueError),
        ({"internal_batch_size": 2.5}, ValueError),
        ({"segments": True}, ValueError),
    ],
)
def test_options_of_another_kind(option: Any, error: Any) -> None:
    with pytest.raises(error, match=next(iter(option))):
        DeepLiftEHR(nn.Linear(2, 1), **option)
