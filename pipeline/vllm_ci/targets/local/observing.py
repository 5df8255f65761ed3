"""What revisions did in a window of time: from the gateway's access log and the servers' own metrics."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx

from vllm_ci.deploy.target import Observation, Sample
from vllm_ci.domain.gateway import Wire
from vllm_ci.engines import detached
from vllm_ci.targets.envoy import files
from vllm_ci.targets.local.configuration import Configuration
from vllm_ci.targets.local.fleet import Fleet
from vllm_ci.targets.local.state import Kept, State, Store

_QUANTILES = (0.5, 0.95, 0.99)
# Envoy writes its log in intervals of 100 ms.
_FLUSH_S = 0.4
# Statuses of gRPC for which the server is to blame: OpenTelemetry's semantic conventions for gRPC, "gRPC status", server side
# (UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS).
_BLAMED_GRPC = frozenset({2, 4, 12, 13, 14, 15})
# Clients that close their connection, or cancel one request of it: then there is no status, for which Envoy writes UNKNOWN.
_CLIENT_LEFT = frozenset({"DC", "DR"})
# Response flags for which the server or the way to it is to blame (Envoy, "Access log: response flags").
_BLAMED = frozenset({"UC", "UF", "UH", "UR", "UT", "UPE", "URX", "LR", "LH", "NC", "UMSDR", "OM", "SI"})
_SUMMED = frozenset({"vllm:num_requests_waiting", "vllm:num_requests_running"})
_HIGHEST = frozenset({"vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"})


async def observe(configuration: Configuration, store: Store, fleet: Fleet, *, seconds: float) -> Observation:
    """Watch for ``seconds``; see :class:`~vllm_ci.deploy.target.Target`."""
    await configuration.admin.listening()  # a gateway that is gone counts nothing
    log = Log.end_of(configuration.folder / files.ACCESS_LOG)
    begun = time.monotonic()
    await anyio.sleep(seconds)
    took = time.monotonic() - begun
    await anyio.sleep(_FLUSH_S)
    ended = _by_revision(log.since())
    await configuration.admin.listening()
    state = store.load()
    samples = {}
    for name in sorted({each.revision for each in state.replicas.values()} | set(ended)):
        values = await _values(state, fleet, name)
        samples[name] = _sample(ended.get(name, []), values, state.settings.protocol)
    return Observation(seconds=took, samples=samples)


def _sample(ended: Sequence[Mapping[str, Any]], values: Mapping[str, float], protocol: Wire) -> Sample:
    rows = [row for row in ended if not _left(row)]
    good = [row for row in rows if not _failed(row) and not (protocol == "grpc" and _failed_grpc(row))]
    return Sample(
        requests=len(rows),
        errors=len(rows) - len(good),
        latencies_ms=_quantiles(row.get("ended_us") for row in good),
        ttft_ms=_quantiles(row.get("first_byte_us") for row in good),
        values=values,
    )


def _failed(row: Mapping[str, Any]) -> bool:
    return int(row.get("status") or 0) >= 500 or bool(_flags(row) & _BLAMED)


def _left(row: Mapping[str, Any]) -> bool:
    """Whether its client left before an answer began: it says nothing about the server, neither good nor bad."""
    return not row.get("status") and not _failed(row)


def _flags(row: Mapping[str, Any]) -> set[str]:
    return set(str(row.get("flags") or "").split(","))


def _failed_grpc(row: Mapping[str, Any]) -> bool:
    """Whether the status of gRPC says so: errors have the HTTP status 200."""
    return row.get("grpc_status") in _BLAMED_GRPC and not _flags(row) & _CLIENT_LEFT


def _quantiles(values: Iterable[Any]) -> dict[str, float]:
    """The nearest-rank quantiles in milliseconds, of microseconds; empty without data."""
    known = sorted(value / 1000 for value in values if isinstance(value, int | float))
    return {f"{each:g}": known[math.ceil(each * len(known)) - 1] for each in _QUANTILES} if known else {}


def _by_revision(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        cluster = str(row.get("cluster") or "")
        if cluster.startswith(files.CLUSTER_PREFIX):
            found.setdefault(cluster.removeprefix(files.CLUSTER_PREFIX), []).append(row)
    return found


@dataclass(frozen=True, kw_only=True)
class Log:
    """A position in the access log."""

    path: Path
    inode: int
    offset: int

    @classmethod
    def end_of(cls, path: Path) -> Log:
        """Where the log ends now."""
        try:
            found = path.stat()
        except OSError:
            return cls(path=path, inode=0, offset=0)
        return cls(path=path, inode=found.st_ino, offset=found.st_size)

    def since(self) -> list[Mapping[str, Any]]:
        """Requests that were written since then, also if the log was rotated meanwhile."""
        content = b""
        for path in (self.path.with_name(f"{self.path.name}.1"), self.path):
            try:
                with path.open("rb") as file:
                    mine = os.fstat(file.fileno()).st_ino == self.inode
                    if mine:
                        file.seek(self.offset)
                    if mine or path == self.path:
                        content += file.read()
            except FileNotFoundError:
                continue
        return [row for line in content.splitlines() if (row := _row(line)) is not None]


def _row(line: bytes) -> Mapping[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None  # Envoy is writing it
    return found if isinstance(found, dict) else None


async def _values(state: State, fleet: Fleet, revision: str) -> dict[str, float]:
    """Metrics of the servers of a revision: sums, and the highest of what is a share.

    A metric that one of those who get requests does not tell is absent: it may be the one with the most of them.
    """
    values: dict[str, float] = {}
    untold: set[str] = set()
    for name, kept in state.of(revision).items():
        if not kept.process.alive:
            continue
        memory = await anyio.to_thread.run_sync(detached.memory_bytes, fleet.mark_of(name))
        values["memory_bytes"] = values.get("memory_bytes", 0.0) + memory
        found = await _metrics(kept) if state.settings.protocol == "http" else {}
        untold |= (_SUMMED | _HIGHEST) - set(found) if kept.phase == "ready" else set()
        for metric, value in found.items():
            together = values.get(metric, 0.0)
            values[metric] = max(together, value) if metric in _HIGHEST else together + value
    return {metric: value for metric, value in values.items() if metric not in untold}


async def _metrics(kept: Kept) -> dict[str, float]:
    """The metrics of one server that are watched; empty if it has none."""
    try:
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            answer = await client.get(f"http://127.0.0.1:{kept.port}/metrics")
    except httpx.HTTPError:
        return {}
    return parsed(answer.text) if answer.status_code == 200 else {}


def parsed(text: str) -> dict[str, float]:
    """The watched metrics in Prometheus' text format, summed over their labels."""
    found: dict[str, float] = {}
    for line in text.split("\n"):
        name, _, rest = line.partition("{") if "{" in line else line.partition(" ")
        if name in _SUMMED | _HIGHEST:
            try:
                value = float(rest.rpartition("}")[2].split()[0])
            except (ValueError, IndexError):
                continue
            found[name] = max(found.get(name, 0.0), value) if name in _HIGHEST else found.get(name, 0.0) + value
    return found
