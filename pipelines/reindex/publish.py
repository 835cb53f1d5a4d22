"""Generations, and the one pointer that moves: a generation is written whole, then CURRENT names it."""

import json
from datetime import UTC, datetime
from typing import Any

from schemas import conditional
from schemas.commits import encode_json
from schemas.errors import BusyError, InputError
from schemas.layout import Layout
from schemas.manifests import Generation
from schemas.stores import list_files


def current(layout: Layout) -> int | None:
    """The number of the generation being served, or None before the first.

    Raises:
      InputError: the pointer is there but cannot be read, or the root cannot be reached.
    """
    return _number(layout, conditional.read(layout.current()))


def _number(layout: Layout, held: conditional.Tagged | None) -> int | None:
    """What the pointer says."""
    if held is None:
        return None
    try:
        value = json.loads(held.data)
    except ValueError:
        value = held.data.decode("utf-8", "replace")
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
    below = len(layout.generations()) + 1
    names = [url[below:].split("/") for url in list_files(layout.generations())]
    return sorted(int(name[0]) for name in names if name[0].isdigit() and name[1:] == ["manifest.json"])


def refuse_unknown(layout: Layout, number: int) -> None:
    """Passes silently where a generation of that number was written.

    Raises:
      InputError: it was not; names those there are.
    """
    known = numbers(layout)
    if number not in known:
        raise InputError(f"{layout.dataset}: no generation {number}; there are {', '.join(map(str, known)) or 'none'}")


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
    """Moves CURRENT to a generation in one conditional write, if it still names the one the plan started from.

    Of two that do so at once one moves it, and the other is told.

    Raises:
      InputError: there is no such generation.
      BusyError: CURRENT has moved since; nothing is changed.
    """
    Generation.read(layout.generation(number))  # a pointer to nothing is never written
    held = conditional.read(layout.current())
    moved = None
    if _number(layout, held) == expected:
        data = encode_json({"generation": number})
        if held is None:
            moved = conditional.create(layout.current(), data)
        else:
            moved = conditional.replace(layout.current(), data, tag=held.tag)
    if moved is None:
        now = current(layout)
        raise BusyError(
            f"{layout.dataset}: generation {now} was published meanwhile (planned on {expected}); run again"
        )
