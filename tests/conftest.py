"""One thread, quiet PyHealth, and the zoo's models built once per session."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import hypothesis
import pytest
import torch

#: The same examples in every run: a failure is a defect, never bad luck.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")

torch.set_num_threads(1)
logging.getLogger("pyhealth").setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def zoo_model() -> Callable[..., tuple[Any, Any]]:
    """``zoo_model(config, trained)``: a model in eval mode and its batch."""
    import zoo

    @cache
    def build(position: int, trained: bool) -> tuple[Any, Any]:
        config = zoo.configs()[position]
        if not zoo.buildable(config):
            pytest.skip(f"this PyHealth makes no {config}")
        return zoo.build(config, trained=trained)

    return build


@pytest.fixture(autouse=True)
def _quiet_models() -> Any:
    """PyHealth's models warn of missing masks; ours must not be drowned by it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="pyhealth")
        yield
