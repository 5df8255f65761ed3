"""A waker of a deployment of stand-ins, in a process as users run it. It prints the id of each process that does the work.

Usage: ``waking.py FOLDER``. No server is started in the first half second, so that a test can kill it before.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import anyio

sys.path.insert(0, str(Path(__file__).parents[1]))

from standin.deployment import opened
from vllm_ci.deploy.scaling import Scale
from vllm_ci.domain.gateway import GatewaySettings, Waiting
from vllm_ci.engines.attended import attended
from vllm_ci.targets.envoy.waker import SOCKET
from vllm_ci.targets.local.waker import Waker


def work(listener: socket.socket) -> None:
    """What is attended."""
    waiting, begun = Waiting(queue=200, wait_s=60), time.monotonic()
    target = opened(Path(sys.argv[1]) / "target", GatewaySettings(waiting=waiting))
    waker = Waker(target, Scale(least=0, most=1), waiting, going_back=lambda: time.monotonic() - begun < 0.5)
    sys.stdout.write(f"{os.getpid()}\n")
    sys.stdout.flush()
    anyio.run(waker.run, listener)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    attended(folder / "waker.lock", folder / "target" / "gateway" / SOCKET, work)
