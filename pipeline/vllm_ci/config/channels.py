"""``release:``: where releases go, who signs them, and what each channel asks.

What signs and verifies is imported when it is asked for: an unchanged build has no time for it.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from vllm_ci.config.section import Section
from vllm_ci.domain import overlay_path, refs
from vllm_ci.domain.report import Verdict

if TYPE_CHECKING:
    from vllm_ci.release.policy import Accepted, ScanRule
    from vllm_ci.release.setup import Channel


_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def _day(value: Any) -> Any:
    """Only a date as it is written: pydantic would take a number for seconds since 1970."""
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        return value
    if not isinstance(value, str) or not _DAY.fullmatch(value):
        raise ValueError("a day is written YYYY-MM-DD, e.g. 2027-06-30")
    return value


def _pattern(value: str) -> str:
    if reason := refs.problem(value):
        raise ValueError(f"it can match no branch and no tag: {reason}")
    return value


def _overlay(value: str) -> str:
    return overlay_path.normalised(value) if value else value


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


_Verdicts = Annotated[
    list[Verdict],
    Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=Verdict | Annotated[list[Verdict], Field(min_length=1)]),
]
# The longest times that make sense; an image that soaks for ten years is a typing error.
_MAX_SOAK_HOURS, _MAX_AGE_DAYS = 10 * 365 * 24, 100 * 365


class AcceptedConfig(Section):
    """A vulnerability that is accepted for a while."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")]
    """Id of the vulnerability, or one of its aliases, e.g. `CVE-2026-1234`; no pattern."""
    reason: Annotated[str, Field(min_length=1)]
    """Why it is accepted."""
    until: Annotated[dt.date, BeforeValidator(_day)]
    """Last day of that, e.g. `2027-06-30`; afterwards it refuses again."""

    def domain(self) -> Accepted:
        """As the policy takes it."""
        from vllm_ci.release.policy import Accepted

        return Accepted(id=self.id, reason=self.reason, until=self.until)


class ScanConfig(Section):
    """What is asked of a vulnerability scan."""

    max_age_days: Annotated[float, Field(gt=0, le=_MAX_AGE_DAYS, allow_inf_nan=False)] = 30.0
    """Oldest data that it may have been made with."""
    fail_on: Literal["low", "medium", "high", "critical"] = "critical"
    """Least severity that refuses."""
    accept: list[AcceptedConfig] = Field(default_factory=list)
    """Vulnerabilities that do not."""

    def domain(self) -> ScanRule:
        """As the policy takes it."""
        from vllm_ci.evidence.osv import Severity
        from vllm_ci.release.policy import ScanRule

        return ScanRule(
            max_age_days=self.max_age_days,
            fail_on=Severity.named(self.fail_on),
            accept=tuple(each.domain() for each in self.accept),
        )


class ChannelConfig(Section):
    """A named place that releases go to, and what it asks of an image. What is missing refuses."""

    tests: dict[str, _Verdicts] | None = None
    """Verdicts that are good enough, by stage, e.g. `streaming: passed`; by default every enabled stage has to pass."""
    signers: Annotated[list[str], Field(min_length=1)] = Field(default_factory=list)
    """Whose evidence counts, by their names in `release.signers`; by default everybody's there."""
    approvals: list[str] = Field(default_factory=list)
    """Who must have signed the image besides (`cosign sign`), by their names in `release.signers`."""
    refs: Annotated[list[Annotated[str, AfterValidator(_pattern)]], Field(min_length=1)] = Field(default_factory=list)
    """Branches (`main`, `release/*`) and tags (`refs/tags/v*`) that may be released; by default all. `**` goes over slashes."""
    pull_requests: bool = False
    """Whether images of runs for a pull or merge request may be released."""
    sbom: bool = True
    """Whether a bill of materials must be there."""
    scan: ScanConfig | None = None
    """What is asked of a vulnerability scan; by default none is."""
    after: str = ""
    """Channel that the image must have been in."""
    soak_hours: Annotated[float, Field(ge=0, le=_MAX_SOAK_HOURS, allow_inf_nan=False)] = 0.0
    """For how long it must have been there; needs `after`."""
    kustomization: Annotated[str, AfterValidator(_overlay)] = ""
    """Its kustomization in the ledger's branch, or `kustomization.yml` or `Kustomization` where that is there in its place; by
    default `deploy/CHANNEL/kustomization.yaml`."""

    def overlay(self, name: str) -> str:
        """Path of the kustomization of a channel of this name."""
        return self.kustomization or f"deploy/{name}/kustomization.yaml"

    def domain(self, name: str, *, image: str, stages: Iterable[str]) -> Channel:
        """As releases take it.

        Args:
            name: Of the channel.
            image: Name of the image in kustomizations.
            stages: Stages that have to pass where nothing else is said.
        """
        from vllm_ci.release.policy import Policy
        from vllm_ci.release.setup import Channel

        wanted = {stage: [Verdict.PASSED] for stage in stages} if self.tests is None else self.tests
        policy = Policy(
            tests={stage: tuple(good) for stage, good in wanted.items()},
            signers=tuple(self.signers),
            approvals=tuple(self.approvals),
            refs=tuple(self.refs),
            pull_requests=self.pull_requests,
            sbom=self.sbom,
            scan=self.scan.domain() if self.scan else None,
            after=self.after,
            soak_hours=self.soak_hours,
        )
        return Channel(name=name, policy=policy, overlay=self.overlay(name), image=image)


class IdentityConfig(Section):
    """Somebody who signs without a key of their own."""

    identity: Annotated[str, Field(min_length=1)]
    """Subject of the certificate: a workflow's URL, or an e-mail address."""
    issuer: Annotated[str, Field(min_length=1)]
    """URL of the OIDC issuer that vouches for it."""


class LedgerConfig(Section):
    """The branch that remembers every release."""

    repository: str = ""
    """URL or path of a git repository, or the name of a remote of this one (`origin`); by default `.vllm-ci/ledger.git`."""
    branch: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")] = "releases"
    """Its branch."""


def _channels() -> dict[str, ChannelConfig]:
    return {"staging": ChannelConfig(), "production": ChannelConfig(after="staging")}


class ReleaseConfig(Section):
    """Where releases go, who signs them, and what each channel asks."""

    repository: str = ""
    """Repository that images are pushed to, e.g. `registry.example.com/team/name`; by default a folder, `.vllm-ci/registry`."""
    ledger: LedgerConfig = Field(default_factory=LedgerConfig)
    """The branch that remembers every release."""
    key: str = ""
    """Key to sign with: a PEM file, `env:NAME`, a key service's URI, or `keyless`; by default `.vllm-ci/keys/release.key`."""
    public_key: str = ""
    """PEM file of its public half, which a key service needs."""
    trust_config: str = ""
    """For keyless signatures: file with a client trust configuration; by default the public Sigstore instance is asked."""
    signers: dict[str, str | IdentityConfig] = Field(default_factory=dict)
    """Who is trusted: name to PEM file of a public key, or identity; by default the public half of `key`'s default."""
    image_name: str = "vllm"
    """Name of the image whose entry in the kustomizations is rewritten."""
    channels: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")], ChannelConfig] = Field(
        default_factory=_channels
    )
    """The channels; by default `staging`, and `production` after it."""
