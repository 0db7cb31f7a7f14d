"""Hugging Face's models, made from configurations, by their embeddings."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from snapshots import snapshot
from torch import Tensor, nn

from captum_ehr.propagation import attributions

transformers = pytest.importorskip("transformers")

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "intermediate_size": 32, "pad_token_id": 0}

#: Name, class, configuration, and what is given besides embeddings.
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "Rwkv": (
        "RwkvForCausalLM",
        # rescale_every: blocks' weights are divided on the first evaluation
        {**SIZES, "num_hidden_layers": 4, "rescale_every": 2, "context_length": 16},
        {"use_cache": False},
    ),
    "Bert": ("BertForSequenceClassification", {**SIZES, **HEADS}, {}),
    "GPT2": (
        "GPT2ForSequenceClassification",
        {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 4, "pad_token_id": 0},
        {},
    ),
    "Llama": (
        "LlamaForSequenceClassification",
        {**SIZES, **HEADS, "num_key_value_heads": 2},
        {},
    ),
    "Mamba": ("MambaForCausalLM", {**SIZES, "state_size": 4, "pad_token_id": 0}, {}),
}


class ByEmbeddings(nn.Module):
    """The second output for the last position."""

    def __init__(self, inner: nn.Module, options: dict[str, Any]) -> None:
        super().__init__()
        self.inner, self.options = inner, options

    def forward(self, x: Tensor) -> Tensor:
        logits = self.inner(inputs_embeds=x, **self.options).logits
        found: Tensor = (logits[:, -1] if logits.dim() == 3 else logits)[:, 1]
        return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", MODELS)
def test_models_of_transformers(name: str, training: bool) -> None:
    head, sizes, options = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**sizes)
    inner = getattr(transformers, head)(config)
    model = ByEmbeddings(inner, options).train(training)
    x, x0 = torch.randn(2, 2, 6, 16)
    before = snapshot(model)
    run = attributions(model, (x,), (x0,))
    after = snapshot(model)
    assert [key for key in before if before[key] != after[key]] == []
    for point, found in ((x, run.f_input), (x0, run.f_reference)):
        with torch.no_grad():
            torch.testing.assert_close(found, copy.deepcopy(model).eval()(point))
    size = run.attributions[0].abs().sum() + run.f_input.abs().max()
    assert run.delta.abs().max() <= 2e-6 * size
