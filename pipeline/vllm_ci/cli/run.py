"""``vllm-ci run`` and ``vllm-ci test``."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from vllm_ci.cli import ci_log
from vllm_ci.cli.durations import DURATIONS
from vllm_ci.cli.options import Number, option, project_options, refuse_unused
from vllm_ci.cli.output import json_option, print_json
from vllm_ci.domain.errors import ErroredError, UsageError

if TYPE_CHECKING:  # loaded when a command runs
    from rich.console import Console

    from vllm_ci.cli.foreign import Foreign
    from vllm_ci.config.load import Loaded
    from vllm_ci.domain.report import Report
    from vllm_ci.pipeline import steps
    from vllm_ci.pipeline.loading import OwnPipeline

_STAGE = {
    "multiple": True,
    "metavar": "NAME",
    "help": "Run only this stage (built-in or your own); repeat for several.",
}
_DEEP = {"is_flag": True, "help": "Run every case at full size, without a time budget."}
_BUDGET = {
    "type": Number(min=0),
    "metavar": "SECONDS",
    "help": "Time budget for each stage against the server; 0 is no limit. Default: as configured (90).",
}
_CA_FILE = {
    "type": click.Path(exists=True, dir_okay=False, path_type=Path),
    "help": "PEM file with the certificate authority of that server; the variable SSL_CERT_FILE is read, too.",
}
_GRPC = {
    "metavar": "HOST:PORT",
    "help": "Test vLLM's gRPC service (vllm serve --grpc) at this address; grpcs://HOST:PORT for TLS.",
}
_RESTART_WAIT = {
    "type": Number(min=0),
    "metavar": "SECONDS",
    "help": "Wait this long for a server (--url, --grpc) that died to be started again by its supervisor. Default: 10.",
}
_AT_FULL_SIZE = "the stage grpc has no budget: it takes seconds"
_REPORT_DIR = {"type": click.Path(file_okay=False), "help": "Directory for reports; each run gets its own subdirectory."}


@click.command()
@project_options
@option("--stage", **_STAGE)
@option("--deep", **_DEEP)
@option("--budget", **_BUDGET)
@option("--matrix", is_flag=True, help="Also test the servers of `matrix:`, one after another.")
@option("--report-dir", **_REPORT_DIR)
@option("--durations", **DURATIONS)
@json_option
@click.pass_context
def run(context: click.Context, /, *, stage: tuple[str, ...], matrix: bool, durations: int, as_json: bool, **_: Any) -> int:
    """Build the image of the checked-out commit, serve it, test it, report.

    \b
    Examples:
      vllm-ci run
      vllm-ci run --stage streaming --stage security
      vllm-ci run --engine dagger --json
      vllm-ci run --deep

    If there is a file ci/pipeline.py next to vllm-ci.yaml, or `pipeline:` names a file, that pipeline is run
    (docs/api.md).

    Exit code: 0 passed, 1 failed, 2 usage or configuration, 3 errored (no verdict), 4 inconclusive, 130 interrupted.
    """
    return _run(context, stage, as_json, durations, matrix=matrix)


@click.command()
@project_options
@option("--url", help="Test the OpenAI-compatible server at this URL instead of building an image.")
@option("--grpc", **_GRPC)
@option("--api-key-env", metavar="NAME", help="Environment variable with that server's API key.")
@option("--ca-file", **_CA_FILE)
@option("--stage", **_STAGE)
@click.option(
    "-k",
    "select",
    envvar="VLLM_CI_SELECT",
    show_envvar=True,
    metavar="EXPRESSION",
    help="Run only the cases whose names match, as with pytest -k; only with --url or --grpc.",
)
@option("--deep", **_DEEP)
@option("--budget", **_BUDGET)
@option("--restart-wait", **_RESTART_WAIT)
@option("--report-dir", **_REPORT_DIR)
@option("--durations", **DURATIONS)
@json_option
@click.pass_context
def test(
    context: click.Context,
    /,
    *,
    url: str | None,
    grpc: str | None,
    stage: tuple[str, ...],
    select: str | None,
    durations: int,
    as_json: bool,
    **_: Any,
) -> int:
    """Test the server at --url or --grpc, or build and test the commit's image (like `run`).

    \b
    Examples:
      vllm-ci test --url http://127.0.0.1:8000
      vllm-ci test --url https://llm.example.com --api-key-env LLM_KEY --stage streaming
      vllm-ci test --url https://llm.internal/openai/v1 --ca-file company-ca.pem
      vllm-ci test --url http://127.0.0.1:8000 --stage streaming -k "test_speed_is_measured[chat]"
      vllm-ci test --grpc 127.0.0.1:50051
      vllm-ci test --stage unit

    The server is reached before any stage is started: one that is not there, refuses the key or is no OpenAI-compatible API
    ends the run with one message and exit code 3. The URL may end in /v1, as OPENAI_BASE_URL does.

    --grpc runs the stage grpc against vLLM's gRPC service; it needs the extra grpc (pip install 'vllm-ci[grpc]').

    With --url, --model is the model name on the server (default: the first that it lists), a configuration file is used
    if there is one, and stages that need an image are skipped unless selected with --stage.
    """
    if grpc and not url:
        refuse_unused(context, {"model": "a gRPC service has one model"} | dict.fromkeys(("deep", "budget"), _AT_FULL_SIZE))
    if url or grpc:
        return _test(context, url or "", grpc or "", stage, as_json, durations)
    if select:
        raise UsageError(
            "-k needs --url or --grpc",
            why="the result of some cases must not count as that of the commit",
            remedy="serve the commit with vllm-ci serve and give its URL, or leave out -k",
        )
    if context.params.get("restart_wait") is not None:
        raise UsageError(
            "--restart-wait needs --url or --grpc",
            why="a server that the pipeline started itself is started again at once",
            remedy="leave it out",
        )
    refuse_unused(context, dict.fromkeys(("api_key_env", "ca_file"), "it is for the server at --url or --grpc"))
    return _run(context, stage, as_json, durations)


def _run(context: click.Context, stages: tuple[str, ...], as_json: bool, durations: int, *, matrix: bool = False) -> int:
    from vllm_ci.ci import run_facts
    from vllm_ci.cli import commits, options, progress, watching
    from vllm_ci.config.checkout import open_project
    from vllm_ci.engines import choose, open_engine
    from vllm_ci.pipeline import default, steps
    from vllm_ci.report.usual import durations as usual_durations
    from vllm_ci.stages import user_code

    loaded = options.loaded(context)
    own = _own_pipeline(loaded)
    with watching.watch() as pulling:
        names = own.stages if own else ()
        opened = open_project(loaded, stages, changes=True, own=names, note=commits.note, emit=pulling)
    name, why = choose(opened.loaded.config.engine)
    screen = progress.console()
    screen.print(f"{opened.project.name} at {opened.commit.short}, engine {name} ({why})")
    if described := run_facts.describe(opened.commit.sha):
        screen.print(described)
    if opened.commit.dirty:
        screen.print("the work tree is dirty: its image can be tested but not published", style="yellow")
    if own and loaded.pipeline:
        defined = f"; stages: {', '.join(own.stages)}" if own.stages else ""
        screen.print(f"pipeline {user_code.shown(str(own.path))} ({loaded.pipeline.why}{defined})")

    variants = opened.loaded.config.matrix.domain() if matrix else None
    directory = opened.loaded.folder / opened.loaded.config.report.directory

    async def main(record: steps.RunRecord) -> steps.RunResult:
        record.engine, record.commit = name, opened.commit
        if own is None:  # a user's pipeline declares its stages itself
            record.rows = steps.rows(opened.project, variants)
        async with open_engine(name, port=opened.loaded.config.server.port) as engine:
            source, function = opened.source(engine), own or default.pipeline
            with redirect_stdout(sys.stderr):  # output of the pipeline must not mix with --json
                return await steps.run(engine, opened.project, source, record.emit, variants, record, function=function)

    usual = usual_durations(directory, engine=name, of_commit=True)
    closing = _Closing(
        directory=directory,
        secrets=opened.secrets,
        as_json=as_json,
        project=opened.loaded.folder,
        durations=durations,
        usual=usual,
    )
    return _reported(main, screen, closing)


def _own_pipeline(loaded: Loaded) -> OwnPipeline | None:
    """Import the user's pipeline; ``None`` if the project has none."""
    from vllm_ci.pipeline.loading import load

    with redirect_stdout(sys.stderr):
        return load(loaded.pipeline.path) if loaded.pipeline is not None else None


