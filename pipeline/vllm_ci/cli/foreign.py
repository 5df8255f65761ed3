"""External servers, for ``vllm-ci test --url`` and ``--grpc``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import click
from click.core import ParameterSource

from vllm_ci.cli import options
from vllm_ci.config.load import FILE_NAME, Loaded
from vllm_ci.config.project import ProjectConfig
from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.program import refusal_of_secret
from vllm_ci.domain.stage import StageSpec
from vllm_ci.engines import choose
from vllm_ci.stages import needs_grpc, needs_server, require_grpc, unknown
from vllm_ci.stages.stage import CA_NAME, StageContext
from vllm_ci.suites.grpc import address
from vllm_ci.suites.reach import UnreachableError, base_url
from vllm_ci.system import scratch


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """An external server and how to test it.

    Attributes:
        context: URL, model and API key of the server.
        stages: Stages to run.
        engine: Name of the engine for their programs.
        folder: Directory of the project, if there is a configuration.
        report_directory: Directory with a subdirectory per run.
        ca_file: More certificate authorities, as PEM.
    """

    context: StageContext
    stages: tuple[StageSpec, ...]
    engine: str
    folder: Path | None
    report_directory: Path
    ca_file: Path | None = None

    @contextmanager
    def authorities(self) -> Iterator[Path | None]:
        """A directory with only the file of certificate authorities, to mount; ``None`` without one."""
        if self.ca_file is None:
            yield None
            return
        with scratch.folder("authorities-") as place:
            folder = place / "files"
            folder.mkdir()
            shutil.copyfile(self.ca_file, folder / CA_NAME)
            yield folder


def open_foreign(context: click.Context, url: str, grpc: str, named: tuple[str, ...]) -> Foreign:
    """Read options, and the configuration if there is one.

    Args:
        context: The call.
        url: URL of an HTTP server; empty if there is none.
        grpc: Address of a gRPC service; empty if there is none.
        named: Stages to run; by default those that these servers can be tested with.

    Raises:
        UsageError: URL or address is invalid, a stage needs something else, or the variable of the API key is not set.
    """
    url, grpc = _url(url) if url else "", _grpc(grpc) if grpc else ""
    loaded = _configuration(context)
    config = loaded.config if loaded else ProjectConfig()
    specs = config.stages.specs()
    if not loaded and (budget_s := options.budget(context)) is not None:
        specs = {name: replace(spec, budget_s=budget_s) for name, spec in specs.items()}
    for name in named:
        if name not in specs:
            raise unknown(name, specs)
        if not needs_server(specs[name]):
            raise UsageError(
                f"the stage {name} needs an image or the checkout, but --url gives only a server",
                remedy=f"leave out --stage {name}, or let the pipeline build the image (without --url)",
            )
        if not url and not needs_grpc(specs[name]):
            raise UsageError(
                f"the stage {name} needs a URL, but --grpc gives only a gRPC service",
                remedy=f"leave out --stage {name}, or give the URL of an HTTP server as well: --url URL",
            )
    require_grpc((specs[name] for name in named), grpc)
    if arguments := _arguments(context):
        specs = {name: replace(spec, pytest_args=(*spec.pytest_args, *arguments)) for name, spec in specs.items()}
    of_url = tuple(name for name in config.stages.enabled() if needs_server(specs[name])) if url else ()
    chosen = named or (*of_url, *(name for name in specs if grpc and needs_grpc(specs[name])))
    engine = choose(config.engine)[0]
    if grpc and engine != "host":
        raise UsageError(
            f"--grpc cannot be tested on the engine {engine}",
            why="the container of the tool has no gRPC packages",
            remedy="use the engine of this machine: --engine host",
        )
    key = str(context.params.get("api_key_env") or config.server.api_key_env)
    if key and (reason := refusal_of_secret(key)):
        raise UsageError(f"--api-key-env {key} cannot be used", why=reason, remedy="export the key under another name")
    if key and key not in os.environ:
        raise UsageError(f"the environment variable {key} is not set", remedy=f"export {key}=... before the call")
    return Foreign(
        context=StageContext(
            spec=StageSpec(name=""), url=url, grpc=grpc, model=context.params.get("model") or "", api_key_env=key
        ),
        stages=tuple(specs[name] for name in specs if name in chosen),
        engine=engine,
        folder=loaded.folder if loaded else None,
        report_directory=_report_directory(context, loaded),
        ca_file=context.params.get("ca_file"),
    )


def _url(url: str) -> str:
    try:
        return base_url(url)
    except UnreachableError as error:
        raise UsageError(error.message, remedy="include scheme and host: --url http://127.0.0.1:8000") from error


def _grpc(text: str) -> str:
    try:
        found = str(address.parse(text))
    except ValueError as error:
        raise UsageError(str(error), remedy="give host and port, for example --grpc 127.0.0.1:50051") from error
    if why := address.missing():
        raise UsageError("--grpc needs packages that are not installed", why=why, remedy=f"pip install '{address.EXTRA}'")
    return found


def _arguments(context: click.Context) -> tuple[str, ...]:
    """Options of this call for pytest."""
    select, wait_s = context.params.get("select"), context.params.get("restart_wait")
    return (
        *(("-k", select) if select else ()),
        *((f"--vllm-return={wait_s:g}",) if wait_s is not None else ()),
    )


def _configuration(context: click.Context) -> Loaded | None:
    """The configuration of --config, otherwise one found in this directory or above; optional without --config."""
    if context.params.get("config") is None and not any(
        (folder / FILE_NAME).is_file() for folder in (Path.cwd(), *Path.cwd().parents)
    ):
        return None
    # --model is the served name here: it does not select the model to serve.
    given = context.params.pop("model")
    try:
        return options.loaded(context)
    finally:
        context.params["model"] = given


def _report_directory(context: click.Context, loaded: Loaded | None) -> Path:
    if context.get_parameter_source("report_dir") is not ParameterSource.DEFAULT:
        return Path(context.params["report_dir"]).absolute()
    return loaded.folder / loaded.config.report.directory if loaded else Path.cwd() / ProjectConfig().report.directory
