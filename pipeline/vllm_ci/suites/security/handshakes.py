"""TLS handshakes with an old version, and the proof that this machine can offer one at all."""

from __future__ import annotations

import socket
import ssl
import warnings

from vllm_ci.suites.raw import CONNECT_S

OLD = {"TLSv1": ssl.TLSVersion.TLSv1, "TLSv1.1": ssl.TLSVersion.TLSv1_1}
"""Versions that RFC 8996 forbids."""
# Level 0 allows the signatures of these versions, which the default level refuses on the client's side already.
_CIPHERS = "ALL:@SECLEVEL=0"
_ROUNDS = 10


def offering(version: ssl.TLSVersion) -> ssl.SSLContext:
    """A client that offers one version only, whatever the system's configuration says.

    Raises:
        ssl.SSLError: The local OpenSSL was built without it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return _only(context, version)


def accepts(host: str, port: int, version: ssl.TLSVersion) -> bool:
    """Whether a server completes a handshake in this version.

    Raises:
        OSError: The server accepts no connection.
    """
    with socket.create_connection((host, port), timeout=CONNECT_S) as line:
        try:
            with offering(version).wrap_socket(line, server_hostname=host) as secured:
                return secured.version() is not None
        except OSError:  # an alert, a closed connection or silence: refused
            return False


def untestable(version: ssl.TLSVersion) -> str:
    """Why this machine cannot offer a version, found by a handshake with a server of our own; empty if it can."""
    try:
        client, server = offering(version), _only(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), version)
        _meet(client, server)
    except (ssl.SSLError, ValueError) as error:
        return f"{ssl.OPENSSL_VERSION} cannot offer {version.name}: {error}"
    return ""


def _only(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # old versions are the point here
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = version
        context.minimum_version = version
    context.set_ciphers(_CIPHERS)  # with anonymous ones, which need no certificate
    return context


def _meet(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """A handshake in memory.

    Raises:
        ssl.SSLError: It fails.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)]
    done: set[int] = set()
    for _ in range(_ROUNDS):
        for number, end in enumerate(ends):
            try:
                end.do_handshake()
                done.add(number)
            except ssl.SSLWantReadError:
                continue
        if len(done) == len(ends):
            return
    raise ssl.SSLError("the handshake does not end")
