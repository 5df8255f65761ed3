"""On ``PYTHONPATH``, it has commands start stand-ins in the place of servers of images, as do processes that they start."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).parents[2]))


def patch() -> None:
    """Replace what needs an image."""
    from standin.deployment import StandinLauncher
    from vllm_ci.targets import revision
    from vllm_ci.targets.local import launcher

    class Launcher(StandinLauncher):
        async def launch(self, given: Any, place: Path, *, port: int, devices: tuple[int, ...]) -> launcher.Launch:
            found = await super().launch(given, place, port=port, devices=devices)
            return launcher.Launch(argv=(*found.argv[:3], "a", found.argv[4]), env=found.env)

    async def as_it_is(_: Any, project: Any, *__: Any, **___: Any) -> tuple[Any, str]:
        return project, ""

    setattr(revision, "_here", as_it_is)  # noqa: B010 - it is private
    setattr(launcher, "ImageLauncher", lambda **_: Launcher(seen=Path(os.environ["STANDIN_SEEN"])))  # noqa: B010


if os.environ.get("STANDIN_SEEN"):
    patch()
