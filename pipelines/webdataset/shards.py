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
import fsspec
from fsspec.implementations.http import HTTPFileSystem
from fsspec.implementations.local import LocalFileSystem

from schemas.commits import encode_json, publish_bytes, read_json
from schemas.digests import digest_file, digest_value
from schemas.errors import InputError
from schemas.layout import Layout

logger = logging.getLogger(__name__)

MAX_SHARDS = 1_000_000
"""More is taken for a mistake in a brace pattern."""

_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)")
_CHECKSUMS = ("ETag", "etag", "md5Hash", "checksum", "content_md5", "crc32c", "x-goog-hash")
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
    urls: dict[str, None] = {}
    for pattern in patterns:
        for one in _expand_braces(pattern):
            urls.update(dict.fromkeys(_existing(one, pattern)))
    return list(urls)


def _expand_braces(pattern: str) -> list[str]:
    # Counted first: the library makes each range a list.
    sizes = [abs(int(last) - int(first)) + 1 for first, last in _RANGE.findall(pattern)]
    if math.prod(sizes) > MAX_SHARDS:
        raise InputError(f"{pattern}: expands to more than {MAX_SHARDS:,} names; is a digit too many in the braces?")
    try:
        return list(braceexpand.braceexpand(pattern))
    except ValueError as error:
        raise InputError(f"{pattern}: {error}; braces are written {{000..012}} or {{a,b}}") from error


def _existing(url: str, pattern: str) -> list[str]:
    fs, path = fsspec.core.url_to_fs(url)
    local = isinstance(fs, LocalFileSystem)
    globs = "*" if isinstance(fs, HTTPFileSystem) else "*?["  # "?" begins the query of an HTTP URL
    if fs.exists(path) and not fs.isdir(path):
        return [os.path.normpath(os.path.expanduser(url)) if local and "://" not in url else url]
    if any(character in path for character in globs):
        found = [name for name in sorted(fs.glob(path)) if not fs.isdir(name)]
        if found:
            return [_named_like(url, name, fs) for name in found]
    within = "" if url == pattern else f" (from {pattern})"
    if fs.isdir(path):
        raise InputError(f"{url}{within}: is a folder; write {url.rstrip('/')}/*.tar, in quotes")
    raise InputError(
        f"{url}{within}: no such shard. Braces {{000..012}}, {{a,b}} and globs *.tar are understood; on a command "
        "line put the pattern in quotes, so that the shell leaves it alone"
    )


def _named_like(url: str, name: str, fs: Any) -> str:
    """A found file written as its pattern was: relative stays relative, so that a moved folder keeps its names."""
    if not isinstance(fs, LocalFileSystem):
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
    urls = expand(patterns)
    # SHA-256 and reads release the GIL.
    with ThreadPoolExecutor(max_workers=max(1, min(8, os.cpu_count() or 1, len(urls)))) as pool:
        return list(pool.map(lambda url: _shard(url, layout), urls))


def _shard(url: str, layout: Layout) -> Shard:
    fs, path = fsspec.core.url_to_fs(url)
    try:
        info = fs.info(path)
        size = int(info.get("size") or 0)
        if isinstance(fs, LocalFileSystem):
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
