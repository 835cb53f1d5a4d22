"""Which shards there are: patterns become URLs, and each URL a digest of its content."""

import logging
import math
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import braceexpand

from schemas.commits import encode_json, publish_bytes, read_json
from schemas.digests import digest_file, digest_value
from schemas.errors import InputError
from schemas.layout import Layout
from schemas.stores import is_local, open_store, reaching

logger = logging.getLogger(__name__)

MAX_SHARDS = 1_000_000
"""More is taken for a mistake in a brace pattern."""

_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)")
_CHECKSUMS = ("md5Hash", "content_md5", "crc32c", "x-goog-hash", "checksum", "ETag", "etag")
"""Those of the content first: an ETag may change when nothing but the storage class does."""

_ASKED_AT_ONCE = 16  # of a remote file system: each question waits for the network
_STAMPS = ("mtime", "LastModified", "last_modified", "updated", "created")


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar.

    Attributes:
      url: where it is.
      digest: 64 hex digits that change when the content changes.
      size_bytes: as stored; 0 where the file system does not say.
    """

    url: str
    digest: str
    size_bytes: int


def expand(patterns: Sequence[str]) -> list[str]:
    """The URLs that patterns stand for, in the order of the patterns, globs sorted, each once.

    Args:
      patterns: paths or fsspec URLs with braces ({000..012}, {a,b}) and globs (*, ?, [..]).

    Raises:
      InputError: a pattern (or one file of a brace pattern) matches nothing.
    """
    return list(_found(patterns))


Facts = dict[str, Any] | None
"""What a file system says of a file."""


def _found(patterns: Sequence[str]) -> dict[str, Facts]:
    """The URLs that patterns stand for, with what was said of each on the way."""
    names = [(one, pattern) for pattern in patterns for one in _expand_braces(pattern)]
    urls: dict[str, Facts] = {}
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        try:
            for found in pool.map(lambda pair: _existing(*pair), names):
                urls.update(found)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return urls


def _expand_braces(pattern: str) -> list[str]:
    # Counted first: the library makes each range a list.
    sizes = [abs(int(last) - int(first)) + 1 for first, last in _RANGE.findall(pattern)]
    if math.prod(sizes) > MAX_SHARDS:
        raise InputError(f"{pattern}: expands to more than {MAX_SHARDS:,} names; is a digit too many in the braces?")
    try:
        return list(braceexpand.braceexpand(pattern))
    except ValueError as error:
        raise InputError(f"{pattern}: {error}; braces are written {{000..012}} or {{a,b}}") from error


def _existing(url: str, pattern: str) -> dict[str, Facts]:
    fs, path = open_store(url)
    globs = "*" if _is_http(fs) else "*?["  # "?" begins the query of an HTTP URL
    with reaching(url):
        facts = _look(fs, path)
        if facts is not None and facts["type"] != "directory":
            return {os.path.normpath(os.path.expanduser(url)) if is_local(fs) and "://" not in url else url: facts}
        if any(character in path for character in globs):
            found = fs.glob(path, detail=True)
            files = {
                _named_like(url, name, fs): found[name] for name in sorted(found) if not _is_folder(fs, found[name])
            }
            if files:
                return files
    within = "" if url == pattern else f" (from {pattern})"
    if facts is not None:
        raise InputError(f"{url}{within}: is a folder; write {url.rstrip('/')}/*.tar, in quotes")
    raise InputError(
        f"{url}{within}: no such shard. Braces {{000..012}}, {{a,b}} and globs *.tar are understood; on a command "
        "line put the pattern in quotes, so that the shell leaves it alone"
    )


def _look(fs: Any, path: str) -> Facts:
    """What is known of a file or folder; None where there is none."""
    try:
        facts: dict[str, Any] = fs.info(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return {**facts, "type": "directory"} if _is_folder(fs, facts) else facts


def _is_folder(fs: Any, facts: dict[str, Any]) -> bool:
    if _is_http(fs):  # where a folder is a page of links
        return bool(fs.isdir(facts["name"]))
    return bool(facts["type"] == "directory")


def _is_http(fs: Any) -> bool:
    """Asked by name: the class itself brings aiohttp, which every process of a local run would load for nothing."""
    return "http" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def _named_like(url: str, name: str, fs: Any) -> str:
    """A found file written as its pattern was: relative stays relative, so that a moved folder keeps its names."""
    if not is_local(fs):
        return str(fs.unstrip_protocol(name))
    if "://" in url:
        return str(fs.unstrip_protocol(name))
    if os.path.isabs(os.path.expanduser(url)):
        return name
    return os.path.relpath(name)


def list_shards(patterns: Sequence[str], layout: Layout) -> list[Shard]:
    """The shards that patterns stand for, each with a digest of its content.

    Locally the digest is SHA-256 of the file, remembered under the root's cache by path, size and times of
    writing and change. On a remote file system it is made from the checksum the system keeps (ETag, MD5, CRC) and the
    size; where it keeps none, the content is read.

    Raises:
      InputError: a pattern matches nothing, or a file vanished.
    """
    found = _found(patterns)
    # SHA-256 and reads release the GIL.
    with ThreadPoolExecutor(max_workers=max(1, min(8, os.cpu_count() or 1, len(found)))) as pool:
        return list(pool.map(lambda url: _shard(url, found[url] or {}, layout), found))


def _shard(url: str, info: dict[str, Any], layout: Layout) -> Shard:
    fs, path = open_store(url)
    try:
        size = int(info.get("size") or 0)
        if is_local(fs):
            facts = os.stat(path)  # the time of change tells a rewrite from a copy that kept its time of writing
            stamp: str | None = f"{facts.st_mtime_ns} {facts.st_ctime_ns}"
        else:
            checksum = next((str(info[name]) for name in _CHECKSUMS if info.get(name)), None)
            if checksum is not None:
                return Shard(url, digest_value(["checksum", checksum, size]), size)
            stamp = next((str(info[name]) for name in _STAMPS if info.get(name)), None)
        return Shard(url, _content_digest(fs.unstrip_protocol(path), url, size, stamp, layout), size)
    except FileNotFoundError as error:
        raise InputError(f"{url}: the shard vanished while its digest was made; run again") from error


def _content_digest(full_url: str, url: str, size: int, stamp: str | None, layout: Layout) -> str:
    if stamp is None:
        return digest_file(url)
    memo = layout.cache("shard-digests", digest_value([full_url, size, stamp]))
    try:
        known = read_json(memo)
    except InputError:  # absent or damaged: a memo is only a memo
        known = None
    if isinstance(known, str) and len(known) == 64:
        return known
    logger.debug("digest of %s (%d bytes)", url, size)
    digest = digest_file(url)
    publish_bytes(encode_json(digest), memo)
    return digest
