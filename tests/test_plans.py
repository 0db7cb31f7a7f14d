"""Plans: what was recorded gives what the passes give, or is not used.

A stale answer is the worst that a plan can give: each change of a model, each value
that a computation asked for, is one test.
"""

from __future__ import annotations

import copy
import gc
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import Tensor, nn

from captum_ehr import DeepLiftEHR, Explanation
from captum_ehr.datasets import tiny_model
from captum_ehr.propagation import elementwise, pure
from captum_ehr.propagation.program import PlanChanged
from captum_ehr.propagation.recording import PlanRefused, opaque, recorded_program
from captum_ehr.propagation.watch import Watched

#: These read lengths as Python numbers, which no plan can follow; the recurrent ones
#: in packed sequences.
REFUSED = {
    "RNN": "tolist",
    "RETAIN": "tolist",
}


def rolled(batch: Any) -> Any:
    """The same patients in another order: other values of the same shapes."""

    def roll(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.roll(1, 0)
        if isinstance(value, tuple):
            return tuple(map(roll, value))
        return [value[-1], *value[:-1]] if isinstance(value, list) else value

    return {key: roll(value) for key, value in batch.items()}


def by_the_passes(model: nn.Module, batch: Any, **more: Any) -> Explanation:
    """What an explainer says that has no plan yet."""
    return DeepLiftEHR(model).explain(batch, **more)


def assert_same(ours: Explanation, theirs: Explanation) -> None:
    for key, attribution in theirs.attributions.items():
        torch.testing.assert_close(ours.attributions[key], attribution, equal_nan=True)
    torch.testing.assert_close(ours.f_baseline, theirs.f_baseline)
    torch.testing.assert_close(ours.delta, theirs.delta)
    assert ours.diagnostics == theirs.diagnostics
    assert ours.target == theirs.target


@zoo.each(zoo.configs(), weights=("random", "trained"))
def test_plans_of_the_zoo_on_another_batch(config: zoo.Config, trained: bool) -> None:
    model, batch = zoo.shared(config, trained)
    explainer = DeepLiftEHR(model)
    for _ in range(2):
        explainer.explain(batch)
    other = rolled(batch)
    ours = explainer.explain(other)
    assert_same(ours, by_the_passes(model, other))
    (plan,) = explainer.plans
    print(config.model, plan.state, plan.reason, plan.replays, plan.changes)
