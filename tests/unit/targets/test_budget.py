"""Whether replicas fit, and which devices each gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_ci.deploy.target import Serving
from vllm_ci.domain.errors import UsageError
from vllm_ci.targets.local.budget import Machine, Used, assign

GIB = 2**30


def serving(gpus: int = 0, memory_gib: float = 0) -> Serving:
    return Serving(argv=("x",), model="m", gpus=gpus, memory_bytes=int(memory_gib * GIB))


@given(st.integers(0, 8), st.integers(0, 4), st.lists(st.sets(st.integers(0, 7), max_size=2), max_size=3), st.integers(1, 4))
def test_no_device_is_given_twice(devices: int, gpus: int, taken: list[set[int]], count: int) -> None:
    running = [Used(revision="old", memory_bytes=0, devices=tuple(each)) for each in taken]
    try:
        found = assign(serving(gpus), "new", count, running, Machine(memory_bytes=0, devices=devices))
    except UsageError:
        free = set(range(devices)) - {device for each in taken for device in each}
        assert gpus * count > len(free)
        return
    given_out = [device for each in found for device in each]
    assert len(found) == count
    assert all(len(each) == gpus for each in found)
    assert len(set(given_out)) == len(given_out)
    assert set(given_out) <= set(range(devices)) - {device for each in taken for device in each}


def test_memory_that_is_not_known_is_not_counted() -> None:
    old = [Used(revision="old", memory_bytes=0, devices=())]
    assert assign(serving(), "new", 2, old, Machine(memory_bytes=GIB, devices=0)) == [(), ()]
    assert assign(serving(memory_gib=9), "new", 1, old, Machine(memory_bytes=0, devices=0)) == [()]


def test_what_exactly_fits_is_taken_and_a_byte_more_is_refused_with_the_sum() -> None:
    old = [Used(revision="old", memory_bytes=6 * GIB, devices=())]
    there = Machine(memory_bytes=10 * GIB, devices=0)
    assert assign(serving(memory_gib=2), "new", 2, old, there) == [(), ()]
    with pytest.raises(UsageError) as caught:
        assign(serving(memory_gib=2.5), "new", 2, old, there)
    assert "2 x 2.5 GiB = 5.0 GiB; 6.0 GiB are in use (1 of old); 6.0 GiB + 5.0 GiB = 11.0 GiB of 10.0 GiB" in caught.value.why
