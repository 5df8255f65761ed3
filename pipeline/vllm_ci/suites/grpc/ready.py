"""Whether a gRPC service generates: health says SERVING before that is certain. Without pytest, for deployments."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import ExitStack

import grpc
from grpc_health.v1 import health_pb2

from vllm_ci.suites.grpc.contract import HEALTH, OPTIONS, NoContractError, contract

_SHORT_S = 10.0
_PROMPT = (37, 44, 51)
"""Token ids that every vocabulary has."""
_FINISHED = ("stop", "length")


def why_not(target: str, *, described_by: str = "", metadata: Sequence[tuple[str, str]] = (), timeout_s: float = 60) -> str:
    """Empty when a generation of one token came, otherwise the reason why not.

    Args:
        target: ``HOST:PORT`` to ask, without TLS.
        described_by: ``HOST:PORT`` whose reflection describes the messages; by default that of ``target``.
        metadata: Of the request.
        timeout_s: Longest time for the generation.
    """
    with ExitStack() as stack:
        channel = stack.enter_context(grpc.insecure_channel(target, options=OPTIONS))
        describing = stack.enter_context(grpc.insecure_channel(described_by, options=OPTIONS)) if described_by else channel
        try:
            generate = contract(describing, (), _SHORT_S).methods["Generate"]
            request = generate.request(
                request_id=f"vllm-ci-ready-{secrets.token_hex(4)}",
                tokenized={"input_ids": _PROMPT},
                sampling_params={"temperature": 0.0, "max_tokens": 1},
            )
            messages = list(generate.on(channel)(request, timeout=timeout_s, metadata=metadata))
        except NoContractError as error:
            return str(error)
        except grpc.RpcError as error:
            return f"{error.code().name}: {' '.join((error.details() or '').split())[:300]}"
    ends = [each.complete.finish_reason for each in messages if each.WhichOneof("response") == "complete"]
    return "" if any(reason in _FINISHED for reason in ends) else f"Generate ended without an answer (finish reasons: {ends})"


def serves(target: str, *, timeout_s: float = _SHORT_S) -> bool:
    """Whether the health service of a server says SERVING."""
    with grpc.insecure_channel(target, options=OPTIONS) as channel:
        ask = channel.unary_unary(
            f"/{HEALTH}/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            status = ask(health_pb2.HealthCheckRequest(), timeout=timeout_s).status
        except grpc.RpcError:
            return False
    return bool(status == health_pb2.HealthCheckResponse.SERVING)
