"""Two thousand explanations later there is no more in memory than before."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from captum_ehr import DeepLiftEHR, PyHealthAdapter
from captum_ehr.datasets import tiny_model

pytestmark = [
    pytest.mark.complete,
    pytest.mark.skipif(
        not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="of glibc 2.33 or later"
    ),
]


class Held(NamedTuple):
    """What is in memory after a collection."""

    tensors: int
    objects: int
    #: Small blocks, which Python gives out itself: up to 512 bytes each.
    blocks: int
    #: All others: of the C library, torch's among them.
    bytes: int


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks "
            "keepcost"
        ).split()
    ]


def held() -> Held:
    gc.collect()
    objects = gc.get_objects()
    tensors = sum(issubclass(type(one), Tensor) for one in objects)
    count = len(objects)
    del objects
    library = ctypes.CDLL(None)
    library.mallinfo2.restype = _Mallinfo
    info = library.mallinfo2()
    return Held(tensors, count, sys.getallocatedblocks(), info.uordblks + info.hblkhd)


def growth(call: Callable[[], Any], calls: int, warm_up: int = 100) -> Held:
    """How much more there is after so many calls, when all is warm."""
    for _ in range(warm_up):
        call()
    before = held()
    for _ in range(calls):
        call()
    return Held(*(now - then for now, then in zip(held(), before)))


def assert_flat(grown: Held, calls: int) -> None:
    """Less than a leak of 1 KiB a call would be, however it is made."""
    assert grown.tensors == 0, grown
    assert grown.objects < calls / 4, grown
    assert grown.blocks < 1.5 * calls, grown  # of 512 bytes at most: two a KiB
    assert grown.bytes < calls * 512, grown


@pytest.mark.parametrize(
    "leak",
    [
        lambda kept: kept.append(torch.zeros(256)),
        lambda kept: kept.append(bytes(1024)),
        lambda kept: kept.append([bytes(64) for _ in range(12)]),
    ],
    ids=["a tensor", "bytes", "small objects"],
)
def test_a_leak_of_one_kibibyte_is_seen(leak: Callable[[list[Any]], None]) -> None:
    kept: list[Any] = []
    grown = growth(lambda: leak(kept), 500)
    with pytest.raises(AssertionError):
        assert_flat(grown, 500)


def _by_the_passes(adapter: Any, batch: Any) -> Any:
    return DeepLiftEHR(adapter).explain(batch)


def _from_the_model(adapter: Any, batch: Any) -> Any:
    return DeepLiftEHR(adapter.model).attribute(batch)


def _that_fails(adapter: Any, batch: Any) -> None:
    with pytest.raises(IndexError, match="target 9"):
        DeepLiftEHR(adapter).explain(batch, target=9)


@pytest.mark.parametrize(
    ("way", "calls"),
    [(_by_the_passes, 600), (_from_the_model, 200), (_that_fails, 200)],
)
def test_explanations_leave_nothing(way: Callable[[Any, Any], Any], calls: int) -> None:
    model, batch = tiny_model()
    adapter = PyHealthAdapter(model)
    assert_flat(growth(lambda: way(adapter, batch), calls), calls)


def test_plans_leave_nothing() -> None:
    model, batch = tiny_model()
    explainer = DeepLiftEHR(model)
    assert_flat(growth(lambda: explainer.explain(batch), 1000), 1000)
    assert sum(plan.replays for plan in explainer.plans) > 0
