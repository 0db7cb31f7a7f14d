"""PyHealth's metrics, evaluator and ensembles take captum_ehr.pyhealth.DeepLift.

They take it for every model of the zoo, Interpretable or not. What the scores then mean
is the metrics' own affair, and less than it seems for some models: a code is removed by
writing padding in its place. MLP, LogisticRegression, Transformer and GCN see the code
gone. RNN, StageNet, EHRMamba, TCN, AdaCare and Agent count the codes that are left and
read so many places from the first on, so that the last code is lost in place of the
padding; the others see a gap. MoleRec returns rounded probabilities, which no removal
moves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import zoo
from pyhealth.datasets import create_sample_dataset, get_dataloader
from pyhealth.interpret.methods import (
    AvgEnsemble,
    CrhEnsemble,
    IntegratedGradients,
    RandomBaseline,
    VarEnsemble,
)
from pyhealth.interpret.methods import DeepLift as TheirDeepLift
from pyhealth.metrics.interpretability import (
    ComprehensivenessMetric,
    Evaluator,
    SufficiencyMetric,
    evaluate_attribution,
)
from pyhealth.metrics.interpretability.utils import (
    SampleClass,
    threshold_sample_filter,
)
from pyhealth.models import MLP, BaseModel, StageNet, Transformer
from torch import Tensor
from versions import PYHEALTH, before

from captum_ehr.pyhealth import DeepLift

CONFIGS = [
    zoo.Config("MLP", "tensor", options=zoo.HIDDEN),
    zoo.Config("MLP", "nested", options=zoo.HIDDEN),
    zoo.Config("MLP", "tensor", "multiclass", zoo.HIDDEN),
    zoo.Config("StageNet", "stagenet_nested", options=zoo.STAGES),
    zoo.Config("Transformer", "multi_hot", options=zoo.SMALL),
    zoo.Config("RNN", "timeseries", options=zoo.HIDDEN),
    zoo.Config("RETAIN", "sequence", options=zoo.SMALL),
    zoo.Config("EHRMamba", "stagenet", options=zoo.SMALL),
]
TIMED = ("stagenet", "stagenet_nested")
#: The metrics of PyHealth 2.0.2 take codes with times only: others they multiply by a
#: mask of floats, which no model then embeds.
multiplied = pytest.mark.skipif(
    before(PYHEALTH, "2.1"),
    reason="PyHealth 2.0.2's metrics make floats of codes without times",
)
MEASURED = [
    pytest.param(c, marks=() if c.schema in TIMED else multiplied) for c in CONFIGS
]
PERCENTAGES = [10, 50]
EVERYBODY = threshold_sample_filter(0.0)


def both_classes(probability: Tensor, kind: str) -> Tensor:
    """A sample filter: everybody counts, each for the class that is predicted."""
    classes = torch.full(probability.shape, int(SampleClass.POSITIVE))
    if kind == "binary":
        classes[probability < 0.5] = int(SampleClass.NEGATIVE)
    return classes


def loader(config: zoo.Config, size: int = 4) -> Any:
    data = zoo.dataset(config.schema, config.mode)
    return get_dataloader(data, batch_size=size, shuffle=False)


# Metrics ------------------------------------------------------------------------------


def by_hand(
    model: BaseModel, batch: Mapping[str, Any], found: Mapping[str, Tensor], keep: bool
) -> list[float]:
    """Comprehensiveness, or with ``keep`` sufficiency, patient by patient."""
    with torch.no_grad():
        before = model(**batch)["y_prob"]
    binary = before.shape[1] == 1
    classes = [0] * len(before) if binary else before.argmax(1).tolist()
    signs = [-1.0 if binary and p < 0.5 else 1.0 for p in before[:, 0]]
    drops = [0.0] * len(before)
    for percentage in PERCENTAGES:
        removed = dict(batch)
        for key, attribution in found.items():
            entry = batch[key]
            timed = isinstance(entry, tuple)
            whole = (entry[1] if timed else entry).clone()
            for row, sign in enumerate(signs):
                scores = sign * attribution[row]
                chosen = top(scores.flatten().tolist(), percentage)
                gone = torch.tensor([one != keep for one in chosen]).view_as(scores)
                remove(whole[row], gone)
            removed[key] = (entry[0], whole) if timed else whole
        with torch.no_grad():
            after = model(**removed)["y_prob"]
        for row, (sign, index) in enumerate(zip(signs, classes)):
            change = float(before[row, index] - after[row, index])
            drops[row] += sign * change / len(PERCENTAGES)
    return drops


def top(scores: list[float], percentage: float) -> list[bool]:
    """Which scores are among the highest so many percent."""
    if min(scores) == max(scores):
        count = max(1, int(len(scores) * percentage / 100))
        return [n < count for n in range(len(scores))]
    place = math.ceil(round((len(scores) - 1) * (1 - percentage / 100), 6))
    return [score >= sorted(scores)[place] for score in scores]


def remove(values: Tensor, gone: Tensor) -> None:
    """Zeros in place; of a history of codes the first code is left if none would be."""
    first = values.flatten().nonzero()[:1]
    kept = values.flatten()[first].clone()
    values[gone] = 0
    if not values.is_floating_point() and not values.any():
        values.view(-1)[first] = kept


@pytest.mark.parametrize("config", MEASURED, ids=str)
def test_scores_are_those_of_removing_by_hand(config: zoo.Config) -> None:
    model, batch = zoo.build(config, trained=True)
    found = DeepLift(model)(**batch)
    evaluator = Evaluator(model, percentages=PERCENTAGES, sample_filter=both_classes)
    results = evaluator.evaluate(batch, found)
    for name, keep in (("comprehensiveness", False), ("sufficiency", True)):
        scores, valid = results[name]
        assert bool(valid.all()) and bool(scores.any())
        expected = torch.tensor(by_hand(model, batch, found, keep))
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.complete
@pytest.mark.parametrize("config", MEASURED, ids=str)
@pytest.mark.parametrize("strategy", ["zero", "mean", "noise"])
def test_a_whole_data_loader(config: zoo.Config, strategy: str) -> None:
    model, _ = zoo.build(config)
    torch.manual_seed(0)
    scores = evaluate_attribution(
        model,
        loader(config),
        DeepLift(model),
        ablation_strategy=strategy,
        sample_filter=EVERYBODY,
    )
    assert scores.keys() == {"comprehensiveness", "sufficiency"}
    assert all(math.isfinite(score) and abs(score) <= 1 for score in scores.values())


@multiplied
@pytest.mark.parametrize("mode", ["multilabel", "regression"])
def test_other_outputs(mode: str) -> None:
    config = zoo.Config("Transformer", "sequence", mode, zoo.SMALL)
    model, _ = zoo.build(config)
    scores = evaluate_attribution(
        model, loader(config), DeepLift(model), sample_filter=EVERYBODY
    )
    assert all(math.isfinite(score) for score in scores.values())


@pytest.fixture(scope="module")
def stagenet() -> tuple[Any, Any]:
    """The patients that PyHealth tests its metrics on, and their StageNet."""
    codes = [
        ([0.0, 2.0, 1.3], ["505800458", "50580045810", "50580045811"]),
        ([0.0, 2.0, 1.3, 1.0, 2.0], [f"55154191{n}00" for n in range(5)]),
        ([0.0, 1.0], ["code1", "code2"]),
        ([0.0, 1.5, 2.5], ["code3", "code4", "code5"]),
    ]
    procedures = [
        ([0.0, 1.5], [["A05B", "A05C", "A06A"], ["A11D", "A11E"]]),
        ([0.0], [["A04A", "B035", "C129"]]),
        ([0.0], [["B01", "B02"]]),
        ([0.0, 1.0], [["C01"], ["C02", "C03"]]),
    ]
    labs = [
        [[1.0, 2.55, 3.4], [4.1, 5.5, 6.0]],
        [[1.4, 3.2, 3.5], [4.1, 5.9, 1.7], [4.5, 5.9, 1.7]],
        [[2.0, 3.0, 4.0], [5.0, 6.0, 7.0]],
        [[1.5, 2.5, 3.5], [4.5, 5.5, 6.5]],
    ]
    samples = [
        {
            "patient_id": f"patient-{n}",
            "visit_id": f"visit-{n}",
            "codes": codes[n],
            "procedures": procedures[n],
            "lab_values": (None, labs[n]),
            "label": 1 - n % 2,
        }
        for n in range(4)
    ]
    data = create_sample_dataset(
        samples,
        {
            "codes": "stagenet",
            "procedures": "stagenet",
            "lab_values": "stagenet_tensor",
        },
        {"label": "binary"},
    )
    torch.manual_seed(0)
    model = StageNet(data, embedding_dim=32, chunk_size=16, levels=2, dropout=0.1)
    batch = next(iter(get_dataloader(data, batch_size=2, shuffle=False)))
    return model.eval(), batch


@pytest.mark.parametrize("metric", [ComprehensivenessMetric, SufficiencyMetric])
def test_each_metric_by_itself(stagenet: Any, metric: Any) -> None:
    model, batch = stagenet
    found = DeepLift(model).attribute(**batch, target_class_idx=1)
    measure = metric(model, percentages=[1, 10, 50], sample_filter=both_classes)
    scores, valid = measure.compute(batch, found)
    assert scores.shape == valid.shape == (2,)
    assert bool((scores.abs() <= 1).all()) and bool(scores.any())
    detailed = measure.compute(batch, found, return_per_percentage=True)
    assert list(detailed) == [1, 10, 50]
    torch.testing.assert_close(torch.stack(list(detailed.values())).mean(0), scores)


def test_attributions_of_every_feature_for_the_metrics(stagenet: Any) -> None:
    model, batch = stagenet
    found = DeepLift(model)(**batch)
    assert list(found) == ["codes", "procedures", "lab_values"]
    for key, attribution in found.items():
        assert attribution.shape == batch[key][1].shape
        assert attribution.dtype == torch.float32


@multiplied
@pytest.mark.parametrize("kind", [MLP, Transformer])
def test_a_code_that_decides_is_found(kind: Any) -> None:
    torch.manual_seed(0)
    codes = [f"I{n}" for n in range(10, 22)]
    samples = []
    for n in range(40):
        history = [codes[k] for k in torch.randperm(len(codes))[: 4 + n % 3]]
        if n % 2:
            history[n % 4] = "R57.0"
        samples.append({"patient_id": f"p{n}", "codes": history, "label": n % 2})
    data = create_sample_dataset(samples, {"codes": "sequence"}, {"label": "binary"})
    batches = get_dataloader(data, batch_size=40, shuffle=False)
    batch = next(iter(batches))
    model = kind(data, embedding_dim=16)
    zoo.train(model, batch, steps=30)
    model.eval()

    found = DeepLift(model)(**batch)["codes"]
    decisive = data.input_processors["codes"].code_vocab["R57.0"]
    positive = batch["label"].flatten() == 1
    best = batch["codes"].gather(1, found.argmax(1, keepdim=True)).flatten()
    assert bool((best[positive] == decisive).all())

    evaluator = Evaluator(model, percentages=[1], sample_filter=EVERYBODY)
    ours = evaluator.evaluate(batch, {"codes": found})
    chance = RandomBaseline(model, random_seed=0)(**batch)
    theirs = evaluator.evaluate(batch, chance)
    for name, sign in (("comprehensiveness", 1), ("sufficiency", -1)):
        gain = sign * (ours[name][0] - theirs[name][0])[positive]
        assert float(gain.mean()) > 0.3


# Ensembles ----------------------------------------------------------------------------


def ranks(found: Mapping[str, Tensor]) -> Tensor:
    """Each patient's attributions as ranks between 0 and 1, ties at the lowest."""
    scores = flat(found)
    below = (scores.unsqueeze(1) < scores.unsqueeze(2)).sum(2)
    return below / (scores.shape[1] - 1)


