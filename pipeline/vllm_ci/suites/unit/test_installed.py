"""The installed packages match the image's manifest and labels."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from typing import Any

import pytest

_DIST_INFO = re.compile(r"/(?:site|dist)-packages/([^/]+)-([^/-]+)\.dist-info/METADATA")  # without vendored packages
_VERSION = "org.opencontainers.image.version"
_REVISION = "org.opencontainers.image.revision"


def normal(name: str) -> str:
    """The normalised name of a project (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def labels(image_config: dict[str, Any]) -> dict[str, str]:
    """Labels of the image."""
    return dict(image_config.get("config", {}).get("Labels") or {})


def test_vllm_can_be_imported() -> None:
    """In a separate process, because an incompatible extension can crash it."""
    code = "import vllm, sys; from vllm import LLM, SamplingParams; sys.stdout.write(vllm.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"importing vllm failed with exit code {done.returncode}: {done.stderr.strip()[-600:]}"


def test_every_distribution_has_the_version_of_its_locked_wheel(manifest: dict[str, Any]) -> None:
    """A second copy that is earlier on the path would be imported instead."""
    locked = {normal(found[1]): found[2] for files in manifest.values() for path in files if (found := _DIST_INFO.search(path))}
    seen = {normal(each.metadata["Name"]): each.version for each in reversed(list(importlib.metadata.distributions()))}
    wrong = {name: (seen.get(name, "none"), version) for name, version in locked.items() if seen.get(name) != version}
    assert locked, "the manifest contains no distributions"
    assert not wrong, "; ".join(f"{name} {found} instead of {version}" for name, (found, version) in sorted(wrong.items())[:10])


def test_the_label_names_the_version_of_vllm_that_is_installed(image_config: dict[str, Any]) -> None:
    """Operators rely on the label."""
    label = labels(image_config).get(_VERSION, "")
    found = {version(name) for name in importlib.metadata.packages_distributions().get("vllm", [])}
    assert found == {label}, f"the label {_VERSION} is {label or 'empty'}, but {sorted(found)} is installed"


def test_the_label_names_the_commit_that_is_tested(image_config: dict[str, Any], pytestconfig: pytest.Config) -> None:
    """The report, the tag and the label must refer to the same commit."""
    commit = pytestconfig.option.vllm_commit
    if not commit:
        pytest.skip("the tested commit is not known (--vllm-commit)")
    revision = labels(image_config).get(_REVISION, "")
    assert revision.removesuffix("-dirty") == commit, f"the tested commit is {commit}, but the label is {revision or 'empty'}"


def version(name: str) -> str:
    """Version of an installed distribution."""
    return importlib.metadata.version(name)
