"""The models that every promise is tested on: PyHealth classes × inputs × options.

PyHealth is imported where it is first needed: listing the models costs nothing.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from medication import DRUG_CLASSES, tables
from torch import Tensor, nn

CODES = [f"I{n}" for n in range(10, 30)]
DRUGS = [f"N02BE{n:02d}" for n in range(12)]
START = datetime(2020, 1, 1)

#: Input schemas by name. Every one has patients of different lengths.
SCHEMAS: dict[str, dict[str, Any]] = {
    "sequence": {"conditions": "sequence", "drugs": "sequence"},
    "nested": {"visits": "nested_sequence"},
    "tensor": {"conditions": "sequence", "labs": "tensor"},
    "multi_hot": {"conditions": "sequence", "flags": "multi_hot"},
    "timeseries": {"conditions": "sequence", "vitals": "timeseries"},
    "nested_floats": {"nested_labs": "nested_sequence_floats"},
    "stagenet_codes": {"timed": "stagenet"},
    "stagenet": {"timed": "stagenet", "timed_labs": "stagenet_tensor"},
    "stagenet_values": {"timed_labs": "stagenet_tensor"},
    "stagenet_nested": {"timed_visits": "stagenet", "timed_labs": "stagenet_tensor"},
    "series": {"vitals": "timeseries"},
    "matrix": {"matrix": "tensor"},
    "static": {"visits": "nested_sequence", "labs": "tensor"},
    "static_series": {"vitals": "timeseries", "labs": "tensor"},
    "medication": {"conditions": "nested_sequence", "procedures": "nested_sequence"},
    "cehr": {
        "concept_ids": ("cehr", {"max_len": 8}),
        "token_type_ids": ("tensor", {"dtype": torch.long}),
        "time_stamps": "tensor",
        "ages": "tensor",
        "visit_orders": ("tensor", {"dtype": torch.long}),
        "visit_segments": ("tensor", {"dtype": torch.long}),
    },
}

#: Of each class of models, the default tier has one with each of these.
KINDS = {
    **dict.fromkeys(["tensor", "multi_hot", "static"], "values"),
    **dict.fromkeys(["timeseries", "nested_floats", "series"], "series"),
    **dict.fromkeys(["matrix", "static_series"], "series"),
    **dict.fromkeys(["stagenet_codes", "stagenet", "stagenet_nested"], "times"),
    "stagenet_values": "times",
    **{name: name for name in ("sequence", "nested", "medication", "cehr")},
}

MODES = ("binary", "multiclass", "multilabel", "regression")


@dataclass(frozen=True)
class Config:
    """One model of the zoo.

    Args:
        model: Name of the PyHealth class.
        schema: Key of :data:`SCHEMAS`.
        mode: One of :data:`MODES`.
        options: Arguments of the model's constructor.
    """

    model: str
    schema: str = "sequence"
    mode: str = "binary"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        words = [f"{k}={v}" for k, v in self.options.items() if k not in SIZES]
        return "-".join([self.model, self.schema, self.mode, *words])

    def __hash__(self) -> int:
        return hash(repr(self))


SIZES = frozenset(
    """
    embedding_dim hidden_dim chunk_size levels num_heads pe_hidden vocab_size
    ehr_hidden_dim fusion_hidden_dim projection_dim cxr_backbone cxr_pretrained
    ehr_feature_key num_gnn_layers state_size time_embeddings_size
    """.split()
)
SMALL = {"embedding_dim": 8}
HIDDEN = {"embedding_dim": 8, "hidden_dim": 6}
STAGES = {"embedding_dim": 8, "chunk_size": 4, "levels": 3}
HEADS = {**STAGES, "num_heads": 2}
BLOCKS = {"embedding_dim": 8, "num_transformer_layers": 1, "num_mamba_layers": 2}
CHANNELS = {"embedding_dim": 8, "hidden_dim": 8, "num_head": 2, "pe_hidden": 8}
FUSION = {
    "ehr_feature_key": "matrix",
    "ehr_hidden_dim": 6,
    "fusion_hidden_dim": 6,
    "projection_dim": 6,
    "cxr_backbone": "resnet18",
    "cxr_pretrained": False,
}


def configs() -> list[Config]:
    """Every configuration, each quick."""
    made: list[Config] = []

    def add(model: str, schemas: str, options: Mapping[str, Any], **more: Any) -> None:
        for schema in schemas.split():
            made.append(Config(model, schema, "binary", {**options, **more}))

    for activation in ("relu", "tanh", "sigmoid", "leaky_relu", "elu"):
        add("MLP", "sequence", HIDDEN, activation=activation)
    add("MLP", "sequence", HIDDEN, n_layers=3)
    add("MLP", "nested tensor multi_hot stagenet_codes", HIDDEN)
    add("LogisticRegression", "sequence nested tensor multi_hot", SMALL)
    for cell in ("GRU", "LSTM", "RNN"):
        add("RNN", "sequence nested", HIDDEN, rnn_type=cell)
    add("RNN", "sequence", HIDDEN, bidirectional=True)
    add("RNN", "sequence", HIDDEN, rnn_type="LSTM", num_layers=2, bidirectional=True)
    add("RNN", "tensor multi_hot timeseries nested_floats stagenet", HIDDEN)
    add("RNN", "stagenet_nested matrix", HIDDEN)
    add("RNN", "sequence", HIDDEN, num_layers=3)
    add("RETAIN", "sequence nested timeseries tensor", SMALL)
    add("CNN", "sequence tensor multi_hot timeseries stagenet", HIDDEN)
    add("CNN", "sequence", HIDDEN, num_layers=2)
    add("StageNet", "stagenet stagenet_nested sequence nested timeseries", STAGES)
    add("StageAttentionNet", "stagenet stagenet_nested sequence timeseries", HEADS)
    add("Transformer", "sequence nested tensor multi_hot timeseries", SMALL)
    add("Transformer", "stagenet stagenet_nested nested_floats", SMALL)
    add("Transformer", "sequence", SMALL, heads=2, num_layers=2)
    add("Transformer", "sequence", SMALL, max_seq_len=4)
    add("EHRMamba", "sequence nested tensor multi_hot timeseries stagenet", SMALL)
    add("JambaEHR", "sequence nested tensor stagenet", BLOCKS)
    add("Deepr", "sequence nested", HIDDEN)
    add("TCN", "sequence timeseries matrix nested_floats", SMALL, num_channels=6)
    add("TCN", "sequence", SMALL, num_channels=[6, 5, 4])
    add("Deepr", "sequence", HIDDEN, window=2)
    add("ConCare", "nested series matrix", CHANNELS)
    add("ConCare", "static static_series", CHANNELS, static_key="labs")
    add("GCN", "sequence nested tensor timeseries", SMALL, nhid=6)
    add("GAT", "sequence nested tensor timeseries", SMALL, nhid=6, nheads=2)
    add("MultimodalRNN", "sequence nested tensor multi_hot timeseries", HIDDEN)
    add("MultimodalRNN", "nested_floats stagenet", HIDDEN)
    add("GCN", "sequence", SMALL, nhid=6, num_layers=3)
    add("GAT", "sequence", SMALL, nhid=6, nheads=2, num_layers=3)
    add("MultimodalRETAIN", "sequence nested tensor", SMALL)
    add("MedFuse", "matrix", FUSION)
    add("MedFuse", "matrix", FUSION, ehr_num_layers=1)
    add("EHRMambaCEHR", "cehr", {**SMALL, "vocab_size": 40, "time_embeddings_size": 4})
    for model in ("GAMENet", "SafeDrug", "MICRON"):
        made.append(Config(model, "medication", "multilabel", HIDDEN))
    made.append(
        Config("MoleRec", "medication", "multilabel", {**HIDDEN, "num_gnn_layers": 2})
    )
    made.append(Config("MICRON", "nested", "multilabel", HIDDEN))
    for mode in MODES[1:]:
        made += [
            Config("MLP", "tensor", mode, HIDDEN),
            Config("RNN", "sequence", mode, HIDDEN),
            Config("StageNet", "stagenet", mode, STAGES),
            Config("Transformer", "sequence", mode, SMALL),
        ]
    return made


def mixing() -> list[Config]:
    """Models whose patients influence each other within a batch."""
    options = [
        HIDDEN,
        {**HIDDEN, "activation": "softmax"},
        {**HIDDEN, "activation": "sparsemax"},
        {**HIDDEN, "rnn_type": "lstm"},
    ]
    made = [Config("AdaCare", "sequence", options=o) for o in options]
    made += [Config("AdaCare", s, options=HIDDEN) for s in ("nested", "timeseries")]
    return [*made, Config("MultimodalAdaCare", "tensor", options=HIDDEN)]


def drawing() -> list[Config]:
    """Models that draw random numbers in eval mode; GRASP's mix patients too."""
    made = [Config("Agent", s, options=HIDDEN) for s in ("sequence", "nested")]
    made += [Config("Agent", "timeseries", options=HIDDEN)]
    made += [Config("Agent", "sequence", options={**HIDDEN, "cell": "lstm"})]
    for block in ("GRU", "LSTM", "ConCare"):
        options = {"embedding_dim": 8, "hidden_dim": 8, "block": block}
        made += [
            Config("GRASP", s, options=options) for s in ("sequence", "timeseries")
        ]
    return made


