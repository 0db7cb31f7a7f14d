r"""A scan's multipliers through the midpoint: nearer to the path integral, as exact.

Each gate gives its operands the mean of the others over both ends. Over many steps
these means compound, and what was one straight path at the start of a scan is none at
its end. One more run of the scan at :math:`\bar x = (x + x_0)/2` brings it back:

.. math:: y - y_0 = (y - \bar y) + (\bar y - y_0), \qquad
          m = \tfrac12\,(m_{x, \bar x} + m_{\bar x, x_0}),

which adds up exactly, as both halves do. (The trapezoidal rule on two intervals
instead of one, for the integral of Sundararajan et al., Axiomatic Attribution for Deep
Networks, 2017, eq. 1.)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from ..pairs import Multiplier, Pair, Rule, Shares, middle


def halved(scan: Callable[..., Any], rule: Rule) -> Rule:
    """A rule for a scan from the rule that serves each half of the way.

    Both halves are served at once, as twice the rows.

    Args:
        scan: From rows, sizes, states and five weights to the output or outputs.
        rule: Its rule.
    """

    @wraps(rule)
    def through_the_middle(y: Any, data: Any, sizes: Any, *rest: Any) -> Multiplier:
        states, weights = rest[:-5], rest[-5:]
        made = scan(middle(data), sizes, *map(middle, rest))
        served = rule(
            _twice(y, made),
            _twice(data, middle(data)),
            tuple(2 * size for size in sizes),
            *(_twice(state, middle(state)) for state in states),
            *weights,
        )
        if served is NotImplemented:
            return served

        def multiplier(*upstream: Tensor) -> Shares:
            for operand, share in served(*(_zipped(m, m) for m in upstream)):
                yield operand, share.unflatten(0, (-1, 2)).mean(1)

        return multiplier

    return through_the_middle


def _twice(value: Any, centre: Any) -> Any:
    """Each row from input to middle, and below it from middle to reference."""
    if isinstance(value, list):
        return [_twice(v, c) for v, c in zip(value, centre)]
    if not isinstance(value, Pair):
        return _zipped(value, value)
    above, below = _zipped(value.input, centre), _zipped(centre, value.reference)
    return Pair(above, below, value.slot)


def _zipped(above: Tensor, below: Tensor) -> Tensor:
    return torch.stack([above, below], 1).flatten(0, 1)
