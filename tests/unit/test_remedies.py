"""A remedy names only what exists: every command, option, variable and configuration key in one is looked up."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import BaseModel

import vllm_ci
from vllm_ci.cli import COMMANDS, root
from vllm_ci.config.project import ProjectConfig
from vllm_ci.config.retraining import RetrainConfig

pytestmark = pytest.mark.slow

PACKAGE = Path(vllm_ci.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# Options of other programs, with the program that takes them.
FOREIGN = {
    "--max-model-len": "vllm serve",
    "--unshallow": "git fetch",
    "--local": "git clone",
    "--all": "git log",
    "--global": "git config",
    "--add": "git config",
    "--object-format": "git init",
    "--format": "trivy or grype",
    "--output": "grype",
}
# Words before the name of this tool where a sentence is about the tool, not about a command.
ABOUT = re.compile(r"(the|newer|of|beside|in|by|another) vllm-ci$")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
VARIABLE = re.compile(r"VLLM_CI_[A-Z_]+[A-Z]")
CALL = re.compile(r"vllm-ci((?: +[^\s,;:()]+)*)")
SECTIONS = "|".join(ProjectConfig.model_fields)
KEY = re.compile(rf"(?<![\w/.-])(?:{SECTIONS})(?:\.[a-z][a-z_]*)+(?![\w/-])")
QUOTED = re.compile(r"`([a-z_]+)(?::[^`]*)?`")
FILE_NAMES = ("json", "yaml", "html", "pub", "lock", "md")


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """A remedy in the source; `{}` stands for what is filled in."""

    place: str
    text: str

    @property
    def of_module(self) -> bool:
        """It may be about a call of the Dagger module."""
        return self.place.startswith(("module", "engines/dagger"))


def texts(node: ast.expr | None, names: dict[str, list[ast.expr]], depth: int = 0) -> Iterator[str]:
    """What an expression can be as text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(each.value) if isinstance(each, ast.Constant) else "{}" for each in node.values)
    elif isinstance(node, ast.IfExp):
        yield from texts(node.body, names, depth)
        yield from texts(node.orelse, names, depth)
    elif isinstance(node, ast.BinOp):
        left, right = list(texts(node.left, names, depth)), list(texts(node.right, names, depth))
        yield from (one + two for one in left or [""] for two in right or [""])
    elif isinstance(node, ast.Name) and depth < 3:
        for each in names.get(node.id, []):
            yield from texts(each, names, depth + 1)
    elif isinstance(node, ast.BoolOp | ast.Tuple):
        for each in node.values if isinstance(node, ast.BoolOp) else node.elts:
            yield from texts(each, names, depth)


