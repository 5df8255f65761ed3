"""The first contact with a server that speaks TLS: which certificates are trusted, and what is said of the others."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import ssl
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from unit.cli.contacted import Scripted, command, models, of
from vllm_ci.cli.contact import contact
from vllm_ci.domain.errors import ErroredError, UsageError


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def test_a_certificate_that_is_not_trusted_names_the_option(authority: trustme.CA) -> None:
    scripted = Scripted(answers=models({"id": "m"}), tls=server_context(authority))
    with scripted.running() as port, pytest.raises(ErroredError, match="is not trusted") as caught:
        contact(of(f"https://127.0.0.1:{port}"), None)
    assert "--ca-file FILE" in caught.value.remedy
    assert "SSL_CERT_FILE" in caught.value.remedy


def informal(folder: Path) -> tuple[Path, Path]:
    """Certificate of an authority that lacks the key usage of one, and a certificate by it with its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    issuer, subject = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("authority", "server"))
    identity = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    begun, end = now - dt.timedelta(1), now + dt.timedelta(1)
    root = x509.CertificateBuilder(issuer, issuer, key.public_key(), 1, begun, end)
    root = root.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    root = root.add_extension(identity, critical=False)
    leaf = x509.CertificateBuilder(issuer, subject, key.public_key(), 2, begun, end).add_extension(address, critical=False)
    leaf = leaf.add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identity), critical=False)
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    trusted, own = folder / "authority.pem", folder / "server.pem"
    trusted.write_bytes(root.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    own.write_bytes(plain + leaf.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    return trusted, own


def test_an_authority_without_the_key_usage_of_one_is_trusted_if_it_is_given(tmp_path: Path) -> None:
    """`openssl req -x509` makes such authorities, and curl and browsers accept them."""
    trusted, own = informal(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(own)
    with Scripted(answers=models({"id": "m"}), tls=tls).running() as port:
        contact(of(f"https://127.0.0.1:{port}"), trusted)


def test_a_certificate_for_another_name_is_not_trusted(authority: trustme.CA, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    tls = server_context(authority, "other.example")
    with Scripted(answers=models({"id": "m"}), tls=tls).running() as port, pytest.raises(ErroredError, match="is not trusted"):
        contact(of(f"https://127.0.0.1:{port}"), file)


def test_the_authorities_of_the_option_and_of_the_variable_are_trusted(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    with Scripted(answers=models({"id": "m"}), tls=server_context(authority)).running() as port:
        contact(of(f"https://127.0.0.1:{port}/v1"), file)
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        contact(of(f"https://127.0.0.1:{port}"), None)


def test_a_file_without_certificates_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("nothing")
    with pytest.raises(UsageError, match="cannot be read"):
        contact(of("https://127.0.0.1:9"), tmp_path / "x")


def test_plain_http_on_a_port_with_tls_and_the_reverse_name_the_other(authority: trustme.CA) -> None:
    scripted = Scripted(answers=models({"id": "m"}), tls=server_context(authority))
    with scripted.running() as port, pytest.raises(ErroredError) as caught:
        contact(of(f"http://127.0.0.1:{port}"), None)
    assert "https://" in caught.value.remedy
    with Scripted(answers=models({"id": "m"})).running() as port, pytest.raises(ErroredError) as caught:
        contact(of(f"https://127.0.0.1:{port}"), None)
    assert "http://" in caught.value.remedy


@pytest.mark.slow
def test_a_stage_trusts_the_authorities_of_the_command(authority: trustme.CA, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    with Scripted(answers=models({"id": "m"}), tls=server_context(authority)).running() as port:
        done = command(
            tmp_path, "--url", f"https://127.0.0.1:{port}/v1/", "--ca-file", str(file), "--stage", "integration", "--json"
        )
    result = json.loads(done.stdout)
    assert result["stages"][0]["cases"]["passed"] > 0, done.stderr
    said = json.dumps(result)
    assert "certificate" not in said
    assert "CERTIFICATE" not in said
