"""The connection to the server is encrypted unless it is local, and the certificate is valid."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

import pytest

from vllm_ci.suites.findings import Finding
from vllm_ci.suites.raw import CONNECT_S
from vllm_ci.suites.security import handshakes
from vllm_ci.suites.security.listener import is_local
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.verdicts import inconclusive
from vllm_ci.system.trust import tls_context

Judge = Callable[[Iterable[Finding]], None]

_WEEKS_S = 14 * 86_400


def test_plain_http_stays_on_the_machine(server: ServerFacts, judge: Judge) -> None:
    """Plain HTTP would send keys and prompts unencrypted."""
    parts = urlsplit(server.url)
    message = "is reached over plain HTTP from another machine; use TLS"
    exposed = parts.scheme == "http" and not is_local(parts.hostname or "")
    judge([Finding(id="plain-http", severity="low", message=message)] if exposed else [])


@pytest.mark.parametrize("version", handshakes.OLD)
def test_old_versions_of_tls_are_refused(server: ServerFacts, judge: Judge, version: str) -> None:
    """TLS 1.0 and 1.1 are broken (RFC 8996); they are offered for real, after a handshake with ourselves shows that we can."""
    host, port = _secured(server)
    old = handshakes.OLD[version]
    if reason := handshakes.untestable(old):
        inconclusive(reason)
    message = f"completes a handshake in {version}, which RFC 8996 forbids"
    judge([Finding(id=f"old-tls:{version}", severity="high", message=message)] if handshakes.accepts(host, port, old) else [])


def test_the_certificate_holds(server: ServerFacts, judge: Judge) -> None:
    """The certificate is trusted, matches the name, and is valid for at least two more weeks."""
    host, port = _secured(server)
    try:
        with (
            socket.create_connection((host, port), timeout=CONNECT_S) as line,
            tls_context().wrap_socket(line, server_hostname=host) as secured,
        ):
            certificate = secured.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        judge([Finding(id="bad-certificate", severity="high", message=str(error.verify_message))])
        return
    left_s = ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()
    message = f"the certificate expires in {left_s / 86_400:.0f} days"
    judge([Finding(id="certificate-ends-soon", severity="medium", message=message)] if left_s < _WEEKS_S else [])


def _secured(server: ServerFacts) -> tuple[str, int]:
    parts = urlsplit(server.url)
    if parts.scheme != "https":
        pytest.skip("the server is reached over plain HTTP, without TLS")
    return parts.hostname or "", parts.port or 443
