"""Layers whose tensors are made of one another, that are passed by, or take ids."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import zoo
from captum.attr import LayerIntegratedGradients
from torch import Tensor, nn

from captum_ehr import (
    AttributionWarning,
    CompletenessError,
    DeepLiftEHR,
    LayerDeepLiftEHR,
    NeuronDeepLiftEHR,
)

#: PyHealth's own layers, which give all steps and the last one.
LAYERS = [
    (zoo.Config("Transformer", "sequence", "binary", zoo.SMALL), "transformer"),
    (zoo.Config("RNN", "sequence", "multiclass", zoo.HIDDEN), "rnn"),
    (zoo.Config("CNN", "sequence", "binary", zoo.HIDDEN), "cnn"),
    (
        zoo.Config("TCN", "sequence", "binary", {**zoo.SMALL, "num_channels": 6}),
        "tcn",
    ),
    (zoo.Config("StageNet", "stagenet", "binary", zoo.STAGES), "stagenet"),
    (zoo.Config("StageAttentionNet", "stagenet", "binary", zoo.HEADS), "stagenet"),
    (zoo.Config("JambaEHR", "sequence", "binary", zoo.SMALL), "jamba"),
]


def total(parts: Any) -> Tensor:
    parts = parts if isinstance(parts, tuple) else (parts,)
    return torch.stack([p.flatten(1).sum(1) for p in parts]).sum(0)


@pytest.mark.parametrize(("config", "name"), LAYERS, ids=str)
def test_nothing_is_counted_twice_in_pyhealths_own_layers(config, name) -> None:
    model, batch = zoo.build(config)
    exp = DeepLiftEHR(model).explain(batch)
    paths = [f"{name}.{key}" for key in model.feature_keys]
    with warnings.catch_warnings():
        warnings.simplefilter("error", AttributionWarning)
        found, delta = LayerDeepLiftEHR(model, paths, completeness="raise").attribute(
            batch, return_convergence_delta=True
        )
    assert isinstance(found, list) and all(len(parts) > 1 for parts in found)
    change = exp.f_input - exp.f_baseline
    sizes = [p.abs().sum() for parts in found for p in parts]
    assert max(sizes) > 0
    assert float(delta.abs().max()) < 1e-5
    together = torch.stack([p.double().sum() for parts in found for p in parts]).sum()
    assert float((together - change.double().sum()).abs()) < 1e-5
    alone = LayerDeepLiftEHR(model, paths[0], completeness="off").attribute(batch)
    for part, other in zip(alone, found[0]):
        torch.testing.assert_close(part, other, rtol=1e-4, atol=1e-6)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u = torch.tanh(x)
        return u, u * x


class OfPair(nn.Module):
    """Uses the second of two tensors, which is made of the first."""

    def __init__(self, both: bool) -> None:
        super().__init__()
        self.pair, self.out, self.both = Pair(), nn.Linear(4, 1), both

    def forward(self, x: Tensor) -> Tensor:
        u, v = self.pair(x)
        return self.out(v).tanh() + (u.sum(1, keepdim=True) if self.both else 0)


@pytest.mark.parametrize("both", [False, True])
def test_a_tensor_made_of_another_counts_where_it_is_used(both: bool) -> None:
    torch.manual_seed(0)
    model, x = OfPair(both), torch.randn(5, 4)
    (u, v), delta = LayerDeepLiftEHR(model, "pair").attribute(
        x, return_convergence_delta=True
    )
    assert float(delta.abs().max()) < 1e-6
    torch.testing.assert_close(u, x.tanh() * both)
    w = x.tanh() * x
    cell = nn.Sequential(model.out, nn.Tanh())
    expected = DeepLiftEHR(cell).attribute(w)
    torch.testing.assert_close(v, expected, rtol=1e-4, atol=1e-6)


class Residual(nn.Module):
    """What the layer takes goes past it as well."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out, self.unseen = (
            nn.Linear(4, 4),
            nn.Linear(4, 1),
            nn.Linear(4, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(x)
        constant = self.unseen(torch.ones_like(x))
        return self.out((h + self.layer(h)) * constant)


@pytest.fixture
def residual() -> Any:
    torch.manual_seed(1)
    model, x = Residual(), torch.randn(5, 4)
    constant = model.unseen(torch.ones(1, 4)).detach()
    weight = model.out.weight.detach()[0] * constant
    through = ((model.layer(x.tanh()) - model.layer(0 * x)) * weight).detach()
    past = (x.tanh() * weight).sum(1)
    return model, x, through, past


@pytest.mark.parametrize("size", [None, 1, 2])
@pytest.mark.parametrize("of_input", [False, True])
def test_what_goes_past_the_layer_is_said(residual, of_input, size) -> None:
    model, x, through, past = residual
    layer = LayerDeepLiftEHR(model, "layer", internal_batch_size=size)
    with pytest.warns(AttributionWarning, match=r"'layer': f\(x\) - f\(x0\) goes past"):
        found, delta = layer.attribute(
            x, attribute_to_layer_input=of_input, return_convergence_delta=True
        )
    torch.testing.assert_close(found.sum(1), through.sum(1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(delta, -past, rtol=1e-4, atol=1e-6)
    strict = LayerDeepLiftEHR(model, "layer", completeness="raise")
    with pytest.raises(CompletenessError, match="goes past it"):
        strict.attribute(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LayerDeepLiftEHR(model, "layer", completeness="off").attribute(x)


def test_a_layer_that_the_inputs_do_not_reach_has_nothing(residual) -> None:
    model, x, *_ = residual
    layer = LayerDeepLiftEHR(model, "unseen", completeness="off")
    found, delta = layer.attribute(x, return_convergence_delta=True)
    assert found.shape == (5, 4) and not found.any()
    torch.testing.assert_close(delta, (model(0 * x) - model(x)).detach().squeeze(1))


def test_several_layers_in_a_row_share_what_passes_them() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    model = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Linear(4, 1))
    x = torch.randn(5, 4)
    (a, b), delta = LayerDeepLiftEHR(model, [first, "2"]).attribute(
        x, return_convergence_delta=True
    )
    assert not a.any() and float(delta.abs().max()) < 1e-6
    alone = LayerDeepLiftEHR(model, second).attribute(x)
    torch.testing.assert_close(b, alone)


class Recurrent(nn.Module):
    def __init__(self, cell: type[nn.RNNBase], use: str, layers: int = 3) -> None:
        super().__init__()
        self.rnn = cell(4, 6, num_layers=layers, batch_first=True)
        self.out, self.use = nn.Linear(6, 1), use

    def forward(self, x: Tensor) -> Tensor:
        steps, state = self.rnn(x)
        last = state[0] if isinstance(state, tuple) else state
        used = {"steps": self.out(steps.mean(1)), "state": self.out(last[-1]).tanh()}
        return sum(used.values()) if self.use == "both" else used[self.use]


@pytest.mark.parametrize("size", [None, 1, 2])
@pytest.mark.parametrize("use", ["steps", "state", "both"])
@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_and_their_states(cell, use, size) -> None:
    """Three layers and three patients: the states' patients are dimension 1 still."""
    torch.manual_seed(0)
    model, x = Recurrent(cell, use), torch.randn(3, 5, 4)
    parts, delta = LayerDeepLiftEHR(
        model, "rnn", completeness="raise", internal_batch_size=size
    ).attribute(x, return_convergence_delta=True)
    given = model.rnn(x)
    states = given[1] if isinstance(given[1], tuple) else (given[1],)
    assert [p.shape for p in parts] == [given[0].shape, *(s.shape for s in states)]
    change = (model(x) - model(0 * x)).detach().squeeze(1)
    sums = parts[0].sum((1, 2)) + sum(p.sum((0, 2)) for p in parts[1:])
    torch.testing.assert_close(sums, change, rtol=1e-4, atol=1e-6)
    assert float(delta.abs().max()) < 1e-6
    assert bool(parts[0].any()) == (use != "state")
    assert bool(parts[1].any()) == (use != "steps")


def test_packed_sequences_know_their_patients() -> None:
    model, batch = zoo.build(zoo.Config("RNN", "sequence", "multiclass", zoo.HIDDEN))
    paths = [f"rnn.{key}.rnn" for key in model.feature_keys]
    layer = LayerDeepLiftEHR(model, paths, completeness="raise")
    _, delta = layer.attribute(batch, return_convergence_delta=True)
    assert float(delta.abs().max()) < 1e-6
    sliced = LayerDeepLiftEHR(model, paths, internal_batch_size=4)
    with pytest.raises(ValueError, match="without an axis for the patients"):
        sliced.attribute(batch)
    whole = LayerDeepLiftEHR(model, paths, internal_batch_size=len(batch["patient_id"]))
    for ours, theirs in zip(whole.attribute(batch), layer.attribute(batch)):
        torch.testing.assert_close(ours, theirs)


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.Linear(4, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.layer(x))
        return self.out(h * h.mean(0))


@pytest.mark.parametrize("mixing", ["apart", "together"])
def test_options_of_a_layer_are_in_force(mixing: Any) -> None:
    torch.manual_seed(0)
    model, x = Mixing(), torch.randn(5, 4)
    layer = LayerDeepLiftEHR(model, "layer", mixing=mixing)
    with pytest.warns(AttributionWarning, match="mixes the patients"):
        _, delta = layer.attribute(x, return_convergence_delta=True)
    worst = float(delta.abs().max())
    assert worst < 1e-6 if mixing == "apart" else worst > 1e-3
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    LayerDeepLiftEHR(model, "layer", internal_batch_size=2).attribute(x[:4])
    assert max(seen) == 2


@pytest.mark.parametrize(
    "option", [{"completeness": "rescale"}, {"sum_tokens": True}, {"segments": 2}]
)
def test_options_that_a_layer_cannot_have(option: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        LayerDeepLiftEHR(Mixing(), "layer", **option)


class Reader(nn.Module):
    """Token ids, a position table, and a mask of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 6), nn.Embedding(9, 6)
        self.rnn, self.out = nn.GRU(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, ids: Tensor, lab: Tensor | None = None) -> Tensor:
        place = torch.arange(ids.shape[1]).expand_as(ids)
        h = self.words(ids) + self.places(place)
        pooled = self.rnn(h)[0].tanh().mean(1)
        return self.out(pooled if lab is None else pooled * lab)


@pytest.mark.parametrize("layer", ["words", "rnn", "out"])
@pytest.mark.parametrize("functional", [False, True])
def test_token_ids_in_front_of_a_layer(layer: str, functional: bool) -> None:
    torch.manual_seed(0)
    model, ids = Reader(), torch.randint(1, 20, (4, 7))
    if functional and layer != "words":
        table = model.words.weight
        model.words = nn.Identity()
        model.words.forward = lambda i: table[i]  # type: ignore[method-assign]
    for reference in (torch.full_like(ids, 2), None, 0):
        found, delta = LayerDeepLiftEHR(model, layer, completeness="raise").attribute(
            ids, reference, target=1, return_convergence_delta=True
        )
        other = torch.zeros_like(ids) if not torch.is_tensor(reference) else reference
        change = (model(ids) - model(other)).detach()[:, 1]
        if layer != "rnn":
            torch.testing.assert_close(total(found), change, rtol=1e-4, atol=1e-6)
        assert float(delta.abs().max()) < 1e-6
    if layer == "words":
        path = LayerIntegratedGradients(model, model.words)
        theirs = path.attribute(ids, torch.full_like(ids, 2), target=1, n_steps=200)
        ours = LayerDeepLiftEHR(model, layer).attribute(
            ids, torch.full_like(ids, 2), target=1
        )
        both = torch.stack([theirs.flatten().float(), ours.flatten()])
        assert float(torch.corrcoef(both)[0, 1]) > 0.99


@pytest.mark.parametrize("call", [0, 1])
def test_calls_from_the_first_and_from_the_last(call: int) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.layer = nn.Embedding(20, 4), nn.Linear(4, 4)

        def forward(self, ids: Tensor) -> Tensor:
            return self.layer(self.layer(self.words(ids)).tanh()).tanh().sum((1, 2))

    torch.manual_seed(0)
    model, ids = Twice(), torch.randint(0, 20, (3, 5))
    layer = LayerDeepLiftEHR(model, "layer", completeness="raise")
    found = layer.attribute(ids, 2, call=call)
    torch.testing.assert_close(layer.attribute(ids, 2, call=call - 2), found)
    change = (model(ids) - model(torch.full_like(ids, 2))).detach()
    torch.testing.assert_close(found.sum((1, 2)), change, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="there is no call=-3"):
        layer.attribute(ids, 2, call=-3)


def test_ids_beside_values_and_what_goes_past() -> None:
    torch.manual_seed(0)
    model, ids, lab = Reader(), torch.randint(1, 20, (4, 7)), torch.rand(4, 5)
    given = (ids, lab), (torch.full_like(ids, 2), torch.zeros_like(lab))
    layer = LayerDeepLiftEHR(model, "words", completeness="check")
    with pytest.warns(AttributionWarning, match="goes past"):
        found, delta = layer.attribute(*given, target=0, return_convergence_delta=True)
    change = (model(*given[0]) - model(*given[1])).detach()[:, 0]
    torch.testing.assert_close(total(found) - change, delta, rtol=1e-4, atol=1e-6)


def test_ids_have_no_attributions_of_their_own() -> None:
    model, ids = Reader(), torch.ones(2, 3).long()
    with pytest.raises(TypeError, match="LayerDeepLiftEHR of an embedding"):
        DeepLiftEHR(model).attribute(ids, target=0)
    with pytest.raises(TypeError, match="int64"):
        NeuronDeepLiftEHR(model, "out").attribute(ids, 0)


@pytest.mark.parametrize("name", ["Bert", "GPT2", "Llama", "Mamba"])
def test_models_of_hugging_face_by_their_ids(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    small = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "intermediate_size": 32}
    config, kind, table, inner = {
        "Bert": (
            {**small, **heads},
            "BertForSequenceClassification",
            "bert.embeddings.word_embeddings",
            "bert.encoder.layer.1",
        ),
        "GPT2": (
            {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2},
            "GPT2LMHeadModel",
            "transformer.wte",
            "transformer.h.1",
        ),
        "Llama": (
            {**small, **heads},
            "LlamaForCausalLM",
            "model.embed_tokens",
            "model.layers.1",
        ),
        "Mamba": (
            {**small, "state_size": 4},
            "MambaForCausalLM",
            "backbone.embeddings",
            "backbone.layers.1",
        ),
    }[name]
    torch.manual_seed(0)
    own = getattr(transformers, f"{name}Config")(**config)
    model = Logits(getattr(transformers, kind)(own)).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ids = torch.randint(5, 50, (3, 7))
    reference = torch.full_like(ids, 2)
    target = 1 if name == "Bert" else (-1, 7)
    with torch.no_grad():
        change = model(ids) - model(reference)
    change = change[:, 1] if name == "Bert" else change[:, -1, 7]
    for path in (table, inner):
        layer = LayerDeepLiftEHR(model, f"model.{path}", completeness="raise")
        found, delta = layer.attribute(
            ids, reference, target, return_convergence_delta=True
        )
        torch.testing.assert_close(total(found), change, rtol=1e-4, atol=1e-6)
        assert float(delta.abs().max()) < 1e-5
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(input_ids=ids).logits
