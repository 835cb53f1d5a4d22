"""Big files over HTTP: resumed where they broke off, complete or not under their name."""

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import requests
import tenacity

from schemas.errors import InputError

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 16
"""A piece that breaks off is lost, so pieces are small."""
TIMEOUT_S = (10.0, 60.0)
"""To connect, and between two pieces of data."""

Progress = Callable[[int, int | None], None]
"""Called with (bytes here so far, bytes of the whole file or None when the server does not say)."""

_PASSING = (408, 425, 429, 500, 502, 503, 504)


class _Interrupted(Exception):
    """The transfer broke; trying again may help. Never leaves this module."""

    def __init__(self, reason: str, *, have: int) -> None:
        super().__init__(reason)
        self.have = have


def fetch(url: str, target: Path, *, progress: Progress, attempts: int = 4, wait_s: float = 1.0) -> Path:
    """Downloads a file, unless it is there.

    Bytes go to `<target>.part`, with the server's ETag beside them; a later attempt, in this run or the next, asks for
    the rest only, and starts over when the file on the server is another one or the server knows no ranges. The
    file gets its name when its size is what the server announced.

    Args:
      attempts: in a row that brought the file no further than it has been, before giving up.
      wait_s: before the second attempt; doubled each time, at most 30 s.

    Returns:
      `target`.

    Raises:
      InputError: the server refuses the file, cannot be reached, breaks off every time, or the disk is too small.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    furthest, fruitless = _size(_part(target)), 0

    def give_up(state: tenacity.RetryCallState) -> bool:
        nonlocal furthest, fruitless
        error = state.outcome.exception() if state.outcome else None
        have = error.have if isinstance(error, _Interrupted) else 0
        fruitless = 0 if have > furthest else fruitless + 1
        furthest = max(furthest, have)
        return fruitless >= attempts

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_Interrupted),
        stop=give_up,
        wait=tenacity.wait_exponential(multiplier=wait_s, max=30.0),
        before_sleep=lambda state: logger.info("%s: %s; again", url, state.outcome and state.outcome.exception()),
        reraise=True,
    )
    try:
        retrying(_attempt, url, target, progress)
    except _Interrupted as error:
        raise InputError(
            f"{url}: could not be downloaded ({error}); what came so far is kept in {_part(target)} and the next run "
            "goes on from there"
        ) from error
    return target


def _attempt(url: str, target: Path, progress: Progress) -> None:
    part, note = _part(target), target.with_name(f"{target.name}.part.json")
    have = _size(part)
    tag = _read_tag(note, url) if have else None
    if tag is None:
        have = 0
    headers = {"Accept-Encoding": "identity"}
    if have and tag:
        # If-Range: a file that has changed comes whole, so two versions are never sewn together.
        headers |= {"Range": f"bytes={have}-", "If-Range": tag}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                part.unlink(missing_ok=True)  # as long as the whole file, or longer: not trusted
                raise _Interrupted("the server has no bytes beyond those here; starting over", have=0)
            _refuse(url, response)
            have, total = _start(response, have)
            _room(url, target, have, total)
            note.write_text(json.dumps({"url": url, "tag": _tag(response)}), encoding="utf-8")
            progress(have, total)
            with part.open("r+b" if have else "wb") as stream:
                stream.seek(have)
                for chunk in response.iter_content(CHUNK_BYTES):
                    stream.write(chunk)
                    have += len(chunk)
                    progress(have, total)
                stream.truncate()
                stream.flush()
                os.fsync(stream.fileno())
    except (requests.RequestException, ConnectionError) as error:
        raise _Interrupted(f"{type(error).__name__} after {_size(part):,} bytes", have=_size(part)) from error
    except OSError as error:
        raise InputError(f"{url}: cannot be written to {part}: {error}") from error
    if total is not None and have != total:
        if have > total:
            part.unlink()
        raise _Interrupted(f"expected {total:,} bytes, got {have:,}", have=min(have, total))
    os.replace(part, target)
    note.unlink(missing_ok=True)


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _refuse(url: str, response: requests.Response) -> None:
    """Raises for an answer that is not the file."""
    if response.status_code in _PASSING:
        raise _Interrupted(f"the server answered {response.status_code} {response.reason}", have=0)
    if response.status_code not in (200, 206):
        raise InputError(f"{url}: expected the file, the server answered {response.status_code} {response.reason}")


def _start(response: requests.Response, have: int) -> tuple[int, int | None]:
    """(offset of the first byte that will come, size of the whole file)."""
    if response.status_code == requests.codes.partial_content:
        span, _, whole = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        first = span.partition("-")[0]
        if first != str(have):
            raise _Interrupted(f"asked for bytes from {have}, the server began at {first or '?'}", have=0)
        return have, int(whole) if whole.isdigit() else None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _tag(response: requests.Response) -> str:
    """What names this version of the file: a strong ETag, else the date; "" when the server gives neither."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _read_tag(note: Path, url: str) -> str | None:
    """The tag of the half file here; None when it is unknown or of another URL, so that it must not be used."""
    try:
        value = json.loads(note.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(value, dict) or value.get("url") != url:
        return None
    return str(value.get("tag") or "") or None


def _room(url: str, target: Path, have: int, total: int | None) -> None:
    free = shutil.disk_usage(target.parent).free
    if total is not None and total - have > free:
        raise InputError(f"{url}: needs {total - have:,} bytes in {target.parent}, which has {free:,} left")
