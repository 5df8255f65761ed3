"""Addresses of gRPC services."""

from __future__ import annotations

import pytest

from vllm_ci.suites.grpc import address
from vllm_ci.suites.grpc.address import Address, parse


@pytest.mark.parametrize(
    ("text", "host", "port", "tls"),
    [
        ("127.0.0.1:50051", "127.0.0.1", 50051, False),
        ("models.example:443", "models.example", 443, False),
        (" localhost:1 ", "localhost", 1, False),
        ("[::1]:50051", "::1", 50051, False),
        ("grpc://10.0.0.7:80", "10.0.0.7", 80, False),
        ("GRPCS://Models.example:443/", "models.example", 443, True),
    ],
)
def test_host_and_port_are_read(text: str, host: str, port: int, tls: bool) -> None:
    found = parse(text)
    assert found == Address(host=host, port=port, tls=tls)
    assert parse(str(found)) == found


def test_an_ipv6_address_is_written_in_brackets() -> None:
    assert parse("grpcs://[fe80::1]:443").target == "[fe80::1]:443"


@pytest.mark.parametrize(
    "text",
    [
        *("", "127.0.0.1", ":50051", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x", "http://127.0.0.1:8000"),
        *("::1:50051:x", "user@host:1", "host:1/path", "host:1?x", "unix:/run/vllm.sock", "grpc://", "[::1:1"),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid address of a gRPC service"):
        parse(text)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not address.missing()
    monkeypatch.setattr(address, "_PACKAGES", ("grpc", "no_such_package"))
    assert address.missing() == "the package no_such_package is not installed"
    monkeypatch.setattr(address, "_PACKAGES", ("no_such_parent.child",))
    assert address.missing() == "the package no_such_parent is not installed"
