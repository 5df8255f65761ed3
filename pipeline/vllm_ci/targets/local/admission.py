"""Whether a revision can be served behind a gateway: checked before anything is started."""

from __future__ import annotations

from vllm_ci.deploy.target import Revision
from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.gateway import GatewaySettings
from vllm_ci.targets.local import speaking
from vllm_ci.targets.local.state import State


def check(revision: Revision, settings: GatewaySettings) -> None:
    """Check that gateway and servers of a revision fit together.

    Raises:
        UsageError: Both would ask for a key, or they speak different protocols.
    """
    names = {*revision.serving.env, *(each.partition("=")[0] for each in revision.serving.secrets)}
    if settings.api_keys and "VLLM_API_KEY" in names:
        raise UsageError(
            "both the gateway and the server would ask for an API key",
            why="the gateway takes its keys out of requests, so that servers do not see them",
            remedy="leave server.api_key_env out of the configuration, or set api_keys: false for the gateway",
        )
    wanted = revision.serving.protocol
    if wanted != settings.protocol:
        raise UsageError(
            f"servers of {revision.name} speak {wanted}, and the gateway of this deployment {settings.protocol}",
            why="a change of deploy.protocol needs a deployment that was ended: vllm-ci deploy stop CHANNEL --yes",
            remedy="end it, then deploy again; or deploy it as another channel, and move the clients",
        )
    speaking.require(wanted)


def settings(given: GatewaySettings | None, state: State) -> GatewaySettings:
    """The settings of a gateway from now on: those that are given, unless it speaks another protocol.

    What serves is looked after, and ended, as it is; whatever is started afresh with another protocol is refused.
    """
    if given is None or (state.ports is not None and given.protocol != state.settings.protocol):
        return state.settings
    return given
