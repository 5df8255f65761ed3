"""Which modules may import which (contracts of import-linter), and what only some modules may do, read from the source."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vllm_ci

PACKAGE = Path(vllm_ci.__file__).parent
ROOT = PACKAGE.parent.parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Engines start what is tested, one module starts the programs of other people; what runs inside an image is neither.
PROCESSES = ("engines.", "system.external", "system.external_guard")
INSIDE = ("programs.", "suites.unit")
STARTERS = {"subprocess", "pty", "multiprocessing"}
STARTING_CALLS = {
    *("os.system", "os.popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.posix_spawnp", "os.startfile"),
    *("anyio.run_process", "anyio.open_process", "asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell"),
}


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def contracts(package: Path) -> subprocess.CompletedProcess[str]:
    """What import-linter says of a package, by the contracts in pyproject.toml."""
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache", ROOT / "pyproject.toml"],
        env={"PYTHONPATH": str(package.parent), "NO_COLOR": "1"},
        cwd=package.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_imports_keep_the_contracts() -> None:
    done = contracts(PACKAGE)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("domain/bad.py", "from vllm_ci import cli", "Imports point down"),
        ("release/bad.py", "def late():\n    from vllm_ci.engines import host", "Imports point down"),
        ("attic.py", "", "attic"),
        ("cli/bad.py", "import dagger", "import dagger"),
        ("images/bad.py", "import torch", "Nothing imports vllm or torch"),
        ("evidence/bundle.py", "from vllm_ci.evidence import keys", "A bundle knows no key"),
    ],
)
def test_a_broken_contract_is_named(file: str, line: str, broken: str, tmp_path: Path) -> None:
    copy = tmp_path / PACKAGE.name
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "data"))
    (copy / file).write_text(f"{line}\n", encoding="utf-8")
    done = contracts(copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert broken in done.stdout + done.stderr


def calls(file: Path) -> Iterator[ast.Call]:
    yield from (node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))


def starts(file: Path) -> bool:
    """Whether a module can start a program: by its imports, or by a function of another module."""
    called = {ast.unparse(call.func) for call in calls(file)}
    execs = any(name.startswith(("os.exec", "os.spawn")) for name in called)
    return execs or bool(called & STARTING_CALLS) or any(name.split(".")[0] in STARTERS for name in imports(file))


def test_only_the_engines_and_one_module_start_programs() -> None:
    found = {name for name in map(name_of, filter(starts, FILES)) if not name.startswith(INSIDE)}
    assert all(name.startswith("engines.") or name in PROCESSES for name in found), found
    assert {"system.external", "system.external_guard"} <= found, "the check sees nothing"


def test_only_one_module_takes_lock_files() -> None:
    found = {name_of(file) for file in FILES for name in imports(file) if name.split(".")[0] == "fcntl"}
    assert found == {"system.filelock"}


def test_temporary_files_have_a_place_that_is_cleaned() -> None:
    """What is made in the system's directory for temporary files stays there for ever when its maker is killed."""
    making = {"mkdtemp", "mkstemp", "TemporaryDirectory", "NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile"}
    found = {
        name_of(file)
        for file in FILES
        for call in calls(file)
        if ast.unparse(call.func).removeprefix("tempfile.") in making and not any(each.arg == "dir" for each in call.keywords)
    }
    assert all(name.startswith(INSIDE) for name in found), found


def test_text_is_read_and_written_in_a_named_encoding() -> None:
    """What ruff's rule (PLW1514) sees only where it can tell that something is a path."""
    found = [f"{name_of(file)}:{call.lineno}" for file in FILES for call in calls(file) if is_unspecified(call)]
    assert not found, found


def is_unspecified(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
    named = {each.arg for each in call.keywords}
    if name == "read_text":
        return not call.args and "encoding" not in named
    if name == "write_text":
        return len(call.args) < 2 and "encoding" not in named
    if name not in {"open", "fdopen"} or ast.unparse(call.func) == "os.open":
        return False
    mode = [each.value for each in call.keywords if each.arg == "mode"]
    modes = [node.value for node in (*call.args, *mode) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    text = any(set(each) <= set("rwaxt+") and each for each in modes) or (name == "open" and isinstance(call.func, ast.Name))
    return text and not any("b" in each for each in modes) and "encoding" not in named


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
