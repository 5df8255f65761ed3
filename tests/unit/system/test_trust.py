"""The trusted authorities are read once, and again when they are others."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from vllm_ci.system.trust import tls_context


def names(context: ssl.SSLContext) -> int:
    return len(context.get_ca_certs())


def test_authorities_are_read_again_when_their_file_is_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usual = tls_context()
    assert tls_context() is usual
    file = tmp_path / "authorities.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    trustme.CA().cert_pem.write_to_path(str(file))
    private = tls_context()
    assert private is not usual
    assert tls_context() is private
    trustme.CA().cert_pem.write_to_path(str(file), append=True)
    assert names(tls_context()) == names(private) + 1


def test_a_file_that_does_not_exist_trusts_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert not names(tls_context())
