"""Where a name leads, and who we are there."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from vllm_ci.domain.errors import ConfigError
from vllm_ci.registry.access import Access, RegistryEndpoint, is_loopback
from vllm_ci.registry.credentials import find_credentials
from vllm_ci.registry.reference import parse
from vllm_ci.registry.retry import Retry, retry_after_s

CONFIGURATION = """
[[registry]]
prefix = "hub.example"
location = "registry.hub.example:8443/v"
[[registry.mirror]]
location = "mirror.example/hub"
insecure = true

[[registry]]
prefix = "hub.example/secret"
blocked = true

[[registry]]
prefix = "*.internal.example"
insecure = true
"""


@pytest.fixture(name="access")
def _access(tmp_path: Path) -> Access:
    file = tmp_path / "registries.conf"
    file.write_text(CONFIGURATION)
    return Access.from_environment({"CONTAINERS_REGISTRIES_CONF": str(file)}, parallel=3)


def test_a_location_and_its_mirrors_come_from_registries_conf(access: Access) -> None:
    name = parse("hub.example/team/name:tag")
    origin = RegistryEndpoint(host="registry.hub.example:8443", path="v/team/name", plain_http=False)
    assert access.origin(name) == origin
    assert access.sources(name) == (RegistryEndpoint(host="mirror.example", path="hub/team/name", plain_http=True), origin)
    assert access.parallel == 3


def test_the_longest_prefix_wins_and_may_block(access: Access) -> None:
    with pytest.raises(ConfigError, match="blocked"):
        access.origin(parse("hub.example/secret/name"))
    assert access.origin(parse("hub.example/secrets")).path == "v/secrets"
    assert access.origin(parse("a.internal.example/name")).plain_http is True
    assert access.origin(parse("elsewhere.example/name")) == RegistryEndpoint(host="elsewhere.example", path="name")


def test_only_this_machine_is_tried_without_tls() -> None:
    assert [is_loopback(host) for host in ("localhost", "localhost:5000", "127.8.9.1:80", "[::1]:5000", "[::1]")] == [True] * 5
    assert not any(is_loopback(host) for host in ("localhost.example.com", "10.0.0.1:5000", "r.example.com"))
    assert Access().origin(parse("localhost:5000/name")).plain_http is None
    assert Access().origin(parse("r.example.com/name")).plain_http is False
    assert Access(plain_http=("r.example.com",)).origin(parse("r.example.com/name")).plain_http is True


def test_a_broken_configuration_names_its_file(tmp_path: Path) -> None:
    file = tmp_path / "registries.conf"
    file.write_text("[[registry")
    with pytest.raises(ConfigError, match=r"registries\.conf"):
        Access.from_environment({"CONTAINERS_REGISTRIES_CONF": str(file)})


def _auth(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_the_most_specific_entry_counts(tmp_path: Path) -> None:
    auths = {
        "r.example.com": _auth("general", "a"),
        "r.example.com/team": _auth("team", "b:c"),
        "https://old.example.com/v1/": _auth("old", "d"),
        "token.example.com": {"identitytoken": "T"},
    }
    (tmp_path / "config.json").write_text(json.dumps({"auths": auths}))
    env = {"DOCKER_CONFIG": str(tmp_path), "HOME": str(tmp_path)}
    found = find_credentials("r.example.com", "team/name", env)
    assert found
    assert (found.username, found.password) == ("team", "b:c")
    assert "b:c" not in repr(found)
    for host, path, username in (("r.example.com", "other/name", "general"), ("old.example.com", "x", "old")):
        found = find_credentials(host, path, env)
        assert found
        assert found.username == username
    token = find_credentials("token.example.com", "x", env)
    assert token
    assert token.identity_token == "T"
    assert find_credentials("nowhere.example.com", "x", env) is None


def test_podman_s_file_is_read_as_well(tmp_path: Path) -> None:
    (tmp_path / "containers").mkdir()
    (tmp_path / "containers/auth.json").write_text(json.dumps({"auths": {"r.example.com": _auth("p", "q")}}))
    found = find_credentials("r.example.com", "x", {"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path / "no")})
    assert found
    assert found.username == "p"


def test_variables_come_first_and_can_be_for_one_host(tmp_path: Path) -> None:
    env = {
        "HOME": str(tmp_path),
        "VLLM_CI_REGISTRY_USERNAME": "u",
        "VLLM_CI_REGISTRY_PASSWORD": "p",
        "VLLM_CI_REGISTRY_HOST": "one.example",
    }
    found = find_credentials("one.example", "x", env)
    assert found
    assert found.password == "p"
    assert find_credentials("two.example", "x", env) is None


def test_a_missing_helper_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "nosuch"}))
    with pytest.raises(ConfigError, match="docker-credential-nosuch"):
        find_credentials("r.example.com", "x", {"DOCKER_CONFIG": str(tmp_path), "PATH": str(tmp_path), "HOME": str(tmp_path)})


def test_a_broken_helper_tells_no_secret(tmp_path: Path) -> None:
    helper = tmp_path / "docker-credential-leaky"
    helper.write_text("#!/bin/sh\necho s3cret; exit 1\n")
    helper.chmod(0o755)
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "leaky"}))
    with pytest.raises(ConfigError) as caught:
        find_credentials("r.example.com", "x", {"DOCKER_CONFIG": str(tmp_path), "PATH": str(tmp_path), "HOME": str(tmp_path)})
    assert "s3cret" not in str(caught.value)


def test_waits_grow_to_a_ceiling() -> None:
    retry = Retry(base_s=1.0, ceiling_s=5.0)
    for failures, most in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (9, 5.0)):
        assert most / 2 <= retry.delay_s(failures) <= most
    assert retry.delay_s(1, "3") == 3.0
    assert retry.delay_s(1, "86400") == 5.0


def test_retry_after_may_be_a_date() -> None:
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert retry_after_s("soon") is None
    assert retry_after_s("") is None
