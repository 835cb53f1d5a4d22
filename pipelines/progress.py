"""Progress of a running stage: items a second and time left, on a terminal as a bar, elsewhere as a few log lines.

Beam's local runner reports nothing until it ends. The work happens in this process, so the workers add to a
counter in this module and a thread beside them shows it. (On a cluster the counter stays at zero here, and the
cluster's own page shows progress.)
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

REFRESH_S = 0.25
LOG_EVERY_S = 30.0


class Reading(NamedTuple):
    """How far the work of this process is: items finished, and the same in the unit of the stage's total."""

    items: int
    done: float


_lock = threading.Lock()
_now = Reading(0, 0.0)


def advance(items: int, done: float | None = None) -> None:
    """Adds finished work; called by workers, from any thread.

    Args:
      items: what the rate is shown in (images, pairs).
      done: in the unit of the stage's total (bytes, where the number of items is not known beforehand); None: items.
    """
    global _now  # noqa: PLW0603
    with _lock:
        _now = Reading(_now.items + items, _now.done + (items if done is None else done))


def reading() -> Reading:
    """The counter as it stands, since the process began."""
    with _lock:
        return _now


@contextmanager
def watch(
    title: str,
    *,
    total: float | None,
    unit: str = "items",
    console: Console | None = None,
    log_every_s: float = LOG_EVERY_S,
) -> Iterator[None]:
    """Shows what `advance` counts while the block runs.

    Args:
      title: what is being done.
      total: at which `done` the work is finished; None when unknown (then there is no time left to show).
      unit: plural of what the rate counts.
      console: where to draw; stderr by default. No terminal, no bar: log lines instead.
      log_every_s: seconds between those.
    """
    console = console or Console(stderr=True)
    stop = threading.Event()
    show = _draw if console.is_terminal else _log
    begin, base = time.monotonic(), reading()
    thread = threading.Thread(
        target=show, args=(title, total, unit, base, stop, console, log_every_s), name="progress", daemon=True
    )
    logger.info("%s: started", title)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        items, seconds = reading().items - base.items, time.monotonic() - begin
        logger.info("%s: %d %s in %.1f s (%.1f/s)", title, items, unit, seconds, items / max(seconds, 1e-9))


def _draw(
    title: str, total: float | None, unit: str, base: Reading, stop: threading.Event, console: Console, _: float
) -> None:
    begin = time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[items]:,} {task.fields[unit]}, {task.fields[rate]:,.1f}/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, speed_estimate_period=120.0) as progress:
        task = progress.add_task(title, total=total, items=0, unit=unit, rate=0.0)
        while True:
            ending = stop.wait(REFRESH_S)
            now = reading()
            items = now.items - base.items
            rate = items / max(time.monotonic() - begin, 1e-9)
            progress.update(task, completed=now.done - base.done, items=items, rate=rate)
            if ending:
                return


def _log(
    title: str, total: float | None, unit: str, base: Reading, stop: threading.Event, _: Console, log_every_s: float
) -> None:
    begin = time.monotonic()
    while not stop.wait(log_every_s):
        now, seconds = reading(), time.monotonic() - begin
        items, done = now.items - base.items, now.done - base.done
        left = "unknown" if not total or done <= 0 else f"{max(total - done, 0.0) / done * seconds:.0f} s"
        logger.info("%s: %d %s, %.1f/s, time left %s", title, items, unit, items / seconds, left)
