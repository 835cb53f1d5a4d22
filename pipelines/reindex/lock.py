"""One run per dataset: a lock file with an owner and a heartbeat; what a dead run left is broken, loudly.

On a local disk the file is created in one step, on an object store by a conditional write, so that of two that come at
once one wins. The owner writes a heartbeat every `BEAT_S`. A lock is stale when its process is known to be gone (same
machine), or when its heartbeat is older than `STALE_S`; a heartbeat from the future (a clock set back) is not old.
"""

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import fsspec

from schemas.commits import commit_json, encode_json, exists, publish_bytes, read_json
from schemas.errors import BusyError, InputError
from schemas.layout import Layout

log = logging.getLogger(__name__)

BEAT_S = 30.0
STALE_S = 600.0


@contextmanager
def locked(layout: Layout, purpose: str) -> Iterator[None]:
    """Holds the dataset's lock within the block.

    Args:
      purpose: what the owner does, for those who wait.

    Raises:
      BusyError: somebody holds it.
      InputError: it cannot be written: a read-only root, or a full disk.
    """
    url, mine = layout.lock(), uuid.uuid4().hex
    _take(url, mine, purpose, layout.dataset)
    stop = threading.Event()
    beating = threading.Thread(target=_beat, args=(url, mine, purpose, stop), daemon=True)
    beating.start()
    try:
        yield
    finally:
        stop.set()
        beating.join()
        if (_read(url) or {}).get("token") == mine:
            _remove(url)


class Held(NamedTuple):
    """A lock that is there: whose, and why it means nothing any more (None where it does)."""

    who: str
    stale: str | None


def held(layout: Layout) -> Held | None:
    """Who is at work on the dataset; None for nobody.

    Raises:
      InputError: the lock is there but cannot be read.
    """
    try:
        found = read_json(layout.lock())
    except InputError:
        if not exists(layout.lock()):
            return None
        raise
    if not isinstance(found, dict):
        raise InputError(f"{layout.lock()}: expected a lock, got {found!r}")
    return Held(_who(found), _stale(found))


def _take(url: str, token: str, purpose: str, dataset: str) -> None:
    for _ in range(3):  # broken, taken by another, broken again: then it is busy
        try:
            if commit_json(url, _owner(token, purpose)):
                return
        except OSError as error:
            raise InputError(
                f"{url}: cannot be written ({error}); a run needs a --root that it may write to, with room left"
            ) from error
        held = _read(url)
        if held is None:  # let go just now
            continue
        why = _stale(held)
        if why is None:
            break
        log.warning("%s: the lock of %s is broken: %s", dataset, _who(held), why)
        if _read(url) == held:
            _remove(url)
    held = _read(url) or {}
    raise BusyError(f"{dataset} is locked by {_who(held)}; try again later, or, if that run is gone, remove {url}")


def _owner(token: str, purpose: str) -> dict[str, Any]:
    return {
        "token": token,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_started": _started(os.getpid()),
        "purpose": purpose,
        "heartbeat": time.time(),
    }


def _stale(held: dict[str, Any]) -> str | None:
    """Why a lock means nothing any more; None where it does."""
    if held.get("host") == socket.gethostname():
        pid = int(held.get("pid", 0))
        if _started(pid) != held.get("process_started"):
            return f"process {pid} is gone"
        return None
    age = time.time() - float(held.get("heartbeat", 0))
    return f"its last heartbeat was {age:.0f} s ago" if age > STALE_S else None


def _started(pid: int) -> str | None:
    """When a process of this machine was started, in ticks since boot; None where there is none: numbers come again."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stream:
            return stream.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _beat(url: str, token: str, purpose: str, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        try:
            if (_read(url) or {}).get("token") != token:
                log.error("%s: the lock was taken away; this run goes on, and publishing will refuse if it must", url)
                return
            publish_bytes(encode_json(_owner(token, purpose)), url)
        except OSError as error:  # a disk that is full for a moment is no reason to stop
            log.warning("%s: no heartbeat: %s", url, error)


def _read(url: str) -> dict[str, Any] | None:
    try:
        found = read_json(url)
    except InputError:
        return None
    return found if isinstance(found, dict) else {}


def _remove(url: str) -> None:
    fs, path = fsspec.core.url_to_fs(url)
    with contextlib.suppress(FileNotFoundError):
        fs.rm_file(path)


def _who(held: dict[str, Any]) -> str:
    return f"{held.get('purpose', 'a run')} on {held.get('host', '?')}, process {held.get('pid', '?')}"
