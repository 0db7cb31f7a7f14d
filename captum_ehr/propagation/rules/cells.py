r"""What one step of a GRU, an LSTM and a simple RNN does, forward and backward.

In the usual notation, with :math:`a = W x` given, :math:`b = U h` from the state, bars
for means over the two ends and σ', τ' for the secants of sigmoid and tanh:

GRU, :math:`h' = n + z(h - n),\; n = \tanh(a_n + r\,b_n)`:

.. math:: M_z = M(\bar h - \bar n)\,σ'_z,\; M_n = M(1 - \bar z)\,τ'_n,\;
          M_r = M_n \bar b_n\,σ'_r,\; M_{b_n} = M_n \bar r,\; M_h = M \bar z + \dots

LSTM, :math:`c' = fc + ig,\; h' = o \tanh c'`:

.. math:: M_o = M\,\overline{\tanh c'}\,σ'_o,\; M_{c'} = M \bar o\,τ'_{c'} + \dots,\;
          M_f = M_{c'}\bar c\,σ'_f,\; M_i = M_{c'}\bar g\,σ'_i,\;
          M_g = M_{c'}\bar i\,τ'_g,\; M_c = M_{c'}\bar f

RNN, :math:`h' = \tanh(a + b)`: :math:`M_a = M_b = M\,τ'`.

(Rescale rule: Shrikumar et al. 2017; gates: Cho et al. 2014, Hochreiter &
Schmidhuber 1997, in the arrangement of :class:`torch.nn.GRU` and LSTM.)

Everything that M meets is known before the way back starts. So the factors of many
steps are worked out at once, as ``(rows, pieces, slots, size)``, a slot for each gate;
the way back multiplies them by M where they stand, and they are gradients then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..pairs import Pair
from .elementwise import Secant, relu, sigmoid, tanh

type Steps = Sequence[Tensor]


class Weights(NamedTuple):
    """U, its bias, and an LSTM's projection; None where there is none."""

    hidden: Tensor
    bias: Tensor | None
    project: Tensor | None


class Cell:
    """One kind of unit, whose gates all add W x and U h.

    Attributes:
        gates: How many times its size W x has.
        slots: How many factors a unit has.
        data: The slots that are the gradient of W x.
    """

    gates: int
    slots: int
    data: slice

    def meet(self, a: Tensor, b: Tensor) -> Tensor:
        """Add a to b, in place, wherever the cell adds them."""
        return b.add_(a)

    def transposed(self, hidden: Tensor) -> Tensor:
        """U as the slots that are the gradient of U h meet it."""
        return hidden

    def step(self, a: Tensor, z: Tensor, states: Steps, weights: Weights) -> Any:
        """The states after a step, from the states before and ``z = meet(a, b)``."""
        raise NotImplementedError

    def factors(self, a: Pair, z: Tensor, states: Steps) -> Tensor:
        """What M meets in every slot.

        Args:
            a: W x at both ends, ``(rows, gates * size)``.
            z: As in :meth:`step`, at all points, ``(pieces + 1, rows, gates * size)``.
            states: Those before each row, ``(pieces + 1, rows, size)``.
        """
        raise NotImplementedError

    def back(self, m: Steps, factors: Tensor, weights: Weights, carry: Steps) -> None:
        """One step back: factors become gradients, carry that of the states before.

        Args:
            m: The gradients of the states after the step, ``(rows, pieces, size)``.
            factors: Those of the step, which are overwritten.
            weights: Of which U is from :meth:`transposed`.
            carry: Overwritten with the result, shaped as ``m``.
        """
        raise NotImplementedError


def between(points: Tensor) -> Tensor:
    """The means over each piece's two ends."""
    return torch.lerp(points[:-1], points[1:], 0.5)


def pieces(points: Tensor) -> Pair:
    """The two ends of each piece."""
    return Pair(points[:-1], points[1:])


def line(ends: Pair, count: int) -> Tensor:
    """As many points of the straight line from input to reference, both among them."""
    points = ends.input.new_empty(count, *ends.input.shape)
    points[0], points[-1] = ends.sides
    for k in range(1, count - 1):
        torch.lerp(ends.input, ends.reference, k / (count - 1), out=points[k])
    return points


def fast_tanh(x: Tensor) -> Tensor:
    """2σ(2x) - 1: three times as fast as tanh, and as exact where it meets 1."""
    return (2 * x).sigmoid_().mul_(2).sub_(1)


def empty_factors(like: Tensor, slots: int) -> tuple[Tensor, list[Tensor]]:
    """Room for factors, and each slot as ``(pieces, rows, size)``."""
    count, rows, size = like.shape
    room = like.new_empty(rows, count, slots, size)
    return room, [room[:, :, k].transpose(0, 1) for k in range(slots)]


