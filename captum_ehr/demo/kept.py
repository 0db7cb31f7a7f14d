"""The built-in cohort's trained models, kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from captum_ehr import __version__, datasets
from captum_ehr.demo import training
from captum_ehr.demo.cohorts import Cohort
from captum_ehr.explanation.writing import private

if TYPE_CHECKING:
    from torch import nn

_logger = logging.getLogger(__name__)


def kept_path(name: str, cohort: Cohort, epochs: int, seed: int) -> Path:
    """Where a model of the built-in cohort is kept.

    The file is called by version and seed, and by a hash of what else the training
    depends on: who is trained on, how long, and the code that draws and trains.
    """
    code = [*sorted(Path(*datasets.__path__).glob("*.py")), Path(training.__file__)]
    # Sorted, since a loader may have set the dataset to another order.
    patients = sorted(sample["patient_id"] for sample in cohort.train)
    said = [patients, epochs, cohort.batch_size, *map(Path.read_text, code)]
    digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
    file = f"{name}-{__version__}-seed{seed}-{digest}.safetensors"
    return _folder() / file


def _folder() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("captum_ehr") / "demo"


def kept_model(name: str, cohort: Cohort, seed: int, path: Path) -> nn.Module | None:
    """The model of a file, or None where there is none that can be used."""
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    if not path.is_file():
        return None
    model = training.build_model(name, cohort.dataset, seed)
    try:
        load_model(model, path)
    except (SafetensorError, RuntimeError, OSError) as error:
        _logger.warning("%s cannot be used; the model is trained anew: %s", path, error)
        return None
    return model.eval()


def keep(model: nn.Module, path: Path) -> None:
    """Write a model's weights, whole or not at all.

    A folder that cannot be written to is logged and costs the next start its training,
    no more.
    """
    from safetensors.torch import save

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with private(path) as file:
            file.write(save(model.state_dict()))
    except OSError as error:
        _logger.warning("The trained model is not kept: %s", error)
