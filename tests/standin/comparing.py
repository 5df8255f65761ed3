"""The host engine with paced servers in the place of two images: baseline and candidate, each start with a speed of its own."""

from __future__ import annotations

import math
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import anyio

from standin.engine import StandIn
from vllm_ci.domain.program import Outcome, Program, Service, ServiceSpec
from vllm_ci.engines import ENGINES
from vllm_ci.engines.host import HostEngine

SERVER = str(Path(__file__).with_name("paced.py"))
BASELINE = "sha256:" + "b" * 64
_BASELINE = f"""
import json, pathlib, sys
out = pathlib.Path(sys.argv[1])
facts = {{"source": "channel production", "repository": "standin", "digest": "{BASELINE}"}}
(out / "image.json").write_text(json.dumps(facts))
(out / "config.json").write_text("{{}}")
"""


@dataclass(kw_only=True)
class PacedEngine(StandIn):
    """The engine.

    Attributes:
        sd: Standard deviation of the log ratio of two starts of one image.
        slowdown: How much slower the candidate is, as a share.
        start_s: Seconds that a start takes.
        seed: Decides the speed of each start.
        modes: Modes of ``paced.py``, by arm.
    """

    sd: float = float(os.environ.get("STANDIN_SD", "0"))
    slowdown: float = float(os.environ.get("STANDIN_SLOWDOWN", "0"))
    start_s: float = 0.3
    seed: str = "1"
    candidate_mode: str = os.environ.get("STANDIN_CANDIDATE", "")

    async def run(self, program: Program, *, stop: anyio.Event | None = None) -> Outcome:
        if program.name == "baseline":
            program = replace(program, argv=("python", "-c", _BASELINE, "{out}"), inputs={})
        return await super().run(program, stop=stop)

    @asynccontextmanager
    async def serve(self, spec: ServiceSpec) -> AsyncIterator[Service]:
        self.served += 1
        candidate = spec.image is not None and spec.image.digest != BASELINE
        rng = random.Random(f"{self.seed}:{self.served}")
        factor = math.exp(rng.gauss(0, self.sd / math.sqrt(2))) * (1 + self.slowdown if candidate else 1)
        model = spec.argv[spec.argv.index("--served-model-name") + 1]
        argv = (
            "python",
            SERVER,
            "{port}",
            model,
            f"{self.start_s}",
            f"{factor}",
            *([self.candidate_mode] if candidate else []),
        )
        async with HostEngine.serve(self, replace(spec, argv=argv, image=None)) as service:
            yield service


if __name__ == "__main__":
    from vllm_ci.cli import main

    ENGINES["host"] = "standin.comparing:PacedEngine"
    main()
