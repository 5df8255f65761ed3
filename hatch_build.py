"""Compile the package when Dagger's runtime installs it.

The runtime installs a module in place (editable) into a container that runs once for each function call. The installer compiles
only what it copies, so every call would compile this package and the SDK again, and lose the result with its container.
"""

import compileall
import os
import py_compile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Compile(BuildHookInterface[Any]):
    """Write byte code beside the sources, in Dagger's runtime only."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile the sources of an editable installation."""
        if version == "editable" and "DAGGER_MODULE" in os.environ:
            for folder in ("pipeline/vllm_ci", "sdk/src"):
                path = Path(self.root, folder)
                if path.is_dir():
                    compileall.compile_dir(path, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
