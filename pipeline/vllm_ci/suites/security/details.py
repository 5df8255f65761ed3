"""Internals that an error may show: stack traces of several languages, files, and the environment."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

TRACES: Mapping[str, re.Pattern[str]] = {
    "Python": re.compile(r"Traceback \(most recent call last\)|File \\?\"[^\"\\]+\.py\\?\", line \d+"),
    "Java": re.compile(r"\bat [\w$.]+\.[\w$<>]+\([\w$]+\.(?:java|kt|scala):\d+\)"),
    "JavaScript": re.compile(r"\bat (?:[\w.<>\[\] ]+ )?\(?(?:node:|file://|/)[^\s()]+\.[cm]?[jt]s:\d+:\d+\)?"),
    "Go": re.compile(r"goroutine \d+ \[|panic: [\s\S]*\.go:\d+"),
    "Rust": re.compile(r"panicked at |\.rs:\d+:\d+"),
    ".NET": re.compile(r"\bat [\w.<>`]+\([^)]*\) in [^\s]+:line \d+"),
    "PHP": re.compile(r"#\d+ /[^\s]+\.php\(\d+\)|in /[^\s]+\.php on line \d+"),
    "Ruby": re.compile(r"[^\s'\"]+\.rb:\d+:in "),
    "C++": re.compile(r"\bat /[^\s]+\.(?:cc|cpp|cu|cuh|h|hpp):\d+|(?:[\w./-]+\.(?:cc|cpp|cu)):\d+: "),
}
_FOLDERS = "usr|home|root|opt|srv|app|var|workspace|mnt|tmp|etc|build|Users|data|nix|proc"
_PATH = re.compile(rf"(?<![\w/.:-])/(?:{_FOLDERS})/[\w.@+-]+(?:/[\w.@+-]+)*|site-packages|dist-packages|[A-Z]:\\\\?[\w .-]+\\")
_VARIABLES = ("PATH=", "HOME=", "PYTHONPATH=", "HF_TOKEN", "VLLM_API_KEY", "AWS_SECRET_ACCESS_KEY", "LD_LIBRARY_PATH")


def shown(text: str, sent: str, own: Iterable[str] = ()) -> dict[str, str]:
    """What an error shows of the server's inside: an excerpt by kind (``traceback``, ``file-path``, ``environment``).

    Args:
        text: The error.
        sent: The request; what it holds already is not shown by the server.
        own: More text that is public, for example names of models, which may be paths.
    """
    for word in sorted((word for word in own if word), key=len, reverse=True):
        text = text.replace(word, "")
    text = text.replace("\\n", "\n").replace("\\t", "\t")  # as JSON writes them
    found: dict[str, str] = {}
    for language, pattern in TRACES.items():
        if (match := pattern.search(text)) and match[0] not in sent:
            found.setdefault("traceback", f"a stack trace of {language}: {match[0][:80]}")
    paths = [match[0] for match in _PATH.finditer(text) if match[0] not in sent]
    if paths:
        found["file-path"] = f"a path on the server: {paths[0][:80]}"
    variables = [name for name in _VARIABLES if name in text and name not in sent]
    if variables:
        found["environment"] = f"the environment: {variables[0]}"
    return found
