"""A small cohort for the page: three classes, visits, labs, and hostile names."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn

from captum_ehr.insights import Batch, CodeFeature, LabFeature

#: What a page must show and never run.
SCRIPT = "<img src=x onerror=\"document.title='run'\">"
NAMES = {"I50": f"heart failure {SCRIPT}", "E11": "diabetes", "N17": "=1+1"}
CODES = ("I50", "E11", "N17", "J18", "A41")


def samples() -> list[dict[str, Any]]:
    """Twelve patients of one to five visits."""
    made = []
    for n in range(12):
        visits = 1 + n % 5
        times = [0.0] + [float(3 + (n + k) % 4) for k in range(visits - 1)]
        codes = [
            sorted({CODES[(n + k) % 5], CODES[(n * k + 2) % 5]}) for k in range(visits)
        ]
        labs = [[0.5 * k - 0.1 * n, 1.0 + 0.2 * k] for k in range(visits)]
        made.append(
            {
                "patient_id": SCRIPT if n == 3 else f"p{n:02d}",
                "conditions": (times, codes),
                "labs": (times, labs),
                "outcome": ("home", "ward", "died")[(n * 7 + 1) % 3],
                "sex": "female" if n % 2 else "male",
            }
        )
    return made


@cache
def stagenet(mode: str = "multiclass") -> Any:
    """A StageNet over these patients; ``model.dataset`` has them."""
    from pyhealth.datasets import create_sample_dataset
    from pyhealth.models import StageNet

    own = samples()
    if mode == "binary":
        own = [{**one, "outcome": int(one["outcome"] == "died")} for one in own]
    dataset = create_sample_dataset(
        own, {"conditions": "stagenet", "labs": "stagenet_tensor"}, {"outcome": mode}
    )
    torch.manual_seed(0)
    return StageNet(dataset, embedding_dim=8, chunk_size=4, levels=2).eval()


class Bag(nn.Module):
    """A plain module: the mean of embedded codes, and labs."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(5, 4)
        self.hidden = nn.Linear(6, 8)
        self.head = nn.Linear(8, outputs)

    def forward(self, embedded: Any, labs: Any, scale: float = 1.0) -> Any:
        pooled = torch.cat([embedded.mean(1), labs], 1) * scale
        return self.head(torch.tanh(self.hidden(pooled)))


def bag_arguments(model: Bag, patients: int = 5) -> tuple[Any, ...]:
    """Classes, features and batches for a :class:`Bag`, as Captum Insights has them."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 5, (patients, 3), generator=generator)
    labs = torch.randn(patients, 2, generator=generator)
    labels = torch.arange(patients) % 2
    names = [f"q{n}" for n in range(patients)]
    features = [
        CodeFeature(
            "codes",
            ("<pad>", "<unk>", "I50", "E11", "N17"),
            baseline_transforms=lambda x: torch.zeros_like(x),
            input_transforms=model.table,
        ),
        LabFeature("labs", ["lactate", "sodium"]),
    ]
    batches = [
        Batch((ids[:3], labs[:3]), labels[:3], 1.0, patient_ids=names[:3]),
        Batch((ids[3:], labs[3:]), labels[3:], 1.0, patient_ids=names[3:]),
    ]
    return ["alive", "dead"], features, batches


def pairs(view: dict[str, Any]) -> list[tuple[str, float]]:
    """Code and attribution of everything that a view shows."""
    made = [
        (item["code"], item["attribution"])
        for visit in view["visits"]
        for group in visit["groups"]
        for item in group["items"]
    ]
    for series in view["series"]:
        for line in series["lines"]:
            made += [(line["code"], p["attribution"]) for p in line["points"]]
    for one in view["columns"]:
        made += [(item["code"], item["attribution"]) for item in one["items"]]
    return sorted(made)
