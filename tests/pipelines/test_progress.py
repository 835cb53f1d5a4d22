"""Progress: a bar where there is a terminal, a few log lines where there is none, right numbers in both."""

import io
import logging
import threading
import time

import pytest
from rich.console import Console

from pipelines import progress


def test_work_of_all_threads_is_added_up():
    before = progress.reading()
    threads = [threading.Thread(target=lambda: [progress.advance(1, 2.5) for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = progress.reading()
    assert (after.items - before.items, after.done - before.done) == (2000, 5000.0)


def test_without_a_terminal_there_is_no_bar_but_a_line_at_both_ends(caplog):
    stream = io.StringIO()
    with (
        caplog.at_level(logging.INFO),
        progress.watch("embed x", total=100, unit="images", console=Console(file=stream)),
    ):
        progress.advance(7, 70)
    assert stream.getvalue() == ""
    assert caplog.messages[0] == "embed x: started"
    assert caplog.messages[-1].startswith("embed x: 7 images in ")
    assert len(caplog.messages) == 2


def test_without_a_terminal_the_time_left_is_logged_now_and_then(caplog):
    with (
        caplog.at_level(logging.INFO),
        progress.watch("embed x", total=100, console=Console(file=io.StringIO()), log_every_s=0.05),
    ):
        progress.advance(1, 50)
        time.sleep(0.2)
    between = caplog.messages[1:-1]
    assert between
    assert all("1 items" in line and "time left 0 s" in line for line in between)


def test_an_unknown_total_gives_no_time_left(caplog):
    with (
        caplog.at_level(logging.INFO),
        progress.watch("embed x", total=None, console=Console(file=io.StringIO()), log_every_s=0.05),
    ):
        progress.advance(1)
        time.sleep(0.12)
    assert "time left unknown" in caplog.messages[1]


def test_on_a_terminal_there_is_a_bar_with_the_rate():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120)
    with progress.watch("embed x", total=4, unit="images", console=console):
        progress.advance(4)
    shown = stream.getvalue()
    assert "embed x" in shown
    assert "100%" in shown
    assert "4 images" in shown


def test_no_thread_is_left_when_the_work_fails(caplog):
    with (
        pytest.raises(ZeroDivisionError),
        progress.watch("embed x", total=1, console=Console(file=io.StringIO())),
    ):
        _ = 1 / 0
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]
