"""Fetches the wanted pictures of one shard: in order, each once, and only if they are those that were embedded."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from fsspec.asyn import AsyncFileSystem

from pipelines.webdataset.samples import read_samples
from schemas.configs import Captions, Embed
from schemas.digests import digest_bytes
from schemas.errors import SampleError
from schemas.rejects import Reject
from schemas.samples import Modality
from schemas.stores import open_store

READ_AHEAD_BYTES = 4 << 20

DENSE = 0.25
"""Share of a shard's span that must be wanted for one long read to beat one range request a picture."""


RANGES_AT_ONCE, RANGE_BYTES_AT_ONCE = 16, 32 << 20
"""Requests to an object store that wait together, and about how much memory their answers take."""


class PictureGone(SampleError):
    """A candidate's bytes are no longer where the embedding row says."""


class PictureChanged(SampleError):
    """A candidate's bytes are not those that were embedded."""


@dataclass(frozen=True, slots=True)
class Item:
    """A wanted picture: where it is and what its bytes must be (see `schemas.embeddings`)."""

    item_id: int
    key: str
    position: int
    offset: int
    size: int
    content_sha256: str
    modality: Modality


def fetch(url: str, items: Sequence[Item], embed: Embed) -> Generator[bytes | SampleError, None, None]:
    """The bytes of items; one result for every item, in the order given.

    Of a tar that is not compressed only the wanted bytes are read; any other is read from its beginning, once.

    Args:
      items: by position in the shard.
      embed: limits, as they were when the shard was embedded.

    Raises:
      OSError: the shard is there but cannot be read now; nothing is concluded from that, try again.
    """
    if not items:
        return
    fs, path = open_store(url)
    try:
        size = int(fs.info(path).get("size") or 0)
    except FileNotFoundError:
        for item in items:
            yield PictureGone(f"{item.key}: its shard {url} is gone")
        return
    found: Generator[bytes | SampleError, None, None]
    if not _has_offsets(url):
        found = _streamed(url, items, embed)
    elif isinstance(fs, AsyncFileSystem) and not _dense(items):
        found = _ranges_at_once(fs, path, size, items)
    else:
        found = _ranges(fs, path, items)
    with closing(found):
        for data, item in zip(found, items, strict=True):
            yield _checked(data, item)


def _has_offsets(url: str) -> bool:
    """Whether offsets in the tar are offsets in the file, at a place that can seek (few web servers can)."""
    return url.split("?")[0].endswith(".tar") and not url.startswith(("http:", "https:"))


def _dense(items: Sequence[Item]) -> bool:
    return sum(item.size for item in items) >= DENSE * (items[-1].offset + items[-1].size - items[0].offset)


def _ranges_at_once(fs: Any, path: str, size: int, items: Sequence[Item]) -> Generator[bytes, None, None]:
    """One request a picture, several at a time; what lies behind the end of the file is empty."""
    rest = list(items)
    while rest:
        count, held = 1, rest[0].size
        while count < min(RANGES_AT_ONCE, len(rest)) and held + rest[count].size <= RANGE_BYTES_AT_ONCE:
            held += rest[count].size
            count += 1
        batch, rest = rest[:count], rest[count:]
        there = [item for item in batch if item.offset + item.size <= size]
        starts, ends = [item.offset for item in there], [item.offset + item.size for item in there]
        read = iter(fs.cat_ranges([path] * len(there), starts, ends, on_error="raise") if there else [])
        for item in batch:
            yield next(read) if item.offset + item.size <= size else b""


def _ranges(fs: Any, path: str, items: Sequence[Item]) -> Generator[bytes, None, None]:
    options: dict[str, Any] = {"cache_type": "none"}
    if _dense(items):
        options = {"cache_type": "readahead", "block_size": READ_AHEAD_BYTES}
    with fs.open(path, "rb", **options) as stream:
        for item in items:
            stream.seek(item.offset)
            yield stream.read(item.size)


def _streamed(url: str, items: Sequence[Item], embed: Embed) -> Generator[bytes | SampleError, None, None]:
    samples = read_samples(url, shard="", captions=Captions(members=()), key_scope="dataset", embed=embed)
    sample = next(samples, None)
    for item in items:
        while sample is not None and 0 <= sample.position < item.position:
            sample = next(samples, None)
        if sample is None or sample.position != item.position:
            yield PictureGone(f"{item.key}: expected as sample {item.position} of {url}, not there now")
        elif isinstance(sample, Reject):
            yield PictureGone(f"{item.key}: {sample.message}")
        else:
            yield sample.data


def _checked(data: bytes | SampleError, item: Item) -> bytes | SampleError:
    if isinstance(data, SampleError):
        return data
    if len(data) != item.size:
        return PictureGone(f"{item.key}: expected {item.size} bytes at offset {item.offset}, got {len(data)}")
    if digest_bytes(data) != item.content_sha256:
        return PictureChanged(f"{item.key}: the bytes at offset {item.offset} are not those that were embedded")
    return data
