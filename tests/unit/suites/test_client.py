"""Requests that are sent concurrently."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from vllm_ci.suites import client
from vllm_ci.suites.client import at_once


def test_results_are_in_the_order_of_the_items() -> None:
    def slower_first(number: int) -> int:
        time.sleep(0.02 * (3 - number))
        return number

    assert at_once(slower_first, range(3)) == [0, 1, 2]
    assert at_once(slower_first, []) == []


def test_calls_that_are_over_immediately_run_concurrently_too() -> None:
    threads = at_once(lambda _: threading.get_ident(), range(32))
    assert len(set(threads)) == 32, "a call was over before another one had its thread"


def test_the_exception_of_the_first_item_whose_call_failed_is_raised() -> None:
    def refuse(number: int) -> None:
        raise ValueError(number)

    with pytest.raises(ValueError, match="0"):
        at_once(refuse, range(8))


def test_a_thread_that_cannot_be_started_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    class Few(ThreadPoolExecutor):
        def submit(self, *given: Any, **named: Any) -> Any:
            if len(self._threads) == 2:
                raise RuntimeError("can't start new thread")
            return super().submit(*given, **named)

    monkeypatch.setattr(client, "ThreadPoolExecutor", Few)
    asked: list[int] = []
    with pytest.raises(RuntimeError, match="start new thread"):
        at_once(asked.append, range(8))
    assert asked == []
