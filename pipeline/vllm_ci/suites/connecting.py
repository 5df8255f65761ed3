"""Creates the clients for the server that is given by the options."""

from __future__ import annotations

import os

import httpx
import pytest

from vllm_ci.loadgen.exchange import Timeouts
from vllm_ci.loadgen.recorder import Recorder
from vllm_ci.suites.reach import UnreachableError
from vllm_ci.suites.reach import base_url as base_of
from vllm_ci.suites.server import ServerFacts, probe
from vllm_ci.suites.traffic import Traffic
from vllm_ci.suites.transport import PatientTransport
from vllm_ci.system.trust import tls_context

TIMEOUT_S = 60.0
"""Timeout for one response of a server that is not slow."""
_SERVER = pytest.StashKey[ServerFacts]()
_UNREACHABLE = pytest.StashKey[UnreachableError]()
_TRAFFIC = pytest.StashKey[Traffic]()


def api_key(config: pytest.Config) -> str:
    """The server's API key; empty when none was given."""
    name = config.option.vllm_api_key_env
    return os.environ[name] if name else ""


def traffic(config: pytest.Config) -> Traffic:
    """What the clients of this run met."""
    if _TRAFFIC not in config.stash:
        config.stash[_TRAFFIC] = Traffic()
    return config.stash[_TRAFFIC]


def http(config: pytest.Config, base_url: str, timeout_s: float, *, note: bool = True) -> httpx.Client:
    """An HTTP client with base URL, key and timeouts.

    If ``note`` is false, its requests are not noted, and rate limits are not waited for.
    """
    key, seen = api_key(config), traffic(config)
    # The system's trust store, or SSL_CERT_FILE, as in all our clients.
    transport = PatientTransport(seen if note else Traffic(total_wait_s=0, dialect=seen.dialect), tls=tls_context())
    return httpx.Client(
        base_url=base_of(base_url),
        headers={"authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(timeout_s, connect=10.0),
        transport=transport,
        trust_env=False,
    )


def recorder(config: pytest.Config, base_url: str, timeout_s: float, *, total_s: float | None = None) -> Recorder:
    """The measuring client, with the server's URL and key.

    Args:
        config: The options.
        base_url: The server.
        timeout_s: Longest time without a byte.
        total_s: Longest time of an answer; by default twice ``timeout_s``.
    """
    key = api_key(config)
    total_s = 2 * timeout_s if total_s is None else total_s
    waits_s = min(timeout_s, total_s)
    timeouts = Timeouts(first_byte_s=waits_s, between_bytes_s=waits_s, total_s=total_s)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    found = probed(config)
    usage = found is None or found.can("stream_usage")
    return Recorder(base_of(base_url), headers=headers, timeouts=timeouts, include_usage=usage, patience=traffic(config))


def server(config: pytest.Config, client: httpx.Client) -> ServerFacts:
    """Facts about the server; probed once.

    Raises:
        UnreachableError: The server cannot be tested.
    """
    if (known := unreachable(config)) is not None:
        raise known
    if _SERVER not in config.stash:
        options = config.option
        try:
            config.stash[_SERVER] = probe(
                client,
                model=options.vllm_model,
                tensor_parallel_size=options.vllm_tensor_parallel_size,
                quantization=options.vllm_quantization,
                traffic=traffic(config),
            )
        except UnreachableError as error:
            config.stash[_UNREACHABLE] = error
            raise
    return config.stash[_SERVER]


def probed(config: pytest.Config) -> ServerFacts | None:
    """Facts about the server if it was probed."""
    return config.stash.get(_SERVER, None)


def unreachable(config: pytest.Config) -> UnreachableError | None:
    """Why the server cannot be tested, to be raised; ``None`` if it can, or was not tried."""
    known = config.stash.get(_UNREACHABLE, None)
    return None if known is None else known.again()
