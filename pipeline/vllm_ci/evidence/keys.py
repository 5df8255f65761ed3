"""Keys: made, read from files, environment variables and key services (securesystemslib), and named by their fingerprint."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import CryptoSigner, Signature, Signer, SSlibKey  # type: ignore[attr-defined]

from vllm_ci.domain.errors import ConfigError, UsageError
from vllm_ci.evidence.bundle import Bundle, encoded
from vllm_ci.evidence.foreign import translated

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from vllm_ci.evidence.statement import Statement

PASSPHRASE_ENV = "VLLM_CI_KEY_PASSPHRASE"  # noqa: S105 - a name
PRIVATE_NAME, PUBLIC_NAME = "release.key", "release.pub"
_EXTRAS = "install securesystemslib's extra for it (awskms, gcpkms, azurekms, vault, hsm) beside vllm-ci"
# Key services that securesystemslib knows, by the scheme of their URIs.
SERVICES = ("awskms", "gcpkms", "azurekms", "hv", "hsm", "gnupg", "sigstore", "tkey")


@dataclass(frozen=True, kw_only=True)
class PublicKey:
    """A key that signatures are checked with.

    Attributes:
        name: Who it belongs to, as a policy calls them.
        pem: SubjectPublicKeyInfo.
    """

    name: str
    pem: bytes

    @classmethod
    def read(cls, name: str, path: Path) -> PublicKey:
        """A public key from a PEM file.

        Raises:
            ConfigError: The file contains no public key.
        """
        try:
            key = cls(name=name, pem=path.read_bytes())
            _ = key.key  # fails now rather than at the first signature
        except OSError as error:
            raise ConfigError(f"the public key of {name} cannot be read: {error}", remedy="check release.signers") from error
        return key

    @property
    def key(self) -> SSlibKey:
        """As securesystemslib has it.

        Raises:
            ConfigError: The PEM is not a public key of a kind that is supported.
        """
        try:
            return SSlibKey.from_crypto(serialization.load_pem_public_key(self.pem))
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigError(
                f"the public key of {self.name} is not usable: {error}",
                why="ECDSA (P-256, P-384, P-521), Ed25519 and RSA keys in PEM are",
                remedy="export it as PEM (SubjectPublicKeyInfo)",
            ) from error

    @property
    def hint(self) -> str:
        """Names the key in a bundle, as cosign does: base64 of the SHA-256 of its SubjectPublicKeyInfo."""
        der = serialization.load_pem_public_key(self.pem).public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return base64.b64encode(hashlib.sha256(der).digest()).decode()

    def verifies(self, signature: bytes, content: bytes) -> bool:
        """Whether ``signature`` is this key's, over ``content``."""
        key = self.key
        try:
            key.verify_signature(Signature(key.keyid, signature.hex()), content)
        except UnverifiedSignatureError:
            return False
        return True


@dataclass(frozen=True, kw_only=True)
class PrivateKey:
    """A private key, in a file or in a key service.

    Attributes:
        signer: securesystemslib's.
        public: Its other half.
        name: What it is, for messages.
    """

    signer: Signer
    public: PublicKey
    name: str = "the key"

    def sign(self, content: bytes) -> bytes:
        """Signature over ``content``.

        Raises:
            ConfigError: The key service has no credentials for this run, or they do not allow it.
            ErroredError: It cannot be reached, or failed.
        """
        with translated(self.name, missing=_EXTRAS):
            return bytes.fromhex(self.signer.sign(content).signature)

    def sign_statement(self, statement: Statement) -> Bundle:
        """A statement, signed.

        Raises:
            ConfigError: As of :meth:`sign`.
            ErroredError: As of :meth:`sign`.
        """
        payload = statement.payload
        return Bundle(payload=payload, signature=self.sign(encoded(payload)), hint=self.public.hint)


