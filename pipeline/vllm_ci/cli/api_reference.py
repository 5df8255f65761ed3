"""Writes ``docs/api-reference.md`` from the public names: ``python -m vllm_ci.cli.api_reference > docs/api-reference.md``.

A test compares.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator

import vllm_ci

_TOP = """\
# Reference of the Python interface

Written by `python -m vllm_ci.cli.api_reference > docs/api-reference.md`. The guide, with examples, is [api.md](api.md).
"""
_ROLE = re.compile(r":(?:class|func|meth|attr|data):`~?(?:[\w.]*\.)?([\w]+)`")


def text() -> str:
    """The page."""
    return "\n".join([_TOP, *(part for name in vllm_ci.__all__ if name != "__version__" for part in _entry(name))])


def _entry(name: str) -> Iterator[str]:
    found = getattr(vllm_ci, name)
    yield f"## {name}\n"
    yield f"```python\n{_head(name, found)}\n```\n"
    yield _prose(inspect.getdoc(found) or "")
    for member, value in _members(found):
        doc = _prose(inspect.getdoc(value) or "")
        yield f"### {name}.{member}\n"
        yield f"```python\n{_head(member, value)}\n```\n"
        yield doc


def _head(name: str, found: object) -> str:
    if isinstance(found, property):
        returned = inspect.signature(found.fget).return_annotation if found.fget else ""
        return f"{name}: {returned}"
    if isinstance(found, type):
        if issubclass(found, enum.Enum):
            members = ", ".join(member.name for member in found)
            return f"class {name}:\n    {members}"  # as ruff formats it, which looks into Markdown as well
        if getattr(found, "_is_protocol", False):
            return f"class {name}(Protocol)"
    prefix = "async def " if inspect.iscoroutinefunction(found) else "class " if isinstance(found, type) else "def "
    shown = f"{prefix}{name}{_signature(found)}"
    return shown if len(shown) <= 120 else _broken(shown, found, prefix, name)


def _signature(found: object) -> str:
    signature = inspect.signature(found)  # type: ignore[arg-type]  # whatever is public can be called
    returned = "" if isinstance(found, type) or signature.return_annotation is signature.empty else signature.return_annotation
    return f"({', '.join(_parameters(signature))}){f' -> {returned}' if returned else ''}"


def _broken(shown: str, found: object, prefix: str, name: str) -> str:
    lines = "".join(f"    {each},\n" for each in _parameters(inspect.signature(found)))  # type: ignore[arg-type]  # as above
    return f"{prefix}{name}(\n{lines}){shown.rpartition(')')[2]}"


def _parameters(signature: inspect.Signature) -> list[str]:
    made: list[str] = []
    keyword = False
    for each in signature.parameters.values():
        if each.name == "self" or each.name.startswith("_"):
            continue
        if each.kind is each.KEYWORD_ONLY and not keyword and not any(text.startswith("*") for text in made):
            made.append("*")
        keyword = keyword or each.kind is each.KEYWORD_ONLY
        star = "*" if each.kind is each.VAR_POSITIONAL else "**" if each.kind is each.VAR_KEYWORD else ""
        annotation = "" if each.annotation is each.empty else f": {each.annotation}"
        default = "" if each.default is each.empty else f" = {_default(each.default)}"
        made.append(f"{star}{each.name}{annotation}{default}")
    return made


def _default(value: object) -> str:
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if repr(value).startswith("<") or callable(value):
        return "..."
    return repr(value)


def _members(found: object) -> list[tuple[str, object]]:
    """Public methods and properties of a class, in the order of the source; errors have none of their own."""
    if not isinstance(found, type) or issubclass(found, BaseException):
        return []
    fields = {each.name for each in dataclasses.fields(found)} if dataclasses.is_dataclass(found) else set()
    own = [(name, value) for name, value in vars(found).items() if not name.startswith("_") and name not in fields]
    return [(name, value) for name, value in own if inspect.isfunction(value) or isinstance(value, property)]


def _prose(doc: str) -> str:
    """A docstring as Markdown: its sections as lists, its roles and literals as code."""
    lines: list[str] = []
    section = ""
    for line in doc.replace("``", "`").splitlines():
        heading = re.fullmatch(r"(Args|Attributes|Raises|Returns):", line)
        if heading:
            section = heading[1]
            lines.append(f"{'Arguments' if section == 'Args' else section}:\n")
        elif section and section != "Returns" and (item := re.match(r"    ([\w*]+): (.*)", line)):
            lines.append(f"- `{item[1]}`: {item[2]}")
        elif section and line.strip():
            lines.append(f"  {line.strip()}" if section != "Returns" else line.strip())
        else:
            section = section if line.strip() else ""
            lines.append(line)
    return _ROLE.sub(r"`\1`", textwrap.dedent("\n".join(lines))).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
