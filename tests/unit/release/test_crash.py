"""Killed with SIGKILL before each step and in the middle of the push: the old state or the new.

Running again completes it, and every other verb that follows does what it says from the state that the ledger tells.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from registries.docker import docker_registry, is_installed
from registries.evidence import NOW
from registries.releases import World, tree_hash, world_in
from vllm_ci.domain.events import Emit, Event, ignore
from vllm_ci.registry import push_progress
from vllm_ci.registry.access import Access
from vllm_ci.release import doctor, history
from vllm_ci.release.moved import Moved
from vllm_ci.release.promote import promote
from vllm_ci.release.prune import prune
from vllm_ci.release.publish import publish
from vllm_ci.release.rollback import rollback

pytestmark = pytest.mark.slow

LATER = NOW + timedelta(hours=1)
# A registry takes its time; VLLM_CI_TEST_ROUNDS tries every step there, too.
STRIDE = 1 if "VLLM_CI_TEST_ROUNDS" in os.environ else 3
CHANNEL = {"publish": "staging", "promote": "production", "rollback": "staging"}


@pytest.mark.parametrize(
    ("verb", "kind"),
    [
        ("publish", "folder"),
        ("promote", "folder"),
        ("rollback", "folder"),
        pytest.param("publish", "registry", marks=pytest.mark.needs_registry),
    ],
)
def test_killed_at_every_step(verb: str, kind: str, tmp_path: Path) -> None:
    if kind == "registry" and not is_installed():
        pytest.skip("docker-registry is not on PATH (apt-get install docker-registry)")
    rows = ran(tmp_path, verb, kind)
    assert [row["killed before"] for row in rows][-1] == "nothing"
    assert len(rows) > 4
    assert {row["then"] for row in rows[:-1]} == {"old", "new"}, "some kill left the old state, and some the new"
    assert {row["run again"] for row in rows} == {"complete"}


@pytest.mark.parametrize("verb", ["publish", "promote", "rollback"])
def test_whatever_follows_a_kill_goes_by_the_ledger(verb: str, tmp_path: Path) -> None:
    rows = ran(tmp_path, verb, "then")
    assert {row["then"] for row in rows} == {"old", "new, tag behind", "new"}, "every state that a kill can leave was met"
    assert {row["follows"] for row in rows} == set(FOLLOWS)
    wrong = [row for row in rows if row["got"] != row["expected"]]
    assert not wrong


def ran(folder: Path, verb: str, kind: str) -> list[dict[str, str]]:
    paths = os.pathsep.join(path for path in sys.path if path)
    # A process of its own without threads, so that it may fork those that kill themselves.
    done = subprocess.run(
        [sys.executable, __file__, str(folder), verb, kind],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, str]] = json.loads(done.stdout)
    return rows


def move(world: World, verb: str, emit: Emit) -> Moved:
    """The move under test; publish has a push that can be killed between two pieces as well."""
    push_progress.EVERY_S = 0.0
    if verb == "publish":
        return publish(world.setup, world.candidate(2), "staging", now=LATER, emit=emit)
    if verb == "promote":
        return promote(world.setup, "staging", "production", now=LATER, emit=emit)
    return rollback(world.setup, "staging", now=LATER, emit=emit)


def prepare(world: World, verb: str) -> None:
    publish(world.setup, world.candidate(1), "staging", now=NOW).require()
    if verb == "promote":
        promote(world.setup, "staging", "production", now=NOW).require()
    if verb in {"promote", "rollback"}:
        publish(world.setup, world.candidate(2), "staging", now=NOW).require()


def states(world: World, channel: str) -> tuple[str, str]:
    """Where ledger and tag stand."""
    head = history.current(world.setup.ledger.read().records, channel)
    with world.setup.open() as repository:
        return (head.release.digest if head else "", repository.resolve(channel) or "")


@contextmanager
def repositories(kind: str, folder: Path) -> Iterator[str]:
    """Where repositories are made: in a registry, or (empty) beside everything else in a folder."""
    if kind == "folder":
        yield ""
        return
    (folder / "registry").mkdir()
    with docker_registry(folder / "registry") as registry:
        yield registry.host


def killed(world: World, verb: str, step: int, note: Path) -> bool:
    """The move in a process that kills itself at the `step`-th event, after writing it down; false when it came to its end."""
    child = os.fork()
    if child == 0:
        events = 0

        def emit(event: Event) -> None:
            nonlocal events
            if events == step:
                note.write_text(str(event), encoding="utf-8")
                os.kill(os.getpid(), signal.SIGKILL)
            events += 1

        try:
            move(world, verb, emit)
        except BaseException as error:  # noqa: BLE001 - told by the exit code
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def one(folder: Path, repository: str, verb: str, step: int) -> dict[str, str]:
    """Kill the move at `step`, look, run it again, look."""
    channel = CHANNEL[verb]
    world = world_in(folder, repository=repository, access=Access(parallel=1))
    old, _ = states(world, channel)
    note = folder / "killed-before"
    was_killed = killed(world, verb, step, note)
    ledger, tag = states(world, channel)
    # Going back again from the new state would be another step back.
    complete = verb == "rollback" and ledger == tag != old
    final = None if complete else move(world, verb, ignore)
    new = final.release.digest if final else ledger
    assert ledger in (old, new), "neither old nor new"
    assert tag in (old, new), "neither old nor new"
    assert (ledger, tag) != (old, new), "the tag went before the ledger"
    assert states(world, channel) == (new, new)
    assert doctor.check(world.setup) == ()
    moves = [each.release.digest for each in history.of(world.setup.ledger.read().records, channel)]
    assert moves.count(new) == (2 if verb == "rollback" else 1), "recorded twice"
    return {
        "killed before": note.read_text() if was_killed else "nothing",
        "then": "old" if ledger == old else "new",
        "run again": "complete",
    }


# Verbs that follow a kill.
FOLLOWS = ("publish", "publish another", "promote", "rollback", "rollback --to", "doctor", "prune")


def stacks(verb: str) -> tuple[list[int], list[int]]:
    """Releases of the verb's channel before and after it."""
    before = [8, 1, 2] if verb == "rollback" else [8, 1]
    return before, before[:-1] if verb == "rollback" else [*before, 2]


