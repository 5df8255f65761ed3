"""Outcomes and services that exist in memory only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_ci.domain.program import Outcome
from vllm_ci.engines.memory import MemoryDirectory

__all__ = ["MemoryDirectory", "MemoryService", "case", "crashed", "left"]


@dataclass(kw_only=True)
class MemoryService:
    name: str = "vllm"
    url: str = "http://127.0.0.1:1"
    ready_s: float = 0.1
    text: str = ""

    async def log(self) -> str:
        return self.text

    async def alive(self) -> bool:
        return True


def case(name: str, status: str = "passed", **properties: Any) -> dict[str, Any]:
    message = "" if status == "passed" else f"{name} {status}"
    return {"name": name, "status": status, "seconds": 0.5, "message": message, "details": "", "properties": properties}


def left(
    cases: list[dict[str, Any]],
    *,
    exit_code: int = 0,
    collected: int | None = None,
    server: Mapping[str, Any] | None = None,
    timed_out: bool = False,
    also: Mapping[str, bytes] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Outcome:
    document = {
        "format": 1,
        "collected": len(cases) if collected is None else collected,
        "exit_status": exit_code,
        "seconds": 1.0,
        "session": {"server": dict(server or {}), **(notes or {})},
        "cases": cases,
    }
    files = {"cases.json": json.dumps(document).encode(), **(also or {})}
    return Outcome(exit_code=exit_code, seconds=2.0, output=MemoryDirectory(files), log="the log", timed_out=timed_out)


def crashed(
    exit_code: int,
    *,
    lines: list[dict[str, Any]] | None = None,
    log: str = "Segmentation fault",
    timed_out: bool = False,
    stopped: bool = False,
) -> Outcome:
    files = (
        {"cases.jsonl": "\n".join(json.dumps(line, ensure_ascii=False) for line in lines).encode()} if lines is not None else {}
    )
    return Outcome(
        exit_code=exit_code, seconds=2.0, output=MemoryDirectory(files), log=log, timed_out=timed_out, stopped=stopped
    )
