"""Where a model looks its token ids up, the embeddings at hand are given instead.

A model is first run with ids that know where they stood. If it does no more than call
its tables with them, that is what is replaced from then on; but it may look them up in
another way (``F.embedding(ids, table.weight)``, ``table.weight[ids]``), or other ids
than the batch's (turned round, shifted, sorted, cut, repeated, of two features in one
table).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .token_ids import Lookup, traced


class Moved(BaseException):
    """A table is asked for ids that are not simply the batch's.

    No exception that a model could catch.
    """


def rows(table: Any, ids: Tensor) -> Tensor:
    """What a table itself has for ids: ``(*ids.shape, width)``."""
    weight, longest = table.weight.detach(), getattr(table, "max_norm", None)
    if longest is None:
        return F.embedding(ids, weight)
    return F.embedding(ids, weight.clone(), None, longest, table.norm_type)


def run(
    model: Callable[[Callable[[Lookup], Any]], Any],
    lookups: Sequence[Lookup],
    tracing: bool,
) -> tuple[Any, bool]:
    """Run a model on given embeddings, one lookup per token feature.

    The model is given a function from a lookup to the ids that it gets. If these turn
    out to have to know where they stood (``tracing``), it is run again. Returns its
    output, and whether they have to the next time.
    """
    if not tracing:
        try:
            return _called(model, lookups), False
        except Moved:
            pass
    calls: list[Any] = []
    for lookup in lookups:
        lookup.start_again()
        _replace(lookup.table, partial(_counted, calls, lookup.table))
    ids = traced(lookups)
    output = model(ids)
    idle = [lookup for lookup in lookups if not lookup.served]
    if idle:
        _check_unused(model, idle, ids)
        output = model(ids)  # whoever watches the model sees this run
    simple = all(lookup.whole and _is_plain(lookup.table) for lookup in lookups)
    return output, not simple or len(calls) != sum(lookup.served for lookup in lookups)


def _check_unused(
    model: Callable[..., Any], idle: Sequence[Lookup], ids: Callable[[Lookup], Any]
) -> None:
    """A feature without attributions is right only where its ids make no difference."""
    try:
        with torch._C.DisableTorchFunction(), torch.no_grad():
            model(lambda lookup: object() if lookup in idle else ids(lookup))
    except Exception:
        lookup = idle[0]
        raise ValueError(
            f"Feature {lookup.key!r}: the model uses its token ids but never looks "
            f"them up in {lookup.path!r}, so its embeddings cannot be put in. If "
            "another module embeds it, say so: PyHealthAdapter(model, embeddings="
            f"{{{lookup.key!r}: 'path.of.module'}}). Ids that are taken as numbers "
            "have nothing to attribute to them."
        ) from None


def _called(model: Callable[..., Any], lookups: Sequence[Lookup]) -> Any:
    """Run a model whose tables are simply called with the batch's ids."""
    with torch._C.DisableTorchFunction():
        for lookup in lookups:
            lookup.start_again()
            same = [other for other in lookups if other.table is lookup.table]
            if not _replace(lookup.table, partial(_given, same)):
                raise Moved
    output = model(lambda lookup: lookup.ids)
    if not all(lookup.served for lookup in lookups):
        raise Moved
    return output


def _given(lookups: Sequence[Lookup], ids: Tensor) -> Tensor:
    """What stands in place of a table's forward."""
    for lookup in lookups:
        if lookup.owns(ids):
            lookup.served += 1
            same = ids.shape == lookup.ids.shape
            return lookup.given if same else lookup.given.reshape(*ids.shape, -1)
    raise Moved


def _counted(calls: list[Any], table: Any, ids: Tensor) -> Tensor:
    """A table's own forward, whose calls are counted."""
    calls.append(table)
    embedded: Tensor = nn.Embedding.forward(table, ids)
    return embedded


def _replace(table: Any, forward: Callable[..., Any]) -> bool:
    """Put another forward in a table's place, where its own only looks ids up."""
    plain = _is_plain(table)
    if plain:
        table.__dict__["forward"] = forward
    return plain


def _is_plain(table: Any) -> bool:
    """Whether calling a table is looking ids up and nothing else."""
    forward = table.__dict__.get("forward")
    return (
        type(table).forward is nn.Embedding.forward
        and table.max_norm is None
        and (forward is None or getattr(forward, "func", None) in (_given, _counted))
    )
