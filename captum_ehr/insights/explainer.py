"""Explanations on demand, the last ones kept."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..adapter import EncodedBatch
from ..explanation import Explanation
from ..propagation import Diagnostics
from .methods import Case, Method, Offer
from .sources import Cache, Source


class Setting(NamedTuple):
    """How patients are explained."""

    model: int  # its place
    method: str
    target: int | None  # None for each patient's predicted one
    baseline: str


class Explained(ABC):
    """Explanations of patients by their places, made or read, the last ones kept."""

    ids: tuple[str, ...]  # what the patients are called
    methods: Mapping[str, Offer]  # those on offer, by name, the first shown first

    def __init__(self, kept: int) -> None:
        self._kept = Cache[tuple[int, Setting], Explanation](kept)
        self._computing = threading.RLock()

    def one(self, row: int, setting: Setting) -> Explanation:
        """One patient's explanation."""
        return self.many([row], setting)[0]

    def many(self, rows: Sequence[int], setting: Setting) -> list[Explanation]:
        """Patients' explanations, one each, in the order asked for."""
        known = {row: self._kept.get((row, setting)) for row in rows}
        if any(explanation is None for explanation in known.values()):
            with self._computing:
                # What another request has computed meanwhile is kept by now.
                known = {
                    row: self._kept.get((row, setting), e) for row, e in known.items()
                }
                missing = [row for row, e in known.items() if e is None]
                for row, explanation in self._made(missing, setting):
                    known[row] = self._kept[row, setting] = explanation
        return [e for row in rows if (e := known[row]) is not None]

    @abstractmethod
    def _made(
        self, rows: Sequence[int], setting: Setting
    ) -> Iterator[tuple[int, Explanation]]:
        """Patients' explanations that are not kept, with their places."""

    @abstractmethod
    def probability(self, row: int, setting: Setting) -> tuple[float, float] | None:
        """Of the explained class at the baseline and at the input, where it has one.

        One is NaN where the model has no answer, that at the baseline also where that
        is drawn from the dataset.
        """


class Explanations(Explained):
    """Explains patients when asked, one computation at a time."""

    methods: Mapping[str, Method]

    def __init__(
        self,
        source: Source,
        methods: Mapping[str, Method],
        names: Mapping[str, str],
        ids: Sequence[str],
        readable: Callable[[Explanation], Explanation] | None,
        size: int,
    ) -> None:
        super().__init__(size)
        self.source = source
        self.methods = methods
        self.names = dict(names)
        self.ids = tuple(ids)
        self.readable = readable or (lambda explanation: explanation)
        self.heads = tuple(source.head(model) for model in range(len(source.models)))
        self._scores: dict[int, Tensor] = {}

    def scores(self, model: int) -> Tensor:
        """``(patients, outputs)`` of all patients."""
        with self._computing:
            if model not in self._scores:
                parts = [
                    self.source.score(self.source.encode(rows, model), model).cpu()
                    for rows in self.source.chunks(range(len(self.ids)), 32)
                ]
                self._scores[model] = torch.cat(parts)
            return self._scores[model]

    def probability(self, row: int, setting: Setting) -> tuple[float, float] | None:
        """As asked of the model; see :class:`Explained`."""
        head, source, model = self.heads[setting.model], self.source, setting.model
        at_input = head.probabilities(self.scores(model)[row])
        if at_input is None:
            return None
        place = int(at_input.argmax()) if setting.target is None else setting.target
        if self.methods[setting.method].draws:
            return math.nan, float(at_input[place])
        encoded = source.encode([row], model)
        reference = source.reference(encoded, setting.baseline, model)
        scores = source.score(replace(encoded, inputs=reference), model)
        at_baseline = head.probabilities(scores.cpu()[0])
        assert at_baseline is not None
        return float(at_baseline[place]), float(at_input[place])

    def blank(self, rows: Sequence[int]) -> Explanation:
        """Patients without attributions: what stands where, and what it is called.

        They are called by their numbers.
        """
        encoded = replace(self.source.encode(rows), patient_ids=tuple(map(str, rows)))
        return self.readable(replace(unexplained(encoded), names=self.names))

    def _made(
        self, rows: Sequence[int], setting: Setting
    ) -> Iterator[tuple[int, Explanation]]:
        for chunk in self.source.chunks(rows, self.methods[setting.method].together):
            yield from zip(chunk, self._each(chunk, setting))

    def _each(self, rows: Sequence[int], setting: Setting) -> list[Explanation]:
        """Patients together; alone where something is to be said of one of them."""
        together = self._run(rows, setting)
        report = together.diagnostics
        is_anyones = report.structure or any("patient" in m for m in report.messages)
        if len(rows) > 1 and is_anyones:
            return [self._run([row], setting) for row in rows]
        return [together[place] for place in range(len(rows))]

    def _run(self, rows: Sequence[int], setting: Setting) -> Explanation:
        source, model = self.source, setting.model
        method, head = self.methods[setting.method], self.heads[model]
        encoded = source.encode(rows, model)
        reference: tuple[Tensor, ...] = ()
        if not method.draws:
            reference = source.reference(encoded, setting.baseline, model)
        if setting.target is None:
            target = self.scores(model)[list(rows)].argmax(1).tolist()
        else:
            target = [setting.target] * len(rows)
        case = Case(source.models[model], encoded, reference, tuple(target))
        explained = method.explain(case)
        explanation = replace(
            explained,
            patient_ids=tuple(self.ids[row] for row in rows),
            output=source.scale,
            target_names=head.targets,
            mode=explained.mode or head.mode,
            baseline=setting.baseline,
            names=self.names,
        )
        return self.readable(explanation)


def unexplained(encoded: EncodedBatch) -> Explanation:
    """Patients without attributions."""
    zeros = torch.zeros(len(encoded))
    return Explanation(
        attributions={
            key: torch.zeros_like(record.values, dtype=torch.float32)
            for key, record in encoded.features.items()
        },
        features=dict(encoded.features),
        f_input=zeros,
        f_baseline=zeros,
        delta=zeros,
        rescale_factor=zeros + 1,
        target=(0,) * len(encoded),
        diagnostics=Diagnostics(),
        patient_ids=encoded.patient_ids,
    )
