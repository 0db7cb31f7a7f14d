"""Token ids that know where in the batch they stood, whatever a model does to them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..propagation.arguments import positional
from ..propagation.containers import tensors_in

#: Places that are none of the batch's: an id of the model's own, such as padding; and
#: one that nobody can follow.
OWN, LOST = -1, -2


@dataclass(eq=False)
class Lookup:
    """A token feature, and what its table is to give for it.

    Args:
        key: The feature key.
        path: Where its table is in the model.
        module: Gives the table's module, in the view that runs; a weak reference, as
            the table is given a forward that holds this.
        given: The embeddings at hand, ``(*ids.shape, width)``.
        ids: The batch's token ids.
    """

    key: str
    path: str
    module: Callable[[], Any]
    given: Tensor
    ids: Tensor
    served: int = 0
    whole: bool = True
    lost: str = ""
    start: int = 0
    version: int = field(init=False)

    def __post_init__(self) -> None:
        self.start_again()

    @property
    def table(self) -> Any:
        """The table's module."""
        return self.module()

    def start_again(self) -> None:
        """Forget what an earlier run has seen."""
        self.served, self.whole, self.lost = 0, True, ""
        self.version = _version(self.ids)

    def owns(self, ids: Tensor) -> bool:
        """Whether ids are the batch's own, all of them and in order."""
        with torch._C.DisableTorchFunction():  # no part of the model
            if ids is not self.ids:
                same = ids.data_ptr() == self.ids.data_ptr() and ids.is_contiguous()
                same = same and ids.numel() == self.ids.numel()
                if not same or ids.dtype.itemsize < 4:
                    return False
            return _version(self.ids) == self.version and self.ids.is_contiguous()

    def serves(self, weight: Tensor) -> bool:
        """Whether a table of embeddings is this feature's."""
        table = self.table.weight
        if weight is table:
            return True
        same = 0 != weight.data_ptr() == table.data_ptr()
        return same and weight.shape == table.shape

    def put_in(self, ids: TokenIds, embedded: Tensor) -> Tensor:
        """The embeddings at hand for this feature's ids, elsewhere what is found."""
        self.served += 1
        self.whole = self.whole and self.owns(ids)
        at = ids.places.long() - self.start
        here = (at >= 0) & (at < self.ids.numel())
        flat = self.given.reshape(-1, self.given.shape[-1])
        mine = flat[at.clamp(0, max(len(flat) - 1, 0))].to(embedded.dtype)
        return torch.where(here.unsqueeze(-1), mine, embedded)


