"""Find the user's pipeline file and the stages that it defines, without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vllm_ci.domain.errors import ConfigError

PLACE = "ci/pipeline.py"
"""Default path, relative to ``vllm-ci.yaml``."""
DEFAULT = "default"
"""Value of ``pipeline:`` for the default pipeline of vllm-ci."""


@dataclass(frozen=True, kw_only=True)
class PipelineFile:
    """A Python file with an async function ``pipeline``.

    Attributes:
        path: The file.
        why: Why it is used, as in ``found next to vllm-ci.yaml``.
    """

    path: Path
    why: str

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the functions decorated with ``@stage``, as far as the source shows."""
        try:
            tree = ast.parse(self.path.read_bytes())
        except (OSError, SyntaxError, ValueError):  # reported when the file is imported
            return ()
        return tuple(_decorated(tree))


def find(folder: Path, named: str) -> PipelineFile | None:
    """Find the pipeline of a project; ``None`` means the default one.

    Args:
        folder: Directory of ``vllm-ci.yaml``.
        named: Value of ``pipeline`` in the configuration: a relative path, ``default``, or empty.

    Raises:
        ConfigError: The configured file does not exist.
    """
    if named == DEFAULT:
        return None
    path = folder / (named or PLACE)
    if path.is_file():
        return PipelineFile(path=path, why="set by `pipeline` in vllm-ci.yaml" if named else "found next to vllm-ci.yaml")
    if named:
        raise ConfigError(
            f"pipeline: file not found: {path}",
            remedy="correct the path, or remove `pipeline` to use the default pipeline",
        )
    return None


def _decorated(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                call = decorator if isinstance(decorator, ast.Call) else None
                name = call.func if call else decorator
                if (name.id if isinstance(name, ast.Name) else getattr(name, "attr", "")) == "stage":
                    yield _name(call) or node.name.replace("_", "-")


def _name(call: ast.Call | None) -> str:
    found = [each.value for each in call.keywords if each.arg == "name"] if call else []
    return found[0].value if found and isinstance(found[0], ast.Constant) and isinstance(found[0].value, str) else ""
