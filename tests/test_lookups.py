"""How a model of one's own looks its token ids up, and what it is explained as.

Each way has an oracle: the same network on the embeddings themselves, which are moved
as the model moves its ids.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients
from pyhealth.datasets import create_sample_dataset, get_dataloader
from pyhealth.models import BaseModel, EmbeddingModel
from torch import Tensor, nn

from captum_ehr import DeepLiftEHR, LayerDeepLiftEHR, PyHealthAdapter

#: From a table and ids to embeddings; and from embeddings to the same, moved.
type Look = Callable[[nn.Embedding, Tensor], Tensor]
type Move = Callable[[Tensor, Tensor], Tensor]


@cache
def data() -> tuple[Any, Any]:
    """Patients with repeated codes and padding, and their batch."""
    codes = ["a", "b", "a", "c", "d", "a"]
    samples = [
        {
            "patient_id": f"p{n}",
            "visit_id": "v",
            "conditions": codes[: 2 + n % 5],
            "drugs": ["x", "b", "x"][: 1 + n % 3],
            "died": n % 2,
        }
        for n in range(6)
    ]
    schema = {"conditions": "sequence", "drugs": "sequence"}
    made = create_sample_dataset(samples, schema, {"died": "binary"})
    return made, next(iter(get_dataloader(made, 6)))


class Own(BaseModel):
    """A recurrent network per feature, with its own way of looking codes up."""

    def __init__(self, look: Look) -> None:
        super().__init__(dataset=data()[0])
        self.embedding_model = EmbeddingModel(self.dataset, 6)
        self.look = look
        self.rnn, self.fc = nn.GRU(6, 5, batch_first=True), nn.Linear(10, 1)

    def head(self, *embedded: Tensor) -> Tensor:
        outputs = [self.rnn(e)[0] for e in embedded]
        pooled = [torch.tanh(h).mean(1) * h[:, -1] for h in outputs]
        return self.fc(torch.cat(pooled, 1))

    def forward(self, **batch: Any) -> dict[str, Tensor]:
        tables = self.embedding_model.embedding_layers
        found = [self.look(tables[key], batch[key]) for key in self.feature_keys]
        return {"logit": self.head(*found)}


class Oracle(nn.Module):
    """The same, on embeddings."""

    def __init__(self, model: Own, move: Move) -> None:
        super().__init__()
        self.model, self.move = model, move

    def forward(self, a: Tensor, b: Tensor, *ids: Tensor) -> Tensor:
        return self.model.head(self.move(a, ids[0]), self.move(b, ids[1]))


def same(e: Tensor, ids: Tensor) -> Tensor:
    return e


def turned(e: Tensor, ids: Tensor) -> Tensor:
    return e.flip(1)


def shifted(e: Tensor, ids: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(e[:, :1]), e[:, :-1]], 1)  # the row of <pad>


def ordered(e: Tensor, ids: Tensor) -> Tensor:
    order = ids.sort(dim=1, stable=True).indices
    return e.gather(1, order.unsqueeze(-1).expand_as(e))


def _written(ids: Tensor) -> Tensor:
    made = torch.zeros_like(ids)
    made[:, 1:] = ids[:, :-1]
    return made


def _turned_in_place(ids: Tensor) -> Tensor:
    made = ids.clone()
    for row, count in enumerate((ids != 0).sum(1).tolist()):
        made[row, :count] = ids[row, :count].flip(0)
    return made


def _turned_rows(e: Tensor, ids: Tensor) -> Tensor:
    rows = []
    for row, count in zip(e, (ids != 0).sum(1).tolist()):
        rows.append(torch.cat([row[:count].flip(0), row[count:]]))
    return torch.stack(rows)


def _pads_left(e: Tensor, ids: Tensor) -> Tensor:
    return torch.where((ids == 3).unsqueeze(-1), torch.zeros_like(e), e)


WAYS: dict[str, tuple[Look, Move]] = {
    "called": (lambda t, i: t(i), same),
    "functional": (lambda t, i: F.embedding(i, t.weight), same),
    "named": (lambda t, i: F.embedding(input=i, weight=t.weight), same),
    "torch's own": (lambda t, i: torch.embedding(t.weight, i), same),
    "indexed": (lambda t, i: t.weight[i], same),
    "indexed, all columns": (lambda t, i: t.weight[i, :], same),
    "data": (lambda t, i: t.weight.data[i], same),
    "selected": (
        lambda t, i: t.weight.index_select(0, i.flatten()).view(*i.shape, -1),
        same,
    ),
    "int32": (lambda t, i: t(i.int()), same),
    "flattened": (lambda t, i: t(i.flatten()).view(*i.shape, -1), same),
    "row by row": (lambda t, i: torch.stack([t(row) for row in i]), same),
    "column by column": (
        lambda t, i: torch.stack([t(i[:, k]) for k in range(i.shape[1])], 1),
        same,
    ),
    "transposed": (lambda t, i: t(i.T).transpose(0, 1), same),
    "computed, the same": (lambda t, i: t((i + 0).clamp(max=99)), same),
    "scaled": (lambda t, i: t(i.clone()) * 3, lambda e, i: e * 3),
    "flipped": (lambda t, i: t(i.flip(1)), turned),
    "flipped, functional": (lambda t, i: F.embedding(i.flip([1]), t.weight), turned),
    "flipped by index": (
        lambda t, i: t(i[:, torch.arange(i.shape[1] - 1, -1, -1)]),
        turned,
    ),
    "flipped in place": (lambda t, i: t(_turned_in_place(i)), _turned_rows),
    "shifted by pad": (lambda t, i: t(F.pad(i, (1, 0))[:, :-1]), shifted),
    "shifted by cat": (
        lambda t, i: t(torch.cat([torch.zeros_like(i[:, :1]), i[:, :-1]], 1)),
        shifted,
    ),
    "shifted by writing": (lambda t, i: t(_written(i)), shifted),
    "rolled": (lambda t, i: t(i.roll(1, 1)), lambda e, i: e.roll(1, 1)),
    "cut": (lambda t, i: t(i[:, :1]), lambda e, i: e[:, :1]),
    "sorted": (lambda t, i: t(i.sort(dim=1, stable=True)[0]), ordered),
    "ordered": (lambda t, i: t(i.gather(1, i.argsort(dim=1, stable=True))), ordered),
    "repeated": (
        lambda t, i: t(i.repeat_interleave(2, 1)),
        lambda e, i: e.repeat_interleave(2, 1),
    ),
    "twice": (
        lambda t, i: t(i) * t(i.flip(1)).tanh(),
        lambda e, i: e * e.flip(1).tanh(),
    ),
    "called and functional": (
        lambda t, i: t(i) * F.embedding(i.flip(1), t.weight).tanh(),
        lambda e, i: e * e.flip(1).tanh(),
    ),
    "masked": (lambda t, i: t(i * (i != 3)), _pads_left),
    "filled": (lambda t, i: t(i.masked_fill(i == 3, 0)), _pads_left),
    "where": (lambda t, i: t(torch.where(i == 3, 0, i)), _pads_left),
    "padding apart": (
        lambda t, i: torch.cat([t(torch.zeros(len(i), 1).long()), t(i)], 1),
        lambda e, i: torch.cat([torch.zeros_like(e[:, :1]), e], 1),
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_explained_as_what_it_is(way: str) -> None:
    look, move = WAYS[way]
    _, batch = data()
    torch.manual_seed(0)
    model = Own(look).eval()
    adapter = PyHealthAdapter(model)
    enc = adapter.encode(batch)
    inputs = tuple(x + 0.1 * torch.randn_like(x) for x in enc.inputs)  # none alike
    references = tuple(torch.randn_like(x) for x in inputs)
    ids = tuple(batch[key] for key in model.feature_keys)
    whole = adapter(*enc.inputs, *enc.additional_forward_args)
    torch.testing.assert_close(whole, model(**batch)["logit"])
    oracle = Oracle(model, move)
    expected = DeepLiftEHR(oracle).attribute(
        inputs, references, additional_forward_args=ids
    )
    assert all(bool(a.any()) for a in expected)
    rest = enc.additional_forward_args
    for _ in range(2):  # the second time it is known how the model looks codes up
        found, delta = DeepLiftEHR(adapter, completeness="raise").attribute(
            inputs,
            references,
            additional_forward_args=rest,
            return_convergence_delta=True,
        )
        for ours, theirs in zip(found, expected):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
        assert float(delta.abs().max()) < 1e-6
    theirs = IntegratedGradients(adapter).attribute(
        inputs, references, additional_forward_args=rest, n_steps=4
    )
    right = IntegratedGradients(oracle).attribute(
        inputs, references, additional_forward_args=ids, n_steps=4
    )
    for ours, other in zip(theirs, right):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("way", ["called", "functional", "flipped"])
def test_two_features_in_one_table(way: str) -> None:
    look, move = WAYS[way]
    torch.manual_seed(0)
    model = Own(lambda _, i: look(model.embedding_model.embedding_layers["drugs"], i))
    path = "embedding_model.embedding_layers.drugs"
    adapter = PyHealthAdapter(
        model.eval(), embeddings={"conditions": path, "drugs": path}
    )
    batch = dict(data()[1])
    batch["conditions"] = batch["conditions"].clamp(max=3)  # the rows of the table
    enc = adapter.encode(batch)
    inputs = tuple(torch.randn_like(x) for x in enc.inputs)
    rest = {"additional_forward_args": enc.additional_forward_args}
    found = DeepLiftEHR(adapter).attribute(inputs, **rest)
    ids = tuple(batch[key] for key in model.feature_keys)
    expected = DeepLiftEHR(Oracle(model, move)).attribute(
        inputs, additional_forward_args=ids
    )
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


REFUSED: dict[str, tuple[Look, str]] = {
    "other ids": (lambda t, i: t((i + 1) % 4), "looks up other ids .*made by add"),
    "numbers": (
        lambda t, i: i.float().unsqueeze(-1).expand(-1, -1, 6),
        "never looks them up in 'embedding_model.embedding_layers.conditions'",
    ),
    "by way of a list": (
        lambda t, i: t(torch.tensor(i.tolist()).flip(1)),
        "never looks them up",
    ),
    "one-hot": (
        lambda t, i: F.one_hot(i, len(t.weight)).float() @ t.weight,
        "never looks them up",
    ),
    "a table made of it": (
        lambda t, i: F.embedding(i, t.weight * 2),
        "never looks them up",
    ),
    "under vmap": (
        lambda t, i: torch.vmap(lambda row: t.weight[row])(i),
        "never looks them up",
    ),
    "unique ones": (
        lambda t, i: torch.stack([t(torch.unique(row))[:1] for row in i]),
        "looks up other ids .*made by",
    ),
    "by way of NumPy": (
        lambda t, i: t(torch.from_numpy(i.numpy()).flip(1)),
        "never looks them up",
    ),
    "bags": (
        lambda t, i: F.embedding_bag(i, t.weight).unsqueeze(1),
        "never looks them up",
    ),
}


@pytest.mark.parametrize("way", REFUSED)
def test_what_cannot_be_followed_is_refused(way: str) -> None:
    look, words = REFUSED[way]
    _, batch = data()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the table that is not the feature's
        with pytest.raises(ValueError, match=f"'conditions'.*{words}"):
            DeepLiftEHR(Own(look).eval()).explain(batch)


def test_a_second_table_is_said() -> None:
    other = nn.Embedding(9, 6)
    model = Own(lambda t, i: t(i.flip(1)) + other(i)).eval()
    with pytest.warns(UserWarning, match="'conditions'.*another table"):
        DeepLiftEHR(model).explain(data()[1])


def test_a_feature_that_is_never_read_has_none() -> None:
    class Half(Own):
        def forward(self, **batch: Any) -> dict[str, Tensor]:
            table = self.embedding_model.embedding_layers["conditions"]
            found = table(batch["conditions"])
            return {"logit": self.head(found, found)}

    _, batch = data()
    exp = DeepLiftEHR(Half(lambda t, i: t(i)).eval()).explain(batch)
    assert exp.attributions["conditions"].any()
    assert not exp.attributions["drugs"].any()


class Doubled(nn.Embedding):
    """A table that does more than look up."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) * 2


@pytest.mark.parametrize("table", [Doubled(9, 6), nn.Embedding(9, 6, max_norm=0.5)])
def test_tables_that_do_more_than_look_up(table: nn.Embedding) -> None:
    _, batch = data()
    model = Own(lambda t, i: t(i))
    model.embedding_model.embedding_layers["conditions"] = table
    kept = table.weight.detach().clone()
    adapter = PyHealthAdapter(model.eval())
    enc = adapter.encode(batch)
    ours = adapter(*enc.inputs, *enc.additional_forward_args)
    assert torch.equal(table.weight, kept)
    torch.testing.assert_close(ours, model(**batch)["logit"])


def test_layers_of_a_model_that_begins_again_ran_once() -> None:
    _, batch = data()
    model = Own(WAYS["functional"][0]).eval()
    found, delta = LayerDeepLiftEHR(model, "fc").attribute(
        batch, attribute_to_layer_input=True, return_convergence_delta=True
    )
    assert found.shape == (6, 10) and float(delta.abs().max()) < 1e-6