class TokenIds(Tensor):
    """Integers that carry the place at which each stood in the batch.

    A subclass sees the torch calls that it takes part in, and no others. What only
    moves ids moves their places too; what puts other ids between them gives these the
    place ``OWN``; what is computed of them keeps the places where the id is the same.
    """

    places: Tensor
    owners: tuple[Lookup, ...]

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the call on plain tensors, and the places beside it."""
        args, kwargs = positional(func, args, kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            return _seen(func, args, kwargs)

    @staticmethod
    def of(ids: Tensor, places: Tensor, owners: tuple[Lookup, ...]) -> TokenIds:
        """Ids that stood at these places."""
        token_ids: TokenIds = ids.as_subclass(TokenIds)
        token_ids.places, token_ids.owners = places, owners
        return token_ids


def traced(lookups: Sequence[Lookup]) -> Callable[[Lookup], TokenIds]:
    """From a lookup to its ids, each with a place of its own."""
    start = 0
    for lookup in lookups:
        lookup.start = start
        start += lookup.ids.numel()

    def ids(lookup: Lookup) -> TokenIds:
        count = torch.arange(lookup.ids.numel(), device=lookup.ids.device)
        return TokenIds.of(
            lookup.ids, (count + lookup.start).view(lookup.ids.shape), (lookup,)
        )

    return ids


def _seen(func: Any, args: Any, kwargs: Any) -> Any:
    """A call that ids take part in."""
    name = getattr(func, "__name__", "")
    first = args[0] if args else None
    embedded = _looked_up(name, func, args, kwargs)
    if embedded is not None:
        return embedded
    if name == "__iter__":
        return iter(_seen(torch.unbind, args, kwargs))
    if name in _MOVES and isinstance(first, TokenIds):
        places = func(first.places, *args[1:], **kwargs)
        return _with_places(func(*args, **kwargs), places, first.owners)
    if name in _CASTS and isinstance(first, TokenIds):
        result = func(*args, **kwargs)
        if not _whole(result):
            return result
        return TokenIds.of(result, first.places.to(result.device), first.owners)
    if name in _VALUES:
        return _merged(name, func, args, kwargs)
    if name in ("sort", "topk") and isinstance(first, TokenIds):
        return _sorted(name, func, args, kwargs)
    return _computed(name, func, args, kwargs)


def _with_places(result: Any, places: Any, owners: tuple[Lookup, ...]) -> Any:
    """Results that are ids, with their places."""
    if isinstance(result, Tensor):
        return TokenIds.of(result, places, owners) if _whole(result) else result
    if isinstance(result, (list, tuple)) and len(result) == len(places):
        return tuple(_with_places(r, p, owners) for r, p in zip(result, places))
    return result


def _merged(name: str, func: Any, args: Any, kwargs: Any) -> Any:
    """Ids beside or in place of others, which have no place in the batch."""
    owners = _owners(args, kwargs)
    values = _VALUES[name]
    places = [_as_places(a) if k in values else a for k, a in enumerate(args)]
    named = {k: _as_places(a) if k in _NAMED else a for k, a in kwargs.items()}
    if name in ("pad", "pad_sequence") and len(args) <= values[-1]:
        named["value" if name == "pad" else "padding_value"] = OWN
    if name in _WRITES and type(args[0]) is Tensor:
        written: Any = args[0]
        written.__class__ = TokenIds  # from now on it holds ids of the batch
        written.places, written.owners = places[0], ()
    result = func(*args, **kwargs)
    moved = func(*places, **named)
    if name not in _WRITES:
        return _with_places(result, moved, owners)
    args[0].owners = tuple(dict.fromkeys((*args[0].owners, *owners)))
    return None if result is None else args[0]


def _as_places(value: Any) -> Any:
    """The places of what stands at a value's position in a call."""
    if isinstance(value, TokenIds):
        return value.places
    if isinstance(value, Tensor):
        return torch.full_like(value, OWN, dtype=torch.long)
    if isinstance(value, (list, tuple)):
        return type(value)(_as_places(item) for item in value)
    return OWN


def _sorted(name: str, func: Any, args: Any, kwargs: Any) -> Any:
    result = func(*args, **kwargs)
    place = 1 if name == "sort" else 2
    dim = kwargs.get("dim", args[place] if len(args) > place else -1)
    moved = args[0].places.gather(dim, result[1])
    return type(result)((TokenIds.of(result[0], moved, args[0].owners), result[1]))


def _computed(name: str, func: Any, args: Any, kwargs: Any) -> Any:
    """What is computed of ids: where an id is still the same, it is that one."""
    owners = _owners(args, kwargs)
    first = next(_all_ids(args, kwargs))
    before = first.clone() if _overwrites(name) else first
    result = func(*args, **kwargs)
    if not isinstance(result, Tensor) or not _whole(result) or name in _INDICES:
        return result
    for lookup in owners:
        lookup.lost = lookup.lost or name
    if result.shape != before.shape:
        return TokenIds.of(result, torch.full_like(result, LOST).long(), owners)
    same = torch.where(result == before, first.places, LOST)
    places = torch.where((result == 0) & (same == LOST), OWN, same)
    if not _overwrites(name):
        return TokenIds.of(result, places, owners)
    first.places.copy_(places)
    return first


def _looked_up(name: str, func: Any, args: Any, kwargs: Any) -> Any:
    """A lookup in a feature's table, with its embeddings; None if it is none."""
    weight, ids = _sides(name, args, kwargs)
    if weight is None:
        return None
    if kwargs.get("max_norm") is not None or (name == "embedding" and len(args) > 3):
        args = [a.clone() if a is weight else a for a in args]  # it writes on it
        kwargs = {k: a.clone() if a is weight else a for k, a in kwargs.items()}
    embedded = func(*args, **kwargs)
    served = [lookup for lookup in ids.owners if lookup.serves(weight)]
    for lookup in ids.owners:
        if lookup not in served:
            warnings.warn(
                f"Feature {lookup.key!r}: the model looks its ids up in another table "
                f"than {lookup.path!r} too; what it finds there is not attributed, and "
                "is the same for the reference",
                stacklevel=2,
            )
        elif lookup.lost and bool((ids.places == LOST).any()):
            raise ValueError(
                f"Feature {lookup.key!r}: the model looks up other ids than the "
                f"batch's, made by {lookup.lost}; whose embeddings these are cannot be "
                "followed."
            )
    for lookup in served:
        embedded = lookup.put_in(ids, embedded)
    return embedded


