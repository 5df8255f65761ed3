"""Start pytest inside an image so that the code under test cannot see pytest's dependencies.

Next to this file are ``lib`` (``pytest``, ``_pytest`` and our plugins), ``apart`` (the packages that pytest needs) and
``versions.json`` (their versions). Neither folder is ever on ``sys.path``. An import finder serves the names in ``lib``. The
packages in ``apart`` are submodules of one private package; only pytest and those packages import them, because their import
statements are rewritten when they are loaded. So ``import packaging``, ``importlib.metadata``, entry points,
``pkg_resources``, ``sys.path`` and child processes see only what the image contains. Standard library only.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).absolute().parent
LIBRARY = HERE / "lib"
APART = HERE / "apart"
PRIVATE = "_vllm_ci_apart"


class _Redirect(ast.NodeTransformer):
    """Redirects imports of the packages in ``apart`` to the private package."""

    def __init__(self, versions: dict[str, str], *, strings: bool) -> None:
        self.versions = versions
        # pygments refers to its modules by strings, which must not resolve to the image's copy.
        self.own = re.compile(rf"(?:{'|'.join(map(re.escape, versions))})\.[\w.]*" if strings else r"(?!)")

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        found: list[ast.stmt] = []
        for alias in node.names:
            top, dot, _ = alias.name.partition(".")
            if top not in self.versions:
                found.append(ast.Import(names=[alias]))
                continue
            found.append(
                ast.Import(names=[ast.alias(name=f"{PRIVATE}.{alias.name}", asname=alias.asname or (None if dot else top))])
            )
            if dot and not alias.asname:  # `import a.b` binds `a`
                found.append(ast.Import(names=[ast.alias(name=f"{PRIVATE}.{top}", asname=top)]))
        return [ast.copy_location(each, node) for each in found]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        if not node.level and node.module and node.module.partition(".")[0] in self.versions:
            node.module = f"{PRIVATE}.{node.module}"
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """Replace ``version("pluggy")`` by the version: the metadata is not mounted."""
        self.generic_visit(node)
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        asked = node.args[0].value if len(node.args) == 1 and isinstance(node.args[0], ast.Constant) else None
        if name == "version" and isinstance(asked, str) and asked in self.versions:
            return ast.copy_location(ast.Constant(value=self.versions[asked]), node)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        if isinstance(node.value, str) and self.own.fullmatch(node.value):
            return ast.copy_location(ast.Constant(value=f"{PRIVATE}.{node.value}"), node)
        return node


class _Loader(SourceFileLoader):
    """Loads a module with its imports redirected."""

    versions: dict[str, str]

    def get_code(self, fullname: str) -> Any:
        """Compile from source each time: cached byte code does not have the redirected imports."""
        path = self.get_filename(fullname)
        redirect = _Redirect(self.versions, strings=self.name.startswith(PRIVATE))
        tree = redirect.visit(ast.parse(self.get_data(path), filename=path))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


class Finder:
    """Finds the mounted modules, without their metadata."""

    def __init__(self) -> None:
        self.versions: dict[str, str] = json.loads((HERE / "versions.json").read_text(encoding="utf-8"))
        self.tops = frozenset(entry.name.partition(".")[0] for entry in LIBRARY.iterdir())

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Spec of a mounted module; ``None`` for all other names, which the image provides."""
        top = name.partition(".")[0]
        if name == PRIVATE:
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [str(APART)]
            return spec
        if top not in self.tops and top != PRIVATE:
            return None
        found = PathFinder.find_spec(name, [str(LIBRARY)] if name == top else path, target)
        if found is not None and top in (PRIVATE, "pytest", "_pytest") and isinstance(found.loader, SourceFileLoader):
            found.loader = loader = _Loader(found.loader.name, found.loader.path)
            found.cached = None
            loader.versions = self.versions
        return found


def install() -> None:
    """Install the finder before all others, and remove this folder from the path."""
    sys.path[:] = [entry for entry in sys.path if Path(entry).absolute() != HERE]
    if not any(type(finder).__name__ == Finder.__name__ and type(finder).__module__ == __name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())


def main(arguments: list[str]) -> int:
    """Run pytest; ``--also=FOLDER`` as the first argument adds the user's code at the end of the path."""
    if arguments and arguments[0].startswith("--also="):
        sys.path.append(arguments.pop(0)[len("--also=") :])
    pytest = importlib.import_module("pytest")
    importlib.import_module("_pytest.pytester")  # later, pytest's import hook would load it instead of ours
    return int(pytest.main(arguments))


# Processes spawned by multiprocessing load this file too, under another name, so they also find pytest.
install()
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
