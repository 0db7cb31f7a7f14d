"""The models that are measured, by the name that the table gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pyhealth import models as pyhealth_models


@dataclass(frozen=True)
class Size:
    """How large the models are.

    Args:
        width: Embedding and hidden dimension.
        stage_width: Embedding dimension of StageNet and StageAttentionNet.
        chunk: Their chunk size; there are three levels.
        stage_heads: Heads of StageAttentionNet.
        heads: Heads of the Transformer and JambaEHR.
    """

    width: int
    stage_width: int
    chunk: int
    stage_heads: int
    heads: int


FULL = Size(width=128, stage_width=64, chunk=32, stage_heads=8, heads=4)
SMALL = Size(width=32, stage_width=32, chunk=16, stage_heads=4, heads=4)
TINY = Size(width=8, stage_width=8, chunk=4, stage_heads=2, heads=2)


@dataclass(frozen=True)
class Family:
    """One PyHealth class with its options.

    Args:
        name: What the table calls it.
        model: Name of the class.
        schema: Key of :data:`benchmarks.data.SCHEMAS`, for the cohort.
        sizes: From the constructor's argument to the attribute of :class:`Size`.
        options: Other arguments of the constructor.
        timed: The schema on which it is timed; the same by default.
        mixes: Whether the model mixes the patients of a batch, so that each has to
            be explained by itself.
    """

    name: str
    model: str
    schema: str
    sizes: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    timed: str | None = None
    mixes: bool = False

    @property
    def codes_schema(self) -> str:
        """The schema of the cohort without labs."""
        return {"codes_labs": "codes", "visits": "visits_codes"}.get(
            self.schema, self.schema
        )

    def build(self, dataset: Any, size: Size, seed: int = 0) -> Any:
        """The model with random weights, in eval mode."""
        sizes = {name: getattr(size, value) for name, value in self.sizes.items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = getattr(pyhealth_models, self.model)
            return made(dataset, **sizes, **self.options).eval()


def families() -> tuple[Family, ...]:
    """Every family, in the order of the table."""
    wide = {"embedding_dim": "width"}
    hidden = {**wide, "hidden_dim": "width"}
    stages = {"embedding_dim": "stage_width", "chunk_size": "chunk"}
    stage_heads = {**stages, "num_heads": "stage_heads"}
    heads = {**wide, "heads": "heads"}
    three, two = {"levels": 3}, {"num_layers": 2}
    return (
        Family("MLP (ReLU)", "MLP", "codes_labs", hidden),
        Family("MLP (leaky ReLU)", "MLP", "codes_labs", hidden, _mlp("leaky_relu")),
        Family("MLP (ELU)", "MLP", "codes_labs", hidden, _mlp("elu")),
        Family("MLP (tanh)", "MLP", "codes_labs", hidden, _mlp("tanh")),
        Family("LogisticRegression", "LogisticRegression", "codes_labs", wide),
        Family("RNN (GRU)", "RNN", "codes", hidden, {"rnn_type": "GRU"}),
        Family("RNN (LSTM)", "RNN", "codes", hidden, {"rnn_type": "LSTM"}),
        Family("RETAIN", "RETAIN", "codes", wide),
        Family("CNN", "CNN", "codes", hidden),
        Family("StageNet", "StageNet", "visits", stages, three, "steps"),
        Family(
            "StageAttentionNet",
            "StageAttentionNet",
            "visits",
            stage_heads,
            three,
            "steps",
        ),
        Family("Transformer", "Transformer", "codes", heads, two),
        Family("EHRMamba", "EHRMamba", "codes", wide),
        Family("JambaEHR", "JambaEHR", "codes", heads),
        Family("AdaCare", "AdaCare", "codes", hidden, mixes=True),
    )


#: The models of which speed and faithfulness are measured.
MEASURED = (
    "MLP (ReLU)",
    "RNN (GRU)",
    "RNN (LSTM)",
    "RETAIN",
    "CNN",
    "StageNet",
    "StageAttentionNet",
    "Transformer",
    "EHRMamba",
    "JambaEHR",
    "AdaCare",
)


def _mlp(activation: str) -> Mapping[str, Any]:
    return {"activation": activation}


def named(*names: str) -> tuple[Family, ...]:
    """The families of these names, all if none is given.

    Raises:
        ValueError: If there is none of a name.
    """
    known = {family.name: family for family in families()}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"No family {unknown}; they are {list(known)}.")
    return tuple(known[name] for name in names or known)
