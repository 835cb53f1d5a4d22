"""Several processes of this machine, each over a slice of the elements: one for a GPU, a model in each.

Beam's own way, multi_processing, hangs for ever when a worker dies; here that ends the run with an error, and what was
committed until then stands.
"""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Any

import apache_beam as beam
from apache_beam.internal import pickler

from pipelines.runners.apart import Apart
from schemas.jobs import Runner

logger = logging.getLogger(__name__)


def run_side_by_side(
    elements: Sequence[Any], transform: beam.PTransform, *, counted: str, runner: Runner
) -> dict[str, int]:
    """`run_over`, by as many processes as the runner says; the cores of this machine are shared out among them.

    Elements are dealt out in turn. When one process fails the others are stopped.

    Raises:
      FastslowError: as raised by the transform, or a process died.
      KeyboardInterrupt: the user stopped it; so are the processes.
    """
    devices = _devices()
    wanted = max(len(devices), 1) if runner.processes == "gpus" else runner.processes
    count = max(min(wanted, len(elements)), 1)
    alone = replace(runner, processes=1)
    work = pickler.dumps(transform)
    cores = sorted(os.sched_getaffinity(0))
    logger.info("%d processes%s", count, f" on {len(devices)} GPUs" if devices else "")
    running: list[Apart[dict[str, int]]] = []
    try:
        for i in range(count):
            device = {"CUDA_VISIBLE_DEVICES": devices[i % len(devices)]} if devices else None
            mine = cores[i::count] or cores
            arguments = (list(elements[i::count]), work, counted, alone)
            running += [Apart(_run_slice, *arguments, environment=device, cores=mine)]
        total: Counter[str] = Counter()
        left = list(running)
        while left:
            ready = wait([one.receiver for one in left])
            for one in [one for one in left if one.receiver in ready]:
                left.remove(one)
                total.update(one.result())
    except BaseException:
        for one in running:
            one.stop()
        raise
    return dict(total)


def _run_slice(elements: Sequence[Any], work: bytes, counted: str, runner: Runner) -> dict[str, int]:
    from pipelines.runners.run import run_over

    return run_over(elements, pickler.loads(work), counted=counted, runner=runner)


def _devices() -> list[str]:
    """GPUs this process may use, as CUDA_VISIBLE_DEVICES names them; asked without starting CUDA here."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named is not None else [str(i) for i in range(count)]
