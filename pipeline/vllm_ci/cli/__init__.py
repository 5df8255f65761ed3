"""The command line. Commands load when they are called: ``--help`` and an unchanged build stay fast."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from vllm_ci import __version__
from vllm_ci.cli import signals
from vllm_ci.domain.errors import ErroredError, Interrupted, VllmCiError

# Verb -> where its click command lives.
COMMANDS = {
    "run": "vllm_ci.cli.run:run",
    "build": "vllm_ci.cli.build:build",
    "serve": "vllm_ci.cli.serve:serve",
    "server": "vllm_ci.cli.serve:server",
    "test": "vllm_ci.cli.run:test",
    "bench": "vllm_ci.cli.bench:bench",
    "config": "vllm_ci.cli.config:config",
    "doctor": "vllm_ci.cli.doctor:doctor",
    "show": "vllm_ci.cli.show:show",
    "report": "vllm_ci.cli.report:report",
    "dashboard": "vllm_ci.cli.dashboard:dashboard",
    "lock": "vllm_ci.cli.lock:lock",
    "image": "vllm_ci.cli.image:image",
    "cache": "vllm_ci.cli.cache:cache",
    "publish": "vllm_ci.cli.publish:publish",
    "promote": "vllm_ci.cli.release:promote",
    "rollback": "vllm_ci.cli.release:rollback",
    "deploy": "vllm_ci.cli.deploy:deploy",
    "gateway": "vllm_ci.cli.gateway:gateway",
    "agent": "vllm_ci.cli.agent:agent",
    "history": "vllm_ci.cli.release:history",
    "prune": "vllm_ci.cli.release:prune",
    "model": "vllm_ci.cli.model:model",
    "data": "vllm_ci.cli.data:data",
    "retrain": "vllm_ci.cli.retrain:retrain",
    "verify": "vllm_ci.cli.verify:verify",
    "keys": "vllm_ci.cli.keys:keys",
    "policy": "vllm_ci.cli.policy:policy",
    "monitoring": "vllm_ci.cli.monitoring:monitoring",
    "watch": "vllm_ci.cli.monitoring:watch",
    "render": "vllm_ci.cli.render:render",
}


class LazyGroup(click.Group):
    """A group whose commands are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002, D102
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002, D102
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "VLLM_CI", "max_content_width": 120},
)
@click.version_option(__version__, prog_name="vllm-ci")
def root(**_: Any) -> None:
    """From a commit to a signed, tested, traceable, live vLLM."""


def main() -> None:
    """Entry point: every error of ours ends with its message on standard error and its class's exit code."""
    signals.catch()
    try:
        code = root.main(prog_name="vllm-ci", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt) as error:
        code = _complain(Interrupted(str(error.__cause__ or error) or "interrupted"))
    except click.ClickException as error:
        error.show()
        code = 2
    except VllmCiError as error:
        code = _complain(error)
    except Exception as error:
        if os.environ.get("VLLM_CI_DEBUG"):
            raise
        code = _complain(
            ErroredError(
                f"{type(error).__name__}: {error}",
                why="this is a fault in vllm-ci",
                remedy="call it again with VLLM_CI_DEBUG=1 and report what it prints",
            )
        )
    sys.exit(code if isinstance(code, int) else 0)


def _complain(error: VllmCiError) -> int:
    from vllm_ci.ci.log_commands import harmless
    from vllm_ci.domain.plain import visible

    click.echo(harmless(visible(f"vllm-ci: {error}")), err=True)
    return error.exit_code
