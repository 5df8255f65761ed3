"""How the memory engine's programs end, and what they leave, where the test does not say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm_ci.domain.program import Program
from vllm_ci.domain.stage import BUILT_IN
from vllm_ci.suites import manifest

_REPORTER = "--vllm-report"


@dataclass(frozen=True, kw_only=True)
class Ends:
    """How a program ends.

    Attributes:
        exit_code: Its exit code.
        log: What it wrote to standard output and error.
        files: What it left in its output directory: bytes, text, or anything that becomes JSON.
        seconds: How long it says that it ran.
        timed_out: Its time ran out.
        hangs: It runs until it is stopped.
        kills_server: All servers die when it starts, with this last line in their log.
    """

    exit_code: int = 0
    log: str = ""
    files: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    timed_out: bool = False
    hangs: bool = False
    kills_server: str = ""


def of(program: Program) -> Ends:
    """How a program ends that nothing was said about: well."""
    if program.name == "build":
        return _built(program)
    if program.name in ("baseline", "measure"):
        return _baseline() if program.name == "baseline" else measured()
    if program.name == "machine":
        return Ends(files={"machine.json": {"memory_bytes": 2**34, "cores": 4}})
    if program.name in BUILT_IN and _REPORTER in program.argv:
        return Ends(files={"cases.json": cases(_promised(program.name)), "canaries.json": ["canary-of-the-memory-engine"]})
    if _REPORTER in program.argv:
        return Ends(files={"cases.json": cases({f"{program.name}::memory": ("passed", "")})})
    return Ends()


def _baseline() -> Ends:
    digest = f"sha256:{hashlib.sha256(b'baseline').hexdigest()}"
    facts = {"source": "the memory engine", "repository": "memory", "digest": digest}
    return Ends(files={"image.json": facts, "config.json": {"config": {}}})


def measured(*, slowdown: float = 0.0, **counters: float) -> Ends:
    """A measurement of one start of a server.

    Args:
        slowdown: How much slower it is than others, as a share.
        counters: Counters of each of the three rounds, besides the default ones.
    """
    factor = 1 + slowdown
    values = {"ttft_ms": 50 * factor, "tpot_ms": 10 * factor, "output_tokens_per_s": 800 / factor}
    counted = {"requests": 32, "prompt_tokens": 3200, "output_tokens": 3200, "chunks": 3200, **counters}
    each = {"verdict": "passed", "reasons": [], "values": values, "counters": counted, "short_answers": 0}
    used = {"resources": {"peak": {"pss_bytes": 2**30}}}
    measurement = {"format": 1, "rounds": [each] * 3, "measurements": [used] * 3}
    return Ends(files={"measurement.json": measurement, "asked.json": {}, "greedy.json": {"answers": [["one"], ["two"]]}})


def cases(found: Mapping[str, tuple[str, str]]) -> str:
    """``cases.json`` with these cases: name to status and message."""
    listed = [
        {"name": name, "status": status, "seconds": 0.0, "message": message, "details": "", "properties": {}}
        for name, (status, message) in found.items()
    ]
    failed = any(case["status"] != "passed" for case in listed)
    document = {"format": 1, "collected": len(listed), "exit_status": int(failed), "seconds": 0.0, "session": {}}
    return json.dumps({**document, "cases": listed})


def _promised(suite: str) -> dict[str, tuple[str, str]]:
    """All cases that a suite of ours promises, passed."""
    return {
        f"{function}[{number}]": ("passed", "")
        for function, count in manifest.promised(suite).items()
        for number in range(count)
    }


def _built(program: Program) -> Ends:
    commit = next((word for word in program.argv if len(word) == 40), "0" * 40)
    digest = f"sha256:{hashlib.sha256(commit.encode()).hexdigest()}"
    image = {"reference": f"memory@{digest}", "digest": digest, "tags": [commit], "device": ""}
    summary = {"image": image, "layers": []}
    return Ends(files={"build.json": summary, "config.json": {"config": {}}, "manifest.json": {}})
