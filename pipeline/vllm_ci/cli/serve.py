"""``vllm-ci serve`` and ``vllm-ci server list|stop``."""

from __future__ import annotations

from typing import Any

import click

from vllm_ci.cli.options import option, project_options
from vllm_ci.cli.output import json_option, print_json
from vllm_ci.domain.errors import ErroredError


@click.command()
@project_options
@option("--name", help="Name of the server, for `server stop`; by default the name of the project.")
@json_option
@click.pass_context
def serve(context: click.Context, /, *, name: str | None, as_json: bool, **_: Any) -> None:
    """Build the image of the checked-out commit and serve it in the foreground until Ctrl-C.

    \b
    Examples:
      vllm-ci serve --port 8000
      vllm-ci serve --name second --model ./checkpoint &
      vllm-ci server stop second

    When the server has answered a first completion, its URL is printed on standard output (--json: name, url, model, image).
    """
    from vllm_ci.cli import commits, interruptible, options, progress, servers, watching
    from vllm_ci.config.checkout import open_project
    from vllm_ci.engines import choose, open_engine
    from vllm_ci.pipeline import steps

    with watching.watch() as pulling:
        opened = open_project(options.loaded(context), note=commits.note, emit=pulling)
    engine_name, why = choose(opened.loaded.config.engine)
    screen = progress.console()
    screen.print(f"{opened.project.name} at {opened.commit.short}, engine {engine_name} ({why})")

    async def main() -> None:
        async with (
            open_engine(engine_name, port=opened.loaded.config.server.port) as engine,
            steps.serve(engine, opened.project, opened.source(engine), emit) as (built, service),
        ):
            facts = {"url": service.url, "model": opened.project.model.served_name, "image": built.image.reference}
            if opened.served:
                facts["model_digest"] = opened.served.digest
            entry.announce(facts)
            if as_json:
                print_json({"name": entry.name, **facts})
            else:
                click.echo(service.url)
            if opened.project.server.api_key_env:
                screen.print(f"API key: {entry.write_key(opened.project.server.api_key_env)}")
            screen.print("press Ctrl-C to stop")
            await servers.until_gone(service)

    with servers.register(name or opened.project.name) as entry, progress.watch(screen, opened.secrets) as emit:
        try:
            interruptible.run(main)
        except ErroredError as error:
            raise _with_log(error, entry.name, opened.secrets) from error


def _with_log(error: ErroredError, name: str, secrets: tuple[str, ...]) -> ErroredError:
    """Write the log of an error to a file, add its path to the error, and remove secrets from both."""
    from vllm_ci.report.redaction import of_text as redacted
    from vllm_ci.system.home import home

    remedy = error.remedy
    if error.log:
        path = home() / "servers" / f"{name}.log"
        path.write_text(redacted(error.log, secrets), encoding="utf-8")
        remedy = f"{remedy}\n  log: {path}"
    texts = [redacted(text, secrets) for text in (error.message, error.why, remedy)]
    return type(error)(texts[0], why=texts[1], remedy=texts[2])


@click.group()
def server() -> None:
    """List and stop servers started with `vllm-ci serve` on this machine."""


@server.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List running servers: name, URL, model, process id.

    \b
    Example:
      vllm-ci server list
    """
    from vllm_ci.cli import servers

    found = servers.running()
    if as_json:
        print_json({"servers": found})
        return
    for each in found:
        click.echo(f"{each['name']:<20} {each.get('url', 'starting'):<28} {each.get('model', ''):<16} pid {each['pid']}")
    if not found:
        click.echo("no servers are running", err=True)


@server.command()
@click.argument("name")
@json_option
def stop(*, name: str, as_json: bool) -> None:
    """Stop the server NAME; requests in progress get server.stop_grace_s seconds to finish.

    \b
    Example:
      vllm-ci server stop second
    """
    from vllm_ci.cli import servers

    servers.stop(name)
    if as_json:
        print_json({"stopped": name})
    else:
        click.echo(f"stopped {name}", err=True)