def _sides(name: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The table and the ids of a call that takes rows of a table."""
    sides: tuple[Any, Any] = (None, None)
    if name == "embedding" and args:
        sides = (args[1] if len(args) > 1 else kwargs.get("weight"), args[0])
        if isinstance(sides[0], TokenIds):  # torch.embedding, of torch itself
            sides = sides[::-1]
    elif name == "__getitem__":
        index = args[1]
        if isinstance(index, tuple) and index and set(map(str, index[1:])) <= _ALL:
            index = index[0]
        sides = (args[0], index)
    elif name == "index_select":
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        index = kwargs.get("index", args[2] if len(args) > 2 else None)
        sides = (args[0], index) if dim in (0, -2) else sides
    weight, ids = sides
    if not isinstance(ids, TokenIds) or not isinstance(weight, Tensor):
        return None, None
    table = weight.dim() == 2 and weight.is_floating_point()
    return (weight, ids) if table else (None, None)


def _owners(args: Any, kwargs: Any) -> tuple[Lookup, ...]:
    tensors = _all_ids(args, kwargs)
    return tuple(dict.fromkeys(owner for ids in tensors for owner in ids.owners))


def _all_ids(args: Any, kwargs: Any) -> Iterator[TokenIds]:
    for value in tensors_in((*args, *kwargs.values())):
        if isinstance(value, TokenIds):
            yield value


def _whole(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in _INTEGERS


def _overwrites(name: str) -> bool:
    if name.startswith("__"):
        return name.startswith("__i") and name not in ("__index__", "__invert__")
    return name.endswith("_")


def _version(ids: Tensor) -> int:
    return 0 if ids.is_inference() else ids._version


_INTEGERS = frozenset({torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8})

#: An index that takes all of a dimension, as it is written.
_ALL = frozenset({str(slice(None)), str(Ellipsis)})

#: Calls that move their first operand's elements about, and nothing else.
_MOVES = frozenset(
    "__get__ view view_as reshape reshape_as flatten unflatten ravel squeeze unsqueeze "
    "transpose swapaxes swapdims permute movedim moveaxis t adjoint narrow select "
    "split split_with_sizes chunk tensor_split unbind hsplit vsplit unfold diagonal "
    "expand expand_as broadcast_to repeat repeat_interleave tile flip fliplr flipud "
    "roll rot90 index_select gather take take_along_dim masked_select __getitem__ "
    "clone contiguous detach alias as_strided requires_grad_ atleast_1d atleast_2d "
    "atleast_3d _pack_padded_sequence".split()
)

#: Calls that change the kind of number or the device.
_CASTS = frozenset("to type type_as long int short cpu cuda".split())

#: Calls that put ids side by side, or in place of others, and where in their arguments
#: these stand.
_VALUES = {
    **dict.fromkeys("cat concat concatenate stack hstack vstack dstack".split(), (0,)),
    **dict.fromkeys("column_stack row_stack zero_".split(), (0,)),
    **dict.fromkeys("copy_ fill_".split(), (0, 1)),
    **dict.fromkeys("masked_fill masked_fill_ __setitem__".split(), (0, 2)),
    **dict.fromkeys("masked_scatter masked_scatter_".split(), (0, 2)),
    **dict.fromkeys("index_fill index_fill_ index_copy index_copy_".split(), (0, 3)),
    **dict.fromkeys("scatter scatter_".split(), (0, 3)),
    "where": (1, 2),
    "pad": (0, 3),
    "pad_sequence": (0, 2),
}

#: The same, where they are named.
_NAMED = frozenset(("value", "other", "src", "source", "padding_value", "tensors"))

#: Which of these write on their first operand.
_WRITES = frozenset(n for n in _VALUES if _overwrites(n) or n == "__setitem__")

#: Calls whose integers are positions, not ids.
_INDICES = frozenset(
    "argsort argmax argmin nonzero count_nonzero searchsorted bucketize bincount size "
    "numel zeros_like ones_like full_like empty_like rand_like randint_like new_zeros "
    "new_ones new_full new_empty new_tensor expand_as view_as reshape_as type_as "
    "broadcast_to".split()
)
