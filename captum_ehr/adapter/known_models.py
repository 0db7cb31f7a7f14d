"""What some PyHealth models do not say about themselves, a few words each."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor

from ..propagation import Rule, sparsemax


@dataclass(frozen=True)
class Description:
    """Where a model's features go in and where its score comes out.

    Args:
        embeddings: From feature key to the path of the module that embeds it; those
            not named are found by the module's own name.
        structure: Feature keys that are not attributed: they say of which kind a
            token is, or where it stands, and stay as they are in every reference.
        score: The key of the model's output to explain.
        losses: Paths of methods that only compute the loss.
    """

    embeddings: Mapping[str, str] = field(default_factory=dict)
    structure: tuple[str, ...] = ()
    score: str = "logit"
    losses: tuple[str, ...] = ()


#: By the qualified name of the class, so that PyHealth need not be imported; a
#: subclass is described by its base.
DESCRIPTIONS: Mapping[str, Description] = MappingProxyType(
    {
        "pyhealth.models.ehrmamba_cehr.EHRMambaCEHR": Description(
            embeddings={"concept_ids": "embeddings.word_embeddings"},
            structure=("token_type_ids", "visit_orders", "visit_segments"),
        ),
        "pyhealth.models.gamenet.GAMENet": Description(score="y_prob"),
        "pyhealth.models.micron.MICRON": Description(
            score="y_prob", losses=("micron.compute_reconstruction_loss",)
        ),
        "pyhealth.models.safedrug.SafeDrug": Description(
            score="y_prob", losses=("safedrug.calculate_loss",)
        ),
        # On the CPU its loss rounds y_prob itself to 0 and 1.
        "pyhealth.models.molerec.MoleRec": Description(
            score="y_prob", losses=("layer.calc_loss",)
        ),
    }
)


def description(model: Any) -> Description:
    """What is known of a model beyond what its dataset and its modules tell."""
    for base in type(model).__mro__:
        known = DESCRIPTIONS.get(f"{base.__module__}.{base.__qualname__}")
        if known is not None:
            return known
    return Description()


def module_rules() -> dict[Any, Rule]:
    """Rules for modules of PyHealth that are better treated as one operation.

    Only of what is imported already: a model of that kind could not exist otherwise.
    """
    adacare = sys.modules.get("pyhealth.models.adacare")
    return {} if adacare is None else {adacare.Sparsemax: sparsemax}


def without_loss(view: Any, losses: Sequence[str]) -> Any:
    """A view whose forward spends nothing on what is not its score."""
    view.__dict__["get_loss_function"] = lambda: _no_loss
    for path in losses:
        owner, _, name = path.rpartition(".")
        view.get_submodule(owner).__dict__[name] = _no_loss
    return view


def _no_loss(logits: Tensor, *_: Any, **__: Any) -> Tensor:
    return logits.new_zeros(())