def each(
    configs: Iterable[Config], weights: tuple[str, ...] = ()
) -> Callable[[Callable[..., Any]], Any]:
    """Give a test every configuration, what is not the first of its kind as complete.

    Args:
        configs: To be passed as ``config``.
        weights: ``"random"``, ``"trained"``: to be passed as ``trained``, too. The
            second of them is complete.
    """
    configs = list(configs)
    first: dict[tuple[str, str], Config] = {}
    for config in configs:
        first.setdefault((config.model, KINDS[config.schema]), config)
    params = []
    for config in configs:
        group = pytest.mark.xdist_group(str(config))
        for kind in weights or ("",):
            more = config not in first.values() or kind == "trained"
            marks = [group, *([pytest.mark.complete] if more else [])]
            values = (config, kind == "trained") if weights else (config,)
            name = f"{config}-{kind}" if kind else str(config)
            params.append(pytest.param(*values, id=name, marks=marks))
    return pytest.mark.parametrize("config, trained" if weights else "config", params)


@cache
def dataset(schema: str, mode: str) -> Any:
    """Nine patients: long and short histories, one of one code, an empty visit."""
    from pyhealth.datasets import create_sample_dataset

    rng = np.random.default_rng(7)
    samples = [_sample(rng, n) for n in range(9)]
    label = "label"
    if schema == "medication":  # its models know no other names
        samples = [{**s, "conditions": s["visits"]} for s in samples]
        label = "drugs"
        for n, s in enumerate(samples):
            s["labels"] = {mode: [DRUG_CLASSES[n % 4], DRUG_CLASSES[(n + 1) % 3]]}
    keys = ("patient_id", "visit_id", *SCHEMAS[schema])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return create_sample_dataset(
            [{**{k: s[k] for k in keys}, label: s["labels"][mode]} for s in samples],
            SCHEMAS[schema],
            {label: mode},
            dataset_name="zoo",
        )


