"""Whole models and whole batches, generated: for the promises to be held against.

A model is a graph: each node takes an earlier value, puts a step on it, and joins what
comes of it with what was there. Steps may be used at several nodes, values by several
steps. Then the visits are pooled, and the pool is scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from generated_parts import WIDTH, Piece, Step, Visits
from generated_steps import LINEAR, STEPS, packed
from hypothesis import strategies as st
from torch import Tensor, nn

# Pools -----------------------------------------------------------------------------


def _last(h: Tensor, v: Visits) -> Tensor:
    return h[torch.arange(len(h)), v.lengths - 1]


def _best(h: Tensor, v: Visits, count: int) -> Tensor:
    """The largest of the visits there are; fewer, where there are fewer."""
    most = h.masked_fill(v.blank, -torch.inf).topk(min(count, h.shape[1]), 1).values
    return most.nan_to_num(neginf=0.0).sum(1)


def _attended(m: Any, h: Tensor, v: Visits) -> Tensor:
    scores = m.one(h).tanh().masked_fill(v.blank, -torch.inf)
    return (scores.softmax(1) * h).sum(1)


POOLS: dict[str, Piece] = {
    "the last visit": Piece("__getitem__", lambda m, h, v: _last(h, v)),
    "the last visit, gathered": Piece(
        "gather",
        lambda m, h, v: h.gather(
            1, (v.lengths - 1)[:, None, None].expand(-1, 1, WIDTH)
        ).squeeze(1),
    ),
    "the first visit": Piece("__getitem__", lambda m, h, v: h[:, 0]),
    "masked mean": Piece(
        "div",
        lambda m, h, v: (h * v.mask[..., None]).sum(1) / v.mask.sum(1, keepdim=True),
    ),
    "masked maximum": Piece(
        "amax", lambda m, h, v: h.masked_fill(v.blank, -torch.inf).amax(1)
    ),
    "masked logsumexp": Piece(
        "logsumexp", lambda m, h, v: h.masked_fill(v.blank, -torch.inf).logsumexp(1)
    ),
    "attention over visits": Piece("softmax", _attended, "one"),
    "the largest visit": Piece("topk", lambda m, h, v: _best(h, v, 1)),
    "the largest two visits": Piece("topk", lambda m, h, v: _best(h, v, 2)),
    "final state": Piece("gru", lambda m, h, v: packed(m.gru, h, v)[1][0], "gru"),
    "mean": Piece("mean", lambda m, h, v: h.mean(1), "", True),
    "adaptive maximum": Piece(
        "adaptive_max_pool1d",
        lambda m, h, v: F.adaptive_max_pool1d(h.transpose(1, 2), 1).squeeze(-1),
        "",
        True,
    ),
    "median over visits": Piece("median", lambda m, h, v: h.median(1).values, "", True),
}

LINEAR_POOLS = frozenset(
    "the last visit|the last visit, gathered|the first visit|masked mean|mean".split(
        "|"
    )
)

# Models ----------------------------------------------------------------------------

#: How a node's new value and its old one become one, beside the first value and labs.
JOINS: dict[str, Callable[[Any, Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "alone": lambda m, new, old, first, labs: new,
    "residual": lambda m, new, old, first, labs: new + old,
    "mean with the first": lambda m, new, old, first, labs: (new + first) / 2,
    "concatenated": lambda m, new, old, first, labs: m.narrow(
        torch.cat([new, old], -1)
    ),
    "beside labs": lambda m, new, old, first, labs: new + labs[:, None],
    "product": lambda m, new, old, first, labs: new * old,
    "gated by labs": lambda m, new, old, first, labs: new * labs.sigmoid()[:, None],
}
LINEAR_JOINS = tuple(JOINS)[:5]

OUTPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "logits": lambda y: y,
    "probabilities": lambda y: y.softmax(-1),
    "log-probabilities": lambda y: F.log_softmax(y, dim=-1),
    "risks": torch.sigmoid,
}

#: What a model makes of labs that are missing; without one, none are.
MISSING: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda labs: labs,
    "nan_to_num": lambda labs: labs.nan_to_num(0.5),
    "where": lambda labs: torch.where(labs.isnan(), torch.full_like(labs, 0.3), labs),
    "masked_fill": lambda labs: labs.masked_fill(torch.isnan(labs), -0.2),
}

PRESENCE = ("lengths", "rows")


class Node(NamedTuple):
    """A step of the model's, the value that it takes, and how that is joined."""

    step: int
    source: int
    join: str


