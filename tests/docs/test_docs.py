"""What the documents promise: commands that exist, links that lead somewhere, help that is current."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from vllm_ci.cli import COMMANDS, reference, root

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
CALL = re.compile(r"(?:^|`|\$ |    )(?:VLLM_CI_\w+=\S+ )?(?:vllm-ci|ci/run) ([a-z][^`#|>\n]*)", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    lost = [
        link
        for link in LINK.findall(page.read_text(encoding="utf-8"))
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert not lost


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_text_exist_and_know_their_options(page: Path) -> None:
    for call in CALL.findall(page.read_text(encoding="utf-8")):
        words = shlex.split(call.replace("…", " ").replace("...", " ").replace("[", " ").replace("]", " "), comments=True)
        words = [word.rstrip(".,;:)") for word in words]
        if not words or words[0] not in COMMANDS:
            continue
        command: click.Command | None = root
        context = click.Context(root)
        while isinstance(command, click.Group) and words and (found := command.get_command(context, words[0])) is not None:
            command, words = found, words[1:]
        assert command is not None
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {
            "--help",
            "-h",
        }
        unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]
        assert not unknown, f"`vllm-ci {call}`: {unknown}"


def test_the_reference_is_what_help_prints() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == reference.text(), (
        "write it anew: python -m vllm_ci.cli.reference > docs/cli.md"
    )


def test_the_two_commands_of_the_readme_are_programs() -> None:
    text = (ROOT / "README.md").read_text()
    for name in ("ci/run", "ci/test"):
        assert f"    {name} " in text
        assert (ROOT / name).stat().st_mode & 0o111
        subprocess.run(["sh", "-n", str(ROOT / name)], check=True)


def test_the_readme_fits_one_screen() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 60


@pytest.mark.parametrize(
    "lock", [*ROOT.glob("*.lock"), *ROOT.glob("ci/*.lock"), *ROOT.glob("images/*.lock")], ids=lambda path: path.name
)
def test_locks_hold_no_addresses_and_no_paths(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    assert "://" not in text
    assert "file:" not in text
    assert not re.search(r"^\s*--(?:index-url|extra-index-url|find-links)", text, re.MULTILINE)


def test_every_dependency_says_why_it_is_there() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[<>=!~;\[ ]", entry)[0] for entry in project["dependencies"]]
    table = (ROOT / "docs" / "decisions" / "dependencies.md").read_text()
    missing = [name for name in names if not re.search(rf"^\| {re.escape(name)} \|", table, re.MULTILINE)]
    assert not missing
