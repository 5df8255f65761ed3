"""What CI runs is one command, the one that a laptop runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMMANDS = re.compile(r"ci/run|dagger call test\b.*|dagger -[a-z]+ .*")


def github() -> list[str]:
    document: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert {"name", "jobs", "permissions"} <= set(document)
    steps = [step for job in document["jobs"].values() for step in job["steps"]]
    assert all(("uses" in step) != ("run" in step) for step in steps)
    return [step["run"].strip() for step in steps if "run" in step]


def gitlab() -> list[str]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "ci/gitlab-ci.yml").read_text())
    jobs = {name: job for name, job in document.items() if isinstance(job, dict) and "script" in job}
    assert jobs
    scripts = [job["script"] for job in jobs.values()]
    return [line for script in scripts for line in ([script] if isinstance(script, str) else script)]


def jenkins() -> list[str]:
    text = (ROOT / "ci/Jenkinsfile").read_text()
    assert text.count("{") == text.count("}")
    assert re.search(r"^pipeline \{", text, re.MULTILINE)
    return re.findall(r"\bsh '([^']+)'", text)


@pytest.mark.parametrize("provider", [github, gitlab, jenkins])
def test_a_provider_runs_one_command(provider: Any) -> None:
    (command,) = provider()
    assert COMMANDS.fullmatch(command), command


def test_the_projects_own_ci_runs_the_readmes_test_command() -> None:
    lines = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[-1] == "exec ci/test"
