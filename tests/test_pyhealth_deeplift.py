"""captum_ehr.pyhealth.DeepLift in the place of PyHealth's DeepLift.

The first part asks of it every case that PyHealth tests its own with, on the same
patients and models; the second what PyHealth's takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyhealth_cases
import pytest
import torch
import zoo
from pyhealth.interpret.methods import DeepLift as TheirDeepLift
from pyhealth.interpret.methods.base_interpreter import BaseInterpreter
from pyhealth.models import MLP, BaseModel
from pyhealth_cases import batches, changes, dataset, total
from torch import Tensor, nn

from captum_ehr import DeepLiftEHR
from captum_ehr.pyhealth import DeepLift

# PyHealth's own cases -----------------------------------------------------------------


@pytest.fixture
def mlp() -> tuple[Any, Any]:
    return pyhealth_cases.mlp()


@pytest.fixture
def stagenet() -> tuple[Any, Any]:
    return pyhealth_cases.stagenet()


def values(batch: Mapping[str, Any], key: str) -> Tensor:
    """The codes or lab values among what the data loader gives."""
    entry = batch[key]
    return entry[1] if isinstance(entry, tuple) else entry


@pytest.fixture(params=["mlp", "stagenet"])
def case(request: Any) -> tuple[Any, Any]:
    return request.getfixturevalue(request.param)


def test_it_is_a_base_interpreter_of_the_model_itself(case: Any) -> None:
    interpreter = DeepLift(case[0])
    assert isinstance(interpreter, BaseInterpreter)
    assert interpreter.model is case[0]
    assert repr(interpreter) == f"DeepLift(model={type(case[0]).__name__})"


@pytest.mark.parametrize("size", [1, 2, 3])
def test_attributions_are_shaped_like_the_inputs_and_finite(
    case: Any, size: int
) -> None:
    model, data = case
    for batch in batches(data, size):
        found = DeepLift(model).attribute(**batch)
        assert list(found) == ["conditions", "procedures"]
        for key, attribution in found.items():
            assert attribution.shape == values(batch, key).shape
            assert bool(torch.isfinite(attribution).all()) and bool(attribution.any())


def test_one_logit_has_one_explanation(case: Any) -> None:
    # PyHealth 2.0 wanted two that differ: it explained y_prob and 1 - y_prob. Since
    # 2.1 the index is without effect, which is also what one output can mean.
    model, data = case
    batch = next(batches(data, 1))
    interpreter = DeepLift(model)
    default = interpreter.attribute(**batch)
    for index in (0, 1):
        found = interpreter.attribute(**batch, target_class_idx=index)
        for key, attribution in found.items():
            torch.testing.assert_close(attribution, default[key])


def test_nothing_is_left_from_one_call_to_the_next(case: Any) -> None:
    model, data = case
    first, second, *_ = batches(data, 1)
    interpreter = DeepLift(model)
    before = interpreter.attribute(**first)
    between = interpreter.attribute(**second)
    after = interpreter.attribute(**first)
    for key in before:
        torch.testing.assert_close(before[key], after[key])
        assert bool(torch.isfinite(between[key]).all())


def test_calling_it_is_attribute(case: Any) -> None:
    model, data = case
    batch = next(batches(data, 1))
    interpreter = DeepLift(model)
    called = interpreter(**batch)
    for key, attribution in interpreter.attribute(**batch).items():
        torch.testing.assert_close(called[key], attribution)


def test_several_patients_are_explained_as_each_alone(mlp: Any) -> None:
    model, data = mlp
    together = DeepLift(model).attribute(**next(batches(data, 3)))
    for row, batch in enumerate(batches(data, 1)):
        for key, alone in DeepLift(model).attribute(**batch).items():
            company = together[key][row : row + 1]
            torch.testing.assert_close(company[:, : alone.shape[1]], alone)
            assert not company[:, alone.shape[1] :].any()


class Chain(BaseModel):
    """Two linear layers, a functional relu and sigmoid: the paper's Rescale by hand."""

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        self.first, self.second = nn.Linear(2, 1), nn.Linear(1, 1)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[1.5, -2.0]]))
            self.first.bias.fill_(0.5)
            self.second.weight.fill_(0.8)
            self.second.bias.fill_(-0.2)

    def forward(self, x: Tensor, label: Tensor) -> dict[str, Tensor]:
        return {"logit": torch.sigmoid(self.second(torch.relu(self.first(x))))}


@pytest.fixture(scope="module")
def chain() -> Any:
    return Chain(dataset({"x": "tensor"}, ([1.2, -0.3], 0), ([0.2, 0.1], 1)))


