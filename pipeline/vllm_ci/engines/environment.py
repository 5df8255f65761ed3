"""The environment of programs that run as processes here: their variables, and the image whose files they run from."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_ci.domain.errors import EngineError
from vllm_ci.domain.program import fill, refusal_of_secret
from vllm_ci.engines import rootfs
from vllm_ci.system.home import KERNELS, LAUNCHERS, home

# Variables that programs in the tool's own environment inherit; all others must be set by the program.
_INHERITED_PREFIXES = ("PIP_", "UV_", "VLLM_CI_")
_INHERITED = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_CACHE_HOME", "VLLM_CI_HOME", "NO_COLOR", "CI"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
)


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Variables of a command, and the image it runs in (``None``: the tool's own environment)."""

    env: dict[str, str]
    root: rootfs.RootFilesystem | None = None

    def command(self, argv: tuple[str, ...], values: Mapping[str, str]) -> list[str]:
        """The command line to execute for ``argv``.

        Raises:
            EngineError: Its first word is not a program that can be run.
        """
        inside = self.root.arguments(argv) if self.root else argv
        words = [fill(word, values) for word in inside]
        if words[0] == "python":
            return [str(self.root.bin / "python") if self.root else sys.executable, *words[1:]]
        if self.root and Path(words[0]).is_relative_to(self.root.root):
            return [*self.root.executable(Path(words[0])), *words[1:]]
        if (found := shutil.which(words[0], path=self.env.get("PATH"))) is None:
            raise EngineError(
                f"{words[0]} was not found", why="it is not in any directory of PATH", remedy=f"install {words[0]}"
            )
        return [found, *words[1:]]


def of_tool(env: Mapping[str, str], secrets: Sequence[str], values: Mapping[str, str]) -> Environment:
    """The tool's own environment, of which only some variables are inherited.

    Args:
        env: Variables to add; their placeholders are filled in.
        secrets: Names of variables to pass on.
        values: Placeholders (:mod:`vllm_ci.domain.program`).

    Raises:
        EngineError: A secret is not set, or its name is refused.
    """
    base = {name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)}
    base["NO_PROXY"] = base["no_proxy"] = "127.0.0.1,localhost"
    return Environment(env=base | _added(env, secrets, values))


def of_image(
    image: tuple[Path, Mapping[str, Any]],
    place: Path,
    env: Mapping[str, str],
    secrets: Sequence[str],
    values: Mapping[str, str],
) -> Environment:
    """The environment of an image.

    Args:
        image: Its unpacked files and its configuration.
        place: Directory for a home directory, which does not exist yet.
        env: Variables to add; their placeholders are filled in.
        secrets: Names of variables to pass on.
        values: Placeholders.

    Raises:
        EngineError: A secret is not set, or its name is refused; or the image has no Python.
    """
    files, config = image
    root = rootfs.prepare(files, config, home() / LAUNCHERS)
    (place / "home").mkdir(parents=True)
    # Torch's own folder is one for all programs of a user, and its keys leave out the instructions that it compiles for: vLLM
    # dies of kernels that another environment left there.
    kernels = {"TORCHINDUCTOR_CACHE_DIR": str(home() / KERNELS)}
    base = {"LANG": "C.UTF-8", **kernels, **root.env, "HOME": str(place / "home")}
    return Environment(env=base | _added(env, secrets, values), root=root)


def _added(env: Mapping[str, str], secrets: Sequence[str], values: Mapping[str, str]) -> dict[str, str]:
    added = {name: fill(value, values) for name, value in env.items()}
    for secret in secrets:
        if reason := refusal_of_secret(secret, ours=True):
            raise EngineError(f"the secret {secret} cannot be passed on", why=reason, remedy="use another name")
        name = secret.rpartition("=")[2]
        if name not in os.environ:
            raise EngineError(f"the environment variable {name} is not set", remedy=f"run export {name}=... first")
        added[secret.partition("=")[0]] = os.environ[name]
    return added


def devices(gpus: str) -> dict[str, str]:
    """The variable that shows a program only these devices (``all``, ``none`` or indices)."""
    return {} if gpus == "all" else {"CUDA_VISIBLE_DEVICES": "" if gpus == "none" else gpus}
