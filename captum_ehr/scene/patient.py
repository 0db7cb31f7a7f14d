"""All that is said of one patient, worked out once; figures and pages draw it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .account import Change, item_steps, missing
from .folding import Block, fold
from .history import Band, Step, bands_of, visits_of
from .pairing import sentence
from .palette import ColorScale
from .verdict import Verdict, verdict_of
from .wording import (
    first_remark,
    has_probability,
    model_words,
    number,
    output_value,
    percent,
    probability,
    several,
    shorten,
    signed,
    target_words,
    tiny,
)

if TYPE_CHECKING:
    from captum_ehr.explanation import Explanation, Interactions


@dataclass(frozen=True)
class Axis:
    """The x axis that all features share: times where any is known, else the order."""

    first: float  # the places at its ends
    last: float
    is_time: bool  # places are times
    is_shown: bool  # False where nothing has a place
    label: str

    @property
    def margin(self) -> float:
        """What is left free at both ends."""
        return 0.06 * (self.last - self.first) or 0.5

    @property
    def low(self) -> float:
        """Where it begins."""
        return self.first - self.margin

    @property
    def high(self) -> float:
        """Where it ends."""
        return self.last + self.margin

    @property
    def ticks(self) -> list[float]:
        """Round places on it; of visits and steps those that there are."""
        if not self.is_shown or self.first == self.last:
            return [self.first] if self.is_shown else []
        rough = (self.high - self.low) / 8
        power = 10 ** math.floor(math.log10(rough))
        step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough)
        low, high = self.low, self.high
        if not self.is_time:
            step, low, high = max(1, round(step)), self.first, self.last
        counts = range(math.ceil(low / step), math.floor(high / step) + 1)
        return [count * step for count in counts]

    def places(self, band: Band) -> tuple[tuple[float, ...], str]:
        """Where a band's steps are, and what to know about it.

        Where some features have times and others only an order, the latter are
        spread evenly over the axis and say so.
        """
        steps = band.steps
        if band.is_timed:
            first = min(step.time for step in steps if step.is_timed)
            times = (step.time if step.is_timed else first for step in steps)
            lost = sum(not step.is_timed for step in steps)
            remark = f"{lost} visit(s) without a time stand at the left"
            return tuple(times), remark if lost else ""
        if not self.is_time:
            return tuple(band.numbers), ""
        spread = np.linspace(self.first, self.last, max(len(steps), 2))
        remark = "in order, evenly spaced: no times to go by"
        return tuple(spread[: len(steps)].tolist()), remark


@dataclass(frozen=True)
class PatientScene:
    """All that is said of one patient."""

    patient_id: str
    model: str  # empty where unknown
    output: str  # logit, probability or output
    target: str  # the explained output's name
    baseline: str  # in words; empty where unknown
    f_input: float
    f_baseline: float
    delta: float
    relative_delta: float
    total: float
    probabilities: tuple[float, float] | None  # at f(x0) and f(x); NaN: unknown
    bands: tuple[Band, ...]  # in the explanation's order; empty ones are left out
    visits: tuple[Step, ...]  # the codes of all features, in order
    scale: ColorScale  # shared by codes and values
    axis: Axis  # shared by the features
    verdict: Verdict
    head: str  # a figure's heading
    remark: tuple[str, ...]  # the first of what is to be said, if any
    time_label: str = "time"
    unit: str = ""  # of a regression's output
    facts: tuple[tuple[str, str], ...] = ()  # more for a page's heading
    is_right: bool | None = None  # the likeliest of several classes; None: unknown
    adds_up: bool = True  # to f(x) - f(x0), by promise of the method
    missing: float = 0.0  # what codes and values leave of f(x) - f(x0)
    together: str = ""  # its strongest pair in words; empty where none is known

    @property
    def measure(self) -> str:
        """What attributions are in."""
        if not self.scale.is_signed:
            return f"size without a sign, not in units of the {self.output}"
        return self.unit or self.output

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The visits, those with less weight folded."""
        return fold(self.visits)

    @property
    def visits_title(self) -> str:
        """What to call the visits together."""
        if any(visit.is_timed for visit in self.visits):
            return f"Visits by {self.time_label}"
        return "Visits" if any(visit.visit for visit in self.visits) else "Codes"

    def when(self, visit: Step) -> str:
        """What to call a visit."""
        if visit.is_timed:
            return f"{self.time_label} {number(visit.time)}"
        return f"visit {visit.visit}" if visit.visit else "all codes"

    @property
    def changes(self) -> tuple[Change, ...]:
        """From the output at the baseline, feature by feature, to the patient's."""
        steps = (Change(one.feature, "feature", 0.0, one.total) for one in self.bands)
        return tuple(self._chained(steps))

    @property
    def strongest(self) -> tuple[Change, ...]:
        """The same by codes and columns, the strongest first, the rest as one."""
        head, tail = item_steps(self.bands)
        shown = list(head)
        if tail:
            words = several(len(tail), "other", "other codes and values")
            rest = math.fsum(step.size for step in tail)
            shown.append(Change(words, "rest", 0.0, rest))
        return tuple(self._chained(shown))

    def _chained(self, steps: Iterable[Change]) -> Iterator[Change]:
        """Each step from where the one before ends, between the two outputs.

        Where a method promises no sum, every step begins at 0, and there are no others.
        """
        if not self.adds_up:
            yield from steps
            return
        words = f"baseline ({self.baseline})" if self.baseline else "baseline"
        at, end = self.f_baseline, self.f_input
        before, after = self.probabilities or (math.nan, math.nan)
        yield Change(words, "output", at, at, before)
        for step in steps:
            yield replace(step, start=at, end=at + step.size)
            at += step.size
        if self.missing:
            yield Change("not attributed", "missing", at, end)
        yield Change("this patient", "output", end, end, after)

    @property
    def others(self) -> Sequence[Change]:
        """The codes and columns that the strongest leave, each from 0."""
        return item_steps(self.bands)[1]

    @property
    def lines(self) -> list[str]:
        """What stands below a figure's heading."""
        baseline = f" ({shorten(self.baseline, 20)})" if self.baseline else ""
        account = (
            f"f(x0){baseline} {self.output_words('baseline')} → f(x) "
            f"{self.output_words('input')}   "
            f"sum of attributions {signed(self.total, 3)}   "
            f"completeness: |delta| / |f(x) - f(x0)| = {tiny(self.relative_delta)}"
        )
        return [account, *self.remark]

    def output_words(self, end: Literal["input", "baseline"]) -> str:
        """f(x) or f(x0), with its probability where it has one."""
        value = self.f_input if end == "input" else self.f_baseline
        share = (self.probabilities or (math.nan, math.nan))[end == "input"]
        words = output_value(value) + (f" {self.unit}" if self.unit else "")
        return words if math.isnan(share) else f"{words} ({percent(share)})"


