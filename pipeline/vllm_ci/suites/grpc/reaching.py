"""The first contact with a gRPC service: can it be reached, does it take the key, and is it vLLM's?

About a second in all, with one message that says what to change.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack

import grpc

from vllm_ci.suites.grpc.address import Address
from vllm_ci.suites.grpc.client import ANSWER_S, SHORT_S, Engine
from vllm_ci.suites.grpc.contract import ENGINE, OPTIONS, PACKAGE, NoContractError, contract
from vllm_ci.suites.reach import CONNECT_S, UnreachableError
from vllm_ci.system.trust import tls_context

DOUBLE = "x-vllm-ci-double"
"""Metadata with which our test doubles mark their answers."""
_KEY = "--api-key-env NAME (of pytest: --vllm-api-key-env NAME)"
_KEY_REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


def reached(address: Address, *, key: str = "", stack: ExitStack) -> Engine:
    """Connect to a service, and learn its messages.

    Args:
        address: Where it is.
        key: The API key; empty for none. It is sent as ``authorization: Bearer``, as gateways expect it; vLLM checks none.
        stack: Closes the connection.

    Raises:
        UnreachableError: It cannot be tested; the message says why.
    """
    _require_listening(address)
    metadata = (("authorization", f"Bearer {key}"),) if key else ()
    opened = _opener(address)
    channel = stack.enter_context(opened())
    try:
        found = contract(channel, metadata, SHORT_S)
        engine = Engine(channel=channel, open=opened, contract=found, metadata=metadata)
        _ask_for_the_model(engine)
    except NoContractError as error:
        raise UnreachableError(
            f"no gRPC service of vLLM at {address}: {error}",
            remedy=f"start vLLM with --grpc, or install the package {PACKAGE.replace('_', '-')} beside vllm-ci",
        ) from error
    except grpc.RpcError as error:
        raise _explained(error, address, keyed=bool(key)) from error
    engine.slowness = _slowness(engine)
    return engine


def _require_listening(address: Address) -> None:
    """Refuse an address where nobody listens, with the reason; gRPC itself says only that a connection failed.

    Raises:
        UnreachableError: No connection.
    """
    try:
        socket.create_connection((address.host, address.port), timeout=CONNECT_S).close()
    except socket.gaierror as error:
        raise UnreachableError(
            f"the host name {address.host} is not known: {error.strerror}", remedy="check the host name in --grpc"
        ) from error
    except TimeoutError as error:
        raise UnreachableError(
            f"{address} does not accept connections: no answer within {CONNECT_S:.0f} s",
            why="a firewall drops the packets, or the address is not used",
            remedy="check the host and port, and that the server is running",
        ) from error
    except OSError as error:
        raise UnreachableError(
            f"{address} cannot be reached: {error.strerror or error}",
            remedy="check the host and port, and that the server is running with --grpc",
        ) from error


def _opener(address: Address) -> Callable[[], grpc.Channel]:
    if not address.tls:
        return lambda: grpc.insecure_channel(address.target, options=OPTIONS)
    credentials = grpc.ssl_channel_credentials(root_certificates=_trusted())
    return lambda: grpc.secure_channel(address.target, credentials, options=OPTIONS)


def _trusted() -> bytes | None:
    """The authorities that our other clients trust, as PEM; ``None``, for those that come with gRPC, if there are none."""
    found = tls_context().get_ca_certs(binary_form=True)
    return "".join(map(ssl.DER_cert_to_PEM_cert, found)).encode() or None


def _ask_for_the_model(engine: Engine) -> None:
    """Keep what the service says of its model, and whether it is a test double.

    Raises:
        grpc.RpcError: It refuses the key, or there is no such service.
    """
    method = engine.contract.methods.get("GetModelInfo")
    if method is None:
        return
    try:
        engine.model, call = method.on(engine.channel).with_call(method.request(), timeout=SHORT_S, metadata=engine.metadata)
        engine.double = any(name == DOUBLE for name, _ in call.initial_metadata() or ())
    except grpc.RpcError as error:
        unknown = error.code() is grpc.StatusCode.UNIMPLEMENTED and not engine.contract.listed
        if unknown or error.code() in (*_KEY_REFUSED, grpc.StatusCode.DEADLINE_EXCEEDED):
            raise


def _slowness(engine: Engine) -> float:
    """How many times slower than most servers it is, from one small answer; 1 if it does not answer."""
    answer = engine.generate(ids=engine.prompt(), sampling={"max_tokens": _MEASURED}, timeout_s=ANSWER_S)
    if answer.code is not grpc.StatusCode.OK:
        return 1.0
    return max(1.0, answer.seconds * _LARGEST / _MEASURED / (ANSWER_S / _SPARE))


_MEASURED = 8
_LARGEST = 8 * 48
"""Tokens of the largest case, if its streams were made one after another."""
_SPARE = 3.0


def _explained(error: grpc.RpcError, address: Address, *, keyed: bool) -> UnreachableError:
    code, details = error.code(), " ".join((error.details() or "").split())[:200]
    if code in _KEY_REFUSED:
        return UnreachableError(
            f"the server {'refuses the API key' if keyed else 'requires an API key'}: {code.name}: {details}",
            remedy=f"check the value of the variable of {_KEY}" if keyed else f"give the variable with the key by {_KEY}",
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return UnreachableError(f"a gRPC server at {address}, but without the service {ENGINE}: {details}", remedy=_STARTED)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return UnreachableError(
            f"{address} accepts connections, but does not answer within {SHORT_S:.0f} s",
            remedy="wait until the server is ready, and look at its log",
        )
    other = "grpc://" if address.tls else "grpcs://"
    speaks = "TLS and gRPC" if address.tls else "gRPC"
    return UnreachableError(
        f"{address} accepts connections, but does not speak {speaks}: {code.name}: {details}",
        why="it may be vLLM's HTTP server (--url), or it "
        + ("has another certificate authority (--ca-file), or no TLS" if address.tls else "expects TLS"),
        remedy=f"test an HTTP server with --url, or write {other}{address.target}",
    )


_STARTED = "start vLLM with --grpc (vllm serve MODEL --grpc)"


def facts(engine: Engine) -> dict[str, object]:
    """What is known of the service, for the report."""
    model = engine.model
    name = (model.served_model_name or model.model_path) if model is not None else ""
    return {
        "models": [name] if name else [],
        "model": name,
        "version": _version(engine),
        "is_vllm": True,
        "max_model_len": int(model.max_context_length) if model is not None else 0,
        "capabilities": sorted(engine.contract.methods),
        "absent": {},
        "routes": len(engine.contract.methods),
        "double": engine.double,
        "grpc": {"service": ENGINE, "described_by": engine.contract.source, "services": list(engine.contract.listed)},
    }


def _version(engine: Engine) -> str:
    """The version of vLLM, which ``GetLoads`` tells; empty if it does not."""
    method = engine.contract.methods.get("GetLoads")
    if method is None or "version" not in method.response.DESCRIPTOR.fields_by_name:
        return ""
    try:
        return str(method.on(engine.channel)(method.request(), timeout=SHORT_S, metadata=engine.metadata).version)
    except grpc.RpcError:
        return ""
