"""The image of a commit as an object."""

from __future__ import annotations

from typing import Any

import pytest
from dagger import dag

from vllm_ci.module import image
from vllm_ci.module.main import VllmCi

DIGEST = "sha256:" + "1" * 64


def built(*, dirty: bool = False) -> image.Image:
    make: Any = VllmCi
    layer = {"tier": "base", "digest": DIGEST, "size_bytes": 127_600_000, "built": True, "platform": "", "reason": ""}
    return image.of(
        make(source=dag.directory(), config="serving/vllm-ci.yaml", cache="team"),
        {
            "commit": {"sha": "4" * 40, "dirty": dirty},
            "image": {"reference": f"localhost/chat@{DIGEST}", "digest": DIGEST, "tags": ["4" * 40]},
            "layers": [layer],
        },
    )


def test_it_has_what_the_builder_says_and_the_settings_it_was_built_with() -> None:
    found = built()
    assert (found.digest, found.reference, found.commit) == (DIGEST, f"localhost/chat@{DIGEST}", "4" * 40)
    assert (found.tags, found.dirty) == (["4" * 40], False)
    assert [(each.tier, each.size_bytes, each.built) for each in found.layers] == [("base", 127_600_000, True)]
    assert (found.config, found.cache) == ("serving/vllm-ci.yaml", "team")
    assert f"base                  127.6 MB  {DIGEST}" in found.summary


@pytest.mark.parametrize("dirty", [True, False])
def test_an_image_of_changes_that_are_not_committed_says_so_and_has_no_tags(dirty: bool) -> None:
    found = built(dirty=dirty)
    assert found.dirty is dirty
    assert bool(found.tags) is not dirty
    assert ("cannot be published" in found.summary) is dirty
