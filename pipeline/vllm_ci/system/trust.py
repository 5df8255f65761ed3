"""The TLS context of all clients that test or measure servers."""

from __future__ import annotations

import functools
import os
import ssl
from pathlib import Path

_FROM_ENVIRONMENT = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def tls_context() -> ssl.SSLContext:
    """Trusts the system's authorities, or those of ``SSL_CERT_FILE``. Callers share it: reading the authorities takes 20 ms.

    Python 3.13 refuses certificates of private authorities that lack the extension keyUsage (RFC 5280, section 4.2.1.3), which
    curl, browsers and earlier versions accept. Such a certificate says nothing about the server, so it is accepted here too.
    """
    return _context(tuple(map(_state, _FROM_ENVIRONMENT)))


def _state(name: str) -> tuple[object, ...]:
    """What tells whether the authorities of a file are still those that were read."""
    path = os.environ.get(name)
    if not path:
        return (path,)
    try:
        found = Path(path).stat()
    except OSError:
        return (path,)
    return path, found.st_mtime_ns, found.st_size, found.st_ino


@functools.cache
def _context(_environment: tuple[tuple[object, ...], ...]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
