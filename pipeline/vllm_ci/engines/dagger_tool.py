"""The tool's environment as a container: Python, git, locked dependencies, this package."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import dagger
from dagger import dag

from vllm_ci.domain.errors import EngineError
from vllm_ci.images import index

PYTHON = "3.12"
HOME = "/vllm-ci/home"
VOLUME = "vllm-ci"
REGISTRY_PORT = 5000
_PACKAGE = "/vllm-ci/tool"
_CERTIFICATES = "/vllm-ci/certificates.pem"
_LOCK = "/vllm-ci/requirements.lock"
_EXTRAS_LOCK = "/vllm-ci/extras.lock"
# In the package: the requirements with the extras `dagger` and `hub` (ci/lock).
_EXTRAS = "pipeline/vllm_ci/engines/extras.lock"
_SSH_AGENT = "/vllm-ci/ssh-agent"
_KNOWN_HOSTS = "/vllm-ci/known_hosts"
# Network settings from the caller's environment. They are passed as secrets: they may contain credentials, and caching must
# not depend on which mirror served the same bytes.
_NETWORK = (
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "VLLM_CI_DEBIAN_MIRROR"),
)


@dataclass(frozen=True, kw_only=True)
class Tool:
    """Settings of the tool's container.

    Attributes:
        package: Directory with ``pipeline/vllm_ci``, ``images`` and ``requirements.lock``.
        python_image: Debian image with Python; from a mirror if the public registry cannot be reached.
        certificates: Certificate authorities to trust, instead of those of the image.
        network: Variables that configure package indexes, mirrors and proxies.
        variables: Further environment variables.
        secrets: Further secret environment variables (a registry's password).
        services: Services of this session by host (a registry to push to); registries among them have no TLS.
        ssh_agent: Socket of an SSH agent for git.
        known_hosts: Known SSH hosts for that agent.
        volume: Cache volume with the builder's store.
        extras: Install the optional packages as well: Dagger's SDK, the client of model hubs.
    """

    package: dagger.Directory
    python_image: str = f"python:{PYTHON}-slim"
    certificates: dagger.File | None = None
    network: Mapping[str, dagger.Secret] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, dagger.Secret] = field(default_factory=dict)
    services: Mapping[str, dagger.Service] = field(default_factory=dict)
    ssh_agent: dagger.Socket | None = None
    known_hosts: dagger.File | None = None
    volume: str = VOLUME
    extras: bool = False

    def container(self) -> dagger.Container:
        """A container that can run ``python -m vllm_ci``; the builder's store is at ``VLLM_CI_HOME``."""
        made = dag.container().from_(self.python_image)
        if self.certificates is not None:
            made = made.with_mounted_file(_CERTIFICATES, self.certificates)
            for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO"):
                made = made.with_env_variable(name, _CERTIFICATES)
        for name, value in self.network.items():
            made = made.with_secret_variable(name, value)
        lock, source = (_EXTRAS_LOCK, _EXTRAS) if self.extras else (_LOCK, "requirements.lock")
        install = ["pip", "install", "--quiet", "--require-hashes", "--only-binary", ":all:", "-r", lock]
        no_proxy = ",".join(("127.0.0.1", "localhost", *(_host(each) for each in self.services)))
        made = (
            made.with_env_variable("DEBIAN_FRONTEND", "noninteractive")
            .with_exec(["sh", "-c", _install("git", "git")])
            .with_env_variable("PIP_ROOT_USER_ACTION", "ignore")
            .with_env_variable("PIP_DISABLE_PIP_VERSION_CHECK", "1")
            .with_mounted_cache("/root/.cache/pip", dag.cache_volume(f"{self.volume}-pip"))
            .with_mounted_file(lock, self.package.file(source))
            .with_exec(install)
            .without_mount(lock)
        )
        made = (
            made.with_mounted_directory(_PACKAGE, _compiled(made, self.package), read_only=True)
            .with_env_variable("PYTHONPATH", f"{_PACKAGE}/pipeline")
            .with_env_variable("PYTHONDONTWRITEBYTECODE", "1")
            .with_env_variable("NO_PROXY", no_proxy)
            .with_env_variable("no_proxy", no_proxy)
            .with_env_variable("VLLM_CI_HOME", HOME)
            .with_mounted_cache(HOME, dag.cache_volume(self.volume))
        )
        if self.ssh_agent is not None and self.known_hosts is not None:
            made = (
                made.with_exec(["sh", "-c", _install("ssh", "openssh-client")])
                .with_unix_socket(_SSH_AGENT, self.ssh_agent)
                .with_mounted_file(_KNOWN_HOSTS, self.known_hosts)
                .with_env_variable("SSH_AUTH_SOCK", _SSH_AGENT)
                .with_env_variable("GIT_SSH_COMMAND", f"ssh -o BatchMode=yes -o UserKnownHostsFile={_KNOWN_HOSTS}")
            )
        for name, text in self.variables.items():
            made = made.with_env_variable(name, text)
        for name, value in self.secrets.items():
            made = made.with_secret_variable(name, value)
        for host, service in self.services.items():
            made = made.with_service_binding(_host(host), service)
        if self.services:
            made = made.with_env_variable("VLLM_CI_REGISTRY_PLAIN_HTTP", ",".join(self.services))
        return made

    def registry(self) -> dagger.Service:
        """A registry that serves the builder's store by digest, so that testing needs no push."""
        argv = ["python", "-m", "vllm_ci.registry.server", "--layout", f"{HOME}/images", "--host", "0.0.0.0"]  # noqa: S104 - in the container
        argv += ["--port", str(REGISTRY_PORT)]
        return self.container().with_exposed_port(REGISTRY_PORT).as_service(args=argv)


def of_this_machine() -> Tool:
    """The running package, with the user's network settings of pip, uv and apt."""
    indexes = index.configured()
    named = {name: os.environ[name] for name in _NETWORK if os.environ.get(name)}
    if not named.keys() & {"PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"}:
        named["PIP_INDEX_URL"] = indexes.urls[0]
    if len(indexes.urls) > 1:
        named.setdefault("PIP_EXTRA_INDEX_URL", " ".join(indexes.urls[1:]))
    certificates = Path(indexes.certificates) if indexes.certificates else None
    if certificates is not None and not certificates.is_file():
        raise EngineError(
            f"certificate file not found: {certificates}", remedy="correct SSL_CERT_FILE or the option cert of pip"
        )
    return Tool(
        package=_package(),
        python_image=os.environ.get("VLLM_CI_PYTHON_IMAGE") or f"python:{PYTHON}-slim",
        certificates=dag.host().file(str(certificates)) if certificates else None,
        network={name: dag.set_secret(name, value) for name, value in named.items()},
        volume=os.environ.get("VLLM_CI_CACHE") or VOLUME,
    )


def _compiled(container: dagger.Container, package: dagger.Directory) -> dagger.Directory:
    """The package with byte code, which is made once for a version of it and not by each program."""
    argv = ["python", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", f"{_PACKAGE}/pipeline"]
    return container.with_mounted_directory(_PACKAGE, package).with_exec(argv).directory(_PACKAGE)


def _install(program: str, package: str) -> str:
    """Shell command that installs a Debian package if its program is missing."""
    return (
        f"command -v {program} >/dev/null || "
        f"{{ apt-get update -qq && apt-get install -y -qq --no-install-recommends {package} && rm -rf /var/lib/apt/lists/*; }}"
    )


def _host(address: str) -> str:
    """The host of an address, without the port."""
    return address.partition(":")[0]


def _package() -> dagger.Directory:
    """This package, from a checkout or as installed."""
    here = Path(__file__).resolve().parents[1]
    checkout = here.parent.parent
    made = dag.directory().with_directory("pipeline/vllm_ci", dag.host().directory(str(here), exclude=["**/__pycache__"]))
    if (checkout / "requirements.lock").is_file():
        lock = checkout / "requirements.lock"
        made = made.with_directory("images", dag.host().directory(str(checkout / "images")))
    else:
        lock = here / "data" / "requirements.lock"
    return made.with_file("requirements.lock", dag.host().file(str(lock)))
