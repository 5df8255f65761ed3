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
    ("system", 1),
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
    ("engines", 3),
    ("ci", 3),
    ("report", 3),
    ("config", 3),
    ("api", 4),
    ("cli", 4),
    ("module", 4),
    ("__main__", 4),
)
DAGGER = ("engines.dagger", "module")
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


def level(name: str) -> int:
    if not name:
        return 0
    for prefix, number in LEVELS:
        if name == prefix or name.startswith((prefix + ".", prefix + "_")):
            return number
    raise AssertionError(f"{name} has no place in the house: add it to LEVELS")


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
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
