"""Our trees against those that umoci unpacks from the same layers.

The long run: ``VLLM_CI_FUZZ=2000 ci/test tests/unit/images/test_differential.py -n 0 -s`` (number of images; 0.1 s each).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from imagery.changesets import changesets, written
from imagery.layers import Item, Layout
from imagery.trees import told
from vllm_ci.domain.errors import BuildError
from vllm_ci.images.store import Store
from vllm_ci.images.tree import materialise

pytestmark = pytest.mark.slow

UMOCI = shutil.which("umoci")
EXAMPLES = int(os.environ.get("VLLM_CI_FUZZ", "25"))


@pytest.fixture(scope="module")
def compared() -> dict[str, int]:
    return {"images": 0, "layers": 0, "paths": 0, "refused by both": 0}


def ours(digest: str, store: Store) -> dict[str, str] | str:
    try:
        return told(materialise(digest, store=store))
    except BuildError as error:
        return str(error)


def umocis(layout: Path, bundle: Path) -> dict[str, str] | str:
    assert UMOCI is not None
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    done = subprocess.run(
        [UMOCI, "unpack", *rootless, "--image", f"{layout}:latest", str(bundle)], check=False, capture_output=True, text=True
    )
    return told(bundle / "rootfs") if done.returncode == 0 else done.stderr


@pytest.mark.needs_tool
@pytest.mark.skipif(UMOCI is None, reason="umoci is not installed (Debian package umoci)")
def test_trees_are_those_that_umoci_unpacks(compared: dict[str, int]) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(changesets())
    def check(layers: list[tuple[list[Item], int]]) -> None:
        tars = [written(*layer) for layer in layers]
        with tempfile.TemporaryDirectory() as place:
            store = Store(Path(place) / "home")
            digest = Layout(path=store.layout).image(tars)
            theirs, mine = umocis(store.layout, Path(place) / "bundle"), ours(digest, store)
            if isinstance(theirs, str):
                assert isinstance(mine, str), theirs
                compared["refused by both"] += 1
                return
            assert mine == theirs
            compared["images"] += 1
            compared["layers"] += len(tars)
            compared["paths"] += len(theirs)

    check()
    sys.stdout.write(f"compared: {compared}\n")
    assert compared["images"] > EXAMPLES // 4, compared
