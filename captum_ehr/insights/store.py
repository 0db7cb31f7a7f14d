"""Explanations on demand, kept within a bound."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..explanation import Explanation
from ..propagation import Diagnostics
from .heads import Head
from .methods import Case, Method
from .sources import Source
from .views import plain


class Setting(NamedTuple):
    """How patients are explained.

    Args:
        model: Which of the models.
        method: The method's name.
        target: Which output; None for each patient's predicted one.
        baseline: The baseline's name.
    """

    model: int
    method: str
    target: int | None
    baseline: str


class Recent[K: Hashable, V]:
    """The values that were used last; safe to use from several threads.

    Example:
        >>> kept = Recent[str, int](1)
        >>> kept.put("a", 1), kept.put("b", 2), kept.get("a"), kept.get("b")
        (None, None, None, 2)
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """A value, or None where it is not kept (any more)."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        """Keep a value; the one that was used longest ago may have to go."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._size:
                self._values.popitem(last=False)

    def __len__(self) -> int:
        return len(self._values)


class Explanations:
    """Explains patients when asked, one computation at a time.

    Args:
        source: The patients and models.
        methods: What is on offer.
        names: Human names of codes.
        ids: What patients are called.
        readable: From the model's units to people's.
        size: How many patients' explanations are kept.
    """

    def __init__(
        self,
        source: Source,
        methods: Mapping[str, Method],
        names: Mapping[str, str],
        ids: Sequence[str],
        readable: Callable[[Explanation], Explanation] | None,
        size: int,
    ) -> None:
        self.source = source
        self.methods = methods
        self.names = dict(names)
        self.ids = tuple(ids)
        self.readable = readable or _unchanged
        self.heads: tuple[Head, ...] = tuple(
            source.head(model) for model in range(len(source.models))
        )
        self._kept = Recent[tuple[int, Setting], Explanation](size)
        self._scores: dict[int, Tensor] = {}
        self._computing = threading.RLock()

    def scores(self, model: int) -> Tensor:
        """``(patients, outputs)`` of all patients."""
        with self._computing:
            if model not in self._scores:
                rows = range(len(self.ids))
                parts = [
                    self.source.score(self.source.encode(chunk, model), model).cpu()
                    for chunk in self.source.chunks(rows, 32)
                ]
                self._scores[model] = torch.cat(parts)
            return self._scores[model]

    def kept(self, row: int, setting: Setting) -> Explanation | None:
        """One patient's explanation, if it is still there."""
        return self._kept.get((row, setting))

    def one(self, row: int, setting: Setting) -> Explanation:
        """One patient's explanation."""
        return self.many([row], setting)[0]

    def many(self, rows: Sequence[int], setting: Setting) -> list[Explanation]:
        """Patients' explanations, one each, in the order asked for."""
        found = {row: self.kept(row, setting) for row in rows}
        missing = [row for row, one in found.items() if one is None]
        if missing:
            with self._computing:
                found |= self._explained(missing, setting)
        return [one for row in rows if (one := found[row]) is not None]

    def probability(
        self, row: int, setting: Setting
    ) -> tuple[float | None, float | None] | None:
        """Of the explained class at the baseline and at the input, where it has one.

        One is None where the model has no answer, that at the baseline also where that
        is drawn from the dataset.
        """
        head, source, model = self.heads[setting.model], self.source, setting.model
        at_input = head.probabilities(self.scores(model)[row])
        if at_input is None:
            return None
        place = int(at_input.argmax()) if setting.target is None else setting.target
        if self.methods[setting.method].draws:
            return None, plain(float(at_input[place]))
        encoded = source.encode([row], model)
        reference = source.reference(encoded, setting.baseline, model)
        scores = source.score(replace(encoded, inputs=reference), model)
        at_baseline = head.probabilities(scores.cpu()[0])
        assert at_baseline is not None
        return plain(float(at_baseline[place])), plain(float(at_input[place]))

    def blank(self, rows: Sequence[int]) -> Explanation:
        """Patients without attributions: what stands where, and what it is called.

        They are called by their numbers.
        """
        encoded = self.source.encode(rows)
        zeros = torch.zeros(len(rows))
        explanation = Explanation(
            attributions={
                key: torch.zeros_like(one.values, dtype=torch.float32)
                for key, one in encoded.features.items()
            },
            features=dict(encoded.features),
            f_input=zeros,
            f_baseline=zeros,
            delta=zeros,
            rescale_factor=zeros + 1,
            target=(0,) * len(rows),
            diagnostics=Diagnostics(),
            patient_ids=tuple(map(str, rows)),
            names=self.names,
        )
        return self.readable(explanation)

    def _explained(
        self, rows: Sequence[int], setting: Setting
    ) -> dict[int, Explanation | None]:
        """Compute, and keep, what another request has not computed meanwhile."""
        found = {row: self.kept(row, setting) for row in rows}
        missing = [row for row, one in found.items() if one is None]
        size = self.methods[setting.method].together
        for chunk in self.source.chunks(missing, size):
            for row, explanation in zip(chunk, self._each(chunk, setting)):
                found[row] = explanation
                self._kept.put((row, setting), explanation)
        return found

    def _each(self, rows: Sequence[int], setting: Setting) -> list[Explanation]:
        """Patients together; alone where something is to be said of one of them."""
        together = self._run(rows, setting)
        if len(rows) > 1 and any("patient" in m for m in together.diagnostics.messages):
            return [self._run([row], setting) for row in rows]
        return [together[place] for place in range(len(rows))]

    def _run(self, rows: Sequence[int], setting: Setting) -> Explanation:
        method, head = self.methods[setting.method], self.heads[setting.model]
        model = self.source.models[setting.model]
        encoded = self.source.encode(rows, setting.model)
        encoded = replace(encoded, patient_ids=tuple(self.ids[row] for row in rows))
        reference: tuple[Tensor, ...] = ()
        if not method.draws:
            reference = self.source.reference(encoded, setting.baseline, setting.model)
        if setting.target is None:
            target = self.scores(setting.model)[list(rows)].argmax(1).tolist()
        else:
            target = [setting.target] * len(rows)
        case = Case(
            model,
            encoded,
            setting.baseline,
            reference,
            tuple(target),
            head.targets,
            self.source.scale,
            self.names,
        )
        return self.readable(method.explain(case))


def _unchanged(explanation: Explanation) -> Explanation:
    return explanation
