"""What a run records for the timeline and the layers of its report."""

from __future__ import annotations

import time
from typing import cast

import pytest

from vllm_ci.domain.events import Finished, Started, ignore
from vllm_ci.domain.image import ImageLayer, ImageRef
from vllm_ci.domain.program import Directory
from vllm_ci.pipeline.building import Built
from vllm_ci.pipeline.record import RunRecord


@pytest.mark.slow
def test_steps_are_recorded_with_their_start_in_the_run() -> None:
    record = RunRecord(emit=ignore)
    record(Started(step="unit"))
    record(Started(step="server"))
    time.sleep(0.2)
    record(Finished(step="server", seconds=0.2))
    record(Started(step="streaming"))
    record(Finished(step="streaming", seconds=0.0))
    begun = record.run().report.begun
    assert list(begun) == ["unit", "server", "streaming"]
    assert begun["server"] - begun["unit"] < 0.1, "they run beside each other"
    assert begun["streaming"] >= begun["server"] + 0.2


@pytest.mark.parametrize("platform", [{"platform": "linux/amd64"}, {}])
def test_layers_of_a_build_are_those_of_its_summary(platform: dict[str, str]) -> None:
    layer = {"tier": "base", "digest": "sha256:" + "a" * 64, "size_bytes": 5, "built": True, "reason": "new", **platform}
    image = ImageRef(repository="x", digest="sha256:" + "b" * 64)
    built = Built(image=image, facts=cast(Directory, None), config={}, summary={"layers": [layer]})
    assert built.layers == (
        ImageLayer(tier="base", digest="sha256:" + "a" * 64, size_bytes=5, platform=platform.get("platform", "")),
    )
