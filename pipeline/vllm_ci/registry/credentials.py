"""Logins for registries: docker's and podman's configuration files, and credential helpers.

Format: containers-auth.json(5), docker's ``config.json``, and the docker-credential-helpers protocol.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm_ci.domain.errors import ConfigError, ErroredError
from vllm_ci.system import external

_HELPER_TIMEOUT_S = 60


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """A user name and password, or an identity token in place of both.

    Attributes:
        source: Where they were found, for messages.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    source: str = ""

    @property
    def basic(self) -> str:
        """Value of an ``Authorization`` header (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def find_credentials(
    host: str, path: str, environment: Mapping[str, str] | None = None, *, owner: str = ""
) -> Credentials | None:
    """Credentials for a repository: of the most specific entry in the first file that has one.

    ``VLLM_CI_REGISTRY_USERNAME`` and ``VLLM_CI_REGISTRY_PASSWORD`` come first, for one host only: ``VLLM_CI_REGISTRY_HOST``,
    else ``owner``. A mirror or a base image's registry is never offered them.

    Args:
        host: The registry.
        path: The repository there.
        environment: Of the process by default.
        owner: The host that is pushed to.

    Raises:
        ConfigError: A file does not parse, or a credential helper it names is absent or broken.
    """
    env = os.environ if environment is None else environment
    username, ours = env.get("VLLM_CI_REGISTRY_USERNAME"), env.get("VLLM_CI_REGISTRY_HOST") or owner
    if username and ours and _same_host(ours, host):
        return Credentials(
            username=username, password=env.get("VLLM_CI_REGISTRY_PASSWORD", ""), source="VLLM_CI_REGISTRY_USERNAME"
        )
    for file in _files(env):
        found = _from_file(file, host, path, env)
        if found:
            return found
    return None


def unused_variables(host: str, environment: Mapping[str, str] | None = None) -> str:
    """Why ``VLLM_CI_REGISTRY_USERNAME`` is not used for a host without any other login; empty when it is not set."""
    env = os.environ if environment is None else environment
    if not env.get("VLLM_CI_REGISTRY_USERNAME"):
        return ""
    named = env.get("VLLM_CI_REGISTRY_HOST")
    whose = f"for VLLM_CI_REGISTRY_HOST={named}" if named else "for the registry that is pushed to"
    return f"VLLM_CI_REGISTRY_USERNAME is {whose}, and is not sent to {host}"


def _same_host(one: str, other: str) -> bool:
    """Host names without regard to case, and to a port that https has anyway."""
    return one.lower().removesuffix(":443") == other.lower().removesuffix(":443")


def _files(env: Mapping[str, str]) -> Iterator[Path]:
    if named := env.get("REGISTRY_AUTH_FILE"):
        yield Path(named)
        return
    home = Path(env.get("HOME") or Path.home())
    yield Path(env.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
    if runtime := env.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers/auth.json"
    yield Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json"


def _from_file(file: Path, host: str, path: str, env: Mapping[str, str]) -> Credentials | None:
    try:
        value = json.loads(file.read_bytes())
        helpers, store, auths = value.get("credHelpers") or {}, value.get("credsStore", ""), value.get("auths") or {}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{file} cannot be used: {error}", remedy=f"log in again: docker login {host}") from error
    if host in helpers:
        return _from_helper(str(helpers[host]), host, env)
    entry = _most_specific(auths, host, path)
    if entry is None or not any(entry.get(key) for key in ("auth", "username", "identitytoken")):
        return _from_helper(str(store), host, env) if store else None
    return _from_entry(entry, file)


def _most_specific(auths: Mapping[str, Any], host: str, path: str) -> Mapping[str, Any] | None:
    """The entry for ``host/a/b``, else ``host/a``, else ``host``; keys may be written as URLs."""
    plain = {key.removeprefix("https://").removeprefix("http://").rstrip("/"): value for key, value in auths.items()}
    by_host = {key.removesuffix("/v1").removesuffix("/v2"): value for key, value in plain.items()}
    parts = [host, *path.split("/")]
    for length in range(len(parts), 0, -1):
        key = "/".join(parts[:length])
        found = plain.get(key, by_host.get(key))
        if isinstance(found, dict):
            return found
    return None


def _from_entry(entry: Mapping[str, Any], file: Path) -> Credentials:
    username, password = str(entry.get("username", "")), str(entry.get("password", ""))
    if entry.get("auth"):
        try:
            username, _, password = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError, TypeError) as error:
            raise ConfigError(f"{file} holds an unreadable 'auth'", remedy="log in again with docker login") from error
    # Docker pads passwords with NUL when it writes some of them.
    return Credentials(
        username=username, password=password.rstrip("\0"), identity_token=str(entry.get("identitytoken", "")), source=str(file)
    )


def _from_helper(name: str, host: str, env: Mapping[str, str]) -> Credentials | None:
    program = f"docker-credential-{name}"
    if shutil.which(program, path=env.get("PATH")) is None:
        raise ConfigError(
            f"{program} is not on PATH",
            why=f"docker's configuration names it for {host}",
            remedy="install it, or log in without it",
        )
    try:
        path = shutil.which(program, path=env.get("PATH")) or program
        done = external.run([path, "get"], what=program, deadline_s=_HELPER_TIMEOUT_S, env=env, stdin=host.encode())
        # The protocol has no exit code of its own for "not found": the words are the same in every helper.
        if done.exit_code and b"not found" in done.output + done.errors:
            return None
        value = json.loads(done.output)
        username, secret = str(value["Username"]), str(value["Secret"])
    except external.ProgramTimeoutError as error:
        # What it printed may be a secret.
        raise ErroredError(error.message, remedy=f"unlock its store ({program} get), or docker login {host}") from None
    except (ErroredError, ValueError, KeyError, TypeError) as error:
        # What it printed may be a secret: only the exception's kind is told.
        raise ConfigError(
            f"{program} gave no credentials for {host} ({type(error).__name__})", remedy=f"docker login {host}"
        ) from error
    if username == "<token>":
        return Credentials(identity_token=secret, source=program)
    return Credentials(username=username, password=secret, source=program)