def prepare_deep(world: World, verb: str) -> None:
    """One release more to go back to than in the table above."""
    for number in (8, 1, 2) if verb == "rollback" else (8, 1):
        publish(world.setup, world.candidate(number), "staging", now=NOW).require()
        if verb == "promote":
            promote(world.setup, "staging", "production", now=NOW).require()
    if verb == "promote":
        publish(world.setup, world.candidate(2), "staging", now=NOW).require()


def expected(verb: str, follows: str, then: str) -> int:
    """Number of the release that the verb's channel points to after what follows."""
    before, after = stacks(verb)
    stack = before if then == "old" else after
    staging = verb != "promote"
    if follows == "publish" and staging:
        return 2
    if follows == "publish another" and staging:
        return 3
    if follows == "promote" and not staging:
        return 2
    if follows == "rollback --to":
        return 8
    # An interrupted rollback is completed; whatever else was interrupted is gone back from.
    if follows == "rollback" and not (verb == "rollback" and then == "new, tag behind"):
        return stack[-2]
    return stack[-1]


def follow(world: World, verb: str, follows: str) -> None:
    channel, after = CHANNEL[verb], LATER + timedelta(hours=1)
    if follows.startswith("publish"):
        number = 3 if follows == "publish another" else 2
        publish(world.setup, world.candidate(number), "staging", now=after).require()
    elif follows == "promote":
        promote(world.setup, "staging", "production", now=after).require()
    elif follows.startswith("rollback"):
        rollback(world.setup, channel, to=f"{8:040x}" if "--to" in follows else "", now=after).require()
    elif follows == "doctor":
        doctor.check(world.setup, repair=True, now=after)
    else:
        prune(world.setup, keep=1, dry_run=False)


def then_rows(folder: Path, verb: str) -> list[dict[str, str]]:
    """A row for each state that a kill leaves and each verb that follows; states that are the same in every byte count once."""
    prepare_deep(world_in(folder / "prepared"), verb)
    world_in(folder / "prepared").candidate(2)
    channel, rows, seen, step, more = CHANNEL[verb], [], set(), 0, True
    old, _ = states(world_in(folder / "prepared"), channel)
    while more:
        place = folder / f"killed-{step}"
        shutil.copytree(folder / "prepared", place)
        more = killed(world_in(place), verb, step, folder / "note")
        state = tree_hash(place / "registry") + tree_hash(place / "ledger.git")
        ledger, tag = states(world_in(place), channel)
        then = "old" if ledger == old else "new" if tag == ledger else "new, tag behind"
        step += 1
        if (then, state) in seen:
            continue
        seen.add((then, state))
        for follows in FOLLOWS:
            shutil.copytree(place, folder / "after")
            world = world_in(folder / "after")
            follow(world, verb, follows)
            found, tag = states(world, channel)
            if follows in ("prune", "promote", "publish", "publish another") and tag != found:
                doctor.check(world.setup, repair=True)  # these look after their own channel, or none
                found, tag = states(world, channel)
            head = history.current(world.setup.ledger.read().records, channel)
            assert head
            good = tag == found and doctor.check(world.setup) == ()
            got = str(int(head.release.commit, 16)) if good else f"disagreement: {doctor.check(world.setup)}"
            rows.append({"then": then, "follows": follows, "got": got, "expected": str(expected(verb, follows, then))})
            shutil.rmtree(folder / "after")
        shutil.rmtree(place)
    return rows


def main() -> None:
    """`FOLDER VERB KIND`: print a row for each step that was killed."""
    folder, verb, kind = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    if kind == "then":
        sys.stdout.write(json.dumps(then_rows(folder, verb)))
        return
    rows = []
    with repositories(kind, folder) as host:
        for step in range(0, 100, STRIDE if kind == "registry" else 1):
            place = folder / str(step)
            if kind == "folder" and step:
                shutil.copytree(folder / "prepared", place)
            else:
                prepare(world_in(place, repository=f"{host}/step-{step}" if host else ""), verb)
                if kind == "folder":
                    shutil.copytree(place, folder / "prepared")
            rows.append(one(place, f"{host}/step-{step}" if host else "", verb, step))
            if rows[-1]["killed before"] == "nothing":
                break
    sys.stdout.write(json.dumps(rows))


if __name__ == "__main__":
    main()
