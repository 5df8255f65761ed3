"""One entry of a ``kustomization.yaml``, rewritten in place: every other byte of the user's file stays as it is.

Positions come from the YAML parser's events; text between them is never touched. Fields: kustomize's ``images`` transformer.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from vllm_ci.domain.errors import ConfigError

FIELDS = ("newName", "newTag", "digest")
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9._/@:-]*[A-Za-z0-9]")
# Plain words that YAML 1.1 readers take for something else than text.
_WORDS = re.compile(r"(?i)(y|n|yes|no|on|off|true|false|null|\.nan|\.inf)")
_LAST_TABS = re.compile(r"\t[ \t]*(?=#|\r?\n|\Z)")
_REMEDY = "write that entry plainly: - name: NAME, with newName, newTag and digest below it"


@dataclass(kw_only=True)
class _Node:
    """A piece of the document.

    Attributes:
        kind: ``scalar``, ``mapping``, ``sequence`` or ``alias``.
        start: Index of its first character.
        end: Index behind its last.
        value: Of a scalar.
        pairs: Of a mapping.
        items: Of a sequence.
        flow: It is written in braces or brackets.
        anchor: Others refer to it.
    """

    kind: str
    start: int
    end: int
    value: str = ""
    pairs: list[tuple[_Node, _Node]] = field(default_factory=list)
    items: list[_Node] = field(default_factory=list)
    flow: bool = False
    anchor: bool = False

    def get(self, key: str) -> _Node | None:
        """Value of a key."""
        return next((value for name, value in self.pairs if name.kind == "scalar" and name.value == key), None)


def read(text: str, name: str, *, path: str = "") -> dict[str, str]:
    """The fields of the entry for image ``name``; empty when there is no such entry.

    Args:
        text: The file.
        name: Of the image.
        path: Of the file, for messages.

    Raises:
        ConfigError: The file cannot be worked on.
    """
    with _named(path):
        root = _document(text)
        entry = _entry(root, name) if root else None
    return {key: node.value for key in FIELDS if entry and (node := entry.get(key)) and node.kind == "scalar"}


def set_image(text: str, name: str, fields: Mapping[str, str], *, path: str = "") -> str:
    """``text`` with the entry for image ``name`` saying ``fields`` (``newName``, ``newTag``, ``digest``).

    An entry that is not there is added; a text that holds nothing, or only comments, gets a minimal kustomization below it.

    Args:
        text: The file.
        name: Of the image.
        fields: What its entry says afterwards.
        path: Of the file, for messages.

    Raises:
        ConfigError: The file is not YAML, or the entry is written in a way that cannot be rewritten safely.
    """
    with _named(path):
        return _set_image(text, name, fields)


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Errors name the file."""
    try:
        yield
    except ConfigError as error:
        if not path:
            raise
        raise ConfigError(f"{path}: {error.message}", why=error.why, remedy=error.remedy) from error


def _set_image(text: str, name: str, fields: Mapping[str, str]) -> str:
    newline = "\r\n" if "\r\n" in text else "\n"
    root = _document(text)
    if root is None:
        separator = "" if not text or text.endswith(("\n", "\ufeff")) else newline
        header = ("apiVersion: kustomize.config.k8s.io/v1beta1", "kind: Kustomization")
        text += separator + "".join(line + newline for line in header)
        root = _document(text)
    assert root  # noqa: S101 - two keys are there
    if "images" not in [key.value for key, _ in root.pairs]:
        return _with_images(text, root, name, fields, newline)
    before = text
    edits: list[tuple[int, int, str]] = []
    entry = _entry(root, name)
    if entry is None:
        edits.append(_added(text, root, name, fields, newline))
    else:
        missing = {}
        for key, value in fields.items():
            node = entry.get(key)
            if node is None:
                missing[key] = value
            elif node.value != value or not node.end > node.start:
                edits.append(_replaced(text, node, value))
        if missing:
            edits.append(_completed(text, entry, missing, newline))
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    _check(before, text, name, fields)
    return text


def _document(text: str) -> _Node | None:
    """The one document of a file, a mapping; nothing when the file holds no document."""
    try:
        events = iter(
            [
                each
                for each in yaml.parse(_without_tabs(text), Loader=yaml.SafeLoader)
                if not isinstance(each, yaml.StreamEndEvent)
            ]
        )
        roots = [_build(event, events) for event in events if isinstance(event, yaml.NodeEvent)]
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(
            "the kustomization is not valid YAML", why=str(error), remedy="correct the file in the ledger's branch"
        ) from error
    if not roots:
        return None
    if len(roots) != 1 or roots[0].kind != "mapping":
        raise ConfigError(
            "the kustomization is not one YAML mapping",
            why="kustomize reads the first document of a file and leaves out the others" if len(roots) > 1 else "",
            remedy="put exactly one document into it, a mapping",
        )
    return roots[0]


