"""One line of what the doctor says: what was looked at, how it is, and the way out."""

from typing import Literal, NamedTuple

State = Literal["ok", "warning", "error"]


class Finding(NamedTuple):
    """What one check found.

    Attributes:
      check: what was looked at.
      state: with an "error" a run would fail, with a "warning" it may wait, be slow, or do other than expected.
      found: the facts.
      remedy: the way out; "" where none is needed or `found` names it.
    """

    check: str
    state: State
    found: str
    remedy: str = ""


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", found)


def warning(check: str, found: str, remedy: str = "") -> Finding:
    """A run may go on, with this in mind."""
    return Finding(check, "warning", found, remedy)


def error(check: str, found: str, remedy: str = "") -> Finding:
    """A run would fail."""
    return Finding(check, "error", found, remedy)
