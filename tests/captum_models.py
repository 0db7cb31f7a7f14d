"""The small models of Captum's own DeepLIFT tests, said again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def linear(weight: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    """A linear layer of given weights."""
    values = torch.tensor(weight)
    layer = nn.Linear(values.shape[1], values.shape[0], bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(values)
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))
    return layer


class Pair(nn.Module):
    """2·f(x1) + factor·f(x2 - 1.5)."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.first, self.second = kind(), kind()

    def forward(self, x1: Tensor, x2: Tensor, factor: Any = 2) -> Tensor:
        return 2 * self.first(x1) + factor * self.second(x2 - 1.5)


class Joined(nn.Module):
    """Two linear layers, one ReLU after both, a sum."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.l1, self.l2 = linear([[3.0, 1.0, 0.0]]), linear([[2.0, 3.0, 0.0]])
        self.relu, self.l3 = nn.ReLU(inplace=inplace), linear([[1.0, 1.0]])

    def forward(self, x1: Tensor, x2: Tensor, factor: Any = 1) -> Tensor:
        joined = torch.cat([self.l1(x1), factor * self.l2(x2)], dim=1)
        return self.l3(self.relu(joined))


class PoolThenReLU(nn.Module):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.pool, self.relu = nn.MaxPool1d(3), nn.ReLU(inplace=inplace)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.pool(x)).sum(dim=1)


class Reused(nn.Module):
    """One ReLU at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.relu, self.b = nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.b(self.relu(self.a(x))))


class PoolBetween(nn.Module):
    """The identity, the maximum of four, the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.lin1 = linear(torch.eye(4).tolist())
        self.pool1, self.lin2 = nn.MaxPool1d(4), linear([[1.0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.pool1(self.lin1(x.unsqueeze(1)))[:, 0, :])


class ConvNet(nn.Module):
    """Two convolutions, each with a ReLU and a max-pool; a softmax of ten at the end.

    Args:
        dims: 1, 2 or 3.
        head: Whether the softmax stands there.
    """

    def __init__(self, dims: int, head: bool = True) -> None:
        super().__init__()
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        pool = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[dims - 1]
        self.conv1, self.relu1, self.pool1 = convolution(1, 2, 3), nn.ReLU(), pool(2)
        self.conv2, self.relu2, self.pool2 = convolution(2, 4, 3), nn.ReLU(), pool(2)
        self.fc1, self.relu3, self.fc2 = nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 10)
        self.head = nn.Softmax(dim=1) if head else nn.Identity()
        for layer in (self.fc1, self.fc2):
            nn.init.ones_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool1(self.relu1(self.conv1(x)))
        h = self.pool2(self.relu2(self.conv2(h))).flatten(1)
        return self.head(self.fc2(self.relu3(self.fc1(h))))


class BothReLUs(nn.Module):
    """A module that takes two tensors and gives two."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.ReLU(), nn.ReLU()

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(a), self.second(b)


class Layers(nn.Module):
    """Two branches that meet, and a ReLU that runs for nothing."""

    def __init__(self) -> None:
        super().__init__()
        ones, bias = [[1.0] * 3] * 4, [-10.0, 1.0, 1.0, 1.0]
        self.linear1, self.other = linear(ones, bias), linear(ones, bias)
        self.both, self.relu = BothReLUs(), nn.ReLU()
        self.linear2 = linear([[1.0] * 4] * 2, [-1.0, 1.0])

    def forward(self, x: Tensor) -> Tensor:
        h = self.linear1(x)
        a, b = self.both(h, self.other(x))
        self.relu(h)
        return self.linear2(a + b)


def sequence_model() -> nn.Module:
    """A convolution of width 1 over 1000 positions, a ReLU, a linear layer."""
    return nn.Sequential(nn.Conv1d(4, 2, 1), nn.ReLU(), nn.Linear(1000, 1))


def ones(*sizes: int, head: nn.Module, bias: bool = True) -> nn.Module:
    """ReLU layers whose weights are all 1, and a head."""
    layers: list[nn.Module] = []
    for a, b in zip(sizes, sizes[1:]):
        layers += [nn.Linear(a, b, bias=bias), nn.ReLU()]
        nn.init.ones_(layers[-2].weight)  # type: ignore[arg-type]
    return nn.Sequential(*layers[:-1], head)
