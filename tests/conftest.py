"""What holds for every test."""

from __future__ import annotations

import os
import signal
import sys

# pytester forgets the modules that a run inside of a test imports first. Of a second copy, httpx does not know the exceptions,
# and yaml's C part cannot be imported twice.
import httpcore  # noqa: F401
import yaml  # noqa: F401
from hypothesis import settings

from failing import pytest_runtest_logreport  # noqa: F401 - a hook
from generated import long_run


def pytest_configure() -> None:
    """Make every run the same, and signals those of a terminal.

    Generated inputs are the same each time, so that a result depends on the code alone; the long runs take new ones.
    """
    # No deadline for an example: how long one takes depends on what else the machine does.
    settings.register_profile("repeatable", derandomize=not long_run(), database=None, deadline=None)
    settings.load_profile("repeatable")
    _reset_signals()
    # Half of the time to collect the tests goes into their assertions if nothing is kept.
    sys.dont_write_bytecode = False


def pytest_collection_finish() -> None:
    """Keep nothing of what tests import: a file that is written again within a second would not be read again."""
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))


def _reset_signals() -> None:
    """Give the programs that tests start the signals of a terminal: nohup and shells in the background have us ignore some."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)
