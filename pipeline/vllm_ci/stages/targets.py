"""Common parts of user-defined stages: requirements, and variables that describe the server."""

from __future__ import annotations

from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.stage import OwnStage
from vllm_ci.stages.stage import CA_FILE, StageContext

URL, MODEL, KEY = "VLLM_URL", "VLLM_MODEL", "VLLM_API_KEY"
"""Environment variables for programs that need the server: base URL, model name, API key."""


def needs(name: str, own: OwnStage, context: StageContext) -> None:
    """Check that the context has everything that a stage requires.

    Raises:
        UsageError: Something is missing.
    """
    if own.needs_server and context.service is None and not context.url:
        raise UsageError(
            f"the stage {name} needs a server",
            why="neither a service nor a URL was given",
            remedy="let the pipeline serve the image, or pass --url",
        )
    if own.inside and context.image is None:
        raise UsageError(
            f"the stage {name} runs inside the image, but there is none",
            why="only the URL of the server is known, not its image",
            remedy=f"leave the stage {name} out, or run the whole pipeline (vllm-ci run)",
        )
    if context.source is None:
        raise UsageError(
            f"the stage {name} is your own, but there is no checkout with its files",
            remedy="run it in the checkout",
        )


def variables(own: OwnStage, context: StageContext) -> tuple[dict[str, str], tuple[str, ...]]:
    """Environment and secrets of the stage's program: those of its spec, and those that describe the server."""
    if not own.needs_server:
        return {}, own.secrets
    env = {URL: "{url.vllm}" if context.service is not None else context.url}
    if context.model:
        env[MODEL] = context.model
    if context.authorities is not None:
        env["SSL_CERT_FILE"] = CA_FILE
    key = context.api_key_env
    named = (key, *((f"{KEY}={key}",) if key != KEY else ())) if key else ()
    return env, tuple(dict.fromkeys((*own.secrets, *named)))
