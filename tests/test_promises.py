"""The promises of the design, each over the whole zoo, random and trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from pyhealth.datasets.utils import collate_fn_dict_with_padding
from snapshots import snapshot

from captum_ehr import DeepLiftEHR, Explanation, PyHealthAdapter

CONFIGS = zoo.configs()

#: These pool or attend over padding too, so a patient's score is the batch's doing.
READS_PADDING = (
    "CNN",
    "RETAIN",
    "TCN",
    "ConCare",
    "Deepr",
    "GCN",
    "GAT",
    "MultimodalRETAIN",
)

#: These cast their input, or a part of themselves, to float32.
SINGLE_PRECISION = ("CNN", "Deepr", "ConCare", "MedFuse", "EHRMambaCEHR", "GAMENet")

#: Outputs that hardly change: what is left of float32's digits after a difference of
#: two nearly equal outputs is all that can be asked for.
FLAT = {
    "TCN-sequence-binary-num_channels=[6, 5, 4]",
    "MedFuse-matrix-binary",
    "MoleRec-medication-multilabel",
    "StageNet-stagenet-regression",
}

POSITIONS = range(len(CONFIGS))


def every_model(function: Any) -> Any:
    function = pytest.mark.parametrize(
        "trained", [False, True], ids=["random", "trained"]
    )(function)
    return pytest.mark.parametrize("position", POSITIONS, ids=map(str, CONFIGS))(
        function
    )


@every_model
def test_it_explains_the_model_itself(zoo_model, position, trained) -> None:
    model, batch = zoo_model(position, trained)
    adapter = PyHealthAdapter(model)
    enc = adapter.encode(batch)
    with torch.no_grad():
        ours = adapter(*enc.inputs, *enc.additional_forward_args)
        theirs = zoo.score(model, batch)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@every_model
def test_it_adds_up_without_rescaling_or_fallback(zoo_model, position, trained) -> None:
    model, batch = zoo_model(position, trained)
    exp = DeepLiftEHR(model, completeness="raise").explain(batch)
    report = exp.diagnostics
    kept = [structure.message for structure in report.structure]
    assert not report.fallbacks and set(report.messages) <= set(kept), report
    probable = PyHealthAdapter(model).scale == "probability"
    assert_within(exp, 1e-5, str(CONFIGS[position]) in FLAT, probable)
    assert (exp.f_input - exp.f_baseline).abs().max() > 1e-6
    total = sum(a.flatten(1).double().sum(1) for a in exp.attributions.values())
    gross = sum(a.flatten(1).abs().sum(1) for a in exp.attributions.values())
    measured = total - (exp.f_input - exp.f_baseline)
    assert bool(((exp.delta - measured).abs() <= 1e-6 * gross + 1e-7).all())


def assert_within(
    exp: Explanation, part: float, flat: bool = False, probable: bool = False
) -> None:
    """For every patient: |delta| ≤ part · max(|change|, 1e-3·scale), as promised.

    And a few roundings of what was summed, and of the outputs.
    """
    change = (exp.f_input - exp.f_baseline).abs()
    bound = part * change.clamp(min=1e-3 * change.max())
    eps = torch.finfo(change.dtype).eps
    size = exp.f_input.abs() + exp.f_baseline.abs()
    if probable:  # whose last digit is more in the logit
        size = 2 + exp.f_input.exp() + exp.f_baseline.exp()
    gross = sum(a.flatten(1).abs().sum(1) for a in exp.attributions.values())
    digits = (16 if flat else 4) * eps * (size + gross)
    over = exp.delta.abs() / (bound + digits)
    assert bool((over <= 1).all()), over


@every_model
def test_f_of_the_reference_is_the_models_own_or_it_is_said(
    zoo_model, position, trained
) -> None:
    model, batch = zoo_model(position, trained)
    adapter = PyHealthAdapter(model)
    enc = adapter.encode(batch)
    for baseline in ("unk", "pad"):
        exp = DeepLiftEHR(adapter, completeness="off").explain(enc, baseline)
        references = adapter.baseline(enc, baseline)
        shift = max((kept.shift for kept in exp.diagnostics.structure), default=0.0)
        try:
            with torch.no_grad():
                own = adapter(*references, *enc.additional_forward_args)
                own = own.logit() if adapter.scale == "probability" else own
        except RuntimeError:
            assert all(kept.without for kept in exp.diagnostics.structure)
            continue
        if not bool(torch.isfinite(own).all()):
            assert exp.diagnostics.messages
            continue
        index = [i if isinstance(i, tuple) else (i,) for i in exp.target]
        rows = torch.stack([row[i] for row, i in zip(own, index)])
        off = float((rows - exp.f_baseline).abs().max())
        assert off <= shift + 1e-5 * float(rows.abs().max()), (baseline, off, shift)
        assert shift == 0 or exp.diagnostics.messages


@every_model
def test_it_adds_up_to_the_last_digit_in_float64(position, trained) -> None:
    config = CONFIGS[position]
    if config.model in SINGLE_PRECISION:
        pytest.skip(f"PyHealth's {config.model} casts its input to float32")
    torch.set_default_dtype(torch.float64)  # StageNet makes its times of it
    try:
        model, batch = zoo.build(config, trained=False)
        model, batch = model.double(), zoo.doubled(batch)
        if trained:
            zoo.train(model, batch)
            model.eval()
        exp = DeepLiftEHR(model, completeness="off").explain(batch)
    finally:
        torch.set_default_dtype(torch.float32)
    assert exp.delta.dtype == torch.float64
    assert_within(exp, 1e-10)


@every_model
def test_padding_gets_exactly_nothing(zoo_model, position, trained) -> None:
    model, batch = zoo_model(position, trained)
    for baseline in ("unk", "pad", "mean"):
        exp = DeepLiftEHR(model).explain(batch, baseline)
        for key, record in exp.features.items():
            padding = exp.attributions[key][~record.mask]
            assert torch.equal(padding, torch.zeros_like(padding)), (key, baseline)


@every_model
def test_a_patient_alone_is_explained_as_in_company(
    zoo_model, position, trained
) -> None:
    model, batch = zoo_model(position, trained)
    explainer = DeepLiftEHR(model, completeness="off")
    together = explainer.explain(batch)
    compared = 0
    data = zoo.dataset(CONFIGS[position].schema, CONFIGS[position].mode)
    for row in range(len(together)):
        alone = explainer.explain(
            collate_fn_dict_with_padding([data[row]]), target=[together.target[row]]
        )
        same = [
            torch.allclose(
                getattr(alone, name)[0], getattr(together, name)[row], atol=1e-6
            )
            for name in ("f_input", "f_baseline")
        ]
        if not all(same):
            continue  # the model itself reads the padding
        compared += 1
        for key, attribution in alone.attributions.items():
            cut = tuple(slice(0, n) for n in attribution.shape[1:])
            company = together.attributions[key][row][cut]
            torch.testing.assert_close(attribution[0], company, rtol=1e-4, atol=1e-5)
    assert compared > 0 or CONFIGS[position].model in READS_PADDING


@every_model
def test_it_leaves_no_trace(zoo_model, position, trained) -> None:
    model, batch = zoo_model(position, trained)
    model.train(trained)
    before = snapshot(model)
    DeepLiftEHR(model).explain(batch)
    after = snapshot(model)
    assert after.keys() == before.keys()
    assert [name for name, value in before.items() if after[name] != value] == []
    assert model.training is trained
    model.eval()
