"""All that is said of a cohort, worked out once; figures and pages draw it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from captum_ehr.explanation.resampling import Resampling
from captum_ehr.explanation.sums import strongest, sums_of
from captum_ehr.explanation.words import remarks, summary

from .palette import ColorScale
from .verdict import TOLERANCE
from .wording import planted_ranks, shorten, tiny

if TYPE_CHECKING:
    import pandas as pd

    from captum_ehr.explanation import Explanation

TOP = 20
"""How many codes a page shows."""


@dataclass(frozen=True)
class TopCode:
    """One code over all samples."""

    rank: int  # from 1, by the mean absolute attribution
    feature: str
    code: str
    name: str
    count: int  # this and what follows: as in Explanation.top
    patients: int
    mean: float
    mean_abs: float
    prevalence: float  # the share of the samples that have it
    share: float  # mean_abs over the strongest code's; 0 where that is no number
    is_planted: bool = False  # known to matter
    interval: tuple[float, float] | None = None  # of the mean, where there is one
    target: str = ""  # where samples are explained for several
    unit: str = ""  # of its values, where they have one

    @property
    def is_named(self) -> bool:
        """True where the name says more than the code."""
        return self.name not in ("", self.code)

    @property
    def signed_share(self) -> float:
        """``mean`` in the same measure as ``share``, -1 to 1."""
        is_known = math.isfinite(self.mean) and self.share > 0
        return self.mean / self.mean_abs * self.share if is_known else 0.0


@dataclass(frozen=True)
class PopulationScene:
    """All that is said of a cohort."""

    samples: int  # how many were explained
    codes: tuple[TopCode, ...]  # strongest first
    code_count: int  # of codes and columns, in all
    planted: tuple[tuple[str, int | None], ...] = ()  # best ranks, if any
    summary: tuple[str, ...] = ()
    residuals: tuple[float, float] = (0.0, 0.0)  # median, largest relative delta
    rescaled: int = 0  # how many samples
    rescaled_by: float = 0.0  # the most, as a share: |factor - 1|
    fallbacks: tuple[str, ...] = ()  # operations without an exact rule
    remarks: tuple[str, ...] = ()
    model: str = ""
    scale: ColorScale = ColorScale(0.0)  # of bars
    level: float | None = None  # of the codes' intervals

    @property
    def rescaled_words(self) -> str:
        """How many were rescaled, and whether that was more than rounding.

        Example:
            >>> scene = PopulationScene(200, (), 0, rescaled=149, rescaled_by=3e-7)
            >>> scene.rescaled_words
            '149 of 200; of these, rounding only (≤ 3e−07)'
        """
        words = f"{self.rescaled} of {self.samples}"
        if not self.rescaled:
            return words
        if self.rescaled_by <= TOLERANCE:
            return f"{words}; of these, rounding only (≤ {tiny(self.rescaled_by)})"
        return f"{words}; more than rounding, by up to {tiny(self.rescaled_by)}"

    @property
    def has_counts(self) -> bool:
        """True where it is known how often each code stands in the records."""
        return any(code.count for code in self.codes)

    @property
    def has_targets(self) -> bool:
        """True where each code is of the samples explained for its own target."""
        return any(code.target for code in self.codes)

    @property
    def has_intervals(self) -> bool:
        """True where it is known how sure means are."""
        return any(code.interval for code in self.codes)

    @property
    def interval_words(self) -> str:
        """What the intervals are called."""
        return "interval" if self.level is None else f"{100 * self.level:g} % interval"


def top_codes(
    rows: Iterable[Mapping[str, Any]], samples: int, planted: Collection[str] = ()
) -> tuple[TopCode, ...]:
    """Rows as :meth:`captum_ehr.Explanation.top` has them, ranked as they come.

    A mean is None or NaN where a patient has no answer; ``mean_low`` and ``mean_high``
    are the ends of its interval, where there is one.
    """
    known = [dict(row) for row in rows]
    for row in known:
        for key in ("mean", "mean_abs"):
            row[key] = math.nan if row[key] is None else float(row[key])
    sizes = (row["mean_abs"] for row in known if math.isfinite(row["mean_abs"]))
    most = max(sizes, default=0.0)
    return tuple(
        TopCode(
            rank,
            row["feature"],
            row["code"],
            row["name"] or row["code"],
            row.get("count", 0),
            row["patients"],
            row["mean"],
            row["mean_abs"],
            row.get("samples", row["patients"]) / max(row.get("explained", samples), 1),
            row["mean_abs"] / most if 0 < row["mean_abs"] <= most else 0.0,
            row["code"] in planted,
            _interval(row),
            row.get("target", ""),
            row.get("unit") or "",
        )
        for rank, row in enumerate(known, 1)
    )


def _interval(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """The ends of the mean's interval, where there is one."""
    low, high = row.get("mean_low"), row.get("mean_high")
    if low is None or high is None or not math.isfinite(low + high):
        return None
    return float(low), float(high)


