"""The command line with small programs in the place of an image and of vLLM: everything else is real.

Variables say what they do: ``STANDIN_SERVER`` (modes of ``server.py``, one for each start, commas between),
``STANDIN_LOG`` (a file, what a dying server writes), ``STANDIN_BUILD`` and ``STANDIN_MODEL`` (what these print in failing;
empty: they succeed).
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import anyio

from vllm_ci.domain.events import Emit
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.program import Outcome, Program, Service, ServiceSpec
from vllm_ci.engines import ENGINES
from vllm_ci.engines.host import HostEngine
from vllm_ci.engines.host_directory import HostDirectory

SERVER = str(Path(__file__).with_name("server.py"))
_FAILS = "import sys; print(sys.argv[1]); sys.exit(3)"
_BUILDS = """
import json, pathlib, sys
out = pathlib.Path(sys.argv[1])
digest = "sha256:" + "d" * 64
image = {"reference": f"standin@{digest}", "digest": digest}
(out / "build.json").write_text(json.dumps({"image": image, "layers": []}))
(out / "config.json").write_text("{}")
(out / "manifest.json").write_text("{}")
"""


@dataclass(kw_only=True)
class StandIn(HostEngine):
    served: int = 0

    async def run(self, program: Program, *, stop: anyio.Event | None = None) -> Outcome:
        if program.name in ("build", "model"):
            said = os.environ.get(f"STANDIN_{program.name.upper()}", "")
            makes = _BUILDS if program.name == "build" else "pass"
            argv = ("python", "-c", _FAILS, said) if said else ("python", "-c", makes, "{out}")
            program = replace(program, argv=argv, cache_key="", inputs={})
        return await super().run(replace(program, image=None), stop=stop)

    async def prepare(self, image: ImageRef, emit: Emit) -> None:
        """There is no image to unpack."""

    @asynccontextmanager
    async def serve(self, spec: ServiceSpec) -> AsyncIterator[Service]:
        modes, log = os.environ.get("STANDIN_SERVER", "good").split(","), os.environ.get("STANDIN_LOG", "")
        mode = modes[min(self.served, len(modes) - 1)]
        self.served += 1
        if seen := os.environ.get("STANDIN_SEEN"):  # the command line and the folder of the model that a real server would get
            model = spec.inputs.get("model")
            folder = str(model.path) if isinstance(model, HostDirectory) else ""
            Path(seen).write_text(json.dumps({"argv": spec.argv, "model": folder}), encoding="utf-8")
        argv = ("python", SERVER, mode, "{port}", log)
        async with super().serve(replace(spec, argv=argv, image=None)) as service:
            yield service


if __name__ == "__main__":
    from vllm_ci.cli import main

    ENGINES["host"] = "standin.engine:StandIn"
    main()
