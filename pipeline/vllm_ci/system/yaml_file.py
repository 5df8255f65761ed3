"""Reads YAML with line numbers: plain data, and the line of each key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vllm_ci.domain.errors import ConfigError

Place = tuple[str | int, ...]
"""Keys and list positions from the top of a document to a value."""


# The C parser is five times as fast, and an unchanged build has no time to spend.
_Base: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc,valid-type]
    """Keeps dates as text, so that the models parse them: YAML's own parser reports invalid dates without a line."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True, kw_only=True)
class Document:
    """A YAML file.

    Attributes:
        path: The file.
        data: Its mapping, as plain data.
        lines: Line (from 1) of each key and list item, by place.
    """

    path: Path
    data: dict[str, Any]
    lines: dict[Place, int]

    def line(self, place: Place) -> int:
        """Line of ``place``, or of its nearest parent that is in the file."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


def read(path: Path, *, absent: str = "check the path", see: str = "write keys and values") -> Document:
    """Parse the file ``path``.

    Args:
        path: The file.
        absent: What to do when it cannot be read.
        see: What to do when its top level is not a mapping.

    Raises:
        ConfigError: It cannot be read, is not valid YAML, has a duplicate key, or its top level is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}", why=str(error), remedy=absent) from error
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: invalid YAML", why=str(error), remedy="correct the file") from error
    try:
        node = loader.get_single_node()
        lines: dict[Place, int] = {}
        if node is not None:
            _walk(node, (), lines, path)
        data = loader.construct_document(node) if node is not None else {}
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: invalid YAML", why=str(error.problem), remedy="correct that line") from error
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        # PyYAML's constructors for explicit tags (!!int x, !!timestamp x) raise any of these.
        raise ConfigError(f"{path}: invalid YAML", why=str(error), remedy="correct the file") from error
    finally:
        loader.dispose()
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}:1: the top level must be a mapping",
            why=f"it is a {type(data).__name__}",
            remedy=see,
        )
    return Document(path=path, data=data, lines=lines)


def _walk(node: yaml.Node, place: Place, lines: dict[Place, int], path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen and name != "<<":
                raise ConfigError(
                    f"{path}:{key.start_mark.line + 1}: duplicate key {name}",
                    why="only one of the values would be used",
                    remedy="remove one of them",
                )
            seen.add(name)
            lines[(*place, name)] = key.start_mark.line + 1
            _walk(value, (*place, name), lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*place, index)] = value.start_mark.line + 1
            _walk(value, (*place, index), lines, path)
