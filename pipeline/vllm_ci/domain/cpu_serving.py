"""Default settings for vLLM on CPUs: size of the KV cache, sequence length, number of sequences, threads.

By default vLLM takes 92 % of the machine's memory, whatever else runs there, and refuses to start when that much is not free.
These settings give it what the model needs, and at most half of the free memory. See ``docs/decisions/cpu-defaults.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vllm_ci.domain.model_shape import ModelShape
from vllm_ci.domain.vllm_flags import Said

GIB = 1 << 30
KV_CACHE = "VLLM_CPU_KVCACHE_SPACE"
BINDING = "VLLM_CPU_OMP_THREADS_BIND"
THREADS = "OMP_NUM_THREADS"
LENGTH = "max-model-len"
SEQUENCES = "max-num-seqs"

LONGEST = 8192
"""Default longest sequence, in tokens: on CPUs longer prompts take minutes."""
MOST_SEQUENCES = 16
"""Default number of concurrent sequences; vLLM's default of 128 needs a cache larger than most machines have room for."""
_USUAL = 2048  # tokens of cache for each sequence when all of them run
_BLOCK = 128  # vLLM's unit of the cache on CPUs, in tokens
_UNKNOWN_GIB = 4  # for a model whose configuration is not known
_ASSUMED_LENGTH = 2048  # vLLM's assumption for a model whose configuration has no length
_SERVER_BYTES = 2 * GIB  # API server and engine core; measured with vLLM 0.32: 1.0 GiB each
_WORKER_BYTES = 3 * GIB // 2  # each worker without weights and cache: 1.1 GiB, plus 0.4 GiB for its compiler


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Free resources of the machine that the server will run on.

    Attributes:
        memory_bytes: Memory that a new process can get, given other programs, control groups and memory nodes.
        cores: Physical cores that it may use (affinity and CPU quota), at least 1.
    """

    memory_bytes: int
    cores: int


@dataclass(frozen=True, kw_only=True)
class CpuSettings:
    """Computed settings.

    Attributes:
        env: Environment variables to add.
        flags: Flags to add, by name without dashes.
        reasons: Why, by name of the variable or flag.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def args(self) -> tuple[str, ...]:
        """The flags as arguments."""
        return tuple(f"--{name}={value}" for name, value in self.flags.items())


def compute(shape: ModelShape | None, machine: Machine, said: Said) -> CpuSettings:
    """Compute the settings that the user did not choose.

    Args:
        shape: Shape of the model; ``None`` when it is not known (a model on a hub, before its download).
        machine: Where the server will run.
        said: The user's own settings; they are neither repeated nor overridden.
    """
    shards = max(1, said.number("tensor-parallel-size") or 1)
    workers = shards * max(1, said.number("pipeline-parallel-size") or 1)
    env, flags, reasons = _threads(machine, said, workers)
    if "config" not in said.flags:  # that file may hold any setting of vLLM, and our flags would override it
        more = _unknown(machine, said, workers) if shape is None else _known(shape, machine, said, shards, workers)
        env, flags, reasons = {**env, **more.env}, {**flags, **more.flags}, {**reasons, **more.reasons}
    return CpuSettings(env=env, flags=flags, reasons=reasons)


