"""The user's pipeline in Python: which file it is, and which stages it defines, found without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vllm_ci.domain.errors import ConfigError

PLACE = "ci/pipeline.py"
"""Where it is found beside ``vllm-ci.yaml``."""
DEFAULT = "default"
"""What ``pipeline:`` says for the pipeline of this tool."""


@dataclass(frozen=True, kw_only=True)
class PipelineFile:
    """A Python file with an async function ``pipeline``.

    Attributes:
        path: The file.
        why: How it came to be used, as in ``found beside vllm-ci.yaml``.
    """

    path: Path
    why: str

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the functions in it that are decorated with ``@stage``, as far as the text of the file tells."""
        try:
            tree = ast.parse(self.path.read_bytes())
        except (OSError, SyntaxError, ValueError):  # whoever runs it says what is wrong
            return ()
        return tuple(_decorated(tree))


def find(folder: Path, named: str) -> PipelineFile | None:
    """The pipeline of a project; ``None`` is the default one.

    Args:
        folder: That of ``vllm-ci.yaml``.
        named: ``pipeline`` of the configuration: a path from there, ``default``, or nothing.

    Raises:
        ConfigError: The file that is named does not exist.
    """
    if named == DEFAULT:
        return None
    path = folder / (named or PLACE)
    if path.is_file():
        return PipelineFile(path=path, why="named by `pipeline` in vllm-ci.yaml" if named else "found beside vllm-ci.yaml")
    if named:
        raise ConfigError(
            f"pipeline: there is no file {path}",
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
