"""Lines of logs that report an error, for a reader who has not opened the log."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from vllm_ci.domain.message_shape import shape_of
from vllm_ci.domain.plain import one_line
from vllm_ci.domain.startup_cause import is_between, line_of

_TERMINAL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_ERROR = re.compile(
    r"\b(?:ERROR|CRITICAL|FATAL)\b|^(?:\([\w =]+\)\s*)?(?:[A-Za-z_][\w.]*)?(?:Error|Exception)\b(?::|$)"
    r"|out of memory|Segmentation fault|core dumped|Killed process"
)
# vLLM also logs requests that it refuses, which the suites send on purpose.
_REFUSED = re.compile(r"\bcode=4\d\d\b")
_LONGEST = 400
_MOST = 12


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """A line that reports an error.

    Attributes:
        log: Name of the log, whose file is ``logs/<name>.log`` in the report's folder.
        number: Of the line, from 1.
        text: The line.
        times: How often it, or the same with other figures, is in the log.
    """

    log: str
    number: int
    text: str
    times: int


def errors(logs: Mapping[str, str], *, most: int = _MOST) -> list[LogLine]:
    """The first ``most`` different lines that report an error, in the order of the logs; of a traceback, its exceptions."""
    found: dict[tuple[str, str], LogLine] = {}
    for name, text in logs.items():
        for number, line in enumerate(text.splitlines(), 1):
            plain = _TERMINAL.sub("", line[: 2 * _LONGEST])
            if not _ERROR.search(plain) or _REFUSED.search(line) or is_between(line_of(plain).text):
                continue
            shown = one_line(plain, _LONGEST)
            key = name, shape_of(shown).text
            known = found.get(key)
            if known or len(found) < most:
                found[key] = LogLine(
                    log=name,
                    number=known.number if known else number,
                    text=known.text if known else shown,
                    times=known.times + 1 if known else 1,
                )
    return list(found.values())
