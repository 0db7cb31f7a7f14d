"""Reading a feature of a batch by its processor's schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..explanation import FeatureRecord


@dataclass(frozen=True)
class Feature:
    """One feature key and what its PyHealth processor says about it.

    Args:
        key: The feature key.
        processor: The fitted processor of the dataset.
        embedding: Path of the module that embeds it, None for continuous features.
        owner: The feature whose times these are, None for a feature proper.
        titles: Names of the columns of continuous values, where somebody gives them.
    """

    key: str
    processor: Any
    embedding: str | None
    owner: Feature | None = None
    titles: tuple[str, ...] | None = None

    @property
    def is_valued(self) -> bool:
        """Whether it is of continuous values; no tokens, and no multi-hot vector."""
        return self.embedding is None and (
            self.columns is None or self.owner is not None
        )

    @property
    def source(self) -> str:
        """The key of the batch's entry that it is read from."""
        return self.key if self.owner is None else self.owner.key

    @cached_property
    def schema(self) -> tuple[str, ...]:
        """The names of the tensors that the data loader gives for it."""
        return tuple(self.processor.schema())

    @cached_property
    def companions(self) -> tuple[str, ...]:
        """What stands beside the value: times, masks; a mask can always be added."""
        if self.owner is not None:
            return ()
        rest = tuple(name for name in self.schema if name != "value")
        return rest if "mask" in rest else (*rest, "mask")

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """From code to token id, as the processor has it; empty where it has none."""
        vocab = getattr(self.processor, "code_vocab", None)
        if vocab is None:  # processors of the CEHR kind keep theirs one step away
            vocab = getattr(getattr(self.processor, "vocab", None), "token_to_id", None)
        return vocab or {}

    @cached_property
    def vocabulary(self) -> tuple[str, ...] | None:
        """The code of each token id, None for continuous features."""
        vocab = self.ids
        if self.embedding is None or not vocab:
            return None
        if list(vocab.values()) == list(range(len(vocab))):
            return tuple(map(str, vocab))
        codes = [""] * (max(vocab.values()) + 1)
        for code, index in vocab.items():
            codes[index] = str(code)
        return tuple(codes)

    @cached_property
    def columns(self) -> tuple[str, ...] | None:
        """The categories of a multi-hot vector, None where columns have no names."""
        if self.owner is not None:
            return ("time",)
        vocab = getattr(self.processor, "label_vocab", None)
        if not vocab:
            return None
        return tuple(str(label) for label, _ in sorted(vocab.items(), key=_index))

    @cached_property
    def dims(self) -> int | None:
        """Dimensions of one patient's value, None where the processor does not say."""
        try:
            return int(self.processor.dim()[self.schema.index("value")])
        except (AttributeError, IndexError, NotImplementedError, TypeError, ValueError):
            return None

    @cached_property
    def width(self) -> int | None:
        """Columns of a continuous feature, None where the processor does not say."""
        size = getattr(self.processor, "size", None)
        width = size() if callable(size) else size
        return width if self.embedding is None and isinstance(width, int) else None

    def special(self, token: str, default: int) -> int:
        """The id of ``<pad>`` or ``<unk>``."""
        return int(self.ids.get(token, default))

    def read(self, value: Any) -> dict[str, Tensor | None]:
        """A batch entry as named tensors: value, and time and mask where given.

        Raises:
            TypeError: If it is neither a tensor nor a tuple of tensors.
            ValueError: If the tuple does not fit the processor's schema, or a value
                is infinite.
        """
        parts = value if isinstance(value, (tuple, list)) else (value,)
        names: Sequence[str] = self.schema
        if len(parts) == len(names) + 1 and "mask" not in names:
            names = (*names, "mask")
        if len(parts) != len(names):
            raise ValueError(
                f"Feature {self.key!r}: got {len(parts)} tensor(s), expected "
                f"{len(self.schema)} as in its processor's schema {self.schema} "
                "(a mask may follow)."
            )
        named: dict[str, Tensor | None] = {}
        for name, part in zip(names, parts):
            if part is not None and not isinstance(part, Tensor):
                raise TypeError(
                    f"Feature {self.key!r}: its {name} is a {type(part).__name__}, "
                    "expected a tensor as PyHealth's data loader gives it."
                )
            named[name] = part
        if self.owner is not None:
            named = self._times(self.owner, named)
        self._check(named["value"])
        return named

    def _times(
        self, owner: Feature, named: Mapping[str, Tensor | None]
    ) -> dict[str, Tensor | None]:
        """The times of another feature as values of their own."""
        value, time = named["value"], named["time"]
        if value is None or time is None:
            raise ValueError(
                f"Feature {owner.key!r}: attribute_time=True, but this batch has no "
                "times for it."
            )
        real = owner.mask(value, time, named.get("mask"))
        steps = real.flatten(2).any(2) if real.dim() > 2 else real
        time = time if time.is_floating_point() else time.float()
        return {"value": time, "time": time, "mask": steps}

    def _check(self, value: Tensor | None) -> None:
        if value is None or value.dim() == 0:
            raise ValueError(f"Feature {self.key!r}: there is no batch of values.")
        if value.shape[0] == 0:
            raise ValueError(
                f"Feature {self.key!r}: the batch is empty (shape "
                f"{tuple(value.shape)}); there is nobody to explain."
            )
        if value.layout != torch.strided or value.is_complex() or value.is_quantized:
            raise TypeError(
                f"Feature {self.key!r}: expected a dense tensor of real numbers, got "
                f"{value.dtype} of layout {value.layout}."
            )
        if value.is_meta:
            raise ValueError(
                f"Feature {self.key!r}: on the meta device, without values."
            )
        if self.owner is None and self.dims is not None and value.dim() <= self.dims:
            raise ValueError(
                f"Feature {self.key!r}: shape {tuple(value.shape)}, expected "
                f"{self.dims + 1} dimensions, the batch first, as PyHealth's data "
                "loader gives them. Is it a single sample of the dataset?"
            )
        if self.embedding is not None and value.dtype not in _IDS:
            raise TypeError(
                f"Feature {self.key!r}: expected token ids (int64 or int32), got "
                f"{value.dtype}. Give embeddings as a tuple of tensors instead."
            )
        if value.is_floating_point() and bool((infinite := torch.isinf(value)).any()):
            rows = infinite.flatten(1).any(1).nonzero().flatten()
            raise ValueError(
                f"Feature {self.key!r}: infinite values for patient(s) "
                f"{rows.tolist()} of the batch; give finite ones, or NaN where a value "
                "is missing and the model knows what to do."
            )

    def record(self, named: dict[str, Tensor | None]) -> FeatureRecord:
        """The feature as a person would read it."""
        value = named["value"]
        assert value is not None
        time = named.get("time")
        columns = self.columns
        if self.titles is not None and value.shape[-1] == len(self.titles):
            columns = self.titles
        return FeatureRecord(
            value,
            self.mask(value, time, named.get("mask")),
            time,
            self.vocabulary,
            columns,
        )

    def mask(self, value: Tensor, time: Tensor | None, held: Tensor | None) -> Tensor:
        """True where a real token or value stands; shaped like ``value``.

        Tokens: what is not ``<pad>``. Multi-hot: the categories that are present.
        Series: padding is what trails, all zeros in value and time; an all-zero row
        between others is an observation.
        """
        if self.owner is not None:
            real = torch.ones_like(value, dtype=torch.bool)
        elif self.embedding is not None:
            real = value != self.special("<pad>", 0)
        elif self.columns is not None:
            real = value != 0
        elif value.dim() > 2 or time is not None:
            step = value if value.dim() == 2 else value.flatten(2).abs().sum(2)
            seen = step != 0
            if time is not None and time.shape == seen.shape:
                seen = seen | (time != 0)
            later = seen.int().flip(1).cummax(1).values.flip(1).bool()
            real = later.view(*later.shape, *[1] * (value.dim() - 2)).expand_as(value)
        else:
            real = torch.ones_like(value, dtype=torch.bool)
        if held is not None:
            held = held.to(real.device).bool()
            while held.dim() < real.dim():
                held = held.unsqueeze(-1)
            real = real & held.expand_as(real)
        return real


#: The integers that torch's embedding takes.
_IDS = (torch.int64, torch.int32)


def _index(item: tuple[Any, int]) -> int:
    return item[1]
