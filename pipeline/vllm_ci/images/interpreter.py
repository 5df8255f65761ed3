"""The image's own interpreter, run here without a container: through its own dynamic loader, out of its unpacked tree.

The one module of the builder that starts a program of an image. Byte code has to come from the very interpreter that loads it.
"""

from __future__ import annotations

import queue
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from vllm_ci.domain.errors import BuildError, ErroredError, UsageError
from vllm_ci.system import external

_LOADERS = {
    "linux/amd64": ("x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
    "linux/arm64": ("aarch64-linux-gnu", "ld-linux-aarch64.so.1"),
}
_SCRIPT = Path(__file__).with_name("_compiler.py")


def argv(root: Path, program: str, platform: str) -> list[str]:
    """Command that runs ``program`` (absolute path in the image) out of the tree ``root``.

    Args:
        root: Unpacked root file system of this machine's platform.
        program: Absolute path in the image.
        platform: Platform of the tree (``linux/amd64``).
    """
    triplet, loader = _LOADERS[platform]
    libraries = f"{root}/usr/lib/{triplet}:{root}/usr/lib"
    return [f"{root}/usr/lib/{triplet}/{loader}", "--library-path", libraries, "--argv0", program, f"{root}{program}"]


def interpreter(root: Path, python: str, platform: str) -> tuple[list[str], dict[str, str]]:
    """Command of a base's Python, and the environment that it needs to find its own library."""
    return argv(root, f"/usr/bin/python{python}", platform), {"PYTHONHOME": f"{root}/usr"}


class Compilers:
    """A pool of interpreters that compile; each is started when it is first needed."""

    def __init__(self, root: Path, python: str, platform: str, *, size: int) -> None:
        command, home = interpreter(root, python, platform)
        self._command = [*command, "-S", "-B", str(_SCRIPT)]
        # Nothing of this machine's environment may leak into the byte code; sets are written in hash order.
        self._environment = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", **home}
        self._idle: queue.Queue[external.Process | None] = queue.Queue()
        self._started = ExitStack()
        for _ in range(size):
            self._idle.put(None)

    def compile(self, sources: Sequence[tuple[str, bytes]]) -> list[bytes]:
        """The ``.pyc`` files of sources that lie at these absolute paths in the image; empty for one that does not compile.

        Several at once cost fewer turns between the threads here, each of which may take longer than compiling a file.

        Raises:
            BuildError: The interpreter died.
        """
        process = self._idle.get()
        try:
            process = process or self._start()
            assert process.stdin is not None  # noqa: S101
            assert process.stdout is not None  # noqa: S101
            names = [path.encode("utf-8", "surrogateescape") for path, _ in sources]
            pieces = [struct.pack("<I", len(sources))]
            for name, (_, source) in zip(names, sources, strict=True):
                pieces += (struct.pack("<II", len(name), len(source)), name, source)
            process.stdin.write(b"".join(pieces))
            process.stdin.flush()
            return [_answer(process.stdout, path) for path, _ in sources]
        finally:
            self._idle.put(process)

    def _start(self) -> external.Process:
        try:
            return self._started.enter_context(
                external.conversation(self._command, what="the image's Python", env=self._environment, cwd=Path("/"))
            )
        except (ErroredError, UsageError) as error:
            raise BuildError(
                "the base's interpreter does not start on this machine",
                why=error.why or error.message,
                remedy="build on Linux, on one of the platforms that the Debian lock covers",
            ) from error

    def close(self) -> None:
        """End the interpreters."""
        self._started.close()


def _answer(stream: IO[bytes], path: str) -> bytes:
    """The next ``.pyc`` file."""
    header = stream.read(4)
    if len(header) < 4:
        raise BuildError(
            f"the image's interpreter crashed while compiling {path}",
            remedy="run it again, then report it",
        )
    return stream.read(struct.unpack("<I", header)[0])


@contextmanager
def compilers(root: Path, python: str, platform: str, *, size: int) -> Iterator[Compilers]:
    """A pool that ends with the context."""
    pool = Compilers(root, python, platform, size=size)
    try:
        yield pool
    finally:
        pool.close()
