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
            f"servers of {revision.name} speak {wanted}, and the gateway {settings.protocol}",
            why="a release is kept with the protocol that it was deployed with",
            remedy=f"set deploy.protocol: {wanted}, or deploy a release again that serves {settings.protocol}",
        )
    speaking.require(wanted)


def check_protocol(state: State, settings: GatewaySettings) -> None:
    """Check that a gateway that was started before speaks what its settings say now.

    Raises:
        UsageError: It speaks another protocol.
    """
    if state.ports is not None and settings.protocol != state.settings.protocol:
        raise UsageError(
            f"what serves here speaks {state.settings.protocol}, and would speak {settings.protocol} from now on",
            why="its clients could not be served by the other one, and a gateway has one of them",
            remedy="end it first: vllm-ci deploy stop CHANNEL --yes",
        )
