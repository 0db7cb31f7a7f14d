"""torch.nn's own modules, whole, through both passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from calls import explained, sides, total
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from captum_ehr.propagation import attributions


class Total(nn.Module):
    """One value per row of whatever a module gives."""

    def __init__(self, inner: nn.Module, **options: Any) -> None:
        super().__init__()
        self.inner, self.options = inner, options

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x, **self.options)
        return weighed(y[0] if isinstance(y, tuple) else y)


def weighed(y: Tensor) -> Tensor:
    """One value per row; plain sums of normalised values are constant."""
    flat = y.flatten(1)
    return flat @ torch.arange(1, flat.shape[1] + 1).to(y.dtype).cos()


def _warm(module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """A module whose batch norms have seen data."""
    module = module.double().train()
    for _ in range(3):
        module(torch.randn(*shape, dtype=torch.float64) * 2 + 1)
    return module


IMAGES = (3, 2, 6, 6)
SERIES = (3, 2, 8)


def _modules() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, activation="gelu")
    first = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, norm_first=True)
    return {
        "convolutions": (
            _warm(
                nn.Sequential(
                    nn.Conv1d(2, 3, 3, padding=1),
                    nn.BatchNorm1d(3),
                    nn.ReLU(inplace=True),
                    nn.AvgPool1d(2),
                    nn.ConvTranspose1d(3, 2, 2),
                    nn.AdaptiveAvgPool1d(2),
                    nn.ELU(),
                ),
                SERIES,
            ),
            SERIES,
        ),
        "images": (
            _warm(
                nn.Sequential(
                    nn.Conv2d(2, 3, 3, stride=2),
                    nn.BatchNorm2d(3),
                    nn.SiLU(),
                    nn.AvgPool2d(2),
                    nn.GroupNorm(1, 3),
                ),
                IMAGES,
            ),
            IMAGES,
        ),
        "perceptron": (
            nn.Sequential(
                nn.Linear(4, 5),
                nn.BatchNorm1d(5),
                nn.Dropout(0.9),
                nn.Hardtanh(),
                nn.Linear(5, 3),
                nn.Softplus(),
                nn.LogSoftmax(1),
            ),
            (3, 4),
        ),
        "transformer": (nn.TransformerEncoder(encoder, 2), (3, 5, 4)),
        "transformer, norm first": (
            nn.TransformerEncoder(first, 2, enable_nested_tensor=False),
            (3, 5, 4),
        ),
        "GRU": (nn.GRU(4, 3, 2, bidirectional=True, batch_first=True), (3, 5, 4)),
        "LSTM": (nn.LSTM(4, 3, 2, dropout=0.5, batch_first=True), (3, 5, 4)),
        "RNN": (nn.RNN(4, 3, batch_first=True), (3, 5, 4)),
    }


MODULES = _modules()


@pytest.mark.parametrize("name", MODULES)
def test_modules_add_up_exactly(name: str) -> None:
    module, shape = MODULES[name]
    model = Total(module.double()).eval()
    x, x0 = sides(shape, 3)
    run = explained(model, x, x0, 1e-8)
    assert run.diagnostics.exact


@pytest.mark.parametrize("name", MODULES)
def test_modules_add_up_in_float32(name: str) -> None:
    module, shape = _modules()[name]
    model = Total(module.float()).eval()
    x, x0 = sides(shape, 3, torch.float32)
    run = attributions(model, (x,), (x0,))
    size = run.attributions[0].abs().flatten(1).sum(1)
    assert (run.delta.abs() <= 2e-5 * size).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MODULES)
def test_half_precision_is_finite(name: str, dtype: torch.dtype) -> None:
    module, shape = _modules()[name]
    model = Total(module.to(dtype)).eval()
    x, x0 = (t.to(dtype) for t in sides(shape, 3, torch.float32))
    run = attributions(model, (x,), (x0,))
    assert run.attributions[0].dtype is dtype
    assert run.attributions[0].isfinite().all()
    wide = attributions(Total(module.float()).eval(), (x.float(),), (x0.float(),))
    error = (run.attributions[0].float() - wide.attributions[0]).abs().max()
    assert error <= 0.15 * wide.attributions[0].abs().max()


@pytest.mark.parametrize("padding", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_transformer_with_masks(padding: bool, causal: bool) -> None:
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(4, 2, 8, 0.5, batch_first=True)
    options: dict[str, Any] = {}
    pads = torch.arange(5) >= torch.tensor([5, 3, 1])[:, None]
    if padding:
        options["src_key_padding_mask"] = pads
    if causal:
        options["mask"] = torch.ones(5, 5, dtype=torch.bool).triu(1)
    inner = nn.TransformerEncoder(encoder, 2, enable_nested_tensor=False)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            y = self.inner(x, **options)
            return weighed(y.masked_fill(pads[..., None], 0.0))

    x, x0 = sides((3, 5, 4), 3)
    run = explained(Model().double().eval(), x, x0, 1e-8)
    assert run.diagnostics.exact
    if padding:
        assert (run.attributions[0][pads] == 0).all()


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_first": True},
        {"add_bias_kv": True},
        {"bias": False},
        {"kdim": 4, "vdim": 4},
        {"dropout": 0.5},
    ],
    ids=lambda o: "-".join(o) or "plain",
)
def test_multihead_attention_options(
    options: dict[str, Any], need_weights: bool
) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(4, 2, **options).double().eval()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, x: Tensor) -> Tensor:
            if not options.get("batch_first"):
                x = x.transpose(0, 1)
            y, w = self.attention(x, x.tanh(), x, need_weights=need_weights)
            if not options.get("batch_first"):
                y = y.transpose(0, 1)
            return total(y) if w is None else total(y) + total(w[..., 0] ** 2)

    x, x0 = sides((3, 5, 4), 3)
    assert explained(Model().eval(), x, x0, 1e-8).diagnostics.exact


@pytest.mark.parametrize("need_weights", [True, False])
def test_patients_whose_keys_are_all_padding(need_weights: bool) -> None:
    """Whatever torch gives for them, so do the passes; the others are not touched."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(4, 2, batch_first=True).double().eval()
    pads = torch.tensor([[False, False, True], [True, True, True]])

    def model(x: Tensor) -> Tensor:
        y = attention(x, x, x, pads, need_weights=need_weights)[0]
        return total(y)

    x, x0 = sides((2, 3, 4), 3)
    plain = model(x).detach()  # torch's other path, under no_grad, may give NaN here
    run = attributions(model, (x,), (x0,))
    torch.testing.assert_close(run.f_input, plain, equal_nan=True)
    assert run.delta[0].abs() < 1e-10


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_packed_patients_do_not_depend_on_each_other_or_on_padding(
    kind: type[nn.RNNBase],
) -> None:
    torch.manual_seed(0)
    layer = kind(4, 3, 2, bidirectional=True, batch_first=True).double()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            packed = pack_padded_sequence(
                x, lengths, batch_first=True, enforce_sorted=False
            )
            y, h = self.layer(packed)
            y, _ = pad_packed_sequence(y, batch_first=True)
            return total(y.tanh()) + (h[0] if isinstance(h, tuple) else h).sum((0, 2))

    model = Model()
    lengths = torch.tensor([2, 5, 3])
    x, x0 = sides((3, 5, 4), 3)
    run = attributions(model, (x,), (x0,), (lengths,))
    assert run.delta.abs().max() < 1e-10
    assert run.diagnostics.exact
    pads = torch.arange(5) >= lengths[:, None]
    assert (run.attributions[0][pads] == 0).all()
    for i, n in enumerate(lengths.tolist()):
        alone = attributions(
            model, (x[i : i + 1, :n],), (x0[i : i + 1, :n],), (lengths[i : i + 1],)
        )
        torch.testing.assert_close(alone.attributions[0][0], run.attributions[0][i, :n])


def test_batch_norm_on_the_batchs_own_statistics_is_exact_or_reported() -> None:
    norm = nn.BatchNorm1d(4, track_running_stats=False)
    model = nn.Sequential(norm, nn.Linear(4, 1)).double().eval()
    x, x0 = sides((5, 4), 3)
    run = attributions(model, (x,), (x0,))
    # It mixes patients: only the whole batch can add up.
    change = (run.f_input - run.f_reference).sum().abs()
    complete = run.delta.sum().abs() <= 1e-8 * max(float(change), 1.0)
    assert run.diagnostics.messages or complete and run.diagnostics.operations


def test_an_empty_batch_gives_an_empty_explanation() -> None:
    x = torch.zeros(0, 4)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    run = attributions(model, (x,), (x,))
    assert run.attributions[0].shape == (0, 4)
