"""Every class of error has its entry in the documentation, with the exit code that it has."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import vllm_ci

ROOT = Path(vllm_ci.__file__).parent
DOCUMENT = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
_ENTRY = re.compile(r"^\| `(\w+)` \| (\d+) \|", re.MULTILINE)


def _exit_codes() -> dict[str, int]:
    """Exit code of each class below the root of all errors, read from the source: a module may need what is not installed."""
    classes = [
        node
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    codes = {"VllmCiError": 3}
    while True:
        found = {node.name: _own(node, codes[base]) for node in classes for base in _bases(node) if base in codes}
        if found.keys() <= codes.keys():
            return found
        codes |= found


def _bases(node: ast.ClassDef) -> list[str]:
    return [base.id for base in node.bases if isinstance(base, ast.Name)]


def _own(node: ast.ClassDef, inherited: int) -> int:
    for line in node.body:
        match line:
            case ast.Assign(targets=[ast.Name(id="exit_code")], value=ast.Constant(value=int(code))):
                return code
    return inherited


def test_every_class_of_error_has_its_entry() -> None:
    documented = {name: int(exit_code) for name, exit_code in _ENTRY.findall(DOCUMENT.read_text(encoding="utf-8"))}
    assert documented == _exit_codes()
