"""What the stages of a user's own have in common: what they need, and how they are told of the server."""

from __future__ import annotations

from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.stage import OwnStage
from vllm_ci.stages.stage import StageContext

URL, MODEL, KEY = "VLLM_URL", "VLLM_MODEL", "VLLM_API_KEY"
"""Variables of a program that runs against the server: base URL, served name, API key."""


def needs(name: str, own: OwnStage, context: StageContext) -> None:
    """Check that the context has what a stage cannot do without.

    Raises:
        UsageError: It lacks something.
    """
    if own.needs_server and context.service is None and not context.url:
        raise UsageError(
            f"the stage {name} needs a server",
            why="neither a service nor a URL was given",
            remedy="let the pipeline serve the image, or give --url",
        )
    if own.inside and context.image is None:
        raise UsageError(
            f"the stage {name} runs inside the image, and there is none",
            why="of a server that is only known by its URL, the image is not known",
            remedy=f"leave the stage {name} out, or run the whole pipeline (vllm-ci run)",
        )
    if context.source is None:
        raise UsageError(
            f"the stage {name} is one of yours, but there is no checkout to take its files from",
            remedy="run it in the checkout",
        )


def variables(own: OwnStage, context: StageContext) -> tuple[dict[str, str], tuple[str, ...]]:
    """Environment and secrets of a program of the stage: those of its spec, and where the server is."""
    if not own.needs_server:
        return {}, own.secrets
    env = {URL: "{url.vllm}" if context.service is not None else context.url}
    if context.model:
        env[MODEL] = context.model
    key = context.api_key_env
    named = (key, *((f"{KEY}={key}",) if key != KEY else ())) if key else ()
    return env, tuple(dict.fromkeys((*own.secrets, *named)))