def _without_tabs(text: str) -> str:
    """The same text for the parser, which does not take tabs before a comment or a line's end, as YAML 1.2 does."""
    return _LAST_TABS.sub(lambda match: " " * len(match[0]), text)


def _build(event: yaml.Event, events: Iterator[yaml.Event]) -> _Node:
    start = _index(event.start_mark)
    anchor = getattr(event, "anchor", None) is not None
    if isinstance(event, yaml.ScalarEvent):
        return _Node(
            kind="scalar", start=start, end=_index(event.end_mark), value=event.value, anchor=anchor or bool(event.tag)
        )
    if isinstance(event, yaml.AliasEvent):
        return _Node(kind="alias", start=start, end=_index(event.end_mark))
    children: list[_Node] = []
    for each in events:
        if isinstance(each, yaml.CollectionEndEvent):
            break
        children.append(_build(each, events))
    flow = bool(getattr(event, "flow_style", False))
    end = _index(each.end_mark)
    if isinstance(event, yaml.SequenceStartEvent):
        return _Node(kind="sequence", start=start, end=end, items=children, flow=flow, anchor=anchor)
    pairs = list(zip(children[::2], children[1::2], strict=True))
    return _Node(kind="mapping", start=start, end=end, pairs=pairs, flow=flow, anchor=anchor)


def _index(mark: Any) -> int:
    index: int = mark.index
    return index


def _entry(root: _Node, name: str) -> _Node | None:
    images = root.get("images")
    if images is None or (images.kind == "scalar" and images.value in ("", "null", "~")):
        return None
    if images.kind != "sequence":
        raise ConfigError("images in the kustomization is not a list", remedy=_REMEDY)
    found = [each for each in images.items if each.kind == "mapping" and (key := each.get("name")) and key.value == name]
    if len(found) > 1:
        raise ConfigError(f"the kustomization has {len(found)} entries for image {name}", remedy="leave one")
    for entry in found:
        if entry.anchor or any(key.value == "<<" or node.kind == "alias" or node.anchor for key, node in entry.pairs):
            raise ConfigError(
                f"the kustomization's entry for image {name} uses anchors, aliases or tags",
                why="rewriting it would change other places, or not be seen there",
                remedy=_REMEDY,
            )
        if entry.get("tagSuffix"):
            raise ConfigError(
                f"the kustomization's entry for image {name} has a tagSuffix",
                why="kustomize would put it behind the tag and drop the digest: not the image that was verified",
                remedy="remove it",
            )
    return found[0] if found else None


def _replaced(text: str, node: _Node, value: str) -> tuple[int, int, str]:
    if node.kind != "scalar":
        raise ConfigError("the kustomization's entry holds a list or mapping where text should be", remedy=_REMEDY)
    if node.start == node.end:  # nothing behind the colon
        return node.start, node.end, " " + _scalar(value, "")
    style = text[node.start]
    if style in "|>":
        raise ConfigError("the kustomization's entry holds a block of text where a word should be", remedy=_REMEDY)
    return node.start, node.end, _scalar(value, style)


def _scalar(value: str, style: str) -> str:
    """A scalar in the style of the one it replaces, where that can be read back."""
    if style == "'":
        return f"'{value}'"
    if style == '"' or not _PLAIN.fullmatch(value) or _WORDS.fullmatch(value) or ": " in value:
        return json.dumps(value)
    return value


def _completed(text: str, entry: _Node, missing: Mapping[str, str], newline: str) -> tuple[int, int, str]:
    """Fields behind the last one of an entry."""
    _, last = entry.pairs[-1]
    if entry.flow:
        more = "".join(f", {_pair(key, value, quoted=_is_quoted(text, entry))}" for key, value in missing.items())
        return last.end, last.end, more
    first = entry.pairs[0][0]
    indent = " " * (first.start - (text.rfind("\n", 0, first.start) + 1))
    return _behind(text, last, [f"{indent}{key}: {_scalar(value, '')}" for key, value in missing.items()], newline)


