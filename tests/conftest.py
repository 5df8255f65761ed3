"""What holds for every test."""

from __future__ import annotations

import os
import re
import signal

import pytest
from hypothesis import settings

FUZZING = ("VLLM_CI_FUZZ", "FUZZ_EXAMPLES")
# Tests that take more than about 20 seconds. Each worker begins with its share of them; left to the end, the others would wait.
_LONG = re.compile(
    r"tests/doubles/test_conformance\.py::test_(the_costs_in_the_manifest|the_correct_server_passes|a_defect_is_named\w*\["
    r"(first-chunk-late|groups-of-chunks|crowds-are-refused|late-beyond|compression-holds-back|hangs-by-a-request|burst-at-the-end))"
    r"|tests/doubles/test_conformance\.py::test_a_legal_variation_passes\[NoQuota"
    r"|tests/doubles/test_gateways\.py::test_a_legal_gateway_passes\[StrangersAreTooMany"
    r"|tests/doubles/test_legal_streams\.py::test_(a_legal_stream_passes\[(LateFirstToken|Compressed)|streams_that_hang)"
    r"|tests/doubles/test_causes\.py"
    r"|tests/docs/test_release_story\.py"
    r"|tests/unit/(cli/test_bench_aa|pipeline/test_comparison_host|release/test_crash|test_leftovers|report/test_cascade)\.py"
    r"|tests/unit/(monitoring/test_rules|stages/test_reviving|cli/test_bench_overload|performance/test_overload)\.py"
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long tests: every worker gets a part of the list, all of the same length, and its share of them first."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = [item for item in items if _LONG.search(item.nodeid)]
    if workers < 2 or len(items) < 20 * workers or not long:
        return
    short = iter([item for item in items if not _LONG.search(item.nodeid)])
    total = len(items)
    items[:] = []
    for number in range(workers):
        size = (total - len(items)) // (workers - number)
        share = long[number::workers]
        items += [*share, *(item for _, item in zip(range(size - len(share)), short, strict=False))]


def pytest_configure() -> None:
    """Make every run the same, and signals those of a terminal.

    Generated inputs are the same each time, so that a result depends on the code alone; the long runs take new ones.
    """
    fuzzing = any(name in os.environ for name in FUZZING)
    # No deadline for an example: how long one takes depends on what else the machine does.
    settings.register_profile("repeatable", derandomize=not fuzzing, database=None, deadline=None)
    settings.load_profile("repeatable")
    _reset_signals()


def _reset_signals() -> None:
    """Give the programs that tests start the signals of a terminal: nohup and shells in the background have us ignore some."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)
