"""Creates the clients for the server that is given by the options."""

from __future__ import annotations

import os
import ssl

import httpx
import pytest

from vllm_ci.loadgen.exchange import Timeouts
from vllm_ci.loadgen.recorder import Recorder
from vllm_ci.suites.server import ServerFacts, probe

TIMEOUT_S = 120.0
"""Timeout for one response of a server that is not slow."""
_SERVER = pytest.StashKey[ServerFacts]()


def api_key(config: pytest.Config) -> str:
    """The server's API key; empty when none was given."""
    name = config.option.vllm_api_key_env
    return os.environ[name] if name else ""


def http(config: pytest.Config, base_url: str, timeout_s: float) -> httpx.Client:
    """An HTTP client with base URL, key and timeouts."""
    key = api_key(config)
    return httpx.Client(
        base_url=base_url,
        headers={"authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(timeout_s, connect=10.0),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        trust_env=False,
        verify=ssl.create_default_context(),  # the system's trust store, or SSL_CERT_FILE, as in all our clients
    )


def recorder(config: pytest.Config, base_url: str, timeout_s: float) -> Recorder:
    """The measuring client, with the server's URL and key."""
    key = api_key(config)
    timeouts = Timeouts(first_byte_s=timeout_s, between_bytes_s=timeout_s, total_s=10 * timeout_s)
    return Recorder(base_url, headers={"authorization": f"Bearer {key}"} if key else {}, timeouts=timeouts)


def server(config: pytest.Config, client: httpx.Client) -> ServerFacts:
    """Facts about the server; probed once.

    Raises:
        Errored: The server cannot be reached, or does not list the model.
    """
    if _SERVER not in config.stash:
        options = config.option
        config.stash[_SERVER] = probe(
            client,
            model=options.vllm_model,
            tensor_parallel_size=options.vllm_tensor_parallel_size,
            quantization=options.vllm_quantization,
        )
    return config.stash[_SERVER]
