"""The promises of the design, each over the whole zoo, random and trained.

What several promises say of one explanation is said of the same one, made once.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from snapshots import snapshot
from torch import Tensor

from captum_ehr import DeepLiftEHR, Explanation, PyHealthAdapter

#: Kinds of input that are padded, each with a schema of it and no other that is.
PADDED = {
    "sequence": "sequence",
    "nested_sequence": "nested",
    "timeseries": "series",
    "nested_sequence_floats": "nested_floats",
    "stagenet": "stagenet_codes",
    "stagenet_tensor": "stagenet_values",
}

#: These cast their input, or a part of themselves, to float32.
SINGLE_PRECISION = ("CNN", "Deepr", "ConCare", "MedFuse", "EHRMambaCEHR", "GAMENet")

#: A ResNet's logit is what is left of much larger sums; how many of its digits are
#: right depends on the order in which a CPU's convolutions add them up.
DEEP_SUMS = ("MedFuse",)


def table_of_padding() -> dict[str, list[str]]:
    """Of each model that pools or attends over padding, the kinds of input."""
    page = Path(zoo.__file__).parents[1] / "docs" / "limits.md"
    _, _, table = page.read_text().partition("| Reads the padding of |")
    rows = re.findall(r"^\| (\w[^|]*) \| (`[^|]*`) \|$", table, re.M)
    return {
        model: re.findall(r"\w+", kinds)
        for models, kinds in rows
        for model in models.split(", ")
    }


READS_PADDING = table_of_padding()

every_model = zoo.each(zoo.configs(), weights=("random", "trained"))


@cache
def explained(
    config: zoo.Config,
    trained: bool,
    baseline: str = "unk",
    dtype: torch.dtype = torch.float32,
) -> Explanation:
    """All patients of a model; against UNK, what does not add up raises."""
    model, batch = zoo.shared(config, trained, dtype=dtype)
    single = baseline == "unk" and dtype is torch.float32
    explainer = DeepLiftEHR(model, completeness="raise" if single else "rescale")
    with zoo.default_dtype(dtype):
        return explainer.explain(batch, baseline)


@every_model
def test_it_explains_the_model_itself(config, trained) -> None:
    model, batch = zoo.shared(config, trained)
    adapter = PyHealthAdapter(model)
    enc = adapter.encode(batch)
    with torch.no_grad():
        ours = adapter(*enc.inputs, *enc.additional_forward_args)
        theirs = zoo.score(model, batch)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@every_model
def test_it_adds_up_without_rescaling_or_fallback(config, trained) -> None:
    model, exp = zoo.shared(config, trained)[0], explained(config, trained)
    report = exp.diagnostics
    kept = [structure.message for structure in report.structure]
    assert not report.fallbacks and set(report.messages) <= set(kept), report
    roundings = 32 if config.model in DEEP_SUMS else 4
    assert_within(exp, 1e-5, roundings, PyHealthAdapter(model).scale)
    assert (exp.f_input - exp.f_baseline).abs().max() > 1e-6
    total = sum(a.flatten(1).double().sum(1) for a in exp.attributions.values())
    gross = sum(a.flatten(1).abs().sum(1) for a in exp.attributions.values())
    measured = total - (exp.f_input - exp.f_baseline)
    assert bool(((exp.delta - measured).abs() <= 1e-6 * gross + 1e-7).all())


def assert_within(
    exp: Explanation, part: float, roundings: int = 0, scale: str = "logit"
) -> None:
    """For every patient: |delta| ≤ part · max(|change|, 1e-3·scale), as promised.

    And a few roundings of what was summed and of the outputs: where shares or outputs
    of hundreds of times the change cancel, it has no more digits.
    """
    change = (exp.f_input - exp.f_baseline).abs()
    bound = part * change.clamp(min=1e-3 * change.max())
    size = exp.f_input.abs() + exp.f_baseline.abs()
    if scale == "probability":  # whose last digit is more in the logit
        size = 2 + exp.f_input.exp() + exp.f_baseline.exp()
    gross = sum(a.flatten(1).abs().sum(1) for a in exp.attributions.values())
    bound += roundings * torch.finfo(change.dtype).eps * (size + gross)
    assert bool((exp.delta.abs() <= bound).all()), exp.delta.abs() / bound


@every_model
def test_f_of_the_reference_is_the_models_own_or_it_is_said(config, trained) -> None:
    adapter = PyHealthAdapter(zoo.shared(config, trained)[0])
    enc = adapter.encode(zoo.shared(config, trained)[1])
    for baseline in ("unk", "pad"):
        exp = explained(config, trained, baseline)
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
def test_it_adds_up_to_the_last_digit_in_float64(config, trained) -> None:
    if config.model in SINGLE_PRECISION:
        pytest.skip(f"PyHealth's {config.model} casts its input to float32")
    exp = explained(config, trained, dtype=torch.float64)
    assert exp.delta.dtype == torch.float64
    assert_within(exp, 1e-10)


@every_model
def test_padding_gets_exactly_nothing(config, trained) -> None:
    for baseline in ("unk", "pad", "mean"):
        exp = explained(config, trained, baseline)
        for key, record in exp.features.items():
            padding = exp.attributions[key][~record.mask]
            assert torch.equal(padding, torch.zeros_like(padding)), (key, baseline)


@every_model
def test_a_patient_alone_is_explained_as_in_company(config, trained) -> None:
    """Every patient; where the model reads padding, with as much of it as in company.

    To cut the patient out of the batch leaves it, or to leave one more beside it.
    """
    from pyhealth.datasets.utils import collate_fn_dict_with_padding

    model, company = zoo.shared(config, trained)
    explainer = DeepLiftEHR(model, completeness="off")
    together = explained(config, trained)
    data = zoo.dataset(config.schema, config.mode)
    kinds = zoo.SCHEMAS[config.schema].values()
    reads = any(kind in READS_PADDING.get(config.model, ()) for kind in kinds)
    differing = 0
    for row in range(len(together)):
        target = [together.target[row]]
        batch = collate_fn_dict_with_padding([data[row]])
        alone = explainer.explain(batch, target=target)
        if not is_scored_alike(alone, together, row):
            differing += 1
            assert reads
            alone = next(
                fewer
                for rows in ([row], *([row, k] for k in range(len(together))))
                for fewer in [explainer.explain(cut(company, rows), target=target[0])]
                if is_scored_alike(fewer, together, row)
            )
        for key, attribution in alone.attributions.items():
            place = tuple(slice(0, n) for n in attribution.shape[1:])
            expected = together.attributions[key][row][place]
            torch.testing.assert_close(attribution[0], expected, rtol=1e-4, atol=1e-5)
    assert bool(differing) is reads


@pytest.mark.complete
@pytest.mark.parametrize("name", sorted({config.model for config in zoo.configs()}))
def test_the_table_of_padding_is_whole(name: str) -> None:
    options = next(one.options for one in zoo.configs() if one.model == name)
    configs = {k: zoo.Config(name, s, options=options) for k, s in PADDED.items()}
    kinds = [kind for kind, config in configs.items() if is_padding_read(config)]
    assert kinds == READS_PADDING.get(name, [])


def is_padding_read(config: zoo.Config) -> bool:
    """Whether patients are scored otherwise alone; not if it has no such input."""
    from pyhealth.datasets.utils import collate_fn_dict_with_padding

    samples = list(zoo.dataset(config.schema, config.mode))
    batches = map(collate_fn_dict_with_padding, [samples, *([one] for one in samples)])
    try:
        adapter = PyHealthAdapter(zoo.shared(config)[0])
        encoded = map(adapter.encode, batches)
        with torch.no_grad():
            together, *alone = (
                adapter(*enc.inputs, *enc.additional_forward_args) for enc in encoded
            )
    except Exception:
        return False
    return not torch.allclose(torch.cat(alone), together, atol=1e-6)


def is_scored_alike(alone: Explanation, together: Explanation, row: int) -> bool:
    """Whether the model says the same of a patient and of its reference."""
    return all(
        torch.allclose(getattr(alone, name)[0], getattr(together, name)[row], atol=1e-6)
        for name in ("f_input", "f_baseline")
    )


def cut(batch: Any, rows: list[int]) -> Any:
    """Some patients of a batch, padded as in it."""
    if isinstance(batch, dict):
        return {key: cut(value, rows) for key, value in batch.items()}
    if isinstance(batch, tuple):
        return tuple(cut(value, rows) for value in batch)
    return batch[rows] if isinstance(batch, Tensor) else [batch[k] for k in rows]


@every_model
def test_it_leaves_no_trace(config, trained) -> None:
    model, batch = zoo.build(config, trained=trained)
    model.train(trained)
    before = snapshot(model)
    DeepLiftEHR(model).explain(batch)
    after = snapshot(model)
    assert after.keys() == before.keys()
    assert [name for name, value in before.items() if after[name] != value] == []
    assert model.training is trained
