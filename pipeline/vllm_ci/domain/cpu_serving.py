"""What vLLM is told on CPUs where the user says nothing: size of the KV cache, lengths, sequences, threads.

By itself vLLM takes 92 % of the machine's memory, whatever else runs there, and refuses to start when that much is not free.
Here it gets what the model needs, and at most half of what is left. ``docs/decisions/cpu-defaults.md`` has the reasons.
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
"""Longest sequence where the user names none, in tokens: on CPUs longer prompts take minutes."""
MOST_SEQUENCES = 16
"""Sequences at once where the user names no number; vLLM's own 128 want a cache that few machines have."""
_USUAL = 2048  # tokens that a sequence can count on beside the others
_BLOCK = 128  # vLLM's unit of the cache on CPUs, in tokens
_UNKNOWN_GIB = 4  # of a model that nothing is known of
_ASSUMED_LENGTH = 2048  # what vLLM assumes for a model that names no length
_SERVER_BYTES = 2 * GIB  # API server and engine core; measured with vLLM 0.32: 1.0 GiB each
_WORKER_BYTES = 3 * GIB // 2  # each worker without weights and cache: 1.1 GiB, and a compiler beside it 0.4 GiB


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What is free where the server will run, now.

    Attributes:
        memory_bytes: Memory that a new process can get: other programs, control groups and memory nodes taken into account.
        cores: Physical cores that it may use (affinity and CPU quota), at least 1.
    """

    memory_bytes: int
    cores: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What was computed.

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


def compute(shape: ModelShape | None, machine: Machine, said: Said) -> Settings:
    """Settings for what the user left open.

    Args:
        shape: Of the model; ``None`` when nothing is known of it (a name on a hub before its download).
        machine: Where it will run.
        said: What the user decided; never repeated and never overruled.
    """
    shards = max(1, said.number("tensor-parallel-size") or 1)
    workers = shards * max(1, said.number("pipeline-parallel-size") or 1)
    env, flags, reasons = _threads(machine, said, workers)
    if "config" not in said.flags:  # in such a file vLLM may be told the rest, and our flags would overrule it
        more = _unknown(machine, said, workers) if shape is None else _known(shape, machine, said, shards, workers)
        env, flags, reasons = {**env, **more.env}, {**flags, **more.flags}, {**reasons, **more.reasons}
    return Settings(env=env, flags=flags, reasons=reasons)


def _threads(machine: Machine, said: Said, workers: int) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Threads are not bound to cores: vLLM would bind those of two servers to the same ones, and does not see quotas."""
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
    """The binding, when it is set to a value that is not known."""
    return frozenset({BINDING} & said.env - said.values.keys())


def _room(shape: ModelShape | None, machine: Machine, workers: int) -> int:
    """GiB that each worker may take for its cache: half of what weights and processes leave, at least 1."""
    weights = shape.weight_bytes * 6 // 5 if shape else 0
    left = machine.memory_bytes - weights - _SERVER_BYTES - workers * _WORKER_BYTES
    return max(1, left // 2 // workers // GIB)


def _cache_is_said(said: Said) -> bool:
    """The user decided on the size of the cache, in one of the ways that vLLM has."""
    flags = {"kv-cache-memory-bytes", "gpu-memory-utilization", "num-gpu-blocks-override"}
    return KV_CACHE in said.env or bool(flags & said.flags.keys())


def _unknown(machine: Machine, said: Said, workers: int) -> Settings:
    """A fixed cache, and the longest sequence that fits into it: vLLM finds that length when it has the model."""
    env, flags, reasons = {}, {}, {}
    if not _cache_is_said(said):
        env[KV_CACHE] = str(min(_UNKNOWN_GIB, _room(None, machine, workers)))
        reasons[KV_CACHE] = f"a default: the model is known only after its download; {_free(machine)}"
    if LENGTH not in said.flags:
        flags[LENGTH] = "-1"
        reasons[LENGTH] = "vLLM takes the longest that fits into its cache"
    if SEQUENCES not in said.flags:
        flags[SEQUENCES] = str(MOST_SEQUENCES)
        reasons[SEQUENCES] = "a default: the model is known only after its download"
    return Settings(env=env, flags=flags, reasons=reasons)


def _known(shape: ModelShape, machine: Machine, said: Said, shards: int, workers: int) -> Settings:
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
            reasons[LENGTH] = f"{LONGEST} on CPUs, and what fits into the cache; the model takes {shape.longest}"
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
    return Settings(env=env, flags=flags, reasons=reasons)


def _given_gib(said: Said) -> int | None:
    """Size of the cache where the user named it."""
    value = said.values.get(KV_CACHE, "")
    if value.isdigit():
        return max(1, int(value))
    number = said.number("kv-cache-memory-bytes")
    return max(1, number // GIB) if number else None


def needed_bytes(shape: ModelShape, length: int, sequences: int, shards: int = 1) -> int:
    """Cache in each worker for ``sequences`` of ``length`` tokens: whole blocks, and one more each."""
    tokens = (-(-length // _BLOCK) + 1) * _BLOCK
    return sequences * (tokens * shape.token_bytes(shards) + shape.state_bytes(shards))


def _length(shape: ModelShape, room_bytes: int, shards: int) -> int:
    """Longest sequence to serve: the model's own limit, ours, and what fits; at least one block."""
    own = shape.longest or _ASSUMED_LENGTH
    limit = own if own <= LONGEST else min(LONGEST, shape.shortest_limit or LONGEST)
    token = shape.token_bytes(shards)
    if not token or needed_bytes(shape, limit, 1, shards) <= room_bytes:
        return limit
    fitting = (room_bytes - shape.state_bytes(shards)) // token // _BLOCK * _BLOCK - _BLOCK
    return min(limit, max(_BLOCK, fitting))


def _free(machine: Machine) -> str:
    return f"{machine.memory_bytes / GIB:.1f} GiB of memory free"
