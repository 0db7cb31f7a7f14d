"""Real models of plain torch and of transformers, with random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from calls import explained, sides
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from captum_ehr import DeepLiftEHR
from captum_ehr.propagation import attributions

transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def _double() -> Any:
    """Every module made in float64, from the same random numbers."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# Transformers ---------------------------------------------------------------------

REAL = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 2 + [0] * 4])
SIZES: dict[str, Any] = {"vocab_size": 40, "bos_token_id": 1, "eos_token_id": 2}


class Scored(nn.Module):
    """A score of a transformer's pooled output, or of its last position."""

    def __init__(self, body: nn.Module, pooled: bool) -> None:
        super().__init__()
        self.body, self.pooled, self.head = body, pooled, nn.Linear(16, 1)
        self.eval()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        out = self.body(inputs_embeds=x, attention_mask=mask)
        last = out.pooler_output if self.pooled else out.last_hidden_state[:, -1]
        return self.head(last)


def _bert(attention: str) -> nn.Module:
    config = transformers.BertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        attn_implementation=attention,
        **SIZES,
    )
    return Scored(transformers.BertModel(config), pooled=True)


def _gpt2(attention: str) -> nn.Module:
    config = transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=4, attn_implementation=attention, **SIZES
    )
    return Scored(transformers.GPT2Model(config), pooled=False)


def _llama(attention: str) -> nn.Module:
    config = transformers.LlamaConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=32,
        attn_implementation=attention,
        **SIZES,
    )
    return Scored(transformers.LlamaModel(config), pooled=False)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("build", [_bert, _gpt2])
def test_transformers_with_padding(build: Any, attention: str) -> None:
    """Pads, to the left for a decoder, are equal on both sides and get nothing."""
    mask = REAL if build is _bert else REAL.flip(1)
    x, x0 = (side * mask[..., None] for side in sides((3, 6, 16), 4))
    run = explained(build(attention), x, x0, args=(mask,))
    assert run.diagnostics.exact
    assert (run.attributions[0][mask == 0] == 0).all()
    assert (run.attributions[0][mask == 1] != 0).any()


def test_a_llama_without_its_own_rounding_is_exact() -> None:
    """Rotary positions, grouped heads, gated SiLU and a causal mask."""
    model = _llama("sdpa")
    for layer in model.body.layers:
        layer.input_layernorm = nn.RMSNorm(16, 1e-6)
        layer.post_attention_layernorm = nn.RMSNorm(16, 1e-6)
    model.body.norm = nn.RMSNorm(16, 1e-6)
    run = explained(model, *sides((3, 6, 16), 4))
    assert run.diagnostics.exact
    assert {"silu", "rms_norm"} <= {op.name for op in run.diagnostics.operations}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_llama_adds_up_to_the_digits_of_its_float32_parts(attention: str) -> None:
    run = explained(_llama(attention), *sides((3, 6, 16), 4), tolerance=1e-4)
    assert run.diagnostics.exact


# Convolutions ---------------------------------------------------------------------


class Residual(nn.Module):
    """Everything in place that can be."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(width, width, 3, padding=1)
        self.second = nn.Conv1d(width, width, 3, padding=1)
        self.norm, self.relu = seen(nn.BatchNorm1d(width)), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(self.relu(self.norm(self.first(x))))
        h += x
        return self.relu(h)


def seen(norm: nn.Module) -> Any:
    """A batch norm whose running statistics are not the initial ones."""
    norm.running_mean.normal_()  # type: ignore[operator, union-attr]
    norm.running_var.uniform_(0.5, 2)  # type: ignore[operator, union-attr]
    return norm


@pytest.mark.parametrize("stride, padding", [(1, 1), (2, 1), (2, 0)])
def test_series_with_overlapping_pools_and_residuals(stride: int, padding: int) -> None:
    model = nn.Sequential(
        nn.Conv1d(3, 8, 3, padding=1),
        Residual(8),
        nn.MaxPool1d(3, stride, padding),
        Residual(8),
        nn.AdaptiveMaxPool1d(2),
        nn.Flatten(),
        nn.Linear(16, 1),
    ).eval()
    assert explained(model, *sides((3, 3, 8), 5)).diagnostics.exact


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=2)
        self.norm, self.head = seen(nn.BatchNorm2d(4)), nn.Linear(16, 1)
        self.instance, self.group = nn.InstanceNorm2d(4), nn.GroupNorm(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(F.relu_(self.norm(self.first(x))), 3, 1, 1)
        h = self.instance(self.group(self.second(h)))
        return self.head(F.adaptive_max_pool2d(F.silu(h, inplace=True), 2).flatten(1))


def test_images_with_norms_that_are_written_on() -> None:
    assert explained(Images().eval(), *sides((3, 1, 9, 9), 5)).diagnostics.exact


# Recurrent layers -----------------------------------------------------------------


class Packed(nn.Module):
    def __init__(self, kind: str, batch_first: bool) -> None:
        super().__init__()
        self.first = batch_first
        self.rnn = getattr(nn, kind)(
            4, 3, 2, batch_first=batch_first, bidirectional=True
        )
        self.head = nn.Linear(12, 1)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        x = x if self.first else x.transpose(0, 1)
        packed = pack_padded_sequence(x, lengths, self.first, enforce_sorted=False)
        outputs, state = self.rnn(packed)
        outputs, _ = pad_packed_sequence(outputs, self.first)
        last = state[0] if isinstance(state, tuple) else state
        summed = outputs.sum(1 if self.first else 0)
        return self.head(torch.cat([summed, last[-1], last[-2]], 1))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_packed_classifiers(kind: str, batch_first: bool) -> None:
    lengths = torch.tensor([4, 6, 2])
    run = explained(Packed(kind, batch_first), *sides((3, 6, 4), 6), args=(lengths,))
    assert run.diagnostics.exact
    beyond = torch.arange(6) >= lengths[:, None]
    assert (run.attributions[0][beyond] == 0).all()


# Several outputs ------------------------------------------------------------------


class Heads(nn.Module):
    """Two tasks on one body; the second of two times three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 5), nn.Tanh())
        self.risk, self.stage = nn.Linear(5, 2), nn.Linear(5, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.risk(h), self.stage(h * h).unflatten(1, (2, 3)).softmax(-1)


class Head(nn.Module):
    def __init__(self, model: nn.Module, which: int) -> None:
        super().__init__()
        self.model, self.which = model, which

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)[self.which]


