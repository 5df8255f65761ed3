"""docs/release.md and docs/deploy.md are run: every command, in its order, with its output."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from registries import project
from vllm_ci.domain.report import Verdict

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXIT_CODE = re.compile(r"\[exit code (\d+)\]\n?$")


def steps(page: str) -> Iterator[tuple[str, str, int]]:
    """Command, expected output and exit code, in the page's order."""
    for block in BLOCK.findall((DOCS / page).read_text()):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            code = EXIT_CODE.search(output)
            yield command, EXIT_CODE.sub("", output), int(code[1]) if code else 0


def matches(expected: str, got: str) -> bool:
    """Whether `got` is `expected`, in which … stands for anything on a line, and a line of it alone for any lines."""
    pattern = "".join(r"(?:.*\n)*?" if line == "…\n" else _line(line) for line in expected.splitlines(keepends=True))
    return re.fullmatch(pattern, got) is not None


def _line(line: str) -> str:
    return ".*".join(re.escape(part) for part in line.rstrip("\n").split("…")) + r"\s*\n"


def configured(folder: Path, page: str) -> None:
    """The first configuration of a page about deployments; with a release in staging, which its page begins with."""
    content = re.search(r"^```yaml\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    assert content
    with (folder / "vllm-ci.yaml").open("a") as stream:
        stream.write(content[1])
    project.commit(folder, "Hello")
    project.build_and_test(folder)
    subprocess.run(
        [sys.executable, "-m", "vllm_ci", "publish", "--channel", "staging"], cwd=folder, check=True, capture_output=True
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", ["release.md", "deploy.md"])
def test_the_story(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{name}_NAME", "Rita Release")
        monkeypatch.setenv(f"{name}_EMAIL", "rita@example.com")
    for name in ("CI", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "chat"
    project.make_project(folder)
    if page == "deploy.md":
        configured(folder, page)
    ran = 0
    for command, expected, code in steps(page):
        words = shlex.split(command)
        if words[:2] == ["vllm-ci", "run"]:
            # The stages against the real vLLM take minutes and have tests of their own: here is what they leave behind.
            careless = "careless" in (folder / "serving/template.jinja").read_text()
            project.build_and_test(folder, {"security": Verdict.FAILED} if careless else {})
            continue
        if words[:2] == ["git", "commit"]:
            (folder / "serving/template.jinja").write_text(words[-1] + "\n")
        program = [sys.executable, "-m", "vllm_ci"] if words[0] == "vllm-ci" else [words[0]]
        done = subprocess.run(
            [*program, *words[1:]], cwd=folder, capture_output=True, text=True, check=False, env=dict(os.environ)
        )
        output = done.stderr + done.stdout if done.returncode == 0 else done.stdout + done.stderr
        assert done.returncode == code, f"$ {command}\n{output}"
        assert matches(expected, output), f"$ {command}\n--- expected\n{expected}--- got\n{output}"
        ran += 1
    assert ran >= 12
    dirty = subprocess.run(["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert dirty == "", "the story leaves the work tree clean"