REFERENCE = (-0.5, 0.0)


def by_hand(x: tuple[float, float]) -> tuple[list[float], float]:
    """Attributions and change of the output of :class:`Chain`, in plain Python."""

    def layers(a: float, b: float) -> tuple[float, float, float]:
        z = 1.5 * a - 2.0 * b + 0.5
        h = max(z, 0.0)
        return z, h, 1 / (1 + 2.718281828459045 ** -(0.8 * h - 0.2))

    (z, h, y), (z0, h0, y0) = layers(*x), layers(*REFERENCE)
    multiplier = 0.0 if h == h0 else (h - h0) / (z - z0) * (y - y0) / (h - h0)
    steps = [1.5 * (x[0] - REFERENCE[0]), -2.0 * (x[1] - REFERENCE[1])]
    return [multiplier * step for step in steps], y - y0


@pytest.mark.parametrize(
    "x", [(1.2, -0.3), (0.2, 0.1), (1.0, -1.0), (-2.0, 1.0), REFERENCE]
)
def test_rescale_as_done_by_hand(chain: Any, x: tuple[float, float]) -> None:
    interpreter = DeepLift(chain, use_embeddings=False)
    found = interpreter.attribute(
        baseline={"x": torch.tensor([REFERENCE])},
        x=torch.tensor([x]),
        label=torch.zeros(1, 1),
    )["x"]
    expected, change = by_hand(x)
    torch.testing.assert_close(found, torch.tensor([expected]), atol=1e-6, rtol=1e-5)
    assert float(found.sum()) == pytest.approx(change, abs=1e-6)


# What PyHealth's takes ----------------------------------------------------------------


def test_the_default_reference_is_unk_and_zero(mlp: Any) -> None:
    model, data = mlp
    batch = next(batches(data, 3))
    codes, labs = batch["conditions"], batch["procedures"]
    unknown = {
        **batch,
        "conditions": (codes != 0).long(),  # 1 is UNK, 0 padding
        "procedures": torch.zeros_like(labs),
    }
    found = DeepLift(model).attribute(**batch)
    torch.testing.assert_close(total(found), changes(model, batch, unknown))
    assert not found["conditions"][codes == 0].any()


def test_pyhealths_reference_by_name_gives_what_pyhealths_own_gives() -> None:
    # Their multipliers are right where activations are smooth and used once, and the
    # batch has one patient, so that their UNK stands on nobody's padding.
    config = zoo.Config("MLP", "tensor", "binary", {**zoo.HIDDEN, "activation": "tanh"})
    model, _ = zoo.build(config, trained=True)
    for batch in batches(zoo.dataset("tensor", "binary"), 1):
        theirs = TheirDeepLift(model)(**batch)
        for ours in (
            DeepLift(model, baseline="pyhealth")(**batch),
            DeepLift(model)(**batch, baseline="pyhealth"),
        ):
            assert ours.keys() == theirs.keys()
            for key, value in theirs.items():
                torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-5)


def test_a_mapping_of_raw_values_as_pyhealths_own(mlp: Any) -> None:
    config = zoo.Config("MLP", "tensor", "binary", {**zoo.HIDDEN, "activation": "tanh"})
    model, _ = zoo.build(config, trained=True)
    torch.manual_seed(1)
    for batch in batches(zoo.dataset("tensor", "binary"), 1):
        given = {
            "conditions": torch.randint(2, 9, batch["conditions"].shape),
            "labs": torch.randn_like(batch["labs"]),
        }
        theirs = TheirDeepLift(model).attribute(baseline=given, **batch)
        ours = DeepLift(model).attribute(baseline=given, **batch)
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(total(ours), changes(model, batch, batch | given))


def test_another_batch_as_it_is_for_a_reference(stagenet: Any) -> None:
    model, data = stagenet
    _, second, third = batches(data, 1)
    assert {"label", "patient_id"} <= third.keys()  # no features, and no matter
    found = DeepLift(model).attribute(third, **second)
    # A patient's times are the patient's own, in the reference too.
    other = {
        **second,
        **{k: (second[k][0], third[k][1]) for k in ("conditions", "procedures")},
    }
    torch.testing.assert_close(total(found), changes(model, second, other))


def test_the_rest_of_a_mapping_takes_the_interpreters_own_name(mlp: Any) -> None:
    model, data = mlp
    batch = next(batches(data, 1))  # without padding
    given = {"procedures": batch["procedures"] + 1.0}
    found = DeepLift(model, baseline="pad").attribute(given, **batch)
    expected = DeepLiftEHR(model).attribute(batch, {"conditions": "pad", **given})
    unknown = DeepLift(model).attribute(given, **batch)
    for key, attribution in found.items():
        torch.testing.assert_close(attribution, expected[key])
    assert not torch.allclose(found["conditions"], unknown["conditions"])


