"""What may be given: inputs in several forms, brought to one; options; a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from ..adapter import (
    EncodedBatch,
    Pairs,
    PyHealthAdapter,
    is_pyhealth_model,
)
from ..adapter.encoded import like
from ..explanation import FeatureRecord
from ..propagation.containers import mapped
from .classes import counts
from .completeness import CHOICES


@dataclass(frozen=True, eq=False)
class Prepared:
    """Inputs and references as plain float tensors, ready for Captum.

    Args:
        inputs: One tensor per input, batch first.
        references: One or several, each a tuple of tensors of the same shapes.
        args: Additional arguments of the forward.
        form: ``"tensor"``, ``"tuple"``, ``"pairs"``, ``"encoded"`` or ``"mapping"``.
        encoded: The batch, where a PyHealth model is explained on one.
        masks: Of pairs; where one is False nothing changes.
        summed: Which inputs' attributions are summed over the last dimension as soon
            as they are there.
    """

    inputs: tuple[Tensor, ...]
    references: tuple[tuple[Tensor, ...], ...]
    args: tuple[Any, ...]
    form: str
    encoded: EncodedBatch | None = None
    masks: tuple[Tensor, ...] | None = None
    summed: frozenset[int] = frozenset()

    def in_sums(self, model: nn.Module) -> Prepared:
        """The same, of tokens their sums being all that is wanted of batches and pairs.

        Tensors and tuples keep the inputs' shapes.
        """
        if self.form in ("tensor", "tuple") or not isinstance(model, PyHealthAdapter):
            return self
        embedded = (k for k, f in enumerate(model.features) if f.embedding)
        return replace(self, summed=frozenset(embedded))

    def but(self, row: int) -> Prepared:
        """The same with every other patient's reference at that patient's input."""
        first = self.inputs[0]
        at = torch.arange(len(first), device=first.device) == row
        return self.against(self.references, (at,) * len(self.inputs))

    def against(
        self,
        references: tuple[tuple[Tensor, ...], ...],
        masks: Sequence[Tensor] | None = None,
    ) -> Prepared:
        """The same with other references, where masks (the pairs' own) are True."""
        masks = self.masks if masks is None else masks
        if masks is not None:
            references = tuple(
                tuple(
                    torch.where(like(mask, x), b, x.detach())
                    for x, b, mask in zip(self.inputs, reference, masks)
                )
                for reference in references
            )
        return replace(self, references=references)

    def fresh(self) -> Prepared:
        """The same with leaves of their own; nothing writes on what they share."""
        sides = self.inputs, self.references
        inputs, references = mapped(lambda x: _ordinary(x).detach(), sides)
        leaves = tuple(x.requires_grad_(x.is_floating_point()) for x in inputs)
        args = tuple(_ordinary(a) if isinstance(a, Tensor) else a for a in self.args)
        return Prepared(leaves, references, args, self.form, summed=self.summed)


def prepare(
    model: nn.Module,
    inputs: Any,
    baselines: Any,
    additional_forward_args: Any,
    integers: bool = False,
) -> Prepared:
    """Recognise the form of the inputs and find their references.

    Takes what :meth:`captum_ehr.DeepLiftEHR.attribute` takes; tensors of ``integers``
    will do where nothing is attributed to them.
    """
    args = additional_forward_args
    if _is_batch(inputs, model):
        if not isinstance(model, PyHealthAdapter):
            raise TypeError(
                f"A batch ({type(inputs).__name__}) was given, but "
                f"{type(model).__name__} is no PyHealth model; give tensors, or a "
                "model with feature keys."
            )
        whole = inputs if isinstance(inputs, EncodedBatch) else model.encode(inputs)
        form = "encoded" if isinstance(inputs, EncodedBatch) else "mapping"
        args = whole.additional_forward_args if args is None else args
        references = model.baseline(whole, baselines)
        return Prepared(whole.inputs, (references,), _tuple(args), form, whole)
    if _is_pair(inputs):
        inputs = (inputs,)
    if isinstance(inputs, (tuple, list)) and inputs and all(map(_is_pair, inputs)):
        return _pairs(model, inputs, baselines, args)
    parts = _tuple(inputs)
    if not parts:
        raise ValueError("There are no inputs: give at least one tensor.")
    for k, part in enumerate(parts):
        if not isinstance(part, Tensor) or not _countable(part, integers):
            kind = part.dtype if isinstance(part, Tensor) else type(part).__name__
            raise TypeError(
                f"Input {k} is {kind}, expected a floating-point tensor: embeddings of "
                "tokens, raw values of continuous features. (LayerDeepLiftEHR of an "
                "embedding takes token ids.)"
            )
        if part.dim() == 0 or part.shape[0] == 0:
            raise ValueError(
                f"Input {k} has shape {tuple(part.shape)}: the batch is empty."
            )
    references = _references(parts, baselines)
    form = "tensor" if isinstance(inputs, Tensor) else "tuple"
    return Prepared(parts, (references,), _arguments(args, model), form)


def in_form(
    prepared: Prepared, parts: tuple[Tensor, ...], model: nn.Module, sum_tokens: bool
) -> Any:
    """Attributions in the form in which the inputs came."""
    if prepared.form == "tensor":
        return parts[0]
    if prepared.form == "tuple":
        return parts
    if sum_tokens and isinstance(model, PyHealthAdapter):
        parts = tuple(
            a.sum(-1) if feature.embedding and k not in prepared.summed else a
            for k, (a, feature) in enumerate(zip(parts, model.features))
        )
    if prepared.encoded is not None:
        return dict(zip(prepared.encoded.feature_keys, parts))
    return parts


def _pairs(model: nn.Module, pairs: Any, baselines: Any, args: Any) -> Prepared:
    """(embedding, mask) pairs: where the mask is False nothing changes."""
    inputs = tuple(pair[0] for pair in pairs)
    masks = tuple(pair[1] for pair in pairs)
    if args is None and isinstance(pairs, Pairs):
        args = pairs.additional_forward_args
    if isinstance(model, PyHealthAdapter):
        if len(pairs) != len(model.features):
            raise ValueError(
                f"{len(pairs)} (embedding, mask) pair(s) for {len(model.features)} "
                f"features: {', '.join(model.feature_keys)}."
            )
        if args is None:
            args = model.assumed_args(pairs)
        records = {
            f.key: FeatureRecord(m.long() if f.embedding else x, m)
            for f, x, m in zip(model.features, inputs, masks)
        }
        ids = tuple(map(str, range(len(inputs[0]))))
        whole = EncodedBatch(inputs, masks, _tuple(args), records, ids)
        references = model.baseline(whole, baselines)
    else:
        references = _references(inputs, baselines)
    bare = Prepared(inputs, (), _arguments(args, model), "pairs", masks=masks)
    return bare.against((references,))


def _references(inputs: tuple[Tensor, ...], baselines: Any) -> tuple[Tensor, ...]:
    """Captum's ways to say a reference: nothing, a number, a tensor, a tuple."""
    if (
        isinstance(baselines, str)
        or callable(baselines)
        or isinstance(baselines, Mapping)
    ):
        raise TypeError(
            f"The baseline {baselines!r} needs a batch: give the data loader's batch, "
            "adapter.encode(batch) or its pairs, or the tensors of "
            "adapter.baseline(batch, ...)."
        )
    parts = (0.0,) * len(inputs) if baselines is None else _tuple(baselines)
    if len(parts) != len(inputs):
        raise ValueError(f"{len(parts)} baseline(s) for {len(inputs)} input(s).")
    references = []
    for k, (x, part) in enumerate(zip(inputs, parts)):
        if isinstance(part, Real):
            references.append(torch.full_like(x, float(part)))
            continue
        if not isinstance(part, Tensor):
            raise TypeError(
                f"Baseline {k} is a {type(part).__name__}, expected a tensor or number."
            )
        if part.shape[1:] != x.shape[1:] or part.shape[0] not in (1, x.shape[0]):
            raise ValueError(
                f"Baseline {k} has shape {tuple(part.shape)}, expected "
                f"{tuple(x.shape)}, or the same with one row."
            )
        references.append(part.to(x).expand_as(x))
    return tuple(references)


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, (tuple, list))
        and len(value) == 2
        and all(isinstance(part, Tensor) for part in value)
        and value[1].dtype == torch.bool
    )


