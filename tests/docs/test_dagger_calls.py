"""Calls of the Dagger module in the documents: functions that exist, with options that they know. Seen without an engine."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from dagger.mod import default_module

from vllm_ci.module.main import VllmCi

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
CALL = re.compile(r"dagger (?:-m <git url>@<tag> )?call ([^`#|]*(?:\\\|[^`#|]*)*)")
OBJECTS: dict[str, Any] = default_module()._objects
# Of Dagger's own command line.
OPTIONS = {"--help", "--json", "--output"}


def kebab(name: str) -> str:
    return name.replace("_", "-")


def calls(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return [call.strip() for line in text.splitlines() for call in CALL.findall(line) if not call.startswith("vllm-ci ")]


def unknown(call: str) -> str:
    """The first word of a call that the module does not know; empty when it knows all of them."""
    holder: Any = OBJECTS[VllmCi.__name__]
    parameters: dict[str, Any] = holder.get_constructor(default_module()._converter).parameters
    words = shlex.split(call.replace("...", " "))
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            name = word.partition("=")[0]
            known = {f"--{kebab(each.name)}": each for each in parameters.values()}
            if name in OPTIONS:
                continue
            if name not in known:
                return word
            if "=" not in word and known[name].resolved_type is not bool:
                words = words[1:]
            continue
        if holder is None:
            return ""  # what follows is a type of Dagger's
        functions = {kebab(name): each for name, each in holder.functions.items() if name}
        if word in {kebab(name) for name in holder.fields}:
            return ""
        if word not in functions:
            return word
        parameters = functions[word].parameters
        holder = OBJECTS.get(getattr(functions[word].return_type, "__name__", ""))
    return ""


@pytest.mark.parametrize("page", [page for page in PAGES if calls(page)], ids=lambda page: str(page.relative_to(ROOT)))
def test_calls_in_the_text_exist_and_know_their_options(page: Path) -> None:
    assert {call: word for call in calls(page) if (word := unknown(call))} == {}


def test_the_page_on_dagger_shows_every_function() -> None:
    text = "\n".join(calls(ROOT / "docs" / "dagger.md"))
    shown = set(re.findall(r"[a-z-]+", text))
    functions = {kebab(name) for each in OBJECTS.values() for name in each.functions if name}
    assert functions - shown - {"integration", "streaming", "security", "prune", "push"} == set()


@pytest.mark.parametrize(
    "call", ["build nothing", "--sourc . build", "run --stage unit", "release --key env://X publish --chanel x"]
)
def test_a_call_that_is_wrong_is_found(call: str) -> None:
    assert unknown(call)
