"""What holds for every test."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Give the programs that tests start the signals of a terminal: nohup and shells in the background have us ignore some."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)
