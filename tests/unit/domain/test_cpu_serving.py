"""What a CPU image's server is told where the user says nothing: a table, and what holds for every model and machine."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vllm_ci.domain import model_shape
from vllm_ci.domain.cpu_serving import BINDING, GIB, KV_CACHE, THREADS, CpuSettings, Machine, compute, needed_bytes
from vllm_ci.domain.model_shape import ModelShape
from vllm_ci.domain.project import TinyModel
from vllm_ci.domain.vllm_flags import said

TINY = model_shape.of_tiny(TinyModel())
# 32 KiB a token, 1.2 billion parameters.
SMALL = ModelShape(
    layers=16, kv_heads=8, head_values=128, shortest_limit=131072, longest=131072, parameters=1_500_000_000, element_bytes=2
)
# 512 KiB a token, 7 billion parameters: without grouped heads.
LARGE = ModelShape(
    layers=32, kv_heads=32, head_values=256, shortest_limit=4096, longest=4096, parameters=7_000_000_000, element_bytes=2
)
LATENT = ModelShape(layers=27, kv_heads=1, head_values=576, shortest_limit=163840, longest=163840, parameters=100_000_000)
HYBRID = ModelShape(
    layers=48, kv_heads=2, head_values=512, state_values=2_000_000, shortest_limit=262144, longest=262144, parameters=10**9
)
LAPTOP = Machine(memory_bytes=18 * GIB, cores=2)
SERVER = Machine(memory_bytes=250 * GIB, cores=64)
FULL = Machine(memory_bytes=5 * GIB, cores=1)


def computed(shape: ModelShape | None, machine: Machine, *args: str, **env: str) -> CpuSettings:
    return compute(shape, machine, said(args, env))


@pytest.mark.parametrize(
    ("shape", "machine", "cache", "length", "sequences", "threads"),
    [
        (TINY, LAPTOP, "1", None, "16", "1"),
        (TINY, SERVER, "1", None, "16", "63"),
        (TINY, FULL, "1", None, "16", "1"),
        (SMALL, LAPTOP, "5", "8192", "16", "1"),
        (SMALL, SERVER, "5", "8192", "16", "63"),
        (SMALL, FULL, "1", "8192", "15", "1"),
        (LARGE, SERVER, "33", None, "16", "63"),
        (LARGE, Machine(memory_bytes=24 * GIB, cores=8), "2", "3968", "1", "7"),
        (LATENT, LAPTOP, "4", "8192", "16", "1"),
        (HYBRID, SERVER, "18", "8192", "16", "63"),
        (None, LAPTOP, "4", "-1", "16", "1"),
        (None, FULL, "1", "-1", "16", "1"),
    ],
)
def test_models_of_many_shapes_on_many_machines(
    shape: ModelShape | None, machine: Machine, cache: str, length: str | None, sequences: str, threads: str
) -> None:
    found = computed(shape, machine)
    assert found.env == {BINDING: "nobind", THREADS: threads, KV_CACHE: cache}
    assert found.flags == ({"max-model-len": length} if length else {}) | {"max-num-seqs": sequences}
    assert set(found.reasons) == {*found.env, *found.flags}


@pytest.mark.parametrize(
    ("args", "env", "absent"),
    [
        (("--max-model-len=4096",), {}, {"max-model-len"}),
        (("--max-model-len", "4096"), {}, {"max-model-len"}),
        (("--max_model_len=4k",), {}, {"max-model-len"}),
        (("--max-model-len=auto",), {}, {"max-model-len"}),
        (("--max-num-seqs=4",), {}, {"max-num-seqs"}),
        (("--gpu-memory-utilization=0.4",), {}, {KV_CACHE}),
        (("--kv-cache-memory-bytes=1G",), {}, {KV_CACHE}),
        (("--num-gpu-blocks-override", "100"), {}, {KV_CACHE}),
        ((), {KV_CACHE: "3"}, {KV_CACHE}),
        ((), {THREADS: "4"}, {THREADS}),
        ((), {BINDING: "0-3"}, {BINDING, THREADS}),
        ((), {BINDING: "auto"}, {BINDING, THREADS}),
        ((), {BINDING: "nobind"}, {BINDING}),
        # In such a file vLLM may be told all of it.
        (("--config=/opt/serving/vllm.yaml",), {}, {KV_CACHE, "max-model-len", "max-num-seqs"}),
    ],
)
def test_what_the_user_said_is_neither_repeated_nor_overruled_and_the_rest_is_computed(
    args: tuple[str, ...], env: dict[str, str], absent: set[str]
) -> None:
    found = computed(SMALL, LAPTOP, *args, **env)
    everything = {KV_CACHE, BINDING, THREADS, "max-model-len", "max-num-seqs"}
    assert {*found.env, *found.flags} == everything - absent


def test_a_variable_that_is_handed_through_by_name_counts_as_said() -> None:
    found = compute(SMALL, LAPTOP, said((), {}, ("HF_TOKEN", f"{KV_CACHE}=MY_CACHE", BINDING)))
    assert not {KV_CACHE, BINDING, THREADS} & found.env.keys()


def test_an_empty_variable_is_not_set() -> None:
    assert computed(TINY, LAPTOP, **{KV_CACHE: ""}).env[KV_CACHE] == "1"


def test_the_cache_follows_the_length_and_the_sequences_that_the_user_names() -> None:
    assert computed(SMALL, SERVER, "--max-model-len=131072", "--max-num-seqs=1").env[KV_CACHE] == "5"
    assert computed(SMALL, SERVER, "--max-model-len=131072", "--max-num-seqs=8").env[KV_CACHE] == "33"
    assert computed(SMALL, SERVER, "--max-model-len=1024", "--max-num-seqs=4").env[KV_CACHE] == "1"


def test_a_length_that_the_user_names_gets_its_cache_even_if_little_is_free() -> None:
    found = computed(SMALL, FULL, "--max-model-len=65536")
    assert int(found.env[KV_CACHE]) * GIB >= needed_bytes(SMALL, 65536, 1)


def test_a_cache_that_the_user_names_limits_the_length() -> None:
    found = computed(LARGE, SERVER, **{KV_CACHE: "1"})
    assert found.flags == {"max-model-len": "1920", "max-num-seqs": "1"}
    assert needed_bytes(LARGE, 1920, 1) <= GIB


def test_workers_share_memory_and_cores() -> None:
    found = computed(LARGE, SERVER, "--tensor-parallel-size=2")
    assert found.env[KV_CACHE] == "17"
    assert found.env[THREADS] == "31"
    assert computed(LARGE, SERVER, "-tp", "4").env[THREADS] == "15"
    assert computed(LARGE, LAPTOP, "--tensor-parallel-size=2").env[THREADS] == "1"


_SHAPES = st.builds(
    lambda layers, kv, head, state, size, length, parameters: ModelShape(
        layers=layers,
        kv_heads=kv,
        head_values=2 * head,
        state_values=state,
        element_bytes=size,
        shortest_limit=length,
        longest=length,
        parameters=parameters,
    ),
    st.integers(1, 128),
    st.integers(1, 128),
    st.integers(16, 576),
    st.sampled_from([0, 0, 100_000]),
    st.sampled_from([2, 4]),
    st.sampled_from([0, 512, 2048, 8192, 32768, 131072, 10**6]),
    st.integers(10**6, 10**11),
)
_MACHINES = st.builds(
    lambda memory, cores: Machine(memory_bytes=memory, cores=cores), st.integers(0, 2 * 10**12), st.integers(1, 256)
)


BUSY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines that run tests are


@BUSY
@given(_SHAPES, _MACHINES, st.sampled_from([1, 2, 4]))
def test_one_sequence_fits_and_half_of_what_is_left_stays_free(shape: ModelShape, machine: Machine, shards: int) -> None:
    found = computed(shape, machine, f"--tensor-parallel-size={shards}")
    cache = int(found.env[KV_CACHE]) * GIB
    length = int(found.flags.get("max-model-len", shape.longest or 2048))
    assert 0 < length <= (shape.longest or 2048)
    assert length <= 8192 or not shape.longest
    assert 1 <= int(found.flags["max-num-seqs"]) <= 16
    assert int(found.env[THREADS]) * shards <= max(machine.cores, shards)
    # vLLM refuses to start when the longest sequence does not fit.
    assert needed_bytes(shape, length, 1, shards) <= cache
    smallest = needed_bytes(shape, 128, 1, shards)
    if cache > GIB and cache - GIB > smallest:
        assert cache * shards <= machine.memory_bytes / 2


@BUSY
@given(_SHAPES | st.none(), _MACHINES, st.integers(1, 10**6), st.integers(1, 1000))
def test_it_never_fails_and_never_repeats(shape: ModelShape | None, machine: Machine, length: int, sequences: int) -> None:
    found = computed(shape, machine, f"--max-model-len={length}", f"--max-num-seqs={sequences}")
    assert found.flags == {}
    assert int(found.env[KV_CACHE]) >= 1
    if shape is not None:
        assert int(found.env[KV_CACHE]) * GIB >= needed_bytes(shape, length, 1)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--a", "1", "--b=2", "--c"], {"a": "1", "b": "2", "c": ""}),
        (["--a=1", "--a=2"], {"a": "2"}),
        (["--x_y", "z"], {"x-y": "z"}),
        (["-tp", "2", "-pp=3"], {"tensor-parallel-size": "2"}),
        (["word", "--flag", "-1"], {"flag": "-1"}),
        ([], {}),
    ],
)
def test_flags_are_read_as_vllm_reads_them(args: list[str], expected: dict[str, Any]) -> None:
    assert said(args, {}).flags == expected


@pytest.mark.parametrize(
    ("value", "number"),
    [("4096", 4096), ("8k", 8000), ("8K", 8192), ("1.5k", 1500), ("1G", 2**30), ("auto", None), ("-1", None)],
)
def test_numbers_are_read_as_vllm_reads_them(value: str, number: int | None) -> None:
    assert said([f"--n={value}"], {}).number("n") == number
