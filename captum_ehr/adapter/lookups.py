"""Where a model looks its token ids up, the embeddings at hand are given instead.

A table that is called with the batch's own ids gives them at once. A model that looks
ids up in another way (``F.embedding(ids, table.weight)``, ``table.weight[ids]``), or
other ids than the batch's (turned round, shifted, sorted, cut, repeated, of two
features in one table), is run with ids that know where they stood.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

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
    """Run a model on given embeddings.

    Args:
        model: Runs it, given a function from a lookup to the ids that the model gets.
        lookups: One per token feature.
        tracing: Whether the ids have to know where they stood; if they turn out to
            have to, the model is run again.

    Returns:
        What the model returned, and whether the ids had to be traced.

    Raises:
        ValueError: If a feature's ids are used in a way that cannot be followed.
    """
    if not tracing:
        try:
            return _called(model, lookups), False
        except Moved:
            pass
    for one in lookups:
        one.start_again()
        _put_back(one.table)
    output = model(traced(lookups))
    for one in lookups:
        one.check()
    return output, True


def _called(model: Callable[..., Any], lookups: Sequence[Lookup]) -> Any:
    """Run a model whose tables are simply called with the batch's ids."""
    for one in lookups:
        one.start_again()
        if not _is_ours(one.table) and not _plain(one.table):
            raise Moved
        same = [other for other in lookups if other.table is one.table]
        one.table.__dict__["forward"] = partial(_given, same)
    output = model(lambda one: one.ids)
    if not all(one.asked for one in lookups):
        raise Moved
    return output


def _given(lookups: Sequence[Lookup], ids: Tensor) -> Tensor:
    """What stands in place of a table's forward."""
    for one in lookups:
        if one.owns(ids):
            one.asked = True
            same = ids.shape == one.ids.shape
            return one.given if same else one.given.reshape(*ids.shape, -1)
    raise Moved


def _plain(table: Any) -> bool:
    """Whether calling a table is looking ids up and nothing else."""
    return (
        type(table).forward is nn.Embedding.forward
        and table.max_norm is None
        and "forward" not in table.__dict__
    )


def _is_ours(table: Any) -> bool:
    return getattr(table.__dict__.get("forward"), "func", None) is _given


def _put_back(table: Any) -> None:
    if _is_ours(table):
        del table.__dict__["forward"]