class Blueprint(NamedTuple):
    """All that a model is made of."""

    embedded: bool
    steps: tuple[str, ...]
    nodes: tuple[Node, ...]
    pool: str
    outputs: str
    presence: str
    missing: str
    seed: int

    @property
    def leaks(self) -> bool:
        """Whether padding reaches the score."""
        return POOLS[self.pool].leaks or any(STEPS[s].leaks for s in self.steps)

    @property
    def linear(self) -> bool:
        """Whether the score is a linear function of visits and labs."""
        return (
            LINEAR.issuperset(self.steps)
            and self.pool in LINEAR_POOLS
            and all(node.join in LINEAR_JOINS for node in self.nodes)
            and (self.outputs, self.presence, self.missing) == ("logits", "lengths", "")
        )

    def constructs(self) -> Iterator[str]:
        """The names of all that the model has."""
        used = [node.step for node in self.nodes]
        yield from {f"step: {self.steps[k]}" for k in used}
        yield from {f"join: {node.join}" for node in self.nodes}
        yield f"pool: {self.pool}"
        yield f"outputs: {self.outputs}"
        yield f"presence: {self.presence}"
        yield f"missing: {self.missing or 'none'}"
        yield f"embedded: {self.embedded}"
        if len(set(used)) < len(used):
            yield "a module used twice"
        sources = [node.source for node in self.nodes]
        if len(set(sources)) < len(sources):
            yield "a value used twice"


class Generated(nn.Module):
    """``(visits, labs, lengths)`` to three scores a patient."""

    def __init__(self, blueprint: Blueprint) -> None:
        super().__init__()
        self.blueprint = blueprint
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(blueprint.seed)
            self.embed = nn.Linear(WIDTH, WIDTH)
            self.labs = nn.Linear(WIDTH, WIDTH)
            self.narrow = nn.Linear(2 * WIDTH, WIDTH)
            self.steps = nn.ModuleList(Step(STEPS[name]) for name in blueprint.steps)
            self.pool = Step(POOLS[blueprint.pool])
            self.score = nn.Linear(WIDTH, 3)
        self.double()

    def forward(self, x: Tensor, labs: Tensor, lengths: Tensor) -> Tensor:
        plan = self.blueprint
        if plan.presence == "rows":
            mask = x.abs().sum(-1) != 0
        else:
            mask = torch.arange(x.shape[1]) < lengths[:, None]
        visits = Visits(lengths, mask)
        labs = self.labs(MISSING[plan.missing](labs))
        values = [self.embed(x) if plan.embedded else x]
        for step, source, join in plan.nodes:
            old = values[source]
            new = self.steps[step](old, visits)
            values.append(JOINS[join](self, new, old, values[0], labs))
        pooled = self.pool(values[-1], visits) + labs
        return OUTPUTS[plan.outputs](self.score(pooled))


# Batches ---------------------------------------------------------------------------


