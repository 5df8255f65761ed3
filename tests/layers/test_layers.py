"""Arrows point down only: who may import whom, read from the source, and what importing the domain loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vllm_ci

PACKAGE = Path(vllm_ci.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# First match counts; the part of the dotted name below vllm_ci.
LEVELS = (
    ("domain", 0),
    ("home", 1),
    ("vcs", 1),
    ("engine", 1),
    ("programs", 1),
    ("stages", 1),
    ("suites", 1),
    ("loadgen", 1),
    ("registry", 2),
    ("images", 2),
    ("evidence", 2),
    ("release", 2),
    ("deploy", 2),
    ("pipeline", 2),
    ("fitting", 2),
    ("engines", 3),
    ("ci", 3),
    ("report", 3),
    ("config", 3),
    ("cli", 4),
    ("module", 4),
    ("__main__", 4),
)
DAGGER = ("engines.dagger", "module")
# Each calls one outside program (git, uv, apt, the image's Python, a credential helper, the GPU driver's tool); the rest goes
# through an engine.
PROCESSES = (
    *(
        "engines.",
        "vcs",
        "images.uv",
        "images.apt",
        "images.interpreter",
        "images.compiling",
        "registry.credentials",
        "cli.hardware",
    ),
    *("programs.", "suites.unit"),
)


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def level(name: str) -> int:
    if not name:
        return 0
    for prefix, number in LEVELS:
        if name == prefix or name.startswith((prefix + ".", prefix + "_")):
            return number
    raise AssertionError(f"{name} has no place in the house: add it to LEVELS")


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(file: Path) -> Iterator[str]:
    for imported in imports(file):
        if imported.startswith("vllm_ci."):
            name = imported.removeprefix("vllm_ci.")
            path = PACKAGE / Path(*name.split("."))
            if path.is_dir() or path.with_suffix(".py").is_file():
                yield name


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_point_down(file: Path) -> None:
    here = level(name_of(file))
    above = {name for name in ours(file) if level(name) > here}
    assert not above, f"{name_of(file)} (level {here}) imports {sorted(above)}"


def test_only_the_dagger_engine_and_the_module_import_dagger() -> None:
    found = {name_of(file) for file in FILES for name in imports(file) if name.split(".")[0] == "dagger"}
    assert all(name.startswith(DAGGER) for name in found), found


def test_nothing_imports_vllm_or_torch() -> None:
    found = {name_of(file) for file in FILES for name in imports(file) if name.split(".")[0] in ("vllm", "torch")}
    inside = {name for name in found if name.startswith(("programs.", "suites.unit"))}
    assert found == inside, f"only programs that run inside an image may: {found - inside}"


def test_only_few_modules_start_processes() -> None:
    found = {name_of(file) for file in FILES for name in imports(file) if name.split(".")[0] == "subprocess"}
    assert all(name.startswith(PROCESSES) for name in found), found


def test_what_composes_the_verbs_names_no_engine() -> None:
    for file in FILES:
        name = name_of(file)
        if level(name) <= 2:
            assert not any(each.startswith("engines") for each in ours(file)), name


def test_importing_the_domain_loads_the_standard_library_only() -> None:
    code = (
        "import sys, pkgutil, importlib, vllm_ci.domain as d\n"
        "[importlib.import_module('vllm_ci.domain.' + m.name) for m in pkgutil.iter_modules(d.__path__)]\n"
        "print(*sorted({n.split('.')[0] for n in sys.modules} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) <= {"vllm_ci", "__main__"}, done.stdout
