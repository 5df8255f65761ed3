"""A server that does not take a push: what it said is passed on, and only a branch that moved is tried again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from registries.ledgers import propose
from vllm_ci.domain.errors import ErroredError
from vllm_ci.release.ledger import Ledger, LedgerEntry, State
from vllm_ci.system.vcs import git

pytestmark = pytest.mark.slow


@pytest.fixture(name="remote")
def _remote(tmp_path: Path) -> Path:
    remote = tmp_path / "ledger.git"
    assert Ledger(str(remote)).append(propose())[1]
    return remote


def hook(remote: Path, name: str, script: str) -> None:
    file = remote / "hooks" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def refused(remote: Path) -> tuple[ErroredError, list[float]]:
    """The error of one try, and what was waited for."""
    waits: list[float] = []
    before = git("rev-parse", "releases", cwd=remote)
    with pytest.raises(ErroredError) as caught:
        Ledger(str(remote), sleep=waits.append).append(propose())
    assert git("rev-parse", "releases", cwd=remote) == before
    assert "moved by others" not in str(caught.value)
    return caught.value, waits


@pytest.mark.parametrize(
    ("name", "script", "words", "remedy"),
    [
        (
            "pre-receive",
            'echo "GL-HOOK-ERR: You are not allowed to push code to protected branches on this project." >&2; exit 1',
            "You are not allowed to push code to protected branches",
            "allow the releasing account to push",
        ),
        ("update", 'echo "tickets are missing" >&2; exit 1', "tickets are missing", "what its hooks require"),
        ("pre-receive", 'echo "repository size limit of 1 GB exceeded: quota" >&2; exit 1', "size limit", "make room"),
        ("pre-receive", "exit 1", "pre-receive hook declined", "what its hooks require"),
        ("pre-receive", 'printf "\\033[31mred\\033[0m words\\n" >&2; exit 1', "red words", "what its hooks require"),
    ],
)
def test_a_refusal_comes_at_once_with_the_server_s_words(remote: Path, name: str, script: str, words: str, remedy: str) -> None:
    hook(remote, name, script)
    error, waits = refused(remote)
    assert waits == [], "nothing is tried again"
    assert "refused the push" in error.message
    assert words in error.why
    assert remedy in error.remedy


def test_a_server_that_takes_no_pack_of_that_size_refuses(remote: Path) -> None:
    git("config", "receive.maxInputSize", "10", cwd=remote)
    error, waits = refused(remote)
    assert waits == []
    assert error.why


def test_a_lock_that_another_writer_holds_is_waited_for(remote: Path) -> None:
    lock = remote / "refs/heads/releases.lock"
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        lock.unlink(missing_ok=True)

    lock.touch()
    assert Ledger(str(remote), sleep=sleep).append(propose())[1]
    assert len(waits) == 1


def test_a_lock_that_stays_is_said_with_the_server_s_words(remote: Path) -> None:
    (remote / "refs/heads/releases.lock").touch()
    with pytest.raises(ErroredError, match="refused the push") as caught:
        Ledger(str(remote), attempts=3, sleep=lambda _: None).append(propose())
    assert "lock" in caught.value.why or "failed to update ref" in caught.value.why


def test_a_branch_that_moved_is_tried_again(remote: Path) -> None:
    tried: list[int] = []

    def overtaken(state: State) -> LedgerEntry:
        tried.append(len(state.records))
        if len(tried) == 1:
            assert Ledger(str(remote)).append(propose("apps/kustomization.yaml"))[1]
        return propose()(state)

    assert Ledger(str(remote), sleep=lambda _: None).append(overtaken)[1]
    assert tried == [1, 2]


@pytest.mark.parametrize("ask", [lambda ledger: ledger.read(), lambda ledger: ledger.append(propose())])
def test_a_server_that_does_not_answer_is_out_of_reach_at_once(ask: Callable[[Ledger], object]) -> None:
    began = time.monotonic()
    with pytest.raises(ErroredError, match="no answer") as caught:
        ask(Ledger("http://127.0.0.1:9/releases.git", create=False))
    assert time.monotonic() - began < 30
    assert "network" in caught.value.remedy


def test_a_push_whose_answer_was_lost_counts(remote: Path) -> None:
    hook(remote, "post-receive", "kill -9 $PPID")  # the server dies after it has taken the push
    assert Ledger(str(remote), sleep=lambda _: None).append(propose())[1]
    assert len(Ledger(str(remote)).read().records) == 2


def test_a_push_whose_answer_does_not_come_counts_when_the_record_is_there(
    remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook(remote, "post-receive", "sleep 60")  # the branch has moved by then
    monkeypatch.setenv("VLLM_CI_PROGRAM_TIMEOUT_S", "5")
    _, written = Ledger(str(remote)).append(propose())
    assert written
    assert Ledger(str(remote)).read().records[-1] == written


def test_a_push_that_does_not_end_and_recorded_nothing_is_an_error(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook(remote, "pre-receive", "sleep 60")
    monkeypatch.setenv("VLLM_CI_PROGRAM_TIMEOUT_S", "5")
    error, waits = refused(remote)
    assert waits == []
    assert "git push did not end within 5 s" in error.message


def test_a_branch_whose_name_ends_like_the_ledger_s_is_not_the_ledger(tmp_path: Path) -> None:
    remote = tmp_path / "remote.git"
    git("init", "--quiet", "--bare", str(remote), cwd=tmp_path)
    person = ("-c", "user.name=p", "-c", "user.email=p@example.com")
    made = git(*person, "commit-tree", git("mktree", cwd=remote, stdin=b"").decode().strip(), "-m", "x", cwd=remote)
    git("update-ref", "refs/heads/evil/refs/heads/releases", made.decode().strip(), cwd=remote)
    assert Ledger(str(remote)).read() == State()
    assert Ledger(str(remote)).append(propose())[1]