def generate(folder: Path, *, kind: str = "ecdsa", passphrase: str = "", name: str = "release") -> PublicKey:
    """Create a key pair in ``folder``: ``NAME.key`` (PKCS#8, readable by its owner only) and ``NAME.pub``.

    Args:
        folder: Made when absent.
        kind: ``ecdsa`` (P-256, which cosign verifies) or ``ed25519``.
        passphrase: Encrypts the private key; empty leaves it in the clear.
        name: Of the files.

    Raises:
        UsageError: There is a key already; it is never overwritten.
    """
    private: PrivateKeyTypes = (
        ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())
    )
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        protection = serialization.BestAvailableEncryption(passphrase.encode())
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    public = private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = folder / f"{name}.key"
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise UsageError(
            f"{target} already exists",
            why="signatures of the old key could no longer be verified",
            remedy="use --name or another folder",
        ) from error
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(pem)
    (folder / f"{name}.pub").write_bytes(public)
    return PublicKey(name=name, pem=public)


def load(
    source: str, *, passphrase: str | None = None, public_key: Path | None = None, environment: Mapping[str, str] | None = None
) -> PrivateKey:
    """The key that ``source`` names: a PEM file, ``env:NAME``, or a key service's URI such as ``awskms:...``.

    Args:
        source: Where it is.
        passphrase: Of an encrypted key; by default ``VLLM_CI_KEY_PASSPHRASE``, or in the file that ``..._FILE`` names.
        public_key: PEM file of the public half, which a key service needs.
        environment: Instead of the process's own.

    Raises:
        ConfigError: It is not there, not readable, or its passphrase is missing or wrong.
    """
    env = os.environ if environment is None else environment
    scheme = source.partition(":")[0]
    if scheme in SERVICES:
        return _service(source, public_key, env)
    pem = _pem(source, env)
    secret = passphrase if passphrase is not None else passphrase_of(env)
    try:
        private = serialization.load_pem_private_key(pem, secret.encode() if secret and b"ENCRYPTED" in pem else None)
        public = private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return PrivateKey(signer=CryptoSigner(private), public=PublicKey(name=source, pem=public))
    except TypeError as error:
        raise ConfigError(
            f"the key {source} is encrypted, and no passphrase is set", remedy=f"set {PASSPHRASE_ENV} or {PASSPHRASE_ENV}_FILE"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"the key {source} cannot be used",
            why="the passphrase is wrong, or it is not a PKCS#8 PEM file with an ECDSA, Ed25519 or RSA key",
            remedy=f"check {PASSPHRASE_ENV}, or create one with: vllm-ci keys generate",
        ) from error


def _pem(source: str, env: Mapping[str, str]) -> bytes:
    if source.startswith("env:"):
        name = source.removeprefix("env:")
        if not env.get(name):
            raise ConfigError(
                f"the variable {name}, which should hold the key, is not set", remedy=f"set {name} to the key's PEM"
            )
        return env[name].encode()
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the key {source} cannot be read: {error}", remedy="create one with: vllm-ci keys generate"
        ) from error


def passphrase_of(env: Mapping[str, str]) -> str:
    """The passphrase that the environment gives, empty for none.

    Raises:
        ConfigError: The file that it names cannot be read.
    """
    if file := env.get(f"{PASSPHRASE_ENV}_FILE"):
        try:
            return Path(file).read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            raise ConfigError(f"{PASSPHRASE_ENV}_FILE cannot be read: {error}", remedy="check its path") from error
    return env.get(PASSPHRASE_ENV, "")


def _service(uri: str, public_key: Path | None, env: Mapping[str, str]) -> PrivateKey:
    if public_key is None:
        raise ConfigError(f"{uri} needs a file with its public key", remedy="set release.public_key to that file")
    public = PublicKey.read(uri, public_key)
    name = f"the key service behind {uri}"
    with translated(name, missing=_EXTRAS):
        # A token asks for its PIN.
        signer = Signer.from_priv_key_uri(uri, public.key, lambda _: passphrase_of(env))
    return PrivateKey(signer=signer, public=public, name=name)
