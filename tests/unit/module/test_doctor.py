"""What is said of an engine's garbage collection."""

from __future__ import annotations

import pytest

from vllm_ci.module.doctor import _volume, collection

GB = 10**9


@pytest.mark.parametrize(("free", "mark"), [(41, "warning"), (100, "ok")])
def test_a_disk_on_which_the_engine_removes_the_cache_volume_is_told_with_the_setting(free: int, mark: str) -> None:
    line = collection(free * GB, 252 * GB)
    assert line.startswith(f"{mark} ")
    assert "gc.reservedSpace of engine.json" in line


def test_an_empty_volume_and_a_full_disk_are_told() -> None:
    lines = _volume("vllm-ci", {"images": 0, "bytes": 0, "free_bytes": 5 * GB})
    assert "empty, the next build creates every layer" in lines[0]
    assert lines[1].startswith("warning")
    assert _volume("vllm-ci", {"images": 3, "bytes": 10 * GB, "free_bytes": 50 * GB})[0].startswith("ok ")
