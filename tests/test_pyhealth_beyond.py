"""What captum_ehr.pyhealth.DeepLift does and PyHealth's own DeepLift does not."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from typing import Any

import pandas as pd
import pyhealth_cases
import pytest
import torch
import zoo
from pyhealth.interpret.methods import DeepLift as TheirDeepLift
from pyhealth_cases import batches, changes, total
from snapshots import model_state
from torch import nn

from captum_ehr import AttributionWarning, DeepLiftEHR, PyHealthAdapter, label
from captum_ehr.pyhealth import DeepLift


@pytest.fixture
def mlp() -> tuple[Any, Any]:
    return pyhealth_cases.mlp()


@pytest.fixture
def stagenet() -> tuple[Any, Any]:
    return pyhealth_cases.stagenet()


MULTICLASS = zoo.Config("Transformer", "sequence", "multiclass", zoo.SMALL)


def test_a_target_for_each_patient() -> None:
    model, batch = zoo.build(MULTICLASS, trained=True)
    interpreter = DeepLift(model)
    chosen = [0, 1, 2, 2, 1, 0, 0, 2, 1]
    each = [interpreter(**batch, target_class_idx=index) for index in range(3)]
    unknown = {k: (batch[k] != 0).long() for k in model.feature_keys}
    with torch.no_grad():
        logits = model(**batch)["logit"]
        change = logits - model(**{**batch, **unknown})["logit"]
    for index, found in enumerate(each):
        torch.testing.assert_close(total(found), change[:, index])
    predicted = logits.argmax(1).tolist()
    for target, expected in (
        (chosen, chosen),
        (torch.tensor(chosen), chosen),
        (torch.tensor(2), [2] * 9),
        (None, predicted),
    ):
        found = interpreter(**batch, target_class_idx=target)
        for key, attribution in found.items():
            for row, index in enumerate(expected):
                torch.testing.assert_close(
                    attribution[row], each[index][key][row], rtol=1e-4, atol=1e-6
                )


def test_one_logit_whichever_of_its_two_is_named(mlp: Any) -> None:
    # PyHealth's ignores the index of a model of one logit.
    model, data = mlp
    batch = next(batches(data, 3))
    plain = DeepLift(model)(**batch)
    one_each = [torch.tensor([0, 1, 0]), batch["label"], batch["label"].flatten() > 0]
    column = pd.Series([0.0, 1.0, 0.0])
    for target in (
        0,
        1.0,
        False,
        "0",
        label(0),
        [label(1), 0, True],
        column,
        *one_each,
    ):
        found = DeepLift(model)(**batch, target_class_idx=target)
        for key, attribution in plain.items():
            assert torch.equal(found[key], attribution)
    with pytest.raises(ValueError, match="2 entries for 3 patients"):
        DeepLift(model)(**batch, target_class_idx=[0.0, 1.0])


def test_times_are_attributed_too_if_asked() -> None:
    config = zoo.Config("StageNet", "stagenet_codes", options=zoo.STAGES)
    model, batch = zoo.build(config)
    found = DeepLift(model, attribute_time=True)(**batch)
    expected = DeepLiftEHR(model, attribute_time=True).attribute(batch)
    assert found.keys() == expected.keys() > set(model.feature_keys)
    for key, attribution in found.items():
        assert torch.equal(attribution, expected[key])


@pytest.mark.parametrize("config", [MULTICLASS, zoo.Config("MLP", options=zoo.HIDDEN)])
def test_a_target_out_of_range_is_no_target(config: Any) -> None:
    # PyHealth's takes 7 for a model of one logit, and explains that logit.
    model, batch = zoo.build(config)
    with pytest.raises(IndexError, match="target 7 is out of range"):
        DeepLift(model)(**batch, target_class_idx=7)


@pytest.mark.parametrize(
    "config",
    [
        zoo.Config("RNN", options=zoo.HIDDEN),
        zoo.Config("RETAIN", "nested", options=zoo.SMALL),
        zoo.Config("EHRMamba", "tensor", options=zoo.SMALL),
    ],
    ids=str,
)
def test_models_that_pyhealths_refuses(config: Any) -> None:
    model, batch = zoo.build(config, trained=True)
    with pytest.raises(ValueError, match="Interpretable"):
        TheirDeepLift(model)
    unknown = {}
    for key in model.feature_keys:
        entry = batch[key]
        token = not entry.is_floating_point()
        unknown[key] = (entry != 0).long() if token else torch.zeros_like(entry)
    found = DeepLift(model, completeness="check")(**batch)
    change = changes(model, batch, {**batch, **unknown})
    torch.testing.assert_close(total(found), change, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        zoo.Config("MLP", "nested", options=zoo.HIDDEN),
        zoo.Config("Transformer", "tensor", options=zoo.SMALL),
        zoo.Config("Transformer", "multi_hot", options=zoo.SMALL),
        zoo.Config("Transformer", "sequence", options={**zoo.SMALL, "max_seq_len": 4}),
    ],
    ids=str,
)
def test_models_that_pyhealths_crashes_on(config: Any) -> None:
    model, batch = zoo.build(config, trained=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AttributionWarning)
        found = DeepLift(model)(**batch)
    for key, attribution in found.items():
        assert attribution.shape == batch[key].shape and bool(attribution.any())


def test_a_model_in_training_is_left_in_training(stagenet: Any) -> None:
    model, data = stagenet
    batch = next(batches(data, 3))
    quiet = DeepLift(model)(**batch)
    model(**batch)["loss"].backward()
    model.train()
    try:
        before, random = model_state(model), torch.get_rng_state()
        interpreter = DeepLift(model)
        found = [interpreter(**batch) for _ in range(2)]
        assert model_state(model) == before
        assert model.training and torch.equal(random, torch.get_rng_state())
    finally:
        model.zero_grad()
        model.eval()
    for again in found:
        for key, attribution in quiet.items():
            torch.testing.assert_close(again[key], attribution)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_callers_without_gradients(stagenet: Any, context: Any) -> None:
    model, data = stagenet
    batch = next(batches(data, 3))
    expected = DeepLift(model)(**batch)
    with context():
        copies = next(batches(data, 3))
        found = DeepLift(model)(**copies)
    for key, attribution in expected.items():
        torch.testing.assert_close(found[key], attribution)
        assert not found[key].requires_grad


def test_threads_share_a_model(stagenet: Any) -> None:
    model, data = stagenet
    interpreter = DeepLift(model)
    each = list(batches(data, 1))
    expected = [interpreter(**batch) for batch in each]
    wrong: list[int] = []

    def explain(n: int) -> None:
        for _ in range(5):
            found = interpreter(**each[n])
            if any(
                not torch.allclose(found[k], a, atol=1e-6)
                for k, a in expected[n].items()
            ):
                wrong.append(n)

    threads = [threading.Thread(target=explain, args=(n,)) for n in (0, 1, 2, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_options_and_descriptions_reach_the_explainer(mlp: Any) -> None:
    model, data = mlp
    batch = next(batches(data, 3))
    plain = DeepLift(model)(**batch)
    for interpreter in (
        DeepLift(PyHealthAdapter(model)),
        DeepLift(model, internal_batch_size=1),
    ):
        assert interpreter.model is model
        for key, attribution in interpreter(**batch).items():
            torch.testing.assert_close(attribution, plain[key])
    likely = DeepLift(model, output="probability")(**batch)
    expected = DeepLiftEHR(model, output="probability").attribute(batch)
    for key, attribution in likely.items():
        torch.testing.assert_close(attribution, expected[key])
        assert not torch.allclose(attribution, plain[key])


def test_errors_name_what_is_wrong(mlp: Any) -> None:
    model, data = mlp
    batch = next(batches(data, 3))
    interpreter = DeepLift(model)
    with pytest.raises(TypeError, match="Expected a PyHealth model"):
        DeepLift(nn.Linear(2, 1))
    with pytest.raises(KeyError, match="lacks 'procedures'"):
        interpreter.attribute(conditions=batch["conditions"])
    with pytest.raises(KeyError, match=r"'condition'.*the features are"):
        interpreter.attribute({"condition": batch["conditions"]}, **batch)
    with pytest.raises(ValueError, match="'procedures': its baseline has shape"):
        interpreter.attribute({"procedures": torch.zeros(3, 9)}, **batch)
    with pytest.raises(ValueError, match="the names are"):
        DeepLift(model, baseline="zero")(**batch)


def test_nobody_imports_pyhealth_who_did_not_ask() -> None:
    code = (
        "import sys, captum_ehr; print({'pyhealth', 'captum_ehr.pyhealth'} "
        "& set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