def population_scene(
    explanation: Explanation,
    *,
    k: int | None = TOP,
    planted: Collection[str] = (),
    level: float | None = None,
) -> PopulationScene:
    """Work out what is said of all patients of an explanation.

    With a level the codes have intervals of their means, by bootstrap over patients.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> scene = population_scene(DeepLiftEHR(model).explain(batch), k=2)
        >>> [code.code for code in scene.codes]
        ['E11.9', 'I50.9']
    """
    table = strongest(explanation)
    samples, relative = len(explanation), explanation.relative_delta
    top = table.head(len(table) if k is None else k)
    if level is not None:
        top = strongest(explanation, k=k, how=Resampling(level=level))
    rows = top.to_dict("records")
    return PopulationScene(
        samples,
        top_codes(rows, samples, planted),
        len(table),
        planted_ranks(table["code"].tolist(), planted),
        tuple(summary(explanation)),
        (float(relative.median()), float(relative.max())) if samples else (0.0, 0.0),
        int((explanation.rescale_factor != 1).sum()),
        float((explanation.rescale_factor - 1).abs().max()) if samples else 0.0,
        explanation.diagnostics.fallbacks,
        tuple(remarks(explanation)),
        explanation.model_name,
        level=level,
    )


@dataclass(frozen=True)
class CodeSamples:
    """One code over all samples."""

    sizes: np.ndarray  # (samples,), its sums; 0 where it is absent
    has: np.ndarray  # (samples,), boolean
    values: np.ndarray | None  # (samples,), the mean values; None for a code


def code_samples(
    frame: pd.DataFrame, feature: str, code: str, samples: int
) -> CodeSamples:
    """What each sample has of one code, from the rows of all."""
    rows = frame[(frame["feature"] == feature) & (frame["code"] == code)]
    by_sample = rows.groupby("sample")
    sizes = sums_of(rows, ["sample"])["attribution"].reindex(range(samples))
    has = np.isin(np.arange(samples), rows["sample"])
    values = by_sample["value"].mean().reindex(range(samples)).to_numpy(dtype=float)
    return CodeSamples(
        np.where(has, sizes.to_numpy(dtype=float), 0.0),
        has,
        None if np.isnan(values).all() else values,
    )


@dataclass(frozen=True)
class Residuals:
    """How much of the change each sample of an explanation misses."""

    name: str
    sizes: np.ndarray  # (samples,), relative deltas; infinite for no number
    beyond: np.ndarray  # (samples,), boolean: beyond the tolerance
    patients: tuple[str, ...]  # per sample, the identifier

    @classmethod
    def of(cls, name: str, explanation: Explanation, tolerance: float) -> Residuals:
        """Those of an explanation."""
        if not len(explanation):
            raise ValueError(
                f"nothing to show: the explanation {name!r} has no sample."
            )
        sizes = explanation.relative_delta.numpy().copy()
        sizes[np.isnan(sizes)] = np.inf
        return cls(name, sizes, sizes > tolerance, explanation.patient_ids)

    def account(self, most: int) -> str:
        """The median, and who is beyond the tolerance, worst first."""
        text = f"median {tiny(float(np.median(self.sizes)))}"
        order = np.argsort(-self.sizes, kind="stable")
        order = order[self.beyond[order]]
        if not len(order):
            return text
        if not most:
            return f"{text}; {len(order)} beyond"
        named = [
            f"{shorten(self.patients[i], 20)} ({tiny(self.sizes[i])})"
            for i in order[:most]
        ]
        more = f" +{len(order) - most} more" if len(order) > most else ""
        return f"{text}; beyond: {', '.join(named)}{more}"
