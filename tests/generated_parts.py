"""The pieces that generated models are made of: steps over visits, and pools of them.

A step takes ``(patients, visits, WIDTH)`` to the same shape, a pool to
``(patients, WIDTH)``. What stands behind a patient's last visit is padding. A piece
that *leaks* lets it reach the visits; every other one does not, whatever it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

WIDTH = 4


class Visits(NamedTuple):
    """Which visits there are: lengths ``(patients,)``, and a mask of the real ones."""

    lengths: Tensor
    mask: Tensor

    @property
    def blank(self) -> Tensor:
        """``(patients, visits, 1)``, True at padding."""
        return ~self.mask[..., None]


class Piece(NamedTuple):
    """One construct.

    Args:
        calls: Names of torch functions that it is seen to call.
        run: From its parts, values and visits to new values.
        parts: Names of :data:`PARTS`, by which ``run`` finds its modules.
        leaks: Whether padding reaches the visits.
    """

    calls: str
    run: Callable[[Any, Tensor, Visits], Tensor]
    parts: str = ""
    leaks: bool = False


class Step(nn.Module):
    """A piece with its modules."""

    def __init__(self, piece: Piece) -> None:
        super().__init__()
        self.run = piece.run
        for name in piece.parts.split():
            self.add_module(name, PARTS[name.rstrip("123")]())

    def forward(self, h: Tensor, visits: Visits) -> Tensor:
        return self.run(self, h, visits)


def _norm_with_statistics(kind: type[nn.Module]) -> nn.Module:
    norm: Any = kind(WIDTH)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


class Counter(nn.Module):
    """Counts its calls in a buffer and on itself, and lets both tell."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.calls = 0

    def forward(self, h: Tensor) -> Tensor:
        self.seen += 1
        self.calls += 1
        return h * (0.5 + self.seen / (4 + self.calls))


PARTS: dict[str, Callable[[], nn.Module]] = {
    "lin": lambda: nn.Linear(WIDTH, WIDTH),
    "one": lambda: nn.Linear(WIDTH, 1),
    "wide": lambda: nn.Linear(WIDTH, 2 * WIDTH),
    "conv": lambda: nn.Conv1d(WIDTH, WIDTH, 3),
    "gru": lambda: nn.GRU(WIDTH, WIDTH, batch_first=True),
    "lstm": lambda: nn.LSTM(WIDTH, WIDTH, batch_first=True),
    "rnn": lambda: nn.RNN(WIDTH, WIDTH, nonlinearity="relu", batch_first=True),
    "deep": lambda: nn.GRU(WIDTH, 2, 2, batch_first=True, bidirectional=True),
    "grucell": lambda: nn.GRUCell(WIDTH, WIDTH),
    "lstmcell": lambda: nn.LSTMCell(WIDTH, WIDTH),
    "rnncell": lambda: nn.RNNCell(WIDTH, WIDTH),
    "heads": lambda: nn.MultiheadAttention(WIDTH, 2, batch_first=True),
    "encoder": lambda: nn.TransformerEncoderLayer(WIDTH, 2, 6, batch_first=True),
    "layer": lambda: nn.LayerNorm(WIDTH),
    "rms": lambda: nn.RMSNorm(WIDTH, eps=1e-6),
    "group": lambda: nn.GroupNorm(2, WIDTH),
    "batch": lambda: _norm_with_statistics(nn.BatchNorm1d),
    "instance": lambda: nn.InstanceNorm1d(1, affine=True),
    "drop": lambda: nn.Dropout(0.5),
    "inplace": lambda: nn.ReLU(inplace=True),
    "counter": Counter,
}
