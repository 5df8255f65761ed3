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
        """Names of its functions with ``@stage`` and of its classes of stages, as far as the source shows."""
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
        _check_inside(path, folder)
        return PipelineFile(path=path, why="set by `pipeline` in vllm-ci.yaml" if named else "found next to vllm-ci.yaml")
    if named:
        raise ConfigError(
            f"pipeline: file not found: {path}",
            remedy="correct the path, or remove `pipeline` to use the default pipeline",
        )
    return None


def _check_inside(path: Path, folder: Path) -> None:
    """Check that the file is part of the checkout: the code that is run has to be that of the commit.

    Raises:
        ConfigError: It is a link to another place.
    """
    place = folder.resolve()
    checkout = next((each for each in (place, *place.parents) if (each / ".git").exists()), place)
    if not path.resolve().is_relative_to(checkout):
        raise ConfigError(
            f"the pipeline {path} is outside the checkout",
            why=f"it is a link to {path.resolve()}, which is no part of the commit",
            remedy="copy the file into the repository and commit it",
        )


def _decorated(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and (called := _name_of_class(node)):
            yield called
        if isinstance(node, ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                call = decorator if isinstance(decorator, ast.Call) else None
                name = call.func if call else decorator
                if (name.id if isinstance(name, ast.Name) else getattr(name, "attr", "")) == "stage":
                    yield _name(call) or node.name.replace("_", "-")


def _name_of_class(node: ast.ClassDef) -> str:
    """The name of a stage that is written as a class, as far as it is a constant; empty for any other class."""
    methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
    values = [each.value for each in node.body if isinstance(each, ast.Assign) and _assigns(each, "name")]
    values += [each.value for each in node.body if isinstance(each, ast.AnnAssign) and each.value and _assigns(each, "name")]
    if not {"programs", "result"} <= methods or not values or not isinstance(values[0], ast.Constant):
        return ""
    return str(values[0].value)


def _assigns(node: ast.Assign | ast.AnnAssign, name: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return any(isinstance(each, ast.Name) and each.id == name for each in targets)


def _name(call: ast.Call | None) -> str:
    found = [each.value for each in call.keywords if each.arg == "name"] if call else []
    return found[0].value if found and isinstance(found[0], ast.Constant) and isinstance(found[0].value, str) else ""
