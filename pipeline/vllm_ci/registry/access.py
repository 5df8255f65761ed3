"""How registries are reached: the user's own containers-registries.conf(5) and containers-certs.d(5), and options on top.

No registry's address is known here. A public hub's short alias is whatever ``location`` the user's configuration gives it.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import ssl
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vllm_ci.domain.errors import ConfigError
from vllm_ci.registry.credentials import Credentials, find_credentials
from vllm_ci.registry.errors import ImageNameError
from vllm_ci.registry.reference import Reference, parse
from vllm_ci.registry.retry import Retry


@dataclass(frozen=True, kw_only=True)
class RegistryEndpoint:
    """One address that serves a repository.

    Attributes:
        host: ``name[:port]`` that is connected to.
        path: Name of the repository there.
        plain_http: Without TLS; ``None`` finds out, for loopback addresses only.
    """

    host: str
    path: str
    plain_http: bool | None = False


@dataclass(frozen=True, kw_only=True)
class Access:
    """The user's settings for reaching registries.

    Attributes:
        ca_file: More certificate authorities, as PEM.
        plain_http: Hosts spoken to without TLS, by choice.
        mirrors: Mirrors by ``host`` or ``host/path`` prefix; read from first, never written to.
        credentials: By host; they win over what docker's configuration says.
        pushes_to: Host that ``VLLM_CI_REGISTRY_USERNAME`` and ``_PASSWORD`` belong to, where ``VLLM_CI_REGISTRY_HOST`` names
            none; empty for none.
        registries: Entries of ``registries.conf``.
        retry: How often and how patiently.
        parallel: Blobs at a time.
        chunk_bytes: Bigger blobs are uploaded in chunks of this size, so that a broken connection costs one of them.
        timeout_s: Seconds without a byte after which a connection counts as broken.
    """

    ca_file: Path | None = None
    plain_http: tuple[str, ...] = ()
    mirrors: Mapping[str, Sequence[str]] = field(default_factory=dict)
    credentials: Mapping[str, Credentials] = field(default_factory=dict)
    pushes_to: str = ""
    registries: tuple[Mapping[str, Any], ...] = ()
    retry: Retry = field(default_factory=Retry)
    parallel: int = 8
    chunk_bytes: int = 64 << 20
    timeout_s: float = 60.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, **changes: Any) -> Access:
        """The user's configuration, with ``changes`` on top.

        ``VLLM_CI_REGISTRY_CA`` names a CA file; ``VLLM_CI_REGISTRY_PLAIN_HTTP`` lists hosts without TLS.

        Raises:
            ConfigError: A configuration file does not parse.
        """
        env = os.environ if environment is None else environment
        found: dict[str, Any] = {"registries": _registries_conf(env)}
        if ca_file := env.get("VLLM_CI_REGISTRY_CA"):
            found["ca_file"] = Path(ca_file)
        if hosts := env.get("VLLM_CI_REGISTRY_PLAIN_HTTP"):
            found["plain_http"] = tuple(hosts.replace(",", " ").split())
        return cls(**(found | {key: value for key, value in changes.items() if value is not None}))

    def pushing_to(self, repository: str) -> Access:
        """The same, with the login of the environment's variables for the host of ``repository``, and for no other one."""
        try:
            return replace(self, pushes_to=self.origin(parse(repository)).host)
        except ConfigError:
            return self  # blocked, which is said where it is opened
        except ImageNameError:
            return self  # a folder, or a name that is refused where it is opened

    def login(self, endpoint: RegistryEndpoint) -> Credentials | None:
        """The login for an endpoint.

        Raises:
            ConfigError: A configuration file or a credential helper is broken.
        """
        return self.credentials.get(endpoint.host) or find_credentials(endpoint.host, endpoint.path, owner=self.pushes_to)

    def origin(self, reference: Reference) -> RegistryEndpoint:
        """Where a repository itself is: written to, and read from last."""
        entry = self._entry(reference)
        location = str(entry.get("location") or entry.get("prefix") or "") if entry else ""
        prefix = str(entry.get("prefix") or location) if entry else ""
        moved = location + reference.repository.removeprefix(prefix) if location else reference.repository
        return self._endpoint(moved, insecure=bool(entry.get("insecure")) if entry else False)

    def sources(self, reference: Reference) -> tuple[RegistryEndpoint, ...]:
        """Where a repository is read from, in this order: mirrors, then itself."""
        mirrors = [
            self._endpoint(mirror + reference.repository.removeprefix(prefix), insecure=False)
            for prefix, found in self.mirrors.items()
            if _covers(prefix, reference.repository)
            for mirror in found
        ]
        entry = self._entry(reference)
        if entry:
            prefix = str(entry.get("prefix") or entry.get("location"))
            rest = reference.repository.removeprefix(prefix)
            mirrors += [
                self._endpoint(str(mirror["location"]) + rest, insecure=bool(mirror.get("insecure")))
                for mirror in entry.get("mirror", ())
                if not (mirror.get("pull-from-mirror") == "digest-only" and not reference.digest)
            ]
        return (*mirrors, self.origin(reference))

    def tls(self, host: str) -> ssl.SSLContext:
        """Trust for one host: the system's CAs (``SSL_CERT_FILE`` included), ``ca_file``, and the host's folder in certs.d.

        Raises:
            ConfigError: A certificate file cannot be read.
        """
        return _tls(host, self.ca_file)

    def _endpoint(self, repository: str, *, insecure: bool) -> RegistryEndpoint:
        host, _, path = repository.partition("/")
        plain: bool | None = insecure or host in self.plain_http
        return RegistryEndpoint(host=host, path=path, plain_http=None if not plain and is_loopback(host) else plain)

    def _entry(self, reference: Reference) -> Mapping[str, Any] | None:
        """The entry whose prefix is longest."""
        fitting = [
            each
            for each in self.registries
            if _covers(str(each.get("prefix") or each.get("location") or ""), reference.repository)
        ]
        entry = max(fitting, key=lambda each: len(str(each.get("prefix") or each.get("location"))), default=None)
        if entry and entry.get("blocked"):
            raise ConfigError(f"{reference} is blocked", why="registries.conf says so", remedy="use another image or registry")
        return entry


