"""Whose attributions are evaluated: ours, Captum's, and those of a user's own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import captum.attr
import torch
from torch import Tensor

from ...adapter import EncodedBatch
from ..captums import (
    attributed_by,
    class_of,
    drawn_alike,
    takes_distribution,
    takes_players,
)
from ..engine import Engine
from ..inputs import Prepared
from ..targets import Chosen
from .game import Explained

#: Attributions per token or value, one tensor per feature.
type Parts = tuple[Tensor, ...]

OURS, RANDOM = "DeepLiftEHR", "random"

#: What an instance of Captum's has that stays with its own model.
_INSIDE = ("attribution_method", "layer")

#: Rows that a path method of Captum's evaluates at a time.
_ROWS = 256


@dataclass(frozen=True, eq=False)
class Case:
    """Patients of one model, and what is explained of them.

    Args:
        dl: Our explainer of this model.
        batch: The patients as the caller gave them.
        encoded: The same as the adapter takes them.
        prepared: The same, and their references.
        places: ``(patients, ...)``, where the explained values stand in the output.
        function: The explained output of rows.
        mask: Whose each place is, as Captum takes it.
        seed: Of methods that draw.
    """

    dl: Engine
    batch: Any
    encoded: EncodedBatch
    prepared: Prepared
    places: Tensor
    function: Explained
    mask: tuple[Tensor, ...]
    seed: int

    def parts(self, singly: bool = False) -> Iterator[Case]:
        """So many patients as are explained at a time; one if the model mixes them."""
        size, singly = len(self.places), singly or self.function.apart
        step = 1 if singly else self.dl.internal_batch_size or size
        if step >= size:
            yield self
            return
        for rows in torch.arange(size).split(step):
            yield self._some(rows)

    def _some(self, rows: Tensor) -> Case:
        old = self.prepared
        encoded, at = self.encoded[rows.tolist()], rows.to(old.inputs[0].device)
        prepared = replace(
            old,
            inputs=encoded.inputs,
            references=tuple(tuple(x[at] for x in each) for each in old.references),
            args=encoded.additional_forward_args,
            encoded=encoded,
        )
        masks = tuple(part[at] for part in self.mask)
        places = self.places[rows.to(self.places.device)]
        return replace(
            self, encoded=encoded, prepared=prepared, places=places, mask=masks
        )

    def at(self, inputs: Parts) -> Case:
        """The same patients with other embeddings and values."""
        encoded = replace(self.encoded, inputs=inputs)
        return replace(
            self, encoded=encoded, prepared=replace(self.prepared, inputs=inputs)
        )


class Method(NamedTuple):
    """A way to explain.

    Args:
        name: What it is called.
        explain: Attributions of patients.
        asks: Whether it explains whatever case it is given; a user's own function
            knows its batch alone.
        singly: Whether patients are explained one by one, as each would be against
            the references of all.
    """

    name: str
    explain: Callable[[Case], Parts]
    asks: bool = True
    singly: bool = False

    def attributed(self, case: Case) -> Parts:
        """The attributions of all patients, as many at a time as may be."""
        if not self.asks:
            return self.explain(case)
        each = [self.explain(part) for part in case.parts(self.singly)]
        return tuple(torch.cat(column) for column in zip(*each))


def methods_of(asked: Iterable[Any] | Mapping[str, Any]) -> list[Method]:
    """Ours first, and those that are asked for.

    Raises:
        ValueError: If there is no such method, or two have one name.
        TypeError: If it is none.
    """
    if isinstance(asked, str):
        asked = (asked,)
    named = asked.items() if isinstance(asked, Mapping) else ((None, a) for a in asked)
    methods = [Method(OURS, _ours), *(_method(name, one) for name, one in named)]
    names = [method.name for method in methods]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"{name!r} is the name of several methods (the first is {OURS}): give "
                "a mapping with names of your own."
            )
    return methods


def _method(name: str | None, asked: Any) -> Method:
    if isinstance(asked, str) and asked == RANDOM:
        return Method(name or RANDOM, _random)
    if issubclass(asked if isinstance(asked, type) else type(asked), Engine):
        raise ValueError(
            "An explainer of this library stands for itself, by its own evaluate(); "
            "beside another give {'name': explainer.attribute}."
        )
    if isinstance(asked, captum.attr.Attribution):
        return _captums(name or type(asked).__name__, _movable(asked))
    if name is not None and callable(asked) and not isinstance(asked, type):
        return Method(name, partial(_own, name, asked), asks=False)
    kind = class_of(asked, (RANDOM, "DeepLift", "IntegratedGradients", "GradientShap"))
    return _captums(name or kind.__name__, kind)


def _captums(name: str, asked: Any) -> Method:
    """A class or an instance of Captum's."""
    return Method(name, partial(_captum, asked), singly=takes_distribution(asked))