def _threads(machine: Machine, said: Said, workers: int) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Threads are not bound to cores: vLLM would bind two servers to the same cores, and it ignores CPU quotas."""
    env, reasons = {}, {}
    if BINDING not in said.env:
        env[BINDING] = "nobind"
        reasons[BINDING] = "other programs and servers use these cores as well"
    if THREADS not in said.env and said.values.get(BINDING, "nobind") == "nobind" and said.env.isdisjoint(_secret(said)):
        env[THREADS] = str(max(1, (machine.cores - 1) // workers))
        shared = f", shared by {workers} workers" if workers > 1 else ""
        reasons[THREADS] = f"{machine.cores} cores, one of them for the API server{shared}"
    return env, {}, reasons


def _secret(said: Said) -> frozenset[str]:
    """The name of the binding variable if its value comes from a secret and is not known here."""
    return frozenset({BINDING} & said.env - said.values.keys())


def _room(shape: ModelShape | None, machine: Machine, workers: int) -> int:
    """GiB of cache for each worker: half of the memory that weights and processes leave free, at least 1."""
    weights = shape.weight_bytes * 6 // 5 if shape else 0
    left = machine.memory_bytes - weights - _SERVER_BYTES - workers * _WORKER_BYTES
    return max(1, left // 2 // workers // GIB)


def _cache_is_said(said: Said) -> bool:
    """Whether the user set the size of the cache, in any of the ways that vLLM has."""
    flags = {"kv-cache-memory-bytes", "gpu-memory-utilization", "num-gpu-blocks-override"}
    return KV_CACHE in said.env or bool(flags & said.flags.keys())


def _unknown(machine: Machine, said: Said, workers: int) -> CpuSettings:
    """A fixed cache size; vLLM computes the longest sequence that fits once it has downloaded the model."""
    env, flags, reasons = {}, {}, {}
    if not _cache_is_said(said):
        env[KV_CACHE] = str(min(_UNKNOWN_GIB, _room(None, machine, workers)))
        reasons[KV_CACHE] = f"a default: the model is known only after its download; {_free(machine)}"
    if LENGTH not in said.flags:
        flags[LENGTH] = "-1"
        reasons[LENGTH] = "vLLM uses the longest that fits into its cache"
    if SEQUENCES not in said.flags:
        flags[SEQUENCES] = str(MOST_SEQUENCES)
        reasons[SEQUENCES] = "a default: the model is known only after its download"
    return CpuSettings(env=env, flags=flags, reasons=reasons)


def _known(shape: ModelShape, machine: Machine, said: Said, shards: int, workers: int) -> CpuSettings:
    env: dict[str, str] = {}
    flags: dict[str, str] = {}
    reasons: dict[str, str] = {}
    given = _given_gib(said)
    room = _room(shape, machine, workers) if given is None else given
    length = said.number(LENGTH)
    if length is None:
        length = _length(shape, room * GIB, shards)
        if LENGTH not in said.flags and length < (shape.longest or _ASSUMED_LENGTH):
            flags[LENGTH] = str(length)
            reasons[LENGTH] = f"at most {LONGEST} on CPUs, and what fits into the cache; the model supports {shape.longest}"
    one = needed_bytes(shape, length, 1, shards)
    asked = said.number(SEQUENCES)
    if not _cache_is_said(said):
        wanted = needed_bytes(shape, length, asked or MOST_SEQUENCES, shards)
        gib = max(-(-one // GIB), min(-(-wanted // GIB), room), 1)
        env[KV_CACHE] = str(gib)
        reasons[KV_CACHE] = f"GiB; a sequence of {length} tokens needs {one / GIB:.2f}; {_free(machine)}"
        given = gib
    if asked is None and SEQUENCES not in said.flags:
        usual = max(1, needed_bytes(shape, min(length, _USUAL), 1, shards))
        fit = given * GIB // usual if given is not None else MOST_SEQUENCES
        flags[SEQUENCES] = str(max(1, min(MOST_SEQUENCES, fit)))
        reasons[SEQUENCES] = f"at most {MOST_SEQUENCES}, with {min(length, _USUAL)} tokens of the cache each"
    return CpuSettings(env=env, flags=flags, reasons=reasons)


def _given_gib(said: Said) -> int | None:
    """Size of the cache if the user set it."""
    value = said.values.get(KV_CACHE, "")
    if value.isdecimal():
        return max(1, int(value))
    number = said.number("kv-cache-memory-bytes")
    return max(1, number // GIB) if number else None


def needed_bytes(shape: ModelShape, length: int, sequences: int, shards: int = 1) -> int:
    """Cache in each worker for ``sequences`` of ``length`` tokens: whole blocks, plus one block for each sequence."""
    tokens = (-(-length // _BLOCK) + 1) * _BLOCK
    return sequences * (tokens * shape.token_bytes(shards) + shape.state_bytes(shards))


def _length(shape: ModelShape, room_bytes: int, shards: int) -> int:
    """Longest sequence to serve: the smallest of the model's limit, our limit and what fits; at least one block."""
    own = shape.longest or _ASSUMED_LENGTH
    limit = own if own <= LONGEST else min(LONGEST, shape.shortest_limit or LONGEST)
    token = shape.token_bytes(shards)
    if not token or needed_bytes(shape, limit, 1, shards) <= room_bytes:
        return limit
    fitting = (room_bytes - shape.state_bytes(shards)) // token // _BLOCK * _BLOCK - _BLOCK
    return min(limit, max(_BLOCK, fitting))


def _free(machine: Machine) -> str:
    return f"{machine.memory_bytes / GIB:.1f} GiB of memory free"
