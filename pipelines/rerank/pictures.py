"""Fetches the wanted pictures of one shard: in order, each once, and only if they are those that were embedded."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import fsspec

from pipelines.webdataset.samples import read_samples
from schemas.configs import Captions, Embed
from schemas.digests import digest_bytes
from schemas.errors import SampleError
from schemas.rejects import Reject
from schemas.samples import Modality

READ_AHEAD_BYTES = 4 << 20

DENSE = 0.25
"""Share of a shard's span that must be wanted for one long read to beat one range request a picture."""


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
    fs, path = fsspec.core.url_to_fs(url)
    if not fs.exists(path):
        for item in items:
            yield PictureGone(f"{item.key}: its shard {url} is gone")
        return
    found: Generator[bytes | SampleError, None, None]
    found = _ranges(url, items) if _has_offsets(url) else _streamed(url, items, embed)
    with closing(found):
        for data, item in zip(found, items, strict=True):
            yield _checked(data, item)


def _has_offsets(url: str) -> bool:
    """Whether offsets in the tar are offsets in the file, at a place that can seek (few web servers can)."""
    return url.split("?")[0].endswith(".tar") and not url.startswith(("http:", "https:"))


def _ranges(url: str, items: Sequence[Item]) -> Generator[bytes, None, None]:
    fs, path = fsspec.core.url_to_fs(url)
    options: dict[str, Any] = {"cache_type": "none"}
    if items and sum(item.size for item in items) >= DENSE * (items[-1].offset + items[-1].size - items[0].offset):
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
