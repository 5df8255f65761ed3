"""Sigstore bundles v0.3 around DSSE envelopes, in the form that cosign reads and writes for public keys.

Formats: sigstore ``protobuf-specs`` (bundle v0.3, JSON), DSSE 1.0.2. One signature, no ``keyid``, no further fields: cosign
refuses any other, and so do we.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from securesystemslib.dsse import Envelope

from vllm_ci.evidence import strict
from vllm_ci.evidence.refusals import AlteredPayloadError, MalformedError, OtherKeyError
from vllm_ci.evidence.statement import Statement

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"


class Signed(Protocol):
    """A signed payload, and the bundle that it travels in."""

    @property
    def payload(self) -> bytes:
        """The signed bytes."""

    @property
    def content(self) -> bytes:
        """The bundle's JSON."""


class Signer(Protocol):
    """Who signs statements."""

    def sign_statement(self, statement: Statement) -> Signed:
        """A statement, signed."""


class Trusted(Protocol):
    """Who may have signed."""

    @property
    def hint(self) -> str:
        """Identifies their key in a bundle; empty when they have none."""

    def verifies(self, signature: bytes, content: bytes, /) -> bool:
        """Whether the signature is theirs."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A payload, signed by a key.

    Attributes:
        payload: The signed bytes.
        signature: Over their pre-authentication encoding.
        hint: Names the key that signed.
    """

    payload: bytes
    signature: bytes
    hint: str

    @classmethod
    def parse(cls, content: bytes) -> Bundle:
        """A bundle from its JSON.

        Raises:
            MalformedError: It is not exactly one.
        """
        value = strict.loads(content, "the bundle")
        _exactly(value, "the bundle", "mediaType", "verificationMaterial", "dsseEnvelope")
        if value["mediaType"] != MEDIA_TYPE:
            raise MalformedError(
                f"a bundle of type {value['mediaType']!r} is not supported", remedy=f"create it as {MEDIA_TYPE}"
            )
        material, envelope = value["verificationMaterial"], value["dsseEnvelope"]
        # Entries of a log and timestamps are more evidence, which a signature by a trusted key does not need.
        further = ("tlogEntries", "timestampVerificationData")
        material = {name: each for name, each in _mapping(material, "the verification material").items() if name not in further}
        _exactly(material, "the verification material", "publicKey")
        _exactly(material["publicKey"], "the key hint", "hint")
        _exactly(envelope, "the envelope", "payload", "payloadType", "signatures")
        signatures = envelope["signatures"]
        if envelope["payloadType"] != PAYLOAD_TYPE:
            raise MalformedError(f"a payload of type {envelope['payloadType']!r} is not supported")
        if not isinstance(signatures, list) or len(signatures) != 1:
            raise MalformedError("the envelope does not have exactly one signature")
        signature = {
            name: each for name, each in _mapping(signatures[0], "the signature").items() if (name, each) != ("keyid", "")
        }
        _exactly(signature, "the signature", "sig")
        return cls(
            payload=_base64(envelope["payload"]), signature=_base64(signature["sig"]), hint=str(material["publicKey"]["hint"])
        )

    @property
    def content(self) -> bytes:
        """Its JSON."""
        return strict.canonical(
            {
                "mediaType": MEDIA_TYPE,
                "verificationMaterial": {"publicKey": {"hint": self.hint}},
                "dsseEnvelope": {
                    "payload": base64.b64encode(self.payload).decode(),
                    "payloadType": PAYLOAD_TYPE,
                    "signatures": [{"sig": base64.b64encode(self.signature).decode()}],
                },
            }
        )

    def signer(self, trusted: Mapping[str, Trusted]) -> str:
        """Name of the trusted key that signed this.

        Raises:
            AlteredPayloadError: It names a trusted key, and the signature does not match.
            OtherKeyError: None of them signed it.
        """
        content = encoded(self.payload)
        for name, key in trusted.items():
            if key.verifies(self.signature, content):
                return name
        named = [name for name, key in trusted.items() if key.hint == self.hint]
        if named:
            raise AlteredPayloadError(
                f"a statement signed by {named[0]} was altered",
                why="the signature does not match the payload",
                remedy="do not use it; create and sign it again",
            )
        raise OtherKeyError(
            f"signed by another key (hint {self.hint or 'none'})",
            why=f"trusted keys: {', '.join(trusted) or 'none'}",
            remedy="add the signer to release.signers if you trust it",
        )


def encoded(payload: bytes) -> bytes:
    """What is signed of a payload: its pre-authentication encoding (DSSE, "PAE")."""
    content: bytes = Envelope(payload, PAYLOAD_TYPE, {}).pae()
    return content


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedError(f"{what} is not a JSON object")
    return value


def _exactly(value: object, what: str, *names: str) -> None:
    found = _mapping(value, what)
    if set(found) != set(names):
        odd = sorted(set(found) ^ set(names))
        raise MalformedError(
            f"{what} does not have exactly the fields {', '.join(names)}", why=f"missing or unknown: {', '.join(odd)}"
        )


def _base64(value: object) -> bytes:
    try:
        return base64.b64decode(str(value), validate=True)
    except binascii.Error as error:
        raise MalformedError("the envelope holds invalid base64") from error