def _sample(rng: np.random.Generator, n: int) -> dict[str, Any]:
    steps = 1 if n == 3 else int(rng.integers(2, 7))
    visits = [list(rng.choice(CODES, rng.integers(1, 4))) for _ in range(steps)]
    if n == 5:
        visits[0] = []
    times = [0.0, *(float(t) for t in rng.integers(1, 90, steps - 1))]
    labs = rng.normal(size=(steps, 3)).round(3).tolist()
    return {
        "patient_id": f"p{n}",
        "visit_id": f"v{n}",
        "conditions": list(rng.choice(CODES, 1 if n == 3 else rng.integers(2, 9))),
        "drugs": list(rng.choice(DRUGS, rng.integers(1, 6))),
        "visits": visits,
        **_events(rng, n),
        "procedures": [list(rng.choice(DRUGS, 2)) for _ in visits],
        "matrix": (rng.normal(size=(4, 3)) + 1).round(3).tolist(),
        "labs": rng.normal(size=4).round(3).tolist(),
        "flags": list(rng.choice(DRUGS, rng.integers(1, 4), replace=False)),
        "vitals": (
            [START + timedelta(hours=h) for h in range(steps)],
            rng.normal(size=(steps, 2)) + 2,
        ),
        "nested_labs": (rng.normal(size=(steps, 3)) + 2).tolist(),
        "timed": (times, [str(c) for c in rng.choice(CODES, steps)]),
        "timed_visits": (times, [[str(c) for c in v] or ["I10"] for v in visits]),
        "timed_labs": (times, labs),
        "labels": {
            "binary": n % 2,
            "multiclass": n % 3,
            "multilabel": [f"l{n % 3}", f"l{(n + 1) % 4}"],
            "regression": float(n) / 3,
        },
    }