class Gru(Cell):
    """The slots are b_n, r, z, n and what h keeps."""

    gates, slots, data = 3, 5, slice(1, 4)

    def meet(self, a: Tensor, b: Tensor) -> Tensor:
        """Reset and update gate add them; n keeps b apart."""
        two = 2 * b.shape[-1] // 3
        b[..., :two].add_(a[..., :two])
        return b

    def step(self, a: Tensor, z: Tensor, states: Steps, weights: Weights) -> Any:
        """As above: h' = n + z(h - n)."""
        size = z.shape[-1] // 3
        gates = z[:, : 2 * size].sigmoid()
        n = torch.addcmul(a[:, 2 * size :], gates[:, :size], z[:, 2 * size :]).tanh_()
        return (torch.lerp(n, states[0], gates[:, size:]),)

    def factors(self, a: Pair, z: Tensor, states: Steps) -> Tensor:
        """The formulas above."""
        size = z.shape[-1] // 3
        before_r, before_z, b_n = z.chunk(3, -1)
        r, update = before_r.sigmoid(), before_z.sigmoid()
        a_n = Pair(a.input[:, 2 * size :], a.reference[:, 2 * size :])
        before_n = line(a_n, len(z)).addcmul_(r, b_n)
        n = fast_tanh(before_n)
        factors, (to_b, to_r, to_z, to_n, keep) = empty_factors(n[1:], 5)
        keep.copy_(between(update))
        torch.mul(tanh(pieces(before_n), pieces(n)), 1 - keep, out=to_n)
        torch.mul(to_n, between(r), out=to_b)
        slope = sigmoid(pieces(before_r), pieces(r))
        torch.mul(slope.mul_(between(b_n)), to_n, out=to_r)
        slope = sigmoid(pieces(before_z), pieces(update))
        torch.mul(slope, between(n.neg_().add_(states[0])), out=to_z)
        return factors

    def transposed(self, hidden: Tensor) -> Tensor:
        """The rows of n first."""
        return hidden.roll(len(hidden) // 3, 0)

    def back(self, m: Steps, factors: Tensor, weights: Weights, carry: Steps) -> None:
        """All slots meet M."""
        flat = factors.mul_(m[0].unsqueeze(2)).flatten(0, 1)
        out = carry[0].flatten(0, 1)
        torch.addmm(flat[:, 4], flat[:, :3].flatten(1), weights.hidden, out=out)


class Lstm(Cell):
    """The slots are what c keeps, i, f, g, o, and c' from h'."""

    gates, slots, data = 4, 6, slice(1, 5)

    def step(self, a: Tensor, z: Tensor, states: Steps, weights: Weights) -> Any:
        """As above: c' = fc + ig, h' = o tanh c'."""
        size = z.shape[-1] // 4
        i, f = z[:, : 2 * size].sigmoid().chunk(2, 1)
        g = z[:, 2 * size : 3 * size].tanh()
        c = torch.addcmul(i * g, f, states[1])
        h = z[:, 3 * size :].sigmoid() * c.tanh()
        return h if weights.project is None else h @ weights.project.t(), c

    def factors(self, a: Pair, z: Tensor, states: Steps) -> Tensor:
        """The formulas above."""
        before_i, before_f, before_g, before_o = z.chunk(4, -1)
        i, f, o = before_i.sigmoid(), before_f.sigmoid(), before_o.sigmoid()
        g, c = fast_tanh(before_g), states[1]
        after = torch.addcmul(i * g, f, c)
        out = fast_tanh(after)
        factors, (keep, to_i, to_f, to_g, to_o, to_c) = empty_factors(c[1:], 6)
        keep.copy_(between(f))
        torch.mul(sigmoid(pieces(before_i), pieces(i)), between(g), out=to_i)
        torch.mul(sigmoid(pieces(before_f), pieces(f)), between(c), out=to_f)
        torch.mul(tanh(pieces(before_g), pieces(g)), between(i), out=to_g)
        torch.mul(sigmoid(pieces(before_o), pieces(o)), between(out), out=to_o)
        torch.mul(tanh(pieces(after), pieces(out)), between(o), out=to_c)
        return factors

    def back(self, m: Steps, factors: Tensor, weights: Weights, carry: Steps) -> None:
        """The output gate meets h's M, the others meet c's."""
        m_h = m[0] if weights.project is None else m[0] @ weights.project
        m_c = torch.addcmul(m[1], m_h, factors[:, :, 5])
        factors[:, :, :4].mul_(m_c.unsqueeze(2))
        factors[:, :, 4].mul_(m_h)
        flat = factors.flatten(0, 1)
        torch.mm(flat[:, 1:5].flatten(1), weights.hidden, out=carry[0].flatten(0, 1))
        carry[1].copy_(factors[:, :, 0])


class Rnn(Cell):
    """One slot, from torch's activation and its secant."""

    gates, slots, data = 1, 1, slice(0, 1)

    def __init__(self, activation: Any, secant: Secant) -> None:
        self.activation = activation
        self.secant = secant

    def step(self, a: Tensor, z: Tensor, states: Steps, weights: Weights) -> Any:
        """As above: h' = tanh(a + b)."""
        return (self.activation(z),)

    def factors(self, a: Pair, z: Tensor, states: Steps) -> Tensor:
        """The formula above."""
        factors, (slope,) = empty_factors(z[1:], 1)
        slope.copy_(self.secant(pieces(z), pieces(self.activation(z))))
        return factors

    def back(self, m: Steps, factors: Tensor, weights: Weights, carry: Steps) -> None:
        """As the GRU, with nothing kept."""
        flat = factors.mul_(m[0].unsqueeze(2)).flatten(0, 1)
        torch.mm(flat.flatten(1), weights.hidden, out=carry[0].flatten(0, 1))


GRU, LSTM = Gru(), Lstm()
RNN_TANH, RNN_RELU = Rnn(torch.tanh, tanh), Rnn(torch.relu, relu)
