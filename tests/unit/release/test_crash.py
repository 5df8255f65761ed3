"""Killed with SIGKILL before each step and in the middle of the push: the old state or the new; running again completes it."""

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
from registries.releases import World, world_in
from vllm_ci.registry.access import Access
from vllm_ci.release import doctor, history
from vllm_ci.release.gathering import OnStep
from vllm_ci.release.moved import Moved
from vllm_ci.release.promote import promote
from vllm_ci.release.publish import publish
from vllm_ci.release.rollback import rollback

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
    paths = os.pathsep.join(path for path in sys.path if path)
    # A process of its own without threads, so that it may fork those that kill themselves.
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path), verb, kind],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["killed before"] for row in rows][-1] == "nothing"
    assert len(rows) > 4
    assert {row["then"] for row in rows[:-1]} == {"old", "new"}, "some kill left the old state, and some the new"
    assert {row["run again"] for row in rows} == {"complete"}


def move(world: World, verb: str, on_step: OnStep) -> Moved:
    """The move under test; publish has a push that can be killed between two pieces as well."""
    if verb == "publish":
        candidate = world.candidate(2)
        return publish(
            world.setup, candidate, "staging", now=LATER, on_step=on_step, on_bytes=lambda *_: on_step("a piece of a blob")
        )
    if verb == "promote":
        return promote(world.setup, "staging", "production", now=LATER, on_step=on_step)
    return rollback(world.setup, "staging", now=LATER, on_step=on_step)


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

        def on_step(name: str) -> None:
            nonlocal events
            if events == step:
                note.write_text(name, encoding="utf-8")
                os.kill(os.getpid(), signal.SIGKILL)
            events += 1

        try:
            move(world, verb, on_step)
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
    final = None if complete else move(world, verb, lambda _: None)
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


def main() -> None:
    """`FOLDER VERB KIND`: print a row for each step that was killed."""
    folder, verb, kind = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
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