def _test(context: click.Context, url: str, grpc: str, stages: tuple[str, ...], as_json: bool, durations: int) -> int:
    import os

    from vllm_ci.cli.contact import contact
    from vllm_ci.cli.foreign import open_foreign

    foreign = open_foreign(context, url, grpc, stages)
    key = os.environ.get(foreign.context.api_key_env, "") if foreign.context.api_key_env else ""
    closing = _Closing(
        directory=foreign.report_directory,
        secrets=(key,),
        as_json=as_json,
        project=foreign.folder,
        durations=durations,
    )
    try:
        contact(foreign.context, foreign.ca_file)
    except ErroredError as error:
        closing.keep(_unreached(foreign, error))
        raise

    from vllm_ci.cli import progress
    from vllm_ci.engines import open_engine
    from vllm_ci.pipeline import steps
    from vllm_ci.report.usual import durations as usual_durations

    usual = usual_durations(closing.directory, engine=foreign.engine, of_commit=False)
    closing = replace(closing, usual=usual)
    screen = progress.console()
    screen.print(f"testing {' and '.join(filter(None, (foreign.context.url, foreign.context.grpc)))}")

    async def main(record: steps.RunRecord) -> steps.RunResult:
        record.engine, record.rows = foreign.engine, [spec.name for spec in foreign.stages]
        async with open_engine(foreign.engine) as engine:
            source = engine.directory(foreign.folder) if foreign.folder else None
            with foreign.authorities() as folder:
                authorities = engine.directory(folder) if folder else None
                tested = replace(foreign.context, source=source, authorities=authorities)
                return await steps.test(engine, foreign.stages, tested, record.emit, record)

    return _reported(main, screen, closing)