def test_a_mapping_for_some_features(mlp: Any) -> None:
    model, data = mlp
    batch = next(batches(data, 3))
    codes, labs = batch["conditions"], batch["procedures"]
    given = {"procedures": labs + 1.0}
    other = {**batch, "conditions": (codes != 0).long(), **given}
    found = DeepLift(model).attribute(given, **batch)
    torch.testing.assert_close(total(found), changes(model, batch, other))

    same = DeepLift(model).attribute({"conditions": codes}, **batch)
    assert not same["conditions"].any() and bool(same["procedures"].any())


def test_categories_of_the_reference_that_the_patient_lacks() -> None:
    # No padding: the patient's own 0 is a value, as much as the reference's 1.
    model, batch = zoo.build(zoo.Config("MLP", "multi_hot", options=zoo.HIDDEN))
    given = {"flags": batch["flags"].flip(0)}
    found = DeepLift(model)(**batch, baseline=given)
    codes = (batch["conditions"] != 0).long()
    other = {**batch, "conditions": codes, **given}
    torch.testing.assert_close(total(found), changes(model, batch, other))
    assert not found["flags"][batch["flags"] == given["flags"]].any()


@pytest.mark.parametrize("form", ["ids", "tuple", "embeddings", "one row", "callable"])
def test_a_reference_in_every_form(stagenet: Any, form: str) -> None:
    model, data = stagenet
    batch = next(batches(data, 1))
    times, codes = batch["conditions"]
    swapped = codes.flip(1)
    table = model.embedding_model.embedding_layers["conditions"].weight.detach()
    given = {
        "ids": {"conditions": swapped},
        "tuple": {"conditions": (times, swapped)},
        "embeddings": {"conditions": table[swapped]},
        "one row": {"conditions": swapped[0]},
        "callable": lambda encoded: {"conditions": swapped},
    }[form]
    found = DeepLift(model).attribute(given, **batch)
    labs = batch["procedures"][1]
    other = {
        **batch,
        "conditions": (times, swapped),
        "procedures": (None, torch.zeros_like(labs)),
    }
    torch.testing.assert_close(total(found), changes(model, batch, other))


def test_entries_with_and_without_their_masks(mlp: Any) -> None:
    model, data = mlp
    batch = next(batches(data, 3))
    codes, labs = batch["conditions"], batch["procedures"]
    plain = DeepLift(model).attribute(**batch)
    wrapped = {"conditions": (codes,), "procedures": (labs,)}
    masked = {"conditions": (codes, (codes != 0).int()), "procedures": (labs,)}
    for entries in (wrapped, masked):
        found = DeepLift(model).attribute(**{**batch, **entries})
        for key, attribution in plain.items():
            torch.testing.assert_close(found[key], attribution)


def test_only_the_features_are_read(mlp: Any) -> None:
    # Ensembles hand one member's arguments to all, labels are not always known.
    model, data = mlp
    batch = next(batches(data, 3))
    plain = DeepLift(model).attribute(**batch)
    features = {key: batch[key] for key in plain}
    found = DeepLift(model).attribute(**features, steps=5, label=None)
    for key, attribution in plain.items():
        torch.testing.assert_close(found[key], attribution)


def test_values_without_tokens_need_no_embeddings() -> None:
    data = dataset({"labs": "tensor"}, ([1.0, 2.0, 0.5], 0), ([5.0, 0.0, 3.5], 1))
    torch.manual_seed(0)
    model = MLP(data, embedding_dim=8, hidden_dim=8, activation="tanh").eval()
    for batch in batches(data, 1):
        plain, embedded = (
            DeepLift(model, use_embeddings=flag, baseline="pyhealth")(**batch)["labs"]
            for flag in (False, True)
        )
        assert plain.shape == batch["labs"].shape
        torch.testing.assert_close(plain, embedded)
        theirs = TheirDeepLift(model, use_embeddings=False)(**batch)["labs"]
        torch.testing.assert_close(plain, theirs, rtol=1e-4, atol=1e-6)


def test_tokens_cannot_do_without_embeddings(mlp: Any) -> None:
    # PyHealth's fails in the middle of attribute, with an error of F.embedding's.
    with pytest.raises(ValueError, match="'conditions' is made of tokens"):
        DeepLift(mlp[0], use_embeddings=False)
