"""The patients and models that PyHealth tests its DeepLift on, made once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import torch
from pyhealth.datasets import create_sample_dataset, get_dataloader
from pyhealth.models import MLP, StageNet
from torch import Tensor


def dataset(schema: Mapping[str, str], *patients: tuple[Any, ...]) -> Any:
    """Made-up patients: the entries of the schema, then the label."""
    samples = [
        {
            "patient_id": f"patient-{n}",
            "visit_id": f"visit-{n}",
            **dict(zip([*schema, "label"], patient)),
        }
        for n, patient in enumerate(patients)
    ]
    return create_sample_dataset(samples, schema, {"label": "binary"})


def batches(data: Any, size: int) -> Iterator[dict[str, Any]]:
    return iter(get_dataloader(data, batch_size=size, shuffle=False))


@cache
def mlp() -> tuple[Any, Any]:
    """Their MLP over codes and lab values, and its three patients."""
    data = dataset(
        {"conditions": "sequence", "procedures": "tensor"},
        (["cond-33", "cond-86", "cond-80", "cond-12"], [1.0, 2.0, 3.5, 4.0], 0),
        (["cond-33", "cond-86", "cond-80"], [5.0, 2.0, 3.5, 4.0], 1),
        (["cond-55", "cond-12"], [2.0, 3.0, 1.5, 5.0], 1),
    )
    torch.manual_seed(0)
    return MLP(data, embedding_dim=32, hidden_dim=32, n_layers=2).eval(), data


@cache
def stagenet() -> tuple[Any, Any]:
    """Their StageNet over timed codes and untimed lab series."""
    a, b, c = [1.0, 2.0, 3.5], [5.0, 2.0, 3.5], [2.0, 3.0, 1.5]
    data = dataset(
        {"conditions": "stagenet", "procedures": "stagenet_tensor"},
        (([0.0, 2.0, 1.3], ["cond-33", "cond-86", "cond-80"]), (None, [a, b, c]), 0),
        (([0.0, 2.0], ["cond-33", "cond-86"]), (None, [a, b]), 1),
        (([0.0, 1.5], ["cond-86", "cond-80"]), (None, [c, b]), 1),
    )
    torch.manual_seed(0)
    return StageNet(data, embedding_dim=32, chunk_size=32).eval(), data


def changes(model: Any, batch: Any, other: Any) -> Tensor:
    """How the model's own logits change from one batch to another."""
    with torch.no_grad():
        return (model(**batch)["logit"] - model(**other)["logit"]).squeeze(1)


def total(found: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([a.flatten(1).sum(1) for a in found.values()]).sum(0)
