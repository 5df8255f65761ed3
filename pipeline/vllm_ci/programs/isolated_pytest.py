"""Start pytest inside an image so that the code under test does not see what pytest needs.

Beside this file lie ``lib`` (``pytest``, ``_pytest`` and our own parts), ``apart`` (the packages that pytest needs) and
``versions.json`` (their versions). Neither folder is ever on ``sys.path``. A finder of our own serves the names in ``lib``; the packages in
``apart`` are submodules of one private package, and only code of pytest and of those packages is led to them: its import statements are
changed when it is loaded. So ``import packaging``, ``importlib.metadata``, entry points, ``pkg_resources``, ``sys.path`` and child processes
all show what the image holds, and nothing else. Standard library only.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
LIBRARY = os.path.join(HERE, "lib")
APART = os.path.join(HERE, "apart")
PRIVATE = "_vllm_ci_apart"


class _Redirect(ast.NodeTransformer):
    """Leads imports of the packages in ``apart`` to the private package."""

    def __init__(self, versions: dict[str, str], *, strings: bool) -> None:
        self.versions = versions
        # pygments names its own modules in strings; as names of entry points they must not match the image's either.
        self.own = re.compile(rf"(?:{'|'.join(map(re.escape, versions))})\.[\w.]*" if strings else r"(?!)")

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:  # noqa: N802 - the name is ast's
        found: list[ast.stmt] = []
        for alias in node.names:
            top, dot, _ = alias.name.partition(".")
            if top not in self.versions:
                found.append(ast.Import(names=[alias]))
                continue
            found.append(ast.Import(names=[ast.alias(name=f"{PRIVATE}.{alias.name}", asname=alias.asname or (None if dot else top))]))
            if dot and not alias.asname:  # `import a.b` binds `a`
                found.append(ast.Import(names=[ast.alias(name=f"{PRIVATE}.{top}", asname=top)]))
        return [ast.copy_location(each, node) for each in found]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:  # noqa: N802
        if not node.level and node.module and node.module.partition(".")[0] in self.versions:
            node.module = f"{PRIVATE}.{node.module}"
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:  # noqa: N802
        """``version("pluggy")`` is asked of the metadata, which is not mounted."""
        self.generic_visit(node)
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        asked = node.args[0].value if len(node.args) == 1 and isinstance(node.args[0], ast.Constant) else None
        if name == "version" and isinstance(asked, str) and asked in self.versions:
            return ast.copy_location(ast.Constant(value=self.versions[asked]), node)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:  # noqa: N802
        if isinstance(node.value, str) and self.own.fullmatch(node.value):
            return ast.copy_location(ast.Constant(value=f"{PRIVATE}.{node.value}"), node)
        return node


class _Loader(SourceFileLoader):
    """Loads a module with its imports redirected; no byte code is kept."""

    versions: dict[str, str]

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:
        redirect = _Redirect(self.versions, strings=self.name.startswith(PRIVATE))
        tree = redirect.visit(ast.parse(data, filename=path))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True, optimize=_optimize)

    def cache_from_source(self, path: str) -> str:
        raise NotImplementedError  # what Python had kept of the file was made without us

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


class Finder:
    """Serves the mounted modules, and no metadata of them."""

    def __init__(self) -> None:
        with open(os.path.join(HERE, "versions.json"), encoding="utf-8") as file:
            self.versions: dict[str, str] = json.load(file)
        self.tops = frozenset(entry.partition(".")[0] for entry in os.listdir(LIBRARY))

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Spec of a mounted module; ``None`` leaves the name to the image."""
        top = name.partition(".")[0]
        if name == PRIVATE:
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [APART]
            return spec
        if top not in self.tops and top != PRIVATE:
            return None
        found = PathFinder.find_spec(name, [LIBRARY] if name == top else path, target)
        if found is not None and top in (PRIVATE, "pytest", "_pytest") and isinstance(found.loader, SourceFileLoader):
            found.loader = loader = _Loader(found.loader.name, found.loader.path)
            found.cached = None
            loader.versions = self.versions
        return found


def install() -> None:
    """Put the finder before all others, and this folder off the path."""
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != HERE]
    if not any(type(finder).__name__ == Finder.__name__ and type(finder).__module__ == __name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())


def main(arguments: list[str]) -> int:
    """Run pytest; ``--also=FOLDER`` as the first argument puts the user's own code last on the path."""
    if arguments and arguments[0].startswith("--also="):
        sys.path.append(arguments.pop(0)[len("--also=") :])
    pytest = importlib.import_module("pytest")
    importlib.import_module("_pytest.pytester")  # later, pytest's own import hook would load it past ours
    return int(pytest.main(arguments))


# In processes that multiprocessing spawns this file is loaded as well, under another name: they find pytest, too.
install()
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
