"""Warnings of an outage: said now and then, none of them uncounted."""

from __future__ import annotations

import itertools
import logging
import re
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from reelroute.limited_log import _REMEMBERED, PAUSE_SECONDS, LimitedLog


class Clock:
    """Shows what it is set to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock) -> LimitedLog:
    return LimitedLog(logging.getLogger("reelroute"), clock=clock)


def test_equal_warnings_are_said_once_and_the_next_one_counts_the_others(
    log: LimitedLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(43):
        log.warning("throttled")
    assert caplog.messages == ["throttled"]
    clock.now += PAUSE_SECONDS
    log.warning("throttled")
    assert caplog.messages[1:] == ["throttled (and 42 more times)"]
    log.warning("throttled")
    clock.now += PAUSE_SECONDS
    log.warning("throttled")
    assert caplog.messages[2:] == ["throttled (and 1 more time)"]
    clock.now += PAUSE_SECONDS
    log.warning("throttled")
    assert caplog.messages[3:] == ["throttled"]


def test_ten_seconds_count_from_the_warning_that_was_said(
    log: LimitedLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(25):
        log.warning("throttled")
        clock.now += 1
    assert caplog.messages == ["throttled", *["throttled (and 9 more times)"] * 2]


def test_different_warnings_do_not_hold_each_other_back(
    log: LimitedLog, caplog: pytest.LogCaptureFixture
) -> None:
    for message in ("a", "b", "a", "b"):
        log.warning(message)
    assert caplog.messages == ["a", "b"]


def test_warnings_of_one_cause_are_equal_however_else_they_differ(
    log: LimitedLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for count in range(4):
        log.warning(f"throttled: {count} queries", cause="throttled")
    clock.now += PAUSE_SECONDS
    log.warning("throttled: 9 queries", cause="throttled")
    assert caplog.messages == ["throttled: 0 queries", "throttled: 9 queries (and 3 more times)"]


def test_a_message_is_no_format_and_its_line_is_the_callers(
    log: LimitedLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.warning("100 %s {}")
    [record] = caplog.records
    assert (record.getMessage(), record.levelname) == ("100 %s {}", "WARNING")
    assert record.pathname == __file__


def test_causes_that_never_repeat_do_not_fill_the_memory(
    log: LimitedLog, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3 * _REMEMBERED):
        log.warning(f"request {number} failed")
        log.warning("throttled")  # what keeps coming is not forgotten for it
    assert len(log._said) == _REMEMBERED
    assert caplog.messages.count("throttled") == 1


def test_no_warning_of_many_threads_is_lost_or_said_twice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    threads, each, looks = 8, 400, itertools.count()

    def clock() -> float:
        """Every fifth warning is said."""
        now = next(looks) * PAUSE_SECONDS / 5
        time.sleep(0)  # another thread's turn, where nothing keeps it out
        return now

    log = LimitedLog(logging.getLogger("reelroute"), clock=clock)
    together = Barrier(threads)

    def warn() -> None:
        together.wait(60)
        for _ in range(each):
            log.warning("throttled")

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(warn) for _ in range(threads)]:
            done.result()
    left_out = [int(found[1]) for m in caplog.messages if (found := re.search(r"and (\d+)", m))]
    assert len(caplog.messages) == threads * each / 5
    assert left_out == [4] * (len(caplog.messages) - 1)
