"""Generations, and the one pointer that moves: a generation is written whole, then CURRENT names it."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from schemas.commits import encode_json, exists, publish_bytes, read_json
from schemas.errors import BusyError, InputError
from schemas.layout import Layout
from schemas.manifests import Generation


def current(layout: Layout) -> int | None:
    """The number of the generation being served, or None before the first.

    Raises:
      InputError: the pointer is there but cannot be read.
    """
    if not exists(layout.current()):
        return None
    value = read_json(layout.current())
    number = value.get("generation") if isinstance(value, dict) else None
    if not isinstance(number, int):
        raise InputError(f'{layout.current()}: expected {{"generation": <number>}}, got {json.dumps(value)[:80]}')
    return number


def served(layout: Layout) -> Generation | None:
    """The generation being served."""
    number = current(layout)
    return None if number is None else Generation.read(layout.generation(number))


def numbers(layout: Layout) -> list[int]:
    """The numbers of all generations that were written, rising."""
    fs, path = fsspec.core.url_to_fs(layout.generations())
    if not fs.exists(path):
        return []
    names = [name.rstrip("/").rsplit("/", 1)[-1] for name in fs.ls(path, detail=False, refresh=True)]
    return sorted(int(name) for name in names if name.isdigit() and exists(layout.generation(int(name))))


def write_generation(layout: Layout, fields: dict[str, Any], *, parent: int | None) -> Generation:
    """Writes a generation under the next number; it is not served yet.

    A candidate with the same content that was written before but never served is taken up again, so that a run
    killed between writing and serving does not leave two.

    Raises:
      BusyError: somebody else took the number at the same moment.
    """
    known = numbers(layout)
    if known and known[-1] != parent:
        last = Generation.read(layout.generation(known[-1]))
        if last.content == fields["content"] and last.parent == parent:
            return last
    number = known[-1] + 1 if known else 1
    created = datetime.now(UTC).isoformat(timespec="seconds")
    generation = Generation(number=number, parent=parent, created=created, **fields)
    if not generation.commit(layout.generation(number)):
        raise BusyError(f"generation {number} of {layout.dataset} was written by another run just now; run again")
    return generation


def serve(layout: Layout, number: int, *, expected: int | None) -> None:
    """Moves CURRENT to a generation in one atomic write, if it still names the one the plan started from.

    Raises:
      InputError: there is no such generation.
      BusyError: CURRENT has moved since; nothing is changed.
    """
    Generation.read(layout.generation(number))  # a pointer to nothing is never written
    with _exclusive(layout):
        if (now := current(layout)) != expected:
            raise BusyError(
                f"{layout.dataset}: generation {now} was published meanwhile (planned on {expected}); run again"
            )
        publish_bytes(encode_json({"generation": number}), layout.current())


@contextmanager
def _exclusive(layout: Layout) -> Iterator[None]:
    """Compare and swap need a lock on a local disk; the kernel drops it when the process dies."""
    fs, path = fsspec.core.url_to_fs(layout.current())
    if not isinstance(fs, LocalFileSystem):
        yield  # object stores: the write itself is atomic; conditional writes come with the nightly job
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{os.path.dirname(path)}/.{layout.dataset}.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
