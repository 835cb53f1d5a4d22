"""Progress of workers elsewhere: a thread looks which units they have committed, and adds those to the counter."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from pipelines import progress
from pipelines.runners.options import understood
from schemas.jobs import Runner
from schemas.stores import list_files

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0


@contextmanager
def following(
    units: Mapping[str, float], runner: Runner, items: Callable[[str], int], *, every_s: float = LOOK_EVERY_S
) -> Iterator[None]:
    """Advances progress by units as their manifests appear, where the work is not done in this process.

    Args:
      units: manifest URL, in one folder or a few -> its share of the stage's total.
      runner: in this process, workers count by themselves and nothing is looked for.
      items: reads a manifest, and says how many items are in it.
      every_s: seconds between two looks.
    """
    if runner.processes == 1 and understood(runner.beam_args).in_process:
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_follow, args=(dict(units), items, stop, every_s), name="following", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _follow(missing: dict[str, float], items: Callable[[str], int], stop: threading.Event, every_s: float) -> None:
    ending = False
    while missing and not ending:
        ending = stop.wait(every_s)  # one last look after the end
        try:
            for url in _there(missing):
                progress.advance(items(url), missing.pop(url))
        except Exception as error:  # noqa: BLE001 - progress never ends a run
            logger.debug("progress: %s", error)


def _there(urls: Mapping[str, float]) -> list[str]:
    """Those that exist; a listing of each folder, not a question for each file."""
    found = set().union(*(list_files(folder) for folder in {url.rpartition("/")[0] for url in urls}))
    return [url for url in urls if url in found]
