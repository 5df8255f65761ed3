"""Checks a gateway's certificate before Envoy sees them, so that the message names what is wrong."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from vllm_ci.domain.errors import ConfigError
from vllm_ci.domain.gateway import GatewaySettings


def check(settings: GatewaySettings) -> None:
    """Check that the certificate can be used.

    Raises:
        ConfigError: A file cannot be read, they do not belong together, or the certificate has expired.
    """
    if settings.tls is None:
        return
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    chain, key = settings.tls.certificate, settings.tls.key
    try:
        found = x509.load_pem_x509_certificates(_content(chain))[0]
    except ValueError as error:
        raise _invalid(chain, "it holds no certificate in PEM form") from error
    try:
        private = load_pem_private_key(_content(key), password=None)
    except (ValueError, TypeError) as error:
        raise _invalid(key, "it holds no private key in PEM form, or one with a password") from error
    if private.public_key() != found.public_key():
        raise _invalid(key, f"it does not belong to the certificate {chain}")
    if found.not_valid_after_utc < dt.datetime.now(dt.UTC):
        raise _invalid(chain, f"the certificate expired on {found.not_valid_after_utc:%Y-%m-%d}")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _invalid(path, error.strerror or str(error)) from error


def _invalid(path: Path, why: str) -> ConfigError:
    remedy = "name one PEM file with the certificate and one with its key"
    return ConfigError(f"{path} cannot be used for the gateway", why=why, remedy=remedy)
