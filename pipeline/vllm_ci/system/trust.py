"""The TLS context of all clients that test or measure servers."""

from __future__ import annotations

import functools
import os
import ssl

_FROM_ENVIRONMENT = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def tls_context() -> ssl.SSLContext:
    """Trusts the system's authorities, or those of ``SSL_CERT_FILE``. Callers share it: reading the authorities takes 20 ms.

    Python 3.13 refuses certificates of private authorities that lack the extension keyUsage (RFC 5280, section 4.2.1.3), which
    curl, browsers and earlier versions accept. Such a certificate says nothing about the server, so it is accepted here too.
    """
    return _context(tuple(os.environ.get(name) for name in _FROM_ENVIRONMENT))


@functools.cache
def _context(_environment: tuple[str | None, ...]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