def test_either_head_of_a_model_with_two() -> None:
    model, (x, x0) = Heads(), sides((3, 4), 7)
    for target in (0, 1):
        run = explained(Head(model, 0), x, x0, target=target)
        assert run.diagnostics.exact
    lifts = [DeepLiftEHR(Head(model, which)) for which in (0, 1)]
    torch.testing.assert_close(lifts[0].attribute(x, x0, target=1), run.attributions[0])
    for target in ((0, 2), [(1, 0), (0, 1), (1, 2)]):
        _, delta = lifts[1].attribute(
            x, x0, target=target, return_convergence_delta=True
        )
        assert delta.abs().max() < 1e-12
    shares = lifts[1].attribute(x, x0, target=(1, 2))
    change = (model(x)[1] - model(x0)[1])[:, 1, 2]
    torch.testing.assert_close(shares.sum(1), change, rtol=1e-10, atol=1e-12)


# Parametrised weights -------------------------------------------------------------


class Squashed(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * torch.tanh(weight)


def _parametrized(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Squashed())
    return layer


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize(
    "change",
    [
        torch.nn.utils.weight_norm,
        parametrizations.weight_norm,
        torch.nn.utils.spectral_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        _parametrized,
    ],
    ids=["old weight", "weight", "old spectral", "spectral", "orthogonal", "own"],
)
def test_weights_that_are_computed(change: Any) -> None:
    """Weights are constants, however they come about; the model keeps its own."""
    model = nn.Sequential(change(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 1))
    model[0](torch.randn(2, 4))
    model.eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    run = explained(model, *sides((3, 4), 8))
    assert run.diagnostics.exact
    assert [op.name for op in run.diagnostics.operations] == ["tanh"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])


# Other ways to run a model --------------------------------------------------------


def _perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 1))


def _compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


def _compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


def _compiled_within(model: nn.Module) -> nn.Module:
    return nn.Sequential(_compiled(model[:3]), model[3])


@pytest.mark.parametrize("how", [_compiled, _compiled_in_place, _compiled_within])
def test_a_compiled_module_is_explained_as_itself(how: Any) -> None:
    torch.manual_seed(0)
    model, (x, x0) = _perceptron(), sides((3, 4), 9)
    plain = explained(model, x, x0)
    run = explained(how(model).train(), x, x0)
    assert run.diagnostics.exact
    assert run.diagnostics.operations == plain.diagnostics.operations
    torch.testing.assert_close(run.attributions[0], plain.attributions[0])


def test_a_compiled_module_s_dropout_is_off_and_rules_reach_into_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(), nn.Linear(5, 1))
    x, x0 = sides((3, 4), 9)
    plain = explained(model.eval(), x, x0)
    compiled = _compiled(model).train()
    run = attributions(compiled, (x,), (x0,))
    torch.testing.assert_close(run.attributions[0], plain.attributions[0])
    assert run.diagnostics.exact and compiled.training
    assert all(p.grad is None for p in model.parameters())

    def doubled(module: Any, y: Any, x: Any) -> Any:
        return lambda m: [(x, 2 * m * y.delta / x.delta)]

    run = attributions(compiled, (x,), (x0,), rules={nn.Tanh: doubled})
    torch.testing.assert_close(run.attributions[0], 2 * plain.attributions[0])


def test_reused_modules_and_a_graph_of_patients() -> None:
    """One layer thrice, with a sparse adjacency between visits in between."""
    layer, head = nn.Linear(4, 4), nn.Linear(4, 1)
    graph = torch.tensor([[0, 1.0, 0], [0.5, 0, 2], [1, 0, 0]]).to_sparse()

    def model(x: Tensor) -> Tensor:
        h = F.silu(layer(x[0]))
        for _ in range(2):
            h = h + F.gelu(layer(torch.sparse.mm(graph, h)))
        return head(h.max(0).values)[None]

    assert explained(model, *sides((1, 3, 4), 9)).diagnostics.exact


def test_reentrant_checkpoints_are_refused_by_name() -> None:
    from torch.utils.checkpoint import checkpoint

    def model(x: Tensor) -> Tensor:
        return checkpoint(torch.tanh, x.exp(), use_reentrant=True).sum(1)

    x, x0 = sides((3, 4), 9)
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        attributions(model, (x,), (x0,))
