"""Lanes give results in order, look ahead only so far, hand on errors, and leave no thread behind."""

import _thread
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.embed import lanes as module
from pipelines.embed.lanes import AHEAD, Lanes, cores


def lane_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("lane")]


@settings(max_examples=25, deadline=None)
@given(naps=st.lists(st.sampled_from([0.0, 0.001, 0.004]), max_size=30), count=st.integers(1, 5))
def test_results_come_in_the_order_of_the_tasks(naps, count):
    def nap(task: tuple[int, float]) -> int:
        time.sleep(task[1])
        return task[0]

    with Lanes(count) as lanes:
        assert list(lanes.map(nap, enumerate(naps))) == list(range(len(naps)))


def test_all_lanes_work_at_once():
    meeting = threading.Barrier(3, timeout=10)  # breaks unless three are there together
    with Lanes(3) as lanes:
        assert len(list(lanes.map(lambda _: meeting.wait(), range(9)))) == 9


def test_it_looks_ahead_only_so_far():
    drawn: list[int] = []

    def tasks():
        for number in range(1000):
            drawn.append(number)
            yield number

    with Lanes(2) as lanes:
        results = lanes.map(lambda number: number, tasks())
        for number in results:
            assert len(drawn) <= number + 2 + AHEAD * 2
        assert len(drawn) == 1000


def test_heavy_tasks_are_held_one_at_a_time(monkeypatch):
    monkeypatch.setattr(module, "AHEAD_BYTES", 100)
    running, most, lock = 0, 0, threading.Lock()

    def work(_):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1

    with Lanes(4) as lanes:
        list(lanes.map(work, range(20), weigh=lambda _: 70))
        assert most == 1
        list(lanes.map(work, range(20), weigh=lambda _: 50))
        assert most == 2
        list(lanes.map(work, [0], weigh=lambda _: 1000))  # one may exceed the limit alone


def test_an_error_comes_in_its_turn_and_calls_off_the_rest():
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 5:
            raise ValueError("five")
        return number

    got: list[int] = []
    with Lanes(2) as lanes:
        with pytest.raises(ValueError, match="five"):
            got.extend(lanes.map(work, range(10_000)))
        after = len(begun)
        time.sleep(0.02)
        assert len(begun) == after < 5 + 2 + AHEAD * 2
    assert got == [0, 1, 2, 3, 4]
    assert not lane_threads()


def test_an_error_while_drawing_tasks_is_raised_after_no_more_work_runs():
    def tasks():
        yield from range(3)
        raise OSError("the connection was lost")

    with Lanes(2) as lanes, pytest.raises(OSError, match="connection"):
        list(lanes.map(lambda number: number, tasks()))
    assert not lane_threads()


def test_a_reader_that_stops_early_leaves_nothing_running():
    with Lanes(2) as lanes:
        results = lanes.map(lambda number: number, range(1000))
        assert next(results) == 0
        results.close()
        assert list(lanes.map(lambda number: number, range(3))) == [0, 1, 2]  # and they can be used again
    assert not lane_threads()


def test_control_c_ends_it():
    timer = threading.Timer(0.2, _thread.interrupt_main)
    begin = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt), Lanes(2) as lanes:
        list(lanes.map(lambda _: time.sleep(0.05), range(10_000)))
    assert time.monotonic() - begin < 5
    timer.join()
    assert not lane_threads()


def test_every_lane_has_one_torch_thread_and_the_number_is_given_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with Lanes(2) as lanes:
            assert list(lanes.map(lambda _: torch.get_num_threads(), range(8))) == [1] * 8
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_there_is_a_lane_for_each_core():
    with Lanes() as lanes:
        assert lanes.count == cores() >= 1
