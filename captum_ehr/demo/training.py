"""The demo's two models and a plain training loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from captum_ehr.demo.cohorts import Cohort

MODELS = ("StageNet", "Transformer")
"""PyHealth's classes that the demo trains, in this order."""

# Found on the synthetic cohort. The weight decay is what keeps codes of a few dozen
# patients from being learnt by heart.
_LEARNING_RATE = 6e-3
_WEIGHT_DECAY = 2.0
_CLIP = 1.0

# A trained <unk> is "some code, not known which": the neutral reference that the
# explanations compare with. Untrained it would be a random vector.
_UNKNOWN_SHARE = 0.1

Progress = Callable[[int, float], None]
"""Told after each step: the epoch, from 0, and the loss."""


def build_model(name: str, dataset: Any, seed: int) -> nn.Module:
    """A model of :data:`MODELS`, untrained, small enough for two cores."""
    from pyhealth import models

    sizes: dict[str, dict[str, Any]] = {
        "StageNet": {"embedding_dim": 32, "chunk_size": 16, "levels": 2},
        "Transformer": {"embedding_dim": 32, "heads": 2, "dropout": 0.3},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = getattr(models, name)(dataset, **sizes[name])
    return model


def steps_of(cohort: Cohort, epochs: int) -> int:
    """How many steps the training takes."""
    return epochs * -(-len(cohort.train) // cohort.batch_size)


def train(
    model: nn.Module, cohort: Cohort, epochs: int, seed: int, progress: Progress
) -> None:
    """Train a model in place, and leave it in eval mode."""
    from pyhealth.datasets import get_dataloader

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loader = get_dataloader(cohort.train, cohort.batch_size, shuffle=True)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, _LEARNING_RATE, total_steps=max(2, steps_of(cohort, epochs))
        )
        model.train()
        for epoch in range(epochs):
            for batch in loader:
                optimizer.zero_grad()
                loss = model(**with_unknowns(batch, cohort.dataset))["loss"]
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
                optimizer.step()
                schedule.step()
                progress(epoch, float(loss.detach()))
    model.eval()


def with_unknowns(
    batch: dict[str, Any], dataset: Any, share: float = _UNKNOWN_SHARE
) -> dict[str, Any]:
    """A batch with a random share of its codes replaced by ``<unk>``."""
    batch = dict(batch)
    for key, processor in dataset.input_processors.items():
        vocabulary = getattr(processor, "code_vocab", None)
        if not vocabulary:
            continue
        entry = batch[key]
        parts = list(entry) if isinstance(entry, (tuple, list)) else [entry]
        place = processor.schema().index("value")
        ids = parts[place]
        hidden = (torch.rand(ids.shape) < share) & (ids != vocabulary["<pad>"])
        parts[place] = ids.masked_fill(hidden, vocabulary["<unk>"])
        batch[key] = tuple(parts) if isinstance(entry, (tuple, list)) else parts[0]
    return batch
