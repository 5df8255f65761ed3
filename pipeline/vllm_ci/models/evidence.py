"""What is signed about a model: OpenSSF's model signature over its files, and where it comes from.

The model signature is the statement that the ``model_signing`` tool writes and verifies (OpenSSF Model Signing, v1.0): its
subject is the digest over the digests of all files, so it is about the files wherever they are, in a registry or in a folder.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives import serialization

from vllm_ci import __version__
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.image import ImageRef
from vllm_ci.evidence import strict
from vllm_ci.evidence.attachment import Attached, attached
from vllm_ci.evidence.bundle import Bundle, Signed, Signer
from vllm_ci.evidence.keys import PrivateKey
from vllm_ci.evidence.refusals import OtherImageError, Refusal
from vllm_ci.evidence.statement import MODEL_SIGNATURE, PROVENANCE, Statement, Subject, timestamp
from vllm_ci.evidence.verify import Expected, Findings, judge
from vllm_ci.models.artifact import Model
from vllm_ci.models.setup import ModelSetup
from vllm_ci.registry.repository import Repository

BUILD_TYPE = "tag:vllm-ci,2026:model/v1"
_BUILDER = "tag:vllm-ci,2026:builder"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a model comes from.

    Attributes:
        source: URL, or ``file`` and the name of the folder or file.
        revision: Commit of the source.
        base: The model that it was made from: a version of this repository with its digest, or a name.
        base_digest: Digest of that, empty when it is not in this repository.
        commit: Commit of the project that added it, if it is in one.
        run: URL or id of the CI run.
        data: Digests of what it was trained on, by name.
        training: How it was trained: settings, seeds, image, hardware.
    """

    source: str
    revision: str = ""
    base: str = ""
    base_digest: str = ""
    commit: Commit | None = None
    run: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, object] = field(default_factory=dict)


def signature(model: Model, name: str) -> Statement:
    """The model signature's statement."""
    subject = Subject(name=name, digest={"sha256": _root(model)})
    serialization_of = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": []}
    predicate = {"serialization": serialization_of, "resources": _resources(model)}
    return Statement(subjects=(subject,), predicate_type=MODEL_SIGNATURE, predicate=predicate)


def provenance(subject: str, model: Model, origin: Origin, *, licences: list[str], at: datetime) -> Statement:
    """The provenance (SLSA v1): source, base model, commit and licence."""
    dependencies: list[dict[str, Any]] = [
        {"uri": origin.source, **({"digest": {"gitCommit": origin.revision}} if origin.revision else {})}
    ]
    if origin.base:
        digest = {"digest": {"sha256": origin.base_digest.removeprefix("sha256:")}} if origin.base_digest else {}
        dependencies.append({"name": origin.base, "annotations": {"role": "base model"}, **digest})
    for name, each in origin.data.items():
        dependencies.append({"name": name, "annotations": {"role": "data"}, "digest": {"sha256": each.removeprefix("sha256:")}})
    commit = origin.commit
    if commit:
        dependencies.append({"uri": f"git+{commit.source}" if commit.source else "git", "digest": {"gitCommit": commit.sha}})
    predicate = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"source": origin.source, "base": origin.base, "licenses": licences},
            "internalParameters": {
                **({"dirty": commit.dirty} if commit else {}),
                **({"training": dict(origin.training)} if origin.training else {}),
            },
            "resolvedDependencies": dependencies,
        },
        "runDetails": {
            "builder": {"id": _BUILDER, "version": {"vllm-ci": __version__}},
            "metadata": {"invocationId": origin.run, "startedOn": timestamp(at), "finishedOn": timestamp(at)},
        },
    }
    return Statement.about(ImageRef(repository=subject, digest=model.digest), commit, PROVENANCE, predicate)


def sign(key: Signer, statement: Statement) -> Signed:
    """A statement, signed; a model signature names the key as the ``model_signing`` tool expects it: by a digest of its PEM."""
    made = key.sign_statement(statement)
    if statement.predicate_type == MODEL_SIGNATURE and isinstance(made, Bundle) and isinstance(key, PrivateKey):
        pem = serialization.load_pem_public_key(key.public.pem).public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return replace(made, hint=hashlib.sha256(pem).hexdigest())
    return made


def findings(setup: ModelSetup, repository: Repository, model: Model, *, now: datetime) -> Findings:
    """Everything that is attached to a model; each statement is accepted, or refused with a reason."""
    everything = list(attached(repository, model.digest))
    signatures = [each for each in everything if _predicate_type(each.bundle) == MODEL_SIGNATURE]
    others = [each for each in everything if each not in signatures]
    about = Expected(digest=model.digest, repositories=(setup.subject,))
    found = judge(others, about, setup.signers, now=now)
    signed = judge(signatures, Expected(digest=f"sha256:{_root(model)}"), setup.signers, now=now)
    refused: dict[str, Refusal] = {**found.refused, **signed.refused}
    good = []
    for each in signed.evidence:
        if each.statement.predicate.get("resources") == _resources(model):
            good.append(each)
        else:
            refused[each.digest] = OtherImageError("the model signature lists other files than the model has")
    return Findings(image=model.digest, evidence=(*found.evidence, *good), refused=refused)


def signature_bundle(repository: Repository, model: Model, verified: Findings) -> Attached | None:
    """The attachment with the model signature that was verified."""
    good = {each.digest for each in verified.of(MODEL_SIGNATURE)}
    return next((each for each in attached(repository, model.digest) if each.digest in good), None)


def _resources(model: Model) -> list[dict[str, str]]:
    return [{"name": each.path, "algorithm": "sha256", "digest": each.digest.removeprefix("sha256:")} for each in model.layers]


def _root(model: Model) -> str:
    """Hex sha256 over the digests of all files, in the order of their paths."""
    return hashlib.sha256(b"".join(bytes.fromhex(each.digest.removeprefix("sha256:")) for each in model.layers)).hexdigest()


def _predicate_type(bundle: bytes) -> str:
    """What an attachment says it is, before anything of it is verified."""
    try:
        envelope: Any = strict.loads(bundle, "the bundle").get("dsseEnvelope")
        payload = base64.b64decode(envelope["payload"], validate=True) if isinstance(envelope, Mapping) else b""
        return str(strict.loads(payload, "the statement").get("predicateType"))
    except (Refusal, binascii.Error, LookupError, TypeError, ValueError):
        return ""
