"""Numbers, names and titles as figures and pages write them."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from captum_ehr.explanation.explained import Contrast
from captum_ehr.explanation.words import mixed_targets, remarks

if TYPE_CHECKING:
    import pandas as pd

    from captum_ehr.explanation import Explanation, Interactions

MINUS, NO_ANSWER, NO_NUMBER = "−", "no answer", "not a number"

_LONG = 1e10
"""From here on numbers are powers of ten: a time in seconds is not yet."""


def _written(value: float, form: str) -> str:
    return format(value, form).replace("-", MINUS)


def number(value: float, digits: int = 4) -> str:
    """A raw value as a clinician writes it: four significant digits, or all whole ones.

    Example:
        >>> number(98.60000038), number(0.0), number(float("nan")), number(-0.123, 2)
        ('98.6', '0', 'not a number', '−0.12')
        >>> number(12346.2), number(250_000.0), number(3e12)
        ('12346', '250000', '3e+12')
    """
    if math.isnan(value):
        return NO_NUMBER
    is_long = 10**digits - 0.5 <= abs(value) < _LONG
    return _written(value, ".0f" if is_long else f".{digits}g")


def signed(attribution: float, digits: int = 2) -> str:
    """An attribution with its sign; small ones have a digit more, tiny ones keep one.

    Example:
        >>> signed(0.1234), signed(0.0021), signed(-0.00012), signed(0.0)
        ('+0.12', '+0.002', '−1e−04', '0')
        >>> signed(math.nan)
        'no answer'
    """
    if math.isnan(attribution):
        return NO_ANSWER
    if attribution == 0:
        return "0"
    size = abs(float(attribution))  # NumPy's would make its own integer of digits
    digits += size < 5 * 10**-digits
    is_tiny = size < 0.5 * 10**-digits
    return _written(attribution, "+.0e" if is_tiny else f"+.{digits}f")


def rounded(values: Sequence[float], limit: float | None = None) -> list[str]:
    """Attributions with their signs, all with the digits that the largest needs.

    Example:
        >>> rounded([0.438, -0.0312, 0.001]), rounded([0.0438, -0.0312])
        (['+0.44', '−0.03', '0'], ['+0.044', '−0.031'])
    """
    if limit is None:
        limit = max((abs(value) for value in values), default=0.0)
    digits = 2 if limit <= 0 else max(2, 1 - math.floor(math.log10(limit)))
    words = [f"{value:+.{digits}f}" for value in values]
    return [word.replace("-", MINUS) if float(word) else "0" for word in words]


def output_value(value: float) -> str:
    """An output, which the model may not have given.

    Example:
        >>> output_value(-0.5), output_value(math.nan)
        ('−0.500', 'no answer')
    """
    return NO_ANSWER if math.isnan(value) else _written(value, ".3f")


def tiny(size: float) -> str:
    """A residual by its order of magnitude.

    Example:
        >>> tiny(1.23e-7), tiny(0.0), tiny(math.inf)
        ('1e−07', '0', '∞')
    """
    if math.isinf(size):
        return "∞"
    return NO_ANSWER if math.isnan(size) else _written(abs(size), ".1g")


def percent(share: float) -> str:
    """A share in per cent, with digits where it is near 0 or 1.

    Example:
        >>> percent(0.234), percent(0.0012), percent(0.9996), percent(1.0)
        ('23 %', '0.12 %', '99.96 %', '100 %')
    """
    if math.isnan(share):
        return NO_ANSWER
    edge = min(share, 1 - share)
    digits = 0 if edge >= 0.095 or edge == 0 else 1 if edge >= 0.0095 else 2
    return f"{100 * share:.{digits}f} %"


def usual_range(low: float, high: float) -> str:
    """A range as a laboratory prints it.

    Example:
        >>> usual_range(0.6, 1.2), usual_range(-math.inf, 5.0)
        ('0.6–1.2', '< 5')
    """
    if math.isinf(low):
        return f"< {number(high)}"
    return f"> {number(low)}" if math.isinf(high) else f"{number(low)}–{number(high)}"


def several(count: int, noun: str, nouns: str = "") -> str:
    """How many of something.

    Example:
        >>> several(1, "visit"), several(3, "visit")
        ('1 visit', '3 visits')
    """
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"


def ordinal(rank: int) -> str:
    """A place from the top.

    Example:
        >>> ordinal(1), ordinal(2), ordinal(3), ordinal(11), ordinal(22)
        ('highest', '2nd highest', '3rd highest', '11th highest', '22nd highest')
    """
    if rank == 1:
        return "highest"
    is_teen = rank % 100 in (11, 12, 13)
    end = "th" if is_teen else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank}{end} highest"


def shorten(text: str, width: int) -> str:
    """One line of at most ``width`` characters; what is cut off shows as "…".

    Example:
        >>> shorten("congestive heart failure", 12)
        'congestive …'
    """
    line = " ".join(text.split())
    return line if len(line) <= width else line[: max(width - 1, 0)] + "…"


def code_labels(table: pd.DataFrame, width: int = 100) -> list[str]:
    """What to call each row of a table with ``feature``, ``code`` and ``name``.

    The code and its name, if it has one; the unit, where the table has it; the
    feature where the same code stands in two. Groups by their name alone.
    """
    if "group" in table:
        return [shorten(group, width) for group in table["group"]]
    units = table["unit"] if "unit" in table else [None] * len(table)
    twice = table["code"].duplicated(keep=False)
    rows = zip(table["feature"], table["code"], table["name"], units, twice)
    labels = []
    for feature, code, name, unit, is_twice in rows:
        words = code if name == code else f"{code} {name}"
        tail = f" ({shorten(unit, 12)})" if unit else ""
        tail += f" [{shorten(feature, 14)}]" if is_twice else ""
        labels.append(shorten(words, max(width - len(tail), 8)) + tail)
    return labels


class Explained(Protocol):
    """What knows which model, and against what: an explanation, or a cohort's head."""

    @property
    def fingerprint(self) -> str:
        """Tells the weights of the model from others', or empty."""

    @property
    def baseline(self) -> str:
        """What it was compared with, in words, or empty."""


