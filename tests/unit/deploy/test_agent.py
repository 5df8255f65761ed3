"""What an agent does next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from standin.deploying import NEW, OLD, release
from vllm_ci.deploy.agent import decide
from vllm_ci.deploy.deployment import Deployment
from vllm_ci.deploy.plan import Change
from vllm_ci.deploy.strategy import BlueGreen, plan
from vllm_ci.deploy.target import Current, Replica, Revision, Route
from vllm_ci.release.record import Action, Record
from vllm_ci.targets.memory import ABLE

CHANGE = Change(old=OLD.name, old_replicas=2, new=NEW.name, replicas=2)
DEPLOYMENT = Deployment(
    id="d",
    channel="staging",
    target="memory",
    release=release("b"),
    previous=release("a"),
    revision=NEW,
    revisions={OLD.name: OLD, NEW.name: NEW},
    plan=plan(BlueGreen(), CHANGE, ABLE, target="memory", keep_s=300),
)
LIVE = replace(DEPLOYMENT, phase="live", at=3)
KEPT = replace(DEPLOYMENT, at=2, since=1000.0)


def head(letter: str, action: Action = "publish") -> Record:
    return Record(number=1, at="2026-11-27T00:00:00Z", action=action, channel="staging", release=release(letter))


def runs(revision: Revision | None, ready: int = 2) -> Current:
    if revision is None:
        return Current()
    replicas = tuple(Replica(name=str(each), revision=revision.name, state="ready") for each in range(ready))
    return Current(
        route=Route(weights={revision.name: 100}),
        replicas=replicas,
        wanted={revision.name: 2},
        revisions={revision.name: revision},
    )


ASLEEP = replace(runs(NEW, ready=0), wanted={NEW.name: 0}, asleep=True)

CASES: Mapping[str, tuple[Record | None, Current, Deployment | None, str]] = {
    "nothing was released": (None, runs(None), None, "nothing"),
    "nothing runs yet": (head("b"), runs(None), None, "deploy"),
    "it serves": (head("b"), runs(NEW), LIVE, "nothing"),
    "it serves and the journal is lost": (head("b"), runs(NEW), None, "nothing"),
    "another was released": (head("b"), runs(OLD), None, "deploy"),
    "another was released and the last deployment is done": (head("a"), runs(NEW), LIVE, "deploy"),
    "it was rolled back": (head("a", "rollback"), runs(NEW), LIVE, "go back"),
    "it was rolled back in the middle": (head("a", "rollback"), runs(OLD), DEPLOYMENT, "go back"),
    "a deployment was killed": (head("b"), runs(OLD), DEPLOYMENT, "resume"),
    "a way back was killed": (head("b"), runs(NEW), replace(DEPLOYMENT, phase="back", turned_at=1), "resume"),
    "a person has to decide": (head("b"), runs(OLD), replace(DEPLOYMENT, phase="held", reason="no data"), "wait"),
    "it went back before": (head("b"), runs(OLD), replace(DEPLOYMENT, phase="returned", reason="errors"), "wait"),
    "another one went back before": (head("c"), runs(OLD), replace(DEPLOYMENT, phase="returned"), "deploy"),
    "a server died": (head("b"), runs(NEW, ready=1), LIVE, "restart"),
    "all servers died with the machine": (head("b"), runs(NEW, ready=0), LIVE, "restart"),
    "the gateway died": (head("b"), replace(runs(NEW), down=True), LIVE, "restart"),
    "servers died while a person has to decide": (
        head("b"),
        runs(OLD, ready=1),
        replace(DEPLOYMENT, phase="held", reason="no data"),
        "restart",
    ),
    "the gateway died while a person has to decide": (
        head("b"),
        replace(runs(OLD), down=True),
        replace(DEPLOYMENT, phase="held", reason="no data"),
        "restart",
    ),
    "servers died after it went back": (
        head("b"),
        runs(OLD, ready=0),
        replace(DEPLOYMENT, phase="returned", reason="errors"),
        "restart",
    ),
    "a first release went back and nothing serves": (
        head("b"),
        runs(None),
        replace(DEPLOYMENT, phase="returned", reason="errors"),
        "wait",
    ),
    "it is scaled to zero": (head("b"), ASLEEP, LIVE, "nothing"),
    "it is scaled to zero, and was rolled back": (head("a", "rollback"), ASLEEP, LIVE, "go back"),
    "it is scaled to zero, and another was released": (head("c"), ASLEEP, LIVE, "deploy"),
    "the old one is kept ready": (head("b"), runs(NEW), replace(KEPT, since=1900.0), "nothing"),
    "the old one was kept long enough": (head("b"), runs(NEW), KEPT, "resume"),
    "rolled back while the old one is kept ready": (head("a", "rollback"), runs(NEW), KEPT, "go back"),
    "released again while the old one is kept ready": (head("c"), runs(NEW), KEPT, "deploy"),
}


@pytest.mark.parametrize("case", CASES)
def test_next(case: str) -> None:
    says, current, last, verb = CASES[case]
    found = decide("staging", says, current, last, now=2000.0)
    assert found.verb == verb, found.reason
    assert found.reason
