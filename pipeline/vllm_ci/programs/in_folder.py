"""Run a command in a directory: ``python -c SOURCE DIRECTORY COMMAND...``, in whatever environment that Python belongs to.

Programs beside this Python come first on PATH, so that a tool that is installed in the image, or beside vllm-ci, is found.
Python's own scripts are started with this Python: their first line may name one that is only there inside a container. A
command that does not exist ends with 127, as in a shell. Standard library only, any Python 3.8 or newer.
"""

import os
import shutil
import sys


def main(folder: str, argv: "list[str]") -> int:
    """Replace this process."""
    os.chdir(folder)
    beside = os.path.dirname(sys.executable)  # noqa: PTH120 - nothing is imported that is not needed
    os.environ["PATH"] = os.pathsep.join(part for part in (beside, os.environ.get("PATH", "")) if part)
    if argv[0] in ("python", "python3"):
        os.execv(sys.executable, [sys.executable, *argv[1:]])  # noqa: S606 - no shell is wanted
    found = shutil.which(argv[0])
    if found is None:
        sys.stderr.write("%s was not found\n" % argv[0])  # noqa: UP031 - as above
        return 127
    with open(found, "rb") as file:  # noqa: PTH123 - as above
        start = file.readline(256)
    if start.startswith(b"#!") and b"python" in start:
        os.execv(sys.executable, [sys.executable, found, *argv[1:]])  # noqa: S606 - as above
    os.execv(found, argv)  # noqa: S606 - as above
    return 126


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
