"""A ledger on a server that asks for a password."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from registries.git_server import PASSWORD, USERNAME, GitServer, git_server
from vllm_ci.domain.errors import ErroredError
from vllm_ci.release.ledger import KustomizeOverlay, Ledger, LedgerEntry, State
from vllm_ci.release.record import Record, Release

pytestmark = pytest.mark.slow


@pytest.fixture(name="server")
def _server(tmp_path: Path) -> Iterator[GitServer]:
    with git_server(tmp_path / "repositories") as running:
        yield running


def propose(state: State) -> LedgerEntry:
    number = len(state.records) + 1
    release = Release(
        commit=f"{number:040x}", digest=f"sha256:{number:064x}", repository="r.example.com/name", tag=f"t{number}"
    )
    made = Record(number=0, at="2026-11-20T12:00:00Z", action="publish", channel="staging", release=release)
    return LedgerEntry(
        record=made, overlay=KustomizeOverlay(path="deploy/staging/kustomization.yaml", name="vllm", fields={"newTag": "t"})
    )


def test_the_password_comes_from_the_environment(server: GitServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CI_GIT_USERNAME", USERNAME)
    monkeypatch.setenv("VLLM_CI_GIT_PASSWORD", PASSWORD)
    ledger = Ledger(server.url)
    assert ledger.read() == State()
    for _ in range(2):
        assert ledger.append(propose)[1]
    assert [each.number for each in ledger.read().records] == [1, 2]
    assert set(server.users) == {"", USERNAME}


def test_a_token_needs_no_user_name(server: GitServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CI_GIT_PASSWORD", PASSWORD)
    assert Ledger(server.url).append(propose)[1]
    assert set(server.users) == {"", "git"}


def test_other_settings_from_the_environment_stay(server: GitServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_COUNT", "2")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.http://127.0.0.1:{server.port}/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://git.example.com/")
    monkeypatch.setenv("GIT_CONFIG_KEY_1", "credential.helper")
    monkeypatch.setenv("GIT_CONFIG_VALUE_1", "!f() { echo username=other; echo password=wrong; }; f")
    monkeypatch.setenv("VLLM_CI_GIT_PASSWORD", PASSWORD)
    assert Ledger("https://git.example.com/releases.git").append(propose)[1]
    assert "other" not in server.users


@pytest.mark.parametrize("password", ["", "wrong"])
def test_a_server_that_says_no_is_out_of_reach_and_not_empty(
    server: GitServer, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.setenv("VLLM_CI_GIT_PASSWORD", password)
    for ask in (lambda: Ledger(server.url).read(), lambda: Ledger(server.url).append(propose)):
        with pytest.raises(ErroredError, match="cannot be reached") as raised:
            ask()
        assert "credentials" in str(raised.value.remedy)
        assert "wrong" not in str(raised.value)
