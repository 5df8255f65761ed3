"""The bill of materials of an image in the builder's store."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vllm_ci.domain.errors import BuildError
from vllm_ci.images.materials import BuiltFrom, keep
from vllm_ci.images.store import Store
from vllm_ci.module.bill import bill

DIGEST = "sha256:" + "1" * 64
AT = datetime(2027, 1, 1, tzinfo=UTC)


def test_it_is_about_the_image_and_has_the_files_of_the_commit(tmp_path: Path) -> None:
    store = Store(tmp_path)
    keep(store, DIGEST, BuiltFrom(files={"/app/serving.py": "2" * 64}))
    found = json.loads(bill(store, f"localhost/chat@{DIGEST}", "4" * 40, at=AT))
    assert (found["bomFormat"], found["metadata"]["component"]["version"]) == ("CycloneDX", DIGEST)
    assert [each["name"] for each in found["components"]] == ["/app/serving.py"]


def test_an_image_that_was_not_built_here_has_none(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="build it again"):
        bill(Store(tmp_path), f"localhost/chat@{DIGEST}", "4" * 40, at=AT)
