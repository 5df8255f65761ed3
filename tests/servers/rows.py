"""The rows of the matrix: which servers, in which version, and how each is started."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from servers import engines, fronts
from servers.programs import Running

Start = Callable[[Path], AbstractContextManager[Running]]
VLLM = ("0.22.1", "0.25.1", "0.28.0", "0.30.0", "0.32.0")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One server of the matrix.

    Attributes:
        name: Name of the row and of its file in ``expected/``.
        server: What is tested, for the page.
        version: Its version; empty for a program of the machine.
        start: Starts it, with a directory for its files; yields the running server.
    """

    name: str
    server: str
    version: str
    start: Start


def _vllm() -> Iterator[Row]:
    for version in VLLM:
        for name, title, several in (("", "several processes, the default", True), ("-one-process", "one process", False)):
            yield Row(
                name=f"vllm-{version}{name}",
                server=f"vLLM for CPUs, {title}",
                version=version,
                start=engines.vllm(version, several=several),
            )


def _engines() -> Iterator[Row]:
    yield Row(name="transformers-serve", server="`transformers serve`", version="5.24.0", start=engines.transformers_serve)
    yield Row(name="llama-cpp-python", server="llama-cpp-python's server", version="0.3.36", start=engines.llama_cpp)
    yield Row(name="smollm2", server="vLLM for CPUs with SmolLM2-135M-Instruct", version="0.32.0", start=engines.smollm2)
    yield Row(
        name="vllm-gpu-0.25.1",
        server="vLLM on a GPU, as it is installed",
        version="0.25.1",
        start=engines.installed_gpu("0.25.1"),
    )
    yield Row(name="vllm-gpu", server="vLLM on a GPU", version="0.32.0", start=engines.vllm_gpu)


def _fronts() -> Iterator[Row]:
    yield Row(name="litellm", server="LiteLLM's proxy, in front of vLLM 0.32", version="1.100.0", start=fronts.litellm)
    for name, title in (
        ("unbuffered", "buffering off"),
        ("buffered", "buffering on, with compression"),
        ("http2-tls", "TLS, HTTP/2 and HTTP/1.1"),
    ):
        yield Row(
            name=f"nginx-{name}",
            server=f"nginx, {title}, in front of vLLM 0.32",
            version="",
            start=fronts.nginx(name),
        )
    yield Row(name="envoy", server="Envoy, in front of vLLM 0.32", version="1.40.0", start=fronts.envoy)


ROWS: tuple[Row, ...] = (*_vllm(), *_engines(), *_fronts())