def _movable(asked: captum.attr.Attribution) -> captum.attr.Attribution:
    """An instance, if it can be given another function than its own."""
    name = type(asked).__name__
    for inside in _INSIDE:
        if hasattr(asked, inside):
            raise ValueError(
                f"{name} has its own {inside}, which cannot be given the output that "
                f"is explained here: give {{{name!r}: function}} with a function of "
                "your own, from the batch to attributions by feature key."
            )
    return asked


def _ours(case: Case) -> Parts:
    """A forward of the patients and of each reference, in each segment."""
    passes = (1 + len(case.prepared.references)) * case.dl.segments
    case.function.meter.charge(len(case.places) * passes)
    with torch.enable_grad():  # a metric that asks need not
        result = case.dl.row_results(case.prepared, Chosen(case.places))
    return kept(case, result.attributions)


def _random(case: Case) -> Parts:
    """Normal random numbers: where a method without merit stands."""
    generator = torch.Generator().manual_seed(case.seed)
    masks = case.encoded.masks
    return tuple(
        torch.randn(m.shape, generator=generator).to(m.device) * m for m in masks
    )


def _captum(asked: Any, case: Case) -> Parts:
    """A class or an instance of Captum's, as a mean over the references."""
    each = []
    for reference in case.prepared.references:
        with drawn_alike(case.seed):
            method = _of_function(asked, case.function)
            parts = attributed_by(
                method,
                case.encoded,
                reference,
                (*case.prepared.args, case.places),
                case.mask if takes_players(method) else None,
                internal_batch_size=max(_ROWS, len(case.places)),
            )
        each.append(kept(case, parts))
    return tuple(torch.stack(column).mean(0) for column in zip(*each))


def _of_function(asked: Any, function: Explained) -> Any:
    """A method of this function: an instance keeps its own options."""
    if isinstance(asked, type):
        return asked(function)
    method = copy.copy(asked)
    for name in ("forward_func", "model"):
        if hasattr(method, name):
            setattr(method, name, function)
    return method


def _own(name: str, function: Callable[[Any], Any], case: Case) -> Parts:
    """What a user's function makes of the batch, by feature key."""
    found = function(case.batch)
    parts = []
    for key, mask in zip(case.encoded.feature_keys, case.encoded.masks):
        part = found.get(key) if isinstance(found, Mapping) else None
        if not isinstance(part, Tensor) or part.shape != mask.shape:
            came = tuple(part.shape) if isinstance(part, Tensor) else "no tensor"
            raise ValueError(
                f"{name!r} gives {came} for the feature {key!r}; expected a mapping "
                f"with a tensor of shape {tuple(mask.shape)}, one number per token or "
                "value."
            )
        parts.append(part.detach())
    return tuple(parts)


def kept(case: Case, parts: Parts) -> Parts:
    """Summed over embeddings; padding has nothing."""
    pairs = zip(parts, case.encoded.masks)
    sums = ((a.sum(-1) if a.dim() > m.dim() else a, m) for a, m in pairs)
    return tuple(torch.where(m, a.detach(), 0.0) for a, m in sums)