def flat(found: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([found[key].flatten(1) for key in sorted(found)], 1)


ACCEPTED = [CONFIGS[0], CONFIGS[2], CONFIGS[3]]


@pytest.mark.parametrize("config", ACCEPTED, ids=str)
def test_ensembles_with_pyhealths_methods(config: zoo.Config) -> None:
    model, batch = zoo.build(config, trained=True)
    experts = [DeepLift(model), TheirDeepLift(model), IntegratedGradients(model)]
    asked = {**batch, "target_class_idx": 0, "steps": 5}
    each = torch.stack([ranks(expert.attribute(**asked)) for expert in experts])
    mean = AvgEnsemble(model, experts).attribute(**asked)
    for key, attribution in experts[0].attribute(**asked).items():
        assert mean[key].shape == attribution.shape
    torch.testing.assert_close(flat(mean), each.mean(0))
    weighed = flat(VarEnsemble(model, experts).attribute(**asked))
    torch.testing.assert_close(weighed, each.mean(0) / (each.std(0) + 1e-6))
    consensus = flat(CrhEnsemble(model, experts).attribute(**asked))
    low, high = each.min(0).values, each.max(0).values
    assert bool(((consensus >= low - 1e-6) & (consensus <= high + 1e-6)).all())


@pytest.mark.complete
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_ensembles_of_ours_alone(config: zoo.Config) -> None:
    # For models that PyHealth's own methods refuse there are no others.
    model, batch = zoo.build(config)
    experts = [DeepLift(model, baseline=name) for name in ("unk", "pad", "mean")]
    expected = torch.stack([ranks(expert(**batch)) for expert in experts]).mean(0)
    found = AvgEnsemble(model, experts)(**batch)
    torch.testing.assert_close(flat(found), expected)


@pytest.mark.complete
@pytest.mark.parametrize("config", MEASURED, ids=str)
def test_scores_of_an_ensemble_of_ours_alone(config: zoo.Config) -> None:
    model, _ = zoo.build(config)
    experts = [DeepLift(model, baseline=name) for name in ("unk", "pad", "mean")]
    ensemble = AvgEnsemble(model, experts)
    scores = evaluate_attribution(
        model, loader(config), ensemble, sample_filter=EVERYBODY
    )
    assert all(math.isfinite(score) for score in scores.values())


def test_three_that_agree_are_one() -> None:
    model, batch = zoo.build(CONFIGS[0])
    expected = ranks(DeepLift(model)(**batch))
    for kind in (AvgEnsemble, CrhEnsemble):
        together = kind(model, [DeepLift(model) for _ in range(3)])(**batch)
        torch.testing.assert_close(flat(together), expected, rtol=1e-5, atol=1e-6)


def test_a_reference_reaches_every_member() -> None:
    model, batch = zoo.build(CONFIGS[0], trained=True)
    given = {
        "conditions": torch.full_like(batch["conditions"], 5),
        "labs": batch["labs"].roll(1, 0),
    }
    experts = [DeepLift(model), TheirDeepLift(model), IntegratedGradients(model)]
    asked = {**batch, "baseline": given}
    found = AvgEnsemble(model, experts).attribute(**asked)
    each = [ranks(expert.attribute(**asked)) for expert in experts]
    torch.testing.assert_close(flat(found), torch.stack(each).mean(0))
    assert not torch.allclose(each[0], ranks(experts[0](**batch)))
