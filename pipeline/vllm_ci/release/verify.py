"""Verify: what is attached to an image, by the keys that are trusted; and optionally a channel's policy."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime

from vllm_ci.domain.errors import FailedError, UsageError
from vllm_ci.evidence.attachment import attached
from vllm_ci.evidence.bundle import Trusted
from vllm_ci.evidence.verify import Expected, Findings, check_image, judge
from vllm_ci.registry.reference import split_name
from vllm_ci.registry.repository import Repository
from vllm_ci.registry.transfer import open_repository
from vllm_ci.release import gathering
from vllm_ci.release.policy import Decision
from vllm_ci.release.record import Release
from vllm_ci.release.setup import Setup
from vllm_ci.release.show import evidence_json


@dataclass(frozen=True, kw_only=True)
class VerifiedImage:
    """An image that is to be verified.

    Attributes:
        name: Repository to read it from.
        subject: Name that statements have to be about.
        tag: Its tag, where no digest is given.
        digest: Its digest, where it is given.
        signers: Who is trusted, by name.
        setup: The project's, where there is one.
    """

    name: str
    subject: str
    signers: Mapping[str, Trusted]
    tag: str = ""
    digest: str = ""
    setup: Setup | None = None

    @classmethod
    def named(cls, text: str, *, signers: Mapping[str, Trusted], setup: Setup | None = None) -> VerifiedImage:
        """By a channel of the setup, or ``NAME[:TAG][@DIGEST]`` in a registry or an ``oci:`` folder.

        Args:
            text: As a user writes it.
            signers: Who is trusted; by default those of the setup.
            setup: The project's; without one there are no channels.

        Raises:
            ImageNameError: It is not a name.
        """
        trusted = signers or dict(setup.signers if setup else {})
        if setup and text in setup.channels:
            return cls(name=setup.repository, subject=setup.subject, tag=text, signers=trusted, setup=setup)
        name, tag, digest = split_name(text)
        subject = setup.subject if setup and name == setup.repository else name
        return cls(name=name, subject=subject, tag=tag, digest=digest, signers=trusted, setup=setup)

    def open(self) -> AbstractContextManager[Repository]:
        """Its repository, for as long as the context lasts."""
        return open_repository(self.name, self.setup.access if self.setup else None)


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found.

    Attributes:
        digest: Of the image.
        findings: Its evidence, verified and refused.
        decision: Of the channel's policy, ``None`` without a channel.
    """

    digest: str
    findings: Findings
    decision: Decision | None = None

    @property
    def good(self) -> bool:
        """Whether something verified, and the policy allows it."""
        return bool(self.findings.evidence) and (self.decision is None or self.decision.allowed)

    def require(self) -> Verification:
        """Itself, when it is good.

        Raises:
            FailedError: It is not.
        """
        if not self.good:
            refused = "; ".join(each.message for each in self.findings.refused.values())
            why = "; ".join(self.decision.reasons) if self.decision else refused
            raise FailedError(
                f"the evidence for {self.digest[:19]} does not verify",
                why=why or "nothing is attached to it",
                remedy="do not run this image",
            )
        return self

    def to_json(self) -> dict[str, object]:
        """What ``--json`` prints."""
        decision = self.decision and {"allowed": self.decision.allowed, "reasons": list(self.decision.reasons)}
        return {
            "digest": self.digest,
            "verified": self.good,
            "evidence": evidence_json(self.findings),
            "decision": decision,
        }


def verify(
    image: VerifiedImage,
    *,
    commit: str = "",
    channel: str = "",
    any_repository: bool = False,
    layers: bool = False,
    now: datetime | None = None,
) -> Verification:
    """Verify what is attached to an image.

    Args:
        image: Which.
        commit: That statements have to be about.
        channel: Whose policy to evaluate as well; needs a setup.
        any_repository: Accept statements that were made for the same image in another repository.
        layers: Read and check every layer as well, not only manifest and config.
        now: The present.

    Raises:
        UsageError: There is no such image, or no setup to take the channel from.
        RegistryError: The registry broke or refused.
    """
    present = gathering.now_or(now)
    with image.open() as repository:
        digest = image.digest or repository.resolve(image.tag or "latest")
        if digest is None:
            raise UsageError(f"there is no {image.tag} in {repository.name}", remedy="name a tag or a digest that is there")
        check_image(repository, digest, layers=layers)
        names = () if any_repository else (image.subject,)
        expected = Expected(digest=digest, commit=commit, repositories=names)
        findings = judge(attached(repository, digest), expected, image.signers, now=present)
    if not channel:
        return Verification(digest=digest, findings=findings)
    if image.setup is None:
        raise UsageError(
            "no project to take the channel's policy from", remedy="call it where vllm-ci.yaml is, or name --config"
        )
    release = Release(commit=commit or gathering.commit_of(findings), digest=digest, repository=image.subject, tag="")
    asked = image.setup.channel(channel)
    decision = gathering.ask(asked, image.setup.ledger.read(), release, findings, now=present)
    return Verification(digest=digest, findings=findings, decision=decision)