def patient_scene(
    explanation: Explanation,
    patient: int | str = 0,
    *,
    time_label: str = "time",
    adds_up: bool = True,
    signed: bool = True,
    pairs: Interactions | None = None,
) -> PatientScene:
    """Work out what is said of one patient, and of its strongest pair of codes.

    Args:
        explanation: Of this patient and others.
        patient: Which one.
        time_label: What a time is.
        adds_up: Whether the method promises a sum.
        signed: Whether attributions say which way they move the output.
        pairs: What acts together, of the same patients.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> scene = patient_scene(DeepLiftEHR(model).explain(batch), "p1")
        >>> scene.verdict.status, [band.feature for band in scene.bands]
        ('caution', ['conditions', 'labs'])
    """
    explanation = explanation[patient]
    bands = bands_of(explanation)
    names = ("f_input", "f_baseline", "delta", "relative_delta", "total")
    numbers: dict[str, Any] = {
        name: float(getattr(explanation, name)[0]) for name in names
    }
    ends, shares = (numbers["f_baseline"], numbers["f_input"]), None
    if has_probability(explanation) and all(map(math.isfinite, ends)):
        shares = probability(ends[0]), probability(ends[1])
    patient_id, output = explanation.patient_ids[0], explanation.output_word
    target = f"{output} of {target_words(explanation)}"
    return PatientScene(
        patient_id=patient_id,
        model=explanation.model_name,
        output=output,
        target=explanation.target_label(0),
        baseline=explanation.baseline,
        probabilities=shares,
        bands=bands,
        visits=visits_of(bands),
        scale=ColorScale.of(
            (item.attribution for b in bands for item in b.items), signed
        ),
        axis=_axis(explanation, bands, time_label),
        verdict=verdict_of(explanation, adds_up),
        head=f"{shorten(patient_id, 40)} | {model_words(explanation)}{target}",
        remark=tuple(first_remark(explanation)),
        time_label=time_label,
        together="" if pairs is None else sentence(pairs[patient], explanation.names),
        unit=explanation.target_unit,
        adds_up=adds_up,
        missing=missing(explanation, math.fsum(band.total for band in bands)),
        **numbers,
    )


def _axis(explanation: Explanation, bands: Sequence[Band], time_label: str) -> Axis:
    """The x axis over all features that have places."""
    ordered = [band for band in bands if band.is_ordered]
    steps = [step for band in ordered for step in band.steps]
    times = [step.time for step in steps if step.is_timed]
    numbers = [float(place) for band in ordered for place in band.numbers]
    places = times or numbers
    ends = min(places, default=0.0), max(places, default=0.0)
    words = _axis_words(explanation, bands, time_label)
    return Axis(*ends, bool(times), bool(places), words)


def _axis_words(
    explanation: Explanation, bands: Sequence[Band], time_label: str
) -> str:
    """What the axis shows, and whether that is guessed."""
    timed = [band.feature for band in bands if band.is_timed]
    if timed:
        is_said = all(explanation.features[key].times for key in timed)
        # Who gives it a name has said what it is.
        is_guess = not is_said and time_label == "time"
        return time_label + (" (taken as elapsed)" if is_guess else "")
    records = explanation.features.values()
    if any(one.time is not None and bool(one.mask.any()) for one in records):
        return "visit (in order; the recorded times are no clock)"
    return "visit (in order; no times to go by)"
