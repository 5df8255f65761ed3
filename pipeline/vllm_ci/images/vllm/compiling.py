"""The compile step: a target of the commit's own Dockerfile, run by the container builder that is installed here.

The one module of the builder that starts docker, podman or buildah.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vllm_ci.domain.errors import BuildError, UsageError
from vllm_ci.domain.events import Emit, step
from vllm_ci.domain.image_spec import Compile
from vllm_ci.system import external, scratch
from vllm_ci.system.vcs import git

_PROGRAMS = ("docker", "podman", "buildah")
_CONTEXT = "Dockerfile.vllm-ci"
# All kernels of vLLM, on few cores.
_DEADLINE_S = 6 * 3600.0


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


@contextmanager
def compile_wheel(how: Compile, *, root: Path, sha: str, platform: str, emit: Emit) -> Iterator[Path]:
    """Compile a commit; the wheel is there for as long as the context lasts.

    The build context is a clone of the commit with its ``.git``, which upstream mounts and takes the version from.

    Raises:
        BuildError: The build failed, or left no wheel.
        ErroredError: It did not end in time.
        UsageError: There is no container builder.
    """
    name = program(how.program)
    with scratch.folder("compile-") as work:
        _prepare(work, how, root, sha)
        with step(emit, "compile", f"{sha[:12]} with {name}, target {how.target}: long, and once for these sources"):
            _run(_command(name, how, platform, work), work)
        wheels = sorted((work / "dist").rglob("*.whl"))
        if len(wheels) != 1:
            raise BuildError(
                f"the compile step left {len(wheels)} wheels in {how.wheels}",
                remedy="check image.vllm.compile.wheels and its target",
            )
        shutil.rmtree(work / "source", ignore_errors=True)
        yield wheels[0]


def _prepare(work: Path, how: Compile, root: Path, sha: str) -> None:
    context = work / "source"
    git("clone", "--quiet", "--no-checkout", str(root), str(context), cwd=work)
    git("checkout", "--quiet", "--detach", sha, cwd=context)
    dockerfile = (context / how.dockerfile).read_text(encoding="utf-8", errors="surrogateescape")
    (work / _CONTEXT).write_text(_exporting(dockerfile, how), encoding="utf-8", errors="surrogateescape")


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


def _run(command: list[str], work: Path) -> None:
    done = external.run(
        command,
        what=f"{command[0]} build",
        deadline_s=_DEADLINE_S,
        cwd=work,
        env={**os.environ, "TMPDIR": str(work)},
        only_tail=True,
    )
    if done.exit_code:
        raise BuildError(
            f"{command[0]} could not compile the commit",
            why=done.tail(),
            remedy="fix the error above and run again; the same command by hand: " + " ".join(command),
        )
