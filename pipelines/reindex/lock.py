"""One run per dataset: a lock file with an owner and a heartbeat; what a dead run left is broken, loudly.

The file is created only if absent, and beating, breaking and removing it happen only if it still is what was read (see
`schemas.conditional`), so that of two that come at once, or break it at once, one wins. The owner writes a heartbeat
every `BEAT_S`. A lock is stale when its process is known to be gone (same machine), or when its heartbeat is older than
`STALE_S`; a heartbeat from the future (a clock set back) is not old.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from schemas import conditional
from schemas.commits import encode_json
from schemas.errors import BusyError, FastslowError, InputError
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
      InputError: it cannot be written: a read-only root, a full disk, no such bucket.
      ConfigError: the root is on a store without conditional writes.
    """
    conditional.refuse_unconditional(layout)
    url, mine = layout.lock(), uuid.uuid4().hex
    try:
        tag = _take(url, mine, purpose, layout.dataset)
    except KeyboardInterrupt:  # the file may be there already
        _let_go(url, mine)
        raise
    stop = threading.Event()
    beating = threading.Thread(target=_beat, args=(url, mine, tag, purpose, stop), daemon=True)
    try:
        beating.start()
        yield
    finally:
        stop.set()
        if beating.is_alive():
            beating.join()
        _let_go(url, mine)


class Held(NamedTuple):
    """A lock that is there: whose, and why it means nothing any more (None where it does)."""

    who: str
    stale: str | None


def held(layout: Layout) -> Held | None:
    """Who is at work on the dataset; None for nobody.

    Raises:
      InputError: the lock is there but cannot be read.
    """
    found = _read(layout.lock())
    if found is None:
        return None
    if not found.owner:
        raise InputError(f"{layout.lock()}: expected a lock, got something else; if no run is at work, remove it")
    return Held(_who(found.owner), _stale(found.owner))


class _Lock(NamedTuple):
    """A lock as it was read: who has it, and the tag of that version."""

    owner: dict[str, Any]
    tag: str


def _take(url: str, token: str, purpose: str, dataset: str) -> str:
    """Creates the lock, or breaks a stale one; its tag."""
    found = None
    for _ in range(3):  # let go just now, taken by another, again: then it is busy
        tag = _write(url, token, purpose, None)
        if tag is not None:
            return tag
        found = _read(url)
        if found is None:
            continue
        why = _stale(found.owner)
        if why is None:
            break
        tag = _write(url, token, purpose, found.tag)
        if tag is not None:
            log.warning("%s: the lock of %s is broken: %s", dataset, _who(found.owner), why)
            return tag
    holder = _who(found.owner if found is not None else {})
    raise BusyError(f"{dataset} is locked by {holder}; try again later, or, if that run is gone, remove {url}")


def _write(url: str, token: str, purpose: str, tag: str | None) -> str | None:
    data = encode_json(_owner(token, purpose))
    try:
        return conditional.create(url, data) if tag is None else conditional.replace(url, data, tag=tag)
    except OSError as error:
        raise InputError(
            f"{url}: cannot be written ({error}); a run needs a --root that it may write to, with room left"
        ) from error


def _let_go(url: str, token: str) -> None:
    try:
        found = _read(url)
        if found is not None and found.owner.get("token") == token:
            conditional.remove(url, tag=found.tag)
    except (OSError, FastslowError) as error:  # what was done is done
        log.warning("%s: cannot be removed (%s); the next run breaks it when it is stale", url, error)


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
    """Why a lock means nothing any more; None where it does, or where it cannot be told."""
    if "heartbeat" not in held:
        return None
    if held.get("host") == socket.gethostname():
        pid = int(held.get("pid", 0))
        if _started(pid) != held.get("process_started"):
            return f"process {pid} is gone"
        return None
    age = time.time() - float(held["heartbeat"])
    return f"its last heartbeat was {age:.0f} s ago" if age > STALE_S else None


def _started(pid: int) -> str | None:
    """When a process of this machine was started, in ticks since boot; None where there is none: numbers come again."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stream:
            return stream.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _beat(url: str, token: str, tag: str, purpose: str, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        try:
            written = _write(url, token, purpose, tag)
            if written is None:
                found = _read(url)
                if found is None or found.owner.get("token") != token:
                    log.error(
                        "%s: the lock was taken away; this run goes on, and publishing will refuse if it must", url
                    )
                    return
                written = found.tag  # an earlier beat that seemed to fail has got through
            tag = written
        except (OSError, FastslowError) as error:  # a disk or a network that fails for a moment is no reason to stop
            log.warning("%s: no heartbeat: %s", url, error)


def _read(url: str) -> _Lock | None:
    found = conditional.read(url)
    if found is None:
        return None
    try:
        owner = json.loads(found.data)
    except ValueError:
        owner = {}
    return _Lock(owner if isinstance(owner, dict) else {}, found.tag)


def _who(held: dict[str, Any]) -> str:
    return f"{held.get('purpose', 'a run')} on {held.get('host', '?')}, process {held.get('pid', '?')}"
