"""The image of the server: its user, secrets and origin."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from vllm_ci.suites.findings import Finding

Judge = Callable[[Iterable[Finding]], None]

_SECRET_NAME = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)($|_)", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"(hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16}|-----BEGIN [A-Z ]*PRIVATE KEY)"
)
_REVISION = "org.opencontainers.image.revision"


def test_it_does_not_run_as_root(image_config: dict[str, Any], judge: Judge) -> None:
    """An attacker who compromises the server should not be root in the container."""
    user = str(image_config.get("config", {}).get("User", ""))
    root = user.partition(":")[0] in ("", "0", "root")
    message = f"runs as {user or 'root (no user is set)'}"
    judge([Finding(id="runs-as-root", severity="medium", message=message)] if root else [])


def test_its_environment_holds_no_secret(image_config: dict[str, Any], judge: Judge) -> None:
    """Everybody who can pull the image can read its configuration."""
    entries = [str(entry).partition("=") for entry in image_config.get("config", {}).get("Env", [])]
    found = [name for name, _, value in entries if value and (_SECRET_NAME.search(name) or _SECRET_VALUE.search(value))]
    judge(Finding(id=f"secret-in-env:{name}", severity="critical", message=f"the environment sets {name}") for name in found)


def test_its_history_holds_no_secret(image_config: dict[str, Any], judge: Judge) -> None:
    """Build arguments remain in the history."""
    steps = [f"{step.get('created_by', '')} {step.get('comment', '')}" for step in image_config.get("history", [])]
    found = [number for number, step in enumerate(steps) if _SECRET_VALUE.search(step)]
    judge(
        Finding(id=f"secret-in-history:{number}", severity="critical", message="a build step contains a secret")
        for number in found
    )


def test_it_says_which_commit_it_was_built_from(image_config: dict[str, Any], judge: Judge) -> None:
    """An image must be traceable to its commit, so that it can be fixed."""
    revision = str(image_config.get("config", {}).get("Labels", {}).get(_REVISION, ""))
    message = f"its label {_REVISION} is {revision!r}, not a commit"
    found = Finding(id="no-revision", severity="medium", message=message)
    judge([] if re.fullmatch(r"[0-9a-f]{40}(-dirty)?", revision) else [found])