def _unreached(foreign: Foreign, error: ErroredError) -> steps.RunResult:
    """The result of a run that ended with the first contact."""
    from vllm_ci.pipeline import steps

    record = steps.RunRecord(emit=lambda _event: None)
    record.engine, record.rows = foreign.engine, [spec.name for spec in foreign.stages]
    record.failed("server", error)
    return record.run()


@dataclass(frozen=True, kw_only=True)
class _Closing:
    """Where to write a report.

    Attributes:
        directory: Directory with a subdirectory per run.
        secrets: Values that must not appear anywhere.
        as_json: Print the summary on standard output.
        project: Folder of the configuration, if there is one.
        durations: Number of slowest cases to show.
        usual: Seconds that steps usually take.
        stdout: The real standard output, while it is redirected for the pipeline.
        fold: The progress in the log of a CI job.
    """

    directory: Path
    secrets: tuple[str, ...]
    as_json: bool
    project: Path | None
    durations: int = 0
    usual: Mapping[str, float] = field(default_factory=dict)
    stdout: TextIO = field(default_factory=lambda: sys.stdout)
    fold: ci_log.Fold = field(default_factory=lambda: ci_log.Fold(title="vllm-ci: progress"))

    def write(self, result: steps.RunResult, screen: Console) -> int:
        """Write the report, print its summary, and return the exit code of its verdict."""
        from vllm_ci.cli import progress

        self.fold.end()
        return self.keep(result, lambda report, written: progress.close(screen, report, written, durations=self.durations))

    def keep(self, result: steps.RunResult, shown: Callable[[Report, str], None] = lambda _report, _written: None) -> int:
        """Write the report, show it, and return the exit code of its verdict."""
        from vllm_ci.report import document, folder, redaction

        report = redaction.redacted(result.report, self.secrets)
        written = folder.write(self.directory, report, result.logs, secrets=self.secrets)
        shown(report, str(written))
        ci_log.tell(report, written, self.project)
        if self.as_json:
            with redirect_stdout(self.stdout):
                print_json(document.summary(report, str(written)))
        return int(report.verdict.exit_code)


def _reported(main: Callable[[steps.RunRecord], Awaitable[steps.RunResult]], screen: Console, closing: _Closing) -> int:
    """Run ``main`` and always write a report, also when interrupted, except for configuration errors."""
    from vllm_ci.cli import interruptible, progress
    from vllm_ci.pipeline.execute import STEP, foreign
    from vllm_ci.pipeline.steps import RunRecord

    closing.fold.begin()
    try:
        with progress.watch(screen, closing.secrets, closing.usual) as emit:
            record = RunRecord(emit=emit)
            written: list[int] = []

            async def stopping(signal: str) -> None:
                result = await record.stop(f"interrupted by {signal}")
                written.append(closing.write(result, screen))

            def blocked(signal: str) -> None:
                closing.write(
                    record.interrupted(f"interrupted by {signal}, while code that does not await was running"), screen
                )

            try:
                result = interruptible.run(lambda: main(record), stopping, blocked)
            except ErroredError as error:
                record.failed("engine", error)
                result = record.run()
            except SystemExit as error:  # raised in a task of the user's code, and not caught elsewhere
                record.failed(STEP, foreign(error))
                result = record.run()
    finally:  # what an error says would be in the folded part
        closing.fold.end()
    return closing.write(result, screen)
