"""The compile step: a target of the commit's own Dockerfile, run by the container builder that is installed here.

The one module of the builder that starts docker, podman or buildah.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from vllm_ci.domain.errors import BuildError, UsageError
from vllm_ci.domain.spec import Compile
from vllm_ci.vcs import git

_PROGRAMS = ("docker", "podman", "buildah")
_CONTEXT = "Dockerfile.vllm-ci"


def program(wanted: str) -> str:
    """docker, podman or buildah.

    Raises:
        UsageError: It is not installed.
    """
    for name in (wanted,) if wanted else _PROGRAMS:
        if shutil.which(name):
            return name
    raise UsageError(
        f"{wanted or 'no container builder'} was not found",
        why="the commit's compiled inputs are new, and compiling takes a container builder",
        remedy=f"install one of {', '.join(_PROGRAMS)}, or build where one is",
    )


def compile_wheel(how: Compile, *, root: Path, sha: str, platform: str, progress: Callable[[str], None]) -> Path:
    """Compile a commit; the wheel lies in a temporary folder, which the caller's store takes it from.

    The build context is a clone of the commit with its ``.git``, which upstream mounts and takes the version from.

    Raises:
        BuildError: The build failed, or left no wheel.
        UsageError: There is no container builder.
    """
    name = program(how.program)
    work = Path(tempfile.mkdtemp(prefix="vllm-ci-compile-"))
    context, output = work / "source", work / "dist"
    git("clone", "--quiet", "--no-checkout", str(root), str(context), cwd=work)
    git("checkout", "--quiet", "--detach", sha, cwd=context)
    (work / _CONTEXT).write_text(_exporting((context / how.dockerfile).read_text(), how))
    progress(f"compiling {sha[:12]} with {name}, target {how.target}: this takes long, and once for these sources")
    _run(_command(name, how, platform, work), cwd=work)
    wheels = sorted(output.rglob("*.whl"))
    if len(wheels) != 1:
        raise BuildError(
            f"the compile step left {len(wheels)} wheels in {how.wheels}",
            remedy="check image.vllm.compile.wheels and its target",
        )
    shutil.rmtree(context)
    return wheels[0]


def _exporting(dockerfile: str, how: Compile) -> str:
    """The commit's Dockerfile with one stage more, that holds the wheel and nothing else."""
    return f"{dockerfile.rstrip()}\n\nFROM scratch AS vllm-ci-wheels\nCOPY --from={how.target} {how.wheels}/ /\n"


def _command(name: str, how: Compile, platform: str, work: Path) -> list[str]:
    arguments = [part for key, value in sorted(how.arguments.items()) for part in ("--build-arg", f"{key}={value}")]
    verb = ["docker", "buildx", "build"] if name == "docker" else [name, "build"]
    return [
        *verb,
        *("--file", str(work / _CONTEXT), "--target", "vllm-ci-wheels", "--platform", platform),
        *arguments,
        *("--output", f"type=local,dest={work / 'dist'}", str(work / "source")),
    ]


def _run(command: list[str], *, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(
            f"{command[0]} could not compile the commit",
            why="\n".join((done.stderr or done.stdout).strip().splitlines()[-15:]),
            remedy="mend what that says; the same command by hand: " + " ".join(command),
        )
