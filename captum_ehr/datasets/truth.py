"""What is true in the built-in cohort: who is at risk, and why.

The log-odds of the outcome are a sum of a few stated terms; a good explanation
of a good model finds these terms and leaves the distractors alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict

from captum_ehr.datasets.codes import CONDITIONS, DRUGS
from captum_ehr.datasets.labs import LAB_NAMES


class Sample(TypedDict):
    """One patient, as PyHealth's ``stagenet`` processors take it.

    Each feature is ``(times, visits)``: one time and one list per visit, oldest
    visit first. A time is the number of weeks since the previous admission, 0 for
    the first. Labs are z-values.
    """

    patient_id: str
    conditions: tuple[list[float], list[list[str]]]
    drugs: tuple[list[float], list[list[str]]]
    labs: tuple[list[float], list[list[float]]]
    outcome: int


@dataclass(frozen=True)
class CodeFactor:
    """A code that moves the risk when it is recorded at any visit.

    Args:
        feature: The feature that holds the code.
        code: The ICD-10-CM or ATC code.
        weight: What it adds to the log-odds; negative where it protects.
    """

    feature: Literal["conditions", "drugs"]
    code: str
    weight: float


@dataclass(frozen=True)
class Interaction:
    """Two codes of one feature that move the risk only together.

    Both stand in the same feature because PyHealth's StageNet and Transformer
    encode each feature by itself and then add up: neither could learn an
    interaction across features.

    Args:
        feature: The feature that holds both codes.
        codes: The two codes; they need not be recorded at the same visit.
        weight: What the pair adds to the log-odds.
    """

    feature: Literal["conditions", "drugs"]
    codes: tuple[str, str]
    weight: float


@dataclass(frozen=True)
class LabFactor:
    """A laboratory value whose peak moves the risk.

    Args:
        name: The column of ``labs``.
        weight: What one standard deviation of the highest z-value over the visits
            adds to the log-odds.
    """

    name: str
    weight: float


INTERCEPT = -3.9
"""The log-odds of a patient with no planted code and a peak lactate at the mean."""

CODE_FACTORS: tuple[CodeFactor, ...] = (
    CodeFactor("conditions", "C34.90", 2.8),
    CodeFactor("conditions", "A41.9", 2.6),
    CodeFactor("conditions", "J96.01", 2.6),
    CodeFactor("conditions", "K74.60", 2.6),
    CodeFactor("conditions", "I50.9", 2.4),
    CodeFactor("drugs", "C10AA05", -2.4),
)
"""The codes with an effect of their own, risk-raising ones first."""

INTERACTION = Interaction("drugs", ("B01AA03", "M01AE01"), 3.4)
"""Warfarin with ibuprofen: each is harmless in this cohort unless both are given."""

LAB_FACTOR = LabFactor("Lactate", 1.2)
"""The one lab with an effect."""


def planted_codes() -> tuple[str, ...]:
    """Every code that the risk depends on, alone or in the interaction.

    Example:
        >>> planted_codes()[:2], "B01AA03" in planted_codes()
        (('C34.90', 'A41.9'), True)
    """
    return tuple(factor.code for factor in CODE_FACTORS) + INTERACTION.codes


def distractor_codes() -> tuple[str, ...]:
    """Every code that the risk does not depend on, in the order of the vocabulary.

    Example:
        >>> "I10" in distractor_codes(), "A41.9" in distractor_codes()
        (True, False)
    """
    planted = frozenset(planted_codes())
    codes = (entry.code for entry in CONDITIONS + DRUGS)
    return tuple(code for code in codes if code not in planted)


def distractor_labs() -> tuple[str, ...]:
    """Every lab that the risk does not depend on, in column order.

    Example:
        >>> "Lactate" in distractor_labs(), "Sodium" in distractor_labs()
        (False, True)
    """
    return tuple(name for name in LAB_NAMES if name != LAB_FACTOR.name)


def _codes_of(sample: Sample, feature: Literal["conditions", "drugs"]) -> set[str]:
    return {code for visit in sample[feature][1] for code in visit}


def contributions(sample: Sample) -> Mapping[str, float]:
    """What each term of the risk function adds to a patient's log-odds.

    Args:
        sample: A patient as :func:`synthetic_samples` makes it. One that was
            edited (a code taken out, a lab changed) is as good.

    Returns:
        Log-odds by code for :data:`CODE_FACTORS`, by ``"code+code"`` for the
        interaction, by name for the lab; 0 where the term does not apply. Their
        sum and :data:`INTERCEPT` make :func:`log_odds`.

    Raises:
        KeyError: If ``sample`` lacks a feature.
        ValueError: If ``sample`` has no visit with labs.

    Example:
        >>> from captum_ehr.datasets import synthetic_samples
        >>> terms = contributions(synthetic_samples(1, seed=0)[0])
        >>> sorted(terms)[:4]
        ['A41.9', 'B01AA03+M01AE01', 'C10AA05', 'C34.90']
    """
    terms = {
        factor.code: factor.weight
        if factor.code in _codes_of(sample, factor.feature)
        else 0.0
        for factor in CODE_FACTORS
    }
    both = set(INTERACTION.codes) <= _codes_of(sample, INTERACTION.feature)
    terms["+".join(INTERACTION.codes)] = INTERACTION.weight if both else 0.0
    column = LAB_NAMES.index(LAB_FACTOR.name)
    peak = max(row[column] for row in sample["labs"][1])
    terms[LAB_FACTOR.name] = LAB_FACTOR.weight * peak
    return terms


def log_odds(sample: Sample) -> float:
    """The true log-odds of a patient's outcome.

    Args:
        sample: A patient as :func:`synthetic_samples` makes it.

    Returns:
        :data:`INTERCEPT` plus the sum of :func:`contributions`.

    Raises:
        KeyError: If ``sample`` lacks a feature.
        ValueError: If ``sample`` has no visit with labs.

    Example:
        >>> from captum_ehr.datasets import synthetic_samples
        >>> patient = synthetic_samples(1, seed=0)[0]
        >>> log_odds(patient) == INTERCEPT + sum(contributions(patient).values())
        True
    """
    return INTERCEPT + sum(contributions(sample).values())


def risk(sample: Sample) -> float:
    """The true probability of a patient's outcome.

    Args:
        sample: A patient as :func:`synthetic_samples` makes it.

    Returns:
        The logistic function of :func:`log_odds`, between 0 and 1.

    Raises:
        KeyError: If ``sample`` lacks a feature.
        ValueError: If ``sample`` has no visit with labs.

    Example:
        >>> from captum_ehr.datasets import synthetic_samples
        >>> 0.0 < risk(synthetic_samples(1, seed=0)[0]) < 1.0
        True
    """
    return 1.0 / (1.0 + math.exp(-log_odds(sample)))