def _is_batch(inputs: Any, model: nn.Module) -> bool:
    """Whether inputs are a PyHealth batch, or what is meant to be one."""
    if isinstance(inputs, (Mapping, EncodedBatch)):
        return True
    if not isinstance(model, PyHealthAdapter):
        return False
    if isinstance(inputs, (list, tuple)):
        return any(isinstance(part, Mapping) for part in inputs)
    return not isinstance(inputs, Tensor)


def _countable(part: Tensor, integers: bool) -> bool:
    """Whether a tensor can be an input."""
    return part.is_floating_point() or (integers and part.dtype != torch.bool)


def _tuple(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _arguments(value: Any, model: nn.Module) -> tuple[Any, ...]:
    """Additional arguments as Captum reads them: a list is one, a tuple several."""
    several = isinstance(value, tuple) or isinstance(model, PyHealthAdapter)
    return _tuple(value) if several or value is None else (value,)


def _ordinary(tensor: Tensor) -> Tensor:
    """One that autograd may save, also where the caller is in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor


def check_options(
    output: str,
    completeness: str,
    mixing: str,
    internal_batch_size: int | None,
    segments: int,
    rules: object,
) -> None:
    """Refuse options that do not exist; the message names the choices."""
    if completeness not in CHOICES:
        raise ValueError(f"completeness={completeness!r}; it is one of {CHOICES}.")
    if output not in ("logit", "probability"):
        raise ValueError(f"output={output!r}; it is 'logit' or 'probability'.")
    if mixing not in ("apart", "together"):
        raise ValueError(f"mixing={mixing!r}; it is 'apart' or 'together'.")
    if internal_batch_size is not None and not counts(internal_batch_size):
        raise ValueError(
            f"internal_batch_size={internal_batch_size!r}; a whole number, at least 1."
        )
    if not counts(segments):
        raise ValueError(f"segments={segments!r}; a whole number, at least 1.")
    if rules is not None and not isinstance(rules, Mapping):
        raise TypeError(
            "rules: expected a mapping from torch functions or module types to rules, "
            f"got {type(rules).__name__}."
        )


def explained(model: object, output: str, attribute_time: bool) -> nn.Module:
    """The module to explain: PyHealth's models wrapped, others as they are."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"Expected a PyHealth model, a PyHealthAdapter or another nn.Module, "
            f"got {type(model).__name__}."
        )
    if is_pyhealth_model(model):
        return PyHealthAdapter(model, attribute_time=attribute_time)
    if attribute_time:
        raise ValueError(
            "attribute_time=True needs a PyHealth model; of an adapter say "
            "PyHealthAdapter(model, attribute_time=True)."
        )
    if output == "probability" and not isinstance(model, PyHealthAdapter):
        raise ValueError(
            "output='probability' needs a PyHealth model, whose mode says how its "
            "logit becomes one; put the sigmoid or softmax into your module."
        )
    return model