def is_loopback(host: str) -> bool:
    """Whether ``host[:port]`` is this machine, which is trusted without TLS, as docker does."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _covers(prefix: str, repository: str) -> bool:
    if prefix.startswith("*."):
        return repository.partition("/")[0].endswith(prefix[1:])
    return bool(prefix) and (repository == prefix or repository.startswith(prefix.rstrip("/") + "/"))


def _registries_conf(env: Mapping[str, str]) -> tuple[Mapping[str, Any], ...]:
    config = Path(env.get("XDG_CONFIG_HOME") or Path(env.get("HOME", "/")) / ".config")
    named = env.get("CONTAINERS_REGISTRIES_CONF")
    candidates = [Path(named)] if named else [config / "containers/registries.conf", Path("/etc/containers/registries.conf")]
    for file in candidates:
        try:
            value = tomllib.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file} cannot be used: {error}", remedy="see containers-registries.conf(5)") from error
        entries = value.get("registry", [])
        return tuple(entries) if isinstance(entries, list) else ()
    return ()


def _certificate_folders(host: str) -> list[Path]:
    roots = (Path.home() / ".config/containers/certs.d", Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))
    return [root / host for root in roots if (root / host).is_dir()]


@functools.lru_cache
def _tls(host: str, ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        if not context.get_ca_certs() and not os.environ.get("SSL_CERT_FILE"):
            import certifi  # an interpreter that was built without the system's store

            context.load_verify_locations(certifi.where())
        if ca_file:
            context.load_verify_locations(ca_file)
        for folder in _certificate_folders(host):
            for authority in sorted(folder.glob("*.crt")):
                context.load_verify_locations(authority)
            for certificate in sorted(folder.glob("*.cert")):
                context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"a certificate for {host} cannot be read: {error}", remedy="check ca_file and certs.d") from error
    return context