def _events(rng: np.random.Generator, n: int) -> dict[str, Any]:
    """The six fields of a CEHR timeline, padded on the left as PyHealth does."""
    real = 1 if n == 3 else int(rng.integers(2, 9))
    fields = {
        "concept_ids": [str(c) for c in rng.choice(CODES, real)],
        "token_type_ids": rng.integers(1, 6, real).tolist(),
        "time_stamps": np.sort(rng.uniform(0, 9, real)).round(2).tolist(),
        "ages": [float(v) for v in 40 + np.sort(rng.uniform(0, 2, real))],
        "visit_orders": list(range(real)),
        "visit_segments": [k % 2 for k in range(real)],
    }
    blank = {"concept_ids": "<pad>", "time_stamps": 0.0, "ages": 0.0}
    return {k: [blank.get(k, 0)] * (8 - real) + v for k, v in fields.items()}


def buildable(config: Config) -> bool:
    """Whether PyHealth makes the model: 2.0.2 tells ConCare no width of a matrix."""
    if (config.model, config.schema) != ("ConCare", "matrix"):
        return True
    processors = dataset(config.schema, config.mode).input_processors
    return processors["matrix"].size() is not None


def build(
    config: Config,
    *,
    trained: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Any, Any]:
    """A model of the zoo in eval mode, to be changed at will, and all its patients."""
    model, batch = shared(config, trained, seed, dtype)
    return copy.deepcopy(model, {id(model.dataset): model.dataset}), dict(batch)


@cache
def shared(
    config: Config,
    trained: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Any, Any]:
    """The same model for all who ask, to be explained and left as it is."""
    from pyhealth import models
    from pyhealth.datasets import get_dataloader

    if not buildable(config):
        pytest.skip(f"this PyHealth makes no {config}")
    torch.manual_seed(seed)
    data = dataset(config.schema, config.mode)
    with warnings.catch_warnings(), default_dtype(dtype):
        warnings.simplefilter("ignore")
        batch = next(iter(get_dataloader(data, batch_size=9, shuffle=False)))
        with tables(tempfile.gettempdir()):
            model = getattr(models, config.model)(data, **config.options)
            _fill_unset(model)
            if dtype is not torch.float32:
                model, batch = model.to(dtype), converted(batch, dtype)
            if trained:
                train(model, batch)
            else:
                _move_statistics(model)
    return model.eval(), batch


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """StageNet makes its times of the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def train(model: nn.Module, batch: Mapping[str, Any], steps: int = 20) -> None:
    """A few steps of Adam, enough to leave the initial weights behind."""
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch)["loss"].backward()
        optimizer.step()
    for module in model.modules():  # what a forward has left cannot be copied
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                vars(module)[name] = value.detach()


def _fill_unset(model: nn.Module) -> None:
    """GAMENet leaves its weight of the drug interactions to whatever memory holds."""
    for name, parameter in model.named_parameters():
        if name.endswith("gamenet.beta"):
            nn.init.uniform_(parameter, -0.5, 0.5)


def _move_statistics(model: nn.Module) -> None:
    """Batch norms with statistics of their own, as after training."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)


def score(model: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
    """What the model itself says: its logit, or the probabilities of drugs.

    MoleRec's own are taken where they arise: its loss rounds the returned ones.
    """
    raw: list[torch.Tensor] = []
    extractor = getattr(getattr(model, "layer", None), "score_extractor", None)
    if extractor is not None:
        hook = extractor.register_forward_hook(lambda *args: raw.append(args[2]))
    output = model(**batch)
    if extractor is not None:
        hook.remove()
        return torch.sigmoid(raw[0].squeeze(-1))
    return output["logit"] if "logit" in output else output["y_prob"]


def converted(batch: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The batch with its floating-point tensors in a dtype."""

    def convert(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to(dtype) if value.is_floating_point() else value
        return tuple(map(convert, value)) if isinstance(value, tuple) else value

    return {key: convert(value) for key, value in batch.items()}
