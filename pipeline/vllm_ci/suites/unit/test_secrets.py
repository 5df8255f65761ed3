"""No secrets in the image's environment, its history or the files of the commit."""

from __future__ import annotations

import re
from typing import Any

from vllm_ci.suites.unit.tree import Tree

_NAME = re.compile(r"(^|_)(API_?KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)($|_)", re.IGNORECASE)
_VALUE = re.compile(
    rb"hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{30,}|glpat-[A-Za-z0-9_-]{20}|sk-[A-Za-z0-9_-]{32,}|AKIA[A-Z0-9]{16}"
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_FILES = re.compile(
    r"/(\.env|\.netrc|\.npmrc|\.pypirc|\.git-credentials|id_rsa|id_ed25519|\.docker/config\.json|\.git/config)$"
)
_OWN = ("commit", "settings")
_LARGEST_BYTES = 4_000_000


def test_the_environment_sets_no_secret(image_config: dict[str, Any]) -> None:
    """Everybody who can pull the image can read its configuration."""
    entries = [str(entry).partition("=") for entry in image_config.get("config", {}).get("Env") or []]
    found = [name for name, _, value in entries if value and (_NAME.search(name) or _VALUE.search(value.encode()))]
    assert not found, f"the image's environment sets {found}; pass secrets when the image runs instead"


def test_the_history_shows_no_secret(image_config: dict[str, Any]) -> None:
    """Build arguments remain in the history."""
    steps = [f"{step.get('created_by', '')} {step.get('comment', '')}" for step in image_config.get("history") or []]
    found = [number for number, step in enumerate(steps) if _VALUE.search(step.encode())]
    assert not found, f"the build steps {found} contain a secret"


def test_the_files_of_the_commit_hold_no_secret(manifest: dict[str, Any], where: Tree) -> None:
    """Files in an image are published with it."""
    found = []
    for owner in _OWN:
        for path in manifest.get(owner, {}):
            place = where.place(path)
            small = place.is_file() and place.stat().st_size <= _LARGEST_BYTES
            if small and _VALUE.search(place.read_bytes()):
                found.append(path)
    assert not found, f"these files seem to contain a secret: {found[:10]}"


def test_no_file_is_one_that_holds_credentials(manifest: dict[str, Any]) -> None:
    """Files such as .netrc or private keys do not belong in an image."""
    found = [path for files in manifest.values() for path in files if _FILES.search(path)]
    assert not found, f"these files usually contain credentials: {found[:10]}"
