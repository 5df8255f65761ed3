"""Which signals stop a command."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import anyio, os, signal, sys
from vllm_ci.cli import interruptible
from vllm_ci.domain.errors import Interrupted

async def main():
    print("started", flush=True)
    os.kill(os.getpid(), signal.Signals(int(sys.argv[1])))
    await anyio.sleep(0.5)
    return "went on"

try:
    print(interruptible.run(main))
except Interrupted as error:
    print(error.message)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prefix", "number", "expected"),
    [
        ([], signal.SIGHUP, "stopped by SIGHUP"),
        (["nohup"], signal.SIGHUP, "went on"),
        (["nohup"], signal.SIGTERM, "stopped by SIGTERM"),
        ([], signal.SIGINT, "stopped by SIGINT"),
    ],
)
def test_a_hang_up_stops_a_command_unless_it_was_started_with_nohup(
    prefix: list[str], number: signal.Signals, expected: str
) -> None:
    command = [*prefix, sys.executable, "-c", PROGRAM, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
    assert done.stdout.splitlines() == ["started", expected], done.stderr


TWICE = """
import signal
from vllm_ci.cli import interruptible

async def main():
    return None

signal.signal(signal.SIGTERM, lambda *_: None)
before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
interruptible.run(main)
print(before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)])
"""


def test_signals_mean_the_same_after_a_command_as_before() -> None:
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "True\n"


RESULTS = """
import os, signal, sys
from vllm_ci.cli import signals

signals.catch()
try:
    with signals.put_off():
        for name in sys.argv[1:]:
            os.kill(os.getpid(), signal.Signals[name])
        print("written")
    print("went on")
except KeyboardInterrupt as error:
    print(error)
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


@pytest.mark.parametrize(
    ("prefix", "names", "expected"),
    [
        ([], [], ["written", "went on"]),
        ([], ["SIGINT"], ["written", "stopped by SIGINT"]),
        ([], ["SIGTERM"], ["written", "stopped by SIGTERM"]),
        ([], ["SIGTERM", "SIGINT"], ["stopped by SIGINT"]),
        (["nohup"], ["SIGHUP"], ["written", "went on"]),
    ],
)
def test_a_signal_waits_until_results_are_written_and_a_second_one_does_not(
    prefix: list[str], names: list[str], expected: list[str]
) -> None:
    command = [*prefix, sys.executable, "-c", RESULTS, *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
    assert done.stdout.splitlines() == [*expected, "True"], done.stderr
