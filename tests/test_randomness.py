"""Random numbers: the same in both passes, and nobody else's set back."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

import numpy as np
import pytest
import torch
from calls import sides
from torch import Tensor
from versions import TORCH, before

from captum_ehr.attr.captums import DrawnAlike
from captum_ehr.propagation import attributions


def _drawing(x: Tensor) -> Tensor:
    return (x * (1 + random.random()) + np.random.rand()).exp().sum(1)


def _plain(x: Tensor) -> Tensor:
    return x.exp().sum(1)


def _fails(x: Tensor) -> Tensor:
    _drawing(x)
    raise ZeroDivisionError


@contextmanager
def another_thread(draw: Callable[[], object]) -> Iterator[None]:
    """A thread that draws again and again, and is at it before the body begins."""
    done, begun = threading.Event(), threading.Event()

    def work() -> None:
        while not done.is_set():
            draw()
            begun.set()
            time.sleep(2e-4)

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no other thread ran, whatever the tests before have left."""
    monkeypatch.setattr("captum_ehr.propagation.runs.alone", lambda: True)


@pytest.mark.usefixtures("alone")
def test_a_model_that_draws_is_given_the_same_numbers_where_it_is_alone() -> None:
    random.seed(1)
    np.random.seed(2)
    before = random.getstate(), str(np.random.get_state())
    x, x0 = sides((3, 4), 1)
    run = attributions(_drawing, (x,), (x0,))
    assert (random.getstate(), str(np.random.get_state())) == before
    torch.testing.assert_close(run.f_input, _drawing(x))
    random.setstate(before[0])
    np.random.seed(2)
    torch.testing.assert_close(run.f_reference, _drawing(x0))
    assert run.diagnostics.messages == ()
    random.setstate(before[0])
    np.random.seed(2)
    with pytest.raises(ZeroDivisionError):
        attributions(_fails, (x,), (x0,))
    assert (random.getstate(), str(np.random.get_state())) == before


@pytest.mark.parametrize("draw", [random.random, np.random.rand], ids=["python", "np"])
def test_what_other_threads_draw_is_not_set_back(draw: Callable[[], float]) -> None:
    x, x0 = sides((3, 4), 1)
    expected = attributions(_plain, (x,), (x0,))
    seen: list[float] = []
    with another_thread(lambda: seen.append(draw())):
        for _ in range(60):
            run = attributions(_plain, (x,), (x0,))
            assert torch.equal(run.attributions[0], expected.attributions[0])
            assert run.diagnostics.messages == ()
    assert len(seen) > 20
    assert len(set(seen)) == len(seen)


def test_a_model_that_draws_beside_idle_threads_is_given_the_same_numbers() -> None:
    x, x0 = sides((3, 4), 1)
    with another_thread(lambda: None):
        before = random.getstate(), str(np.random.get_state())
        run = attributions(_drawing, (x,), (x0,))
        assert (random.getstate(), str(np.random.get_state())) == before
        torch.testing.assert_close(run.f_input, _drawing(x))
        random.setstate(before[0])
        assert run.diagnostics.messages == ()
        assert run.delta.abs().max() < 1e-12


def test_draws_that_another_thread_has_disturbed_are_said() -> None:
    x, x0 = sides((3, 4), 1)
    said: list[str] = []
    with another_thread(lambda: None):
        for when in range(6):  # of the runs of the function: one is the reference's
            runs = count()

            def disturbed(
                x: Tensor, when: int = when, runs: Iterator[int] = runs
            ) -> Tensor:
                y = _drawing(x)
                if next(runs) == when:
                    random.random()  # as if by another
                return y

            said += attributions(disturbed, (x,), (x0,)).diagnostics.messages
    assert any("another thread meanwhile" in message for message in said)


def test_who_draws_in_vain_is_not_set_back() -> None:
    x, x0 = sides((3, 4), 1)

    def in_vain(x: Tensor) -> Tensor:
        random.random()
        return _plain(x)

    with another_thread(lambda: None):
        assert attributions(in_vain, (x,), (x0,)).diagnostics.messages == ()


@pytest.mark.skipif(before(TORCH, "2.8"), reason="bessel_j0 has no derivative there")
def test_integration_leaves_torch_s_generator_alone() -> None:
    """The path integral of a function that draws nothing runs in the backward pass."""
    seen: list[float] = []
    x, x0 = sides((3, 4), 1)
    with another_thread(lambda: seen.append(torch.rand((), dtype=x.dtype).item())):
        for _ in range(30):
            run = attributions(lambda x: torch.special.bessel_j0(x).sum(1), (x,), (x0,))
    assert "special_bessel_j0" in str(run.diagnostics.operations)
    assert len(seen) > 20
    assert len(set(seen)) == len(seen)


def test_a_function_without_a_rule_that_draws_is_known_beside_others() -> None:
    x, x0 = sides((3, 4), 1)
    with another_thread(random.random):
        run = attributions(
            lambda x: torch.nn.functional.gumbel_softmax(x, dim=1)[:, 0], (x,), (x0,)
        )
    assert run.delta.abs().max() < 1e-6


def test_methods_that_sample_draw_alike_and_leave_the_generators_alone() -> None:
    before = torch.get_rng_state(), str(np.random.get_state())

    def drawn() -> list[Tensor]:
        with DrawnAlike():
            weights = torch.distributions.Categorical(torch.ones(5))
            return [
                torch.randperm(9),
                torch.normal(0.0, torch.ones(3)),
                torch.bernoulli(torch.full((9,), 0.5)),
                torch.empty(3).uniform_(),
                weights.sample((4,)),
            ]

    assert all(map(torch.equal, drawn(), drawn()))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1]