class Batch(NamedTuple):
    """Patients and their references."""

    x: Tensor
    labs: Tensor
    x0: Tensor
    labs0: Tensor
    lengths: Tensor

    @property
    def inputs(self) -> tuple[Tensor, Tensor]:
        return self.x, self.labs

    @property
    def references(self) -> tuple[Tensor, Tensor]:
        return self.x0, self.labs0

    @property
    def swapped(self) -> Batch:
        """The same with input and reference exchanged."""
        return Batch(self.x0, self.labs0, self.x, self.labs, self.lengths)

    def of(self, row: int, visits: int) -> Batch:
        """One patient alone, with so many visits."""
        x, labs, x0, labs0, lengths = (t[row : row + 1] for t in self)
        return Batch(x[:, :visits], labs, x0[:, :visits], labs0, lengths)

    def padded(self) -> Batch:
        """Two more visits that there are not, with anything in them."""
        more = torch.full((len(self.x), 2, WIDTH), 0.7, dtype=self.x.dtype)
        x, x0 = torch.cat([self.x, more], 1), torch.cat([self.x0, -more], 1)
        return self._replace(x=x, x0=x0)


#: References, from the input and random numbers.
REFERENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "random": lambda x, other: other,
    "zeros": lambda x, other: torch.zeros_like(x),
    "partly equal": lambda x, other: torch.where(other > 0, x, other),
    "partly zero": lambda x, other: other * (other > 0),
    "near": lambda x, other: x * (1 + 1e-7 * other),
    "opposite": lambda x, other: -x,
}


class Patients(NamedTuple):
    """What a batch is made of."""

    lengths: tuple[int, ...]
    reference: str
    scale: float
    zeros: bool
    ties: bool
    seed: int

    def batch(self, plan: Blueprint, seed: int = 0) -> Batch:
        """Values for a model; others of the same kind by another seed.

        What stands at padding is as unlike as elsewhere, unless the model sees it.
        """
        generator = torch.Generator().manual_seed(self.seed + seed)
        count, visits = len(self.lengths), max(self.lengths)
        lengths = torch.tensor(self.lengths)

        def sides(*shape: int) -> tuple[Tensor, Tensor]:
            draw = torch.randn((3, *shape), generator=generator, dtype=torch.float64)
            x, other, more = (draw * 2).round() / 2 if self.ties else draw
            x = torch.where(more > 1, 0.0, x) if self.zeros else x
            return x * self.scale, REFERENCES[self.reference](x, other) * self.scale

        x, x0 = sides(count, visits, WIDTH)
        if plan.leaks or plan.presence == "rows":
            real = (torch.arange(visits) < lengths[:, None])[..., None]
            x, x0 = x * real, x0 * real
        labs, labs0 = sides(count, WIDTH)
        if plan.missing:
            labs[0, 1] = labs[-1, 0] = labs0[0, 0] = torch.nan
        return Batch(x, labs, x0, labs0, lengths)


# Strategies ------------------------------------------------------------------------


@st.composite
def blueprints(draw: Any) -> Blueprint:
    """Models of one to four steps on up to five nodes."""
    linear = draw(st.integers(0, 7)) == 7
    names = sorted(LINEAR) if linear else list(STEPS)
    pools = sorted(LINEAR_POOLS) if linear else list(POOLS)
    steps = draw(st.lists(st.sampled_from(names), min_size=1, max_size=4))
    more = draw(st.integers(0, 1))
    nodes = []
    for k in range(len(steps) + more):
        step = k if k < len(steps) else draw(st.integers(0, len(steps) - 1))
        source = draw(st.sampled_from([k, k, *range(k)]))
        join = draw(st.sampled_from(LINEAR_JOINS if linear else tuple(JOINS)))
        nodes.append(Node(step, source, join))
    return Blueprint(
        draw(st.booleans()),
        tuple(steps),
        tuple(nodes),
        draw(st.sampled_from(pools)),
        "logits" if linear else draw(st.sampled_from(list(OUTPUTS))),
        "lengths" if linear else draw(st.sampled_from([*PRESENCE, "lengths"])),
        "" if linear else draw(st.sampled_from(["", "", *MISSING])),
        draw(st.integers(0, 2**16)),
    )


patients = st.builds(
    Patients,
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    reference=st.sampled_from(list(REFERENCES)),
    scale=st.sampled_from([1.0, 1.0, 1e-6, 1e3, 1e6]),
    zeros=st.booleans(),
    ties=st.booleans(),
    seed=st.integers(0, 2**16),
)