def footer(explained: Explained) -> list[str]:
    """Where a page comes from: the version, the model, the baseline, the date."""
    # Asked at run time: the package's own module imports all that is above this one.
    package = import_module(__name__.partition(".")[0])
    return [
        f"captum_ehr {package.__version__}",
        f"model {explained.fingerprint or 'without a fingerprint'}",
        f"baseline {explained.baseline or 'not known'}",
        f"written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    ]


# What is explained ------------------------------------------------------------------


def has_probability(explanation: Explanation) -> bool:
    """True for a logit that is known to have its sigmoid as probability.

    Where the kind of model is unknown, one name for one output says so; without names
    a logit of index 0 may as well be one of many classes.
    """
    names = explanation.target_names
    is_only = explanation.mode is None and names is not None and len(names) == 1
    is_known = explanation.mode in ("binary", "multilabel") or is_only
    is_single = not any(isinstance(one, Contrast) for one in explanation.target)
    return explanation.output == "logit" and is_known and is_single


def probability(logit: float) -> float:
    """The sigmoid of a logit; does not overflow.

    Example:
        >>> probability(0.0), probability(-1e4)
        (0.5, 0.0)
    """
    return 0.5 + 0.5 * math.tanh(0.5 * logit)


def target_words(explanation: Explanation | Interactions) -> str:
    """The explained output's name, if it is one for all samples, and its unit."""
    labels = {explanation.target_label(i) for i in range(len(explanation))}
    if len(labels) != 1:
        return "each sample's class"
    unit = shorten(explanation.target_unit, 12)
    words = " rather than "  # neither of a contrast's two names is cut away
    name = words.join(shorten(part, 40) for part in labels.pop().split(words))
    return name + (f" ({unit})" if unit else "")


def model_words(explanation: Explanation | Interactions) -> str:
    """The model's name and a colon, or nothing where it has no name."""
    name = shorten(explanation.model_name, 30)
    return f"{name}: " if name else ""


def first_remark(explanation: Explanation) -> list[str]:
    """The first of what is to be said, as :func:`first_of` has it.

    That a cohort is of unlike targets comes before what concerns each patient.
    """
    mixed = mixed_targets(explanation)
    return first_of(sorted(remarks(explanation), key=lambda message: message != mixed))


def first_of(messages: Sequence[str]) -> list[str]:
    """The first of some messages, if there is one, and how many more."""
    more = f" (+{len(messages) - 1} more)" if len(messages) > 1 else ""
    return ["! " + shorten(message, 100) + more for message in messages[:1]]


def population_title(explanation: Explanation) -> tuple[str, list[str]]:
    """A cohort's heading, and what stands below: of how many, against what."""
    samples, people = len(explanation), len(set(explanation.patient_ids))
    size = several(people, "patient")
    if people < samples:
        size = f"{samples} samples of {size}"
    baseline = shorten(explanation.baseline, 20)
    against = f", each against the baseline {baseline}" if baseline else ""
    head = (
        f"{model_words(explanation)}what adds to the {explanation.output_word} of "
        f"{target_words(explanation)}"
    )
    return head, [size + against, *first_remark(explanation)]


def planted_ranks(
    codes: Sequence[str], planted: Collection[str]
) -> tuple[tuple[str, int | None], ...]:
    """Per planted code its best rank, best first; None where no patient has it."""
    ranks: dict[str, int | None] = dict.fromkeys(sorted(planted))
    for rank, code in enumerate(codes, 1):
        if code in ranks and ranks[code] is None:
            ranks[code] = rank
    return tuple(sorted(ranks.items(), key=lambda pair: pair[1] or math.inf))
