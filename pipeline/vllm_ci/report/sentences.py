"""Names of cases as sentences: ``a/test_b.py::test_one_is_kept[chat]`` is read as "One is kept", with ``chat`` beside it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vllm_ci.domain.plain import one_line

_NODE = re.compile(r"(?P<path>[^:\[\]]+)::(?P<names>[A-Za-z_][\w:]*)(?:\[(?P<parameters>.*)\])?", re.DOTALL)
_LONGEST = 300


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """How the name of a case is shown.

    Attributes:
        text: What the case is about.
        parameters: With what; empty if it has no parameters.
        place: File of the case; empty if the name is no pytest node id.
    """

    text: str
    parameters: str = ""
    place: str = ""


def sentence(name: str) -> Sentence:
    """The name of a case as a sentence; a name that is no pytest node id stays as it is."""
    found = _NODE.fullmatch(name)
    if found is None:
        return Sentence(text=one_line(name, _LONGEST) or "(no name)")
    *classes, function = found["names"].split("::")
    words = function.removeprefix("test_").replace("_", " ").strip() or function
    groups = ": ".join(each.removeprefix("Test") or each for each in classes if each)
    text = f"{groups}: {words}" if groups else words[:1].upper() + words[1:]
    return Sentence(text=text[:_LONGEST], parameters=one_line(found["parameters"] or "", _LONGEST), place=found["path"])
