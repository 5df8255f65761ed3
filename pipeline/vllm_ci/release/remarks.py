"""What is odd about a policy before any image is asked: that it can never pass, or that it hardly refuses anything."""

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
        yield from _nobody_signs(policy, setup)
    elif not setup.repository.startswith("oci:"):  # in a folder of this machine, publishing makes a key
        yield "no key is trusted, so no evidence verifies; make one: vllm-ci keys generate, or name keys in release.signers"
    for stage, verdicts in policy.tests.items():
        if not verdicts:
            yield f"no verdict of stage {stage} is good enough"
    if policy.after in (*asked, channel):
        yield f"it waits for {policy.after}, which waits for it"
        return
    if policy.after and policy.after not in setup.channels:
        yield f"it waits for channel {policy.after}, which is not configured"
        return
    for reason in _never_passes(setup, policy.after, (*asked, channel)) if policy.after else ():
        yield f"it waits for {policy.after}, and there {reason}"


def _nobody_signs(policy: Policy, setup: Setup) -> Iterator[str]:
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
            yield f"every verdict of stage {stage} is good enough"
        elif Verdict.FAILED in verdicts:
            yield f"stage {stage} may fail"
        elif Verdict.ERRORED in verdicts:
            yield f"stage {stage} may end without having told anything (errored)"
    if policy.pull_requests and not policy.approvals:
        yield "whoever can open a pull request can have an image released; ask for `approvals` besides"


def _others(policy: Policy, now: datetime) -> Iterator[str]:
    if policy.pull_requests and policy.refs:
        yield "a pull request has no ref, so `refs` refuses every one of them, although `pull_requests` is true"
    for each in policy.scan.accept if policy.scan else ():
        if now.date() > each.until:
            yield f"{each.id} was accepted until {each.until}: it refuses again; remove it or look at it anew"
