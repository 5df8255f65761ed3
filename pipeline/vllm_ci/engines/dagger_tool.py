"""The tool's own environment as a container: the Python of the module, git, the locked dependencies, this package."""

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
REGISTRY_PORT = 5000
_PACKAGE = "/vllm-ci/tool"
_CERTIFICATES = "/vllm-ci/certificates.pem"
_LOCK = "/vllm-ci/requirements.lock"
_SSH_AGENT = "/vllm-ci/ssh-agent"
_KNOWN_HOSTS = "/vllm-ci/known_hosts"
# What a caller's environment says about the network. Values go as secrets: they may hold credentials, and a cache must not
# depend on which mirror served the same bytes.
_NETWORK = (
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "VLLM_CI_DEBIAN_MIRROR"),
)


@dataclass(frozen=True, kw_only=True)
class Tool:
    """What the tool's container is made from.

    Attributes:
        package: Holds ``pipeline/vllm_ci``, ``images`` and ``requirements.lock``.
        python_image: Debian with the Python of the module; a mirror's, where the public one is out of reach.
        certificates: Certificate authorities to trust, in place of the image's own.
        network: Variables that say how to reach package indexes and mirrors.
        variables: Further variables for what runs in it.
        secrets: Likewise, secret ones (a registry's password).
        services: Hosts that are services of this session (a registry to push to); registries among them have no TLS.
        ssh_agent: Socket of an agent whose keys git may use.
        known_hosts: File with the hosts that it may use them with.
        volume: Cache volume with the builder's store.
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
    volume: str = "vllm-ci"

    def container(self) -> dagger.Container:
        """Ready to run ``python -m vllm_ci``; the builder's store lies at ``VLLM_CI_HOME``."""
        made = dag.container().from_(self.python_image)
        if self.certificates is not None:
            made = made.with_mounted_file(_CERTIFICATES, self.certificates)
            for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO"):
                made = made.with_env_variable(name, _CERTIFICATES)
        for name, value in self.network.items():
            made = made.with_secret_variable(name, value)
        install = ["pip", "install", "--quiet", "--require-hashes", "--only-binary", ":all:", "-r", _LOCK]
        no_proxy = ",".join(("127.0.0.1", "localhost", *(_host(each) for each in self.services)))
        made = (
            made.with_env_variable("DEBIAN_FRONTEND", "noninteractive")
            .with_exec(["sh", "-c", _install("git", "git")])
            .with_env_variable("PIP_ROOT_USER_ACTION", "ignore")
            .with_env_variable("PIP_DISABLE_PIP_VERSION_CHECK", "1")
            .with_mounted_cache("/root/.cache/pip", dag.cache_volume(f"{self.volume}-pip"))
            .with_mounted_file(_LOCK, self.package.file("requirements.lock"))
            .with_exec(install)
            .without_mount(_LOCK)
            .with_mounted_directory(_PACKAGE, self.package, read_only=True)
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
        """Serves what the builder keeps, by digest, so that nothing is pushed anywhere in order to be tested."""
        argv = ["python", "-m", "vllm_ci.registry.server", "--layout", f"{HOME}/images", "--host", "0.0.0.0"]  # noqa: S104 - inside
        argv += ["--port", str(REGISTRY_PORT)]
        return self.container().with_exposed_port(REGISTRY_PORT).as_service(args=argv)


def of_this_machine() -> Tool:
    """The package that runs, with the network as this user configured it for pip, uv and apt."""
    indexes = index.configured()
    named = {name: os.environ[name] for name in _NETWORK if os.environ.get(name)}
    if not named.keys() & {"PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"}:
        named["PIP_INDEX_URL"] = indexes.urls[0]
    if len(indexes.urls) > 1:
        named.setdefault("PIP_EXTRA_INDEX_URL", " ".join(indexes.urls[1:]))
    certificates = Path(indexes.certificates) if indexes.certificates else None
    if certificates is not None and not certificates.is_file():
        raise EngineError(f"there is no file {certificates} with certificates", remedy="correct SSL_CERT_FILE or pip's cert")
    return Tool(
        package=_package(),
        python_image=os.environ.get("VLLM_CI_PYTHON_IMAGE") or f"python:{PYTHON}-slim",
        certificates=dag.host().file(str(certificates)) if certificates else None,
        network={name: dag.set_secret(name, value) for name, value in named.items()},
    )


def _install(program: str, package: str) -> str:
    """Shell command that installs a Debian package where its program is not there."""
    return (
        f"command -v {program} >/dev/null || "
        f"{{ apt-get update -qq && apt-get install -y -qq --no-install-recommends {package} && rm -rf /var/lib/apt/lists/*; }}"
    )


def _host(address: str) -> str:
    """Without its port."""
    return address.partition(":")[0]


def _package() -> dagger.Directory:
    """This very package, from a checkout or as it is installed."""
    here = Path(__file__).resolve().parents[1]
    checkout = here.parent.parent
    made = dag.directory().with_directory("pipeline/vllm_ci", dag.host().directory(str(here), exclude=["**/__pycache__"]))
    if (checkout / "requirements.lock").is_file():
        lock = checkout / "requirements.lock"
        made = made.with_directory("images", dag.host().directory(str(checkout / "images")))
    else:
        lock = here / "data" / "requirements.lock"
    return made.with_file("requirements.lock", dag.host().file(str(lock)))
