"""What is said of an engine's garbage collection."""

from __future__ import annotations

import pytest

from vllm_ci.module.doctor import _volume, collection

GB = 10**9


@pytest.mark.parametrize(
    ("kept", "most", "left", "free", "mark"),
    [
        (40, 80, 5, 1, "ok"),  # reserved: whatever the disk has left
        (10, 190, 50, 41, "warning"),  # the disk is fuller than the engine wants it: everything above 10 GB goes
        (10, 20, 5, 100, "warning"),  # less than one project needs
        (10, 190, 50, 100, "note"),
        (10, 0, 50, 100, "note"),  # no limit
    ],
)
def test_an_engine_that_may_remove_the_cache_volume_is_told_with_the_setting(
    kept: int, most: int, left: int, free: int, mark: str
) -> None:
    line = collection(kept * GB, most * GB, left * GB, free_bytes=free * GB)
    assert line.startswith(mark)
    assert ("gc.reservedSpace" in line) == (mark != "ok")


def test_an_empty_volume_and_a_full_disk_are_told() -> None:
    lines = _volume("vllm-ci", {"images": 0, "bytes": 0, "free_bytes": 5 * GB})
    assert "empty, the next build makes every layer" in lines[0]
    assert lines[1].startswith("warning")
    assert _volume("vllm-ci", {"images": 3, "bytes": 10 * GB, "free_bytes": 50 * GB})[0].startswith("ok ")
