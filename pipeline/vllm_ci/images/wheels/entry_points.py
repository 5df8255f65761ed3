"""``entry_points.txt`` of a wheel: the scripts that it declares (Entry points specification, "File format")."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator

from installer.scripts import Script

from vllm_ci.domain.errors import BuildError
from vllm_ci.images.wheels.record import REBUILD

_GROUPS = {"console_scripts": "console", "gui_scripts": "gui"}
_OBJECT = re.compile(r"(?P<module>[\w.]+)\s*:\s*(?P<attribute>[\w.]+)\s*(\[\s*[\w.-]+(\s*,\s*[\w.-]+)*\s*\])?")


def parse(text: str, where: str) -> tuple[Script, ...]:
    """Scripts, each name once; a graphical one takes the place of a console one of its name, as with pip.

    Args:
        text: Content of the file.
        where: Wheel and name of the file, for messages.

    Raises:
        BuildError: A script has no function, no usable name, or is declared twice in one group in different ways.
    """
    found: dict[str, dict[str, Script]] = {group: {} for group in _GROUPS}
    for place, group, line in _lines(text, where):
        script = _script(line, group, place)
        known = found[group].setdefault(script.name, script)
        if known != script:
            raise BuildError(
                f"{place}: {script.name} is declared twice in {group}",
                why=f"as {known.module}:{known.attr} and as {script.module}:{script.attr}",
                remedy=REBUILD,
            )
    return tuple({name: script for group in _GROUPS for name, script in found[group].items()}.values())


def _lines(text: str, where: str) -> Iterator[tuple[str, str, str]]:
    """Lines of the groups that declare scripts: place, group, content."""
    group = None
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not line or line.startswith(("#", ";")):
            continue
        if line.startswith("[") and line.endswith("]"):
            group = line[1:-1]
        elif group is None:
            raise BuildError(f"{where}:{number}: no group before {line[:60]!r}", why="a group is a line [name]", remedy=REBUILD)
        elif group in _GROUPS:
            yield f"{where}:{number}", group, line


def _script(line: str, group: str, place: str) -> Script:
    name, separator, value = (part.strip() for part in line.partition("="))
    if not separator or not name:
        raise BuildError(f"{place}: {line[:60]!r} is not NAME = MODULE:FUNCTION", remedy=REBUILD)
    if "/" in name or name in {".", ".."} or not name.isprintable():
        raise BuildError(
            f"{place}: a script cannot be called {name!a}", why="it has to be the name of one file", remedy=REBUILD
        )
    match = _OBJECT.fullmatch(value)
    if match is None or not (_dotted(match["module"]) and _dotted(match["attribute"])):
        raise BuildError(
            f"{place}: script {name} names no function: {value[:60]!r}",
            why="a script calls a function, written MODULE:FUNCTION",
            remedy=REBUILD,
        )
    return Script(name, match["module"], match["attribute"], _GROUPS[group])  # type: ignore[arg-type]


def _dotted(text: str) -> bool:
    return all(part.isidentifier() and not keyword.iskeyword(part) for part in text.split("."))
