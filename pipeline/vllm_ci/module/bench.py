"""Measure a server under load from a container of the tool."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import dagger

from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.program import Program
from vllm_ci.engines.dagger import DaggerEngine
from vllm_ci.engines.dagger_caller import ModuleCaller
from vllm_ci.engines.dagger_service import PORT, DaggerService
from vllm_ci.module import session, work
from vllm_ci.module.arguments import Settings
from vllm_ci.module.verb import PRINTED
from vllm_ci.module.verbs import printed
from vllm_ci.module.wanted import plaintexts

Options = Mapping[str, str | float | bool]
_KEY = "VLLM_CI_BENCH_API_KEY"
_SERVER = "server"
_LOCAL = ("localhost", "127.0.0.1", "::1", "0.0.0.0")  # noqa: S104 - compared, not listened on
_TIMEOUT_S = 24 * 3600.0


async def measured(settings: Settings, server: dagger.Service | None, url: str, options: Options) -> str:
    """Measure a service, a URL, or the server of the commit's image; return what the command prints.

    Args:
        settings: Settings of the module's object.
        server: The service.
        url: The URL.
        options: Options of ``vllm-ci bench`` by name; empty, zero and false ones are omitted.
    """
    async with session.ending_well():
        check(url, served=server is not None)
    if server is None and not url:
        async with work.started(settings) as (engine, service, key):
            # A measurement is never answered from the cache, not even one of the same session.
            engine.session = ""
            return await printed(engine, program(_held(service, PORT), "", options, key=key))
    async with _open(settings) as (engine, key):
        ports = [await port.port() for port in await server.ports()] if server is not None else []
        held = _held(server, ports[0] if ports else PORT) if server is not None else None
        return await printed(engine, program(held, url, options, key=key))


def check(url: str, *, served: bool) -> None:
    """Refuse what a container cannot measure.

    Args:
        url: The URL; empty for none.
        served: There is a service too.

    Raises:
        UsageError: Both are given, or the URL is one of the caller's own machine.
    """
    if served and url:
        raise UsageError("--server and --url cannot be used together", remedy="pass one of them")
    parts = urlsplit(url)
    if url and parts.hostname in _LOCAL:
        raise UsageError(
            f"{url} is not reachable from a container",
            why="there, this address is the container itself",
            remedy=f"pass the server as a service: --server tcp://localhost:{parts.port or 80}",
        )


def program(server: DaggerService | None, url: str, options: Options, *, key: str) -> Program:
    """The program for the tool's container; its standard output goes to the file ``printed``.

    Args:
        server: The service, or none for a URL.
        url: The URL.
        options: Options by name.
        key: Name of the caller's secret with the API key; empty if the server needs none.
    """
    argv = ["bench", f"--url={f'{{url.{_SERVER}}}' if server is not None else url}"]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        text = repr(value) if isinstance(value, float) else str(value)
        argv += [flag] if value is True else [f"{flag}={text}"] if value else []
    argv += [f"--api-key-env={_KEY}"] if key else []
    return Program(
        name="bench",
        argv=("sh", "-c", 'exec python -m vllm_ci "$@" > "$0"', f"{{out}}/{PRINTED}", *argv),
        needs={_SERVER: server} if server is not None else {},
        secrets=(f"{_KEY}={key}",) if key else (),
        timeout_s=_TIMEOUT_S,
    )


def _held(server: dagger.Service, port: int) -> DaggerService:
    return DaggerService(name="vllm", port=port, handle=server)


@asynccontextmanager
async def _open(settings: Settings) -> AsyncIterator[tuple[DaggerEngine, str]]:
    """An engine that needs no checkout, and the name of the API key."""
    async with session.ending_well():
        await plaintexts([settings.api_key])
        tool = await session.tool_of(settings)
        secrets = {_KEY: settings.api_key} if settings.api_key is not None else {}
        async with DaggerEngine(caller=ModuleCaller(package=tool.package, secrets=secrets), tool=tool) as engine:
            yield engine, _KEY if secrets else ""
