"""The pytest plugin for tests of a server that is given by its URL.

::

    pytest -p vllm_ci.suites.plugin --pyargs vllm_ci.suites.integration --base-url http://127.0.0.1:8000

A user's own tests get the same fixtures: ``server`` (facts about it), ``client`` (requests and responses as plain JSON),
``openai_client`` (the official SDK), ``canary`` (random words), ``metric`` and ``note`` (for the report).
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from vllm_ci.suites import connecting
from vllm_ci.suites.client import ApiClient
from vllm_ci.suites.machine import Watch
from vllm_ci.suites.plugins.stash import MASKS
from vllm_ci.suites.server import CAPABILITIES, ServerFacts

if TYPE_CHECKING:
    import openai

pytest_plugins = (
    "vllm_ci.suites.plugins.reporter",
    "vllm_ci.suites.plugins.deselected",
    "vllm_ci.suites.plugins.exchanges",
    "vllm_ci.suites.plugins.image",
    "vllm_ci.suites.plugins.judging",
    "vllm_ci.suites.plugins.mixing",
    "vllm_ci.suites.plugins.over_grpc",
    "vllm_ci.suites.plugins.recording",
    "vllm_ci.suites.plugins.planning",
    "vllm_ci.suites.plugins.vital",
)

_UNIT = Path(__file__).parent / "unit"
_CHECK = "_capabilities"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options; the URL is given by pytest-base-url's ``--base-url``."""
    group = parser.getgroup("vllm-ci")
    option = group.addoption
    option("--vllm-model", metavar="NAME", default="", help="served model name; by default the first one that the server lists")
    option("--vllm-api-key-env", metavar="NAME", default="", help="name of the environment variable with the API key")
    option(
        "--vllm-require", metavar="LIST", default="", help="capabilities that the server must have: " + ", ".join(CAPABILITIES)
    )
    option(
        "--vllm-timeout",
        metavar="SECONDS",
        type=float,
        default=None,
        help="timeout for one response; by default 60, and longer if the server is slow",
    )
    option("--vllm-tensor-parallel-size", metavar="N", type=int, default=0, help="tensor parallel size of the server")
    option("--vllm-deep", metavar="SECONDS", type=float, default=0.0, help="send generated requests for this many seconds")
    option("--vllm-server-log", metavar="FILE", default="", help="the server's log file, if it can be read here")
    option("--vllm-ca-file", metavar="FILE", default="", help="trust the certificate authorities in this PEM file")
    option("--vllm-quantization", metavar="NAME", default="", help="quantization of the server's model")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and refuse options that would silently disable tests."""
    config.addinivalue_line(
        "markers", "requires_capability(*names): skip if the server lacks one of these; fail if --vllm-require names it"
    )
    unknown = set(_required(config)) - set(CAPABILITIES)
    if unknown:
        raise pytest.UsageError(f"--vllm-require: unknown {sorted(unknown)}; known are {', '.join(CAPABILITIES)}")
    if authorities := config.option.vllm_ca_file:
        if not Path(authorities).is_file():
            raise pytest.UsageError(f"--vllm-ca-file: there is no file {authorities}")
        os.environ["SSL_CERT_FILE"] = authorities  # which all our TLS contexts read
    name = config.option.vllm_api_key_env
    if name and not os.environ.get(name):
        raise pytest.UsageError(f"--vllm-api-key-env: the environment variable {name} is empty or not set")
    if name:
        masks: list[str] = config.stash[MASKS]
        masks.append(os.environ[name])


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore the unit suite outside of an image, so that ``--pyargs vllm_ci.suites`` runs all suites that need a URL."""
    inside = config.pluginmanager.has_plugin("vllm_ci.suites.inside")
    return True if collection_path == _UNIT and not inside else None


@pytest.fixture(scope="session")
def api_key(pytestconfig: pytest.Config) -> str:
    """The server's API key; empty when none was given."""
    return connecting.api_key(pytestconfig)


@pytest.fixture(scope="session")
def http(pytestconfig: pytest.Config, base_url: str | None, answer_s: float) -> Iterator[httpx.Client]:
    """An HTTP client with base URL, key and timeouts."""
    if not base_url:
        raise pytest.UsageError("no server was given: use --base-url URL")
    with connecting.http(pytestconfig, base_url, answer_s) as client:
        yield client


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config, http: httpx.Client, note: Callable[[str, object], None]) -> Iterator[ServerFacts]:
    """Facts about the server, probed once per session."""
    found = connecting.server(pytestconfig, http)
    note("server", found.facts)
    yield found
    if happened := connecting.traffic(pytestconfig).facts:
        note("server", {**found.facts, **happened})


@pytest.fixture
def machine() -> Iterator[Watch]:
    """Watches whether this machine had processor time during the case, for verdicts about timing."""
    with Watch() as watch:
        yield watch


@pytest.fixture(scope="session")
def client(http: httpx.Client, server: ServerFacts) -> ApiClient:
    """Client for requests and responses as plain JSON."""
    return ApiClient(http=http, model=server.model, server=server)


@pytest.fixture(scope="session")
def openai_client(pytestconfig: pytest.Config, server: ServerFacts, api_key: str, answer_s: float) -> Iterator[openai.OpenAI]:
    """The official SDK without retries, because retries would hide failures of the server."""
    import openai  # imported here because it takes a second and only a few cases need it

    base_url = f"{server.url.rstrip('/')}/v1"
    # As in the other clients: trust store, resets, rate limits. The SDK takes a client of httpx, though it is typed for httpx2.
    transport: Any = connecting.http(pytestconfig, server.url, answer_s)
    with openai.OpenAI(
        base_url=base_url, api_key=api_key or "none", timeout=answer_s, max_retries=0, http_client=transport
    ) as sdk:
        yield sdk


@pytest.fixture(scope="session")
def canary(request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """A function that returns random words; they are listed in ``canaries.json`` next to the report."""
    made: list[str] = []

    def make() -> str:
        made.append(f"canary-{secrets.token_hex(8)}")
        return made[-1]

    yield make
    if request.config.option.vllm_report and made:
        folder = Path(request.config.option.vllm_report)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "canaries.json").write_text(json.dumps(made), encoding="utf-8")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Check capabilities before other fixtures, which may send requests that the server does not support."""
    names: list[str] = getattr(item, "fixturenames", [])
    if _CHECK in names:
        names.remove(_CHECK)
        names.insert(0, _CHECK)


@pytest.fixture(autouse=True)
def _capabilities(request: pytest.FixtureRequest) -> None:
    """Skip a case if the server lacks a capability, with the reason; fail it if ``--vllm-require`` names the capability."""
    names = [name for marker in request.node.iter_markers("requires_capability") for name in marker.args]
    if not names:
        return
    found: ServerFacts = request.getfixturevalue("server")
    required = _required(request.config)
    for name in names:
        assert name in CAPABILITIES, f"unknown capability {name}; known are {', '.join(CAPABILITIES)}"
        if found.can(name):
            continue
        message = f"the server lacks {name}: {found.absent[name]}"
        if name in required:
            pytest.fail(f"required, but {message}", pytrace=False)
        pytest.skip(message)


def _required(config: pytest.Config) -> list[str]:
    return [name.strip() for name in config.option.vllm_require.split(",") if name.strip()]