def _added(text: str, root: _Node, name: str, fields: Mapping[str, str], newline: str) -> tuple[int, int, str]:
    """A new entry behind the last one."""
    images = root.get("images")
    assert images  # noqa: S101 - the caller looked
    entry = {"name": name, **fields}
    if images.flow:
        flow = "{" + ", ".join(_pair(key, value, quoted=_is_quoted(text, root)) for key, value in entry.items()) + "}"
        if not images.items:
            return images.end - 1, images.end - 1, flow
        return images.items[-1].end, images.items[-1].end, f", {flow}"
    if images.kind == "scalar":
        lines = ["", *_entry_lines(entry, "")]
        return images.start, images.end, newline.join(lines)
    indent = " " * (images.start - (text.rfind("\n", 0, images.start) + 1))
    return _behind(text, _deepest(images), _entry_lines(entry, indent), newline)


def _with_images(text: str, root: _Node, name: str, fields: Mapping[str, str], newline: str) -> str:
    """The list itself, behind all that is there."""
    entry = {"name": name, **fields}
    if root.flow:
        quoted = _is_quoted(text, root)
        pairs = ", ".join(_pair(key, value, quoted=quoted) for key, value in entry.items())
        at = root.pairs[-1][1].end if root.pairs else root.start + 1
        more = (", " if root.pairs else "") + ('"images"' if quoted else "images") + ": [{" + pairs + "}]"
        changed = text[:at] + more + text[at:]
    else:
        at, _, more = _behind(text, _deepest(root), ["images:", *_entry_lines(entry, "")], newline)
        changed = text[:at] + more + text[at:]
    _check(text, changed, name, fields)
    return changed


def _entry_lines(entry: Mapping[str, str], indent: str) -> list[str]:
    return [f"{indent}{'- ' if key == 'name' else '  '}{key}: {_scalar(value, '')}" for key, value in entry.items()]


def _behind(text: str, node: _Node, lines: list[str], newline: str) -> tuple[int, int, str]:
    """Lines behind the line that a node ends on; a block of text ends at the beginning of the next line already."""
    if node.end and text[node.end - 1] == "\n":
        return node.end, node.end, "".join(line + newline for line in lines)
    end = text.find("\n", node.end)
    end = len(text) if end < 0 else end
    if end > node.end and text[end - 1] == "\r":
        end -= 1
    return end, end, "".join(newline + line for line in lines)


def _deepest(node: _Node) -> _Node:
    """The last thing that is written in a node."""
    if node.flow or not (node.pairs or node.items):
        return node
    return _deepest(node.pairs[-1][1] if node.pairs else node.items[-1])


def _is_quoted(text: str, node: _Node) -> bool:
    """Whether keys are written in quotes there, as in JSON."""
    return bool(node.pairs) and text[node.pairs[0][0].start] == '"'


def _pair(key: str, value: str, *, quoted: bool) -> str:
    plain = _scalar(value, "")
    return f"{json.dumps(key)}: {json.dumps(value)}" if quoted else f"{key}: {json.dumps(value) if ':' in value else plain}"


def _check(before: str, after: str, name: str, fields: Mapping[str, str]) -> None:
    """The rewritten file says what it should, and all else is as it was.

    Raises:
        ConfigError: It does not: the file is written in a way that is not understood.
    """
    try:
        old, new = (yaml.load(_without_tabs(text), Loader=yaml.BaseLoader) or {} for text in (before, after))
        wanted = dict(fields)
        [entry] = [each for each in new["images"] if each.get("name") == name]
        good = all(entry.get(key) == value for key, value in wanted.items()) and _rest(old, name, wanted) == _rest(
            new, name, wanted
        )
    except (yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError, RecursionError):
        good = False
    if not good:
        raise ConfigError(
            f"the kustomization's entry for image {name} cannot be rewritten safely",
            why="it is written in a way that is not understood here; nothing was changed",
            remedy=_REMEDY,
        )


def _rest(value: dict[str, object], name: str, fields: Mapping[str, str]) -> object:
    """A document without the fields that are rewritten, and without an entry that has nothing else."""
    images = value.get("images")
    kept = []
    for each in images if isinstance(images, list) else []:
        if isinstance(each, dict) and each.get("name") == name:
            each = {key: text for key, text in each.items() if key not in fields}  # noqa: PLW2901
            if each == {"name": name}:
                continue
        kept.append(each)
    return {key: each for key, each in value.items() if key != "images"}, kept
