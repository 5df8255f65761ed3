"""Every row of the quickstart's matrix on the real vLLM: data types, INT8, a LoRA adapter, two shards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from e2e.conftest import vllm_ci

pytestmark = [pytest.mark.e2e, pytest.mark.matrix, pytest.mark.timeout(3000)]

ROWS = ["bfloat16", "float16", "int8", "lora", "tp2"]


def test_every_row_is_served_and_streams(project: Path) -> None:
    ended = vllm_ci(project, "run", "--matrix", "--stage", "streaming", "--json", timeout_s=2900)
    cores = len(os.sched_getaffinity(0))
    result = ended.json
    assert ended.code == 0, ended.stderr[-6000:]
    expected = ["streaming", *(f"streaming@{row}" for row in ROWS if row != "tp2" or cores >= 2)]
    assert [stage["name"] for stage in result["stages"]] == expected
    assert {stage["verdict"] for stage in result["stages"]} == {"passed"}
