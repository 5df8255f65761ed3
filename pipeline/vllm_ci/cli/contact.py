"""The first contact with an external server, before any stage is started: what keeps it from being tested is said once."""

from __future__ import annotations

import os
import ssl
from contextlib import ExitStack
from pathlib import Path

import httpx

from vllm_ci.domain.errors import ErroredError, InconclusiveError, UsageError
from vllm_ci.stages.stage import StageContext
from vllm_ci.suites import reach
from vllm_ci.suites.dialect import learn
from vllm_ci.suites.server import control
from vllm_ci.suites.traffic import RateLimitedError, Traffic
from vllm_ci.suites.transport import PatientTransport
from vllm_ci.system.trust import tls_context

_RATE_LIMIT_S = 30.0


def trust(ca_file: Path | None) -> ssl.SSLContext:
    """Trust in certificates: the system's, or ``SSL_CERT_FILE``, and those of ``ca_file``.

    Raises:
        UsageError: A file has no certificates that can be read.
    """
    try:
        context = tls_context()
        if ca_file is not None:
            context.load_verify_locations(ca_file)
    except (ssl.SSLError, OSError) as error:
        named = f"--ca-file {ca_file}" if ca_file is not None else f"SSL_CERT_FILE {os.environ.get('SSL_CERT_FILE', '')}"
        raise UsageError(
            f"{named} cannot be read: {error}",
            why="it is not a file with certificates in PEM form",
            remedy="give a file that begins with -----BEGIN CERTIFICATE-----",
        ) from error
    return context


def contact(context: StageContext, ca_file: Path | None) -> None:
    """Reach the server, or both of them if there is a URL and the address of a gRPC service.

    Raises:
        ErroredError: One cannot be tested; the message says what to change.
        InconclusiveError: It refuses requests for being too many, for longer than is waited here.
        UsageError: ``ca_file`` cannot be read.
    """
    if context.url:
        _contact_http(context, ca_file)
    if context.grpc:
        _contact_grpc(context, ca_file)


def _contact_grpc(context: StageContext, ca_file: Path | None) -> None:
    """Reach the gRPC service, and learn its messages."""
    from vllm_ci.suites.grpc.address import parse
    from vllm_ci.suites.grpc.reaching import reached  # loads gRPC

    trust(ca_file)  # added to the authorities that all clients share
    key = os.environ.get(context.api_key_env, "") if context.api_key_env else ""
    try:
        with ExitStack() as stack:
            reached(parse(context.grpc), key=key, stack=stack)
    except reach.UnreachableError as error:
        raise ErroredError(error.message, why=error.why, remedy=error.remedy) from error


def _contact_http(context: StageContext, ca_file: Path | None) -> None:
    """Reach the server: its list of models, and one small answer of the model.

    Raises:
        ErroredError: It cannot be tested; the message says what to change.
        InconclusiveError: It refuses requests for being too many, for longer than is waited here.
        UsageError: ``ca_file`` cannot be read.
    """
    key = os.environ.get(context.api_key_env, "") if context.api_key_env else ""
    traffic, tls = Traffic(total_wait_s=_RATE_LIMIT_S), trust(ca_file)
    transport = PatientTransport(traffic, tls=tls)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(base_url=reach.base_url(context.url), headers=headers, transport=transport, trust_env=False) as http:
            cards = reach.reach(http, model=context.model).cards
            model = reach.choose(cards, context.model)
            traffic.control = control(http, model, tls, traffic).served
            learn(http, model, traffic.dialect, timeout=httpx.Timeout(reach.TIMEOUT_S, connect=reach.CONNECT_S))
            reach.require_an_answer(http, model, given=bool(context.model), listed=len(cards))
    except reach.UnreachableError as error:
        raise ErroredError(error.message, why=error.why, remedy=error.remedy) from error
    except RateLimitedError as error:
        raise InconclusiveError(str(error)) from error
