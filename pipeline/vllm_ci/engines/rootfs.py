"""Runs programs of an image from its unpacked files: without a container, root privileges or namespaces.

The image's interpreter starts through the image's own dynamic loader (``ld.so --library-path --argv0``, glibc 2.33 or newer),
so that it does not use the host's libc and libraries. A directory with a ``pyvenv.cfg`` next to a launcher makes the
interpreter find the image's standard library and site-packages (PEP 405); in child processes too, because ``sys.executable`` is
the launcher.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_ci.domain.errors import EngineError

# The limit of Linux (path_resolution(7)).
_MOST_LINKS = 40


@dataclass(frozen=True, kw_only=True)
class RootFilesystem:
    """An unpacked image and how to run its Python.

    Attributes:
        root: Top directory of the files; never written to.
        bin: Directory with launchers named ``python`` and ``python3``; first on ``PATH``.
        env: The image's environment, with its paths mapped to the unpacked files.
        loader: Command prefix that runs a program of the image; append its path and arguments.
    """

    root: Path
    bin: Path
    env: Mapping[str, str]
    loader: tuple[str, ...]

    def arguments(self, argv: Sequence[str]) -> tuple[str, ...]:
        """``argv`` with paths of the image (``/x``, ``--option=/x``) mapped to the unpacked files, if they exist there."""
        return tuple(self._inside(argument) for argument in argv)

    def executable(self, path: Path) -> tuple[str, ...]:
        """Command that runs the file ``path``: the image's Python, a Python script, or another program.

        Raises:
            EngineError: It is none of these.
        """
        real = resolve(self.root, path) or path
        launcher = str(self.bin / "python")
        if (self.bin / real.name).exists():
            return (launcher,)
        with real.open("rb") as file:
            start = file.readline(256)
        if start.startswith(b"#!") and b"python" in start:
            return (launcher, str(real))
        if start.startswith(b"\x7fELF"):
            return (*self.loader, str(real))
        raise EngineError(
            f"the host engine cannot run {path} of the image",
            why="it is neither a Python script nor an ELF program",
            remedy="run a Python script or an ELF program, or use an engine with containers (--engine dagger)",
        )

    def _inside(self, argument: str) -> str:
        option, separator, value = argument.rpartition("=") if argument.startswith("-") else ("", "", argument)
        return f"{option}{separator}{inside(self.root, value)}"


def inside(root: Path, path: str) -> str:
    """``path`` below ``root`` if it is absolute and exists there, otherwise unchanged; links are followed inside ``root``."""
    if len(path) > 1 and path.startswith("/") and not {"\n", "\0"} & set(path) and len(path) < 1024:
        with suppress(OSError):  # the name is too long for a path
            if (found := resolve(root, root / path.lstrip("/"))) is not None:
                return str(found)
    return path


def prepare(root: Path, config: Mapping[str, Any], launchers: Path) -> RootFilesystem:
    """Create launchers for the unpacked image ``root`` below ``launchers``, if they are not there.

    They have one path for all programs of an image: it is part of the commands with which torch compiles kernels, and torch
    looks for a compiled kernel under its command.

    Args:
        root: Unpacked image.
        config: OCI image configuration (``config.Env``), image-spec "Image Configuration".
        launchers: Directory with the launchers of all images.

    Raises:
        EngineError: The image has no Python interpreter or no glibc loader.
    """
    image_env = dict(entry.partition("=")[::2] for entry in config.get("config", {}).get("Env") or ())
    interpreter, site_packages = _interpreter(root, image_env.get("PATH", "/usr/bin"))
    loader = _one(root, "usr/lib/*/ld-linux-*.so.*", "lib/*/ld-linux-*.so.*", "usr/lib64/ld-linux-*.so.*")
    libraries = ":".join(str(path) for path in (loader.parent, root / "usr/lib", root / "usr/local/lib"))
    run = (str(loader), "--library-path", libraries)
    key = "\0".join((str(root), *run, str(interpreter), str(site_packages)))
    place = launchers / f"{root.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    folder = place / "bin"
    for name in ("python", "python3", interpreter.name):
        command = [*run, "--argv0", str(folder / name), str(interpreter)]
        _write(folder / name, f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', mode=0o755)
    _write(place / "pyvenv.cfg", f"home = {interpreter.parent}\ninclude-system-site-packages = false\n", mode=0o644)
    if site_packages is not None:
        link = place / "lib" / interpreter.name / "site-packages"
        link.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            link.symlink_to(site_packages)
    env = {name: ":".join(inside(root, part) for part in value.split(":")) for name, value in image_env.items()}
    env["PATH"] = f"{folder}:{env.get('PATH', '')}:/usr/bin:/bin".replace("::", ":")
    return RootFilesystem(root=root, bin=folder, env=env, loader=run)


def _write(path: Path, text: str, *, mode: int) -> None:
    """Write a file if it is not there as it should be; other processes see it whole, or not."""
    with suppress(FileNotFoundError):
        if path.read_text(encoding="utf-8") == text and path.stat().st_mode & 0o777 == mode:
            return
    from vllm_ci.images import store

    path.parent.mkdir(parents=True, exist_ok=True)
    with store.appearing(path, durable=False, mode=mode) as part:
        part.write_text(text, encoding="utf-8")


def _interpreter(root: Path, path: str) -> tuple[Path, Path | None]:
    """The real path of ``python`` on the image's ``PATH``, and the site-packages of its virtual environment."""
    for folder in path.split(":"):
        for name in ("python", "python3"):
            real = resolve(root, root / folder.lstrip("/") / name)
            if real is None or not real.is_file():
                continue
            prefix = resolve(root, root / folder.lstrip("/") / "..") or root
            found = _found(root, prefix, "lib/python3.*/site-packages")
            return real, found[0] if (prefix / "pyvenv.cfg").is_file() and found else None
    raise EngineError(
        f"the image in {root} has no python on its PATH {path}",
        why="the host engine can only run images with a Python environment",
        remedy="use an engine with containers (--engine dagger) for this image",
    )


def resolve(root: Path, path: Path) -> Path | None:
    """Resolve ``path`` as inside the image, with ``root`` as ``/``; ``None`` if it does not exist.

    No component of the result is a link, so opening it never leaves the image's files.
    """
    here, links = root, 0
    pending = str(path.relative_to(root)).split("/")[::-1]
    while pending:
        if (part := pending.pop()) == "..":
            here = here if here == root else here.parent
        elif part not in {"", "."}:
            here /= part
            if here.is_symlink():
                links += 1
                target = os.readlink(here)  # noqa: PTH115 - pathlib treats // as a separate root
                if links > _MOST_LINKS:
                    return None
                here = root if target.startswith("/") else here.parent
                pending += target.split("/")[::-1]
    return here if here.exists() else None


def _one(root: Path, *patterns: str) -> Path:
    for pattern in patterns:
        for found in _found(root, root, pattern):
            return found
    raise EngineError(
        f"the image in {root} has no glibc loader",
        why="the host engine cannot run images with musl or without a C library",
        remedy="use an engine with containers (--engine dagger) for this image",
    )


def _found(root: Path, folder: Path, pattern: str) -> list[Path]:
    """Real paths of the matches below a directory of the image."""
    return [real for path in sorted(folder.glob(pattern)) if (real := resolve(root, path)) is not None]
