"""Lanes: threads side by side that each take a whole batch from raw bytes to vectors; results come out in order.

On a CPU one lane per core, each running the model with ONE torch thread, gave 0.98 of what the machine can do
at all for ViT-B/32 (benchmarks/README.md); with one many-threaded forward instead, OpenMP's barriers and the decoders
would fight for the same cores. On a GPU the lanes decode, and take turns on the device.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self, TypeVar

import torch

TaskType = TypeVar("TaskType")
ResultType = TypeVar("ResultType")

AHEAD = 3
"""Tasks a lane may have started or waiting: one in work, one ready, one against an uneven neighbour."""

AHEAD_BYTES = 256 << 20
"""Bytes of all tasks started or waiting, so that long videos do not pile up; one task may exceed it alone."""


def cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Lanes:
    """A fixed number of threads, each with one torch thread of its own; use as a context or call `close`.

    Args:
      count: of threads; None: one per core.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = count or cores()
        self._torch_threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(
            self.count, thread_name_prefix="lane", initializer=torch.set_num_threads, initargs=(1,)
        )

    def map(
        self,
        work: Callable[[TaskType], ResultType],
        tasks: Iterable[TaskType],
        *,
        weigh: Callable[[TaskType], int] | None = None,
    ) -> Generator[ResultType, None, None]:
        """`work` of every task, in the order of the tasks, with bounded look-ahead.

        Tasks are drawn in the caller's thread, only as far ahead as `AHEAD` and `AHEAD_BYTES` allow, so memory does
        not grow with their number. What a task, or the drawing of one, raises is raised here in its turn; the rest is
        then called off, and nothing of it runs any more when the iterator ends.

        Args:
          weigh: bytes a task holds on to; None: nothing worth counting.
        """
        waiting: deque[tuple[Future[ResultType], int]] = deque()
        held = 0
        try:
            for task in tasks:
                weight = weigh(task) if weigh else 0
                while waiting and (len(waiting) >= AHEAD * self.count or held + weight > AHEAD_BYTES):
                    yield waiting[0][0].result()
                    held -= waiting.popleft()[1]
                waiting.append((self._pool.submit(work, task), weight))
                held += weight
            while waiting:
                yield waiting[0][0].result()
                waiting.popleft()
        finally:
            for future, _ in waiting:
                future.cancel()
            wait([future for future, _ in waiting])

    def close(self) -> None:
        """Ends the threads and gives torch back the number it had."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(self._torch_threads)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
