"""Which login a registry gets, by its challenges; and who never gets one."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from registries.images import small_image
from registries.proxy import Answer, FaultyProxy, faulty_proxy
from vllm_ci.registry.access import Access
from vllm_ci.registry.client import RemoteRepository
from vllm_ci.registry.credentials import Credentials, find_credentials
from vllm_ci.registry.errors import NotFoundError, UnauthorizedError
from vllm_ci.registry.transfer import push

USER, PASSWORD = "reader", "pass word"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


class Asking:
    """Lets `accepted` in, challenges everybody else with `challenges`, and notes what it was sent."""

    def __init__(
        self, challenges: list[str], accepted: str = BASIC, token: tuple[int, bytes] = (200, b'{"token":"t"}')
    ) -> None:
        self.challenges, self.accepted, self.token = challenges, accepted, token
        self.sent: list[str] = []

    def __call__(self, request: BaseHTTPRequestHandler) -> Answer | None:
        authorization = request.headers.get("Authorization", "")
        if request.path.startswith("/token"):
            self.sent.append("token " + authorization)
            return self.token[0], [], self.token[1]
        self.sent.append(authorization)
        if authorization == self.accepted:
            return 404, [], b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}'
        return 401, [("WWW-Authenticate", each) for each in self.challenges], b""


@pytest.fixture(name="home")
def _home() -> Iterator[FaultyProxy]:
    with faulty_proxy() as server:
        yield server


def known(access: Access, host: str) -> Access:
    return dataclasses.replace(access, credentials={host: Credentials(username=USER, password=PASSWORD, source="a test")})


def bearer(host: str) -> str:
    return f'Bearer realm="http://{host}/token", service="x"'


@pytest.mark.parametrize(
    "challenges",
    [
        ["Negotiate", 'Basic realm="x"'],
        ['Negotiate, Basic realm="a, Bearer realm=b"'],
        ["Negotiate YWJj==, NTLM, BASIC Realm = x"],
        ['Digest realm="d", nonce="n", qop="auth,auth-int"', 'Basic realm="x"'],
    ],
)
def test_basic_is_found_among_other_schemes(home: FaultyProxy, access: Access, challenges: list[str]) -> None:
    home.guard = Asking(challenges)
    with RemoteRepository(f"{home.host}/name", known(access, home.host)) as repository:
        assert repository.resolve("one") is None
        assert repository.resolve("two") is None
    assert home.guard.sent[1:] == [BASIC, BASIC]  # after one challenge the login is known


@pytest.mark.parametrize("joined", [True, False])
def test_a_token_is_preferred_to_the_password_whatever_comes_first(home: FaultyProxy, access: Access, joined: bool) -> None:
    offered = ['Basic realm="x"', bearer(home.host)]
    home.guard = Asking([", ".join(offered)] if joined else offered, accepted="Bearer t")
    with RemoteRepository(f"{home.host}/name", known(access, home.host)) as repository:
        assert repository.resolve("one") is None
    assert home.guard.sent == ["", f"token {BASIC}", "Bearer t"]


@pytest.mark.parametrize("token", [(200, b'{"token":"t"}'), (401, b""), (404, b"<html>"), (200, b"<html>"), (200, b"{}")])
def test_where_the_token_is_no_good_the_password_is_next(home: FaultyProxy, access: Access, token: tuple[int, bytes]) -> None:
    home.guard = Asking([bearer(home.host), 'Basic realm="x"'], token=token)
    with RemoteRepository(f"{home.host}/name", known(access, home.host)) as repository:
        assert repository.resolve("one") is None
        assert repository.resolve("two") is None
    assert home.guard.sent[-2:] == [BASIC, BASIC]


def test_each_login_is_tried_once(home: FaultyProxy, access: Access) -> None:
    home.guard = Asking([bearer(home.host), 'Basic realm="x"'], accepted="nothing")
    with (
        RemoteRepository(f"{home.host}/name", known(access, home.host)) as repository,
        pytest.raises(UnauthorizedError, match="does not accept the login"),
    ):
        repository.manifest("one")
    assert home.guard.sent == ["", f"token {BASIC}", "Bearer t", BASIC]


def test_a_scheme_that_is_not_supported_is_named(home: FaultyProxy, access: Access) -> None:
    home.guard = Asking(["Negotiate", 'Digest realm="d"'])
    with (
        RemoteRepository(f"{home.host}/name", known(access, home.host)) as repository,
        pytest.raises(UnauthorizedError, match="no supported way to log in") as caught,
    ):
        repository.manifest("one")
    assert "negotiate, digest" in caught.value.why
    assert home.guard.sent == [""]


# Whose login it is ------------------------------------------------------------------------------------------------------


@pytest.fixture(name="variables")
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CI_REGISTRY_USERNAME", USER)
    monkeypatch.setenv("VLLM_CI_REGISTRY_PASSWORD", PASSWORD)
    monkeypatch.delenv("VLLM_CI_REGISTRY_HOST", raising=False)


@pytest.mark.slow
@pytest.mark.usefixtures("variables")
@pytest.mark.parametrize("challenge", ['Basic realm="x"', "bearer"])
def test_the_push_login_is_for_the_registry_that_is_pushed_to(home: FaultyProxy, access: Access, challenge: str) -> None:
    with faulty_proxy() as mirror:
        asked = {each.host: Asking([bearer(each.host) if challenge == "bearer" else challenge]) for each in (home, mirror)}
        home.guard, mirror.guard = asked[home.host], asked[mirror.host]
        mirrored = dataclasses.replace(access, mirrors={home.host: [mirror.host]}).pushing_to(f"{home.host}/team/name")
        with (
            RemoteRepository(f"{home.host}/team/name", mirrored) as repository,
            pytest.raises((NotFoundError, UnauthorizedError)),
        ):
            repository.manifest("one")
        assert any(BASIC in each for each in asked[home.host].sent)
        assert not any(BASIC in each for each in asked[mirror.host].sent)
        with RemoteRepository(f"{mirror.host}/base", mirrored) as base, pytest.raises(UnauthorizedError):
            base.manifest("one")
        assert not any(BASIC in each for each in asked[mirror.host].sent)


@pytest.mark.usefixtures("variables")
def test_a_registry_that_is_only_read_gets_no_push_login_and_is_told_how_it_could(home: FaultyProxy, access: Access) -> None:
    home.guard = Asking(['Basic realm="x"'])
    with (
        RemoteRepository(f"{home.host}/base", access) as repository,
        pytest.raises(UnauthorizedError, match="requires a login") as caught,
    ):
        repository.manifest("one")
    assert home.guard.sent == [""]
    assert "VLLM_CI_REGISTRY_USERNAME is for the registry that is pushed to" in caught.value.why
    assert f"VLLM_CI_REGISTRY_HOST={home.host}" in caught.value.remedy


def test_the_variables_belong_to_one_host() -> None:
    env = {"VLLM_CI_REGISTRY_USERNAME": "u", "VLLM_CI_REGISTRY_PASSWORD": "p", "HOME": "/nowhere"}
    assert find_credentials("r.example", "x", env) is None
    assert find_credentials("r.example", "x", env, owner="s.example") is None
    assert find_credentials("r.example:5000", "x", env, owner="r.example") is None
    assert find_credentials("r.example", "x", env, owner="R.example:443")
    named = {**env, "VLLM_CI_REGISTRY_HOST": "s.example"}
    assert find_credentials("s.example", "x", named)
    assert find_credentials("r.example", "x", named, owner="r.example") is None


def test_the_host_that_a_short_name_stands_for_is_the_one_that_gets_the_login() -> None:
    entry = {"prefix": "hub.example", "location": "registry.hub.example:8443/v", "mirror": [{"location": "mirror.example"}]}
    access = Access(registries=(entry,))
    assert access.pushing_to("hub.example/team").pushes_to == "registry.hub.example:8443"
    assert access.pushing_to("other.example/team").pushes_to == "other.example"
    assert access.pushing_to("").pushes_to == access.pushing_to("oci:folder").pushes_to == ""


@pytest.mark.needs_registry
def test_a_login_that_ends_in_the_middle_of_an_upload_is_renewed(proxy: FaultyProxy, access: Access, tmp_path: Path) -> None:
    good: list[str] = []

    def guard(request: BaseHTTPRequestHandler) -> Answer | None:
        if request.path.startswith("/token"):
            good.append(f"t{len(good)}")
            return 200, [], f'{{"token":"{good[-1]}","expires_in":900}}'.encode()
        if good and request.headers.get("Authorization") == f"Bearer {good[-1]}":
            if request.command == "PUT" and "/blobs/" in request.path and len(good) == 1:
                good.append("ended")
            else:
                return None
        return 401, [("WWW-Authenticate", bearer(proxy.host))], b""

    proxy.guard = guard
    layout, image = small_image(tmp_path / "one")
    push(layout, image.digest, f"{proxy.host}/name", ["one"], access=dataclasses.replace(access, parallel=1))
    with RemoteRepository(f"{proxy.host}/name", access) as repository:
        assert repository.resolve("one") == image.digest
