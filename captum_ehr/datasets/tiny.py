"""A model and a batch small enough for examples and doctests."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def tiny_model(seed: int = 0) -> tuple[Any, dict[str, Any]]:
    """An untrained PyHealth MLP over codes and labs, and a batch of four patients.

    Args:
        seed: Of the model's weights.

    Returns:
        The model, and the batch as PyHealth's data loader yields it.

    Example:
        >>> model, batch = tiny_model()
        >>> batch["conditions"].shape, batch["labs"].shape
        (torch.Size([4, 3]), torch.Size([4, 2]))
    """
    import torch
    from pyhealth.datasets import create_sample_dataset, get_dataloader
    from pyhealth.models import MLP

    samples = [
        _sample("p1", ["I50.9", "N18.3", "I10"], [1.8, 0.4], 1),
        _sample("p2", ["E11.9"], [0.9, -0.2], 0),
        _sample("p3", ["I10", "E78.5"], [1.1, 0.0], 0),
        _sample("p4", ["A41.9", "I50.9"], [2.4, 1.3], 1),
    ]
    with quiet_pyhealth():
        dataset = create_sample_dataset(
            samples, {"conditions": "sequence", "labs": "tensor"}, {"label": "binary"}
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MLP(dataset, embedding_dim=8, hidden_dim=8)
    batch = next(iter(get_dataloader(dataset, batch_size=4, shuffle=False)))
    return model, batch


@contextmanager
def quiet_pyhealth() -> Iterator[None]:
    """PyHealth logs every vocabulary that it fits to the terminal; not in here."""
    logger = logging.getLogger("pyhealth")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _sample(patient: str, codes: list[str], labs: list[float], label: int) -> Any:
    return {"patient_id": patient, "conditions": codes, "labs": labs, "label": label}
