"""Handles for pipelines: a built image and a running server."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.program import Directory, Outcome, Program, Service
from vllm_ci.domain.stage import OwnStage
from vllm_ci.engine import Engine
from vllm_ci.stages.command import in_folder
from vllm_ci.stages.stage import StageContext
from vllm_ci.stages.targets import variables

_ANSWER_WITHIN_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image that was built from the commit.

    Attributes:
        reference: ``repository@sha256:...``, which always refers to the same image.
        digest: ``sha256:`` and 64 hex digits.
        tags: Tags of the image, the commit's first.
    """

    ref: ImageRef = field(repr=False)
    engine: Engine = field(repr=False)
    source: Directory | None = field(repr=False, default=None)
    facts: Directory | None = field(repr=False, default=None)

    @property
    def reference(self) -> str:
        """``repository@sha256:...``, which always refers to the same image."""
        return self.ref.reference

    @property
    def digest(self) -> str:
        """``sha256:`` and 64 hex digits."""
        return self.ref.digest

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags of the image, the commit's first."""
        return self.ref.tags

    async def run(
        self,
        *argv: str,
        name: str = "command",
        env: Mapping[str, str] | None = None,
        secrets: tuple[str, ...] = (),
        timeout_s: float = 600.0,
    ) -> Outcome:
        """Run a command inside the image, in the directory of ``vllm-ci.yaml``; the outcome is true with exit code 0.

        Args:
            argv: Command and arguments; ``{out}`` is an output directory, available in the outcome.
            name: Name in logs and for the memory engine.
            env: Environment variables, added to the image's.
            secrets: Names of variables to pass from the caller's environment.
            timeout_s: Timeout in seconds.

        Raises:
            EngineError: The engine could not start the command.
        """
        program = _program(argv, name=name, env=env, secrets=secrets, timeout_s=timeout_s, source=self.source)
        return _hidden(await self.engine.run(replace(program, image=self.ref)), secrets, {})


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that is ready.

    Attributes:
        image: The image that it serves; ``None`` for an external server.
        url: Base URL, reachable from this process.
        model: Model name for requests.
        name: Empty for the first server of a run; otherwise the report names its rows ``STAGE@NAME``.
    """

    image: Image | None
    url: str
    model: str
    name: str = ""
    engine: Engine = field(repr=False)
    context: StageContext = field(repr=False)

    @property
    def service(self) -> Service | None:
        """The engine's handle for the server."""
        return self.context.service

    @property
    def api_key(self) -> str:
        """The API key of the server; empty if it needs none."""
        name = self.context.api_key_env
        return self.context.secrets.get(name) or os.environ.get(name, "") if name else ""

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
        """An HTTP client with base URL and API key; with the memory engine it returns scripted answers.

        Args:
            options: Arguments of ``httpx.AsyncClient``; they override the defaults.
        """
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        transport = getattr(self.service, "transport", None)
        ours = {
            "base_url": self.url,
            "headers": headers,
            "timeout": _ANSWER_WITHIN_S,
            "transport": transport,
            "trust_env": False,
        }
        async with httpx.AsyncClient(**{**ours, **options}) as client:
            yield client

    async def run(
        self,
        *argv: str,
        name: str = "command",
        env: Mapping[str, str] | None = None,
        secrets: tuple[str, ...] = (),
        timeout_s: float = 600.0,
    ) -> Outcome:
        """Run a command next to the server, in the directory of ``vllm-ci.yaml``; the outcome is true with exit code 0.

        The command gets ``VLLM_URL``, ``VLLM_MODEL`` and, if the server needs one, ``VLLM_API_KEY``.

        Args:
            argv: Command and arguments; ``{url.vllm}`` is the server's URL for the command, ``{out}`` an output directory.
            name: Name in logs and for the memory engine.
            env: Further environment variables.
            secrets: Names of variables to pass from the caller's environment.
            timeout_s: Timeout in seconds.

        Raises:
            EngineError: The engine could not start the command.
        """
        found, keys = variables(OwnStage(needs_server=True, secrets=secrets), self.context)
        program = _program(
            argv, name=name, env={**found, **(env or {})}, secrets=keys, timeout_s=timeout_s, source=self.context.source
        )
        needed = {"vllm": self.service} if self.service is not None else {}
        return _hidden(await self.engine.run(replace(program, needs=needed)), keys, self.context.secrets)

    async def log(self) -> str:
        """The log of the server so far; empty for an external server.

        Raises:
            EngineError: The log cannot be read.
        """
        return await self.service.log() if self.service is not None else ""


def _hidden(outcome: Outcome, secrets: tuple[str, ...], values: Mapping[str, str]) -> Outcome:
    """The outcome with the command's secrets replaced by ``***`` in its log."""
    log = outcome.log
    for secret in secrets:
        name = secret.rpartition("=")[2]
        if value := values.get(name) or os.environ.get(name, ""):
            log = log.replace(value, "***")
    return replace(outcome, log=log)


def _program(
    argv: tuple[str, ...],
    *,
    name: str,
    env: Mapping[str, str] | None,
    secrets: tuple[str, ...],
    timeout_s: float,
    source: Directory | None,
) -> Program:
    inputs = {"source": source} if source is not None else {}
    command = in_folder("{in.source}" if inputs else "{out}", argv)
    return Program(name=name, argv=command, env=dict(env or {}), secrets=secrets, inputs=inputs, timeout_s=timeout_s)
