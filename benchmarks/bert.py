"""A BERT of Hugging Face's with fused attention, from its configuration."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captum_ehr import DeepLiftEHR


class Bert(nn.Module):
    """Of the base model's width, with one logit, by embeddings of tokens."""

    def __init__(self, layers: int, length: int) -> None:
        from transformers import BertConfig, BertForSequenceClassification

        super().__init__()
        config = BertConfig(
            num_hidden_layers=layers,
            max_position_embeddings=length,
            num_labels=1,
            attn_implementation="sdpa",
        )
        self.inner = BertForSequenceClassification(config)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """From ``(batch, length, 768)`` and what is there to ``(batch, 1)``."""
        logits: Tensor = self.inner(inputs_embeds=tokens, attention_mask=mask).logits
        return logits


class Case(NamedTuple):
    """A model in eval mode, one patient's tokens and their reference.

    An eighth of them is padding.
    """

    model: Bert
    tokens: Tensor
    reference: Tensor
    mask: Tensor

    @classmethod
    def of(cls, layers: int, length: int) -> Case:
        """Random weights and tokens; the reference is one token everywhere."""
        torch.manual_seed(0)
        model = Bert(layers, length).eval()
        tokens = torch.randn(1, length, 768)
        mask = (torch.arange(length) < length - length // 8).long()[None]
        unknown = torch.randn(768).expand_as(tokens)
        reference = torch.where(mask[..., None] > 0, unknown, tokens)
        return cls(model, tokens, reference, mask)


def forward_backward(case: Case) -> Any:
    """The plain model, and its gradient down to the embeddings."""
    leaf = case.tokens.clone().requires_grad_()
    return torch.autograd.grad(case.model(leaf, case.mask).sum(), leaf)


def ours(case: Case) -> Any:
    """DeepLiftEHR."""
    explainer = DeepLiftEHR(case.model)
    return explainer.attribute(
        case.tokens, case.reference, additional_forward_args=(case.mask,)
    )
