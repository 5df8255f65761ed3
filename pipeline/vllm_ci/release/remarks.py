"""Warnings about a policy itself: that it can never pass, or refuses very little."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from vllm_ci.domain.report import Verdict
from vllm_ci.release.policy import Policy
from vllm_ci.release.setup import Setup

NEVER_PASSES = "can never pass"
REFUSES_LITTLE = "refuses little"


def remarks(setup: Setup, channel: str, *, now: datetime) -> tuple[str, ...]:
    """About a channel's policy, worst first.

    Raises:
        ConfigError: There is no such channel.
    """
    policy = setup.channel(channel).policy
    never = [f"{NEVER_PASSES}: {each}" for each in _never_passes(setup, channel, ())]
    little = [f"{REFUSES_LITTLE}: {each}" for each in _refuses_little(policy)]
    return (*never, *little, *_others(policy, now))


def _never_passes(setup: Setup, channel: str, asked: tuple[str, ...]) -> Iterator[str]:
    policy = setup.channels[channel].policy
    if setup.signers:
        yield from _no_signer(policy, setup)
    elif not setup.repository.startswith("oci:"):  # in a folder of this machine, publishing makes a key
        yield "no trusted key is configured, so no evidence verifies; run vllm-ci keys generate, or add keys to release.signers"
    for stage, verdicts in policy.tests.items():
        if not verdicts:
            yield f"stage {stage} has no accepted verdict"
    if policy.after in (*asked, channel):
        yield f"it waits for {policy.after}, which waits for it"
        return
    if policy.after and policy.after not in setup.channels:
        yield f"it waits for channel {policy.after}, which is not configured"
        return
    for reason in _never_passes(setup, policy.after, (*asked, channel)) if policy.after else ():
        yield f"it waits for {policy.after}, and there {reason}"


def _no_signer(policy: Policy, setup: Setup) -> Iterator[str]:
    for name in policy.approvals:
        if name not in setup.signers:
            yield f"the image has to be signed by {name}, whose key is not trusted; add it to release.signers"
    if policy.signers and not set(policy.signers) & set(setup.signers):
        yield f"only evidence signed by {', '.join(policy.signers)} counts, and no key of theirs is trusted"


def _refuses_little(policy: Policy) -> Iterator[str]:
    if not policy.tests:
        yield "no stage has to pass; name stages under `tests`, or leave it out for all that run"
    for stage, verdicts in policy.tests.items():
        if set(verdicts) == set(Verdict):
            yield f"every verdict of stage {stage} is accepted"
        elif Verdict.FAILED in verdicts:
            yield f"stage {stage} may fail"
        elif Verdict.ERRORED in verdicts:
            yield f"stage {stage} may end without a verdict (errored)"
    if policy.pull_requests and not policy.approvals:
        yield "anyone who can open a pull request can get an image released; require `approvals` as well"


def _others(policy: Policy, now: datetime) -> Iterator[str]:
    if policy.pull_requests and policy.refs:
        yield "a pull request has no ref, so `refs` refuses every one of them, although `pull_requests` is true"
    for each in policy.scan.accept if policy.scan else ():
        if now.date() > each.until:
            yield f"{each.id} was accepted until {each.until} and now refuses again; remove the entry or extend it"