def assigned(tree: ast.AST) -> dict[str, list[ast.expr]]:
    """Every expression that a name is given anywhere in a file."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        for target in targets:
            value = node.value  # type: ignore[attr-defined]
            if isinstance(target, ast.Name) and value is not None:
                found.setdefault(target.id, []).append(value)
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                for each, part in zip(target.elts, value.elts, strict=False):
                    if isinstance(each, ast.Name):
                        found.setdefault(each.id, []).append(part)
    return found


@functools.cache
def remedies(file: Path) -> list[Remedy]:
    """The remedies in a file. Reading all of them takes seconds, so that no parameter of a test is one."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = assigned(tree)
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg in ("remedy", "missing")]
    spoken = [value for name, values in names.items() if "remed" in name.lower() for value in values]
    places = [*((node.value.lineno, node.value) for node in nodes), *((each.lineno, each) for each in spoken)]
    return [
        Remedy(place=f"{file.relative_to(PACKAGE)}:{line}", text=text)
        for line, value in places
        for text in texts(value, names)
        if text
    ]


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words name, and the words behind it."""
    command: click.Command = root
    context = click.Context(root)
    while isinstance(command, click.Group) and words and (inner := command.get_command(context, words[0])) is not None:
        command, words = inner, words[1:]
    return command, words


def options_of(command: click.Command) -> set[str]:
    found = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return {each for each in found if each.startswith("--")} | {"--help"}


def every_command(command: click.Command = root) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner
            yield from every_command(inner)


ALL_OPTIONS = {option for command in every_command() for option in options_of(command)}


@functools.cache
def module_options() -> frozenset[str]:
    """Arguments of the Dagger module's functions, as `dagger call` takes them."""
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in (PACKAGE / "module").glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    names = {each.arg for node in functions for each in (*node.args.args, *node.args.kwonlyargs)}
    names |= {node.target.id for node in nodes if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    return frozenset(f"--{name.replace('_', '-')}" for name in names)


@functools.cache
def variables() -> frozenset[str]:
    """Names of variables that the source reads: those of options, and every text that is such a name."""
    found = {str(each) for command in every_command() for parameter in command.params for each in [parameter.envvar] if each}
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and VARIABLE.fullmatch(node.value):
                found.add(node.value)
    return frozenset(found | {f"{each}_FILE" for each in found})


def models(kind: type[BaseModel] = ProjectConfig) -> Iterator[type[BaseModel]]:
    yield kind
    for field in kind.model_fields.values():
        for inner in _models_in(field.annotation):
            yield from models(inner)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models_in(inner)


EVERY_KEY = {field.alias or name for kind in (*models(), *models(RetrainConfig)) for name, field in kind.model_fields.items()}


def key_exists(key: str) -> bool:
    kinds: list[type[BaseModel]] = [ProjectConfig]
    for step in key.split("."):
        fields = [kind.model_fields[step] for kind in kinds if step in kind.model_fields]
        if not fields:
            return False
        kinds = [inner for field in fields for inner in _models_in(field.annotation)]
    return True


def problems(remedy: Remedy) -> Iterator[str]:
    for call in CALL.finditer(remedy.text):
        words = call[1].split()
        if not words or (words[0] not in COMMANDS and ABOUT.search(remedy.text[: call.start()] + "vllm-ci")):
            continue
        if words[0] == "{}":
            continue
        command, rest = command_of(words)
        if command is root:
            yield f"there is no command vllm-ci {words[0]}"
        elif isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            yield f"{words[0]} has no command {rest[0]}"
        for word in rest:
            if (found := OPTION.match(word)) and found[0] not in options_of(command):
                yield f"vllm-ci {words[0]} has no option {found[0]}"
    known = ALL_OPTIONS | set(FOREIGN) | (module_options() if remedy.of_module else set())
    yield from (f"there is no option {each}" for each in OPTION.findall(remedy.text) if each not in known)
    yield from (f"there is no variable {each}" for each in VARIABLE.findall(remedy.text) if each not in variables())
    for key in KEY.findall(remedy.text):
        if key.rpartition(".")[2] not in FILE_NAMES and not key_exists(key):
            yield f"there is no key {key}"
    yield from (f"there is no key {each}" for each in QUOTED.findall(remedy.text) if each not in EVERY_KEY)


def test_remedies_are_found() -> None:
    found = [each for file in FILES for each in remedies(file)]
    assert len(found) > 250
    assert {each.place.partition("/")[0] for each in found} >= {"cli", "config", "evidence", "images", "registry", "release"}


@pytest.mark.slow
@pytest.mark.parametrize("folder", sorted({file.parent for file in FILES}), ids=lambda folder: folder.name)
def test_a_remedy_names_only_what_exists(folder: Path) -> None:
    found = [each for file in FILES if file.parent == folder for each in remedies(file)]
    wrong = {f"{each.place}: {each.text}": said for each in found if (said := list(problems(each)))}
    assert not wrong


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("vllm-ci publich --channel x", "no command vllm-ci publich"),
        ("run vllm-ci publish --chanel x", "no option --chanel"),
        ("vllm-ci keys make", "keys has no command make"),
        ("name it with --public-key or release.public_key", "no option --public-key"),
        ("set VLLM_CI_NO_SUCH_THING", "no variable VLLM_CI_NO_SUCH_THING"),
        ("check release.signer", "no key release.signer"),
        ("remove `aftr`", "no key aftr"),
    ],
)
def test_this_test_finds_what_does_not_exist(text: str, found: str) -> None:
    assert any(found in each for each in problems(Remedy(place="cli/x.py:1", text=text)))
