"""The public interface: what ``import vllm_ci`` offers, and what it costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vllm_ci

PACKAGE = Path(vllm_ci.__file__).parent
PUBLIC: dict[str, str] = vars(vllm_ci)["_PUBLIC"]


def test_every_public_name_is_there_and_unknown_ones_are_not() -> None:
    for name in vllm_ci.__all__:
        assert getattr(vllm_ci, name) is not None
    assert set(vllm_ci.__all__) <= set(dir(vllm_ci))
    assert not hasattr(vllm_ci, "Pipelines")


def test_type_checkers_see_the_same_names() -> None:
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    found = {(alias.name, node.module) for node in ast.walk(stub) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert found == set(PUBLIC.items())
    (listed,) = (ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign))
    assert sorted(listed) == sorted(vllm_ci.__all__)


def test_every_public_name_is_documented() -> None:
    bare = [name for name in PUBLIC if not (getattr(vllm_ci, name).__doc__ or "").strip()]
    assert not bare


def test_importing_the_package_loads_the_standard_library_only() -> None:
    code = "import sys; before = set(sys.modules); import vllm_ci; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": str(PACKAGE.parent)}, capture_output=True, text=True, check=True
    )
    assert {name for name in done.stdout.split() if name.split(".")[0] not in sys.stdlib_module_names} == {"vllm_ci"}


@pytest.mark.slow
def test_the_help_of_the_command_line_loads_no_pipeline() -> None:
    code = "import sys; from vllm_ci.cli import root; root.main(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(PACKAGE.parent)}, capture_output=True, text=True, check=True
    )
    loaded = done.stdout.splitlines()[-1].split()
    assert not {"pydantic", "httpx", "anyio", "vllm_ci.pipeline"} & set(loaded)
